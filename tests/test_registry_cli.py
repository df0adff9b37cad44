"""The registry from the command line: what a person gives it, reads of it, and gets wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry import bundling, judging
from registry.gates import FAIL, PASS, UNKNOWN, Gate
from registry.keys import Keys
from registry.opening import Registry
from registry.verification import verify
from tests import registries
from tests.commandline import runner
from tests.registries import judged
from tests.test_schema import made_by_0_2_0
from training.errors import InputError
from training.state import State

ROOT = Path(__file__).resolve().parent.parent
# MLflow's own imports and models, in this process.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic"),
]
GATES = (Gate("ece", PASS, "0.100", 0.1, None), Gate("aurc", UNKNOWN, "5 labelled answers, 30 needed"))
QUICK = "[staging.gates.sound]\n[production.gates.sound]\n"  # gates for which nothing need run


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    home = tmp_path_factory.mktemp("registry") / "state"
    registries.template(home)
    return home


@pytest.fixture(scope="module")
def promoted(template, tmp_path_factory):
    """A state in which 1 was in production, 2 is, and 3 is in staging; its keys lie beside it."""
    home = tmp_path_factory.mktemp("promoted") / "state"
    with Registry.open(registries.copied(template, home)) as registry:
        for number, to in ((1, "production"), (2, "production"), (3, "staging")):
            registries.move(registry, number, to, why="as planned")
    return home


@pytest.fixture
def run(monkeypatch, capfd):
    return runner(monkeypatch, capfd)


@pytest.fixture
def gates(monkeypatch):
    """What judges say; a test may say something else. Nothing is put into a model store."""
    said = list(GATES)
    monkeypatch.setattr(judging, "judge", lambda *arguments: judged(*said))
    monkeypatch.setattr(bundling, "offer", lambda registry, version: "")
    return said


def enter(monkeypatch, tmp_path, source):
    """Be in a folder with a copy of a state, as the environment says."""
    registries.copied(source, tmp_path / "state")
    if (source.parent / "keys").is_dir():
        shutil.copytree(source.parent / "keys", tmp_path / "keys")
    for name in ("POLARSCORE_DATABASE_URL", "MLFLOW_TRACKING_URI", "POLARSCORE_KEY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("POLARSCORE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("POLARSCORE_KEYS", str(tmp_path / "keys"))
    monkeypatch.chdir(tmp_path)
    return State.from_environment()


@pytest.fixture
def fresh(monkeypatch, tmp_path, template, gates):
    """The state of somebody who has promoted nothing yet."""
    return enter(monkeypatch, tmp_path, template)


@pytest.fixture
def state(monkeypatch, tmp_path, promoted, gates):
    """The state of somebody who has promoted a few versions."""
    return enter(monkeypatch, tmp_path, promoted)


def seen(state):
    """All that a refused command must leave alone: log, aliases, tags, keys, and what lies in the folders."""
    with Registry.open(state) as registry:
        versions = {version.version: version.tags for version in registry.versions.list("mail")}
        return (registry.history.entries("mail"), registry.history.intention("mail"),
                registry.versions.aliases("mail"), registry.versions.model_tags("mail"), versions,
                sorted(path.relative_to(state.keys.parent) for place in (state.keys, state.artifacts)
                       for path in place.rglob("*")))


def test_a_version_goes_the_whole_way_and_each_step_says_what_it_did(run, fresh):
    gate = run("registry", "gate", "--to", "staging")
    assert gate.code == 0 and gate.out.endswith("models:/mail/4 may go to staging\n")
    assert not fresh.keys.exists()  # to look needs no key
    first = run("registry", "promote", "--to", "staging", "--why", "first")
    assert first.out.startswith("version 4 of 'mail': candidate → staging\nevidence: runs:/")
    assert first.out.endswith("; to read it: polarscore registry evidence models:/mail/4\n")
    assert first.err.splitlines() == [
        f"made a key that signs promotions: {fresh.keys / 'signing.pem'}, and its public key in trusted/ beside it. "
        "Keep it safe", "not judged, aurc: 5 labelled answers, 30 needed"]
    second = run("registry", "promote", "--to", "production", "--no-measure", "--json").json()
    assert (second["version"], second["from"], second["to"], second["replaced"]) == (4, "staging", "production", None)
    assert run("registry", "promote", "models:/mail/1", "--to", "production", "--no-measure").out.startswith(
        "version 1 of 'mail': candidate → production, in place of version 4\n")
    back = run("registry", "rollback", "--why", "worse", "--who", "Ada")
    assert back.out.startswith("version 4 of 'mail': archived → production, in place of version 1\n")
    assert back.err == ""
    rows = run("registry", "history").out
    for words in ("candidate → staging", "staging → production", "candidate → production, in place of 4",
                  "rollback, archived → production, in place of 1", "1 passed, 1 unknown", "Ada", "first", "worse"):
        assert words in rows
    assert run("registry", "verify").out == "log, aliases, files and evidence agree: mail\n"


COMMANDS = [
    ["list"], ["show"], ["history"], ["at", "2026-01-01"], ["verify"], ["key"], ["migrate"], ["evidence"],
    ["diff", "models:/mail/1", "models:/mail/2"], ["gate", "--no-measure"], ["rollback"],
    ["promote", "--to", "archived"], ["promote", "models:/mail/3", "--to", "production", "--no-measure"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_prints_json_alone(run, state, command):
    ran = run("registry", *command, "--json")
    assert ran.code == 0 and ran.json() is not None


def test_the_log_is_whole_on_a_narrow_terminal(run, state, monkeypatch):
    from training import printing

    monkeypatch.setattr(printing.out, "_width", 80)
    run("registry", "rollback", "--who", "somebody@a-machine-with-a-long-name", "--why", "too many answers were wrong")
    lines = run("registry", "history").out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    for words in ("entry", f"{datetime.now(UTC):%Y-%m-%d %H}:", "rollback", "in place", "somebody", "too many"):
        assert any(words in line for line in lines), words


def test_the_newest_entries_are_shown_and_the_others_counted(run, state):
    ran = run("registry", "history", "--limit", "2", "--json")
    assert [entry["seq"] for entry in ran.json()] == [2, 3]
    assert ran.err == "and 1 earlier entries: --limit 3 shows all\n"
    ran = run("registry", "list", "--limit", "1", "--json")
    assert [row["version"] for row in ran.json()] == [4, 3, 2]  # the newest, and those with an alias
    assert ran.err == "there are older versions, too; --limit N shows more than 1\n"
    assert run("registry", "list", "--limit", "4", "--json").err == ""


def test_evidence_is_found_and_copied_to_a_new_folder(run, state):
    found = run("registry", "evidence", "--json").json()
    assert found["version"] == 2 and (Path(found["folder"]) / "card.md").is_file()  # the one in production
    assert run("registry", "evidence", "models:/mail/3", "--out", "there").out.endswith(f"{Path('there').absolute()}\n")
    assert json.loads(Path("there/evidence.json").read_text())["promotion"]["to_stage"] == "staging"
    before = seen(state)
    assert "--out there exists already. Name a new folder" in run("registry", "evidence", "--out", "there").refused()
    assert "models:/mail/4 was never promoted to staging or production" in run(
        "registry", "evidence", "models:/mail/4").refused()
    assert seen(state) == before


def test_before_the_first_promotion_there_is_little_to_see(run, fresh):
    assert "no version of 'mail' is in staging or production. Name one" in run("registry", "evidence").refused()
    assert "no version has been in production" in run("registry", "rollback").refused()
    assert run("registry", "history").out == "no version of 'mail' has changed its stage yet\n"
    assert run("registry", "at", "2026-01-01").out == "none\n"
    assert run("registry", "verify").out == "log, aliases, files and evidence agree: mail\n"


WRONG = [
    (["promote", "--to", "canary"], "stage 'canary' is unknown. Expected one of candidate, staging, production, arch"),
    (["gate", "--to", "archived"], "no gate stands before 'archived'. Expected one of staging, production."),
    (["promote", "letters", "--to", "staging"], "no model 'letters' is registered. Registered: mail."),
    (["promote", "models:/mail/9", "--to", "staging"], "model 'mail' has no version 9. See: polarscore registry list"),
    (["promote", "models:/mail@nope", "--to", "staging"], "has no alias 'nope'. It has: candidate, production, stag"),
    (["promote", "mail/3", "--to", "staging"], "'mail/3' names no version. Expected models:/NAME/VERSION or"),
    (["promote", "models:/mail/2", "--to", "production"], "version 2 of 'mail' is in production already"),
    (["promote", "models:/mail/3", "--to", "staging"], "version 3 of 'mail' is in staging already"),
    (["gate", "models:/mail/2", "--to", "production"], "version 2 of 'mail' is in production already"),
    (["gate", "models:/mail/1"], "is archived. To have it judged anew, promote it --to candidate first"),
    (["promote", "models:/mail/1", "--to", "production"], "is archived. To have it judged anew, promote it --to cand"),
    (["promote", "models:/mail/2", "--to", "archived"], "is in production. To take it out, promote another or run:"),
    (["promote", "models:/mail/3", "--to", "candidate"], "version 3 of 'mail' cannot go from staging to candidate"),
    (["promote", "--to", "archived", "--split", "test"], "no gate stands before 'archived'. --task, --split and --ga"),
    (["promote", "--to", "staging", "--why", "a\nb"], "--why should be one line of printable text of at most 2,000"),
    (["promote", "--to", "staging", "--why", "x" * 5000], "at most 2,000 characters. Found 5,000 characters"),
    (["promote", "--to", "staging", "--who", "a\tb"], "--who should be one line of printable text"),
    (["rollback", "--who", "a\nb"], "--who should be one line of printable text"),
    (["rollback", "letters"], "no model 'letters' is registered. Registered: mail."),
    (["history", "--limit", "0"], "Invalid value for '--limit': Input should be greater than or equal to 1"),
    (["list", "--limit", "0"], "Invalid value for '--limit': Input should be greater than or equal to 1"),
    (["at", "yesterday"], "'yesterday' is no moment. Expected a form such as 2026-11-20T12:00"),
    (["at", "0001-01-01T00:00+05:00"], "is no moment"),
    (["at", "9999-01-01"], "9999-01-01 00:00 UTC has not come yet. What is in production now: polarscore"),
    (["verify", "letters"], "no model 'letters' is registered"),
    (["diff", "models:/mail/1", "mail"], "'mail' names no version"),
    (["webhook", "list"], "webhooks are delivered by MLflow's server, and MLflow is a database here. Start a server"),
    (["webhook", "add", "ci", "https://a.example"], "webhooks are delivered by MLflow's server"),
    (["webhook", "remove", "ci"], "webhooks are delivered by MLflow's server"),
]


@pytest.mark.parametrize(("command", "message"), WRONG, ids=[" ".join(words)[:40] for words, _ in WRONG])
def test_a_wrong_command_is_one_line_and_changes_nothing(run, state, command, message):
    before = seen(state)
    ran = run("registry", *command)
    assert message in ran.refused() and ran.out == ""
    assert seen(state) == before


@pytest.mark.parametrize(("content", "message"), [
    (None, "gates.toml does not exist. Expected a file of gates such as"),
    ("[production", "is not valid TOML"),
    ("[canary]\n", "unknown transition 'canary'. Expected one of staging, production"),
    ("[staging]\ncolour = 1\n", "unknown key 'colour'"),
    ("[staging.gates.beauty]\n", "unknown gate 'beauty'. Expected one of sound, agreement"),
    ("[staging.gates.ece]\nmargin = 1.5\n", "expected a share from 0 to 1. Found 1.5"),
    ("[staging.gates.ece]\nmargin = nan\n", "expected a share from 0 to 1. Found nan"),
    ("[staging]\nmin_labelled = 0\n", "expected a whole number of at least 1. Found 0"),
])
@pytest.mark.parametrize("command", ["promote", "gate"])
def test_gates_at_fault_are_named_and_change_nothing(run, fresh, command, content, message):
    if content is not None:
        Path("gates.toml").write_text(content)
    before = seen(fresh)
    ran = run("registry", command, "--to", "staging", "--gates", "gates.toml")
    assert message in ran.refused() and "gates.toml" in ran.err
    assert seen(fresh) == before


@pytest.mark.parametrize(("toml", "message"), [
    (None, "nowhere/task.toml does not exist"),
    ('classes = ["ham", "eggs"]', "the task's classes are not those of the version of 'mail'. Expected ham, spam"),
    ('classes = ["ham"]', "at least two classes"),
])
def test_a_task_to_judge_by_at_fault_is_named(run, promoted, monkeypatch, tmp_path, toml, message):
    state = enter(monkeypatch, tmp_path, promoted)
    Path("gates.toml").write_text(QUICK)
    if toml:
        Path("nowhere").mkdir()
        Path("nowhere/task.toml").write_text(
            f'[task]\nname = "mail"\n{toml}\n[data]\npath = "data.csv"\nsplit = "split"\n'
            '[[sources]]\nname = "friend"\n')
        Path("nowhere/data.csv").write_text("id,text,split,answer,vote:friend\na,See you at noon,valid,ham,ham\n")
    before = seen(state)
    for command in ("promote", "gate"):
        ran = run("registry", command, "--to", "staging", "--gates", "gates.toml", "--task", "nowhere")
        assert message in ran.refused()
    assert seen(state) == before


def test_a_refusal_by_the_gates_says_which_and_why(run, state, gates):
    gates[:] = [Gate("ece", FAIL, "0.300 beside 0.100 of the champion", 0.3, 0.1)]
    before = seen(state)
    refused = run("registry", "promote", "--to", "staging").refused(1)
    assert "version 4 of 'mail' stays in candidate. ece: 0.300 beside 0.100" in refused
    ran = run("registry", "gate", "--to", "staging", "--json")
    assert ran.json()["allowed"] is False and "version 4 of 'mail' may not go to staging. ece: 0.300" in ran.refused(1)
    assert seen(state) == before


def test_a_service_that_cannot_have_the_version_yet_is_told_of(run, state, monkeypatch):
    def fail(registry, version):
        raise InputError("the model store is full.")

    monkeypatch.setattr(bundling, "offer", fail)
    ran = run("registry", "rollback")
    assert ran.code == 0
    assert ran.err == "warning: a service that follows cannot have version 1 yet: the model store is full\n"


def private_gone(keys):
    (keys / "signing.pem").unlink()


def private_of_another(keys):
    Keys(keys.parent / "others").make({})
    shutil.copyfile(keys.parent / "others" / "signing.pem", keys / "signing.pem")


def private_locked(keys):
    Keys(keys.parent / "locked").make({"POLARSCORE_KEY_PASSWORD": "a secret"})
    shutil.copytree(keys.parent / "locked", keys, dirs_exist_ok=True)


def private_damaged(keys):
    (keys / "signing.pem").write_text("no key")


def trusted_damaged(keys):
    (keys / "trusted" / "a.pem").write_text("no key")


def heads_damaged(keys):
    (keys / "heads.json").write_text("{")


@pytest.mark.parametrize(("change", "message", "password"), [
    (private_gone, "there is no signing key at {}/signing.pem. Make one: polarscore registry key. Or set", None),
    (private_of_another, "the signing key {}/signing.pem is not trusted here: its public key", None),
    (private_locked, "the signing key {}/signing.pem has a password. Set POLARSCORE_KEY_PASSWORD", None),
    (private_locked, "is damaged, or POLARSCORE_KEY_PASSWORD is wrong", "wrong"),
    (lambda keys: None, "the signing key {}/signing.pem has no password. Unset POLARSCORE_KEY_PASSWORD", "wrong"),
    (private_damaged, "the signing key {}/signing.pem is damaged", None),
    (trusted_damaged, "{}/trusted/a.pem is no public key. Expected a PEM file", None),
    (heads_damaged, "{}/heads.json is damaged. It holds what this machine has seen", None),
])
def test_a_key_at_fault_is_named_and_nothing_is_signed(run, state, monkeypatch, change, message, password):
    change(state.keys)
    if password:
        monkeypatch.setenv("POLARSCORE_KEY_PASSWORD", password)
    before = seen(state)
    for command in (["promote", "--to", "staging"], ["rollback"]):
        refused = run("registry", *command).refused()
        assert message.format(state.keys) in refused
        assert "a secret" not in refused
    assert seen(state) == before


def test_keys_where_they_should_not_be_are_refused(run, state, monkeypatch):
    monkeypatch.setenv("POLARSCORE_KEYS", str(state.home / "keys"))
    for command in (["key"], ["promote", "--to", "staging"], ["rollback"], ["verify"]):
        refused = run("registry", *command).refused()
        assert f"should not lie in the state folder {state.home}. Set POLARSCORE_KEYS" in refused
    Path("file").touch()
    monkeypatch.setenv("POLARSCORE_KEYS", "file/keys")
    assert "no key can be made in" in run("registry", "key").refused()


def test_a_key_is_made_shown_and_doubted(run, fresh):
    made = run("registry", "key")
    assert made.out.startswith(f"made {fresh.keys / 'signing.pem'}, the key ") and "trusted, in" in made.out
    found = run("registry", "key", "--json").json()
    assert found["made"] is False and found["trusted"] == [found["key"]] and made.out.endswith(f"{found['key']}\n")
    (fresh.keys / "trusted" / f"{found['key']}.pem").unlink()
    ran = run("registry", "key")
    assert ran.code == 0 and f"warning: the key {found['key']} is not trusted here" in ran.err


def test_a_database_of_an_older_polarscore_is_refused_and_migrated(run, fresh):
    Path("state/polarscore.db").unlink()
    made_by_0_2_0(fresh.database_url)
    for command in (["history"], ["rollback"], ["promote", "--to", "staging"], ["verify"]):
        assert "Back it up, then run: polarscore registry migrate" in run("registry", *command).refused()
    ran = run("registry", "migrate")
    assert ran.out == "the database has schema 0004; vouched for the log of mail\n"
    assert ran.err.endswith("warning: MLflow does not have the model 'spam', so its log is left as it is\n")
    assert [entry["action"] for entry in run("registry", "history", "mail", "--json").json()] == [
        "promote", "promote", "seal"]
    assert "vouched for the entries before" in run("registry", "history", "mail").out


def test_what_was_moved_by_hand_is_named_with_the_remedy_and_put_back(run, state):
    with Registry.open(state) as registry:
        registry.versions.client.set_registered_model_alias("mail", "production", "3")
    ran = run("registry", "verify")
    assert ran.refused(1) == ("polarscore: the alias 'production' of 'mail' points at version 3, and the log says "
                              "version 2. To put it back, run: polarscore registry verify mail --repair\n")
    with Registry.open(state) as registry:
        registry.versions.client.delete_registered_model_alias("mail", "staging")
    ran = run("registry", "verify", "models:/mail/1")
    assert len(ran.out.splitlines()) == 2 and "'staging' of 'mail' points at no version" in ran.out
    assert ran.refused(1).startswith("polarscore: 2 things are not as they should be; the alias 'staging'")
    found = run("registry", "verify", "--json")
    assert found.json()["ok"] is False and len(found.json()["findings"]) == 2
    assert "To put it back, run: polarscore registry verify mail --repair" in run(
        "registry", "promote", "--to", "staging").refused()
    mended = run("registry", "verify", "--repair", "--json").json()
    assert mended["ok"] is True and len(mended["repaired"]) == 2
    assert "put aliases back" in run("registry", "history").out


def test_a_change_that_was_interrupted_is_named_and_finished(run, state, monkeypatch):
    monkeypatch.setattr(registries.History, "close", lambda log: None)
    with Registry.open(state) as registry, monkeypatch.context() as patch:
        patch.setattr(registry.versions.client, "set_model_version_tag", lambda *words: (_ for _ in ()).throw(
            OSError("no space left")))
        with pytest.raises(InputError, match="in the middle of the change"):
            registries.move(registry, 4, "production")
    assert "a change was interrupted on" in run("registry", "verify").refused(1)
    ran = run("registry", "verify", "--repair")
    assert ran.code == 0 and ran.out.startswith("finished an interrupted change: promote of version 4 of 'mail'")


def test_versions_that_are_gone_or_were_changed_are_refused(run, state):
    with Registry.open(state) as registry:
        registry.versions.client.delete_model_version("mail", "1")
    for command in (["promote", "models:/mail/1", "--to", "candidate"], ["rollback"]):
        assert "model 'mail' has no version 1" in run("registry", *command).refused()
    weights = next((state.home / "files" / "4").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    before = seen(state)
    for command in (["promote", "--to", "staging"], ["gate", "--to", "staging"]):
        assert "the files of models:/mail/4 are not those that were registered" in run("registry", *command).refused(1)
    assert seen(state) == before


def test_stores_that_are_not_there_are_one_line_without_a_secret(run, state, monkeypatch):
    before = seen(state)
    monkeypatch.setenv("POLARSCORE_DATABASE_URL", "postgresql://ada:secret@127.0.0.1:9/x")
    for command in (["promote", "--to", "staging"], ["rollback"], ["verify"], ["migrate"], ["at", "2026-01-01"]):
        refused = run("registry", *command).refused()
        assert "secret" not in refused and "cannot be opened" in refused
    monkeypatch.delenv("POLARSCORE_DATABASE_URL")
    assert seen(state) == before


def test_a_bundle_of_a_candidate_is_refused_with_the_remedy(run, state):
    refused = run("bundle", "--model", "models:/mail/4").refused()
    assert "models:/mail/4 should be in staging or production to be bundled. Found it in candidate" in refused
    assert "polarscore registry promote models:/mail/4 --to staging" in refused and "--allow-candidate" in refused
    assert not state.bento_home.exists()


@pytest.mark.slow
def test_a_promotion_that_is_killed_leaves_the_old_state_or_the_new_one(run, state, tmp_path):
    program = ("import sys; from registry import judging, bundling; from tests.registries import judged; "
               "judging.judge = lambda *a: judged(); bundling.offer = lambda *a: ''; import polarscore; "
               "print('ready', flush=True); sys.argv = ['polarscore', 'registry', 'promote', 'models:/mail/3', '--to', "
               "'production', '--no-measure']; polarscore.main()")
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL, env=dict(os.environ)) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(1.5)
        process.send_signal(signal.SIGKILL)
    assert run("registry", "verify", "--repair").code == 0
    with Registry.open(state) as registry:
        assert verify(registry, "mail") == []
        assert registry.versions.aliases("mail")["production"] in (2, 3)
        entries = registry.history.entries("mail")
        assert len(entries) in (3, 4) and entries[-1].at > datetime.now(UTC) - timedelta(hours=1)
