"""What an Evidently metric of ours is. Evidently takes seconds to import: `drift` and `pages` alone do, and late.

A metric works on either of two datasets: answers, one a row, with the columns risk, error and, if it is known,
probability; or a table of measures as `monitoring.measured` makes it, which is all that a report of ours hands over. A
metric always has a value: ask for one only where the measure can be told. What changes from report to report is no
parameter of a metric, so that a dashboard finds the same one in each.
"""

from abc import ABC
from typing import ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

import pandas as pd
from evidently import Dataset
from evidently.core.metric_types import BoundTest, SingleValue, SingleValueCalculation, SingleValueMetric
from evidently.core.report import Context
from evidently.legacy.model.widget import BaseWidgetInfo
from evidently.legacy.renderers import html_widgets as widgets
from evidently.tests import lte

from monitoring.answers import safe
from monitoring.measured import TITLES, Measured, measured
from monitoring.shown import shown
from training.errors import InputError

LIMIT = 0.1
ROWS = 200  # with fewer labels, chance alone brings the error of a calibrated model near the limit

_KNOWN: "WeakKeyDictionary[Dataset, Measured]" = WeakKeyDictionary()


def measures_of(data: Dataset) -> pd.DataFrame:
    """The table of measures that a dataset is, or that its answers have."""
    frame = data.as_dataframe()
    return frame if "measure" in frame else measured_of(data).table


def value_of(data: Dataset, key: str) -> float | None:
    """A measure of a dataset, None where it cannot be told."""
    table = measures_of(data)
    found = table.loc[table["measure"] == key, "value"]
    return float(found.iloc[0]) if len(found) else None


def measured_of(data: Dataset) -> Measured:
    """The measures of a dataset of answers, found once for all metrics."""
    if data not in _KNOWN:
        _KNOWN[data] = measured(safe(data.as_dataframe()))
    return _KNOWN[data]


class Measure(SingleValueMetric):
    """One key of `monitoring.measured.TITLES`."""

    key: ClassVar[str]


class TestedMeasure(Measure):
    """A measure that is to stay at most 0.1; by default that is tested where the labels are enough to tell."""

    def _default_tests(self, context: Context) -> list[BoundTest]:
        labels = value_of(context._input_data[0], "labelled")  # a context has no public way to its data
        return [lte(LIMIT).bind_single(self.get_fingerprint())] if labels and labels >= ROWS else []

    def _default_tests_with_reference(self, context: Context) -> list[BoundTest]:
        return self._default_tests(context)


AnyMeasure = TypeVar("AnyMeasure", bound=Measure)


class MeasureCalculation(SingleValueCalculation[AnyMeasure], Generic[AnyMeasure], ABC):
    """Of a `Measure`: its value, the reference's, and both as counters."""

    def calculate(
        self, context: Context, current_data: Dataset, reference_data: Dataset | None
    ) -> tuple[SingleValue, SingleValue | None]:
        """Of the current data, and of the reference where it can be told there."""
        value = value_of(current_data, self.metric.key)
        if value is None:
            raise InputError(f"{self.display_name()} cannot be told: too few answers, or labels, or all of one kind.")
        before = None if reference_data is None else value_of(reference_data, self.metric.key)
        current, reference = self.result(value), None if before is None else self.result(before)
        counters = [widgets.CounterData(title, shown(self.metric.key, number)) for title, number in
                    ((self.display_name(), value), ("of the reference", before)) if number is not None]
        current.widget = [widgets.counter(counters=counters), *self.draw(context, current_data)]
        return current, reference

    def draw(self, context: Context, data: Dataset) -> list[BaseWidgetInfo]:
        """What stands below the number: nothing."""
        return []

    def display_name(self) -> str:
        """As in the report."""
        return TITLES[self.metric.key]
