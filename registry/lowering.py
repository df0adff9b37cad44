"""Lowering the threshold of the version in production, and lifting that again: a signed entry of the log."""

import math

from registry.chain import Entry
from registry.opening import Registry
from registry.promotion import Tell, carry_out, check_signer, prepare, remember, said, signer_of
from registry.stages import PRODUCTION, THRESHOLD
from registry.threshold import NOTHING, UNCHANGED, gate, limit_of
from registry.versions import Version
from training.errors import InputError


def lower(
    registry: Registry, version: Version, to: float, who: str, why: str, tell: Tell = lambda line: None,
    seen: str | None = None,
) -> Entry:
    """Have at most answers of a risk of `to` accepted, `registry.threshold.NOTHING` for none. Never more than before.

    It holds for this version while it is in production, and again if a rollback brings it back; until it is lifted,
    or promoted anew. seen: the head of the log by which this was decided; None: whatever it is.

    Raises:
        InputError: it is not in production, the threshold is no risk or not below the present one, or as for
            `registry.promotion.promote`.
        Overtaken: the log has another head by now.
        CheckFailed: the log has been changed. Nothing has happened, then.
    """
    if math.isnan(to) or to > 1 or (math.isfinite(to) and to < 0):
        raise InputError(f"a threshold should be a risk between 0 and 1. Found {to:g}.")
    return _logged(registry, version, to, who, why, tell, seen)


def lift(registry: Registry, version: Version, who: str, why: str, tell: Tell = lambda line: None) -> Entry:
    """Have the version's own threshold hold again.

    Raises:
        InputError: none was lowered, or as for `lower`.
        CheckFailed: the log has been changed. Nothing has happened, then.
    """
    return _logged(registry, version, UNCHANGED, who, why, tell, None)


def own_threshold(registry: Registry, version: Version) -> float:
    """The threshold that a version's guarantee names, `UNCHANGED` where it has none."""
    guarantee = registry.versions.spec(version).guarantee
    return UNCHANGED if guarantee is None or guarantee.threshold is None else guarantee.threshold


def _logged(
    registry: Registry, version: Version, to: float, who: str, why: str, tell: Tell, seen: str | None
) -> Entry:
    model = version.model
    who, why = said(who, "--who"), said(why, "--why")
    check_signer(registry, model)
    own = own_threshold(registry, version)
    with registry.history.changing(model) as change:
        prepare(registry, model, change, tell, seen)
        holder = registry.history.production(model)
        if holder is None or holder.version != version.version:
            raise InputError(f"{version.uri} is not in production, so its threshold decides nothing.")
        limit = limit_of(registry.history.threshold(model))
        before = min(own, limit)
        if to == UNCHANGED and limit == UNCHANGED:
            raise InputError(f"the threshold of {version.uri} was not lowered since its promotion.")
        if to != UNCHANGED and before == NOTHING:
            raise InputError(f"the threshold of {version.uri} cannot become lower: it was lowered to nothing, and no "
                             "answer is accepted. To have its own hold again first: polarscore registry threshold "
                             f"{model} --lift --why …")
        if to != UNCHANGED and to >= before:
            raise InputError(f"the threshold of {version.uri} should become lower than {_shown(before)}. "
                             f"Found {_shown(to)}.")
        draft = Entry(who, THRESHOLD, model, version.version, PRODUCTION, PRODUCTION, None, why,
                      gates=[gate(before, to)])
        entry = carry_out(registry, change, draft, signer_of(registry, model, tell))
    remember(registry, entry, tell)
    return entry


def _shown(limit: float) -> str:
    return f"{limit:.4g}" if math.isfinite(limit) else "nothing"
