"""How a service is to behave: one frozen object, from a TOML file that refuses unknown keys.

Every key may be left out; docs/service.md shows them all. `polarscore serve --config FILE` names the file, and hands
it to the service by the variable `POLARSCORE_SERVICE`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from training.errors import InputError
from training.task import describe
from training.toml_file import read_toml

SERVICE = "POLARSCORE_SERVICE"

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Section):
    """What one request may hold. body: bytes. text: characters. stream: items of a body of JSON Lines.

    seconds: how long a client may take to send a body. requests_per_minute: of one key or, without keys, of one
    address; None: any number.
    """

    body: Annotated[int, Field(gt=0)] = 32 * 2**20
    items: Annotated[int, Field(gt=0)] = 1_000
    text: Annotated[int, Field(gt=0)] = 100_000
    stream: Annotated[int, Field(gt=0)] = 1_000_000
    seconds: Annotated[float, Field(gt=0)] = 30.0
    requests_per_minute: Annotated[int, Field(gt=0)] | None = None


class Batching(_Section):
    """How requests are scored together. tokens: of one pass; None: what suits the device.

    wait: seconds of work that may be waiting before a further request is refused; the bound on latency.
    """

    tokens: Annotated[int, Field(gt=0)] | None = None
    wait: Annotated[float, Field(gt=0)] = 2.0


class Keeping(_Section):
    """What is kept of what is scored. text: `drop` it, keep its `hash`, or `keep` it.

    days: scores older than that are erased; None: never. journal: bytes that may wait on disk for the database.
    """

    text: Literal["drop", "hash", "keep"] = "drop"
    days: Annotated[int, Field(gt=0)] | None = None
    journal: Annotated[int, Field(gt=0)] = 256 * 2**20


class Thresholds(_Section):
    """Where the decisions change, in place of what the version's guarantee says. Risks up to `accept` are accepted.

    review: risks from here on go to a person; those between are asked again.
    """

    accept: Probability | None = None
    review: Probability | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "Thresholds":
        if self.accept is not None and self.review is not None and self.accept > self.review:
            raise ValueError("accept should not lie above review")
        return self


class Beside(_Section):
    """A second version. version: its number, or `staging`: whichever the registry has there.

    percent: of the items that it answers; 0: none, it scores all of them in the dark.
    """

    version: Annotated[str, Field(pattern=r"^([1-9][0-9]{0,17}|staging)$")] | None = None
    percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0


class Correction(_Section):
    """How the LLM is asked again. habits: the file that `polarscore correct --habits` wrote of it.

    endpoint: by its name in the settings of the LLM; None: their default. llm: the file of these settings; None: the
    state's own (`serving.llm.settings`). way: `explain`, with the evidence of the sources that voted, or `reask`,
    whether it is sure. items: of a request. seconds: for all questions of a request. least_gain: ask only where the
    answer that is kept is expected to be likelier to be right by more than that. accept: whether answers that were
    asked about may be accepted, which no audit vouches for. tokens, money: that all questions since the start may take;
    None: any amount.
    """

    habits: Path
    endpoint: str | None = None
    llm: Path | None = None
    way: Literal["explain", "reask"] = "explain"
    items: Annotated[int, Field(gt=0, le=1_000)] = 50
    seconds: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 30.0
    least_gain: Probability = 0.01
    accept: bool = False
    tokens: Annotated[int, Field(ge=0)] | None = None
    money: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _habits_are_learned_first(cls, given: Any) -> Any:
        if isinstance(given, dict) and "habits" not in given:
            raise ValueError("the key 'habits' is missing. What asking this LLM again does has to be learned first: "
                             "polarscore correct TASK_DIR --model … --habits FILE writes that file")
        return given

    @field_validator("way", mode="before")
    @classmethod
    def _similar_rows_are_not_kept(cls, way: Any) -> Any:
        if way == "similar":
            raise ValueError("the service keeps no texts that it could show as similar ones. "
                             "Choose explain or reask, or run polarscore correct --way similar")
        return way

    def below(self, folder: Path) -> "Correction":
        """The same, its files being named from a folder on."""
        return self.model_copy(update={"llm": self.llm and folder / self.llm, "habits": folder / self.habits})


class ServiceConfig(_Section):
    """All of it. source_seconds: what a source may take for one text before it counts as abstaining.

    keys: who needs an API key, those from beyond this machine or everybody (`serving.entry`). correction: None: nobody
    is asked again, and nothing ever calls out.
    """

    limits: Limits = Limits()
    batching: Batching = Batching()
    keeping: Keeping = Keeping()
    thresholds: Thresholds = Thresholds()
    beside: Beside = Beside()
    correction: Correction | None = None
    source_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.25
    keys: Literal["beyond loopback", "always"] = "beyond loopback"


def read_config(path: Path) -> ServiceConfig:
    """The configuration that a file holds; the files that it names lie beside it, unless their paths are absolute.

    Raises:
        InputError: it cannot be read, is no TOML, or has an unknown key or a value that is none.
    """
    content = read_toml(path)
    try:
        config = ServiceConfig(**content)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}.") from None
    asks = config.correction
    return config.model_copy(update={"correction": asks and asks.below(path.absolute().parent)})


def config_from(environment: Mapping[str, str] = os.environ) -> ServiceConfig:
    """The configuration of this process: the file that the variable names, or the defaults.

    Raises:
        InputError: as `read_config` does.
    """
    named = environment.get(SERVICE)
    return read_config(Path(named)) if named else ServiceConfig()
