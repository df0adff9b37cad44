"""A report's first words, a sentence each. Pure."""

from monitoring.distances import Distances
from monitoring.findings import THE_DAYS_BEFORE, Findings
from monitoring.measured import Measured, surely


def summarise(found: Findings) -> list[str]:
    """How much was looked at, whether the risks are true, whether the promise holds, what changed, what is not told."""
    scores, (reference, current) = found.scores, found.sides
    said = [f"{_counted(scores['current'], 'score')} of {current}, compared with {scores['reference']:,} of {reference}"
            + (f" and {scores['before']:,} of the days before." if scores["before"] else ".")]
    if scores["without_risk"]:
        said.append(f"Without a risk, as the LLM gave no answer: {_counted(scores['without_risk'], 'score')}.")
    said += _errors(found.current)
    if found.promised is not None:
        said += _promise(found, found.promised)
    said += _difference(found)
    said += _changes(found)
    return said


def _errors(now: Measured) -> list[str]:
    n, observed, predicted = len(now.told), now.value("error_rate"), now.value("mean_risk")
    if not n:
        return ["No feedback yet: whether answers are wrong as often as their risks say cannot be told."]
    if observed is None or predicted is None:
        return [f"Only {_counted(n, 'answer')} {'was' if n == 1 else 'were'} checked: too few to show, or to tell "
                "anything."]
    row = now.table.set_index("measure").loc["error_rate"]
    between = "" if row.isna().any() else f" (95 % interval {row['low']:.1%} to {row['high']:.1%})"
    if now.unknown is None:
        said = [f"Of all answers, {observed:.1%} are wrong{between}, by {n:,} that were drawn with known probabilities "
                f"and checked; the risks predict {predicted:.1%}."]
        if now.told.left_out:
            said.append(f"Not counted: {_counted(now.told.left_out, 'checked answer')}, chosen nobody said how.")
    else:
        said = [f"Cannot tell for all answers: {now.unknown.rstrip('.')}.",
                f"Of the {n:,} that were labelled, {observed:.1%} were wrong{between}; their risks predicted "
                f"{predicted:.1%}."]
    if now.value("auroc") is None:
        kind = "wrong" if observed > 0 else "right"
        said.append(f"All of them were {kind}, so that how well risk tells wrong from right cannot be told.")
    return said


def _promise(found: Findings, promised: float) -> list[str]:
    error = found.current.value("accepted_error")
    if error is None:
        return [f"Whether at most {promised:.1%} of the accepted answers are wrong, as promised, cannot be told: too "
                "few of them are labelled."]
    row = found.current.table.set_index("measure").loc["accepted_error"]
    verdict = ("more than" if row["low"] > promised else "not more than" if row["high"] <= promised
               else "neither surely more nor surely less than")
    return [f"Of the accepted answers, {error:.1%} were wrong ({row['low']:.1%} to {row['high']:.1%}): {verdict} the "
            f"{promised:.1%} promised."]


def _difference(found: Findings) -> list[str]:
    table = found.differences.set_index("measure")
    told = {"error_rate": "errors", "gap": "the gap", "smooth_ece": "the smooth calibration error",
            "accepted_error": "errors among the accepted"}
    changed = [f"{told[measure]} {'rose' if table.loc[measure, 'difference'] > 0 else 'fell'} by "
               f"{abs(table.loc[measure, 'difference']):.1%}" for measure in surely(found.differences, list(told))]
    if changed:
        return [f"Since {found.other}, beyond chance: {', '.join(changed)}."]
    if "error_rate" in table.index:
        return [f"Compared with {found.other}, no measure has changed beyond chance."]
    return []


def _changes(found: Findings) -> list[str]:
    said = [_drifted(found.drift, found.sides[0])]
    if found.drift_before is not None:
        said.append(_drifted(found.drift_before, THE_DAYS_BEFORE))
    if marked := int(found.slices.table["marked"].astype(bool).sum()):
        said.append(f"The risks are off, beyond chance, in {marked} of {len(found.slices.table)} slices.")
    said += [f"{column} was not compared: {reason}." for column, reason in found.drift.not_compared.items()]
    return said + [f"Not sliced by {reason}." for reason in found.slices.left_out]


def _drifted(drift: Distances, side: str) -> str:
    if drift.table.empty:
        return f"Whether anything is distributed otherwise than in {side} cannot be told: no column could be compared."
    columns = drift.table.loc[drift.table["drifted"].astype(bool), "column"]
    return f"Distributed otherwise than in {side}: {', '.join(columns) or 'no column that was compared'}."


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"
