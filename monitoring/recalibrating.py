"""Recalibration by feedback: a new candidate on a truer scale, made of a version and of what people found out.

The stored risks s = A(r) of a version are on its own scale A. Labels of known choice give a further map F, as in
`training.recalibration`; the new version's scale is F ∘ A. F keeps the order of the answers, so the guarantee's
threshold moves along, t′ = F(t), and accepts the same answers as before: it rests on the same audit.

The labels count without weights: each known way to choose, every answer, a random share, by risk alone, looks at the
risk and at nothing else, and the curve is a curve given the risk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import expit

from monitoring.labels import usable
from monitoring.store import Store
from registry.threshold import NOTHING, limit_of
from training.audit_result import KNOTS, SQUASH, Guarantee, Recalibration, squashed
from training.calibration import Measures, measures
from training.errors import InputError
from training.recalibration import SHOWN, fit_recalibration, posterior

if TYPE_CHECKING:
    from registry.opening import Registry
    from registry.versions import Version

FOLDS = 5
POOL = 200_000  # scores, the newest, whose mean risk is reported


@dataclass(frozen=True)
class Recalibrated:
    """The new version, what it was made of, and what that changed, by cross-fitting.

    threshold: up to which answers are accepted by the guarantee, before, as the log may have lowered it, and after.
    """

    model: str
    version: int
    made_from: int
    run_id: str
    labels: int
    before: Measures
    after: Measures
    recalibration: Recalibration
    threshold: tuple[float | None, float | None]


def recalibrate(
    registry: "Registry", store: Store, version: "Version", who: str, at: datetime, *, rows: int,
    trusted_only: bool = False, since: datetime | None = None,
) -> Recalibrated:
    """Register a version like this one, its risks recalibrated by feedback. It becomes the candidate and no more.

    rows: fewer labels are too few. since: only scores made at this moment or later.

    Raises:
        InputError: too few labels, none of known choice, or risks that are all the same. Nothing is registered then.
        CheckFailed: the version's files have been changed.
    """
    from registry.derived import Derived, register
    from registry.integrity import check_intact
    from training.audit_figure import recalibration_figure

    labelled = store.frame(version.model, str(version.version), since=since, labelled=True,
                           trusted=trusted_only)
    found = enough(labelled, rows, trusted_only, version.uri)
    check_intact(registry, version)
    spec = registry.versions.spec(version)
    risk, error = found["risk"].to_numpy(float), found["error"].to_numpy(float)
    pool = store.frame(version.model, str(version.version), since=since, last=POOL)["risk"].to_numpy(float)
    further = fit_recalibration(risk, error, pool=pool)
    limit = _limit(registry, version)
    scale = composed(spec.recalibration, further, risk, error)
    guarantee = moved(spec.guarantee, limit, spec.recalibration, scale)
    before, after = measures(risk, error), measures(cross_fitted(risk, error), error)
    reference = registry.versions.reference(version)
    own, held = _threshold(spec.guarantee), _threshold(guarantee)
    thresholds = (None if own is None or limit == NOTHING else min(own, limit), held)
    evidence: dict[str, Any] = {
        "made_from": version.uri, "who": who, "at": at.isoformat(), "since": since and since.isoformat(),
        "trusted_only": trusted_only, "labels": len(found),
        "labels_by_choice": {str(name): int(n) for name, n in found["chosen"].value_counts().items()},
        "folds": FOLDS, "before": before, "after": after, "recalibration": further.summary(),
        "threshold": {"before": thresholds[0], "after": thresholds[1],
                      "lowered_to": limit if own is not None and 0 <= limit < own else None},
    }
    number, run_id = register(registry.state, registry.versions, version, Derived(
        spec=spec.model_copy(update={"recalibration": scale, "guarantee": guarantee}),
        title=f"{version.model}-v{version.version}-recalibrated",
        reference=reference.assign(risk=further.apply(reference["risk"].to_numpy(float))),
        measures={"feedback": after, "feedback_before": before}, evidence=evidence,
        figures={"recalibration": recalibration_figure(scale, guarantee, "What people's labels change")},
        tags={"who": who},
    ))
    return Recalibrated(version.model, number, version.version, run_id, len(found), before, after, scale, thresholds)


def enough(frame: pd.DataFrame, rows: int, trusted_only: bool, name: str) -> pd.DataFrame:
    """The labels to learn from: risk and error, one row an answer. Pure.

    frame: of `Store.frame`, labelled and, if trusted_only, trusted.

    Raises:
        InputError: they are too few, or the risks all the same.
    """
    found = usable(frame, weighed=False)
    whose = "labels of reviewers" if trusted_only else "labels"
    if len(found.rows) < rows:
        raise InputError(f"recalibrating {name} takes {rows} {whose} or more, of known choice, on answers with a risk. "
                         f"Found {len(found.rows)}" + (f"; {found.left_out}" if found.left_out else "") + ". To have "
                         "some chosen: polarscore monitor sample")
    risk = found.rows["risk"]
    if float(risk.max() - risk.min()) < 1e-9:
        raise InputError(f"recalibrating {name} takes labels on answers of different risks. "
                         f"All {len(risk)} have the risk {risk.iloc[0]:.3f}.")
    return found.rows


def composed(own: Recalibration, further: Recalibration, risk: np.ndarray, error: np.ndarray) -> Recalibration:
    """F ∘ A as one map, with what the labels say of it. Pure.

    own: A. further: F, fitted to risks (n,) on A's scale and errors (n,), whose mean risk it keeps.
    """
    values = further.apply(_at_knots(own))
    found = posterior(risk, error)
    shown = found.curves(own.apply(np.array(SHOWN)))
    curve = zip(SHOWN, found.weight @ shown, found.quantile(shown, 0.05), found.quantile(shown, 0.95), strict=True)
    return replace(further, values=tuple(map(float, np.maximum.accumulate(values))), labels=own.labels + len(risk),
                   curve=tuple((float(r), float(m), float(low), float(high)) for r, m, low, high in curve))


def moved(
    guarantee: Guarantee | None, limit: float, own: Recalibration, scale: Recalibration
) -> Guarantee | None:
    """The guarantee on another scale, for the same answers. Pure.

    limit: the threshold that holds by the log, if it was lowered (`registry.threshold`): no more is accepted then. own,
    scale: the maps of before and now, from the same risks.
    """
    if guarantee is None or guarantee.threshold is None:
        return guarantee
    if limit == NOTHING:
        return replace(guarantee, threshold=None, accepted=0.0, upper=1.0, words=(
            "no threshold: the labels of reviewers broke the promise of the audit, and nothing was accepted any more."))
    before = min(guarantee.threshold, limit)
    threshold = float(np.interp(_place(own, before), KNOTS, _at_knots(scale)))
    words = guarantee.words.replace(f"{guarantee.threshold:.4g}", f"{threshold:.4g}", 1)
    if limit < guarantee.threshold:
        return replace(guarantee, threshold=threshold, upper=1.0, words=(
            f"accepting every answer with a risk of at most {threshold:.4g}: lowered since the audit, whose promise of "
            f"an error rate of at most {guarantee.alpha:g} was broken; labels of reviewers support it up to here."))
    return replace(guarantee, threshold=threshold, words=words)


def cross_fitted(risk: np.ndarray, error: np.ndarray, seed: int = 0) -> np.ndarray:
    """Each label's risk (n,) as recalibrated by the labels of the other folds: what the map is worth to new answers."""
    fold = np.random.default_rng(seed).permutation(len(risk)) % FOLDS
    found = np.empty(len(risk))
    for each in range(min(FOLDS, len(risk))):
        out = fold == each
        found[out] = fit_recalibration(risk[~out], error[~out]).apply(risk[out])
    return found


def _place(own: Recalibration, threshold: float) -> float:
    """Where on the knots' axis A reaches a threshold: the last place where it is no higher."""
    heights = _at_knots(own)
    last = int(np.searchsorted(heights, threshold, side="right")) - 1
    if last < 0 or last == len(heights) - 1:
        return float(KNOTS[max(last, 0)])
    if not own.labels:
        return float(squashed(np.array(threshold)))
    share = (threshold - heights[last]) / (heights[last + 1] - heights[last])
    return float(KNOTS[last] + share * (KNOTS[last + 1] - KNOTS[last]))


def _at_knots(scale: Recalibration) -> np.ndarray:
    """The recalibrated risks at the knots; of the identity, the risks themselves."""
    if not scale.labels:
        return (expit(KNOTS) - SQUASH) / (1 - 2 * SQUASH)
    return np.array(scale.values)


def _threshold(guarantee: Guarantee | None) -> float | None:
    return guarantee.threshold if guarantee else None


def _limit(registry: "Registry", version: "Version") -> float:
    changed = registry.history.threshold(version.model)
    return limit_of(changed if changed and changed.version == version.version else None)


def words(found: Recalibrated) -> Sequence[str]:
    """What came of it, a sentence each."""
    told = [f"models:/{found.model}/{found.version}, made of version {found.made_from} by {found.labels} labels, is "
            "the candidate now"]
    for name, key in (("ECE", "ece"), ("Brier", "brier")):
        before, after = found.before[key], found.after[key]  # type: ignore[literal-required]
        if before is not None and after is not None:
            told.append(f"{name} on the labels: {before:.3f} before, {after:.3f} after, by cross-fitting over {FOLDS} "
                        f"folds{': no better' if after >= before else ''}")
    if found.threshold[0] is not None:
        after = "none" if found.threshold[1] is None else f"{found.threshold[1]:.4g}"
        told.append(f"threshold of the guarantee: {found.threshold[0]:.4g} before, {after} after, for the same answers")
    return told
