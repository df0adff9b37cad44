import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import anyio
import httpx
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from monitoring.journal import Journal
from monitoring.store import Store
from registry.envelope import PUBLIC_KEY, SIGNATURE, Proof
from registry.export import build, export, find, latest
from registry.keys import Keys
from registry.signing import sign
from serving import launch
from serving.app import make_app
from serving.batcher import Batcher
from serving.config import Limits
from serving.desk import Desk
from serving.lineup import Lineup
from serving.meters import Meters
from serving.opening import open_scorer, open_signed, stored
from serving.refusal import Refusal
from serving.schema import ExplainRequest, FeedbackRequest, ForgetRequest, Item, ScoreRequest, read
from serving.scorer import Scorer
from serving.service import follows, say_who_signed
from tests.scorers import CLASSES, fake_encode, fake_scorer, write_version
from training.encoder import Encoder, passages
from training.errors import CheckFailed, InputError, PolarscoreError
from training.model import load
from training.sources import class_codes, encode_classes
from training.spec import digest
from training.state import State

# BentoML, when first imported, uses old names of pathspec's and pydantic's.
pytestmark = [
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__` method:DeprecationWarning"),
]

SECRET = "Marzipan-Krokodil"  # a word of user text that no log and no error may hold


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_version(tmp_path_factory.mktemp("plain") / "v")


@pytest.fixture(scope="module")
def scorer(folder):
    scorer = fake_scorer(folder, "Reviews")
    yield scorer
    scorer.close()


@pytest.fixture(scope="module")
def entity_scorer(tmp_path_factory):
    scorer = fake_scorer(write_version(tmp_path_factory.mktemp("spans") / "v", spans=("a", "b")))
    yield scorer
    scorer.close()


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        yield store


@pytest.fixture
def journal(tmp_path, store):
    journal = Journal(tmp_path / "journal.db", store)
    yield journal
    journal.close()


@pytest.fixture
def desk(scorer, journal):
    return Desk(Lineup(scorer), journal, Meters(CollectorRegistry()))


def post(desk, path, body, **headers):
    """Send a body to the app, in process."""
    app = make_app()
    batcher = Batcher(desk.finish, lambda ready: ready.tokens, 2048, 2.0)
    app.state.desk, app.state.batcher = desk, batcher

    async def send():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return await client.post(path, content=content, headers={"content-type": "application/json"} | headers)

    try:
        return anyio.run(send)
    finally:
        batcher.close()


def item(**changes):
    return {"text": f"a film about {SECRET}", "answer": "positive"} | changes


# What a request is


LIMITS = Limits()
BAD = [
    (b"{", 400, "invalid_json", None),
    (b"", 400, "invalid_json", None),
    (b"\xff\xfe", 400, "invalid_json", None),
    (b'{"items": [{"text": "' + SECRET.encode() + b'", "answer": NaN}]}', 400, "invalid_json", None),
    (b'{"items": [{"text": "' + SECRET.encode() + b' \\ud800", "answer": 1}]}', 400, "invalid_json", None),
    (b'{"items": [{"text": "x", "answer": ' + b"1" * 5000 + b"}]}", 400, "invalid_json", None),
    ([], 400, "invalid_request", None),
    ({"items": []}, 400, "invalid_request", "items"),
    ({"items": [item()], SECRET[:3]: 1}, 400, "invalid_request", "Mar"),
    ({"items": item()}, 400, "invalid_request", "items"),
    ({"items": [SECRET]}, 400, "invalid_request", "items.0"),
    ({"items": [item(), {"text": SECRET}]}, 400, "invalid_request", "items.1.answer"),
    ({"items": [item(colour=SECRET)]}, 400, "invalid_request", "items.0.colour"),
    ({"items": [item(text="")]}, 400, "invalid_request", "items.0.text"),
    ({"items": [item(text=" \n\t\u2003")]}, 400, "invalid_request", "items.0.text"),
    ({"items": [item(text=None)]}, 400, "invalid_request", "items.0.text"),
    ({"items": [item(text=SECRET + "x" * 10**6)]}, 413, "too_large", "items.0.text"),
    ({"items": [item()] * (LIMITS.items + 1)}, 413, "too_large", "items"),
    (b" " * (LIMITS.body + 1), 413, "too_large", None),
    ({"items": [item(answer="purple")]}, 400, "unknown_class", "items.0.answer"),
    ({"items": [item(answer=2)]}, 400, "unknown_class", "items.0.answer"),
    ({"items": [item(answer=-2)]}, 400, "unknown_class", "items.0.answer"),
    ({"items": [item(answer=True)]}, 400, "invalid_request", "items.0.answer"),
    ({"items": [item(answer=1.5)]}, 400, "invalid_request", "items.0.answer"),
    ({"items": [item(answer=[SECRET])]}, 400, "invalid_request", "items.0.answer"),
    ({"items": [item(votes={"friend": "purple"})]}, 400, "unknown_class", "items.0.votes.friend"),
    ({"items": [item(votes={"stranger": 0})]}, 400, "unknown_source", "items.0.votes.stranger"),
    ({"items": [item(votes=[0, 1])]}, 400, "invalid_request", "items.0.votes"),
    ({"items": [item(spans=[[0, 10**5]])]}, 400, "invalid_request", "items.0"),
    ({"items": [item(spans=[[3, 3]])]}, 400, "invalid_request", "items.0"),
    ({"items": [item(spans=[[-1, 3]])]}, 400, "invalid_request", "items.0.spans.0.0"),
    ({"items": [item(spans=[[0, 3]])]}, 400, "invalid_request", "items.0.spans"),  # this task marks none
    ({"items": [item(id="a"), item(id="b"), item(id="a")]}, 400, "duplicate_id", "items.2.id"),
    ({"items": [item(id="")]}, 400, "invalid_request", "items.0.id"),
    ({"items": [item(id="a\u0000b")]}, 400, "invalid_request", "items.0.id"),
    ({"items": [item(id="a" * 257)]}, 400, "invalid_request", "items.0.id"),
    ({"items": [item(id=7)]}, 400, "invalid_request", "items.0.id"),
]
BAD_FEEDBACK = [
    ({"score_id": "nobody", "label": "positive"}, 404, "unknown_id", "score_id"),
    ({"id": "nobody", "label": "positive"}, 404, "unknown_id", "id"),
    ({"id": "a", "label": "purple"}, 400, "unknown_class", "label"),
    ({"id": "a", "label": None}, 400, "unknown_class", "label"),
    ({"id": "a", "label": -1}, 400, "unknown_class", "label"),
    ({"label": "positive"}, 400, "invalid_request", None),
    ({"id": "a", "score_id": "b", "label": "positive"}, 400, "invalid_request", None),
    ({"id": "a"}, 400, "invalid_request", "label"),
    (b"nothing", 400, "invalid_json", None),
]


def assert_refused(response, status, kind, where):
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["type"], error["where"]) == (kind, where)
    assert error["message"] and SECRET not in response.text


@pytest.mark.parametrize(("body", "status", "kind", "where"), BAD)
def test_a_bad_item_is_refused_in_the_error_format(desk, journal, body, status, kind, where):
    assert_refused(post(desk, "/score", body), status, kind, where)
    assert journal.waiting == 0  # and nothing is kept


@pytest.mark.parametrize(("body", "status", "kind", "where"), BAD_FEEDBACK)
def test_bad_feedback_is_refused_in_the_error_format(desk, body, status, kind, where):
    assert_refused(post(desk, "/feedback", body), status, kind, where)


def test_an_unknown_class_is_answered_with_the_classes(desk):
    message = post(desk, "/score", {"items": [item(answer="purple")]}).json()["error"]["message"]
    assert "'purple'" in message and "negative, positive" in message


def test_a_compressed_body_is_refused(desk):
    response = post(desk, "/score", b"\x1f\x8b", **{"content-encoding": "gzip"})
    assert_refused(response, 415, "unsupported_encoding", None)


def test_limits_are_inclusive():
    assert read(json.dumps({"items": [item(text="x" * LIMITS.text)]}).encode(), ScoreRequest, LIMITS)
    most = read(json.dumps({"items": [item()] * LIMITS.items}).encode(), ScoreRequest, LIMITS)
    assert len(most.items) == LIMITS.items
    assert read(b'{"score_id": "x", "label": 1}', FeedbackRequest, LIMITS).label == 1


def test_limits_may_be_lower_and_higher():
    high, low = Limits(text=10_000_000, items=5_000), Limits(text=10, items=2)
    huge = json.dumps({"items": [item(text="x" * 10_000_000, spans=[[9_999_998, 10_000_000]])]}).encode()
    assert len(read(huge, ScoreRequest, high).items[0].text) == 10_000_000
    assert len(read(json.dumps({"items": [item()] * 5_000}).encode(), ScoreRequest, high).items) == 5_000
    for body, kind, where in (({"items": [item(), item(text="x" * 11)]}, ScoreRequest, "items.0.text"),
                              ({"items": [item(text="x")] * 3}, ScoreRequest, "items"),
                              ({"item": item(text="x" * 11)}, ExplainRequest, "item.text")):
        with pytest.raises(Refusal) as refusal:
            read(json.dumps(body).encode(), kind, low)
        assert (refusal.value.kind, refusal.value.where, refusal.value.status) == ("too_large", where, 413)


@pytest.mark.parametrize(("name", "good"), [
    ("a-17", True), ("né 1", True), ("日本", True), ("😀", True), ("a\nb", False), ("a\u0085", False),
    ("a\u202eb", False), ("a\u200bb", False), ("\ufeffa", False), ("a\u2028", False), ("", False), ("x" * 257, False)])
def test_an_id_shows_what_it_is(name, good):
    body = json.dumps({"id": name}).encode()
    if good:
        assert read(body, ForgetRequest, LIMITS).id == name
    else:
        with pytest.raises(Refusal):
            read(body, ForgetRequest, LIMITS)


def test_a_whole_number_is_one_however_it_is_written():
    assert read(b'{"id": "x", "label": 1.0}', FeedbackRequest, LIMITS).label == 1


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\x1b[31mred", "\u202e", "\ufffe", "\u0301", "x\r\n" * 100, "􏿿"])
def test_control_characters_are_sound(desk, journal, text):
    response = post(desk, "/score", {"items": [item(text=text)]})
    assert response.status_code == 200 and 0 <= response.json()["scores"][0]["risk"] <= 1
    while journal.drain():
        pass
    assert journal.refused == 0


def test_a_failure_of_ours_tells_neither_client_nor_log_the_text(desk, caplog, monkeypatch):
    def fail(prepared):
        raise RuntimeError(prepared[0].items[0].text)

    monkeypatch.setattr(desk.scorer, "run", fail)
    assert_refused(post(desk, "/score", {"items": [item()]}), 500, "internal", None)
    assert "RuntimeError in /score" in caplog.text and SECRET not in caplog.text


def test_a_source_that_raises_abstains_and_is_counted(desk):
    (score,) = post(desk, "/score", {"items": [item(text=f"good, EXPLODE {SECRET}")]}).json()["scores"]
    assert not score["votes_used"]
    (metric,) = [each for each in desk._meters._sources.collect()[0].samples if each.name.endswith("_total")]
    assert metric.value == 1 and metric.labels["source"] == "says_good" and SECRET not in str(metric)


def test_a_journal_that_is_away_is_a_503(desk, journal, monkeypatch):
    def fail(rows):
        raise sa.exc.OperationalError(SECRET, {}, Exception(SECRET))

    monkeypatch.setattr(journal, "add_scores", fail)
    assert_refused(post(desk, "/score", {"items": [item()]}), 503, "store_unavailable", None)


# What a score is


def test_scores_are_the_models_own(scorer):
    items = [Item(text=f"film {i} " * (i + 1), answer=(i % 3) - 1, votes={"friend": (i % 2) - 1}) for i in range(50)]
    texts = np.array([each.text for each in items], dtype=object)
    votes = np.full((50, 3), -1, dtype=np.int16)
    votes[:, 0] = [(i % 2) - 1 for i in range(50)]
    answers = np.array([(i % 3) - 1 for i in range(50)])
    expected = scorer.model.score(fake_encode(passages(texts, np.zeros((50, 0, 2), int))), answers, votes)
    for i, each in enumerate(scorer.score(items)):
        assert each.risk == (None if answers[i] == -1 else expected.risk[i])
        assert list(each.probabilities) == list(CLASSES)
        assert list(each.probabilities.values()) == expected.probabilities[i].tolist()
        assert each.harmonizer_answer == CLASSES[expected.harmonizer_answers[i]]
        assert each.votes_used == (i % 2 == 1)
        assert each.answer == (None if answers[i] == -1 else CLASSES[answers[i]])


def test_text_only_sources_run_here_and_given_votes_win(scorer):
    runs, given_vote, silent = scorer.score([
        Item(text="good", answer=0),
        Item(text="good", answer=0, votes={"says_good": "negative", "knows_the_author": 1}),
        Item(text="bad", answer=0, votes={"friend": None}),
    ])
    assert runs.votes == {"says_good": "positive"} and runs.votes_used
    assert given_vote.votes == {"says_good": "negative", "knows_the_author": "positive"}
    assert silent.votes == {} and not silent.votes_used


def test_the_order_of_items_and_votes_does_not_matter(scorer):
    items = [Item(text="x" * n, answer=n % 2, votes={"friend": 1, "knows_the_author": 0}) for n in range(1, 9)]
    turned = [each.model_copy(update={"votes": dict(reversed(each.votes.items()))}) for each in reversed(items)]
    one, two = scorer.score(items), scorer.score(turned)[::-1]
    assert [each.risk for each in one] == pytest.approx([each.risk for each in two], abs=1e-6)


def test_entities_are_needed_where_the_task_marks_them(entity_scorer):
    spans = ((0, 3), (4, 6))
    (scored,) = entity_scorer.score([Item(text="one two three", answer=1, spans=spans)])
    assert 0 <= scored.risk <= 1
    entity_scorer.warm_up()
    with pytest.raises(Refusal, match=r"2 spans\. Found 1") as refusal:
        entity_scorer.score([Item(text="one two", answer=1, spans=spans), Item(text="one", answer=1, spans=spans[:1])])
    assert refusal.value.where == "items.1.spans"


@given(st.lists(st.sampled_from(["a", "b", "0", "1", "2", "-1", "c"]), min_size=2, unique=True).map(tuple),
       st.sampled_from(["a", "b", "0", "1", "2", "-1", "c", "", None, -1, 0, 1, 2, 3]))
def test_classes_mean_what_they_mean_in_training(classes, value):
    try:
        expected = int(encode_classes(pd.Series([value], dtype=object), classes, np.array(["x"]), "answer")[0])
    except InputError:
        expected = None
    assert class_codes(classes).get(value) == expected


def test_another_encoder_than_the_trained_one_is_refused(folder, tmp_path):
    spec = json.loads((folder / "spec.json").read_text())
    (tmp_path / "spec.json").write_text(json.dumps(spec | {"encoder": spec["encoder"] | {"version": "9.9"}}))
    for name in ("weights.safetensors", "sources.py"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(InputError, match=r"9\.9"):
        Scorer.from_folder(tmp_path, "4", "cpu")


def test_scores_are_kept_as_given(desk, journal, tmp_path):
    body = {"items": [item(id="a17", votes={"friend": 0}), item(answer=None, text="good")]}
    response = post(desk, "/score", body).json()
    first, second = response["scores"]
    while journal.drain():
        pass
    with sa.create_engine(f"sqlite:///{tmp_path / 'store.db'}").connect() as connection:
        one, two = connection.execute(sa.text("SELECT * FROM scores ORDER BY score_id")).mappings()
    assert (one["score_id"], one["item_id"], one["risk"]) == (first["score_id"], "a17", first["risk"])
    assert json.loads(one["probabilities"]) == first["probabilities"]
    assert json.loads(one["votes"]) == {"friend": "negative"}
    assert (one["model"], one["version"], one["text"]) == ("Reviews", "4", None)
    assert one["text_length"] == len(body["items"][0]["text"])
    assert (two["item_id"], two["risk"], second["id"], second["risk"]) == (second["score_id"], None, None, None)
    assert json.loads(two["votes"]) == {"says_good": "positive"}
    assert math.isclose(sum(first["probabilities"].values()), 1, abs_tol=1e-6)


def test_feedback_labels_a_score_or_all_of_an_item(desk, journal, store):
    scores = [post(desk, "/score", {"items": [item(id="a")]}).json()["scores"][0] for _ in range(2)]
    by_score = post(desk, "/feedback", {"score_id": scores[0]["score_id"], "label": "positive"})
    assert by_score.json() == {"labelled": 1}
    assert post(desk, "/feedback", {"id": "a", "label": 0}).json() == {"labelled": 2}
    while journal.drain():
        pass
    assert store.frame("Reviews")["label"].tolist() == ["negative", "negative"]


def test_an_explanation_adds_up_to_the_score(desk, journal):
    asked = item(id="a17", text="a good film", votes={"friend": 0})
    found = post(desk, "/explain", {"item": asked}).json()
    assert journal.waiting == 0
    (score,) = post(desk, "/score", {"items": [asked]}).json()["scores"]
    assert (found["risk"], found["decision"], found["probabilities"]) == (
        pytest.approx(score["risk"]), score["decision"], pytest.approx(score["probabilities"]))
    assert found["favoured"] == "positive" and found["rival"] == "negative"
    assert {vote["source"]: vote["vote"] for vote in found["votes"]} == {
        "LLM": "positive", "friend": "negative", "says_good": "positive"}
    assert found["log_odds"] == pytest.approx(found["text_log_odds"] + sum(vote["log_odds"] for vote in found["votes"]))
    assert found["abstained"] == 1 and found["in_words"].startswith("The LLM answers 'positive'. The risk")
    without = post(desk, "/explain", {"item": item(answer=None)}).json()
    assert without["risk"] is None and without["id"] is None and without["decision"] == "ask again"


def test_an_explanation_takes_the_votes_of_sources_that_only_the_other_version_knows(scorer, journal):
    second = SimpleNamespace(sources=(*scorer.sources, "newcomer"), classes=scorer.classes, entities=0)
    desk = Desk(Lineup(scorer, second), journal, Meters(CollectorRegistry()))
    found = post(desk, "/explain", {"item": item(votes={"friend": 0, "newcomer": 1})})
    assert found.status_code == 200 and "newcomer" not in {vote["source"] for vote in found.json()["votes"]}
    refused = post(desk, "/explain", {"item": item(votes={"stranger": 0})})
    assert_refused(refused, 400, "unknown_source", "item.votes.stranger")


@pytest.mark.parametrize(("body", "kind", "where"), [
    ({"item": item(answer="purple")}, "unknown_class", "item.answer"),
    ({"item": item(votes={"stranger": 0})}, "unknown_source", "item.votes.stranger"),
    ({"item": item(spans=[[0, 3]])}, "invalid_request", "item.spans"),
    ({"item": item(text=" ")}, "invalid_request", "item.text"),
    ({"items": [item()]}, "invalid_request", "item"),
])
def test_what_cannot_be_explained_is_refused(desk, body, kind, where):
    assert_refused(post(desk, "/explain", body), 400, kind, where)


# The process


def test_the_service_imports_neither_mlflow_nor_evidently_and_only_what_the_bento_includes():
    code = ("import serving.service, sys, pathlib; print([m for m in sys.modules if m in ('mlflow', 'evidently')]);"
            "print(*sorted(m.__file__ for n, m in sys.modules.items()"
            " if n.split('.')[0] in ('training', 'serving', 'monitoring', 'registry', 'polarscore')), sep='\\n')")
    root = Path(__file__).resolve().parent.parent
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    forbidden, *files = said.splitlines()
    assert forbidden == "[]"
    included = yaml.safe_load((root / "bentofile.yaml").read_text())["include"]
    assert {Path(file) for file in files} <= {path for pattern in included for path in root.glob(pattern)}


def test_serving_without_a_bundle_ends_with_one_line(tmp_path):
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path)})
    with pytest.raises(InputError, match="polarscore bundle"):
        launch.serve(None, "127.0.0.1", 3000, state)


def test_the_demo_heeds_neither_configuration_nor_keys_of_the_environment(tmp_path, monkeypatch):
    from serving import demo

    for name in ("MLFLOW_TRACKING_URI", "POLARSCORE_DATABASE_URL", "POLARSCORE_SERVICE", "POLARSCORE_API_KEYS",
                 "POLARSCORE_HOME", "POLARSCORE_KEYS"):
        monkeypatch.setenv(name, "elsewhere")
    assert demo._state_in(tmp_path).home == tmp_path / "state"
    assert "elsewhere" not in os.environ.values()


def test_a_taken_port_and_an_unknown_host_are_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="Choose another --port"):
            launch._refuse_taken("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(InputError, match=r"no\.such\.host\.invalid"):
        launch._address("no.such.host.invalid")
    assert launch._address("localhost") == "127.0.0.1"


@pytest.fixture(scope="module")
def signed(folder, tmp_path_factory):
    """The version's files with a signature and its key beside them; the keys that made it, and trust it."""
    own, signed = Keys(tmp_path_factory.mktemp("own")), tmp_path_factory.mktemp("signed") / "version"
    own.make()
    shutil.copytree(folder, signed)
    sign(folder, signed / SIGNATURE, own)
    (signed / PUBLIC_KEY).write_bytes(own.trusted_files[0].read_bytes())
    return signed, own


@pytest.fixture(scope="module")
def served(signed, tmp_path_factory):
    """A bundle, served: its state, its tag, a client, and the folder of the service's logs."""
    folder, own = signed
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path_factory.mktemp("state")),
                                    "POLARSCORE_KEYS": str(own.folder)}).prepare()
    tag = build(folder, "Reviews", "4", labels(own), state)
    with launch.running(tag, state) as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield state, tag, client


def labels(own):
    return {"stage": "production", "signed_by": own.signer().id}


@pytest.mark.slow
def test_a_bundle_is_built_once_and_found(served, signed):
    state, tag, _ = served
    assert build(signed[0], "Reviews", "4", labels(signed[1]), state) == tag == latest(state) == find(None, state)
    bento = yaml.safe_load((state.bento_home / "bentos" / tag.replace(":", "/") / "bento.yaml").read_text())
    assert bento["labels"]["model"] == "Reviews" and bento["labels"]["version"] == "4"
    assert [model["alias"] for model in bento["models"]] == ["scorer"]


@pytest.mark.slow
def test_risks_over_http_are_those_of_the_model(served, folder):
    state, _, client = served
    texts = ["a good film", f"a dull film about {SECRET}", "rather long " * 500]
    items = [{"id": f"i{n}", "text": text, "answer": n % 2, "votes": {"friend": 1} if n else {}}
             for n, text in enumerate(texts)]
    answer = client.post("/score", json={"items": items}).json()
    votes = np.array([[-1, 1, -1], [1, -1, -1], [1, -1, -1]], dtype=np.int16)
    expected = load(folder).score(Encoder().encode(texts), np.array([0, 1, 0]), votes)
    assert [score["risk"] for score in answer["scores"]] == pytest.approx(expected.risk.tolist(), abs=0.01)
    assert [score["id"] for score in answer["scores"]] == ["i0", "i1", "i2"]
    assert (answer["model"], answer["version"]) == ("Reviews", "4")
    ids = [score["score_id"] for score in answer["scores"]]
    with Store(state.database_url) as store:
        for _ in range(100):  # the journal drains behind the answer
            kept = store.frame("Reviews").set_index("score_id")
            if set(ids) <= set(kept.index):
                break
            time.sleep(0.1)
    kept = kept.loc[ids]
    assert kept["risk"].tolist() == [score["risk"] for score in answer["scores"]]
    assert kept["sources_voting"].tolist() == [1, 1, 1]


@pytest.mark.slow
def test_version_probes_metrics_and_description_answer(served, signed):
    _, _, client = served
    client.post("/score", json={"items": [item(id="m")]})
    client.post("/feedback", json={"id": "m", "label": 1})
    assert all(client.get(probe).status_code == 200 for probe in ("/livez", "/readyz", "/healthz"))
    version = client.get("/version").json()
    assert (version["model"], version["version"], version["entities"]) == ("Reviews", "4", 0)
    assert version["device"] in ("cpu", "cuda") and version["classes"] == list(CLASSES)
    assert (version["signed_by"], version["trusted"], version["following"]) == (signed[1].signer().id, True, None)
    metrics = client.get("/metrics").text
    for name in ("polarscore_risk_bucket", "polarscore_scored_answers_total", "polarscore_feedback_total"):
        assert re.search(rf'^{name}{{.*model="Reviews".*}} [1-9]', metrics, re.MULTILINE)
    description = client.get("/docs.json").json()
    assert {"/score", "/correct", "/feedback", "/explain", "/forget", "/version"} <= description["paths"].keys()
    assert version["precision"] in ("float32", "bfloat16") and version["pack_tokens"] > 0
    assert (version["policy"]["basis"], version["beside"]) == ("risk", None)
    example = description["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/score", json=example).status_code == 200
    assert "googletagmanager" not in client.get("/").text
    assert_refused(client.get("/score"), 405, "method_not_allowed", None)


@pytest.mark.slow
def test_bad_input_over_http_leaves_no_text_in_the_log(served):
    state, _, client = served
    for path, cases in (("/score", BAD), ("/feedback", BAD_FEEDBACK)):
        for body, status, kind, where in cases:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            response = client.post(path, content=content, headers={"content-type": "application/json"})
            assert_refused(response, status, kind, where)
    assert client.post("/score", json={"items": [item(text=f"EXPLODE {SECRET}")]}).status_code == 200
    assert client.post("/explain", json={"item": item(text=f"EXPLODE {SECRET}")}).status_code == 200
    logs = [path.read_text() for path in (state.home / "logs").iterdir()]
    assert any("path=/score" in log for log in logs) and not any(SECRET in log for log in logs)
    files = [path for path in state.home.rglob("*") if path.is_file()]
    assert files and not any(SECRET.encode() in path.read_bytes() for path in files)


@pytest.mark.slow
def test_probes_answer_while_it_scores(served):
    _, _, client = served
    long = {"items": [item(text=f"{i} " + "many words " * 300) for i in range(60)]}
    scoring = threading.Thread(target=lambda: httpx.post(f"{client.base_url}/score", json=long, timeout=60))
    scoring.start()
    probes = []
    while scoring.is_alive():
        probes.append(client.get("/livez", timeout=2).elapsed.total_seconds())
        scoring.join(0.05)
    assert len(probes) > 3 and sorted(probes)[len(probes) // 2] < 0.5


@pytest.mark.slow
def test_a_service_that_stops_ends_its_streams_and_keeps_what_it_answered(served):
    state, tag, _ = served
    body = b"".join(json.dumps(item(id=f"stopped-{number}")).encode() + b"\n" for number in range(3))
    said = b""
    with ExitStack() as stack:
        with launch.running(tag, state) as url:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=60))
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n"
                               b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body))
            while said.count(b'"score_id"') < 3:
                said += connection.recv(65_536)
            began = time.monotonic()
        took = time.monotonic() - began
        while more := connection.recv(65_536):
            said += more
    assert launch.ANSWER_S < took < launch.STOP_S
    *scores, last = [json.loads(line) for line in said.splitlines() if line.startswith(b"{")]
    assert [score["id"] for score in scores] == ["stopped-0", "stopped-1", "stopped-2"]
    assert (last["error"]["type"], last["line"]) == ("stopping", 4)
    with Store(state.database_url) as store:
        assert {score["score_id"] for score in scores} <= set(store.frame("Reviews")["score_id"])
    log = max((state.home / "logs").iterdir(), key=lambda path: path.stat().st_mtime).read_text()
    assert "Service instance cleanup finalized" in log and "left in the journal" not in log


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weights.safetensors", "spec.json", "sources.py"])
def test_a_bundle_with_a_changed_byte_ends_with_one_line(served, name):
    state, tag, _ = served
    (file,) = (state.bento_home / "models").glob(f"*/*/{name}")
    whole = file.read_bytes()
    file.write_bytes(flipped(whole, len(whole) // 2))
    try:
        with (pytest.raises(PolarscoreError, match=rf"did not come up: the files in .* are refused: {name} should be"),
              launch.running(tag, state)):
            pass
    finally:
        file.write_bytes(whole)


# What may be loaded


def flipped(content, place):
    """The content with one bit changed."""
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1:]


def ended(scorer):
    """The scorer, the process of its sources ended."""
    scorer.close()
    return scorer


@pytest.fixture
def kept(signed, tmp_path):
    """A signed version in the model store: its folder and what the store says of it."""
    folder, own = signed
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path / "state")}).prepare()
    place = state.bento_home / "models" / export(folder, "Reviews", "4", labels(own), state).replace(":", "/")
    return place, yaml.safe_load((place / "model.yaml").read_text())["metadata"]


def test_a_signed_version_is_opened_and_says_who_signed_it(kept, signed, keys):
    (place, facts), own = kept, signed[1]
    trusting = ended(open_scorer(place, facts, own, "cpu"))
    assert trusting.proof == Proof(own.signer().id, trusted=True)
    assert (trusting.name, trusting.version, trusting.digest) == ("Reviews", "4", facts["digest"])
    assert ended(open_scorer(place, facts, Keys(keys), "cpu")).proof == Proof(own.signer().id, trusted=False)
    other = Keys(keys)
    other.make()
    with pytest.raises(CheckFailed, match="should be signed by"):
        open_scorer(place, facts, Keys(keys), "cpu")


@pytest.mark.parametrize("trusting", [True, False])
@pytest.mark.parametrize("name", ["weights.safetensors", "spec.json", "sources.py"])
def test_no_changed_byte_is_opened(kept, signed, keys, name, trusting):
    place, facts = kept
    whole, chance = (place / name).read_bytes(), np.random.default_rng(5)
    for at in {0, len(whole) - 1, *chance.integers(len(whole), size=15).tolist()}:
        (place / name).write_bytes(flipped(whole, at))
        with pytest.raises(CheckFailed, match=f"{name} should be as key"):
            open_scorer(place, facts, signed[1] if trusting else Keys(keys), "cpu")
    (place / name).unlink()
    with pytest.raises(CheckFailed, match=name):
        open_scorer(place, facts, signed[1] if trusting else Keys(keys), "cpu")


def test_a_signature_that_is_gone_or_a_key_that_is_damaged_is_refused(kept, signed, keys):
    place, facts = kept
    with pytest.raises(CheckFailed, match="not those that were exported"):
        open_scorer(place, facts | {"digest": "0" * 64}, signed[1], "cpu")
    (place / "scorer.pem").write_text("nothing")
    with pytest.raises(CheckFailed, match=r"scorer\.pem is missing or damaged"):
        open_scorer(place, facts, Keys(keys), "cpu")
    (place / "scorer.sig").unlink()
    with pytest.raises(CheckFailed, match=r"signed by key .* and scorer\.sig is missing"):
        open_scorer(place, facts, signed[1], "cpu")


def test_a_version_that_nobody_signed_is_refused_where_keys_are_trusted(folder, signed):
    facts = {"model": "Reviews", "version": "4", "digest": digest(folder), "signed_by": "none"}
    with pytest.raises(CheckFailed, match="this machine trusts only what is"):
        open_scorer(folder, facts, signed[1], "cpu")


def test_a_version_that_nobody_signed_is_opened_with_a_warning_if_allowed(folder, signed, caplog, monkeypatch):
    facts = {"model": "Reviews", "version": "4", "digest": digest(folder), "signed_by": "none"}
    monkeypatch.setenv("POLARSCORE_ALLOW_UNSIGNED", "1")
    scorer = ended(open_scorer(folder, facts, signed[1], "cpu"))
    assert scorer.proof == Proof()
    say_who_signed(scorer)
    assert "version 4 of Reviews is not signed" in caplog.text


def test_of_a_version_that_was_signed_twice_the_newest_whole_one_is_found(kept, signed, folder, tmp_path):
    (place, _), own = kept, signed[1]
    models = place.parent.parent
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path / "state")})
    export(folder, "Reviews", "4", {}, state)  # not signed
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "model.yaml").write_text("{")
    assert [each.folder == place for each in stored(models, "Reviews", "4")] == [False, True]
    assert ended(open_signed(models, "Reviews", "4", own, device="cpu")).proof.signed_by == own.signer().id
    assert ended(open_signed(models, "Reviews", "4", own, digest(folder), "cpu")).version == "4"
    with pytest.raises(CheckFailed, match=r"not signed|are not those of version 4 that the log names"):
        open_signed(models, "Reviews", "4", own, "f" * 64, "cpu")
    (place / "sources.py").write_text("changed")
    with pytest.raises(CheckFailed, match="not signed"):
        open_signed(models, "Reviews", "4", own, device="cpu")
    with pytest.raises(InputError, match=r"version 5 is not in the model store.*polarscore bundle"):
        open_signed(models, "Reviews", "5", own, device="cpu")


@pytest.mark.parametrize(("said", "meant"), [("", False), ("0", False), ("1", True)])
def test_the_service_follows_if_told(said, meant, monkeypatch):
    monkeypatch.setenv("POLARSCORE_FOLLOW", said)
    assert follows() is meant
    monkeypatch.setenv("POLARSCORE_FOLLOW", "perhaps")
    with pytest.raises(InputError, match="POLARSCORE_FOLLOW should be 1"):
        follows()
