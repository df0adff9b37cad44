"""The pictures of a version: reliability, risks, risk against coverage, Pareto weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from training.calibration import Measures, ece, reliability, risk_coverage, wilson
from training.front import Front

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
    tasks: Mapping[str, Mapping[str, Measures]],
    mean: Mapping[str, Measures],
    bounds: Mapping[str, Mapping[str, Any]],
    own: str = "polarscore",
) -> Figure:
    """The measures of every method: on the left the mean over tasks, ours in colour, on the right each task's figure.

    A tick beside a mean ECE is its floor, what a perfectly calibrated score of the same risks would show.
    bounds: of each task and of the mean, by method, as `training.verdict.as_json` has them.
    """
    panels = (("ece", "ECE, lower is better", True), ("r2", "R², higher is better", False),
              ("auroc", "AUROC, higher is better", False), ("aurc", "AURC, lower is better", True),
              ("brier", "Brier, lower is better", True))
    figure = Figure(figsize=(7.0 + 0.72 * len(tasks), len(panels) * (1.6 + 0.29 * len(mean))), layout="constrained")
    grid = figure.subplots(len(panels), 2, width_ratios=(4.0, 1.2 + 0.72 * len(tasks)), squeeze=False)
    for (key, label, low_is_good), (left, right) in zip(panels, grid, strict=True):
        told = {method: value for method in mean if (value := _told(mean[method], key)) is not None}
        methods = sorted(told, key=lambda method: told[method], reverse=low_is_good)
        colours = [WRONG if method == own else MUTED if method == "gold" else RIGHT for method in methods]
        start = 0.5 if key == "auroc" else 0.0
        left.barh(range(len(methods)), [told[method] - start for method in methods], left=start, color=colours,
                  height=0.62)
        for row, method in enumerate(methods):
            left.annotate(f"{told[method]:.3f}", (max(told[method], start), row), xytext=(4, 0), va="center",
                          textcoords="offset points", fontsize=9, fontweight="bold" if method == own else "normal")
        floors = [(bounds["mean"][method]["ece_floor"], row) for row, method in enumerate(methods)
                  if key == "ece" and method in bounds["mean"]]
        if floors:
            left.plot(*zip(*floors, strict=True), linestyle="none", marker="|", markersize=13, markeredgewidth=2.2,
                      color="#222222", label="its floor: if perfectly calibrated")
            left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=9)
        left.set_yticks(range(len(methods)), labels=methods)
        left.set(xlabel=f"mean {label}", ylim=(-0.6, len(methods) - 0.4))
        left.margins(x=0.16)
        _plain(left)
        _cells(right, tasks, methods, key, low_is_good, own)
    figure.suptitle(f"Every method on {len(tasks)} tasks: means on the left, tasks on the right", fontsize=13)
    return figure


def _cells(
    axes: Axes,
    tasks: Mapping[str, Mapping[str, Measures]],
    methods: Sequence[str],
    key: str,
    low_is_good: bool,
    own: str,
) -> None:
    """A measure as a table, a row a method and a column a task; the paler the cell, the better for that task."""
    values = [[_told(task.get(method), key) for task in tasks.values()] for method in methods]
    found = np.ma.masked_invalid(np.array(values, dtype=np.float64).reshape(len(methods), len(tasks)))
    if found.count():
        bad = found if low_is_good else -found
        shade = (bad - bad.min(axis=0)) / np.ma.maximum(bad.max(axis=0) - bad.min(axis=0), 1e-9)
        edges = (np.arange(size + 1) - 0.5 for size in (len(tasks), len(methods)))
        axes.pcolormesh(*edges, shade, cmap="Blues", vmin=0, vmax=2.2, edgecolors="white", linewidth=1.5)
    for row, column in np.argwhere(~np.ma.getmaskarray(found)):
        axes.text(column, row, f"{found[row, column]:.2f}".removeprefix("0"), ha="center", va="center", fontsize=9,
                  color=WRONG if methods[row] == own else "#222222",
                  fontweight="bold" if methods[row] == own else "normal")
    names = [task if len(task) <= 24 else task[:23] + "…" for task in tasks]
    axes.set_xticks(range(len(names)), labels=names, rotation=35, ha="right", rotation_mode="anchor", fontsize=9,
                    parse_math=False)
    axes.set_yticks([])
    axes.set(xlim=(-0.5, len(tasks) - 0.5), ylim=(-0.6, len(methods) - 0.4))
    axes.spines[:].set_visible(False)


def _told(measures: Measures | None, key: str) -> float | None:
    return None if measures is None else measures[key]  # type: ignore[literal-required]


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def front_figure(front: Front, title: str) -> Figure:
    """A sweep's points by their losses a vote: dominated ones faint, the front joined, the chosen one marked.

    Two objectives are the axes; of more, each is an upright axis and each point a line across them.
    """
    draw = _front_in_plane if len(front.objectives) == 2 else _front_across
    figure = draw(front)
    chosen = front.points[front.chosen]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(front.objectives, chosen.preference, strict=True))
    figure.suptitle(title, fontsize=12)
    figure.axes[0].set_title(f"chosen: {shares}; hypervolume {front.hypervolume:.3g}", fontsize=9, color="#333333")
    return figure


def _front_in_plane(front: Front) -> Figure:
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    losses = np.array([point.losses for point in front.points])
    kept = np.array([not point.dominated for point in front.points])
    ranked = losses[kept][np.argsort(losses[kept][:, 0], kind="stable")]
    axes.plot(ranked[:, 0], ranked[:, 1], color=RIGHT, linewidth=1.6, alpha=0.6)
    axes.scatter(ranked[:, 0], ranked[:, 1], color=RIGHT, s=42, zorder=3, label="on the front")
    if not kept.all():
        axes.scatter(losses[~kept][:, 0], losses[~kept][:, 1], color=MUTED, s=30, alpha=0.6, label="dominated")
    x, y = losses[front.chosen]
    axes.scatter([x], [y], color=WRONG, s=150, marker="*", zorder=4, label="chosen")
    for point, place in zip(front.points, losses, strict=True):
        axes.annotate(f"{point.preference[0]:.0%}", place, xytext=(6, 5), textcoords="offset points", fontsize=8,
                      color=MUTED if point.dominated else "#333333")
    for draw in (axes.axvline, axes.axhline):
        draw(front.reference, color=MUTED, linestyle="--", linewidth=1.0)
    axes.plot([], [], color=MUTED, linestyle="--", linewidth=1.0, label=f"uniform prediction, {front.reference:.2f}")
    one, other = front.objectives
    axes.set(xlabel=f"held-out loss a vote, {one}", ylabel=f"held-out loss a vote, {other}")
    axes.legend(frameon=False, fontsize=8, title=f"labels: preference for {one}", title_fontsize=8)
    _plain(axes)
    return figure


def _front_across(front: Front) -> Figure:
    figure = Figure(figsize=(max(6.4, 1.2 * len(front.objectives)), 5.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(front.objectives))
    for point in front.points:
        axes.plot(places, point.losses, color=MUTED if point.dominated else RIGHT, linewidth=1.2, marker="o",
                  markersize=3, alpha=0.35 if point.dominated else 0.6)
    axes.plot(places, front.points[front.chosen].losses, color=WRONG, linewidth=2.4, marker="o", label="chosen")
    axes.plot([], [], color=RIGHT, label="on the front")
    if any(point.dominated for point in front.points):
        axes.plot([], [], color=MUTED, alpha=0.5, label="dominated")
    axes.axhline(front.reference, color=MUTED, linestyle="--", linewidth=1.0,
                 label=f"uniform prediction, {front.reference:.2f}")
    names = [name if len(name) <= 18 else name[:15] + "…" for name in front.objectives]
    axes.set_xticks(places, labels=names, rotation=30, ha="right", fontsize=8, parse_math=False)
    axes.set(ylabel="held-out loss a vote")
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return figure
