"""A threshold that was changed since the version's promotion, as an entry of the log holds it. Pure.

An entry of the action `threshold` has one gate of that name. Its state is `lowered`: only answers with a risk of at
most `candidate` are accepted, none where that is None; `champion` is what it was before. Or it is `lifted`: the
version's own threshold holds again.
"""

import math
from typing import TYPE_CHECKING, Any

from registry.stages import THRESHOLD
from training.errors import CheckFailed

if TYPE_CHECKING:
    from registry.chain import Entry  # it brings SQLAlchemy, which a command that prints its help need not load

LOWERED, LIFTED = "lowered", "lifted"
UNCHANGED, NOTHING = math.inf, -math.inf
"""Where no threshold was lowered, and where nothing is accepted."""


def gate(before: float, to: float) -> dict[str, Any]:
    """What the entry holds. before, to: risks, or `UNCHANGED` or `NOTHING`."""
    return {"name": THRESHOLD, "state": LIFTED if to == UNCHANGED else LOWERED, "reason": "",
            "candidate": to if math.isfinite(to) else None, "champion": before if math.isfinite(before) else None}


def limit_of(entry: "Entry | None") -> float:
    """The highest risk that may be accepted, whatever else would be: `UNCHANGED` without an entry, or a risk.

    Raises:
        CheckFailed: the entry says no threshold.
    """
    if entry is None:
        return UNCHANGED
    try:
        (found,) = entry.gates
        state, value = found["state"], found["candidate"]
        if entry.action != THRESHOLD or state not in (LOWERED, LIFTED):
            raise ValueError
        if state == LIFTED:
            return UNCHANGED
        limit = NOTHING if value is None else float(value)
        if value is not None and not 0 <= limit <= 1:
            raise ValueError
    except (TypeError, ValueError, KeyError):
        raise CheckFailed(f"the log's {entry.words} says no threshold") from None
    return limit


def words(entry: "Entry") -> str:
    """What happened, in a few words."""
    limit, before = limit_of(entry), entry.gates[0].get("champion")
    if limit == UNCHANGED:
        return "threshold as trained again"
    if limit == NOTHING:
        return "threshold lowered: nothing is accepted"
    return f"threshold lowered{'' if before is None else f' from {before:.4g}'} to {limit:.4g}"
