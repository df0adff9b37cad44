"""Our measures as Evidently metrics. Evidently takes seconds to import: only `drift` imports this, and late.

All work on the columns `risk` and `error` of a dataset, the rows where both are known, and give what
`training.calibration` gives. A metric always has a value: ask for one only where `measures` has it. What
changes from report to report is no parameter of a metric, so that a dashboard finds the same one in each.
"""

from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pandas as pd
from evidently import Dataset
from evidently.core.container import MetricContainer
from evidently.core.metric_types import (
    BoundTest,
    Metric,
    MetricTestResult,
    SingleValue,
    SingleValueCalculation,
    SingleValueMetric,
)
from evidently.core.report import Context
from evidently.legacy.model.widget import BaseWidgetInfo
from evidently.legacy.renderers import html_widgets as widgets
from evidently.legacy.tests.base_test import TestStatus
from evidently.tests import lte

from monitoring.change import of_categories, of_numbers, shares_table
from monitoring.figures import categories_figure, numbers_figure, reliability_figure
from training.calibration import measures, reliability

ECE_LIMIT = 0.1
ECE_ROWS = 200  # with fewer labels, chance alone brings the error of a calibrated model near the limit
UNIT_COLUMNS = ("risk", "agreement")


def labelled(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Risk and error, (n,) each, of the rows where both are known."""
    known = frame.reindex(columns=["risk", "error"]).dropna()
    return known["risk"].to_numpy(float), known["error"].to_numpy(float)


class Measure(SingleValueMetric):
    """One key of `measures`."""

    key: ClassVar[str]
    title: ClassVar[str]


AnyMeasure = TypeVar("AnyMeasure", bound=Measure)


class _MeasureCalculation(SingleValueCalculation[AnyMeasure], Generic[AnyMeasure], ABC):
    def calculate(
        self, context: Context, current_data: Dataset, reference_data: Dataset | None
    ) -> tuple[SingleValue, SingleValue | None]:
        """Of the current data, and of the reference where it has labels."""
        values = [None if data is None else self.value(data) for data in (current_data, reference_data)]
        current = self.result(values[0])
        current.widget = self.draw(current_data.as_dataframe())
        return current, None if values[1] is None else self.result(values[1])

    def value(self, data: Dataset) -> float | None:
        """The measure on the labelled rows."""
        found: dict[str, Any] = {**measures(*labelled(data.as_dataframe()))}
        return found[self.metric.key]

    def draw(self, frame: pd.DataFrame) -> list[BaseWidgetInfo]:
        """Nothing: the number stands among the counters of `CalibrationSection`."""
        return []

    def display_name(self) -> str:
        """As in the report."""
        return self.metric.title


class MeanRisk(Measure):
    """The error rate that the risks predict."""

    key = "mean_risk"
    title = "Predicted errors (mean risk)"


class MeanRiskCalculation(_MeasureCalculation[MeanRisk]):
    """Of `MeanRisk`."""


class ErrorRate(Measure):
    """The observed share of wrong answers."""

    key = "error_rate"
    title = "Observed errors"


class ErrorRateCalculation(_MeasureCalculation[ErrorRate]):
    """Of `ErrorRate`."""


class ExpectedCalibrationError(Measure):
    """ECE over ten bins; its default test, at most 0.1, is made where the labels are enough to tell."""

    key = "ece"
    title = "Calibration error (ECE)"

    def _default_tests(self, context: Context) -> list[BoundTest]:
        risk, _ = labelled(context._input_data[0].as_dataframe())  # a context has no public way to its data
        return [lte(ECE_LIMIT).bind_single(self.get_fingerprint())] if len(risk) >= ECE_ROWS else []

    def _default_tests_with_reference(self, context: Context) -> list[BoundTest]:
        return self._default_tests(context)


class ExpectedCalibrationErrorCalculation(_MeasureCalculation[ExpectedCalibrationError]):
    """Of `ExpectedCalibrationError`, with the reliability plot."""

    def draw(self, frame: pd.DataFrame) -> list[BaseWidgetInfo]:
        """The reliability plot."""
        figure = reliability_figure(reliability(*labelled(frame)))
        return [widgets.plotly_figure(title="Are answers wrong as often as their risk says?", figure=figure)]


class BrierScore(Measure):
    """Mean squared distance of risk and error."""

    key = "brier"
    title = "Brier score"


class BrierScoreCalculation(_MeasureCalculation[BrierScore]):
    """Of `BrierScore`."""


class RiskAuroc(Measure):
    """The probability that a wrong answer has the higher risk than a right one."""

    key = "auroc"
    title = "AUROC"


class RiskAurocCalculation(_MeasureCalculation[RiskAuroc]):
    """Of `RiskAuroc`."""


class CalibrationGap(SingleValueMetric):
    """Observed error rate − mean risk: above 0, answers are wrong more often than the risks say."""


class CalibrationGapCalculation(SingleValueCalculation[CalibrationGap]):
    """Of `CalibrationGap`."""

    def calculate(
        self, context: Context, current_data: Dataset, reference_data: Dataset | None
    ) -> SingleValue:
        """Of the current data."""
        risk, error = labelled(current_data.as_dataframe())
        result = self.result(float(error.mean() - risk.mean()))
        result.widget = []
        return result

    def display_name(self) -> str:
        """As in the report."""
        return "Gap"


class CalibrationSection(MetricContainer):
    """The measures on n > 0 labelled rows as a row of counters, above the reliability plot."""

    n: int
    auroc: bool

    def generate_metrics(self, context: Context) -> Sequence[Metric]:
        """AUROC only where both right and wrong answers are known."""
        told = [MeanRisk(), ErrorRate(), CalibrationGap(), ExpectedCalibrationError(), BrierScore()]
        return [*told, RiskAuroc()] if self.auroc else told

    def render(
        self, context: Context, child_widgets: list[tuple[str | None, list[BaseWidgetInfo]]] | None = None
    ) -> list[BaseWidgetInfo]:
        """Counters, then what the metrics drew."""
        results = [context.get_metric_result(metric) for metric in self.metrics(context)]
        shown = {result.display_name: f"{result.value:+.3f}" if "Gap" in result.display_name
                 else f"{result.value:.3f}" for result in results if isinstance(result, SingleValue)}
        counters = [widgets.CounterData("Labelled answers", f"{self.n:,}")]
        counters += [widgets.CounterData(label, value) for label, value in shown.items()]
        plots = [plot for _, drawn in child_widgets or [] for plot in drawn]
        return [widgets.counter(title="Risk against observed errors", counters=counters), *plots]


class ColumnDrift(SingleValueMetric):
    """How far a column's distribution is from the reference's, with the test by which the alarms judge too.

    Kolmogorov-Smirnov distance of numbers, total variation of categories: both in [0, 1]. The column has
    drifted if the distance reaches the limit and chance brings such a distance with less than alpha.
    The plot shows shares. (Evidently's own ValueDrift plots means of runs of rows: in a small table, rows.)
    """

    column: str
    limit: float
    alpha: float
    numerical: bool


class ColumnDriftCalculation(SingleValueCalculation[ColumnDrift]):
    """Of `ColumnDrift`."""

    def calculate(
        self, context: Context, current_data: Dataset, reference_data: Dataset | None
    ) -> SingleValue:
        """Distance, plot and test of the current data against the reference, missing values left out."""
        assert reference_data is not None  # drift is asked for only against a reference
        column = self.metric.column
        before, now = (data.column(column).data.dropna() for data in (reference_data, current_data))
        if self.metric.numerical:
            change, figure = of_numbers(before, now), numbers_figure(before, now, column in UNIT_COLUMNS)
        else:
            change, figure = of_categories(before, now), categories_figure(shares_table(before, now))
        drifted = change.exceeds(self.metric.limit, self.metric.alpha)
        verdict = "drifted" if drifted else "no drift"
        result = self.result(change.size)
        title = f"{column}: {verdict}, distance {change.size:.3f}"
        result.widget = [widgets.plotly_figure(title=title, figure=figure, size=widgets.WidgetSize.HALF)]
        result.set_tests([MetricTestResult(
            id="column_drift",
            name=f"{column}: distance from the reference below {self.metric.limit:g}, or explained by chance",
            description=f"The distance is {change.size:.3f}, the p-value {change.p_value:.2g}.",
            status=TestStatus.FAIL if drifted else TestStatus.SUCCESS,
            metric_config=self.to_metric_config(),
            test_config={"limit": self.metric.limit, "alpha": self.metric.alpha},
        )])
        return result

    def display_name(self) -> str:
        """As in the report."""
        return f"Distance of {self.metric.column} from the reference"


class Summary(SingleValueMetric):
    """The report in words: Markdown, the report's metadata `summary`. Its value is the number of scores."""


class SummaryCalculation(SingleValueCalculation[Summary]):
    """Of `Summary`."""

    def calculate(
        self, context: Context, current_data: Dataset, reference_data: Dataset | None
    ) -> SingleValue:
        """Count the scores."""
        result = self.result(len(current_data.as_dataframe()))
        result.widget = [widgets.text_widget(text=str(context.configuration.metadata["summary"]))]
        return result

    def display_name(self) -> str:
        """As in the report."""
        return "Scores"
