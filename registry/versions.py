"""Versions in MLflow's registry: naming them, listing them, fetching their files."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from registry.files import Files
from registry.lookup import by_name, found, pages
from registry.stages import ARCHIVED, CANDIDATE, PRODUCTION, STAGING
from training.calibration import Measures
from training.errors import InputError
from training.spec import SPEC, Spec, load_spec
from training.state import State
from training.tracking import REFERENCE, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

STAGE_TAG = "stage"
MEASURES = ("n", "error_rate", "mean_risk", "ece", "r2", "auroc", "aurc", "brier")
LARGEST = 2**31 - 1  # that a database takes for a version

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
    """MLflow's registry of a state, as one sees it who keeps to `registry.files.Files`. Threads may share one."""

    def __init__(self, state: State):
        self.client: MlflowClient = connect(state)
        self._files = Files(state)

    def models(self) -> list[str]:
        """The names of all registered models."""
        return [model.name for model in self._registered()]

    def list(self, model: str | None = None) -> "list[Version]":
        """All versions, or those of one model; the newest first. Takes 1 s for each thousand: see `newest`.

        Raises:
            InputError: no such model.
        """
        return [*self.newest(model, None)[0]]

    def newest(self, model: str | None, limit: int | None) -> tuple[Sequence[Version], bool]:
        """The newest versions, and older ones that an alias points at; and whether there are others yet.

        model: of this one; None: of all. limit: how many at most, those with an alias not counted; None: all.

        Raises:
            InputError: no such model.
        """
        aliases = {entry.name: _targets(entry) for entry in self._registered(model)}
        query = "" if model is None else by_name(model)
        order = ["version_number DESC"] if model else ["creation_timestamp DESC"]
        entries, others = pages(partial(self.client.search_model_versions, query, order_by=order), limit)
        versions = [self._version(entry, _of(int(entry.version), aliases.get(entry.name, {}))) for entry in entries]
        listed = {(version.model, version.version) for version in versions}
        if others:
            held = {(name, number) for name, targets in aliases.items() for number in targets.values()} - listed
            versions += [self.number(name, number) for name, number in held]
        return sorted(versions, key=lambda version: (version.model, -version.version)), others

    def get(self, uri: str) -> Version:
        """The version that `models:/NAME/VERSION` or `models:/NAME@ALIAS` names.

        Raises:
            InputError: another form, no such model, version or alias; names those that exist.
        """
        match = _URI.fullmatch(uri)
        if not match:
            raise InputError(f"'{uri}' names no version. Expected models:/NAME/VERSION or models:/NAME@ALIAS.")
        model, alias = match["name"], match["alias"]
        if alias is None:
            return self.number(model, int(match["version"]))
        version = self.holder(model, alias)
        if version is None:
            known = ", ".join(sorted(self.aliases(model))) or "none"
            raise InputError(f"model '{model}' has no alias '{alias}'. It has: {known}.")
        return version

    def number(self, model: str, version: int) -> Version:
        """A version by its number.

        Raises:
            InputError: no such model or version.
        """
        entry = found(self.client.get_model_version, model, str(version)) if version <= LARGEST else None
        if entry is None:
            self.known(model)
            raise InputError(f"model '{model}' has no version {version}. See: polarscore registry list {model}")
        return self._version(entry, entry.aliases)

    def has(self, model: str, version: int) -> bool:
        """Whether a model has a version of that number, which was not deleted."""
        return found(self.client.get_model_version, model, str(version)) is not None

    def holder(self, model: str, alias: str) -> Version | None:
        """The version that an alias points at, if any.

        Raises:
            InputError: no such model.
        """
        # to MLflow, `latest` is an alias that each model has
        entry = None if alias.lower() == "latest" else found(self.client.get_model_version_by_alias, model, alias)
        if entry is None:
            self.known(model)
            return None
        return self._version(entry, entry.aliases)

    def folder(self, version: Version) -> Path:
        """A version's own files (safetensors, spec, sources), on this machine.

        Raises:
            InputError: they are not to be had.
        """
        path = self._files.folder(version.uri) / "artifacts"
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

        uri = f"runs:/{version.run_id}/{REFERENCE}"
        try:
            with TemporaryDirectory(prefix="polarscore-") as folder:
                return pd.read_parquet(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        except (MlflowException, OSError, ValueError):
            raise InputError(f"the training answers of {version.uri}, {REFERENCE} of run {version.run_id}, "
                             "cannot be fetched from MLflow.") from None

    def run_tag(self, version: Version, tag: str) -> str | None:
        """A tag of the run that made a version."""
        return self.client.get_run(version.run_id).data.tags.get(tag)

    def known(self, model: str) -> None:
        """Refuse a model that is not registered.

        Raises:
            InputError: names those that are.
        """
        if found(self.client.get_model_version_by_alias, model, CANDIDATE) is None:  # much the quicker question
            self._model(model)

    def model_tags(self, model: str) -> dict[str, str]:
        """The tags of a registered model."""
        return dict(self._model(model).tags)

    def log_name(self, model: str) -> str:
        """The name of a model's log on this machine: of one that was deleted and registered anew, another one."""
        return f"{model}@{self._model(model).creation_timestamp}"

    def aliases(self, model: str) -> dict[str, int]:
        """Where a model's aliases point."""
        return _targets(self._model(model))

    def _model(self, model: str) -> "RegisteredModel":
        return self._registered(model)[0]

    def _registered(self, model: str | None = None) -> "Sequence[RegisteredModel]":
        """All models, or that of a name; a search, because MLflow's getter reads all versions besides."""
        search = self.client.search_registered_models
        if model is None:
            return pages(search)[0]
        named = pages(partial(search, by_name(model)))[0]
        if not named:
            known = ", ".join(self.models()) or "none; train one first"
            raise InputError(f"no model '{model}' is registered. Registered: {known}.")
        return named

    def _version(self, entry: "ModelVersion", aliases: Iterable[str]) -> Version:
        own = tuple(sorted(aliases))
        tag = entry.tags.get(STAGE_TAG, CANDIDATE)
        stage = next((alias for alias in (PRODUCTION, STAGING) if alias in own), tag)
        if stage in (PRODUCTION, STAGING) and stage not in own:
            stage = ARCHIVED  # its alias has moved on
        return Version(entry.name, int(entry.version), stage, own, entry.run_id or "",
                       datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC), dict(entry.tags))


def model_name(name: str) -> str:
    """A model's name, out of the URI of one of its versions if it is one."""
    match = _URI.fullmatch(name)
    return match["name"] if match else name


def _targets(entry: "RegisteredModel") -> dict[str, int]:
    return {alias: int(number) for alias, number in entry.aliases.items()}


def _of(number: int, targets: dict[str, int]) -> list[str]:
    return [alias for alias, target in targets.items() if target == number]


def _number(value: str | None) -> float | None:
    return None if value in (None, "None") else float(value)
