"""The picture of asking again: accuracy as more rows are asked, the riskiest first."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from serving.correction.helped import Curve
from training.figures import MUTED, RIGHT, WRONG

LINES = {
    "first": ("first answers", "#222222", "-"),
    "harmonizer": ("harmonizer, text alone", "#7a5195", ":"),
    "harmonizer_with_votes": ("harmonizer, with votes", "#7a5195", "--"),
    "majority": ("majority of the sources", "#c98a1b", "-."),
    "hindsight": ("better of both, in hindsight", MUTED, ":"),
}
"""The level lines: what each is called, and how it is drawn."""


def correction_figure(
    curve: Curve, levels: Mapping[str, float], chosen: tuple[float, float] | None, title: str, measured: bool
) -> Figure:
    """curve: of the way that was asked. levels: accuracy by the keys of `LINES`, those that can be told.

    chosen: the share that was asked, and the accuracy after it; None where only the pilot was. measured: by gold
    labels; otherwise as expected.
    """
    figure = Figure(figsize=(7.6, 4.8), layout="constrained")
    axes = figure.subplots()
    for name, (label, colour, style) in LINES.items():
        if name in levels:
            axes.axhline(levels[name], color=colour, linestyle=style, linewidth=1.3,
                         label=f"{label} ({levels[name]:.1%})")
    axes.plot(curve.share, curve.blind, color=WRONG, linewidth=1.8, label="new answers taken blindly")
    axes.plot(curve.share, curve.kept, color=RIGHT, linewidth=2.4, label="the better one kept by risk")
    if chosen:
        axes.scatter(*chosen, color=RIGHT, edgecolor="white", linewidth=1.2, s=170, marker="*", zorder=5,
                     label=f"chosen: {chosen[0]:.0%} asked, {chosen[1]:.1%} right")
    axes.set(xlim=(0, max(float(curve.share.max()), chosen[0] if chosen else 0, 0.05) * 1.01), title=title,
             xlabel="share of the answers asked again, the riskiest first",
             ylabel="right answers" if measured else "right answers, as expected without labels")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure
