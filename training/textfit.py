"""`training.fit` for a transformer: the same votes, weights and reports, learned from texts instead of vectors."""

from collections.abc import Callable

import numpy as np

from training.finetune import Check, FinetuneConfig, Passages, finetune
from training.fit import Epoch, Fit, FitConfig
from training.pareto import SCALARISERS, source_losses, vote_table
from training.table import Table
from training.transformer import TextHarmonizer


def finetune_config(config: FitConfig) -> FinetuneConfig:
    """What a configuration means for a transformer, whose batches, decay and patience are its own.

    `epochs` bounds both the passes over the rows, 5 at most, and the looks at the held-out ones, 10 at most, each of
    which is reported as an epoch. `learning_rate` is that of the head, and ten times that of the encoder.
    """
    own = FinetuneConfig()
    return FinetuneConfig(
        scalariser=config.scalariser, epochs=min(config.epochs, own.epochs), checks=min(config.epochs, own.checks),
        encoder_rate=config.learning_rate / 10, head_rate=config.learning_rate, seed=config.seed, device=config.device)


def fit_texts(
    train: Table,
    held_out: Table,
    weights: np.ndarray,
    config: FitConfig,
    report: Callable[[Epoch], None] = lambda epoch: None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[TextHarmonizer, Fit]:
    """Fine-tune the default encoder on the rows of `train`, and keep what is best on `held_out`; on the CPU.

    The votes are those of the tables, the LLM's answers first. weights: (1 + m,). report: is given an epoch at each
    look at the held-out rows. tell: is given a line whenever a GPU runs out of memory. Uses no label.

    Raises:
        InputError: an unknown scalariser, no vote to learn from, a GPU without room for the network and one text.
    """
    gather = SCALARISERS[config.scalariser].gather
    votes, held_votes = (np.column_stack([rows.answers, rows.votes]) for rows in (train, held_out))
    learnt_from, looked_at = (
        Passages(rows.texts, rows.spans, vote_table(said, weights, len(rows.classes), gather))
        for rows, said in ((train, votes), (held_out, held_votes)))
    if not looked_at.table.any():
        held_votes = votes  # with nothing to agree with there, the rows trained on are looked at
    epochs: list[Epoch] = []

    def on_check(check: Check) -> None:
        epochs.append(Epoch(
            check.number, check.loss, check.held_out_loss, source_losses(votes[check.met.rows], check.met.log_h),
            source_losses(held_votes[check.held_out.rows], check.held_out.log_h)))
        report(epochs[-1])

    done = finetune(learnt_from, looked_at, finetune_config(config), on_check, tell)
    return done.harmonizer, Fit(done.harmonizer.network, epochs, done.best)
