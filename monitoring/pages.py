"""Evidently's pages: a local workspace that keeps the reports, with plots over time, and the server that shows it."""

import io
import json
import os
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout

from training.errors import InputError

MEASURED = {
    "Observed errors, and those that the risks predict": {"ErrorRate": "observed", "MeanRisk": "predicted"},
    "Calibration error": {"SmoothCalibrationError": "smooth", "ExpectedCalibrationError": "ECE",
                          "CalibrationGap": "gap"},
    "How well risk tells wrong from right": {"RiskAuroc": "AUROC", "RiskR2": "R²", "RiskAurc": "AURC"},
    "Brier score and its parts": {"BrierScore": "score", "BrierReliability": "reliability",
                                  "BrierResolution": "resolution", "BrierUncertainty": "uncertainty"},
    "Accepted at the threshold": {"AcceptedShare": "share accepted", "AcceptedError": "errors among them"},
    "Slices in which the risks are off": {"SlicesOff": "slices"},
    "Answers": {"AnswersScored": "scored", "LabelledAnswers": "labelled"},
}
"""What Evidently's pages plot over the reports: a title, and metrics of `monitoring.metrics` with their legends."""

UNTOLD = (*MEASURED, "Answers scored")
"""What plots were called that told no kinds of report apart."""

KINDS = {"daily": "Daily", "release": "Release", "comparison": "Comparison"}
"""How the plots of each kind of report begin; each joins the reports of one kind, by their tags."""

ASIDE = ".unreadable"


@dataclass(frozen=True)
class Pages:
    """Where Evidently's pages find a report: its workspace, and a project there, one a model."""

    workspace: Path
    project: str


def keep(snapshot: Any, pages: Pages) -> str | None:
    """Add a report to its project, which gets plots for each kind of report if it has none.

    Returns None or, if it cannot be kept, why; what is in the workspace stays as it is then.
    """
    try:
        pages.workspace.mkdir(parents=True, exist_ok=True)
        with FileLock(pages.workspace / ".lock", timeout=60):  # or two reports at once would both make the project
            from evidently.ui.workspace import Workspace

            with _all_or_nothing(pages.workspace):
                workspace = Workspace.create(str(pages.workspace))
                workspace.add_run(_project(workspace, pages.project), snapshot)
    except Timeout:
        return f"{pages.workspace} is in use by another report that does not end. {_REMEDY}"
    except OSError as error:
        return f"{pages.workspace} cannot be written: {error.strerror or type(error).__name__}. {_REMEDY}"
    except Exception as error:  # whatever Evidently makes of files that another version wrote, or that are damaged
        return f"{pages.workspace} cannot be read by this version of Evidently ({type(error).__name__}). {_REMEDY}"
    return None


_REMEDY = "The report's files are written; only the pages of `polarscore monitor ui` lack it."


def _project(workspace: Any, name: str) -> Any:
    """The id of the project of that name, with our plots; those that are not ours stay."""
    from evidently.sdk.models import DashboardModel, PanelMetric
    from evidently.sdk.panels import line_plot_panel

    found = [project for project in workspace.list_projects() if project.name == name]
    project = found[0] if found else workspace.create_project(name)
    there = [panel for panel in project.dashboard.model().panels
             if panel.title not in UNTOLD or any(value.tags for value in panel.values)]
    ours = [line_plot_panel(f"{begin}: {title}", size="half", values=[
        PanelMetric(metric=f"evidently:metric_v2:{metric}", legend=legend, tags=[kind])
        for metric, legend in metrics.items()])
        for kind, begin in KINDS.items() for title, metrics in MEASURED.items()]
    missing = [panel for panel in ours if panel.title not in {known.title for known in there}]
    if missing:  # without a tab: Evidently's local pages show none
        workspace.save_dashboard(project.id, DashboardModel(tabs=[], panels=[*there, *missing]))
    return project.id


@contextmanager
def _all_or_nothing(workspace: Path) -> Iterator[None]:
    """If what is done fails, take back what it began: new files and folders, and changed plots."""
    before = {*workspace.glob("*"), *workspace.glob("*/snapshots/*")}
    plots = {file: file.read_bytes() for file in workspace.glob("*/dashboard.json")}
    try:
        yield
    except BaseException:
        for begun in {*workspace.glob("*/snapshots/*"), *workspace.glob("*")} - before:
            if begun.is_dir():
                shutil.rmtree(begun, ignore_errors=True)
            else:
                begun.unlink(missing_ok=True)
        for file, content in plots.items():
            if file.read_bytes() != content:
                file.write_bytes(content)
        raise


def set_aside(workspace: Path) -> list[Path]:
    """Rename what this Evidently cannot read, so that the rest is shown; where it is now.

    A project whose own file cannot be read is set aside as a whole, and the next report begins a new one; without the
    file of its plots it is shown without them. Nothing is lost: the names only end in `.unreadable`, also that of the
    file at fault in the project's folder, and can be changed back.
    """
    import_evidently()
    from evidently.core.serialization import SnapshotModel
    from evidently.sdk.models import DashboardModel
    from evidently.ui.service.base import Project

    from monitoring import metrics, sections  # noqa: F401 - snapshots name our metrics

    aside = []
    for file in _unreadable(workspace, "metadata.json", Project.parse_obj):
        _renamed(file)
        aside.append(_renamed(file.parent))
    for pattern, read in (("dashboard.json", DashboardModel.parse_obj), ("snapshots/*.json", SnapshotModel.parse_obj)):
        aside += [_renamed(file) for file in _unreadable(workspace, pattern, read)]
    return aside


def _unreadable(workspace: Path, pattern: str, read: Callable[[Any], Any]) -> list[Path]:
    """The files of projects that cannot be read."""
    found = []
    for file in sorted(workspace.glob(f"*/{pattern}")):
        if file.relative_to(workspace).parts[0].endswith(ASIDE):
            continue
        try:
            read(json.loads(file.read_text(encoding="utf-8")))
        except Exception:  # as in `keep`: what Evidently makes of files that another version wrote, or are damaged
            found.append(file)
    return found


def _renamed(path: Path) -> Path:
    """Where it is now: where it was, on a disk that is only read, of which Evidently speaks report by report."""
    with suppress(OSError):
        return path.rename(path.with_name(path.name + ASIDE))
    return path


def serve_pages(
    workspace: Path, port: int, ready: Callable[[], None], warn: Callable[[str], None] | None = None
) -> None:
    """Serve Evidently's pages on a workspace, on this machine alone, until interrupted; `ready` is called before.

    warn: told, in a line, of files that cannot be read: reports, projects or plots that are therefore not shown.

    Raises:
        InputError: no report is kept there, or the port is taken.
    """
    if not workspace.is_dir():
        raise InputError("there is no report to show yet. Write one: polarscore monitor report")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError as error:
            raise InputError(f"port {port} cannot be used: {error.strerror}. Choose another with --port.") from None
        import_evidently()
        with warnings.catch_warnings():  # of its imports, as above
            warnings.simplefilter("ignore", DeprecationWarning)
            import uvicorn
            from evidently.ui.service.app import create_app, get_config

            for file in set_aside(workspace):
                if warn:
                    warn(f"{file} is damaged, or of another version of Evidently, and is not shown.")
            app = create_app(get_config(port=port, workspace=str(workspace)))
        ready()
        with redirect_stdout(io.StringIO()):
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


def import_evidently() -> ModuleType:
    """Evidently, without the warnings of its own imports, and without telemetry."""
    os.environ.setdefault("DO_NOT_TRACK", "true")
    with warnings.catch_warnings():  # of its imports: numpy.core, and names that litestar renamed
        warnings.simplefilter("ignore", DeprecationWarning)
        import evidently
    return evidently
