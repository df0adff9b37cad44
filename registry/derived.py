"""A version made of another one: the same weights, sources and code; another spec. It is registered as a candidate."""

import io
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from registry.operation import requirements
from registry.versions import Version, Versions
from training.calibration import Measures
from training.errors import InputError
from training.spec import SOURCES, SPEC, WEIGHTS, Spec, digest
from training.state import State
from training.tracking import (
    CANDIDATE,
    DATA_TAG,
    DIGEST_TAG,
    REFERENCE,
    TASK_TAG,
    WARNINGS_TAG,
    open_run,
)

FROM_TAG = "made_from"
"""Tag of a version: the one that it was made of."""


@dataclass(frozen=True)
class Derived:
    """What is to become a version, and what its run keeps.

    spec: of the new version. reference: what monitoring compares with, on the new scale. measures: by the name of the
    answers that they were taken on. evidence: plain data without texts or ids.
    """

    spec: Spec
    title: str
    reference: pd.DataFrame
    measures: Mapping[str, Measures]
    evidence: Mapping[str, Any]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def register(state: State, versions: Versions, parent: Version, made: Derived) -> tuple[int, str]:
    """Log a run and register the version, whole from its first moment on. Its number, and the run's id.

    A process that is killed before leaves a run and no version; one killed after, the alias `candidate` where it was.

    Raises:
        InputError: the parent's files are not to be had, or MLflow cannot keep the run.
    """
    folder = versions.folder(parent).parent
    measured = {f"{name}.{key}": str(value) for name, found in made.measures.items() for key, value in found.items()}
    task = versions.run_tag(parent, TASK_TAG)
    with open_run(state, parent.model, [], made.title) as run, tempfile.TemporaryDirectory() as place:
        import mlflow

        files = _files(folder / "artifacts", made.spec, Path(place) / "files")
        mlflow.set_tags({"kind": "derived", FROM_TAG: parent.uri, **({TASK_TAG: task} if task else {}), **made.tags})
        _log_facts(made, Path(place), parent.run_id)
        with _quiet():
            info = _log_model(folder, files)
            tags = {DATA_TAG: made.spec.data_digest, DIGEST_TAG: digest(files), FROM_TAG: parent.uri,
                    WARNINGS_TAG: parent.tags.get(WARNINGS_TAG, "[]"), **measured}
            number = int(mlflow.register_model(info.model_uri, parent.model, tags=tags).version)
        versions.client.set_registered_model_alias(parent.model, CANDIDATE, str(number))
    return number, run.run_id


def _files(source: Path, spec: Spec, target: Path) -> Path:
    """The version's own files, with another spec."""
    target.mkdir()
    for name in (WEIGHTS, SOURCES):
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())
    (target / SPEC).write_text(json.dumps(spec.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    return target


def _log_facts(made: Derived, place: Path, parent_run: str) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.log_dict(dict(made.evidence), "evidence.json")
    for name, found in made.measures.items():
        mlflow.log_metrics({f"{name}.{key}": float(value) for key, value in found.items()  # type: ignore[arg-type]
                            if value is not None})
    for name, figure in made.figures.items():
        mlflow.log_figure(figure, f"{name}.png", save_kwargs={"dpi": 150})
    path = place / Path(REFERENCE).name
    made.reference.to_parquet(path)
    mlflow.log_artifact(str(path), str(Path(REFERENCE).parent))
    for name in ("sources.json", "pareto/weights.json"):  # as its training left them
        try:
            kept = mlflow.artifacts.download_artifacts(f"runs:/{parent_run}/{name}", dst_path=str(place / "parent"))
            mlflow.log_artifact(kept, str(Path(name).parent) if "/" in name else None)
        except (MlflowException, OSError):
            continue  # nothing of the version itself is in them


def _log_model(folder: Path, files: Path) -> Any:
    """Log the files as the parent was logged: with its code, requirements, signature and example."""
    import mlflow
    from mlflow.models import Model

    try:
        parent = Model.load(str(folder))
        code = folder / Path(parent.flavors["python_function"]["model_code_path"]).name
        example = parent.load_input_example(str(folder))
    except Exception:  # a damaged MLmodel fails in many ways
        raise InputError(f"the version in {folder} was not logged by polarscore, so none can be made of it.") from None
    packages = sorted(path for path in (folder / "code").iterdir() if path.is_dir())
    info = mlflow.pyfunc.log_model(
        name="model", python_model=str(code),
        artifacts={path.name: str(path) for path in sorted(files.iterdir())},
        code_paths=[str(path) for path in packages], pip_requirements=list(requirements(folder)),
        signature=parent.signature, input_example=example,
    )
    client = mlflow.MlflowClient()
    for path in sorted(folder.rglob("__pycache__")):  # files, so that Python keeps no bytecode there
        if path.is_file():
            place = path.parent.relative_to(folder).as_posix()
            client.log_model_artifact(info.model_id, str(path), None if place == "." else place)
    return info


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what MLflow prints while it registers; errors still raise."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.filterwarnings("ignore", module="mlflow")
        yield


