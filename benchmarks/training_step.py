"""Training throughput: one number a row and class, against a loop over rows and sources. Same loss, same steps.

Run: python benchmarks/training_step.py
"""

import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import nll_loss

from training.fit import FitConfig, Voted, fit
from training.harmonizer import make_harmonizer
from training.pareto import SCALARISERS, uniform_weights, vote_table

WIDTH, CLASSES, BATCH = 384, 4, 128
ROWS, LOOPED_ROWS, EPOCHS, REPEATS = 16_384, 512, 2, 3
COMBINE = {
    "linear": lambda losses: losses.sum(),
    "quadratic": lambda losses: losses.sum() ** 2,
    "euclidean": lambda losses: losses.square().sum().sqrt(),
    "chebyshev": lambda losses: losses.max(),
}


def make_rows(sources: int, coverage: float) -> Voted:
    """Random vectors and votes; each source votes on this share of the rows."""
    generator = np.random.default_rng(0)
    votes = generator.integers(0, CLASSES, (ROWS, sources))
    votes[generator.random((ROWS, sources)) >= coverage] = -1
    return Voted(generator.standard_normal((ROWS, WIDTH), dtype=np.float32), votes)


def looped_loss(log_h: torch.Tensor, votes: np.ndarray, weights: np.ndarray, scalariser: str) -> torch.Tensor:
    """Mean of G over rows; each source's loss on each row is computed on its own."""
    rows = []
    for row, said in enumerate(votes):
        losses = [weights[j] * nll_loss(log_h[row : row + 1], torch.tensor([vote]))
                  for j, vote in enumerate(said) if vote != -1]
        if losses:
            rows.append(COMBINE[scalariser](torch.stack(losses)))
    return torch.stack(rows).sum() / len(votes)


def loop(data: Voted, scalariser: str) -> float:
    """Examples a second of an epoch over the first rows, in a loop over rows and sources."""
    weights = uniform_weights(data.votes.shape[1])
    harmonizer = make_harmonizer("mlp", WIDTH, CLASSES, seed=0)
    optimiser = torch.optim.AdamW(harmonizer.parameters(), lr=1e-3, fused=True)
    start = time.perf_counter()
    for batch in np.arange(LOOPED_ROWS).reshape(-1, BATCH):
        loss = looped_loss(harmonizer(torch.from_numpy(data.vectors[batch])), data.votes[batch], weights, scalariser)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return LOOPED_ROWS / (time.perf_counter() - start)


def ours(data: Voted, scalariser: str) -> float:
    """Examples a second of `training.fit.fit` as it is: the vote table and each epoch's evaluation included."""
    weights, held_out = uniform_weights(data.votes.shape[1]), Voted(data.vectors[:BATCH], data.votes[:BATCH])
    config = FitConfig(scalariser=scalariser, epochs=EPOCHS, batch_size=BATCH, patience=EPOCHS)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        fit(data, held_out, CLASSES, weights, config)
        times.append(time.perf_counter() - start)
    return ROWS * EPOCHS / min(times)


@torch.inference_mode()
def difference(data: Voted, scalariser: str) -> float:
    """How far the two losses of one batch lie apart, relative to the loss."""
    weights = uniform_weights(data.votes.shape[1])
    log_h = make_harmonizer("mlp", WIDTH, CLASSES, seed=0)(torch.from_numpy(data.vectors[:BATCH]))
    table = vote_table(data.votes[:BATCH], weights, CLASSES, SCALARISERS[scalariser].gather)
    one = looped_loss(log_h, data.votes[:BATCH], weights, scalariser)
    other = SCALARISERS[scalariser].combine(torch.from_numpy(table), -log_h).mean()
    return float((one - other).abs() / one)


def main() -> None:
    """Print examples a second of both, and their ratio."""
    torch.set_num_threads(1)  # such small steps gain nothing from a second one, and both sides get the same
    grid = Table("scalariser", "sources", "coverage", "loop, rows/s", "fit, rows/s", "ratio", "losses differ by")
    settings = [*((name, 33, 1.0) for name in SCALARISERS), ("linear", 33, 1 / 3), ("linear", 10, 1.0),
                ("linear", 200, 1.0)]
    for scalariser, sources, coverage in settings:
        data = make_rows(sources, coverage)
        slow, fast = loop(data, scalariser), ours(data, scalariser)
        grid.add_row(scalariser, str(sources), f"{coverage:.0%}", f"{slow:,.0f}", f"{fast:,.0f}", f"{fast / slow:,.0f}",
                     f"{difference(data, scalariser):.0e}")
    Console(width=100).print(grid)


if __name__ == "__main__":
    main()
