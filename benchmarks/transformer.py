"""The fine-tuned transformer beside the embedding harmonizer (`mlp`): same votes, uniform Pareto weights, same seed.

Risk is 1 - h(x)[the LLM's answer], by the text alone; measured on the labelled answers of the test split.
Run: python benchmarks/transformer.py ../shared/bench/semeval ../shared/bench/chemprot ../shared/bench/cdr
It trains on a GPU, in bf16, where there is one. Embeddings are kept in the state folder (POLARSCORE_HOME).
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table as Grid

from training.calibration import Measures, measures
from training.capacity import has_bf16
from training.encoder import best_device, passages
from training.finetune import Check, FinetuneConfig, Passages, finetune
from training.fit import FitConfig, Voted, fit
from training.job import embeddings
from training.pareto import SCALARISERS, uniform_weights, vote_table
from training.risk import risk
from training.state import State
from training.table import Table, read_table
from training.task import ABSTAIN, read_task

SAID = Console(stderr=True)
Outcome = tuple[np.ndarray, float, str]  # log h of the rows tested on, seconds of training, and how far it went


def votes_of(table: Table) -> np.ndarray:
    """Of all sources, the LLM first: (n, 1 + m)."""
    return np.column_stack([table.answers, table.votes])


def with_mlp(rows: dict[str, Table], scalariser: str, seed: int) -> Outcome:
    """A small network on embeddings, as `training.fit` fits it."""
    encode = embeddings(State.from_environment())
    vectors = {split: encode(passages(table.texts, table.spans)) for split, table in rows.items()}
    start = time.perf_counter()
    train, valid = (Voted(vectors[split], votes_of(rows[split])) for split in ("train", "valid"))
    found = fit(train, valid, len(rows["train"].classes), uniform_weights(train.votes.shape[1]),
                FitConfig(harmonizer="mlp", scalariser=scalariser, seed=seed))
    seconds = time.perf_counter() - start
    with torch.inference_mode():
        log_h = found.harmonizer(torch.from_numpy(vectors["test"])).numpy()
    return log_h, seconds, f"{found.best} of {len(found.epochs)} epochs"


def with_transformer(rows: dict[str, Table], config: FinetuneConfig, soft: bool) -> Outcome:
    """The encoder fine-tuned; soft: on each row's shares of votes, which count every row the same."""
    start = time.perf_counter()

    def learnt_from(table: Table) -> Passages:
        votes = vote_table(votes_of(table), uniform_weights(1 + table.votes.shape[1]), len(table.classes),
                           "sum" if soft else SCALARISERS[config.scalariser].gather)
        shares = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1e-12)
        return Passages(table.texts, table.spans, shares if soft else votes)

    def told(check: Check) -> None:
        SAID.print(f"  step {check.steps}: G {check.loss:.5f}, held out {check.held_out_loss:.5f}, "
                   f"{time.perf_counter() - start:.0f} s")

    found = finetune(learnt_from(rows["train"]), learnt_from(rows["valid"]), config, told, SAID.print)
    seconds = time.perf_counter() - start
    found.harmonizer.network.to(config.device)
    log_h = found.harmonizer(rows["test"].texts, rows["test"].spans, config.token_budget)
    return log_h, seconds, f"{found.checks[found.best - 1].steps} of {found.checks[-1].steps} steps"


def measured(table: Table, log_h: np.ndarray) -> Measures:
    """Of the risk that log h (n, K) gives the answers of n labelled rows."""
    return measures(risk(np.exp(log_h), table.answers), (table.answers != table.labels).astype(float))


def main(
    tasks: list[Path],
    seeds: int = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = best_device(),
    threads: Annotated[int, typer.Option(help="Of the processor.")] = 2,
    scalariser: str = "linear",
    epochs: int = FinetuneConfig.epochs,
    max_steps: int = FinetuneConfig.max_steps,
    batch_size: int = FinetuneConfig.batch_size,
    token_budget: int = FinetuneConfig.token_budget,
    encoder_rate: float = FinetuneConfig.encoder_rate,
    memory: Annotated[float, typer.Option(help="Share of the GPU's memory, to see it do with less.")] = 1.0,
    soft: Annotated[bool, typer.Option(help="Also train on each row's shares of votes.")] = False,
) -> None:
    """Print the measures and the seconds of training of both, for each task and seed."""
    torch.set_num_threads(threads)
    if device.startswith("cuda"):
        torch.cuda.set_per_process_memory_fraction(memory)
    SAID.print(f"on {torch.cuda.get_device_name(device) if device.startswith('cuda') else f'{threads} threads'}, "
               f"{'bf16' if has_bf16(device) else 'float32'}")
    grid = Grid("task", "seed", "harmonizer", "AUROC", "ECE", "R²", "Brier", "training, s", "kept")
    for folder in tasks:
        table = read_table(read_task(folder))
        labelled = (table.splits != "test") | ((table.labels != ABSTAIN) & (table.answers != ABSTAIN))
        rows = {split: table.rows((table.splits == split) & labelled) for split in ("train", "valid", "test")}
        for seed in range(seeds):
            config = FinetuneConfig(scalariser, epochs, max_steps, batch_size, token_budget, encoder_rate, seed=seed,
                                    device=device)
            outcomes = {"mlp": with_mlp(rows, scalariser, seed), "transformer": with_transformer(rows, config, False)}
            if soft:
                outcomes["transformer, vote shares"] = with_transformer(rows, config, True)
            for name, (log_h, seconds, kept) in outcomes.items():
                found = measured(rows["test"], log_h)
                shown = ["-" if value is None else f"{value:.3f}"
                         for value in (found["auroc"], found["ece"], found["r2"], found["brier"])]
                grid.add_row(folder.name, str(seed), name, *shown, f"{seconds:.1f}", kept)
    Console(width=120).print(grid)


if __name__ == "__main__":
    typer.run(main)
