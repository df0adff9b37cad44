import hashlib
import json
import sqlite3
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
import typer

from monitoring import commands, forgetting
from monitoring.forgetting import Forgotten, Places, forget, read_ids
from monitoring.journal import Journal
from monitoring.journal_file import JournalFile
from monitoring.merging import merge
from monitoring.store import Feedback, Store
from tests import kills
from training.errors import InputError, PolarscoreError

TEXT = "Marzipan-Krokodil writes about {}"


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request, tmp_path):
    """A store, a journal and an embedding cache that holds what texts 0 to 49 and some more were encoded to."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else f"sqlite:///{tmp_path}/store.db"
    with closing(sqlite3.connect(tmp_path / "embeddings.db")) as cache:
        cache.execute("PRAGMA journal_mode = WAL")
        cache.execute("CREATE TABLE vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
        cache.executemany("INSERT INTO vectors VALUES (?, ?)", [(key(n), vector(n)) for n in range(100)])
        cache.commit()
    with Store(url) as store:
        yield Places(store, tmp_path / "journal.db", tmp_path / "embeddings.db")


@pytest.fixture
def journal(places):
    opened = Journal(places.journal, places.store)
    yield opened
    opened.close(0)


def key(number):
    return hashlib.sha256(f"text {number}".encode()).digest()


def vector(number):
    return hashlib.sha512(f"vector {number}".encode()).digest() * 24  # 384 floats


def scored(number, **changes):
    values = {"text": TEXT.format(number), "text_hash": key(number).hex()} | changes
    return kills.scored(values.pop("score_id", f"score-{number}."), values.pop("item_id", f"item-{number}."), **values)


def kept(store):
    with store.engine.connect() as connection:
        scores = set(connection.execute(sa.text("SELECT score_id FROM scores")).scalars())
        return scores, connection.execute(sa.text("SELECT count(*) FROM feedback")).scalar()


def vectors(places):
    with closing(sqlite3.connect(places.embeddings)) as cache:
        return {row[0] for row in cache.execute("SELECT key FROM vectors")}


def told(places):
    with closing(sqlite3.connect(places.embeddings)) as cache:
        return cache.execute("PRAGMA user_version").fetchone()[0]


def traces(folder, *what):
    """Which files hold which of these bytes."""
    return [(path.name, each) for path in sorted(folder.iterdir()) if path.is_file() for each in what
            if each in path.read_bytes()]


def test_what_is_forgotten_is_gone_from_every_file(places, journal, tmp_path):
    places.store.add_scores([scored(n) for n in range(40)] + [scored(7, score_id="again.")])
    places.store.add_scores([scored(7, score_id="dark.", role="shadow", shadow_of="again.", version="2")])
    places.store.add_feedback([Feedback("b", id="item-7."), Feedback("c", id="item-8.")])
    journal.add_scores([scored(7, score_id="late."), scored(41), scored(42)])
    while journal.drain():
        pass
    journal.add_scores([scored(7, score_id="later."), scored(43)])
    journal.add_feedback(Feedback("c", score_id="later."), "mail")
    found = (TEXT.format(7).encode(), key(7).hex().encode(), key(7), vector(7)[:64], b"item-7.", b"score-7.", b"dark.")
    in_files = [found[0], found[2], found[3]]
    assert {each for _, each in traces(tmp_path, *in_files)} == set(in_files)
    before = told(places)
    done = forget(["item-7."], places)
    assert done == Forgotten(scores=5, labels=3, vectors=1, all_vectors=False)
    assert traces(tmp_path, *found) == []
    scores, labels = kept(places.store)
    assert scores == {f"score-{n}." for n in (*range(7), *range(8, 40), 41, 42)} and labels == 1
    assert len(vectors(places)) == 99 and key(7) not in vectors(places) and told(places) == before + 1
    assert journal.waiting == 1  # a service that runs goes on with its journal
    journal.add_scores([scored(44)])
    journal.start()
    assert journal.close(20) == 0 and len(kept(places.store)[0]) == 43


def test_a_score_id_takes_the_scores_in_the_dark_beside_it(places):
    places.store.add_scores([scored(1), scored(1, score_id="dark.", role="shadow", shadow_of="score-1."), scored(2)])
    assert forget(["score-1."], places) == Forgotten(2, 0, 1, False)
    assert kept(places.store)[0] == {"score-2."}


def test_what_a_database_refused_is_forgotten_too(places, journal, tmp_path):
    journal.add_scores([scored(1)])
    file = journal._file
    file.set_aside(file.oldest(1)[0].seq, "DataError")
    assert forget(["item-1."], places).scores == 1
    assert file.size() == (0, 0, 0) and traces(tmp_path, TEXT.format(1).encode()) == []


def test_where_nothing_tells_which_vector_it_was_all_go(places):
    places.store.add_scores([scored(1, text=None, text_hash=None), scored(2)])
    before = told(places)
    assert forget(["item-1."], places) == Forgotten(1, 0, 100, True)
    assert vectors(places) == set() and told(places) == before + 1


def test_without_journal_and_cache_the_store_is_enough(places, tmp_path):
    places.store.add_scores([scored(1, text_hash=None)])
    elsewhere = Places(places.store, tmp_path / "no-journal.db", tmp_path / "no-cache.db")
    assert forget(["item-1."], elsewhere) == Forgotten(1, 0, 0, True)
    assert not elsewhere.journal.exists() and not elsewhere.embeddings.exists()


def test_an_unknown_id_is_said_and_the_others_are_forgotten(places):
    places.store.add_scores([scored(1), scored(2)])
    with pytest.raises(InputError, match=r"^of 'nobody' and of 1 more no score is kept.* 1 scores, 0 labels, 1 "):
        forget(["nobody", "item-1.", "item-1.", "nothing"], places)
    assert kept(places.store)[0] == {"score-2."}
    with pytest.raises(InputError, match=r"^of 'item-1\.' no score is kept"):
        forget(["item-1."], places)


def test_old_scores_are_forgotten_by_age(places, journal):
    old = datetime.now(UTC) - timedelta(days=40)
    places.store.add_scores([scored(n, created_at=old) for n in range(1100)] + [scored(2000)])
    journal.add_scores([scored(3000, created_at=old), scored(3001)])
    done = forget([], places, older_than=30)
    assert (done.scores, done.vectors) == (1101, 100) and kept(places.store)[0] == {"score-2000."}
    assert journal.waiting == 1 and vectors(places) == set()
    assert forget([], places, older_than=30).scores == 0


# What is under way meanwhile


def test_a_row_that_is_being_drained_does_not_come_back(places, journal):
    journal.add_scores([scored(1), scored(2)])
    journal.add_feedback(Feedback("b", score_id="score-1."), "mail")
    rows = journal._file.oldest(10)  # what a draining thread has read
    forget(["item-1."], places)
    journal._drain._move(rows)
    assert kept(places.store) == ({"score-2."}, 0)


def test_forgetting_waits_for_a_transaction_that_brings_the_row(places):
    done = []
    with places.store._writing() as connection:
        merge(connection, [scored(1)], [])
        forgetting_it = threading.Thread(target=lambda: done.append(forget(["item-1."], places)))
        forgetting_it.start()
        time.sleep(0.3)
        assert not done
    forgetting_it.join(20)
    assert done[0].scores == 1 and kept(places.store) == (set(), 0)


def test_a_score_of_before_that_waits_on_another_machine_is_not_kept_and_a_new_one_is(places, tmp_path):
    places.store.add_scores([scored(1)])
    other = Journal(tmp_path / "of-another-machine.db", places.store)
    other.add_scores([scored(1, score_id="before."), scored(1, score_id="dark.", role="shadow", shadow_of="before.")])
    forget(["item-1."], places)
    with pytest.raises(InputError, match="no score is kept"):
        forget(["score-9."], places)  # unknown here, and remembered all the same
    other.add_scores([scored(1, score_id="after."), scored(9, created_at=datetime.now(UTC) - timedelta(minutes=1))])
    other.start()
    assert other.close(20) == 0
    assert kept(places.store)[0] == {"after."}


def test_forgetting_beside_a_service_that_drains(places, journal):
    """Whatever of an item was scored before it is forgotten is gone, while others come and go."""
    journal.start()
    for number in range(0, 200, 2):
        journal.add_scores([scored(number), scored(number + 1)])
        if number % 40 == 0:
            forget([f"item-{number}."], places)
    assert journal.close(30) == 0
    assert kept(places.store)[0] == {f"score-{n}." for n in range(200) if n % 40}


def test_what_was_cut_short_can_be_done_again(places, journal, monkeypatch):
    places.store.add_scores([scored(1)])
    journal.add_scores([scored(1, score_id="later.")])
    for name in ("erase_vectors", "_scrub"):
        with monkeypatch.context() as patch:
            patch.setattr(forgetting, name, lambda *arguments, **keywords: (_ for _ in ()).throw(
                sqlite3.OperationalError(TEXT)))
            with pytest.raises(PolarscoreError, match=r"not all could .*\(OperationalError\)\. Do it again") as said:
                forget(["item-1."], places)
            assert TEXT not in str(said.value)
        if name == "erase_vectors":
            assert forget(["item-1."], places).scores == 1
            places.store.add_scores([scored(1)])


def test_a_reader_that_keeps_traces_is_said(places, monkeypatch, tmp_path):
    places.store.add_scores([scored(1)])
    JournalFile(places.journal).close()
    monkeypatch.setattr(forgetting, "WAIT_S", 0.5)
    with closing(sqlite3.connect(places.embeddings, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM vectors").fetchone()
        with pytest.raises(PolarscoreError, match="traces stay in a file"):
            forget(["item-1."], places)
    with pytest.raises(InputError, match="no score is kept"):
        forget(["item-1."], places)
    assert traces(tmp_path, key(1)) == []


# The command


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("POLARSCORE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("POLARSCORE_DATABASE_URL", raising=False)
    (tmp_path / "state").mkdir()
    app = typer.Typer()
    app.command()(commands.forget)

    def call(*arguments):
        app([str(each) for each in arguments], standalone_mode=False)
        return capsys.readouterr().out

    return call


def test_the_command_forgets_and_says_what(run, tmp_path):
    with Store(f"sqlite:///{tmp_path / 'state' / 'polarscore.db'}") as store:
        store.add_scores([scored(n) for n in range(5)] + [scored(9, text_hash=None)])
        store.add_feedback([Feedback("b", id="item-1.")])
        assert run("item-1.") == "erased 1 scores, 1 labels and 0 vectors of texts\n"
        (tmp_path / "ids.csv").write_text("id\nitem-2.\nitem-3.\n")
        assert json.loads(run("item-4.", "--file", tmp_path / "ids.csv", "--json")) == {
            "scores": 3, "labels": 0, "vectors": 0, "all_vectors": False}
        assert "the whole embedding cache is erased" in " ".join(run("item-9.").split())
        assert run("--older-than", 0).startswith("erased 1 scores")
        assert kept(store) == (set(), 0)


@pytest.mark.parametrize(("arguments", "found"), [
    ([], "name what to forget"), (["nobody"], "no score is kept"),
    (["--older-than", "1e9"], "--older-than should be"), (["--file", "nothing.csv"], "does not exist"),
])
def test_bad_input_is_one_line(run, arguments, found):
    with pytest.raises(InputError, match=found) as refusal:
        run(*arguments)
    assert "\n" not in str(refusal.value)


def test_ids_are_read_from_a_file(tmp_path):
    path = tmp_path / "ids.jsonl"
    path.write_text('{"id": 7, "text": "x"}\n{"id": "a"}\n')
    assert read_ids(path) == ["7", "a"]
    path.write_text('{"score_id": "s"}\n{"score_id": null}\n')
    with pytest.raises(InputError, match="row 2 has no score_id"):
        read_ids(path)
    path.write_text('{"name": "s"}\n')
    with pytest.raises(InputError, match=r"should have a column 'id' or 'score_id'\. Found name"):
        read_ids(path)
