"""Text and answer to risk: a trained version and its encoder, kept ready. Nothing of HTTP in here.

Whoever asks prepares its own items, in its own thread; one thread runs what several prepared in one pass.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from registry.envelope import Proof
from serving.refusal import Refusal
from serving.schema import Item
from training.embeddings import EmbeddingCache
from training.encoder import best_device
from training.model import RiskModel, load
from training.prepared import Prepared as Read
from training.prepared import Ready, ready
from training.source_process import SourceProcess
from training.sources import ABSTAIN, class_codes, classes_shown
from training.spec import SOURCES, EncoderSpec, digest

UNSIGNED = Proof()


@dataclass(frozen=True)
class Scored:
    """What a version says of one answer. Classes by name; `votes` are those of the sources that voted.

    risk: None exactly where there is no answer.
    """

    answer: str | None
    harmonizer_answer: str
    risk: float | None
    probabilities: dict[str, float]
    votes: dict[str, str]
    votes_used: bool


@dataclass(frozen=True)
class How:
    """How a version is to score. cache: of the vectors of its encoder; None: in memory alone.

    pack_tokens: of one pass; None: what suits the device. source_seconds: what a source may take for one text.
    """

    cache: Callable[[EncoderSpec], EmbeddingCache] | None = None
    pack_tokens: int | None = None
    source_seconds: float = 0.25


BY_DEFAULT = How()


@dataclass(frozen=True)
class Prepared:
    """Items checked against a version, with all votes, read into tokens.

    answers: (n,) with -1 for none. votes: (n, m) with -1 for abstain. failures: by source and reason
    (`training.source_process`), how many texts it could not vote on.
    """

    items: Sequence[Item]
    answers: np.ndarray
    votes: np.ndarray
    read: Read
    failures: Mapping[tuple[str, str], int]

    @property
    def tokens(self) -> int:
        """The work that they bring: tokens to be read by the device, and one for each item."""
        return self.read.work + len(self.items)

    def text_hashes(self) -> list[str]:
        """SHA-256 of each passage, with the encoder's name, in hex: the key of its vector in the embedding cache."""
        return [key.hex() for key in self.read.keys]


class Scorer:
    """A version that scores items. Safe to use from several threads."""

    def __init__(
        self, model: RiskModel, ready: Ready, version: str, *, name: str | None = None, device: str = "cpu",
        digest: str = "", proof: Proof = UNSIGNED, sources: SourceProcess | None = None,
    ):
        """`name`: of the registered model; by default the task's. sources: runs those that need only the text."""
        self.proof = proof
        self.model, self.version, self.device, self.digest = model, version, device, digest
        self.name = name or model.spec.name
        self.classes, self.entities = model.spec.classes, len(model.spec.columns.spans)
        self.sources = tuple(source.name for source in model.spec.sources)
        self._ready, self._process = ready, sources
        self._codes = class_codes(self.classes)
        self._places = {source: place for place, source in enumerate(self.sources)}
        self._turn = threading.Lock()

    @classmethod
    def from_folder(
        cls, folder: Path, version: str, device: str | None = None, *, name: str | None = None,
        proof: Proof = UNSIGNED, how: How = BY_DEFAULT,
    ) -> "Scorer":
        """Load a version's files and its encoder. Without a device: the GPU where there is one.

        proof: who vouches for the files; it is told, not checked here (`serving.opening` does).

        Raises:
            InputError: a file is missing or damaged, or another encoder is installed than the version needs.
        """
        device = device or best_device()
        model = load(folder, device)
        cache = how.cache(model.spec.encoder) if how.cache else None
        prepared = ready(model.harmonizer, model.spec.encoder, device, cache, how.pack_tokens)
        names = [function.name for function in model.functions]
        code = (folder / SOURCES).read_text(encoding="utf-8") if names else ""
        sources = SourceProcess(code, names, model.spec.classes, how.source_seconds)
        return cls(model, prepared, version, name=name, device=device, digest=digest(folder), proof=proof,
                   sources=sources)

    @property
    def precision(self) -> str:
        """Of the matrix products: `float32` or `bfloat16`."""
        return self._ready.runner.precision

    @property
    def pack_tokens(self) -> int:
        """How many tokens go through the network in one pass."""
        return self._ready.runner.pack_tokens

    def close(self) -> None:
        """End the process of the sources."""
        if self._process:
            self._process.close()

    def warm_up(self) -> None:
        """So that the first request need not wait for what is loaded or compiled on first use."""
        with self._turn:
            self._ready.warm_up()
        self.score([Item(text="warming up", answer=0, spans=((0, 7),) * self.entities)])

    def remember(self, parts: Sequence[Prepared]) -> None:
        """Keep the vectors of what was scored for later, if the cache keeps any on disk; not at once."""
        self._ready.remember([part.read for part in parts])

    def score(self, items: Sequence[Item]) -> list[Scored]:
        """`run` what is prepared, at once.

        Raises:
            Refusal: as `prepare` does.
        """
        return self.run([self.prepare(items)])[0]

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Check items, have the sources vote where no vote is given, and read the texts into tokens.

        Raises:
            Refusal: a class or a source that the version does not know, a wrong number of spans; names the item.
        """
        answers = np.array([self._code(item.answer, f"items.{i}.answer") for i, item in enumerate(items)], np.int16)
        votes, spans = self._votes(items), self._spans(items)
        texts = np.empty(len(items), dtype=object)
        texts[:] = [item.text for item in items]
        votes, failures = self._complete(texts, spans, votes)
        return Prepared(items, answers, votes, self._ready.prepare(texts, spans), failures)

    def run(self, parts: Sequence[Prepared]) -> list[list[Scored]]:
        """The scores of each part, all of them in one pass; there is at least one part."""
        beliefs = self.beliefs(parts)
        answers = np.concatenate([part.answers for part in parts])
        votes = np.concatenate([part.votes for part in parts])
        scores = self.model.judge(beliefs, answers, votes)
        risks, probabilities = scores.risk.tolist(), scores.probabilities.tolist()
        own, used = scores.harmonizer_answers.tolist(), scores.votes_used.tolist()
        scored = [
            Scored(
                answer=None if answer == ABSTAIN else self.classes[answer],
                harmonizer_answer=self.classes[own[i]],
                risk=None if answer == ABSTAIN else risks[i],
                probabilities=dict(zip(self.classes, probabilities[i], strict=True)),
                votes={self.sources[j]: self.classes[votes[i, j]] for j in np.flatnonzero(votes[i] != ABSTAIN)},
                votes_used=used[i],
            )
            for i, answer in enumerate(answers.tolist())
        ]
        ends = np.cumsum([len(part.items) for part in parts]).tolist()
        return [scored[end - len(part.items) : end] for part, end in zip(parts, ends, strict=True)]

    def beliefs(self, parts: Sequence[Prepared]) -> np.ndarray:
        """h(x) (n, K) of all parts, in their order; calls from several threads wait for each other."""
        with self._turn:
            return self._ready.beliefs([part.read for part in parts])

    def class_name(self, label: int | str | None, where: str) -> str:
        """The class that a name or an index means.

        Raises:
            Refusal: none.
        """
        code = self._code(label, where)
        if code == ABSTAIN:
            raise self._no_class(label, where, "")
        return self.classes[code]

    def _code(self, value: Any, where: str) -> int:
        code = self._codes.get(value)
        if code is None:
            raise self._no_class(value, where, ", or null")
        return code

    def _no_class(self, value: Any, where: str, none: str) -> Refusal:
        return Refusal("unknown_class", f"{str(value)[:60]!r} is no class. "
                       f"Expected {classes_shown(self.classes)}{none}", where)

    def _votes(self, items: Sequence[Item]) -> np.ndarray:
        votes = np.full((len(items), len(self.sources)), ABSTAIN, dtype=np.int16)
        for i, item in enumerate(items):
            for source, vote in item.votes.items():
                where = f"items.{i}.votes.{source[:80]}"
                if source not in self._places:
                    raise Refusal("unknown_source", f"the source is unknown to version {self.version} of "
                                  f"{self.name}, which knows {len(self.sources)}: see /version", where)
                votes[i, self._places[source]] = self._code(vote, where)
        return votes

    def _spans(self, items: Sequence[Item]) -> np.ndarray:
        for i, item in enumerate(items):
            if len(item.spans) != self.entities:
                raise Refusal("invalid_request", f"an item of this task has {self.entities} spans. "
                              f"Found {len(item.spans)}", f"items.{i}.spans")
        return np.array([item.spans for item in items], dtype=np.int64).reshape(len(items), self.entities, 2)

    def _complete(
        self, texts: np.ndarray, spans: np.ndarray, votes: np.ndarray
    ) -> tuple[np.ndarray, Mapping[tuple[str, str], int]]:
        """The votes with those that the sources give, where none was given; and where they failed."""
        if not self._process:
            return votes, {}
        found = self._process.votes(texts.tolist(), spans)
        places = [self._places[function.name] for function in self.model.functions]
        votes[:, places] = np.where(votes[:, places] == ABSTAIN, found.votes, votes[:, places])
        failures = {(source, reason): n for source, reasons in found.failures.items() for reason, n in reasons.items()}
        return votes, failures
