"""What an alarm on the guarantee does by itself, if it is told to: roll back, or lower the threshold.

It counts only labels that came with API keys of the scope `review`, on answers of which the first such label came after
the version came into production or, since, had its threshold changed: whatever was acted upon once is not acted upon
again.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import sqlalchemy as sa
from scipy.special import betaincinv
from scipy.stats import binom

from monitoring.alarm import RECENT, Alarm, Context, accepted_risk
from monitoring.alarms import decide
from monitoring.labels import ELSEWHERE, usable
from monitoring.sampling import least_probability
from monitoring.settings import Settings
from monitoring.store import Store
from monitoring.tables import FEEDBACK, SCORES
from registry.threshold import NOTHING, UNCHANGED, limit_of, words
from training.audit_result import Guarantee
from training.errors import InputError, PolarscoreError
from training.guarantee import FIRST

if TYPE_CHECKING:
    from registry.chain import Entry
    from registry.opening import Registry
    from registry.promotion import Tell
    from registry.versions import Version

GUARANTEE = "guarantee"
LOWER, ROLL_BACK = "lower threshold", "roll back"
GIVES = 10  # a reviewer counts who gave one in so many of the labels needed


@dataclass(frozen=True)
class Plan:
    """What is to be done, and why; action None: nothing. limit: the threshold to lower to."""

    action: str | None
    words: str
    limit: float = UNCHANGED


@dataclass(frozen=True)
class Acted:
    """What was done, or why nothing was. entry: its number in the registry's log."""

    action: str | None
    done: bool
    words: str
    entry: int | None = None


def act(
    registry: "Registry", store: Store, version: "Version", settings: Settings, who: str,
    tell: "Tell" = lambda line: None,
) -> Acted:
    """Do what the settings say, if the labels of reviewers alone make the guarantee's alarm ring.

    Raises:
        InputError: the settings name no action.
    """
    if settings.action.on_guarantee == "nothing":
        raise InputError("the settings name no action: [action] on_guarantee should be 'lower threshold' or "
                         "'roll back'. Without --act nothing is done.")
    history, model = registry.history, version.model
    last, holder = history.last(model), history.production(model)
    if last is None or holder is None or holder.version != version.version:
        return Acted(None, False, f"{version.uri} is not in production by the log")
    changed = history.threshold(model)
    since = max(entry.at for entry in (holder, changed) if entry is not None)
    guarantee = registry.versions.spec(version).guarantee
    frame = store.frame(model, str(version.version), labelled=True, trusted=True)
    frame = frame[frame["labelled_at"] > pd.Timestamp(since)]
    risk = store.frame(model, str(version.version), last=RECENT)["risk"]
    found = plan(settings, frame, opinions_of(store, version), guarantee, limit_of(changed),
                 least_of(store, version, frame), risk)
    if found.action is None:
        return Acted(None, False, found.words)
    return _carried_out(registry, version, found, who, last, tell)


def plan(
    settings: Settings, frame: pd.DataFrame, said: pd.DataFrame, guarantee: Guarantee | None, limit: float,
    least: float | None = None, risk: pd.Series | None = None,
) -> Plan:
    """What the labels of reviewers call for. Pure.

    frame: scores with a label of reviewers, as of `Store.frame(..., labelled=True, trusted=True)`. said: score_id and
    reviewer, of each label by a reviewer that stands. limit: as the log has lowered the threshold
    (`registry.threshold.limit_of`). least: the smallest probability with which a draw draws any answer. risk: of the
    newest scores, labelled or not; None where they are not known.
    """
    if guarantee is None or guarantee.threshold is None or limit == NOTHING:
        return Plan(None, "nothing is promised of what is accepted")
    threshold, wanted = min(guarantee.threshold, limit), settings.action
    found = usable(frame, weighed=True)
    rows = found.rows[found.rows["risk"] <= threshold]
    if len(rows) < wanted.labels:
        return Plan(None, _and(f"{len(rows)} labels of reviewers count on accepted answers; {wanted.labels} are needed",
                               found.left_out))
    gave = said.loc[said["score_id"].isin(rows["key"]), "reviewer"].value_counts()
    fewest = math.ceil(wanted.labels / GIVES)
    counted = int((gave >= fewest).sum())
    if counted < wanted.reviewers:
        return Plan(None, f"{counted} reviewer{'s' * (counted != 1)} gave {fewest} such labels or more; "
                          f"{wanted.reviewers} are needed")
    mean = None if risk is None else accepted_risk(risk, threshold)
    alarm = guarantee_alarm(settings, frame, threshold, guarantee.alpha, least, mean)
    if alarm.state != "alarm":
        return Plan(None, f"by the labels of reviewers alone: {alarm.reason}")
    if wanted.on_guarantee == ROLL_BACK:
        return Plan(ROLL_BACK, alarm.reason)
    kept = kept_by(rows["risk"].to_numpy(float), rows["error"].to_numpy(float),
                   1 / rows["probability"].to_numpy(float), guarantee.alpha, guarantee.delta)
    if kept >= threshold:
        return Plan(None, f"{alarm.reason}; yet all labels together support the threshold by now")
    return Plan(LOWER, alarm.reason, kept)


def guarantee_alarm(
    settings: Settings, frame: pd.DataFrame, threshold: float, alpha: float, least: float | None,
    mean: float | None = None,
) -> Alarm:
    """The alarm on the guarantee, by these labels alone. mean: risk of all accepted answers."""
    context = Context(settings=settings.alarms, labelled=frame, threshold=threshold, alpha_promised=alpha,
                      accepted_risk=mean, least_probability=least)
    return next(alarm for alarm in decide(context) if alarm.name == GUARANTEE)


def kept_by(risk: np.ndarray, error: np.ndarray, weight: np.ndarray, alpha: float, delta: float) -> float:
    """The highest risk t up to which the labels still support the promise; `NOTHING` where none is.

    risk, error, weight: (n,) of the accepted answers that are labelled. Thresholds are tested from the lowest on, each
    at level delta, until one fails (fixed-sequence testing, as in `training.guarantee`): one passes if the upper
    limit of the error rate among answers of at most that risk, with confidence 1 − delta, is at most alpha. It is
    that of Clopper and Pearson with the effective number of labels (Σw)²/Σw² (Korn and Graubard, 1998): exact with
    equal weights. Which thresholds are tested depends on risks and weights alone: from 0.3 of the labels on, those at
    which one more wrong begins to be allowed, and the last.
    """
    if not len(risk):
        return NOTHING
    order = np.argsort(risk, kind="stable")
    risk, error, weight = risk[order], error[order], weight[order]
    total = np.cumsum(weight)
    rate = np.cumsum(weight * error) / total
    effective = total**2 / np.cumsum(weight**2)
    labels = np.floor(effective + 1e-9)
    few = binom.ppf(delta, labels, alpha)
    allowed = np.where(binom.cdf(few, labels, alpha) <= delta, few, few - 1)
    able = np.append(risk[1:] > risk[:-1], True) & (allowed >= 0) & (effective >= FIRST * effective[-1])
    reached = np.maximum.accumulate(np.where(able, allowed, -1.0))
    new = able & (allowed > np.append(-1.0, reached[:-1]))
    new[-1] = able[-1]
    tested = np.flatnonzero(new)
    wrong = rate[tested] * effective[tested]
    upper = betaincinv(wrong + 1, np.maximum(effective[tested] - wrong, 1e-12), 1 - delta)
    passed = np.logical_and.accumulate(upper <= alpha)
    return float(risk[tested[int(passed.sum()) - 1]]) if passed.any() else NOTHING


def least_of(store: Store, version: "Version", labelled: pd.DataFrame) -> float | None:
    """The smallest probability with which a draw draws any answer of a version, of others too where theirs count."""
    elsewhere = labelled["chosen"].eq(ELSEWHERE).any()
    return least_probability(store.draws(version.model, None if elsewhere else str(version.version)))


def opinions_of(store: Store, version: "Version") -> pd.DataFrame:
    """Which score each reviewer labelled, and did not take back, by what came with keys of the scope `review` alone."""
    rows = FEEDBACK.c
    latest = (sa.select(sa.func.max(rows.feedback_id).label("id"))
              .join(SCORES, SCORES.c.score_id == rows.score_id)
              .where(SCORES.c.model == version.model, SCORES.c.version == str(version.version),
                     rows.reviewer.is_not(None), rows.trusted.is_(True))
              .group_by(rows.score_id, rows.reviewer).subquery())
    query = (sa.select(rows.score_id, rows.reviewer).join(latest, rows.feedback_id == latest.c.id)
             .where(rows.withdrawn.is_(False)))
    with store.engine.connect() as connection:
        return pd.DataFrame(connection.execute(query).all(), columns=["score_id", "reviewer"])


def _carried_out(
    registry: "Registry", version: "Version", found: Plan, who: str, last: "Entry", tell: "Tell"
) -> Acted:
    from registry.lowering import lower
    from registry.promotion import Overtaken, rollback

    why = _line(f"alarm on the guarantee: {found.words}")
    try:
        if found.action == ROLL_BACK:
            change = rollback(registry, version.model, who, why, tell, seen=last.head)
            _offer(registry, version.model, change.version, tell)
            entry = registry.history.production(version.model)
            return Acted(found.action, True, f"rolled back to version {change.version}", entry.seq if entry else None)
        logged = lower(registry, version, found.limit, who, why, tell, seen=last.head)
    except Overtaken:
        return Acted(found.action, False, "another process has changed the log meanwhile; the next check looks anew")
    except PolarscoreError as error:
        return Acted(found.action, False, f"it failed: {str(error).rstrip('.')}")
    return Acted(found.action, True, words(logged), logged.seq)


def _offer(registry: "Registry", model: str, number: int, tell: "Tell") -> None:
    """Have a service on this machine that follows the registry find what is now in production."""
    from registry.bundling import offer

    try:
        offer(registry, registry.versions.number(model, number))
    except (PolarscoreError, OSError) as error:
        tell(f"warning: a service that follows cannot have version {number} yet: {str(error).rstrip('.')}")


def _and(words: str, more: str) -> str:
    return f"{words}; {more}" if more else words


def _line(words: str, most: int = 1_900) -> str:
    """One line of printable text, as the log takes it."""
    plain = "".join(c if c.isprintable() else " " for c in words)
    return plain if len(plain) <= most else plain[: most - 1] + "…"
