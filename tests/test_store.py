import logging
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from monitoring.store import COLUMNS, Feedback, ScoredAnswer, Store, StoreAway
from monitoring.tables import TakenFeedback
from training.errors import InputError

CLASSES = ("spam", "ham", "other")  # not in the order of the alphabet: an index is a place here
START = datetime(2025, 3, 1, 12, tzinfo=UTC)
SECRET = "a text that nobody may read"


def scored(item: str, *, at: int = 0, answer: str | None = "spam", **changes) -> ScoredAnswer:
    values = {
        "score_id": uuid4().hex, "item_id": item, "model": "mail", "version": "1", "answer": answer,
        "harmonizer_answer": "ham", "risk": None if answer is None else 0.25,
        "probabilities": dict(zip(CLASSES, (0.2, 0.5, 0.3), strict=True)), "votes": {"a": "spam", "b": "ham"},
        "votes_used": True, "text_length": 27, "text": SECRET, "created_at": START + timedelta(minutes=at),
    }
    return ScoredAnswer(**values | changes)


def test_what_goes_in_comes_out_in_the_order_of_scoring(store):
    rows = [scored("b", at=2), scored("a", at=1, answer=None), scored("c", at=3, votes={})]
    store.add_scores(rows)
    frame = store.frame("mail")
    assert tuple(frame.columns) == COLUMNS
    assert frame["item_id"].tolist() == ["a", "b", "c"]
    assert frame["created_at"].tolist() == [START + timedelta(minutes=minutes) for minutes in (1, 2, 3)]
    assert frame["answer"].tolist() == [None, "spam", "spam"]
    assert frame["risk"].isna().tolist() == [True, False, False] and frame["risk"][1] == 0.25
    assert frame["sources_voting"].tolist() == [2, 2, 0]
    assert frame["agreement"].isna().tolist() == [True, False, True] and frame["agreement"][1] == 0.5
    assert frame["label"].tolist() == [None] * 3 and frame["error"].isna().all()
    assert SECRET not in frame.to_csv()


def test_an_empty_frame_has_the_same_columns_and_types(store):
    store.add_scores([scored("a")])
    assert store.frame("nobody").dtypes.equals(store.frame("mail").dtypes)


def test_the_latest_feedback_counts(store):
    row = scored("a")
    store.add_scores([row])
    assert store.add_feedback([Feedback("ham", score_id=row.score_id)]) == 1
    assert store.frame("mail")[["label", "error"]].values.tolist() == [["ham", 1.0]]
    assert store.add_feedback([Feedback("other", id="a"), Feedback("spam", id="a")]) == 1
    assert store.frame("mail")[["label", "error"]].values.tolist() == [["spam", 0.0]]


def test_an_answer_scored_again_is_one_checked_answer(store):
    store.add_scores([scored("a", at=0), scored("a", at=1), scored("a", at=2, answer="ham"), scored("a", version="2")])
    assert store.add_feedback([Feedback("ham", id="a")]) == 4
    frame = store.frame("mail", "1")
    assert frame["label"].tolist() == ["ham"] * 3
    assert frame["error"].tolist() == [1.0, 1.0, 0.0]
    assert frame["again"].tolist() == [True, False, False]  # the same answer once, another answer too
    assert store.frame("mail", "2")["error"].tolist() == [1.0]


def test_an_id_means_every_score_of_that_item(store):
    store.add_scores([scored("a"), scored("a", version="2"), scored("b"), scored("a", model="other", answer=None)])
    assert store.add_feedback([Feedback("ham", id="a")], model="mail") == 2
    assert store.add_feedback([Feedback("ham", id="a")]) == 3
    assert store.frame("mail")["error"].notna().sum() == 2
    assert store.frame("other")["error"].isna().all()  # no answer, no error


@pytest.mark.parametrize(("label", "name"), [("ham", "ham"), (1, "ham"), ("1", "ham"), (0, "spam"), (2.0, "other")])
def test_a_label_is_a_name_or_an_index_in_the_tasks_order(store, label, name):
    store.add_scores([scored("a")])
    store.add_feedback([Feedback(label, id="a")])
    assert store.frame("mail")["label"].tolist() == [name]


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (Feedback("ham", id="nobody"), "the id 'nobody'"),
        (Feedback("ham", score_id="nothing"), "the score_id 'nothing'"),
        (Feedback("eggs", id="a"), "'eggs', which is no class"),
        (Feedback(3, id="a"), "'3', which is no class"),
        (Feedback(-1, id="a"), "'-1', which is no class"),
        (Feedback(True, id="a"), "'True', which is no class"),
        (Feedback("ham"), "Found neither"),
        (Feedback("ham", id="a", score_id="x"), "Found both"),
    ],
)
def test_one_bad_row_and_nothing_is_written(store, bad, found):
    store.add_scores([scored("a")])
    with pytest.raises(InputError, match=found):
        store.add_feedback([Feedback("ham", id="a"), bad])
    assert store.frame("mail")["label"].isna().all()


def test_scores_in_the_dark_are_seen_of_their_version_alone_and_labelled_with_what_was_served(store):
    served = scored("a", version="1")
    dark = scored("a", version="2", answer="ham", role="shadow", shadow_of=served.score_id)
    store.add_scores([served, dark, scored("b", at=1, version="2")])
    assert store.frame("mail")["item_id"].tolist() == ["a", "b"]
    assert store.frame("mail", "1")["score_id"].tolist() == [served.score_id]
    assert dark.score_id in store.frame("mail", "2")["score_id"].tolist()
    for row in (Feedback("ham", score_id=served.score_id), Feedback("ham", id="a")):
        assert store.add_feedback([row]) == 1
        assert store.frame("mail", "1")["error"].tolist() == [1.0]
        assert store.frame("mail", "2").set_index("score_id")["error"].dropna().to_dict() == {dark.score_id: 0.0}
    with pytest.raises(InputError, match="no score is kept"):
        store.add_feedback([Feedback("ham", score_id=dark.score_id)])


def test_what_is_merged_twice_is_kept_once(store):
    rows = [scored("a"), scored("b")]
    taken = [TakenFeedback(f"u{n}", Feedback(label, id="a"), "mail") for n, label in enumerate(("ham", "other"))]
    lost = TakenFeedback("lost", Feedback("ham", id="nobody"), "mail")
    for _ in range(2):
        store.merge(rows, [*taken, lost])
        assert store.frame("mail").set_index("item_id")["label"].to_dict() == {"a": "other", "b": None}
    with store.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM feedback")).scalar() == 2
    store.merge([], [])


def test_many_keys_fit_in_one_call(store):
    store.add_scores([scored(f"item {number}") for number in range(2500)])
    assert store.add_feedback([Feedback("ham", id=f"item {number}") for number in range(2500)]) == 2500
    assert store.frame("mail")["error"].eq(1).all()


@pytest.mark.parametrize(
    "changes",
    [{"risk": 1.2}, {"risk": float("nan")}, {"risk": None}, {"answer": "eggs"}, {"votes": {"a": "eggs"}},
     {"probabilities": {"spam": float("nan"), "ham": 0.5}}],
)
def test_a_score_at_fault_is_refused_with_all_beside_it(store, changes):
    with pytest.raises(InputError, match="the score of item 'bad'"):
        store.add_scores([scored("good"), scored("bad", **changes)])
    assert store.models() == []


def test_a_score_id_is_taken_once(store):
    row = scored("a")
    store.add_scores([row])
    with pytest.raises(InputError, match="Nothing was written"):
        store.add_scores([scored("b"), row])
    assert len(store.frame("mail")) == 1


def test_frames_narrow_to_a_version_and_a_moment(store):
    store.add_scores([scored("a", at=0), scored("b", at=1), scored("c", at=2, version="2"), scored("d", model="x")])
    assert store.models() == [("mail", "1", 2), ("mail", "2", 1), ("x", "1", 1)]
    assert store.frame("mail", "1")["item_id"].tolist() == ["a", "b"]
    assert store.frame("mail", since=START + timedelta(minutes=1))["item_id"].tolist() == ["b", "c"]
    store.add_scores([])
    assert store.add_feedback([]) == 0


def test_no_text_is_logged_even_where_the_database_refuses(store, caplog):
    caplog.set_level(logging.DEBUG)
    row = scored("a")
    store.add_scores([row])
    with pytest.raises(InputError) as refusal:
        store.add_scores([row])
    assert SECRET not in caplog.text + str(refusal.value) + repr(row)


def test_eight_processes_open_a_new_file_at_once(tmp_path):
    program = (
        "import sys; from tests_store_row import row; from monitoring.store import Store\n"
        "with Store(sys.argv[1]) as store: store.add_scores([row()])"
    )
    (tmp_path / "tests_store_row.py").write_text(
        "from uuid import uuid4\nfrom monitoring.store import ScoredAnswer\n"
        "def row(): return ScoredAnswer(uuid4().hex, 'a', 'mail', '1', 'x', 'x', .5, {'x': .5}, {}, False, 1)\n"
    )
    root = str(Path(__file__).parents[1])
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([root, str(tmp_path)])}
    url = f"sqlite:///{tmp_path / 'new.db'}"
    openers = [subprocess.Popen([sys.executable, "-c", program, url], env=environ, stderr=subprocess.PIPE)
               for _ in range(8)]
    said = [opener.communicate(timeout=60)[1].decode() for opener in openers]
    assert [opener.returncode for opener in openers] == [0] * 8, said
    with Store(url) as store:
        assert store.models() == [("mail", "1", 8)]


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("not a url hunter2", "no database URL"),
        ("mysql://me:hunter2@host/db", "Found 'mysql'"),
        ("sqlite:////nowhere/at/all/store.db", "no folder /nowhere/at/all"),
        ("postgresql://me:hunter2@127.0.0.1:1/db?password=hunter2", r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/db"),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_clear_line_without_a_password(url, found):
    with pytest.raises(InputError, match=found) as refusal:
        Store(url)
    assert "\n" not in str(refusal.value) and "hunter2" not in str(refusal.value)
    if not url.startswith("postgresql"):
        with pytest.raises(InputError, match=found):
            Store(url, patient=True)
        return
    with Store(url, patient=True) as store:  # nobody listens there: a server may be away
        for ask in (lambda: store.frame("mail"), lambda: store.look_up(Feedback("ham", id="a"), "mail")):
            with pytest.raises(StoreAway, match="cannot be opened") as away:
                ask()
            assert re.search(found, away.value.why) and "hunter2" not in away.value.why
            assert "127.0.0.1" not in str(away.value)  # that is for the log alone


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "store.db").write_text("dear diary, " * 100)
    with pytest.raises(InputError, match="file is not a database"):
        Store(f"sqlite:///{tmp_path / 'store.db'}")
    with pytest.raises(InputError, match="cannot be opened"):
        Store(f"sqlite:///{tmp_path}")
    for path in (tmp_path / "store.db", tmp_path):
        with pytest.raises(InputError, match=r"file is not a database|cannot be opened"):
            Store(f"sqlite:///{path}", patient=True)


def test_the_store_imports_neither_evidently_nor_mlflow():
    program = "import sys, monitoring.store; print({'evidently', 'mlflow', 'plotly', 'scipy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True)
    assert out.stdout.strip() == b"set()", out
