"""`gates.toml`: which gates stand before which stage, and with what margins. Read into a frozen object."""

import math
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from training.errors import InputError
from training.state import State
from training.table import SPLITS
from training.task import describe
from training.toml_file import read_toml

DEFAULT = Path(__file__).with_name("gates.toml")
GATES_FILE = "gates.toml"
BLOCK = "block"
LET_OR_HOLD = ("pass", BLOCK)


def _number(value: Any, expected: str, most: float, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"expected {expected}. Found {_shown(value)}")
    return float(value)


def _share(value: Any) -> float:
    return _number(value, "a share from 0 to 1", 1.0)


def _amount(value: Any) -> float:
    return _number(value, "a number above 0", sys.float_info.max, math.ulp(0.0))


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"expected a whole number of at least 1. Found {_shown(value)}")
    return value


def _word(*words: str) -> Any:
    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(f"expected one of {', '.join(words)}. Found {_shown(value)}")
        return str(value)

    return check


def _path(value: Any) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"expected the path of a task's folder. Found {_shown(value)}")
    return Path(value).expanduser()


Share = Annotated[float, BeforeValidator(_share)]
Amount = Annotated[float, BeforeValidator(_amount)]
Unknown = Annotated[str, BeforeValidator(_word(*LET_OR_HOLD))]


class _Table(BaseModel):
    """A table of the file: refuses a key that it does not have, and says which it has."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str] = "key"

    @model_validator(mode="before")
    @classmethod
    def _is_a_table_of_known_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict | BaseModel):
            raise ValueError(f"expected a table. Found {_shown(values)}")
        strange = [key for key in values if key not in cls.model_fields] if isinstance(values, dict) else []
        if strange:
            raise ValueError(f"unknown {cls.kind} {_shown(strange[0])}. Expected one of {', '.join(cls.model_fields)}")
        return values


class Margins(_Table):
    """What every gate's table may say. unknown: instead of the transition's own, for this gate."""

    unknown: Unknown | None = None


class Sound(Margins):
    """nan_share: at most this share of the risks may be no numbers."""

    nan_share: Share = 0.0


class Drop(Margins):
    """drop: by how much a share may be below the champion's."""

    drop: Share


class Maximum(Margins):
    """maximum: what a share or a mean of differences may not exceed."""

    maximum: Share


class Coverage(Margins):
    """minimum: what the share may not be below. drop: nor by how much below the champion's; None: by any."""

    minimum: Share
    drop: Share | None = None


class Margin(Margins):
    """margin: by how much a measure may be worse than the champion's, beyond one standard error."""

    margin: Share


class Ece(Margin):
    """limit: what the error of calibration may not exceed, whatever the champion's; None: no such limit."""

    limit: Share | None = None


class Latency(Margins):
    """The 95th percentile, in ms, of a request of one item and of 32. None: no limit."""

    one_ms: Amount | None = None
    batch_ms: Amount | None = None


class Memory(Margins):
    """mib: what the service may take, in MiB."""

    mib: Amount


class Named(_Table):
    """The gates of a transition: those that are None do not stand there."""

    kind: ClassVar[str] = "gate"

    sound: Sound | None = None
    agreement: Drop | None = None
    drift: Maximum | None = None
    coverage: Coverage | None = None
    single_source: Maximum | None = None
    ece: Ece | None = None
    auroc: Margin | None = None
    aurc: Margin | None = None
    loads: Margins | None = None
    reload: Margins | None = None
    signature: Margins | None = None
    requirements: Margins | None = None
    latency: Latency | None = None
    memory: Memory | None = None

    @property
    def standing(self) -> dict[str, Margins]:
        """Those that stand there, by name."""
        return {name: margins for name in type(self).model_fields if (margins := getattr(self, name)) is not None}


class Transition(_Table):
    """One way to a stage.

    unknown: whether a gate that cannot be judged lets a version through (`pass`) or not (`block`). task: the folder of
    the task to judge by; None: the one that the candidate was trained on. split: of it. min_labelled: how many labelled
    answers the labelled gates need.
    """

    unknown: Unknown = "pass"
    task: Annotated[Path, BeforeValidator(_path)] | None = None
    split: Annotated[str, BeforeValidator(_word(*SPLITS))] = "valid"
    min_labelled: Annotated[int, BeforeValidator(_count)] = 30
    gates: Named = Named()

    def blocks(self, name: str) -> bool:
        """Whether a gate that cannot be judged blocks."""
        return (self.gates.standing[name].unknown or self.unknown) == BLOCK


class GateConfig(_Table):
    """The whole file. A transition that it does not name has no gate."""

    kind: ClassVar[str] = "transition"

    staging: Transition = Transition()
    production: Transition = Transition()


def gates_file(state: State) -> Path:
    """The file that counts: the state folder's own, or else the package's."""
    own = state.home / GATES_FILE
    return own if own.exists() else DEFAULT


def read_gates(path: Path = DEFAULT) -> GateConfig:
    """Read a file of gates; a task's path in it is relative to the folder that the file is in.

    Raises:
        InputError: no such file, no TOML, or a key, gate, transition or margin that cannot be; in one line.
    """
    content = read_toml(path, f"Expected a file of gates such as {DEFAULT}.")
    try:
        found = GateConfig.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}.") from None
    return found.model_copy(update={
        name: way.model_copy(update={"task": path.absolute().parent / way.task})
        for name in GateConfig.model_fields if (way := getattr(found, name)).task is not None})


def _shown(value: Any) -> str:
    """A value as the file would have it, on one line and not too long."""
    shown = repr(value) if isinstance(value, str | list | dict) else str(value)
    shown = shown.lower() if isinstance(value, bool) else shown
    return shown if len(shown) <= 60 else shown[:59] + "…"
