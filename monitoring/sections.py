"""The parts of a report's page, drawn from the tables that the report is handed. Imports Evidently, as `measure` does.

The tables come as additional datasets: `reliability`, `differences`, `over_time`, `slices`, `drift`, `drift_before`,
and for each column compared `shares COLUMN`; what is told in words, as metadata of the report.
"""

from collections.abc import Sequence

import pandas as pd
from evidently import Dataset
from evidently.core.container import MetricContainer
from evidently.core.metric_types import (
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

from monitoring.distances import ALPHA, LIMIT
from monitoring.figures import over_time_figure, paired_bars, reliability_figure
from monitoring.measure import measures_of
from monitoring.measured import TITLES
from monitoring.metrics import MEASURES, RELIABILITY_TITLE
from monitoring.shown import between, shown

COUNTED = ("labelled", "mean_risk", "error_rate", "gap", "smooth_ece", "auroc", "accepted_share", "accepted_error")
"""The measures that stand in large figures above the others."""


def handed(context: Context, name: str) -> pd.DataFrame:
    """A table that the report was handed; empty if it was not."""
    data = context.additional_data.get(name)
    return pd.DataFrame() if data is None else data.as_dataframe()


class Summary(SingleValueMetric):
    """The report in words: Markdown, the report's metadata `summary`. Its value is the number of scores."""


class SummaryCalculation(SingleValueCalculation[Summary]):
    """Of `Summary`."""

    def calculate(self, context: Context, current_data: Dataset, reference_data: Dataset | None) -> SingleValue:
        """Say it."""
        table = measures_of(current_data).set_index("measure")
        result = self.result(int(table.loc["answers", "value"]))
        result.widget = [widgets.text_widget(text=str(context.configuration.metadata["summary"]))]
        return result

    def display_name(self) -> str:
        """As in the report."""
        return "Scores"


class MeasuresSection(MetricContainer):
    """The measures of a report: the main ones in large figures, the reliability plot, and a table of all."""

    measures: list[str]

    def generate_metrics(self, context: Context) -> Sequence[Metric]:
        """Those that can be told."""
        return [MEASURES[key]() for key in self.measures]

    def render(
        self, context: Context, child_widgets: list[tuple[str | None, list[BaseWidgetInfo]]] | None = None
    ) -> list[BaseWidgetInfo]:
        """Figures, plot, table."""
        table = measures_of(context._input_data[0]).set_index("measure")  # a context has no public way to its data
        words = context.configuration.metadata
        counters = [widgets.CounterData(TITLES[key], shown(key, table.loc[key, "value"])) for key in COUNTED
                    if key in table.index]
        drawn = [widgets.counter(title=str(words["measures_title"]), counters=counters[start:start + 4])
                 for start in range(0, len(counters), 4)]
        for later in drawn[1:]:
            later.title = ""
        bins = handed(context, "reliability")
        if len(bins):
            drawn.append(widgets.plotly_figure(title=RELIABILITY_TITLE, figure=reliability_figure(bins)))
        return [*drawn, self._table(context, table)]

    def _table(self, context: Context, table: pd.DataFrame) -> BaseWidgetInfo:
        differences, words = handed(context, "differences"), context.configuration.metadata
        other = str(words["other"])
        rows = [[TITLES[key], shown(key, row["value"]), between(key, row["low"], row["high"])]
                for key, row in table.iterrows()]
        if not len(differences):
            return widgets.table_data(title="All measures", data=rows,
                                      column_names=["measure", str(words["current"]), "95 % interval"])
        beside = differences.set_index("measure")
        for key, cells in zip(table.index, rows, strict=True):
            found = beside.loc[key] if key in beside.index else None
            cells += ["–", "–", ""] if found is None else [
                shown(key, found["before"]), shown(key, found["difference"], signed=True),
                between(key, found["low"], found["high"], signed=True)]
        names = ["measure", str(words["current"]), "95 % interval", other, "difference", "its 95 % interval"]
        return widgets.table_data(title=f"All measures, beside those of {other}", column_names=names, data=rows)


class PeriodsShown(SingleValueMetric):
    """Mean risk and observed errors over time, as a plot. Its value is the number of periods."""


class PeriodsShownCalculation(SingleValueCalculation[PeriodsShown]):
    """Of `PeriodsShown`."""

    def calculate(self, context: Context, current_data: Dataset, reference_data: Dataset | None) -> SingleValue:
        """Draw it."""
        table = handed(context, "over_time")
        result = self.result(len(table))
        result.widget = [widgets.plotly_figure(title="Risk and observed errors over time",
                                               figure=over_time_figure(table))]
        return result

    def display_name(self) -> str:
        """As in the report."""
        return "Periods shown"


class SlicesOff(SingleValueMetric):
    """In how many slices the risks are off beyond chance, with a table of all slices; its test is that in none."""


class SlicesOffCalculation(SingleValueCalculation[SlicesOff]):
    """Of `SlicesOff`."""

    def calculate(self, context: Context, current_data: Dataset, reference_data: Dataset | None) -> SingleValue:
        """Count them, and show all."""
        table = handed(context, "slices")
        off = int(table["marked"].astype(bool).sum())
        result = self.result(off)
        names = ["slice", "", "answers", "mean risk", "labelled", "wrong", "95 % interval", "gap", "ECE", ""]
        rows = [[row["slice"], row["value"], f"{row['n']:,}", f"{row['mean_risk']:.1%}", f"{row['labelled']:,}",
                 shown("error_rate", row["error_rate"]), between("error_rate", row["error_low"], row["error_high"]),
                 shown("gap", row["gap"]), shown("ece", row["ece"]), "◀\u00a0off" if row["marked"] else ""]
                for row in table.to_dict("records")]
        result.widget = [widgets.table_data(title="Slice by slice: ◀ off where the gap is beyond chance",
                                            column_names=names, data=rows)]
        if table["p_value"].notna().any():
            result.set_tests([MetricTestResult(
                id="slices_off", name="In no slice are answers wrong more, or less, often than their risks say",
                description=f"In {off} of {len(table)} slices they are, beyond chance.",
                status=TestStatus.FAIL if off else TestStatus.SUCCESS,
                metric_config=self.to_metric_config(), test_config={},
            )])
        return result

    def display_name(self) -> str:
        """As in the report."""
        return "Slices in which the risks are off"


class ColumnDrift(SingleValueMetric):
    """How far a column's distribution is from the reference's (`monitoring.distances`), with a plot of the shares."""

    column: str


class ColumnDriftCalculation(SingleValueCalculation[ColumnDrift]):
    """Of `ColumnDrift`."""

    def calculate(self, context: Context, current_data: Dataset, reference_data: Dataset | None) -> SingleValue:
        """Distance, plot and test."""
        column = self.metric.column
        row = handed(context, "drift").set_index("column").loc[column]
        verdict = "drifted" if row["drifted"] else "no drift"
        before, words = handed(context, "drift_before"), context.configuration.metadata
        result = self.result(float(row["distance"]))
        title = f"{column}: {verdict}, distance {row['distance']:.3f}"
        if len(before) and column in set(before["column"]):
            title += f" (from the days before: {before.set_index('column').loc[column, 'distance']:.3f})"
        figure = paired_bars(handed(context, f"shares {column}"), (str(words["reference"]), str(words["current"])))
        result.widget = [widgets.plotly_figure(title=title, figure=figure, size=widgets.WidgetSize.HALF)]
        result.set_tests([MetricTestResult(
            id="column_drift",
            name=f"{column}: distance from the reference below {LIMIT:g}, or explained by chance",
            description=f"The distance is {row['distance']:.3f}, the p-value {row['p_value']:.2g}.",
            status=TestStatus.FAIL if row["drifted"] else TestStatus.SUCCESS,
            metric_config=self.to_metric_config(), test_config={"limit": LIMIT, "alpha": ALPHA},
        )])
        return result

    def display_name(self) -> str:
        """As in the report."""
        return f"Distance of {self.metric.column} from the reference"
