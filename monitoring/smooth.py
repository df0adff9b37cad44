"""Smooth calibration error: an ECE without bins, so without the jumps that bins bring, and with an interval. Pure.

smECE_σ = ∫ |E[w (r − e) K_σ(r, t)]| dt / E[w], K_σ being the Gaussian kernel of width σ reflected at 0 and 1. It falls
as σ grows; the smooth calibration error is its value where it equals σ, so that nobody chooses a width.
Source: Błasiok and Nakkiran, "Smooth ECE: Principled reliability diagrams via kernel smoothing", arXiv 2309.12236.

The residuals r − e are spread over a grid of equal cells once. In the cosine basis of the grid the reflected kernel
only scales each coefficient, by exp(−(πkσ)²/2): no sum over pairs, and a million rows cost what their binning costs.
"""

from dataclasses import dataclass

import numpy as np
from scipy.fft import dct, idct

CELLS = 2048
RESAMPLES = 200
STEPS = 16  # of the bisection: the width is known to 2^-16


@dataclass(frozen=True)
class SmoothError:
    """The error, at which it is also the kernel's width; and an interval of 95 % or so."""

    value: float
    low: float
    high: float


def smooth_ece(risk: np.ndarray, error: np.ndarray, weight: np.ndarray | None = None, cells: int = CELLS) -> float:
    """Smooth calibration error of n ≥ 1 rows: risk (n,) in [0, 1], error (n,) of 0 and 1, weight (n,) above 0."""
    return float(_fixed_points(_on_grid(risk, error, weight, cells)[None, :])[0])


def smooth_error(
    risk: np.ndarray, error: np.ndarray, weight: np.ndarray | None = None, seed: int = 0, cells: int = CELLS
) -> SmoothError:
    """Smooth calibration error with a bootstrap interval, of n ≥ 1 rows as for `smooth_ece`.

    Drawn anew are the counts of right and of wrong answers in each cell of the grid (Poisson, the limit of drawing
    rows), so that the time does not grow with the rows.

    What chance adds to absolute values makes the error of a finite sample too large in the mean, and the usual
    intervals miss that of true risks, 0. So low is the value less the noise's own smooth size, ∫ |noise * K| dt, of
    which the 97.5 % quantile is taken: by the triangle inequality the true error is not below it. high is the larger of
    the bootstrap's two usual ones, the resamples' 97.5 % quantile, and twice the value less their 2.5 % quantile.
    """
    whole = np.ones(len(risk)) if weight is None else weight
    place = _places(risk, cells)
    cell = np.clip(place.astype(np.int64), 0, cells - 2)
    kind = cell * 2 + (error > 0)
    held, code = np.unique(kind, return_inverse=True)
    n = np.bincount(code)
    share = place - cell  # what goes to the cell's right neighbour
    residual = whole * (risk - error) / whole.sum()
    left = np.bincount(code, residual * (1 - share)) / n
    right = np.bincount(code, residual * share) / n
    drawn = np.random.default_rng(seed).poisson(n, (RESAMPLES, len(held)))
    mass = np.bincount(code, whole) / n
    scale = whole.sum() / np.maximum(drawn @ mass, mass.min())
    grids = np.zeros((RESAMPLES + 1, cells))
    grids[0] = _on_grid(risk, error, weight, cells)
    for wrong in (0, 1):  # of one kind, no two are in the same cell
        kinds = np.flatnonzero(held % 2 == wrong)
        counts = drawn[:, kinds] * scale[:, None]
        grids[1:, held[kinds] // 2] += counts * left[kinds]
        grids[1:, held[kinds] // 2 + 1] += counts * right[kinds]
    found = _fixed_points(grids)
    value = float(found[0])
    noise = np.abs(_smoothed(dct(grids[1:] - grids[0], axis=1, norm="ortho"), np.full(RESAMPLES, value))).sum(axis=1)
    low = max(value - float(np.quantile(noise, 0.975)), 0.0)
    below, above = np.quantile(found[1:], [0.025, 0.975])
    return SmoothError(value, low, float(max(2 * value - below, above, value)))


def _on_grid(risk: np.ndarray, error: np.ndarray, weight: np.ndarray | None, cells: int) -> np.ndarray:
    """Mean residuals on the centres of equal cells, each row's shared by the two nearest. (cells,)"""
    whole = np.ones(len(risk)) if weight is None else weight
    place = _places(risk, cells)
    cell = np.clip(place.astype(np.int64), 0, cells - 2)
    share, residual = place - cell, whole * (risk - error) / whole.sum()
    return (np.bincount(cell, residual * (1 - share), cells)
            + np.bincount(cell + 1, residual * share, cells))


def _places(risk: np.ndarray, cells: int) -> np.ndarray:
    """Where risks lie between the centres, the first being 0; at the ends, on the outermost centre."""
    return np.clip(risk * cells - 0.5, 0, cells - 1)


def _fixed_points(grids: np.ndarray) -> np.ndarray:
    """Of each row of residuals (rows, cells), the width σ with smECE_σ = σ, by bisection. (rows,)"""
    waves = dct(grids, axis=1, norm="ortho")
    low, high = np.zeros(len(grids)), np.ones(len(grids))
    for _ in range(STEPS):
        middle = (low + high) / 2
        above = np.abs(_smoothed(waves, middle)).sum(axis=1) > middle
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return (low + high) / 2


def _smoothed(waves: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Residuals, given by their coefficients (rows, cells), smoothed by each row's own width (rows,)."""
    decay = np.exp(-((np.pi * np.arange(waves.shape[1]) * width[:, None]) ** 2) / 2)
    return idct(waves * decay, axis=1, norm="ortho")
