"""Evidently's pages: a local workspace that keeps the reports, with plots over time, and the server that shows it."""

import io
import os
import socket
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock

from training.errors import InputError

MEASURED = {
    "Observed errors, and those that the risks predict": {"ErrorRate": "observed", "MeanRisk": "predicted"},
    "Calibration error": {"ExpectedCalibrationError": "ECE"},
    "How well risk tells wrong from right": {"RiskAuroc": "AUROC"},
    "Answers scored": {"Summary": "scores"},
}
"""What Evidently's pages plot over the reports: a title, and metrics of `monitoring.metrics` with their legends."""


@dataclass(frozen=True)
class Pages:
    """Where Evidently's pages find a report: its workspace, and a project there, one a model."""

    workspace: Path
    project: str


def keep(snapshot: Any, pages: Pages) -> None:
    """Add a report to its project; a new project gets the plots of `MEASURED`."""
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import line_plot_panel
    from evidently.ui.workspace import Workspace

    pages.workspace.mkdir(parents=True, exist_ok=True)
    with FileLock(pages.workspace / ".lock"):  # or two reports at once would both make the project
        workspace = Workspace.create(str(pages.workspace))
        found = [project for project in workspace.list_projects() if project.name == pages.project]
        project = found[0] if found else workspace.create_project(pages.project)
        if not found:
            for title, metrics in MEASURED.items():
                project.dashboard.add_panel(line_plot_panel(title, size="half", values=[
                    PanelMetric(metric=f"evidently:metric_v2:{name}", legend=legend)
                    for name, legend in metrics.items()]))
        workspace.add_run(project.id, snapshot)


def serve_pages(workspace: Path, port: int, ready: Callable[[], None]) -> None:
    """Serve Evidently's pages on a workspace, on this machine alone, until interrupted; `ready` is called before.

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
