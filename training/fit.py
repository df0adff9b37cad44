"""The training loop: fit a harmonizer to all sources at once, on unlabelled rows alone."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from training.errors import InputError
from training.harmonizer import HARMONIZERS, make_harmonizer
from training.pareto import SCALARISERS, Scalariser, source_losses, vote_table
from training.task import ABSTAIN


@dataclass(frozen=True)
class FitConfig:
    """How to train. The defaults are one configuration for all tasks."""

    harmonizer: str = "mlp"
    scalariser: str = "linear"
    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    patience: int = 4
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Epoch:
    """One epoch's figures: G and every source's loss, averaged over the rows with a vote, in training and held out.

    Those of the rows trained on are as the steps met them, while the weights moved.
    """

    number: int
    loss: float
    held_out_loss: float
    source_losses: np.ndarray
    held_out_source_losses: np.ndarray


@dataclass(frozen=True)
class Fit:
    """A trained harmonizer (of its best epoch) and how it came about."""

    harmonizer: nn.Module
    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0


@dataclass(frozen=True)
class Voted:
    """Rows to learn from: vectors (n, width) and votes (n, m) of all sources, the LLM first. No label."""

    vectors: np.ndarray
    votes: np.ndarray

    def where_voted(self, weights: np.ndarray) -> "Voted":
        """The rows on which a source with a weight above 0 votes; the others have no loss."""
        rows = (self.votes[:, weights > 0] != ABSTAIN).any(axis=1)
        return self if rows.all() else Voted(self.vectors[rows], self.votes[rows])


def fit(
    train: Voted,
    held_out: Voted,
    classes: int,
    weights: np.ndarray,
    config: FitConfig,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> Fit:
    """Minimise the mean of G over the rows of `train`; keep the epoch that is best on `held_out`.

    Stops once the held-out G, an agreement with the sources that needs no gold label, has not fallen
    for `patience` epochs. The same seed gives the same weights, bit for bit, on one machine.
    weights: (m,) Pareto weights, aligned with the columns of the votes.

    Raises:
        InputError: an unknown harmonizer or scalariser, weights that do not fit, or no vote to learn from.
    """
    check(config)
    scalariser = SCALARISERS[config.scalariser]
    kept = train.where_voted(weights)
    if not len(kept.votes):
        raise InputError("no source with a weight above 0 votes on any row to train on.")
    held_out = held_out.where_voted(weights)
    if not len(held_out.votes):
        held_out = kept  # the held-out rows have nothing to agree with
    inputs, table = _tensors(kept, weights, classes, scalariser, config.device)
    held_inputs, held_table = _tensors(held_out, weights, classes, scalariser, config.device)
    harmonizer = make_harmonizer(config.harmonizer, inputs.shape[1], classes, config.seed).to(config.device)
    optimiser = torch.optim.AdamW(harmonizer.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay,
                                  fused=True)
    order = torch.Generator().manual_seed(config.seed)
    epochs: list[Epoch] = []
    best, best_weights = 0, _copy(harmonizer)
    met = torch.empty_like(table)  # log h of each row, as this epoch's step met it
    for number in range(1, config.epochs + 1):
        harmonizer.train()
        for rows in torch.randperm(len(table), generator=order).split(config.batch_size):
            log_h = harmonizer(inputs[rows])
            met[rows] = log_h.detach()
            optimiser.zero_grad()
            scalariser.combine(table[rows], -log_h).mean().backward()
            optimiser.step()
        harmonizer.eval()
        with torch.inference_mode():
            held = torch.cat([harmonizer(chunk) for chunk in held_inputs.split(65536)])
        epochs.append(Epoch(
            number, float(scalariser.combine(table, -met).mean()), float(scalariser.combine(held_table, -held).mean()),
            source_losses(kept.votes, met.cpu().numpy()), source_losses(held_out.votes, held.cpu().numpy())))
        report(epochs[-1])
        if number == 1 or epochs[-1].held_out_loss < epochs[best].held_out_loss:
            best, best_weights = number - 1, _copy(harmonizer)
        elif number - 1 - best >= config.patience:
            break
    harmonizer.load_state_dict(best_weights)
    return Fit(harmonizer.eval().cpu(), epochs, best + 1)


def check(config: FitConfig) -> None:
    """Refuse a configuration that cannot be trained.

    Raises:
        InputError: an unknown harmonizer or scalariser.
    """
    for what, name, known in (("harmonizer", config.harmonizer, HARMONIZERS),
                              ("scalariser", config.scalariser, SCALARISERS)):
        if name not in known:
            raise InputError(f"{what} '{name}' is unknown. Expected one of {', '.join(known)}.")


def _tensors(
    rows: Voted, weights: np.ndarray, classes: int, scalariser: Scalariser, device: str
) -> tuple[Tensor, Tensor]:
    table = vote_table(rows.votes, weights, classes, scalariser.gather)
    return torch.from_numpy(rows.vectors).to(device), torch.from_numpy(table).to(device)


def _copy(harmonizer: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in harmonizer.state_dict().items()}
