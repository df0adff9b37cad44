"""Versions in MLflow's registry: naming them, listing them, fetching their files."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from training.calibration import Measures
from training.errors import InputError
from training.model import SPEC, Spec, load_spec
from training.state import State
from training.tracking import CANDIDATE, REFERENCE, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

STAGING, PRODUCTION, ARCHIVED = "staging", "production", "archived"
STAGES = (CANDIDATE, STAGING, PRODUCTION, ARCHIVED)
STAGE_TAG = "stage"
MEASURES = ("n", "error_rate", "mean_risk", "ece", "r2", "auroc", "aurc", "brier")

_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")


@dataclass(frozen=True)
class Version:
    """One version of a model: what MLflow's registry knows of it.

    stage: production or staging by its alias; else what its tag says, `candidate` if it never had another.
    """

    model: str
    version: int
    stage: str
    aliases: tuple[str, ...]
    run_id: str
    created: datetime
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        """`models:/NAME/VERSION`."""
        return f"models:/{self.model}/{self.version}"

    def measures(self, split: str) -> Measures | None:
        """The measures of a split at training time, None if it had no labels."""
        found: dict[str, Any] = {key: _number(self.tags.get(f"{split}.{key}")) for key in MEASURES}
        if found["n"] is None:
            return None
        return cast("Measures", found | {"n": int(found["n"])})


class Versions:
    """MLflow's registry of a state."""

    def __init__(self, state: State):
        self.client: MlflowClient = connect(state)

    def models(self) -> list[str]:
        """The names of all registered models."""
        return [model.name for model in _pages(self.client.search_registered_models)]

    def list(self, model: str | None = None) -> "list[Version]":
        """All versions, or those of one model; the newest first.

        Raises:
            InputError: no such model.
        """
        if model is not None:
            self._known(model)
        quote = '"' if model and "'" in model else "'"  # MLflow knows no way to escape one
        query = "" if model is None else f"name={quote}{model}{quote}"
        aliases = {name: self._aliases(name) for name in ([model] if model else self.models())}
        found = [self._version(entry, aliases.get(entry.name, {}))
                 for entry in _pages(self.client.search_model_versions, query)]
        return sorted(found, key=lambda version: (version.model, -version.version))

    def get(self, uri: str) -> Version:
        """The version that `models:/NAME/VERSION` or `models:/NAME@ALIAS` names.

        Raises:
            InputError: another form, no such model, version or alias; names those that exist.
        """
        match = _URI.fullmatch(uri)
        if not match:
            raise InputError(f"'{uri}' names no version. Expected models:/NAME/VERSION or models:/NAME@ALIAS.")
        model, number, alias = match["name"], match["version"], match["alias"]
        self._known(model)
        aliases = self._aliases(model)
        if alias is not None and alias not in aliases:
            known = ", ".join(sorted(aliases)) or "none"
            raise InputError(f"model '{model}' has no alias '{alias}'. It has: {known}.")
        return self.number(model, aliases[alias] if alias else int(number))

    def number(self, model: str, version: int) -> Version:
        """A version by its number.

        Raises:
            InputError: no such version.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self._version(self.client.get_model_version(model, str(version)), self._aliases(model))
        except MlflowException:
            raise InputError(f"model '{model}' has no version {version}. "
                             f"See: polarscore registry list {model}") from None

    def holder(self, model: str, alias: str) -> Version | None:
        """The version that an alias points at, if any."""
        number = self._aliases(model).get(alias)
        return None if number is None else self.number(model, number)

    def folder(self, version: Version) -> Path:
        """A version's own files (safetensors, spec, sources), on this machine.

        Raises:
            InputError: they are not to be had.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            path = Path(mlflow.artifacts.download_artifacts(version.uri)) / "artifacts"
        except (MlflowException, OSError) as error:
            raise InputError(f"the files of {version.uri} cannot be fetched: {str(error).splitlines()[0]}") from None
        if not (path / SPEC).is_file():
            raise InputError(f"{version.uri} was not made by polarscore: it has no {SPEC}.")
        return path

    def spec(self, version: Version) -> Spec:
        """What a version is."""
        return load_spec(self.folder(version) / SPEC)

    def reference(self, version: Version) -> pd.DataFrame:
        """The frame of training answers that monitoring compares with; no text in it.

        Raises:
            InputError: it is not to be had.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            return pd.read_parquet(mlflow.artifacts.download_artifacts(f"runs:/{version.run_id}/{REFERENCE}"))
        except (MlflowException, OSError, ValueError):
            raise InputError(f"the training answers of {version.uri}, {REFERENCE} of run {version.run_id}, "
                             "cannot be fetched from MLflow.") from None

    def run_tag(self, version: Version, tag: str) -> str | None:
        """A tag of the run that made a version."""
        return self.client.get_run(version.run_id).data.tags.get(tag)

    def _known(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_registered_model(model)
        except MlflowException:
            known = ", ".join(self.models()) or "none; train one first"
            raise InputError(f"no model '{model}' is registered. Registered: {known}.") from None

    def _aliases(self, model: str) -> dict[str, int]:
        return {alias: int(number) for alias, number in self.client.get_registered_model(model).aliases.items()}

    def _version(self, entry: "ModelVersion", aliases: dict[str, int]) -> Version:
        number = int(entry.version)
        own = tuple(sorted(alias for alias, target in aliases.items() if target == number))
        tag = entry.tags.get(STAGE_TAG, CANDIDATE)
        stage = next((alias for alias in (PRODUCTION, STAGING) if alias in own), tag)
        if stage in (PRODUCTION, STAGING) and stage not in own:
            stage = ARCHIVED  # its alias has moved on
        return Version(entry.name, number, stage, own, entry.run_id or "",
                       datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC), dict(entry.tags))


def model_name(name: str) -> str:
    """A model's name, out of the URI of one of its versions if it is one."""
    match = _URI.fullmatch(name)
    return match["name"] if match else name


def _pages(search: Any, query: str = "") -> "list[Any]":
    found: list[Any] = []
    token = None
    while True:
        page = search(query, max_results=1000, page_token=token) if query else search(max_results=1000,
                                                                                    page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _number(value: str | None) -> float | None:
    return None if value in (None, "None") else float(value)
