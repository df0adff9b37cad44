import shutil
from pathlib import Path

import numpy as np
import pytest

from registry import judging, seen
from registry.gate_config import GateConfig, read_gates
from registry.gates import PASS, UNKNOWN, Measured, Operation
from registry.judging import judge
from registry.seen import decided_alone, seen_by
from registry.versions import Versions
from training.errors import InputError
from training.harmonizer import make_harmonizer
from training.model import RiskModel, load, save
from training.sources import ABSTAIN
from training.spec import EncoderSpec, Spec
from training.state import State
from training.table import read_table
from training.task import Columns, Source, read_task
from training.worth import from_votes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

WIDTH, ROWS = 8, 60
FINE = Operation(differing=0, signature=True, requirements=("torch==2.13.0",))
GATES = read_gates()
UNLABELLED = {"sound", "agreement", "drift", "coverage", "single_source"}
LABELLED = {"ece", "auroc", "aurc"}
KEYS = 'label = "label"\nsplit = "split"'


def encode(texts, progress=None):
    """Made-up vectors, the same for the same text."""
    seeds = [sum(text.encode()) for text in texts]
    return np.stack([np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32) for seed in seeds])


def made(seed, classes=("ham", "spam"), sources=("s1", "s2")):
    """A version that was never trained."""
    votes = np.random.default_rng(seed).integers(-1, len(classes), size=(200, 1 + len(sources)))
    spec = Spec(
        name="mail", classes=classes, sources=tuple(Source(name=name) for name in sources),
        stored_sources=len(sources), columns=Columns(path="data.jsonl"), encoder=EncoderSpec("e", "1", WIDTH),
        harmonizer="linear", scalariser="linear", sharpness=1.0, data_digest="0" * 64,
        pareto_weights=dict.fromkeys(("LLM", *sources), 1.0),
    )
    worth = from_votes(votes, ["llm", *sources], len(classes))
    return RiskModel(spec, make_harmonizer("linear", WIDTH, len(classes), seed=seed), worth)


def data(labelled=True):
    draw = np.random.default_rng(0)
    return [{"id": f"r{i}", "text": f"letter {i}", "split": "valid" if i % 3 else "train",
             "answer": int(draw.integers(0, 2)) if i % 10 else -1, "votes": draw.integers(-1, 2, 2).tolist(),
             "label": int(draw.integers(0, 2)) if labelled else -1} for i in range(2 * ROWS)]


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A state and a task; versions 1 and 2 alike, 3 of other classes, 4 with one source, 5 without a run."""
    home, task = tmp_path_factory.mktemp("judging") / "state", tmp_path_factory.mktemp("task")
    state = State.from_environment({"POLARSCORE_HOME": str(home)}).prepare()
    client = Versions(state).client
    client.create_registered_model("mail")
    run = client.create_run(client.create_experiment("mail"), tags={"polarscore.task_dir": str(task)}).info.run_id
    for number, (model, of) in enumerate([(made(1), run), (made(2), run), (made(3, ("a", "b", "c")), run),
                                          (made(4, sources=("s1",)), run), (made(5), None)], 1):
        save(model, home / "files" / str(number) / "artifacts")
        client.create_model_version("mail", (home / "files" / str(number)).as_uri(), run_id=of)
    return state, task


@pytest.fixture
def world(registered, write_task, monkeypatch):
    """The registry, its task with data, and what is asked of the costly parts."""
    state, task = registered
    shutil.copytree(write_task(data(), data_keys=KEYS), task, dirs_exist_ok=True)
    asked = {"tried": [], "loaded": []}
    monkeypatch.setattr(judging, "embeddings", lambda state: encode)
    monkeypatch.setattr(judging, "try_out", lambda folder: asked["tried"].append(folder) or FINE)
    monkeypatch.setattr(judging, "load", lambda folder: asked["loaded"].append(folder) or load(folder))
    return state, Versions(state), task, asked


def run(world, candidate=1, champion=2, to="production", gates=GATES, **keys):
    state, versions, *_ = world
    holder = versions.number("mail", champion) if champion else None
    return judge(state, versions, versions.number("mail", candidate), holder, to, gates, **keys)


def states(judged):
    return {gate.name: gate.state for gate in judged.decision.gates}


def config(**ways):
    return GateConfig.model_validate(ways)


def test_candidate_and_champion_are_compared_on_the_same_answered_rows(world):
    judged = run(world)
    table = read_table(read_task(world[2])).split("valid")
    table = table.rows(table.answers != ABSTAIN)
    for number, risk in ((1, judged.compared.candidate), (2, judged.compared.champion)):
        model = load(world[1].folder(world[1].number("mail", number)))
        expected = model.judge(model.beliefs(table.texts, table.spans, encode), table.answers, table.votes).risk
        np.testing.assert_array_equal(risk, expected)
    np.testing.assert_array_equal(judged.compared.error, table.answers != table.labels)
    assert (judged.task, judged.task_digest, judged.split) == ("mail", table.digest, "valid")
    assert judged.labelled == len(table) > 30
    assert set(states(judged)) == {*UNLABELLED, *LABELLED, "loads", "reload", "signature", "requirements", "latency",
                                   "memory"}


def test_without_a_champion_the_first_version_passes_by_the_default_gates(world):
    for to in ("staging", "production"):
        judged = run(world, champion=None, to=to)
        assert judged.decision.allowed and judged.compared.champion is None
        assert {state for name, state in states(judged).items() if name not in ("latency", "memory")} == {PASS}


def test_each_costly_thing_is_done_once(world):
    run(world)  # from candidate to production: by two transitions
    assert len(world[3]["tried"]) == 1 and len(world[3]["loaded"]) == 2
    assert world[3]["tried"][0] == world[3]["loaded"][0].parent


def test_without_an_operational_gate_nothing_is_tried_out(world):
    judged = run(world, gates=config(production={"gates": {"sound": {}}}))
    assert world[3]["tried"] == [] and states(judged) == {"sound": PASS}
    assert run(world, gates=config()).decision.gates == () and run(world, gates=config()).compared is not None


def test_a_candidate_that_goes_past_staging_is_judged_by_both(world):
    gates = config(staging={"gates": {"drift": {"maximum": 0}, "signature": {}}},
                   production={"gates": {"drift": {"maximum": 1}, "memory": {"mib": 1, "unknown": "block"}}})
    assert list(states(run(world, gates=gates))) == ["drift", "signature", "memory"]
    refused = run(world, gates=gates).decision.refusal
    assert "drift: " in refused and "memory, which cannot be judged and therefore blocks" in refused
    assert list(states(run(world, gates=gates, to="staging"))) == ["drift", "signature"]
    client = world[1].client
    client.set_registered_model_alias("mail", "staging", "1")
    try:
        assert list(states(run(world, gates=gates))) == ["drift", "memory"]
    finally:
        client.delete_registered_model_alias("mail", "staging")


def test_each_transition_is_judged_by_its_own_task(world, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(world[2], other)
    toml = (other / "task.toml").read_text()
    (other / "task.toml").write_text(toml.replace('name = "mail"', 'name = "audited"'))
    gates = config(staging={"gates": {"sound": {}}}, production={"task": str(other), "split": "train"})
    judged = run(world, gates=gates)
    assert (judged.task, judged.split) == ("audited", "train") and len(judged.compared.error) < 40
    assert "72 risks" in judged.decision.gates[0].reason  # of staging's own, the training task's valid split
    named = run(world, gates=gates, task=world[2], split="valid")
    assert (named.task, named.split) == ("mail", "valid")


def test_what_was_measured_is_judged(world):
    judged = run(world, measured=Measured(10.0, 100.0, 5000.0, 3.0))
    assert states(judged)["latency"] == PASS and "memory: its processes take 5000 MiB" in judged.decision.refusal


@pytest.mark.parametrize("lost", ["task.toml", "data.jsonl", "folder", "run", "split", "classes"])
def test_a_training_task_that_is_not_to_be_had_leaves_unknown_what_needs_rows(world, lost):
    task, candidate = world[2], 5 if lost == "run" else 1
    if lost == "folder":
        shutil.rmtree(task)
    elif lost == "classes":
        (task / "task.toml").write_text((task / "task.toml").read_text().replace('"ham", "spam"', '"x", "y"'))
    elif lost == "split":
        (task / "data.jsonl").write_text((task / "data.jsonl").read_text().replace('"valid"', '"test"'))
    elif lost != "run":
        (task / lost).unlink()
    judged = run(world, candidate)
    assert judged.decision.allowed
    assert {name for name, state in states(judged).items() if state == UNKNOWN} == {
        *UNLABELLED, *LABELLED, "latency", "memory"}
    assert (judged.compared, judged.task, judged.task_digest, judged.labelled) == (None, None, None, 0)
    assert judged.decision.gates[0].reason.startswith("there is no task to judge it by: ")
    blocked = run(world, candidate, gates=config(production={"unknown": "block", "gates": {"sound": {}}}))
    assert "sound, which cannot be judged and therefore blocks: there is no task" in blocked.decision.refusal


@pytest.mark.parametrize("by", ["argument", "file"])
def test_a_task_that_was_named_must_be_there(world, tmp_path, by):
    keys = {"task": tmp_path / "none"} if by == "argument" else {
        "gates": config(production={"task": str(tmp_path / "none")})}
    with pytest.raises(InputError, match=r"none/task\.toml does not exist"):
        run(world, **keys)


def test_a_task_of_other_classes_that_was_named_is_refused(world):
    with pytest.raises(InputError, match="classes are not those of the version"):
        run(world, candidate=3, task=world[2])


def test_a_task_without_labels_leaves_the_labelled_gates_unknown(world, write_task):
    bare = write_task(data(labelled=False), data_keys=KEYS)
    judged = run(world, task=bare)
    assert {name for name, state in states(judged).items() if state == UNKNOWN} == {*LABELLED, "latency", "memory"}
    assert judged.labelled == 0 and judged.compared is not None and np.isnan(judged.compared.error).all()
    assert "0 labelled answers, 30 needed" in {gate.reason for gate in judged.decision.gates}


@pytest.mark.parametrize("split", ["dev", "", "Valid"])
def test_an_unknown_split_is_refused(world, split):
    with pytest.raises(InputError, match=f"split '{split}' is unknown. Expected one of train, valid, test"):
        run(world, split=split)


def test_a_split_without_rows_is_refused_where_the_task_was_named(world):
    with pytest.raises(InputError, match="no row in split 'test'"):
        run(world, task=world[2], split="test")


@pytest.mark.parametrize("champion", [3, "gone"])
def test_a_champion_that_cannot_be_judged_is_no_obstacle_by_default(world, champion, monkeypatch):
    if champion == "gone":
        champion = 2
        monkeypatch.setattr(judging, "load", lambda folder: load(
            folder if folder.parent.name != "2" else folder / "gone"))
    judged = run(world, champion=champion)
    assert judged.decision.allowed and judged.compared.champion is None
    unknown = {gate.name: gate.reason for gate in judged.decision.gates if gate.state == UNKNOWN}
    assert set(unknown) == {"agreement", "drift", "coverage", *LABELLED, "latency", "memory"}
    assert "the champion cannot be judged" in unknown["drift"]


def test_a_candidate_whose_files_are_damaged_is_refused(world, monkeypatch, tmp_path):
    monkeypatch.setattr(judging, "load", lambda folder: load(tmp_path))
    with pytest.raises(InputError, match=r"spec\.json is missing or damaged"):
        run(world)


def test_of_one_source_nobody_can_tell_whether_it_decides_alone(world):
    found = next(gate for gate in run(world, candidate=4).decision.gates if gate.name == "single_source")
    assert found.state == UNKNOWN and "one source only" in found.reason


def table_of(folder):
    return read_table(read_task(Path(folder)))


def test_versions_agree_with_the_same_votes_whichever_sources_they_know(world):
    table = table_of(world[2])
    full, bare = made(1), made(1, sources=("s1",))  # the same harmonizer
    (_, one), (_, other) = (seen_by(model, table, encode, alone=True) for model in (full, bare))
    assert one.agreement == other.agreement
    answers = full.beliefs(table.texts, table.spans, encode).argmax(axis=1)
    cast = np.column_stack([table.answers, table.votes])
    pairs = [(vote, answers[row]) for row, votes in enumerate(cast) for vote in votes if vote != ABSTAIN]
    assert one.agreement == pytest.approx(np.mean([vote == answer for vote, answer in pairs]))
    assert (one.sources, other.sources) == (("s1", "s2"), ("s1",))
    assert one.coverage == (table.votes != ABSTAIN).any(axis=1).mean()
    assert other.coverage == (table.votes[:, 0] != ABSTAIN).mean()
    assert other.decided_alone is None and one.decided_alone.shape == (len(table), 2)


def test_who_decides_alone_is_found_by_judging_without_each_vote():
    draw = np.random.default_rng(0)
    model = made(7, ("a", "b", "c"), ("s1", "s2", "s3"))
    beliefs = draw.dirichlet(np.full(3, 0.8), 80).astype(np.float32)
    answers, votes = draw.integers(0, 3, 80), draw.integers(-1, 3, (80, 3))
    risk = model.judge(beliefs, answers, votes).risk
    found = decided_alone(model, beliefs, answers, votes, risk)
    for row in range(80):
        for source in range(3):
            without = votes[row : row + 1].copy()
            without[0, source] = ABSTAIN
            after = model.judge(beliefs[row : row + 1], answers[row : row + 1], without).risk[0]
            crosses = votes[row, source] != ABSTAIN and (after > 0.5) != (risk[row] > 0.5)
            assert found[row, source] == crosses
    assert 0 < found.mean() < 0.5


def test_of_very_many_votes_those_of_some_whole_rows_are_taken_away(monkeypatch):
    draw = np.random.default_rng(0)
    model = made(7, sources=("s1", "s2"))
    beliefs, answers, votes = draw.dirichlet(np.ones(2), 50), draw.integers(0, 2, 50), draw.integers(0, 2, (50, 2))
    risk = model.judge(beliefs, answers, votes).risk
    everything = decided_alone(model, beliefs, answers, votes, risk)
    monkeypatch.setattr(seen, "MOST_VOTES", 40)
    some = decided_alone(model, beliefs, answers, votes, risk)
    assert some.shape == (20, 2)
    assert abs(some.mean() - everything.mean()) < 0.2
    np.testing.assert_array_equal(some, decided_alone(model, beliefs, answers, votes, risk))


def test_without_a_vote_nobody_decides():
    model = made(7)
    none = np.full((4, 2), ABSTAIN)
    beliefs, answers = np.full((4, 2), 0.5), np.zeros(4, dtype=int)
    risk = model.judge(beliefs, answers, none).risk
    assert not decided_alone(model, beliefs, answers, none, risk).any()
    assert decided_alone(model, beliefs[:0], answers[:0], none[:0], risk[:0]).shape == (0, 2)
