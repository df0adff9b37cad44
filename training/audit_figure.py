"""The picture of an audit: from the risk without labels to the recalibrated one."""

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from training.audit_result import Guarantee, Recalibration
from training.figures import MUTED, RIGHT, WRONG


def recalibration_figure(recalibration: Recalibration, guarantee: Guarantee | None, title: str) -> Figure:
    """The recalibration curve with its 90 % band, beside "as it was"; dotted, the threshold that is guaranteed."""
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    risk, middle, low, high = zip(*recalibration.curve, strict=True)
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1.2, label="as it was")
    axes.fill_between(risk, low, high, color=RIGHT, alpha=0.2, linewidth=0, label="with confidence 0.9")
    axes.plot(risk, middle, color=RIGHT, linewidth=2.2, marker="o", markersize=4,
              label=f"by {recalibration.labels} checked answers")
    if guarantee and guarantee.threshold is not None:
        axes.axhline(guarantee.threshold, color=WRONG, linestyle=":", linewidth=1.4,
                     label=f"accepted below {guarantee.threshold:.3g}: under {guarantee.alpha:.0%} are wrong")
    axes.set(xlabel="risk without labels", ylabel="recalibrated risk", xlim=(0, 1), ylim=(0, 1), title=title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure
