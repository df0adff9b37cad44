import errno
import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from monitoring import pages
from monitoring.drift import write_report
from monitoring.figures import TOOLS, over_time_figure, paired_bars, reliability_figure
from monitoring.pages import KINDS, MEASURED, Pages, import_evidently, set_aside

ROOT = Path(__file__).parents[1]


def scores(n: int = 200, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    risk = generator.random(n)
    return pd.DataFrame({
        "risk": risk, "answer": "ham", "error": (generator.random(n) < risk).astype(float),
        "created_at": pd.date_range("2026-03-01", periods=n, freq="h", tz="UTC"),
    })


def write(folder: Path, kind: str = "release", name: str = "report", project: str = "spam"):
    return write_report(kind, scores(seed=1), scores(), folder, name, pages=Pages(folder / "workspace", project))


def snapshots(folder: Path) -> list[Path]:
    return sorted((folder / "workspace").glob("*/snapshots/*.json"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder in which one report of each kind was written."""
    folder = tmp_path_factory.mktemp("kept")
    assert [write(folder, kind, kind).not_kept for kind in KINDS] == [None] * len(KINDS)
    return folder


def test_the_plots_are_there_after_the_first_report_of_all_kinds_and_each_once(kept, tmp_path):
    write(tmp_path)
    for folder in (tmp_path, kept):
        [file] = (folder / "workspace").glob("*/dashboard.json")
        panels = json.loads(file.read_text())["panels"]
        assert [panel["title"] for panel in panels] == [
            f"{begin}: {title}" for begin in KINDS.values() for title in MEASURED]
        ids = {value["metric"] for panel in panels for value in panel["values"]}
        assert all(re.fullmatch(r"evidently:metric_v2:\w+", name) for name in ids)
    kinds = {json.loads(file.read_text())["tags"][0] for file in snapshots(kept)}
    assert kinds == set(KINDS)


def test_every_metric_that_is_plotted_exists():
    pages.import_evidently()
    from monitoring import metrics, sections

    for name in {name for shown in MEASURED.values() for name in shown}:
        found = getattr(metrics, name, None) or getattr(sections, name)
        assert found.__get_type__() == f"evidently:metric_v2:{name}"


def test_plots_of_before_are_replaced_and_those_of_others_stay(kept, tmp_path):
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import line_plot_panel, text_panel
    from evidently.ui.workspace import Workspace

    project = Workspace.create(str(tmp_path / "workspace")).create_project("spam")
    old = PanelMetric(metric="ErrorRate", legend="observed")
    project.dashboard.add_panel(line_plot_panel("Calibration error", values=[old]))
    project.dashboard.add_panel(text_panel("ours, by hand"))
    write(tmp_path)
    titles = [panel.title for panel in project.dashboard.model().panels]
    assert titles[0] == "ours, by hand" and "Calibration error" not in titles
    assert len(titles) == 1 + len(KINDS) * len(MEASURED)


def test_on_a_full_disk_the_files_are_written_and_nothing_is_lost_or_left_half(tmp_path, monkeypatch):
    import_evidently()  # without the warnings of its own imports
    from evidently.ui.storage.local.base import LocalState

    def full(self, project_id, snapshot_id, snapshot):
        path = tmp_path / "workspace" / str(project_id) / "snapshots" / f"{snapshot_id}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"half":')
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalState, "write_snapshot", full)
        files = write(tmp_path, name="first")  # not even the project is there yet
        assert "No space left on device" in files.not_kept and files.html.exists() and files.json.exists()
        assert [path.name for path in (tmp_path / "workspace").iterdir() if path.name != ".lock"] == []
    assert write(tmp_path, name="second").not_kept is None
    before = {path: path.read_bytes() for path in (tmp_path / "workspace").rglob("*") if path.is_file()}
    monkeypatch.setattr(LocalState, "write_snapshot", full)
    assert write(tmp_path, name="third").not_kept is not None
    assert {path: path.read_bytes() for path in (tmp_path / "workspace").rglob("*") if path.is_file()} == before


def test_a_workspace_that_cannot_be_written_or_read_costs_no_report(tmp_path):
    (tmp_path / "workspace").touch()
    files = write(tmp_path)
    assert "cannot be written" in files.not_kept and files.html.exists()
    (tmp_path / "workspace").unlink()
    assert write(tmp_path).not_kept is None
    [metadata] = (tmp_path / "workspace").glob("*/metadata.json")
    metadata.write_text("{damaged")
    files = write(tmp_path)
    assert "cannot be read by this version of Evidently" in files.not_kept and files.html.exists()
    assert metadata.read_text() == "{damaged" and len(snapshots(tmp_path)) == 1


def test_a_workspace_in_use_is_waited_for_and_said_to_be(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(pages, "FileLock", lambda path, timeout: FileLock(path, timeout=0.1))
    with FileLock(tmp_path / "workspace" / ".lock"):
        assert "in use" in write(tmp_path).not_kept


def test_damaged_snapshots_and_those_of_others_are_set_aside_and_not_lost(kept, tmp_path):
    write(tmp_path)
    [good] = snapshots(tmp_path)
    content = json.loads(good.read_text())
    name = next(iter(content["metric_results"]))
    content["metric_results"][name]["type"] = "evidently:metric_result_v9:Later"
    odd = {"01a2199e-b540-71f9-b54e-677df806f447": "{half", "01a2199e-b540-71f9-b54e-677df806f448": json.dumps(content),
           "01a2199e-b540-71f9-b54e-677df806f449": "[]"}
    for key, text in odd.items():
        (good.parent / f"{key}.json").write_text(text)
    aside = set_aside(tmp_path / "workspace")
    assert sorted(path.name for path in aside) == [f"{key}.json.unreadable" for key in odd]
    assert [path.read_text() for path in sorted(aside)] == list(odd.values())
    assert snapshots(tmp_path) == [good]
    assert set_aside(kept / "workspace") == []


def test_a_project_whose_file_is_damaged_is_set_aside_and_the_others_are_shown(tmp_path):
    from evidently.ui.service.storage.local.base import LocalState

    for project in ("spam", "news"):
        write(tmp_path, project=project)
    workspace = tmp_path / "workspace"
    [spam] = [file for file in workspace.glob("*/metadata.json") if json.loads(file.read_text())["name"] == "spam"]
    [news] = [folder for folder in workspace.glob("*/") if folder not in (spam.parent, workspace / ".lock")]
    spam.write_text("{half")
    (news / "dashboard.json").write_text("[]")
    aside = set_aside(workspace)
    assert aside == [workspace / f"{spam.parent.name}.unreadable", news / "dashboard.json.unreadable"]
    assert (aside[0] / "metadata.json.unreadable").read_text() == "{half"
    assert [project.name for project in LocalState.load(str(workspace), None).projects.values()] == ["news"]
    assert set_aside(workspace) == [] and write(tmp_path, project="news").not_kept is None
    assert len(json.loads((news / "dashboard.json").read_text())["panels"]) == len(KINDS) * len(MEASURED)
    assert write(tmp_path, project="spam").not_kept is None  # in a new project of that name


def test_the_pages_show_what_was_kept(kept):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = ("import sys; from pathlib import Path; from monitoring.pages import serve_pages; "
               "serve_pages(Path(sys.argv[1]), int(sys.argv[2]), lambda: print('ready', flush=True))")
    server = subprocess.Popen([sys.executable, "-c", program, str(kept / "workspace"), str(port)], cwd=ROOT,
                              stdout=subprocess.PIPE, text=True)
    giving_up = threading.Timer(90, server.kill)
    giving_up.start()
    try:
        assert server.stdout.readline() == "ready\n"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            for _ in range(50):
                try:
                    [project] = client.get("/api/projects").raise_for_status().json()
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            assert project["name"] == "spam"
            shown = client.get(f"/api/v2/dashboards/{project['id']}").raise_for_status().json()
            assert len(shown["panels"]) == len(KINDS) * len(MEASURED)
            reports = client.get(f"/api/projects/{project['id']}/snapshots").raise_for_status().json()
            assert {report["name"] for report in reports} == set(KINDS)
    finally:
        giving_up.cancel()
        server.terminate()
        server.communicate()


def test_no_button_lies_over_a_legend():
    shares = pd.DataFrame({"place": ["a", "b"], "reference": [0.5, 0.5], "current": [0.2, 0.8]})
    bins = pd.DataFrame({"low": [0.0], "high": [0.1], "n": [9], "mean_risk": [0.05], "error_rate": [0.1],
                         "error_low": [0.0], "error_high": [0.4]})
    periods = pd.DataFrame({"start": ["2026-03-01"], "n": [9], "mean_risk": [0.1], "labelled": [7],
                            "error_rate": [0.1], "error_low": [0.0], "error_high": [0.4], "side": ["now"]})
    for figure in (paired_bars(shares, ("before", "now")), reliability_figure(bins), over_time_figure(periods)):
        layout = figure.layout
        assert tuple(layout.modebar.remove) == tuple(TOOLS)
        assert (layout.legend.orientation, layout.legend.xanchor, layout.legend.yanchor) == ("h", "left", "bottom")
        assert layout.legend.y > 1  # above the plot, and at the left, where there is no button
