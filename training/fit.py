"""The training loop: fit a harmonizer to all sources at once, on unlabelled rows alone."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from training.aggregation import AGGREGATORS, descend, objective_table, objectives_of
from training.capacity import Budget, in_bf16
from training.encoder import best_device
from training.errors import InputError
from training.harmonizer import HARMONIZERS, make_harmonizer
from training.pareto import SCALARISERS, Scalariser, source_losses, vote_table
from training.task import ABSTAIN
from training.transformer import KIND as TRANSFORMER

CHUNK = 65_536


@dataclass(frozen=True)
class FitConfig:
    """How to train. The defaults are one configuration for all tasks.

    scalariser: how the sources' losses become one step: one of the SCALARISERS, or of the AGGREGATORS (`mgda`,
    `upgrad`), which keep the families of sources apart as objectives. device: by default a GPU where there is one,
    which trains in bfloat16 if it has it. A transformer takes its own from these (`training.textfit`).
    """

    harmonizer: str = "mlp"
    scalariser: str = "linear"
    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    patience: int = 4
    seed: int = 0
    device: str = field(default_factory=best_device)


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
    families: Sequence[str] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Fit:
    """Minimise the mean of G over the rows of `train`; keep the epoch that is best on `held_out`.

    An aggregator has no G to minimise: its steps are `training.aggregation.descend`, and the G reported and stopped
    by is that of `linear`, the sum of its objectives.

    Stops once the held-out G, an agreement with the sources that needs no gold label, has not fallen
    for `patience` epochs. The same seed gives the same weights, bit for bit, on one machine.
    weights: (m,) Pareto weights, aligned with the columns of the votes. families: (m,) names, for an aggregator's
    objectives; without them each source is of its own. tell: is given a line whenever a GPU runs out of memory; the
    rows stay in the processor's, and go there in batches.

    Raises:
        InputError: an unknown harmonizer or scalariser, weights that do not fit, or no vote to learn from.
    """
    check(config)
    scalariser = SCALARISERS.get(config.scalariser, SCALARISERS["linear"])
    kept = train.where_voted(weights)
    if not len(kept.votes):
        raise InputError("no source with a weight above 0 votes on any row to train on.")
    held_out = held_out.where_voted(weights)
    if not len(held_out.votes):
        held_out = kept  # the held-out rows have nothing to agree with
    inputs, table = _tensors(kept, weights, classes, scalariser)
    held_inputs, held_table = _tensors(held_out, weights, classes, scalariser)
    harmonizer = make_harmonizer(config.harmonizer, inputs.shape[1], classes, config.seed).to(config.device)
    parameters = list(harmonizer.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    aggregator = AGGREGATORS[config.scalariser]() if config.scalariser in AGGREGATORS else None
    objectives = _objectives(kept, weights, classes, families) if aggregator else table

    def descended(rows: Tensor, most: int) -> Tensor:
        """Leave the gradients of the mean of G over the rows, read at most so many at once; returns their log h."""
        optimiser.zero_grad()
        seen = []
        for part in rows.split(len(rows) if aggregator else most):
            with nullcontext() if config.device == "cpu" else in_bf16(config.device):
                log_h = harmonizer(inputs[part].to(config.device))
            targets = objectives[part].to(config.device)
            if aggregator:
                descend(targets, log_h, parameters, aggregator)
            else:
                (scalariser.combine(targets, -log_h).mean() * (len(part) / len(rows))).backward()
            seen.append(log_h.detach().cpu())
        return torch.cat(seen)

    @torch.inference_mode()
    def looked(most: int) -> Tensor:
        return torch.cat([harmonizer(chunk.to(config.device)).cpu() for chunk in held_inputs.split(most)])

    budget = Budget(CHUNK, tell, least=1, unit="rows")
    order = torch.Generator().manual_seed(config.seed)
    epochs: list[Epoch] = []
    best, best_weights = 0, _copy(harmonizer)
    met = torch.empty_like(table)  # log h of each row, as this epoch's step met it
    for number in range(1, config.epochs + 1):
        harmonizer.train()
        for rows in torch.randperm(len(table), generator=order).split(config.batch_size):
            met[rows] = budget.run(partial(descended, rows))
            optimiser.step()
        harmonizer.eval()
        held = budget.run(looked)
        epochs.append(Epoch(
            number, float(scalariser.combine(table, -met).mean()), float(scalariser.combine(held_table, -held).mean()),
            source_losses(kept.votes, met.numpy()), source_losses(held_out.votes, held.numpy())))
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
        InputError: an unknown harmonizer or scalariser, or two that do not go together.
    """
    for what, name, known in (("harmonizer", config.harmonizer, [*HARMONIZERS, TRANSFORMER]),
                              ("scalariser", config.scalariser, [*SCALARISERS, *AGGREGATORS])):
        if name not in known:
            raise InputError(f"{what} '{name}' is unknown. Expected one of {', '.join(known)}.")
    if config.harmonizer == TRANSFORMER and config.scalariser in AGGREGATORS:
        raise InputError(f"a transformer has too many weights for '{config.scalariser}', which needs a gradient an "
                         f"objective. Expected one of {', '.join(SCALARISERS)}.")


def _tensors(rows: Voted, weights: np.ndarray, classes: int, scalariser: Scalariser) -> tuple[Tensor, Tensor]:
    table = vote_table(rows.votes, weights, classes, scalariser.gather)
    return torch.from_numpy(rows.vectors), torch.from_numpy(table)


def _objectives(rows: Voted, weights: np.ndarray, classes: int, families: Sequence[str] | None) -> Tensor:
    kinds = objectives_of(families if families is not None else [str(source) for source in range(len(weights))])
    return torch.from_numpy(objective_table(rows.votes, weights, classes, kinds))


def _copy(harmonizer: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in harmonizer.state_dict().items()}
