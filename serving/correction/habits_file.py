"""What being asked again does to an LLM's answers, as a file: `polarscore correct` writes it, the service reads it.

A JSON object, by names, so that it means the same to a version that has the classes in another order:

    {"way": "explain", "kept": 0.9, "mended": 0.5, "stubborn": 0.3, "shares": {"ham": 0.4, "spam": 0.6},
     "asked": 812, "margin": 2.0, "model": "spam", "version": "3", "llm": "smollm2"}
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.correction.habits import Habits
from training.errors import InputError
from training.task import describe

OFF = 0.01  # by how much shares may miss the sum of 1, as rounded ones do
MOST = 10_000_000  # bytes of a file

Way = Literal["reask", "explain", "similar"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
OfClass = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    way: Way
    kept: Share
    mended: Share
    stubborn: Share
    shares: Annotated[Mapping[str, OfClass], Field(min_length=2)]
    asked: Annotated[int, Field(ge=0)]
    margin: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    model: str
    version: str
    llm: str = ""

    @model_validator(mode="after")
    def _sums_are_right(self) -> "_File":
        wrong, two = self.mended + self.stubborn, len(self.shares) == 2
        if wrong > 1 + OFF or (two and wrong < 1 - OFF):
            raise ValueError("mended and stubborn are shares of the same wrong answers, and should sum to "
                             f"{'1, as there are two classes' if two else '1 at most'}. Found {wrong:.3g}")
        if abs(sum(self.shares.values()) - 1) > OFF:
            raise ValueError(f"the shares should sum to 1. Found {sum(self.shares.values()):.3g}")
        return self


@dataclass(frozen=True)
class Learned:
    """Habits with what they were learned of. way: how the LLM was asked again. classes: in the order of the shares.

    margin: how much more probable a new answer has to be to take the place of the first (`habits.kept`).
    model, version: whose risks they were learned by; the version by its number, empty where it was never registered.
    llm: the name of the model at the endpoint that was asked; empty where nobody was, or nobody knows.
    """

    way: Way
    habits: Habits
    classes: tuple[str, ...]
    margin: float
    model: str
    version: str
    llm: str = ""

    def of(self, classes: Sequence[str]) -> Habits:
        """The habits for a version, its classes in its order.

        Raises:
            InputError: it has other classes.
        """
        if set(classes) != set(self.classes):
            raise InputError(f"the habits were learned for the classes {_shown(self.classes)}. "
                             f"This version has {_shown(classes)}: learn them again, by polarscore correct --habits.")
        places = [self.classes.index(name) for name in classes]
        found = self.habits
        return Habits(found.kept, found.mended, found.stubborn, found.shares[places], found.asked)


def write_habits(learned: Learned, path: Path) -> None:
    """Write a file of habits, in place of one that is there; whoever reads sees the one or the other.

    Raises:
        InputError: it cannot be written, or holds what `read_habits` refuses.
    """
    found = learned.habits
    content = _checked(path, {
        "way": learned.way, "kept": found.kept, "mended": found.mended, "stubborn": found.stubborn,
        "shares": dict(zip(learned.classes, found.shares.tolist(), strict=True)), "asked": found.asked,
        "margin": learned.margin, "model": learned.model, "version": learned.version, "llm": learned.llm})
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(content.model_dump(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        raise InputError(f"the habits {path} cannot be written: {error.strerror}.") from None
    finally:
        draft.unlink(missing_ok=True)


def read_habits(path: Path) -> Learned:
    """What a file of habits holds.

    Raises:
        InputError: it cannot be read, is no JSON, or has a key that is missing, unknown or wrong.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.loads(file.read(MOST))
    except OSError as error:
        raise InputError(f"the habits {path} cannot be read: {error.strerror}. "
                         "polarscore correct --habits FILE writes them.") from None
    except (ValueError, RecursionError):
        raise InputError(f"the habits {path} are not JSON. polarscore correct --habits FILE writes them.") from None
    if not isinstance(content, dict):
        raise InputError(f"the habits {path} should be a JSON object. Found {type(content).__name__}.")
    found = _checked(path, content)
    shares = np.array(list(found.shares.values()), dtype=np.float64)
    habits = Habits(found.kept, found.mended, found.stubborn, shares / shares.sum(), found.asked)
    return Learned(found.way, habits, tuple(found.shares), found.margin, found.model, found.version,
                   found.llm)


def _checked(path: Path, content: Mapping[str, Any]) -> _File:
    try:
        return _File(**content)
    except (ValidationError, TypeError) as error:
        what = describe(error) if isinstance(error, ValidationError) else "its keys are not those of habits"
        raise InputError(f"the habits {path}: {what}.") from None


def _shown(classes: Sequence[str]) -> str:
    return ", ".join(classes) if len(classes) <= 8 else f"{', '.join(classes[:8])}, … ({len(classes)} in all)"
