"""A trained version: its files read and written, and how it scores answers.

`weights.safetensors` holds the harmonizer (`harmonizer.*`) and what votes are worth (`worth.*`).
`spec.json` says how to use them (`training.spec`).
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from training.beliefs import Encode, Harmonizer, beliefs_in, beliefs_of, network_of, restore
from training.encoder import best_device
from training.errors import InputError
from training.risk import recalibrated, risk, with_votes
from training.sources import ABSTAIN, LabellingFunction, apply_labelling_functions, load_labelling_functions
from training.spec import SOURCES, SPEC, WEIGHTS, Spec, load_spec
from training.task import Columns, Source
from training.transformer import TextHarmonizer
from training.worth import Worth


@dataclass(frozen=True)
class Scores:
    """What a version says of n answers.

    risk: (n,) NaN where there is no answer. probabilities: (n, K), the text, the LLM's answer and the votes
    considered. harmonizer_answers: (n,) what the harmonizer says by the text alone. votes_used: (n,) whether
    any source voted and so had a say.
    """

    risk: np.ndarray
    probabilities: np.ndarray
    harmonizer_answers: np.ndarray
    votes_used: np.ndarray


@dataclass(frozen=True)
class RiskModel:
    """A version, ready to score. Immutable, and safe to share between threads."""

    spec: Spec
    harmonizer: Harmonizer
    worth: Worth  # of the LLM and the m sources
    functions: tuple[LabellingFunction, ...] = ()  # of sources.py, those that need only the text

    def beliefs(self, texts: np.ndarray, spans: np.ndarray, encode: Encode) -> np.ndarray:
        """h(x) (n, K), by the texts (n,) and spans (n, entities, 2) alone; a transformer calls no `encode`."""
        return beliefs_of(self.harmonizer, texts, spans, encode)

    def score(self, vectors: np.ndarray, answers: np.ndarray, votes: np.ndarray) -> Scores:
        """`judge`, from vectors (n, width) that are at hand; not for a transformer, which reads texts."""
        if isinstance(self.harmonizer, TextHarmonizer):
            raise TypeError("a transformer reads texts, not vectors: `judge` its `beliefs`.")
        return self.judge(beliefs_in(self.harmonizer, vectors), answers, votes)

    def judge(self, beliefs: np.ndarray, answers: np.ndarray, votes: np.ndarray) -> Scores:
        """Score n answers: beliefs (n, K), answers (n,) with -1 for none, votes (n, m) with -1 for abstain."""
        probabilities = with_votes(beliefs, answers, votes, self.worth, self.spec.sharpness)
        probabilities = recalibrated(probabilities, answers, self.spec.recalibration)
        return Scores(risk(probabilities, answers), probabilities, beliefs.argmax(axis=1),
                      (votes != ABSTAIN).any(axis=1))

    def complete_votes(self, texts: np.ndarray, spans: np.ndarray, votes: np.ndarray) -> np.ndarray:
        """The votes (n, m), with those of the sources that need only the text filled in where none is given."""
        if not self.functions:
            return votes
        frame = pd.DataFrame({"text": texts})
        names = [f"span{entity}" for entity in range(spans.shape[1])]
        for entity, name in enumerate(names):
            frame[name] = pd.Series(list(map(tuple, spans[:, entity].tolist())), dtype=object)
        columns = Columns(path="-", spans=tuple(names))
        written = apply_labelling_functions(self.functions, frame, columns, self.spec.classes,
                                            np.arange(len(texts)).astype(str))
        places = [source.name for source in self.spec.sources]
        completed = votes.copy()
        for number, function in enumerate(self.functions):
            place = places.index(function.name)
            completed[:, place] = np.where(votes[:, place] == ABSTAIN, written[:, number], votes[:, place])
        return completed


def save(model: RiskModel, folder: Path, sources: Path | None = None) -> None:
    """Write a version's files into a folder; `sources` is the `sources.py` that travels with it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"harmonizer.{name}": tensor.cpu().contiguous()
               for name, tensor in network_of(model.harmonizer).state_dict().items()}
    tensors |= {f"worth.{name}": torch.from_numpy(np.ascontiguousarray(value, dtype=np.float64))
                for name, value in vars(model.worth).items()}
    save_file(tensors, folder / WEIGHTS)
    (folder / SPEC).write_text(json.dumps(model.spec.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    if sources:
        shutil.copyfile(sources, folder / SOURCES)


def load(folder: Path, device: str | None = None) -> RiskModel:
    """Read what `save` wrote: on one device, the same risks, bit for bit. Without a device: a GPU where there is one.

    Raises:
        InputError: a file is missing or damaged, of a newer format, or not the one the spec was written for.
    """
    spec = load_spec(folder / SPEC)
    try:
        tensors = load_file(folder / WEIGHTS)
        worth = Worth(**{name: tensors.pop(f"worth.{name}").numpy() for name in Worth.__annotations__})
    except (OSError, SafetensorError, KeyError):
        raise InputError(f"{folder / WEIGHTS} is missing or damaged.") from None
    harmonizer = restore(spec.harmonizer, spec.encoder, len(spec.columns.spans), len(spec.classes),
                         {name.removeprefix("harmonizer."): tensor for name, tensor in tensors.items()},
                         device or best_device())
    return RiskModel(spec, harmonizer, worth, _text_only(folder / SOURCES, spec.sources_digest))


def align_votes(votes: np.ndarray, found: Sequence[Source], wanted: Sequence[Source]) -> np.ndarray:
    """Reorder votes (n, found) into (n, wanted) by name; a source that was not found abstains.

    Raises:
        InputError: a source that the version does not know.
    """
    places = {source.name: place for place, source in enumerate(wanted)}
    for source in found:
        if source.name not in places:
            raise InputError(f"the source '{source.name}' is unknown to this version. "
                             f"It knows {len(wanted)} sources; retrain to add one.")
    aligned = np.full((len(votes), len(wanted)), ABSTAIN, dtype=np.int16)
    aligned[:, [places[source.name] for source in found]] = votes
    return aligned


def _text_only(path: Path, expected: str | None) -> tuple[LabellingFunction, ...]:
    if expected is None:
        return ()
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise InputError(f"{path} is not the file that this version was trained with. It will not be run.")
    return tuple(function for function in load_labelling_functions(path) if function.needs_only_text)
