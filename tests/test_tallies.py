"""The tallies that the store keeps are those of the scores that it keeps, however these came."""

import itertools
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.store import ScoredAnswer, Store
from monitoring.tables import SCORES
from monitoring.tallies import counted, hour_of
from monitoring.tally import Tally, added, tally
from registry import schema
from registry.database import connect, now
from training.errors import InputError

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLASSES = ("a", "b", "c")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path / 'a.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def store(url):
    with Store(url) as opened:
        yield opened


def scored(number, minutes=0, **changes):
    values = {
        "score_id": f"s{number}", "item_id": f"i{number}", "model": "m", "version": "1", "answer": "a",
        "harmonizer_answer": "b", "risk": 0.25, "probabilities": dict.fromkeys(CLASSES, 1 / 3), "votes": {"x": "a"},
        "votes_used": True, "text_length": 27, "created_at": START + timedelta(minutes=minutes)}
    return ScoredAnswer(**values | changes)


classes = st.sampled_from(CLASSES)
answers = st.one_of(st.none(), st.tuples(classes, st.one_of(st.sampled_from([0.0, 0.05, 0.3, 1.0]), st.floats(0, 1))))


@st.composite
def scores(draw):
    number, answer = draw(st.integers(0, 30)), draw(answers)
    dark = draw(st.booleans())
    return scored(
        number, draw(st.integers(-90, 90)), answer=None if answer is None else answer[0],
        risk=None if answer is None else answer[1], harmonizer_answer=draw(classes),
        votes=draw(st.dictionaries(st.sampled_from("xyz"), classes)),
        text_length=draw(st.one_of(st.integers(0, 9), st.integers(0, 2**31 - 1))), version="2" if dark else "1",
        role="shadow" if dark else "serving", shadow_of="s99" if dark else None)


def per_hour(frame):
    """The tally of each hour of a frame."""
    hours = frame["created_at"].dt.floor("h")
    return [(hour, tally(rows)) for hour, rows in frame.groupby(hours)]


def check(store, model="m"):
    """Whether the tallies are those of the frames."""
    total = 0
    for version, role in (("1", "serving"), ("2", "shadow")):
        frame, kept = store.frame(model, version, votes=True), store.tallies(model, version, role)
        assert kept == per_hour(frame)
        assert added(each for _, each in kept) == tally(frame)
        total += len(frame)
    assert sum(row.n for row in store.models() if row.model == model) == total


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A store of several models, none of which is like another."""
    with Store(f"sqlite:///{tmp_path_factory.mktemp('tallies')}/a.db") as opened:
        yield opened, map(str, itertools.count())


@settings(max_examples=15)
@given(st.lists(st.lists(scores(), max_size=8), max_size=4))
def test_tallies_are_those_of_the_frame_whatever_comes_twice(shared, batches):
    store, model = shared[0], next(shared[1])
    for number, batch in enumerate(batches):
        rows = [replace(row, model=model, score_id=f"{model} {row.score_id}") for row in batch]
        if number % 2:
            store.merge(rows, [])
        else:
            try:
                store.add_scores(rows)
            except InputError:  # a score_id in use: nothing of the batch counts
                store.merge(rows[:1] * 2, [])
    check(store, model)


@given(st.lists(scores(), min_size=1, max_size=12))
def test_a_few_rows_are_counted_as_a_frame_is(rows):
    votes = pd.DataFrame([row.votes for row in rows], dtype=object).add_prefix("vote:")
    frame = pd.DataFrame({
        "risk": [row.risk for row in rows], "answer": [row.answer for row in rows],
        "harmonizer_answer": [row.harmonizer_answer for row in rows], "text_length": [row.text_length for row in rows],
        "agreement": [None if row.answer is None or not row.votes else
                      sum(vote == row.answer for vote in row.votes.values()) / len(row.votes) for row in rows],
    }).astype({"risk": float, "answer": object, "agreement": float})
    assert counted(rows) == tally(frame.join(votes))


def test_hours_are_in_utc_and_clocks_may_jump(store):
    india = ZoneInfo("Asia/Kolkata")
    store.add_scores([scored(1, 59), scored(2, 61)])
    store.merge([scored(3, 0), scored(4, created_at=(START + timedelta(minutes=70)).astimezone(india))], [])
    store.merge([scored(5, -600)], [])
    hours = [START - timedelta(hours=10), START, START + timedelta(hours=1)]
    assert [(hour, each.n) for hour, each in store.tallies("m", "1")] == list(zip(hours, (1, 2, 2), strict=True))
    assert [hour for hour, _ in store.tallies("m", "1", since=START + timedelta(minutes=30))] == hours[1:]
    assert store.tallies("m", "1", since=START + timedelta(hours=2)) == store.tallies("m", "2") == []
    assert store.tallies("m", "1", role="shadow") == []
    check(store)


def test_what_fails_is_not_counted(store):
    store.add_scores([scored(1)])
    with pytest.raises(InputError, match="a score_id of its own"):
        store.add_scores([scored(2), scored(1)])
    assert store.tallies("m", "1")[0][1].n == 1
    check(store)


def test_writers_at_once_lose_no_count(url):
    rows = [[scored(100 * writer + number, number % 120) for number in range(60)] for writer in range(4)]
    faults = []

    def write(own):
        try:
            with Store(url) as store:
                for start in range(0, 60, 5):
                    store.merge([*own[start : start + 5], scored(9999)], [])
        except Exception as error:
            faults.append(error)

    Store(url).close()
    threads = [threading.Thread(target=write, args=(own,)) for own in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert faults == []
    with Store(url) as store:
        assert store.models() == [("m", "1", 241)]
        check(store)


def test_what_is_erased_is_counted_and_kept_no_longer(store):
    store.add_scores([scored(number, number * 20) for number in range(5)])
    store.add_scores([scored(9, version="2", role="shadow", shadow_of="s1")])
    before = store.tallies("m", "1")
    with store.erasing(["s1", "i4"], now()) as erased:
        assert len(erased.scores) == 3
    assert store.models() == [("m", "1", 3)] and len(store.frame("m")) == 3
    assert store.tallies("m", "1") == before
    with store.erasing_before(START + timedelta(minutes=30)):
        pass
    assert store.models() == [("m", "1", 2)]
    with store.erasing_before(now()):
        pass
    assert store.models() == [] and store.tallies("m", "1") == before
    store.add_scores([scored(10, 10)])
    assert store.models() == [("m", "1", 1)]


def test_an_upgrade_counts_what_is_there(url, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(schema, "CURRENT", "0003")
        connect(url).dispose()
    new = {"sources_voting", "sources_agreeing", "spans"}
    old = sa.Table("scores", sa.MetaData(), *(sa.Column(c.name, c.type) for c in SCORES.c if c.name not in new))
    feedback = sa.table("feedback", *map(sa.column, ("score_id", "label", "created_at")))
    rows = [scored(number, number * 37, risk=(number % 41) / 40, text_length=number * number,
                   votes={"x": CLASSES[number % 3], "y": CLASSES[number % 2]} if number % 4 else {})
            for number in range(200)]
    rows += [scored(300, 1, answer=None, risk=None), scored(301, -60 * 24 * 400), scored(302, 2, votes={"ü \"'": "a"}),
             scored(303, 3, version="2", role="shadow", shadow_of="s1")]
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(sa.insert(old), [{column.name: vars(row)[column.name] for column in old.c} for row in rows])
        connection.execute(sa.insert(feedback), {"score_id": "s7", "label": "c", "created_at": START})
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET TIME ZONE 'Asia/Kathmandu'")
    engine.dispose()
    with pytest.raises(InputError, match="has schema 0003"):
        Store(url)
    connect(url, migrating=True).dispose()
    with Store(url) as store:
        check(store)
        frame = store.frame("m", labelled=True)
        assert frame[["score_id", "label", "chosen", "reviewers"]].to_numpy().tolist() == [["s7", "c", "unknown", 1]]
        assert store.models() == [("m", "1", 203), ("m", "2", 1)]
        other = {row.score_id: (len(row.votes), sum(vote == row.answer for vote in row.votes.values())) for row in rows}
        counts = store.frame("m").set_index("score_id")[["sources_voting", "sources_agreeing"]]
        assert {name: tuple(row) for name, row in counts.T.items()} == {
            name: pair for name, pair in other.items() if name != "s303"}
        store.add_scores([scored(400, 1), scored(401, 2, version="2", role="shadow", shadow_of="s1")])
        check(store)


def test_an_hour_is_told_by_its_beginning():
    moment = datetime(2026, 3, 1, 18, 40, 1, 5, tzinfo=ZoneInfo("Asia/Kathmandu"))
    assert hour_of(moment) == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert counted([]) == Tally()
