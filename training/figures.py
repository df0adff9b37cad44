"""The pictures of a version: reliability, risks, risk against coverage, Pareto weights."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from training.calibration import Measures, ece, reliability, risk_coverage, wilson

RIGHT, WRONG, MUTED = "#2a7f9e", "#d1495b", "#8d99a6"


def reliability_figure(risk: np.ndarray, error: np.ndarray, title: str) -> Figure:
    """Observed error rate against mean risk in ten bins, with 95 % Wilson intervals, above the risks' histogram."""
    figure = Figure(figsize=(6.4, 6.6), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    bins = reliability(risk, error)
    low, high = wilson(bins["error_rate"].to_numpy(), bins["n"].to_numpy())
    middle = bins["error_rate"].to_numpy()
    above.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1.2, label="perfectly calibrated")
    above.errorbar(bins["mean_risk"], middle, yerr=[middle - low, high - middle], fmt="none", ecolor=RIGHT,
                   elinewidth=1.4, capsize=3, alpha=0.7)
    above.plot(bins["mean_risk"], middle, color=RIGHT, linewidth=1.6, alpha=0.6)
    above.scatter(bins["mean_risk"], middle, s=30 + 300 * bins["n"] / bins["n"].sum(), color=RIGHT, zorder=3,
                  label="answers, by risk (larger: more)")
    above.set(ylim=(-0.02, 1.02), ylabel="observed error rate")
    above.legend(loc="upper left", frameon=False)
    above.text(0.02, 0.86, f"{len(risk):,} answers\nerror rate {error.mean():.1%}, mean risk {risk.mean():.1%}\n"
               f"ECE {ece(risk, error):.3f}", transform=above.transAxes, ha="left", va="top", color="#333333")
    below.hist(risk, bins=np.linspace(0, 1, 41).tolist(), color=RIGHT, alpha=0.8)
    below.set(xlim=(-0.02, 1.02), xlabel="risk: the probability that the LLM's answer is wrong", ylabel="answers")
    for axes in (above, below):
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        _plain(axes)
    above.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.suptitle(title, fontsize=13)
    return figure


def histogram_figure(risk: np.ndarray, error: np.ndarray, title: str) -> Figure:
    """How the risks of right and of wrong answers are distributed."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.hist([risk[error == 0], risk[error == 1]], bins=np.linspace(0, 1, 26).tolist(), stacked=True,
              color=[RIGHT, WRONG], label=["right answers", "wrong answers"])
    axes.set(xlabel="risk", ylabel="answers", xlim=(0, 1), title=title)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False)
    _plain(axes)
    return figure


def risk_coverage_figure(risk: np.ndarray, error: np.ndarray, title: str) -> Figure:
    """The error rate of the accepted answers as more of them, in the order of risk, are accepted."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    coverage = np.arange(1, len(risk) + 1) / len(risk)
    curve = risk_coverage(risk, error)
    best = np.cumsum(np.sort(error)) / np.arange(1, len(error) + 1)
    axes.axhline(error.mean(), color=MUTED, linestyle="--", linewidth=1.2, label="in random order")
    axes.plot(coverage, best, color=MUTED, linestyle=":", linewidth=1.4, label="if errors were known")
    axes.plot(coverage, curve, color=RIGHT, linewidth=2.2, label=f"by risk (AURC {curve.mean():.3f})")
    top = max(error.mean() * 1.5, float(curve[len(curve) // 50 :].max()) * 1.1, 0.02)
    axes.set(xlabel="share of answers accepted, least risky first", ylabel="error rate among them",
             xlim=(0, 1), ylim=(0, top), title=title)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, loc="upper left")
    _plain(axes)
    return figure


def weights_figure(weights: Mapping[str, float], title: str, most: int = 40) -> Figure:
    """Pareto weights by source, the largest first; beyond `most` of them, the rest as one bar."""
    ranked = sorted(weights.items(), key=lambda pair: -pair[1])
    shown = ranked[:most]
    if len(ranked) > most:
        shown.append((f"{len(ranked) - most} more, together", sum(value for _, value in ranked[most:])))
    figure = Figure(figsize=(7.2, 1.2 + 0.26 * len(shown)), layout="constrained")
    axes = figure.subplots()
    names = [name if len(name) <= 48 else name[:45] + "…" for name, _ in shown]
    axes.barh(range(len(shown)), [value for _, value in shown], color=RIGHT)
    axes.set_yticks(range(len(shown)), labels=names, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="Pareto weight", title=title)
    _plain(axes)
    return figure


def bench_figure(
    tasks: Mapping[str, Mapping[str, Measures]], mean: Mapping[str, Measures], own: str = "polarscore"
) -> Figure:
    """ECE and AUROC of every method: a faint point a task, a strong one for the mean, ours in colour."""
    methods = sorted(mean, key=lambda method: mean[method]["ece"] or 0.0, reverse=True)
    figure = Figure(figsize=(9.6, 1.2 + 0.36 * len(methods)), layout="constrained")
    panels = (("ece", "ECE, lower is better"), ("auroc", "AUROC, higher is better"))
    for axes, (key, label) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        for row, method in enumerate(methods):
            colour = WRONG if method == own else RIGHT
            points = [found[method][key] for found in tasks.values() if method in found]  # type: ignore[literal-required]
            told = [point for point in points if point is not None]
            axes.scatter(told, [row] * len(told), color=colour, alpha=0.25, s=22, linewidths=0)
            if (value := mean[method][key]) is not None:  # type: ignore[literal-required]
                axes.scatter([value], [row], color=colour, s=70, zorder=3)
                axes.annotate(f"{value:.3f}", (value, row), xytext=(0, 8), textcoords="offset points", ha="center",
                              fontsize=8, color=colour)
        axes.set_yticks(range(len(methods)), labels=methods)
        axes.set(xlabel=label, ylim=(-0.6, len(methods) - 0.3))
        _plain(axes)
    figure.suptitle(f"Risks of every method on {len(tasks)} tasks; large points are means", fontsize=12)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
