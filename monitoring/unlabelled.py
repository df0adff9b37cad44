"""How often the LLM is wrong now, without any label; and how right such estimates were, once labels came. Pure.

    error rate = mean r + (d − r₀) / 2,

with the mean risk r of the answers, its mean r₀ in training, and d, the share of the answers where the harmonizer,
which has read the text and not the LLM's answer, says something else. A risk counts the LLM's own answer as evidence,
by what the LLM was worth in training: if the LLM has changed since, the mean risk follows three quarters of the way, d
further. Where nothing has changed, this is the mean of r and d, either of which can be off by a constant. If an audit's
labels have set the scale of the risks, their mean is the better estimate, and stands alone.

The rule was chosen on train and valid of six tasks, with the LLM as it is, worse, and better; the mean risk alone was
off by more (benchmarks/estimates.py).
"""

from dataclasses import dataclass

import pandas as pd

from monitoring.estimation import Estimate, Period, error_rate, starts

ROWS = 30
"""Fewer answers, or labels, than these tell nothing of their own."""


@dataclass(frozen=True)
class Honesty:
    """How label-free estimates of past periods fared.

    table: a row a period that has enough labels of known choice, ascending: start, answers, labels, unlabelled,
    labelled, low, high (the labels' interval, 95 %), inside (whether the label-free one lies in it, give or take the
    tolerance).
    few: how many periods have labels of known choice, and fewer of them than tell anything: they are not in the table.
    enough: so many labels do.
    """

    table: pd.DataFrame
    few: int = 0
    enough: int = ROWS

    @property
    def periods(self) -> int:
        """Of how many periods it can be told."""
        return len(self.table)

    @property
    def inside(self) -> int:
        """In how many of them the label-free estimate lay in the labels' interval."""
        return int(self.table["inside"].sum())

    @property
    def reason(self) -> str:
        """In words."""
        few = f"; not counted, for fewer than {self.enough} labels: {self.few}" if self.few else ""
        if not self.periods:
            return (f"how right estimates without labels are is not known: no period has {self.enough} labels of known "
                    f"choice{few}")
        off = float((self.table["unlabelled"] - self.table["labelled"]).abs().mean())
        return (f"in {self.inside} of {self.periods} periods the estimate without labels lay where the labels put the "
                f"error rate, off by {off:.3f} in the mean{few}")


def error_rate_unlabelled(frame: pd.DataFrame, reference: pd.DataFrame, audited: bool = False) -> Estimate:
    """The share of wrong answers among all rows with a risk, by the rule above. No interval: no label is behind it.

    frame, reference: risk, answer and harmonizer_answer; the reference is of training, and without a row in it nothing
    is known to have changed. audited: whether labels have set the scale of the version's risks.
    """
    now, before = (rows[rows["risk"].notna()] for rows in (frame, reference))
    n = len(now)
    if n < ROWS:
        return Estimate(None, None, None, 0, n, "none",
                        f"cannot tell: {n} answer{'s' * (n != 1)} with a risk, {ROWS} are needed")
    mean, differ = float(now["risk"].mean()), _differing(now)
    usual = float(before["risk"].mean()) if len(before) else mean
    value = mean if audited else min(max(mean + (differ - usual) / 2, 0.0), 1.0)
    facts = f"no label: the mean risk of {n:,} answers is {mean:.3f}"
    if len(before):
        facts += f", in training {usual:.3f}"
    return Estimate(value, None, None, 0, n, "label-free",
                    f"{facts}; the harmonizer by itself says something else on {differ:.1%}")


def honesty(
    frame: pd.DataFrame, reference: pd.DataFrame, audited: bool = False, period: Period = "week",
    tolerance: float = 0.02, enough: int = ROWS,
) -> Honesty:
    """Each past period's estimate without labels, beside what its labels say now.

    frame: all scores of a version, as `Store.frame` has them. tolerance: so little beside an interval does not matter,
    which may be a point where every answer was checked. enough: a period with fewer labels tells nothing, as any
    estimate lies in their wide interval.
    """
    columns = ["start", "answers", "labels", "unlabelled", "labelled", "low", "high"]
    rows, few = [], 0
    for start, part in frame.groupby(starts(frame["created_at"], period), sort=True):
        labelled = error_rate(part)
        guess = error_rate_unlabelled(part, reference, audited)
        if labelled.value is None or guess.value is None:
            continue
        if labelled.n < enough:
            few += 1
        else:
            rows.append((start, labelled.population, labelled.n, guess.value, labelled.value, labelled.low,
                         labelled.high))
    table = pd.DataFrame(rows, columns=columns)
    low, high = table["low"] - tolerance, table["high"] + tolerance
    return Honesty(table.assign(inside=table["unlabelled"].between(low, high)), few, enough)


def _differing(rows: pd.DataFrame) -> float:
    """The share of the answers that the harmonizer, by the text alone, would not have given."""
    return float((rows["answer"] != rows["harmonizer_answer"]).mean())
