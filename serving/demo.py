"""The whole loop on the bundled film reviews, in one folder: train, promote, bundle, serve, feedback, report.

Every step is the one that a user would run; only what to say to the service is made up here.
"""

import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np

from monitoring.watch import check, report
from registry.bundling import bundle
from registry.evidence import fetch
from registry.gate_config import read_gates
from registry.judging import Judged, judge
from registry.opening import Registry
from registry.promotion import promote
from registry.stages import PRODUCTION, STAGING
from registry.verification import verify
from registry.versions import Version
from serving.config import SERVICE
from serving.keyfile import API_KEYS
from serving.launch import running
from training.calibration import measures, riskiest_share
from training.errors import InputError
from training.figures import histogram_figure, reliability_figure, risk_coverage_figure
from training.fit import FitConfig
from training.job import Progress, train
from training.risk import majority_vote_risk
from training.sources import ABSTAIN
from training.state import State
from training.table import Table, read_table
from training.task import read_task

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "reviews"
REQUEST_ITEMS = 200
WHO = "polarscore demo"


def run_demo(folder: Path, port: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the loop in `folder`; what it found and where the pictures are.

    say: is told, a line each, what is done and how long it took.

    Raises:
        InputError: the bundled example is not beside the code, or the folder cannot be written.
    """
    folder = folder.absolute()
    state = _state_in(folder)
    steps = _Steps(say)
    task_dir = _make_task(folder / "task")
    table = read_table(read_task(task_dir))
    steps.done(f"read {len(table):,} film-review sentences, real LLM answers, {len(table.sources)} sources")
    trained = train(task_dir, state, FitConfig(), progress=Progress(encoded=steps.encoding))
    steps.done(f"trained without labels, logged run {trained.run_id[:8]}, "
               f"registered models:/{trained.model}/{trained.version}")
    tag, evidence = _promote(state, trained.model, trained.version, steps)
    test = table.split("test")
    with running(tag, state, port) as url:
        steps.done(f"served it on {url}")
        risk, score_ids = _score_over_http(url, test)
        steps.done(f"scored {len(risk):,} answers over HTTP")
        answered = np.flatnonzero(test.answers != ABSTAIN)
        checked = np.random.default_rng(0).permutation(answered)[: len(answered) // 2]
        _give_feedback(url, [score_ids[row] for row in checked], [test.classes[test.labels[row]] for row in checked],
                       len(checked) / len(answered))
        steps.done(f"gave feedback on {len(checked):,} of them, drawn at random")
    written = report(state, trained.model, folder / "report")
    alarms = check(state, trained.model)
    steps.done("wrote the Evidently report, and looked for alarms: "
               + (", ".join(alarm.name for alarm in alarms if alarm.state == "alarm") or "none"))
    paths = _pictures(folder / "pictures", risk, test) | {
        "Evidently report": written["html"], "model card": evidence, "state, for the commands": str(state.home)}
    return {"found": _found(risk, test), "paths": paths, "seconds": round(steps.total)}


class _Steps:
    """Says what has been done, with the seconds since the last word."""

    def __init__(self, say: Callable[[str], None]):
        self._say, self._last, self._told = say, time.monotonic(), 0
        self.total = 0.0

    def done(self, what: str) -> None:
        spent = time.monotonic() - self._last
        self._last, self.total = time.monotonic(), self.total + spent
        self._say(f"[{self.total:5.1f} s] {what}")

    def encoding(self, done: int, of: int) -> None:
        tenth = done * 4 // of
        if tenth > self._told:
            self._told = tenth
            self._say(f"          encoded {done:,} of {of:,} sentences")


def _state_in(folder: Path) -> State:
    """All state and the keys inside the folder, whatever the environment says, also for the service."""
    home = folder / "state"
    for name in ("MLFLOW_TRACKING_URI", "POLARSCORE_DATABASE_URL", SERVICE, API_KEYS):
        os.environ.pop(name, None)
    os.environ |= {"POLARSCORE_HOME": str(home), "POLARSCORE_KEYS": str(folder / "keys")}
    return State.from_environment().prepare()


def _make_task(folder: Path) -> Path:
    if not (EXAMPLE / "task.toml").is_file():
        raise InputError(f"the bundled example is not in {EXAMPLE}. Run the demo from a checkout of polarscore.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("task.toml", "sources.py"):
        shutil.copyfile(EXAMPLE / name, folder / name)
    _example_code().prepare(folder)
    return folder


def _example_code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("polarscore_example", EXAMPLE / "prepare.py")
    if spec is None or spec.loader is None:
        raise InputError(f"{EXAMPLE / 'prepare.py'} cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _promote(state: State, model: str, number: int, steps: "_Steps") -> tuple[str, str]:
    """Through the gates to production, and into a Bento. Gives its tag and the place of the model card."""
    with Registry.open(state) as registry:
        for stage in (STAGING, PRODUCTION):
            promote(registry, registry.versions.number(model, number), stage, partial(_judge, state, registry, stage),
                    WHO, "the demo")
            steps.done(f"promoted it to {stage}: its gates passed, evidence signed and logged")
        tag = bundle(registry, registry.versions.number(model, number))
        uri, _ = registry.history.evidence(model, number) or ("", "")
        off = verify(registry, model)
        steps.done(f"bundled it as {tag}; the registry is {'whole' if not off else off[0].what}")
        return tag, str(fetch(uri) / "card.html")


def _judge(state: State, registry: Registry, to: str, new: Version, old: Version | None) -> Judged:
    """By the default gates. Nobody measures the bundle, to save a minute: latency and memory stay unknown."""
    return judge(state, registry.versions, new, old, to, read_gates())


def _score_over_http(url: str, table: Table) -> tuple[np.ndarray, list[str]]:
    """Risks (n,), NaN without an answer, and score ids, asked for in requests of 200 items."""
    items = [{"id": str(table.ids[row]), "text": table.texts[row], "answer": int(table.answers[row]),
              "votes": {source.name: int(vote) for source, vote in zip(table.sources, table.votes[row], strict=True)
                        if vote != ABSTAIN}} for row in range(len(table))]
    found: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        for start in range(0, len(items), REQUEST_ITEMS):
            answer = client.post("/score", json={"items": items[start : start + REQUEST_ITEMS]})
            answer.raise_for_status()
            found += answer.json()["scores"]
    risk = np.array([np.nan if row["risk"] is None else row["risk"] for row in found])
    return risk, [row["score_id"] for row in found]


def _give_feedback(url: str, score_ids: list[str], labels: list[str], share: float) -> None:
    """The labels of a random share of the answers; that it was one is what lets them speak for the others."""
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        for score_id, label in zip(score_ids, labels, strict=True):
            client.post("/feedback", json={"score_id": score_id, "label": label, "chosen": "random",
                                           "probability": share}).raise_for_status()


def _pictures(folder: Path, risk: np.ndarray, table: Table) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    told = table.answers != ABSTAIN
    errors = (table.answers != table.labels)[told].astype(float)
    drawn = {
        "reliability": reliability_figure(risk[told], errors, "Is the risk true? Film reviews, test split"),
        "risk_histogram": histogram_figure(risk[told], errors, "Risks of right and wrong answers"),
        "risk_coverage": risk_coverage_figure(risk[told], errors, "What accepting the safest answers buys"),
    }
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    return {name.replace("_", " "): str(folder / f"{name}.png") for name in drawn}


def _found(risk: np.ndarray, table: Table) -> dict[str, str]:
    told = table.answers != ABSTAIN
    rows = table.rows(told)
    errors = (rows.answers != rows.labels).astype(float)
    ours, theirs = measures(risk[told], errors), measures(majority_vote_risk(rows.answers, rows.votes), errors)
    share = riskiest_share(risk[told], errors, 0.1)

    def beside(key: str) -> str:
        return f"{ours[key]:.3f}  (majority vote {theirs[key]:.3f})"  # type: ignore[literal-required]

    return {
        "answers": f"{ours['n']:,}",
        "error rate of the LLM": f"{ours['error_rate']:.1%}",
        "mean risk": f"{ours['mean_risk']:.1%}",
        "ECE": beside("ece"), "R²": beside("r2"), "AUROC": beside("auroc"),
        "errors in the riskiest tenth": f"{share:.0%}",
    }
