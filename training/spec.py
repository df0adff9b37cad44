"""What a version is, as files: weights in safetensors, a JSON spec that says how to use them, and `sources.py`.

Reading a spec takes no PyTorch. The encoder is named, not copied: it ships in a pinned package.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from training.asking import Ask
from training.audit_result import Guarantee, Recalibration
from training.errors import InputError
from training.task import Columns, Source, describe

FORMAT = 2
WEIGHTS, SPEC, SOURCES = "weights.safetensors", "spec.json", "sources.py"


@dataclass(frozen=True)
class EncoderSpec:
    """Which encoder, so that a version finds the same one again: a Python package, or a Hugging Face name."""

    name: str
    version: str
    width: int


class Spec(BaseModel):
    """What a version is, apart from its weights.

    columns: where the task's data kept what is scored, so that files of the same make can be scored.
    pareto_weights: by source, the LLM's under the name `LLM`, which no source may have.
    stored_sources: how many of the sources, the first ones, have their votes in the data; the others are
    labelling functions. sharpness: the power of the harmonizer's beliefs (`training.risk`). sources_digest: SHA-256 of
    `sources.py`, None where the version has none. recalibration, guarantee: what an audit left; the threshold is one
    of the recalibrated risk. ask: how the LLM is asked, for whoever asks it again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    name: str
    classes: tuple[str, ...]
    sources: tuple[Source, ...]
    stored_sources: int
    columns: Columns
    encoder: EncoderSpec
    harmonizer: str
    scalariser: str
    pareto_weights: dict[str, float]
    sharpness: float
    data_digest: str
    sources_digest: str | None = None
    recalibration: Recalibration = Recalibration()
    guarantee: Guarantee | None = None
    ask: Ask | None = None


def load_spec(path: Path) -> Spec:
    """What a version is, without its weights.

    Raises:
        InputError: the file is missing, damaged or of a newer format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"{path} is missing or damaged.") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise InputError(f"{path} has format {found}. This polarscore reads format {FORMAT}: train the version again.")
    try:
        return Spec(**content)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}.") from None


def digest(folder: Path) -> str:
    """SHA-256 over a version's files: equal for equal models."""
    total = hashlib.sha256()
    for name in (WEIGHTS, SPEC, SOURCES):
        if (folder / name).exists():
            total.update(hashlib.sha256((folder / name).read_bytes()).digest() + name.encode())
    return total.hexdigest()
