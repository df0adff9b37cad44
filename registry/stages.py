"""The stages of a version and the ways between them; what the log's entries make of them. Pure.

    candidate → staging → production → archived
    archived → candidate, to be judged anew; archived → production by a rollback alone

A model has at most one version in staging and one in production. Whoever takes their place archives them.
"""

from collections.abc import Iterable
from typing import Protocol

from training.errors import InputError

CANDIDATE, STAGING, PRODUCTION, ARCHIVED = "candidate", "staging", "production", "archived"
STAGES = (CANDIDATE, STAGING, PRODUCTION, ARCHIVED)
SINGLE = (STAGING, PRODUCTION)
"""The stages that one version holds at a time, by an alias of that name."""

PROMOTE, ROLLBACK, THRESHOLD = "promote", "rollback", "threshold"
MOVES = (PROMOTE, ROLLBACK)
"""The actions that change a stage; the log's other entries (`seal`, `repair`, `threshold`) change none."""

_WAYS = {(CANDIDATE, STAGING), (CANDIDATE, PRODUCTION), (STAGING, PRODUCTION), (CANDIDATE, ARCHIVED),
         (STAGING, ARCHIVED), (ARCHIVED, CANDIDATE)}


class Move(Protocol):
    """What of an entry tells where the versions are."""

    @property
    def action(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> int: ...  # noqa: D102
    @property
    def to_stage(self) -> str: ...  # noqa: D102
    @property
    def replaced(self) -> int | None: ...  # noqa: D102


def check_stage(to: str) -> None:
    """Refuse a stage that there is not.

    Raises:
        InputError: names those that there are.
    """
    if to not in STAGES:
        raise InputError(f"stage '{to}' is unknown. Expected one of {', '.join(STAGES)}.")


def check_way(model: str, version: int, stage: str, to: str) -> None:
    """Refuse a promotion that does not lead from one stage to a next one.

    Raises:
        InputError: an unknown stage, no change, or no such way; says what to do instead.
    """
    check_stage(to)
    named = f"version {version} of '{model}'"
    if stage == to:
        place = {CANDIDATE: "a candidate", ARCHIVED: "archived"}.get(to, f"in {to}")
        raise InputError(f"{named} is {place} already.")
    if stage == PRODUCTION:
        raise InputError(f"{named} is in production. "
                         f"To take it out, promote another or run: polarscore registry rollback {model}")
    if stage == ARCHIVED and to != CANDIDATE:
        raise InputError(f"{named} is archived. To have it judged anew, promote it --to candidate first; to go back "
                         f"to what was in production before, run: polarscore registry rollback {model}")
    if (stage, to) not in _WAYS:
        raise InputError(f"{named} cannot go from {stage} to {to}.")


def stages_of(moves: Iterable[Move]) -> dict[int, str]:
    """The stage of each version that the log names, after these entries; the others are candidates."""
    stages: dict[int, str] = {}
    for move in moves:
        if move.action in MOVES:
            if move.replaced is not None:
                stages[move.replaced] = ARCHIVED
            stages[move.version] = move.to_stage
    return stages


def holders(moves: Iterable[Move]) -> dict[str, int]:
    """Which version holds which of the stages that one version holds at a time."""
    return {stage: version for version, stage in stages_of(moves).items() if stage in SINGLE}


def in_production(moves: Iterable[Move]) -> list[int]:
    """The versions that a rollback walks back through, the present one last."""
    stack: list[int] = []
    for move in moves:
        if move.action == ROLLBACK:
            stack = stack[:-1]
        elif move.action == PROMOTE and move.to_stage == PRODUCTION:
            stack.append(move.version)
    return stack
