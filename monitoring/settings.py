"""How a model is to be watched: one frozen object, from a TOML file that refuses unknown keys.

Every key may be left out; docs/monitoring.md shows them all. `polarscore monitor check --config FILE` names the file.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import InputError
from training.task import describe
from training.toml_file import read_toml

Open = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AlarmSettings(_Section):
    """When an alarm rings. alpha: the probability that an alarm ever rings wrongly, over all looks, of each alarm.

    tolerance: a gap between errors and risks below this rings nothing. share: a change this small of the share of
    scores in a bin, of a class or of a source's votes is no drift. rows: fewer labels, or scores, are too few to tell.
    """

    alpha: Open = 0.05
    tolerance: Share = 0.02
    share: Share = 0.05
    rows: Annotated[int, Field(gt=0)] = 30


class ActionSettings(_Section):
    """What an alarm on the guarantee does by itself: nothing, unless it is told to.

    Only labels count that came with API keys of the scope `review`: from so many reviewers, so many labels at least.
    """

    on_guarantee: Literal["nothing", "lower threshold", "roll back"] = "nothing"
    reviewers: Annotated[int, Field(ge=1)] = 2
    labels: Annotated[int, Field(ge=1)] = 50


class Settings(_Section):
    """All of it. webhook: where `monitor check` posts what it found. prometheus: a file for node_exporter."""

    alarms: AlarmSettings = AlarmSettings()
    action: ActionSettings = ActionSettings()
    webhook: str | None = None
    prometheus: Path | None = None


def read_settings(path: Path | None) -> Settings:
    """The settings that a file holds; without a file, the defaults.

    Raises:
        InputError: it cannot be read, is no TOML, or has an unknown key or a value that is none.
    """
    if path is None:
        return Settings()
    content = read_toml(path)
    try:
        return Settings(**content)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}.") from None
