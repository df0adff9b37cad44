"""The reliability plot of the review page: what the risks say against what people found. Pure.

Only labels count whose choice is known: each weighs 1/probability, as the answer stands for so many of all. In a bin of
risks, the observed error rate is Σ w e / Σ w, and its interval Wilson's, at 95 %, for (Σ w)² / Σ w² answers.
"""

from dataclasses import dataclass
from html import escape

import numpy as np

BINS = 10  # of equal width, as `training.calibration` has them, which the running service does without
Z = 1.96
SIDE, LEFT, TOP, RIGHT, BOTTOM = 232, 54, 10, 10, 40

PLOT_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#49515e}.grid{stroke:#d8dce3}.ideal{stroke:#6b7482;stroke-dasharray:4 4}"
    ".bar{stroke:#1f5fbf;stroke-width:2}.dot{fill:#1f5fbf;stroke:#fff;stroke-width:1.5}"
    "@media(prefers-color-scheme:dark){text{fill:#b3bac6}.grid{stroke:#343b47}.ideal{stroke:#98a1af}"
    ".bar{stroke:#8ab4f8}.dot{fill:#8ab4f8;stroke:#1b1f26}}"
)


@dataclass(frozen=True)
class Bin:
    """Checked answers with risks from low to high. error, least, most: the observed error rate and its interval."""

    low: float
    high: float
    n: int
    risk: float
    error: float
    least: float
    most: float


def bins(risk: np.ndarray, error: np.ndarray, probability: np.ndarray) -> tuple[Bin, ...]:
    """Ten of equal width, those that hold a row; rows (n,) whose error or probability is NaN left out."""
    known = ~(np.isnan(risk) | np.isnan(error) | np.isnan(probability))
    risk, error, weight = risk[known], error[known], 1 / probability[known]
    place = np.minimum((risk * BINS).astype(np.int64), BINS - 1)
    n, total = np.bincount(place, minlength=BINS), np.bincount(place, weight, BINS)
    held = np.flatnonzero(n)
    rate = np.bincount(place, weight * error, BINS)[held] / total[held]
    mean = np.bincount(place, weight * risk, BINS)[held] / total[held]
    count = total[held] ** 2 / np.bincount(place, weight**2, BINS)[held]
    middle = (rate + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(rate * (1 - rate) / count + Z**2 / (4 * count**2))
    least, most = np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)
    return tuple(
        Bin(int(place) / BINS, (int(place) + 1) / BINS, *values)
        for place, *values in zip(held, n[held].tolist(), mean.tolist(), rate.tolist(), least.tolist(),
                                  most.tolist(), strict=True))


def svg(found: tuple[Bin, ...], title: str) -> str:
    """The plot, with its title for who cannot see it."""
    width, height = LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM

    def x(value: float) -> str:
        return f"{LEFT + SIDE * value:.1f}"

    def y(value: float) -> str:
        return f"{TOP + SIDE * (1 - value):.1f}"

    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
    largest = max((each.n for each in found), default=1)
    lines = [f'<line class="grid" x1="{x(t)}" x2="{x(t)}" y1="{y(0)}" y2="{y(1)}"/>'
             f'<line class="grid" x1="{x(0)}" x2="{x(1)}" y1="{y(t)}" y2="{y(t)}"/>'
             f'<text x="{x(t)}" y="{TOP + SIDE + 15}" text-anchor="middle">{t:g}</text>'
             f'<text x="{LEFT - 6}" y="{TOP + SIDE * (1 - t) + 4:.1f}" text-anchor="end">{t:g}</text>' for t in ticks]
    lines.append(f'<line class="ideal" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    for each in found:
        radius = 3 + 3.5 * (each.n / largest) ** 0.5
        lines.append(f'<line class="bar" x1="{x(each.risk)}" x2="{x(each.risk)}" y1="{y(each.least)}" '
                     f'y2="{y(each.most)}"/><circle class="dot" cx="{x(each.risk)}" cy="{y(each.error)}" '
                     f'r="{radius:.1f}"/>')
    if not found:
        lines.append(f'<text x="{x(0.64)}" y="{y(0.1)}" text-anchor="middle">nothing to show yet</text>')
    middle = TOP + SIDE / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img"><title>{escape(title)}</title><style>{PLOT_STYLE}</style>{"".join(lines)}'
        f'<text x="{x(0.5)}" y="{height - 6}" text-anchor="middle">risk</text>'
        f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">share that was wrong</text></svg>'
    )
