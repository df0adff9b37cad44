"""A team's set-up: MLflow's server on PostgreSQL, artefacts behind it by URI, its webhooks."""

import json
import os
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue

import pytest

from registry import webhooks
from registry.versions import Versions
from tests.commandline import runner
from training.errors import InputError
from training.fit import FitConfig
from training.job import train
from training.model import load
from training.spec import WEIGHTS
from training.state import State

# MLflow's own imports and models, in this process.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic"),
]

TASK = """
[task]
name = "mail"
classes = ["ham", "spam"]
[data]
path = "data.jsonl"
label = "label"
[[sources]]
name = "friend"
[[sources]]
name = "rules"
"""
DOCS = Path(__file__).resolve().parent.parent / "docs" / "team.md"
SECRET = "a secret that both sides know"
SAID = ("See you at noon", "Buy now, cheap")


@pytest.fixture(scope="module")
def team(mlflow_server, postgres, tmp_path_factory):
    """The state of a member of the team: runs and versions on the server, the log in PostgreSQL; one version."""
    chance = random.Random(0)

    def mostly(gold, share):
        return gold if chance.random() < share else 1 - gold

    rows = [{"id": str(number), "text": f"{SAID[number % 2]} {number}", "answer": mostly(number % 2, 0.8),
             "votes": [mostly(number % 2, 0.7), mostly(number % 2, 0.9)], "label": number % 2,
             "split": ("train", "train", "train", "valid", "test")[number % 5]} for number in range(80)]
    folder = tmp_path_factory.mktemp("task")
    (folder / "task.toml").write_text(TASK)
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with postgres.schema() as database:
        home = tmp_path_factory.mktemp("member")
        state = State.from_environment({
            "POLARSCORE_HOME": str(home), "POLARSCORE_KEYS": str(tmp_path_factory.mktemp("member-keys")),
            "MLFLOW_TRACKING_URI": mlflow_server, "POLARSCORE_DATABASE_URL": database})
        train(folder, state, FitConfig(epochs=2))
        yield state


@pytest.fixture
def versions(team):
    return Versions(team)


def test_a_version_trained_into_the_server_is_read_back_from_it(team, versions):
    (version,) = versions.list("mail")
    assert versions.models() == ["mail"] and versions.aliases("mail") == {"candidate": 1}
    assert (version.version, version.stage, version.aliases) == (1, "candidate", ("candidate",))
    assert version == versions.get("models:/mail/1") == versions.get("models:/mail@candidate")
    assert version == versions.holder("mail", "candidate") == versions.newest(None, 1)[0][0]
    assert versions.holder("mail", "production") is None
    assert version.measures("valid")["n"] > 0
    assert not (team.home / "mlflow.db").exists() and not (team.home / "artifacts").exists()


def test_its_files_come_from_the_artefact_store_once_and_go_away_again(team, versions):
    version = versions.get("models:/mail/1")
    folder = versions.folder(version)
    assert versions.folder(version) == folder and (folder / WEIGHTS).is_file()
    assert load(folder).spec.name == versions.spec(version).name == "mail"
    assert len(versions.reference(version)) > 0
    assert versions.run_tag(version, "polarscore.task_dir")
    del versions
    # pytest keeps the fixture's; another one's files go with it
    others = Versions(team)
    fetched = others.folder(version)
    assert fetched != folder and fetched.is_dir()
    del others
    assert not fetched.exists()


@pytest.mark.parametrize(("uri", "message"), [
    ("models:/mail/9", "model 'mail' has no version 9"),
    (f"models:/mail/{2**40}", "has no version"),
    ("models:/mail@production", "model 'mail' has no alias 'production'. It has: candidate."),
    ("models:/letters/1", "no model 'letters' is registered. Registered: mail."),
    ("models:/letters@candidate", "no model 'letters' is registered. Registered: mail."),
])
def test_what_the_server_does_not_have_is_named(versions, uri, message):
    with pytest.raises(InputError, match=message):
        versions.get(uri)


def test_threads_may_share_one_registry_or_have_their_own(team, versions):
    def look(number):
        own = versions if number % 2 else Versions(team)
        version = own.get("models:/mail@candidate")
        return own.newest("mail", 5), load(own.folder(version)).spec.data_digest

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(look, range(8)))
    assert all(each == found[0] for each in found)


def test_a_server_that_is_not_there_is_one_line(team, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"MLflow's store cannot be opened") as refusal:
        Versions(replace(team, tracking_uri="http://127.0.0.1:9"))
    assert "\n" not in str(refusal.value)


def documented():
    """How a receiver checks a delivery, as the docs say."""
    said: dict = {}
    exec(re.search(r"```python\n(.*?)```", DOCS.read_text(), re.S)[1], said)
    return said["is_from_mlflow"]


@pytest.fixture
def receiver():
    """A receiver of webhooks on loopback: its URL, and what came in, as headers and body."""
    came = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            came.put((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/promotions", came
        server.shutdown()


def test_an_alias_that_moves_is_announced_signed_as_docs_say(team, versions, receiver):
    url, came = receiver
    is_from_mlflow = documented()
    added = webhooks.add(team, url, "receiver", os.environ | {
        webhooks.SECRET: SECRET, webhooks.SCHEMES: "http,https"})
    assert webhooks.listed(team) == [added] and added.url == url and added.active
    versions.client.set_registered_model_alias("mail", "announced", "1")
    headers, body = came.get(timeout=30)
    told = json.loads(body)
    assert (told["entity"], told["action"]) == ("model_version_alias", "created")
    assert told["data"] == {"name": "mail", "alias": "announced", "version": "1"}
    assert is_from_mlflow(headers, body, SECRET)
    assert not is_from_mlflow(headers, body + b" ", SECRET) and not is_from_mlflow(headers, body, SECRET[1:])
    assert not is_from_mlflow(headers | {"X-MLflow-Timestamp": "1"}, body, SECRET)
    assert not is_from_mlflow(headers, body, SECRET, within_s=-1) and not is_from_mlflow({}, body, SECRET)
    versions.client.delete_registered_model_alias("mail", "announced")
    assert json.loads(came.get(timeout=30)[1])["action"] == "deleted"
    webhooks.remove(team, "receiver")
    assert webhooks.listed(team) == []


def test_a_team_promotes_rolls_back_and_is_told(team, versions, receiver, monkeypatch, capfd):
    (url, came), is_from_mlflow = receiver, documented()
    task = versions.run_tag(versions.get("models:/mail/1"), "polarscore.task_dir")
    for seed in (1, 2):
        train(Path(task), team, FitConfig(epochs=2, seed=seed), name="post")
    for name, value in (("POLARSCORE_HOME", team.home), ("POLARSCORE_KEYS", team.keys),
                        ("MLFLOW_TRACKING_URI", team.tracking_uri), ("POLARSCORE_DATABASE_URL", team.database_url),
                        (webhooks.SECRET, SECRET), (webhooks.SCHEMES, "http,https")):
        monkeypatch.setenv(name, str(value))
    run = runner(monkeypatch, capfd)
    assert "POLARSCORE_WEBHOOK_SECRET" not in run("registry", "webhook", "add", "ci", url, "--json").err
    assert run("registry", "webhook", "list").out.count("ci") == 1

    first = run("registry", "promote", "models:/post/1", "--to", "staging", "--why", "a shadow", "--json").json()
    assert {gate["name"]: gate["state"] for gate in first["gates"]}["loads"] == "pass"
    (team.home / "gates.toml").write_text("[production.gates.sound]\n")  # what takes no time
    run("registry", "promote", "models:/post/1", "--to", "production")
    second = run("registry", "promote", "models:/post/2", "--to", "production", "--json").json()
    assert (second["version"], second["replaced"]) == (2, 1)
    assert run("registry", "verify", "post", "--json").json()["ok"]
    found = run("registry", "evidence", "post", "--out", team.home / "copied", "--json").json()
    assert found["version"] == 2
    assert (team.home / "copied" / "card.md").read_text().startswith("# post, version 2\n")
    assert run("registry", "rollback", "post", "--who", "bob", "--json").json()["version"] == 1
    assert [entry["action"] for entry in run("registry", "history", "post", "--json").json()] == [
        "promote", "promote", "promote", "rollback"]
    assert run("registry", "verify", "post").out == "log, aliases, files and evidence agree: post\n"

    told = []
    while len(told) < 5:
        headers, body = came.get(timeout=30)
        assert is_from_mlflow(headers, body, SECRET)
        told.append(json.loads(body))
    assert sorted((each["data"]["alias"], each["action"], each["data"].get("version", "")) for each in told) == [
        ("production", "created", "1"), ("production", "created", "1"), ("production", "created", "2"),
        ("staging", "created", "1"), ("staging", "deleted", "")]
    assert run("registry", "webhook", "remove", "ci", "--json").json() == {"removed": "ci"}
    versions.client.set_registered_model_alias("post", "production", "2")
    assert "points at version 2, and the log says version 1" in run("registry", "verify", "post").refused(1)
    assert run("registry", "verify", "post", "--repair").code == 0
