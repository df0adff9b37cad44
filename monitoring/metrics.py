"""Our measures as Evidently metrics, one each; `monitoring.measure` says what they work on."""

from evidently import Dataset
from evidently.core.report import Context
from evidently.legacy.model.widget import BaseWidgetInfo
from evidently.legacy.renderers import html_widgets as widgets

from monitoring.figures import reliability_figure
from monitoring.measure import Measure, MeasureCalculation, TestedMeasure, measured_of

RELIABILITY_TITLE = "Are answers wrong as often as their risk says?"


class AnswersScored(Measure):
    """How many scores there are."""

    key = "answers"


class AnswersScoredCalculation(MeasureCalculation[AnswersScored]):
    """Of `AnswersScored`."""


class LabelledAnswers(Measure):
    """How many labels the measures rest on."""

    key = "labelled"


class LabelledAnswersCalculation(MeasureCalculation[LabelledAnswers]):
    """Of `LabelledAnswers`."""


class MeanRisk(Measure):
    """The error rate that the risks predict."""

    key = "mean_risk"


class MeanRiskCalculation(MeasureCalculation[MeanRisk]):
    """Of `MeanRisk`."""


class ErrorRate(Measure):
    """The observed share of wrong answers."""

    key = "error_rate"


class ErrorRateCalculation(MeasureCalculation[ErrorRate]):
    """Of `ErrorRate`."""


class CalibrationGap(Measure):
    """Observed error rate − mean risk: above 0, answers are wrong more often than the risks say."""

    key = "gap"


class CalibrationGapCalculation(MeasureCalculation[CalibrationGap]):
    """Of `CalibrationGap`."""


class ExpectedCalibrationError(TestedMeasure):
    """ECE over ten bins."""

    key = "ece"


class ExpectedCalibrationErrorCalculation(MeasureCalculation[ExpectedCalibrationError]):
    """Of `ExpectedCalibrationError`, with the reliability plot."""

    def draw(self, context: Context, data: Dataset) -> list[BaseWidgetInfo]:
        """The reliability plot."""
        handed = context.additional_data.get("reliability")
        bins = handed.as_dataframe() if handed else measured_of(data).reliability
        return [widgets.plotly_figure(title=RELIABILITY_TITLE, figure=reliability_figure(bins))] if len(bins) else []


class SmoothCalibrationError(TestedMeasure):
    """ECE without bins (`monitoring.smooth`)."""

    key = "smooth_ece"


class SmoothCalibrationErrorCalculation(MeasureCalculation[SmoothCalibrationError]):
    """Of `SmoothCalibrationError`."""


class RiskR2(Measure):
    """R² of risk and error, as in the paper."""

    key = "r2"


class RiskR2Calculation(MeasureCalculation[RiskR2]):
    """Of `RiskR2`."""


class RiskAuroc(Measure):
    """The probability that a wrong answer has the higher risk than a right one."""

    key = "auroc"


class RiskAurocCalculation(MeasureCalculation[RiskAuroc]):
    """Of `RiskAuroc`."""


class RiskAurc(Measure):
    """The mean error rate among the least risky, over all shares accepted."""

    key = "aurc"


class RiskAurcCalculation(MeasureCalculation[RiskAurc]):
    """Of `RiskAurc`."""


class BrierScore(Measure):
    """Mean squared distance of risk and error."""

    key = "brier"


class BrierScoreCalculation(MeasureCalculation[BrierScore]):
    """Of `BrierScore`."""


class BrierReliability(Measure):
    """The part of the Brier score that comes of risks that are not true."""

    key = "brier_reliability"


class BrierReliabilityCalculation(MeasureCalculation[BrierReliability]):
    """Of `BrierReliability`."""


class BrierResolution(Measure):
    """The part that the Brier score is smaller by as the risks tell answers apart."""

    key = "brier_resolution"


class BrierResolutionCalculation(MeasureCalculation[BrierResolution]):
    """Of `BrierResolution`."""


class BrierUncertainty(Measure):
    """The part of the Brier score that no risks could change."""

    key = "brier_uncertainty"


class BrierUncertaintyCalculation(MeasureCalculation[BrierUncertainty]):
    """Of `BrierUncertainty`."""


class BrierWithin(Measure):
    """The part of the Brier score that comes of what risks say within the bins."""

    key = "brier_within"


class BrierWithinCalculation(MeasureCalculation[BrierWithin]):
    """Of `BrierWithin`."""


class AcceptedShare(Measure):
    """The share of answers that the version's threshold accepts."""

    key = "accepted_share"


class AcceptedShareCalculation(MeasureCalculation[AcceptedShare]):
    """Of `AcceptedShare`."""


class AcceptedError(Measure):
    """The error rate of the answers that the version's threshold accepts."""

    key = "accepted_error"


class AcceptedErrorCalculation(MeasureCalculation[AcceptedError]):
    """Of `AcceptedError`."""


MEASURES: dict[str, type[Measure]] = {metric.key: metric for metric in (
    AnswersScored, LabelledAnswers, MeanRisk, ErrorRate, CalibrationGap, ExpectedCalibrationError,
    SmoothCalibrationError, RiskR2, RiskAuroc, RiskAurc, BrierScore, BrierReliability, BrierResolution,
    BrierUncertainty, BrierWithin, AcceptedShare, AcceptedError,
)}
"""The metric of each measure."""
