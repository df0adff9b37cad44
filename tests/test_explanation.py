import json
import os
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import polarscore
from training.audit_result import KNOTS, Recalibration
from training.errors import InputError
from training.explanation import explain, explain_row, in_words, nearest
from training.fit import FitConfig
from training.harmonizer import make_harmonizer
from training.job import train
from training.model import RiskModel
from training.risk import sharpened
from training.sources import LabellingFunction
from training.spec import EncoderSpec, Spec
from training.state import State
from training.table import Table
from training.task import Columns, Source
from training.worth import Worth, posterior

CLASSES = ("ham", "spam", "news")
SOURCES = (Source(name="friend", family="people"),
           Source(name="shouts", family="rule", evidence="It is written in capitals."),
           Source(name="kb", evidence="The sender is\nin the address book."))
RANDOM = np.random.default_rng(0)
RAISED = Recalibration(values=tuple(np.linspace(0.3, 0.9, len(KNOTS)).tolist()), labels=25)


POWER = 1.5


def model(recalibration=None, seed=0):
    random = np.random.default_rng(seed)
    dependence = np.triu(random.random((4, 4)) / 2, 1)  # none a copy
    worth = Worth(random.dirichlet([5, 5, 5]), random.dirichlet([1, 1, 1], (4, 3)), dependence + dependence.T,
                  random.random((4, 3)))
    spec = Spec(name="mail", classes=CLASSES, sources=SOURCES, stored_sources=3, columns=Columns(path="-"),
                encoder=EncoderSpec("fake", "1", 4), harmonizer="linear", scalariser="linear", pareto_weights={},
                sharpness=POWER, data_digest="", recalibration=recalibration or Recalibration())
    shouts = LabellingFunction("shouts", "rule", "It is written in capitals.", ("text",), lambda row: None)
    return RiskModel(spec, make_harmonizer("linear", 4, 3, seed=1).eval(), worth, (shouts,))


def encode(texts):
    return np.array([np.random.default_rng(len(text)).normal(size=4) for text in texts], dtype=np.float32)


TEXTS = ["hello", "SALE NOW", "hi", "an offer that you cannot refuse " * 5, "hallo"]
TABLE = Table(CLASSES, SOURCES, np.array(list("abcde"), dtype=object), np.array(TEXTS, dtype=object),
              np.zeros((5, 0, 2), dtype=np.int64), np.full(5, "train", dtype=object), np.array([0, 1, -1, 1, 2]),
              np.array([[0, -1, 1], [1, 1, -1], [-1, 2, -1], [-1, -1, -1], [0, 0, 0]], dtype=np.int16),
              np.full(5, -1), np.full(5, np.nan), digest="")


@given(st.integers(0, 1000), st.integers(-1, 2), arrays(np.int16, 3, elements=st.integers(-1, 2)))
def test_text_and_votes_add_up_to_the_log_odds_of_the_posterior(seed, answer, votes):
    beliefs = np.random.default_rng(seed).dirichlet([1, 1, 1])
    version = model(seed=seed % 7)
    found = explain(version, beliefs, answer, votes)
    assert found.text_log_odds + sum(said.log_odds for said in found.votes) == pytest.approx(found.log_odds)
    probable = posterior(version.worth, np.array([[answer, *votes]]), sharpened(beliefs[None], POWER))[0]
    favoured, rival = CLASSES.index(found.favoured), CLASSES.index(found.rival)
    assert found.log_odds == pytest.approx(np.log(probable[favoured] / probable[rival]), abs=1e-5)
    assert favoured == (probable.argmax() if answer == -1 else answer)
    assert rival != favoured and probable[rival] == pytest.approx(np.delete(probable, favoured).max())


@given(st.integers(0, 1000), st.integers(-1, 2), arrays(np.int16, 3, elements=st.integers(-1, 2)))
def test_the_risk_is_the_models_and_each_vote_is_told_or_counted(seed, answer, votes):
    beliefs = np.random.default_rng(seed).dirichlet([1, 1, 1])
    for version in (model(), model(RAISED)):
        found = explain(version, beliefs, answer, votes, "a17")
        scores = version.judge(beliefs[None], np.array([answer]), votes[None])
        assert list(found.probabilities.values()) == scores.probabilities[0].tolist()
        assert found.risk == (None if answer == -1 else scores.risk[0])
        assert found.harmonizer_answer == CLASSES[beliefs.argmax()] and found.harmonizer_probability == beliefs.max()
        assert len(found.votes) + found.abstained == 3 + (answer != -1)
        for said in found.votes:
            assert said.agrees == (None if answer == -1 else said.vote == CLASSES[answer])
            assert 0 < said.counts_as <= 1 and 0 < said.accuracy < 1
    if answer == -1:
        assert found.label_free_risk is None and "no risk" in in_words(found)
    else:
        assert found.votes[0].source == "LLM" and found.votes[0].agrees
        assert found.risk == pytest.approx(RAISED.apply(np.array([found.label_free_risk]))[0])
        assert f"{found.risk:.3f}, {found.label_free_risk:.3f} before 25 checked answers" in in_words(found)


def test_a_vote_is_told_with_its_worth_and_its_evidence():
    version = model()
    found = explain(version, np.array([0.2, 0.5, 0.3]), 0, np.array([-1, 1, 0], dtype=np.int16))
    said = {one.source: one for one in found.votes}
    assert set(said) == {"LLM", "shouts", "kb"} and found.abstained == 1
    dependence, precision = version.worth.dependence, version.worth.precision
    assert said["kb"].counts_as == pytest.approx(1 / (1 + dependence[3, 0] + dependence[3, 2]), rel=0.02)
    assert said["kb"].accuracy == precision[3, 0, 0] and said["kb"].agrees and not said["shouts"].agrees
    rival = CLASSES.index(found.rival)
    lift = np.log(precision[3, 0] / version.worth.balance)
    assert said["kb"].log_odds == pytest.approx(said["kb"].counts_as * (lift[0] - lift[rival]))
    assert [said[name].evidence for name in ("shouts", "kb", "LLM")] == [
        "It is written in capitals.", "The sender is in the address book.", ""]
    assert "Of 3 sources, 1 votes with the LLM, 1 votes against it, 1 did not vote." in in_words(found)
    added = [abs(one.log_odds) for one in found.votes[1:]]
    assert found.votes[0].source == "LLM" and added == sorted(added, reverse=True)


def test_similar_rows_are_the_nearest_by_cosine_without_the_row_itself():
    vectors = np.array([[1, 0], [2, 0.1], [0, 1], [-1, 0], [5, 5], [0, 0]], dtype=np.float32)
    rows, cosines = nearest(vectors, 0, 3)
    assert rows.tolist() == [1, 4, 2] and cosines == pytest.approx([0.9988, 0.7071, 0], abs=1e-4)
    assert nearest(vectors, 5, 9)[0].tolist() == [0, 1, 2, 3, 4]  # nothing is like nothing
    assert nearest(vectors[:1], 0, 3)[0].tolist() == []


def test_a_row_is_explained_beside_similar_ones_with_their_own_risks():
    version = model()
    found = explain_row(version, encode, TABLE, "a", 3)
    scores = version.score(encode(TEXTS), TABLE.answers, TABLE.votes)
    assert found.id == "a" and found.risk == pytest.approx(scores.risk[0])
    assert found.similar[0].id == "e" and found.similar[0].similarity == pytest.approx(1.0)
    for other in found.similar:
        row = "abcde".index(other.id)
        assert other.answer == [*CLASSES, None][TABLE.answers[row]] and other.text is None
        assert other.risk == (None if np.isnan(scores.risk[row]) else pytest.approx(scores.risk[row]))
    assert explain_row(version, encode, TABLE, "a").similar == ()
    assert explain_row(version, encode, TABLE.rows(slice(0, 1)), "a", 3).similar == ()


def test_texts_are_told_on_demand_and_only_their_beginning():
    texts = {other.id: other.text for other in explain_row(model(), encode, TABLE, "a", 9, excerpts=True).similar}
    assert texts["b"] == "SALE NOW" and len(texts["d"]) == 80 and texts["d"].endswith("…")


def test_an_unknown_row_is_one_line_that_says_so():
    with pytest.raises(InputError, match=r"no row has the id 'z'\. The data has 5 rows, the first is 'a'"):
        explain_row(model(), encode, TABLE, "z")


TOML = """
[task]
name = "mail"
classes = ["ham", "spam"]
[data]
path = "data.jsonl"
[[sources]]
name = "friend"
evidence = "A friend read it."
"""
CODE = """
from training.sources import ABSTAIN, labelling_function

@labelling_function(evidence="It offers something.")
def offers(row):
    return "spam" if "offer" in row.text else ABSTAIN
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a task, and the state that it was trained in."""
    folder = tmp_path_factory.mktemp("explained")
    rows = [{"id": f"m{n}", "text": f"{'an offer' if n % 2 else 'a greeting'} number {n % 7}",
             "answer": [n % 2, n % 2, -1, 1][n % 4], "votes": [n % 2 if n % 3 else -1]} for n in range(40)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "task.toml").write_text(TOML)
    (folder / "sources.py").write_text(CODE)
    state = State.from_environment({"POLARSCORE_HOME": str(folder / ".polarscore")})
    train(folder, state, FitConfig(harmonizer="linear", epochs=2))
    return folder


@pytest.fixture
def run(trained, monkeypatch, capfd):
    """Runs `polarscore explain` in that folder: its exit code and what it printed."""

    def run(*arguments):
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(trained)
            patch.setattr(sys, "argv", ["polarscore", "explain", *map(str, arguments), "--model",
                                        "models:/mail@candidate"])
            patch.setattr(os, "environ", os.environ | {"POLARSCORE_HOME": str(trained / ".polarscore")})
            with pytest.raises(SystemExit) as end:
                polarscore.main()
        return end.value.code, *capfd.readouterr()

    return run


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore::DeprecationWarning:pydantic")
class TestTheCommand:
    def test_explains_a_row_of_a_task_as_json(self, run):
        code, out, _ = run(".", "--id", "m1", "--similar", 2, "--json")
        found = json.loads(out)
        assert code == 0 and out.count("\n") == 1
        assert found["model"] == "mail" and found["version"] == 1 and found["id"] == "m1"
        assert found["answer"] == "spam" and 0 <= found["risk"] <= 1 and found["checked_answers"] == 0
        assert sum(found["probabilities"].values()) == pytest.approx(1)
        assert found["text_log_odds"] + sum(said["log_odds"] for said in found["votes"]) == pytest.approx(
            found["log_odds"])
        assert {said["source"]: said["evidence"] for said in found["votes"]} == {
            "LLM": "", "friend": "A friend read it.", "offers": "It offers something."}
        assert len(found["similar"]) == 2 and {other["text"] for other in found["similar"]} == {None}

    def test_explains_in_words(self, run):
        code, out, _ = run(".", "--id", "m1", "--similar", 2)
        assert code == 0 and out.startswith("Row 'm1': the LLM answers 'spam'. The risk that this is wrong is 0.")
        for part in ("the text", "friend", "A friend read it.", "It offers something.", "together", "similar row"):
            assert part in out
        assert "number" not in out
        assert "number" in run(".", "--id", "m1", "--texts")[1]

    def test_explains_a_row_without_an_answer_and_one_of_a_file(self, run, trained):
        code, out, _ = run(".", "--id", "m2", "--similar", 0, "--json")
        assert code == 0 and json.loads(out)["risk"] is None and json.loads(out)["similar"] == []
        assert run(".", "--id", "m2")[0] == 0
        (trained / "new.jsonl").write_text('{"id": "n1", "text": "an offer", "answer": "ham"}\n')
        code, out, _ = run("new.jsonl", "--id", "n1", "--json")
        assert code == 0 and json.loads(out)["answer"] == "ham" and json.loads(out)["similar"] == []

    def test_refuses_an_unknown_row_in_one_line(self, run):
        code, out, err = run(".", "--id", "m99")
        assert code == 2 and out == ""
        assert err == "polarscore: no row has the id 'm99'. The data has 40 rows, the first is 'm0'.\n"
