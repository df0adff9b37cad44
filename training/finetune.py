"""Fine-tune a transformer harmonizer end to end, on unlabelled rows alone.

The loss is that of `training.fit`: a scalariser's G over a table (n, K) of what the votes, or soft beliefs, leave.
A step's rows are read in parts of at most a budget of tokens whose gradients add up, so a GPU that runs out of
memory gets smaller parts and the step remains the same.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from training.capacity import Budget, in_bf16
from training.errors import InputError
from training.packing import padded
from training.pareto import SCALARISERS
from training.transformer import TextHarmonizer, make_transformer

Combine = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FinetuneConfig:
    """How to fine-tune. The defaults are one configuration for all tasks.

    max_steps: ends training, however long `epochs` would take. checks: how often, evenly, the held-out rows are
    looked at; patience counts those. held_out_rows: at most so many of them, drawn by the seed.
    warm_up: share of the steps in which the rates rise; then they fall to 0, both linearly.
    """

    scalariser: str = "linear"
    epochs: int = 5
    max_steps: int = 400
    batch_size: int = 32
    token_budget: int = 16_384
    encoder_rate: float = 1e-4
    head_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: float = 0.1
    clip: float = 1.0
    checks: int = 10
    patience: int = 3
    held_out_rows: int = 2048
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Passages:
    """Rows to learn from: texts (n,), spans (n, entities, 2) and the table (n, K), at least 0; a row of 0 is no loss.

    The table is a `vote_table` by the scalariser's `gather`, or each class's belief in a row.
    """

    texts: np.ndarray
    spans: np.ndarray
    table: np.ndarray

    def pick(self, rows: np.ndarray) -> "Passages":
        """The rows of these indices."""
        return Passages(self.texts[rows], self.spans[rows], self.table[rows])

    def voted(self) -> np.ndarray:
        """The indices of the rows that have a loss."""
        if not (np.isfinite(self.table) & (self.table >= 0)).all():
            raise ValueError("a table of votes or beliefs should hold finite numbers, none below 0.")
        return np.flatnonzero(self.table.any(axis=1))


@dataclass(frozen=True)
class Seen:
    """Rows (indices into those given) and the log h (rows, K) found there, for the losses of single sources."""

    rows: np.ndarray
    log_h: np.ndarray


@dataclass(frozen=True)
class Check:
    """A look at the held-out rows: steps done, and the mean of G since the last look, and held out."""

    number: int
    steps: int
    loss: float
    held_out_loss: float
    met: Seen
    held_out: Seen


@dataclass(frozen=True)
class Finetuned:
    """A transformer as it was at its best check, on the CPU, and how it came about."""

    harmonizer: TextHarmonizer
    checks: list[Check] = field(default_factory=list)
    best: int = 0


def finetune(
    train: Passages,
    held_out: Passages,
    config: FinetuneConfig,
    report: Callable[[Check], None] = lambda check: None,
    tell: Callable[[str], None] = lambda line: None,
    start: TextHarmonizer | None = None,
) -> Finetuned:
    """Minimise the mean of G over the rows of `train`; keep the check that is best on `held_out`.

    Stops once the held-out G has not fallen for `patience` checks. The same seed gives the same weights, bit for
    bit, on one CPU with as many threads; a GPU may add up in another order.
    tell: is given a line whenever the batches become smaller. start: what to train, in place; the default encoder
    with a fresh head unless given.

    Raises:
        InputError: an unknown scalariser, no vote to learn from, a GPU without room for the network and one text.
    """
    if config.scalariser not in SCALARISERS:
        raise InputError(f"scalariser '{config.scalariser}' is unknown. Expected one of {', '.join(SCALARISERS)}.")
    rows, held_rows = train.voted(), held_out.voted()
    if not len(rows):
        raise InputError("no source with a weight above 0 votes on any row to train on.")
    if not len(held_rows):
        held_out, held_rows = train, rows  # the held-out rows have nothing to agree with
    if len(held_rows) > config.held_out_rows:
        draw = np.random.default_rng(config.seed)
        held_rows = np.sort(draw.choice(held_rows, config.held_out_rows, replace=False))
    harmonizer = start or make_transformer(train.spans.shape[1], train.table.shape[1], config.seed)
    gpus = [torch.cuda.current_device()] if config.device.startswith("cuda") else []
    try:
        harmonizer.network.to(config.device)
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(config.seed)  # dropout draws from the global generators
            return _descend(harmonizer, train, rows, held_out, held_rows, config, report,
                            Budget(config.token_budget, tell))
    except torch.cuda.OutOfMemoryError:
        raise InputError("the GPU's memory has no room for the network itself. Free some, or hide the GPU by "
                         "CUDA_VISIBLE_DEVICES= to use the CPU.") from None
    finally:
        harmonizer.network.eval().cpu()


def _descend(
    harmonizer: TextHarmonizer,
    train: Passages,
    kept: np.ndarray,
    held_out: Passages,
    held_rows: np.ndarray,
    config: FinetuneConfig,
    report: Callable[[Check], None],
    budget: Budget,
) -> Finetuned:
    network, combine = harmonizer.network, SCALARISERS[config.scalariser].combine
    classes = train.table.shape[1]
    guess = np.full((len(kept), classes), -math.log(classes), dtype=np.float32)
    scale = _mean(combine, train.table[kept], guess)  # what a guess loses: clipping then knows no weights' scale
    held_out = held_out.pick(held_rows)
    optimiser = torch.optim.AdamW([{"params": network.encoder.parameters(), "lr": config.encoder_rate},
                                   {"params": network.out.parameters(), "lr": config.head_rate}],
                                  weight_decay=config.weight_decay, fused=True)
    steps = min(config.max_steps, config.epochs * math.ceil(len(kept) / config.batch_size))
    due = {math.ceil(steps * number / config.checks) for number in range(1, config.checks + 1)}
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / (config.warm_up * steps + 1), (steps - step) / steps))
    checks: list[Check] = []
    best, best_weights = 0, _copy(network)
    met: list[tuple[np.ndarray, np.ndarray]] = []
    batches = _batches(train.texts, kept, config.batch_size, config.seed)
    for step in range(1, steps + 1):
        rows = next(batches)
        network.train()
        log_h = budget.run(partial(gradients, harmonizer, train.pick(rows), combine, scale))
        met.append((rows, log_h))
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimiser.step()
        schedule.step()
        if step not in due:
            continue
        seen = Seen(*map(np.concatenate, zip(*met, strict=True)))
        held = Seen(held_rows, budget.run(partial(harmonizer, held_out.texts, held_out.spans)))
        checks.append(Check(len(checks) + 1, step, _mean(combine, train.table[seen.rows], seen.log_h),
                            _mean(combine, held_out.table, held.log_h), seen, held))
        report(checks[-1])
        met = []
        if len(checks) == 1 or checks[-1].held_out_loss < checks[best].held_out_loss:
            best, best_weights = len(checks) - 1, _copy(network)
        elif len(checks) - 1 - best >= config.patience:
            break
    network.load_state_dict(best_weights)
    return Finetuned(harmonizer, checks, best + 1)


def gradients(harmonizer: TextHarmonizer, rows: Passages, combine: Combine, scale: float, tokens: int) -> np.ndarray:
    """Leave the gradients of the mean of G / scale over the rows, and nothing else; returns the log h (rows, K) met.

    tokens: at most so many at once; the gradients are the same however few.
    """
    network, device = harmonizer.network, harmonizer.network.out.weight.device
    network.zero_grad(set_to_none=True)
    read = harmonizer.reader(rows.texts, rows.spans)
    met = np.empty(rows.table.shape, dtype=np.float32)
    for part in padded(read.lengths, tokens):
        with in_bf16(device.type):
            log_h = network(read.batch(part, str(device)))
        table = torch.from_numpy(rows.table[part]).float().to(device)
        (combine(table, -log_h).sum() / (len(met) * scale)).backward()
        met[part] = log_h.detach().cpu().numpy()
    return met


def _batches(texts: np.ndarray, rows: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless epochs of batches of these rows, each of texts of similar lengths, in random order."""
    random = np.random.default_rng(seed)
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    while True:
        order = random.permutation(rows)
        for start in range(0, len(order), 32 * size):
            pool = order[start : start + 32 * size]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches = [pool[at : at + size] for at in range(0, len(pool), size)]
            yield from (batches[place] for place in random.permutation(len(batches)))


def _mean(combine: Combine, table: np.ndarray, log_h: np.ndarray) -> float:
    return float(combine(torch.from_numpy(table), -torch.from_numpy(log_h)).mean())


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
