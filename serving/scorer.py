"""Text and answer to risk: a trained version and its encoder, kept ready. Nothing of HTTP in here."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from registry.envelope import Proof
from serving.refusal import Refusal
from serving.schema import Item
from training.beliefs import Encode, encoder_for
from training.encoder import best_device
from training.errors import InputError
from training.model import RiskModel, digest, load
from training.sources import ABSTAIN, class_codes, classes_shown

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


class Scorer:
    """A version that scores items, one call at a time: calls from several threads wait for each other."""

    def __init__(
        self, model: RiskModel, encode: Encode, version: str, *,
        name: str | None = None, device: str = "cpu", digest: str = "",
        proof: Proof = UNSIGNED,
    ):
        """`name` is that of the registered model, by default the task's."""
        self.proof = proof
        self.model, self.version, self.device, self.digest = model, version, device, digest
        self.name = name or model.spec.name
        self.classes, self.entities = model.spec.classes, len(model.spec.columns.spans)
        self.sources = tuple(source.name for source in model.spec.sources)
        self._encode = encode
        self._codes = class_codes(self.classes)
        self._places = {source: place for place, source in enumerate(self.sources)}
        self._turn = threading.Lock()  # a tokenizer serves one thread at a time

    @classmethod
    def from_folder(
        cls, folder: Path, version: str, device: str | None = None, *, name: str | None = None,
        proof: Proof = UNSIGNED,
    ) -> "Scorer":
        """Load a version's files and its encoder. Without a device: the GPU where there is one.

        proof: who vouches for the files; it is told, not checked here (`serving.opening` does).

        Raises:
            InputError: a file is missing or damaged, or another encoder is installed than the version needs.
        """
        device = device or best_device()
        model = load(folder, device)
        encode = encoder_for(model.harmonizer, model.spec.encoder, device)
        return cls(model, encode, version, name=name, device=device, digest=digest(folder), proof=proof)

    def warm_up(self) -> None:
        """Score one item, so that the first request need not wait for what is loaded on first use."""
        self.score([Item(text="warming up", answer=0, spans=((0, 7),) * self.entities)])

    def score(self, items: Sequence[Item]) -> list[Scored]:
        """Score answers, all in one batch.

        Raises:
            Refusal: a class or a source that the version does not know, a wrong number of spans; names the item.
        """
        answers = np.array([self._code(item.answer, f"items.{i}.answer") for i, item in enumerate(items)], np.int16)
        votes, spans = self._votes(items), self._spans(items)
        texts = np.empty(len(items), dtype=object)
        texts[:] = [item.text for item in items]
        with self._turn:
            votes = self._complete(texts, spans, votes)
            beliefs = self.model.beliefs(texts, spans, self._encode)
            scores = self.model.judge(beliefs, answers, votes)
        return [
            Scored(
                answer=None if answers[i] == ABSTAIN else self.classes[answers[i]],
                harmonizer_answer=self.classes[scores.harmonizer_answers[i]],
                risk=None if answers[i] == ABSTAIN else float(scores.risk[i]),
                probabilities=dict(zip(self.classes, scores.probabilities[i].tolist(), strict=True)),
                votes={self.sources[j]: self.classes[votes[i, j]] for j in np.flatnonzero(votes[i] != ABSTAIN)},
                votes_used=bool(scores.votes_used[i]),
            )
            for i in range(len(items))
        ]

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

    def _complete(self, texts: np.ndarray, spans: np.ndarray, votes: np.ndarray) -> np.ndarray:
        try:
            return self.model.complete_votes(texts, spans, votes)
        except InputError as error:  # a labelling function raised: the version's fault, not the client's
            raise Refusal("source_failed", str(error).rstrip("."), "items", status=500) from None
