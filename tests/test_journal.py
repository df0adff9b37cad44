import json
import logging
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from monitoring import draining
from monitoring.draining import at_fault
from monitoring.forgetting import Places, forget
from monitoring.journal import Journal, JournalAway, JournalFull, StoreAway
from monitoring.journal_file import JournalFile, feedback_of, score_of
from monitoring.patience import Patience
from monitoring.store import Feedback, Store
from monitoring.tables import TakenFeedback
from registry.schema import VERSION_TABLE
from serving.meters import Meters
from tests import kills
from training.errors import InputError, PolarscoreError

SECRET = "Marzipan-Krokodil"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def store(url):
    with Store(url) as opened:
        yield opened


@pytest.fixture
def plain(tmp_path):
    """A store on SQLite, for what does not depend on the database."""
    with Store(f"sqlite:///{tmp_path / 'store.db'}") as opened:
        yield opened


@pytest.fixture
def open_journal(tmp_path):
    opened = []

    def make(store, **settings):
        opened.append(Journal(tmp_path / "journal.db", store, **settings))
        return opened[-1]

    yield make
    for journal in opened:
        journal.close(0)


class Away:
    """A store whose database is away until it is told otherwise; counts how often it is asked."""

    is_open = True

    def __init__(self, store):
        self.store, self.away, self.asked = store, True, Counter()

    def __getattr__(self, name):
        def ask(*arguments, **keywords):
            self.asked[name] += 1
            if self.away:
                raise sa.exc.OperationalError(SECRET, {}, Exception(SECRET))
            return getattr(self.store, name)(*arguments, **keywords)

        return ask


def scored(number, item_id=None, **changes):
    return kills.scored(f"s{number}", item_id or f"item {number}", **changes)


def drained(journal):
    while journal.drain():
        pass


def rows_of(store):
    with store.engine.connect() as connection:
        return connection.execute(sa.text("SELECT * FROM scores ORDER BY score_id")).mappings().all()


def labels_of(store):
    with store.engine.connect() as connection:
        return connection.execute(sa.text("SELECT score_id, label FROM feedback ORDER BY feedback_id")).all()


def test_what_the_journal_brings_is_what_the_store_would_have_kept(store, open_journal, tmp_path):
    moment = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)
    rows = [scored(1, created_at=moment, text=f"{SECRET} ü\n", text_hash="ab", decision="accept"),
            scored(2, created_at=moment, answer=None, risk=None, votes={}),
            scored(3, created_at=moment, risk=1 / 3, role="shadow", shadow_of="s1", version="2")]
    journal = open_journal(store)
    journal.add_scores(rows)
    assert (journal.waiting, rows_of(store)) == (3, [])
    drained(journal)
    with Store(f"sqlite:///{tmp_path / 'other.db'}") as other:
        other.add_scores(rows)
        expected = [dict(row) for row in rows_of(other)]
        assert store.frame("mail").equals(other.frame("mail"))
    found = [dict(row) for row in rows_of(store)]
    for row in (*found, *expected):
        del row["created_at"]  # of other types: the frames compare them
        row["votes_used"] = bool(row["votes_used"])
        row |= {key: json.loads(row[key]) if isinstance(row[key], str) else row[key]
                for key in ("probabilities", "votes")}
    assert found == expected
    assert journal.waiting == 0


def test_the_thread_drains_what_comes_and_what_an_earlier_process_left(store, open_journal):
    open_journal(store).add_scores([scored(1)])
    journal = open_journal(store)
    journal.start()
    journal.add_scores([scored(2)])
    journal.add_feedback(Feedback("b", score_id="s2"), "mail")
    until = time.monotonic() + 10
    while journal.waiting and time.monotonic() < until:
        time.sleep(0.01)
    assert [row["score_id"] for row in rows_of(store)] == ["s1", "s2"]
    assert labels_of(store) == [("s2", "b")]
    assert journal.close() == 0
    with pytest.raises(JournalAway):
        journal.add_scores([scored(3)])


def test_threads_write_at_once(plain, open_journal):
    journal = open_journal(plain)
    journal.start()
    threads = [threading.Thread(target=lambda start=start: [
        journal.add_scores([scored(1000 * start + n) for n in range(m, m + 5)]) for m in range(0, 100, 5)])
        for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.close(30) == 0 and len(rows_of(plain)) == 800


@pytest.mark.parametrize("changes", [{"risk": 1.2}, {"risk": float("nan")}, {"answer": "eggs"}, {"role": "shadow"},
                                     {"shadow_of": "s1"}, {"role": "spectator"}])
def test_a_score_at_fault_is_refused_with_all_beside_it(plain, open_journal, changes):
    journal = open_journal(plain)
    with pytest.raises(InputError, match="the score of item 'item 2'"):
        journal.add_scores([scored(1), scored(2, **changes)])
    assert journal.waiting == 0


def test_a_score_id_is_taken_once(store, open_journal):
    journal = open_journal(store)
    journal.add_scores([scored(1)])
    with pytest.raises(InputError, match="Nothing was written"):
        journal.add_scores([scored(2), scored(1)])
    drained(journal)
    journal.add_scores([scored(1, risk=0.75), scored(2)])
    drained(journal)
    assert [(row["score_id"], row["risk"]) for row in rows_of(store)] == [("s1", 0.25), ("s2", 0.25)]


def test_rows_come_once_where_the_process_dies_before_it_removes_them(store, open_journal, monkeypatch):
    journal = open_journal(store)
    journal.add_scores([scored(1), scored(2)])
    journal.add_feedback(Feedback("b", score_id="s1"), "mail")
    journal.add_feedback(Feedback("c", score_id="s1"), "mail")
    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "remove", lambda *arguments: (_ for _ in ()).throw(sqlite3.OperationalError("gone")))
        with pytest.raises(sqlite3.OperationalError):
            journal.drain()
    assert journal.waiting == 4 and len(rows_of(store)) == 2
    drained(journal)
    assert len(rows_of(store)) == 2 and labels_of(store) == [("s1", "b"), ("s1", "c")]


def test_scoring_goes_on_while_the_database_is_away_and_both_ends_are_logged_once(plain, open_journal, monkeypatch,
                                                                                 caplog):
    caplog.set_level(logging.INFO, "bentoml.polarscore")
    monkeypatch.setattr(draining, "AGAIN_S", (0.02, 0.05))
    away = Away(plain)
    journal = open_journal(away)
    journal.start()
    for number in range(20):
        journal.add_scores([scored(number, text=SECRET)])
        time.sleep(0.01)
    assert away.asked["merge"] > 2 and journal.away and journal.waiting == 20
    away.away = False
    until = time.monotonic() + 10
    while journal.waiting and time.monotonic() < until:
        time.sleep(0.01)
    assert journal.close() == 0 and len(rows_of(plain)) == 20 and not journal.away
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and "cannot be written (Exception)" in lines[0] and "is back" in lines[1]
    assert SECRET not in caplog.text


def test_closing_while_the_database_is_away_leaves_the_rows_to_the_next_one(plain, open_journal):
    journal = open_journal(Away(plain))
    journal.start()
    journal.add_scores([scored(1), scored(2)])
    began = time.monotonic()
    assert journal.close(0.3) == 2 and time.monotonic() - began < 3
    drained(open_journal(plain))
    assert len(rows_of(plain)) == 2


def test_beyond_its_bound_it_keeps_nothing_more_until_the_store_has_taken_some(plain, open_journal):
    journal = open_journal(plain, most_bytes=2_000)
    taken = 4
    journal.add_scores([scored(number) for number in range(taken)])
    with pytest.raises(JournalFull, match=r"^4 rows wait .* 2,000 bytes are full"):
        journal.add_scores([scored(number) for number in range(4, 14)])
    assert journal.waiting == taken
    journal._most = 1_200
    with pytest.raises(JournalFull):
        journal.add_feedback(Feedback("b", score_id="s0"), "mail")
    journal._most = 2_000
    drained(journal)
    journal.add_scores([scored(900)])
    assert journal.waiting == 1 and len(rows_of(plain)) == taken


@pytest.mark.parametrize("setting", ["max_page_count = 1", "query_only = ON"])
def test_a_disk_that_is_full_or_read_only_is_said_and_nothing_is_half_written(plain, open_journal, setting):
    journal = open_journal(plain)
    journal.add_scores([scored(1)])
    journal._file._connection.execute(f"PRAGMA {setting}")
    with pytest.raises(JournalAway, match="Nothing was kept; try again later") as refusal:
        journal.add_scores([scored(number, text=SECRET * 1000) for number in range(2, 50)])
    assert SECRET not in str(refusal.value) and journal.waiting == 1
    journal._file._connection.execute("PRAGMA query_only = OFF")
    journal._file._connection.execute("PRAGMA max_page_count = 1000000")
    journal.add_scores([scored(number) for number in range(2, 50)])
    assert journal.waiting == 49


def test_a_row_that_the_database_refuses_is_set_aside_and_the_others_pass(store, open_journal, caplog):
    bad = f"{SECRET} \0" if store.engine.dialect.name == "postgresql" else f"{SECRET} \ud800"
    journal = open_journal(store)
    journal.add_scores([scored(number, text=bad if number == 5 else SECRET) for number in range(10)])
    assert journal.add_feedback(Feedback("b", score_id="s5"), "mail") == 1
    assert journal.add_feedback(Feedback("b", score_id="s6"), "mail") == 1
    drained(journal)
    assert journal.add_feedback(Feedback("c", score_id="s5"), "mail") == 1
    drained(journal)
    assert (journal.waiting, journal.refused) == (0, 3)
    assert [row["score_id"] for row in rows_of(store)] == [f"s{number}" for number in range(10) if number != 5]
    assert labels_of(store) == [("s6", "b")]
    kept = journal._file._read("SELECT row, why FROM refused ORDER BY seq")
    assert score_of(kept[0][0]).text == bad and kept[1][1] == "its score was refused"
    assert "refuses a row for good" in caplog.text and SECRET not in caplog.text


def test_feedback_by_id_on_a_score_that_was_refused_is_set_aside_with_it(store, open_journal):
    bad = f"{SECRET} \0" if store.engine.dialect.name == "postgresql" else f"{SECRET} \ud800"
    journal = open_journal(store)
    journal.add_scores([scored(1, item_id="x", text=bad), scored(2, item_id="y", text=bad), scored(3, item_id="y")])
    drained(journal)
    assert journal.refused == 2
    assert journal.add_feedback(Feedback("b", id="x"), "mail") == 1
    assert journal.add_feedback(Feedback("c", id="y"), "mail") == 2  # one of them is in the store
    drained(journal)
    kept = [feedback_of(row).row for (row,) in
            journal._file._read("SELECT row FROM refused WHERE kind = 'feedback' ORDER BY seq")]
    assert kept == [Feedback("b", id="x"), Feedback("c", id="y")]
    assert labels_of(store) == [("s3", "c")] and journal.waiting == 0
    other = Feedback("b", id="y")
    journal.add_scores([scored(4, item_id="y", model="other")])
    assert journal.add_feedback(other, "other") == 1
    drained(journal)
    assert journal.refused == 4  # the refused score of that id is another model's


def test_rows_that_are_set_aside_are_among_what_is_measured(plain, open_journal):
    journal, registry, ended = open_journal(plain), CollectorRegistry(), threading.Event()
    journal.add_scores([scored(1), scored(2), scored(3)])
    journal._file.set_aside(journal._file.oldest(1)[0].seq, "DataError")
    Meters(registry).watch(lambda: journal.waiting, ended, lambda: journal.refused)
    until = time.monotonic() + 10
    while registry.get_sample_value("polarscore_journal_rows_set_aside") != 1 and time.monotonic() < until:
        time.sleep(0.01)
    ended.set()
    assert registry.get_sample_value("polarscore_journal_rows_set_aside") == 1
    assert registry.get_sample_value("polarscore_journal_rows") == 2


def test_what_is_a_rows_fault_and_what_the_databases():
    def psycopg_error(state):
        cause = Exception()
        cause.sqlstate = state
        return sa.exc.OperationalError("", {}, cause)

    assert all(at_fault(psycopg_error(state)) for state in ("22P05", "23503", "54000"))
    assert not any(at_fault(psycopg_error(state)) for state in ("53100", "57P01", "25006", "42P01", "40P01", "08006"))
    assert at_fault(sa.exc.IntegrityError("", {}, sqlite3.IntegrityError()))
    assert not at_fault(sa.exc.OperationalError("", {}, sqlite3.OperationalError("database is locked")))
    assert not any(map(at_fault, (sqlite3.OperationalError("disk full"), OSError(), TimeoutError())))
    assert at_fault(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "")) and at_fault(OverflowError())


# Feedback


def test_feedback_labels_what_waits_and_what_is_in_the_store(store, open_journal):
    journal = open_journal(store)
    journal.add_scores([scored(1, item_id="x"), scored(2, item_id="x", model="other")])
    drained(journal)
    journal.add_scores([scored(3, item_id="x"), scored(4, item_id="x", role="shadow", shadow_of="s3", version="2")])
    assert journal.add_feedback(Feedback(1, id="x"), "mail") == 2
    assert journal.add_feedback(Feedback("c", score_id="s3"), "mail") == 1
    assert journal.add_feedback(Feedback("c", score_id="s1"), "mail") == 1
    drained(journal)
    assert labels_of(store) == [("s1", "b"), ("s3", "b"), ("s3", "c"), ("s1", "c")]
    assert store.frame("mail", "2")["label"].tolist() == ["c"]  # in the dark: labelled with what was served


@pytest.mark.parametrize(("row", "found"), [
    (Feedback("b", id="nobody"), "the id 'nobody'"), (Feedback("b", score_id="s4"), "the score_id 's4'"),
    (Feedback("b", score_id="nothing"), "the score_id 'nothing'"), (Feedback("eggs", id="x"), "no class"),
    (Feedback(True, score_id="s3"), "no class"), (Feedback("b"), "neither"),
    (Feedback("b", id="x", score_id="s3"), "both"),
])
def test_feedback_at_fault_is_refused(store, open_journal, row, found):
    journal = open_journal(store)
    journal.add_scores([scored(3, item_id="x"), scored(4, item_id="y", role="shadow", shadow_of="s3")])
    for waits in (2, 0):
        with pytest.raises(InputError, match=found):
            journal.add_feedback(row, "mail")
        assert journal.waiting == waits
        drained(journal)


def test_without_the_database_feedback_reaches_what_waits_and_by_id_the_rest_too(plain, open_journal):
    away = Away(plain)
    plain.add_scores([scored(1, item_id="x"), scored(9, item_id="y")])
    journal = open_journal(away)
    journal.add_scores([scored(2, item_id="x")])
    assert journal.add_feedback(Feedback("b", score_id="s2"), "mail") == 1
    assert away.asked["look_up"] == 0  # what waits is known here
    assert journal.add_feedback(Feedback("c", id="x"), "mail") == 1
    for row in (Feedback("b", id="y"), Feedback("b", score_id="s9")):
        with pytest.raises(StoreAway, match="Nothing was kept; try again later") as refusal:
            journal.add_feedback(row, "mail")
        assert SECRET not in str(refusal.value)
    away.away = False
    drained(journal)
    assert labels_of(plain) == [("s2", "b"), ("s1", "c"), ("s2", "c")]


def test_a_database_that_hangs_does_not_hang_feedback(plain, open_journal):
    released = threading.Event()

    class Hanging:
        def look_up(self, row, model):
            released.wait(20)
            return {}

    journal = open_journal(Hanging(), ask_s=0.05)
    began = time.monotonic()
    for _ in range(10):
        with pytest.raises(StoreAway):
            journal.add_feedback(Feedback("b", score_id="s1"), "mail")
    assert time.monotonic() - began < 2
    released.set()


def test_patience_gives_answers_and_errors_and_lets_only_so_many_hang():
    released = threading.Event()
    patience = Patience(0.05, most=2)
    assert patience.ask(lambda: 7) == 7
    with pytest.raises(KeyError):
        patience.ask(lambda: {}["nothing"])
    for _ in range(2):
        with pytest.raises(TimeoutError):
            patience.ask(lambda: released.wait(20))
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        patience.ask(lambda: 7)
    assert time.monotonic() - began < 0.04
    released.set()
    until = time.monotonic() + 5
    while patience._free._value != 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert patience.ask(lambda: 8) == 8


# A database that is away when the service starts


class Door:
    """A port before a server, which refuses connections until it is opened, and again once it is closed."""

    def __init__(self, url):
        at = urlsplit(url)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._server, self._listening, self._through = (at.hostname, at.port), None, []
        self.url = at._replace(netloc=at.netloc.replace(f":{at.port}", f":{self.port}")).geturl()

    def open(self):
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._let_in, args=(self._listening,), daemon=True).start()

    def close(self):
        for each in (self._listening, *self._through):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._through = []

    def _let_in(self, listening):
        with suppress(OSError):
            while True:
                ends = listening.accept()[0], socket.create_connection(self._server)
                self._through += ends
                for come, go in (ends, ends[::-1]):
                    threading.Thread(target=self._pass_on, args=(come, go), daemon=True).start()

    def _pass_on(self, come, go):
        with suppress(OSError):
            while data := come.recv(65_536):
                go.sendall(data)
        with suppress(OSError):
            go.shutdown(socket.SHUT_WR)


@pytest.fixture
def door(postgres_url):
    made = Door(postgres_url)
    yield made
    if made._listening:
        made.close()


def settled(journal):
    until = time.monotonic() + 20
    while (journal.waiting or journal.away) and time.monotonic() < until:
        time.sleep(0.01)
    return journal.waiting == 0 and not journal.away


def test_a_journal_starts_while_the_database_is_away_and_connects_once_it_is_there(door, open_journal, tmp_path,
                                                                                  monkeypatch, caplog):
    caplog.set_level(logging.INFO, "bentoml.polarscore")
    monkeypatch.setattr(draining, "AGAIN_S", (0.02, 0.05))
    with pytest.raises(InputError, match="cannot be opened"):
        Store(door.url)
    with Store(door.url, patient=True) as store:
        assert not store.is_open
        journal = open_journal(store)
        journal.start()
        until = time.monotonic() + 10
        while not journal.away and time.monotonic() < until:  # it is said before anything is scored
            time.sleep(0.01)
        assert journal.away
        journal.add_scores([scored(1, text=SECRET), scored(2)])
        assert journal.add_feedback(Feedback("b", score_id="s1"), "mail") == 1
        with pytest.raises(StoreAway, match="Nothing was kept; try again later") as refusal:
            journal.add_feedback(Feedback("b", score_id="s9"), "mail")
        with pytest.raises(PolarscoreError, match="a database cannot be reached or written") as other:
            forget(["item 1"], Places(store, tmp_path / "journal.db", tmp_path / "no-cache.db"))
        assert not isinstance(other.value, InputError)
        time.sleep(0.3)
        assert journal.away and journal.waiting == 3
        door.open()
        assert settled(journal) and store.is_open
        assert [row["score_id"] for row in rows_of(store)] == ["s1", "s2"] and labels_of(store) == [("s1", "b")]
        assert journal.add_feedback(Feedback("c", score_id="s2"), "mail") == 1 and settled(journal)
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 2 and "cannot be written (the database postgresql" in lines[0] and "is back" in lines[1]
        door.close()  # it goes away later, too
        journal.add_scores([scored(3)])
        time.sleep(0.3)
        assert journal.waiting == 1
        door.open()
        assert settled(journal) and len(rows_of(store)) == 3 and journal.close() == 0
    password = urlsplit(door.url).password
    assert all(secret not in f"{caplog.text}{refusal.value}{other.value}" for secret in (SECRET, password))


def test_a_database_that_comes_with_another_schema_is_said_and_gets_nothing(door, postgres_url, open_journal,
                                                                           monkeypatch, caplog):
    monkeypatch.setattr(draining, "AGAIN_S", (0.02, 0.05))
    with Store(postgres_url) as own, own.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'"))
    with Store(door.url, patient=True) as store:
        journal = open_journal(store)
        journal.start()
        journal.add_scores([scored(1)])
        door.open()
        until = time.monotonic() + 10
        while "Use the newer polarscore" not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)
        assert caplog.text.count("Use the newer polarscore") == 1
        assert journal.waiting == 1 and journal.refused == 0 and not store.is_open
        with pytest.raises(StoreAway):
            journal.add_feedback(Feedback("b", score_id="s9"), "mail")
        assert journal.close(0.3) == 1


# The file


def test_only_its_owner_may_read_the_file(plain, open_journal, tmp_path):
    open_journal(plain).add_scores([scored(1)])
    for name in ("journal.db", "journal.db-wal"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def damaged_header(path):
    path.write_bytes(b"dear diary, " * 1000)


def damaged_page(path):
    content = bytearray(path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page:page + 200] = b"\xff" * 200
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [damaged_header, damaged_page])
def test_a_damaged_journal_is_refused_in_a_line_and_left_as_it_is(plain, open_journal, tmp_path, damage):
    journal = open_journal(plain)
    journal.add_scores([scored(number) for number in range(100)])
    journal.close(0)
    path = tmp_path / "journal.db"
    damage(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"journal\.db is damaged .* move it aside") as refusal:
        Journal(path, plain)
    assert "\n" not in str(refusal.value) and path.read_bytes() == before


def test_a_journal_of_another_polarscore_and_a_folder_that_is_none_are_refused(plain, open_journal, tmp_path):
    open_journal(plain).close(0)
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(InputError, match="has format 99"):
        Journal(tmp_path / "journal.db", plain)
    with pytest.raises(InputError, match="No such file or directory"):
        Journal(tmp_path / "nowhere" / "journal.db", plain)


def test_a_file_of_the_format_before_is_read_and_its_rows_come_into_the_store(store, open_journal, tmp_path):
    """Rows of then do not say what was not known then."""
    made = JournalFile(tmp_path / "journal.db")
    made.add_scores([scored(1, text="x", text_hash="ab"), scored(2)], 10**6)
    made.add_feedback(TakenFeedback("u1", Feedback("b", score_id="s1"), "mail"), 10**6)
    made.close()
    new = {"spans", "reviewer", "chosen", "probability", "trusted", "withdrawn"}
    with closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        for seq, content in connection.execute("SELECT seq, row FROM waiting").fetchall():
            said = {key: value for key, value in json.loads(content).items() if key not in new}
            if "row" in said:
                said["row"] = {key: said["row"][key] for key in ("label", "score_id", "id")}
            connection.execute("UPDATE waiting SET row = ? WHERE seq = ?", [json.dumps(said), seq])
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    journal = open_journal(store)
    assert journal.waiting == 3
    assert journal.add_feedback(Feedback("c", score_id="s2", reviewer="ada", chosen="random", probability=0.5,
                                         trusted=True), "mail") == 1
    drained(journal)
    assert (journal.waiting, journal.refused) == (0, 0)
    columns = ["label", "chosen", "probability", "sources_voting"]
    assert store.frame("mail")[columns].astype(object).fillna("-").to_numpy().tolist() == [
        ["b", "unknown", "-", 1], ["c", "random", 0.5, 1]]
    assert store.frame("mail", trusted=True)["label"].tolist() == [None, "c"]
    with closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_what_the_file_brings_is_what_went_in(plain, open_journal):
    file = open_journal(plain)._file
    row = scored(1, text="ab cd", spans=((0, 2), (3, 5)), decision="accept")
    said = Feedback("", score_id="s1", reviewer="ada", trusted=True, withdrawn=True)
    taken = TakenFeedback("u1", said, "mail")
    file.add_scores([row], 10**6)
    file.add_feedback(taken, 10**6)
    one, two = file.oldest(2)
    assert score_of(one.row) == row and feedback_of(two.row) == taken


def test_a_withdrawal_is_taken_whatever_its_label(plain, open_journal):
    journal = open_journal(plain)
    journal.add_scores([scored(1)])
    journal.add_feedback(Feedback("b", score_id="s1", reviewer="ada"), "mail")
    assert journal.add_feedback(Feedback("", score_id="s1", reviewer="ada", withdrawn=True), "mail") == 1
    with pytest.raises(InputError, match="'chosen' is random, so"):
        journal.add_feedback(Feedback("b", score_id="s1", chosen="random"), "mail")
    drained(journal)
    assert labels_of(plain) == [("s1", "b"), ("s1", "")] and plain.frame("mail", labelled=True).empty


def test_a_row_that_was_erased_is_not_set_aside(plain, open_journal):
    file = open_journal(plain)._file
    file.add_scores([scored(1)], 10**6)
    (row,) = file.oldest(5)
    file.erase(["s1"])
    file.set_aside(row.seq, "DataError")
    assert file.size() == (0, 0, 0)


def test_numbers_of_rows_are_not_used_again(plain, open_journal):
    """Else a row that came after one was erased could be removed in its place."""
    file = open_journal(plain)._file
    file.add_scores([scored(1)], 10**6)
    (row,) = file.oldest(5)
    file.erase(["s1"])
    file.add_scores([scored(2)], 10**6)
    file.remove([row.seq])
    assert file.size()[0] == 1


def test_the_log_of_writes_stays_small(plain, open_journal, tmp_path):
    journal = open_journal(plain)
    journal.start()
    for start in range(0, 6000, 20):
        journal.add_scores([scored(start + number, text="x" * 1000) for number in range(20)])
        time.sleep(0.002)
    assert (tmp_path / "journal.db-wal").stat().st_size < 40 * 2**20
    assert journal.close(30) == 0


# Age


def test_old_scores_are_erased_by_age(store, open_journal):
    old = datetime.now(UTC) - timedelta(days=40)
    rows = [scored(number, created_at=old if number < 1200 else datetime.now(UTC)) for number in range(1210)]
    store.add_scores(rows)
    store.add_feedback([Feedback("b", id="item 3"), Feedback("b", id="item 1205")])
    journal = open_journal(store, days=30)
    journal.add_scores([scored(5000, created_at=old)])
    journal.start()
    until = time.monotonic() + 20
    while len(rows_of(store)) > 10 and time.monotonic() < until:
        time.sleep(0.02)
    assert len(rows_of(store)) == 10 and labels_of(store) == [("s1205", "b")]


def test_the_vectors_of_old_scores_are_erased_with_them(plain, open_journal, tmp_path):
    old = datetime.now(UTC) - timedelta(days=40)
    cache = tmp_path / "embeddings.db"
    keys = [bytes([number]) * 32 for number in range(5)]
    with closing(sqlite3.connect(cache)) as connection:
        connection.execute("CREATE TABLE vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
        connection.executemany("INSERT INTO vectors VALUES (?, ?)", [(key, b"v") for key in keys])
        connection.commit()
    plain.add_scores([scored(0, created_at=old, text_hash=keys[0].hex()), scored(1, text_hash=keys[1].hex()),
                      scored(2, created_at=old)])  # of the last no hash is kept: others' vectors are left alone
    journal = open_journal(plain, days=30, embeddings=cache)
    bad = scored(3, created_at=old, text_hash=keys[3].hex())
    journal.add_scores([bad])
    journal._file.set_aside(journal._file.oldest(1)[0].seq, "DataError")
    journal.start()
    until = time.monotonic() + 20
    while (len(rows_of(plain)) > 1 or journal.refused) and time.monotonic() < until:
        time.sleep(0.02)
    assert journal.close() == 0
    with closing(sqlite3.connect(cache)) as connection:
        left = [row[0] for row in connection.execute("SELECT key FROM vectors ORDER BY key")]
        assert left == [keys[1], keys[2], keys[4]]
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 1  # those who remember some are told


def test_a_cache_that_cannot_be_written_keeps_old_scores_and_nothing_else(plain, open_journal, tmp_path, caplog):
    old = datetime.now(UTC) - timedelta(days=40)
    (tmp_path / "embeddings.db").write_bytes(b"dear diary, " * 1000)
    plain.add_scores([scored(0, created_at=old, text_hash="00")])
    journal = open_journal(plain, days=30, embeddings=tmp_path / "embeddings.db")
    journal.start()
    journal.add_scores([scored(1)])
    until = time.monotonic() + 20
    while "old scores cannot be erased" not in caplog.text and time.monotonic() < until:
        time.sleep(0.02)
    assert journal.close() == 0 and not journal.away
    assert [row["score_id"] for row in rows_of(plain)] == ["s0", "s1"]
    assert "old scores cannot be erased now (DatabaseError)" in caplog.text


# Kills


def test_killed_processes_lose_nothing_acknowledged(tmp_path, url):
    Store(url).close()
    context, total = kills.processes(), Counter()
    for number in range(4):
        wrong, counted = kills.run(context, url, tmp_path, number, seed=number)
        assert wrong == []
        total += counted
    assert total["scores"] > 50


BEGINS = """
import subprocess, sys
from tests import kills
with kills.place() as folder:
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print(started.pid, folder, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", [None, signal.SIGTERM, signal.SIGKILL])
def test_what_kills_processes_leaves_none_however_it_ends(end):
    with subprocess.Popen([sys.executable, "-c", BEGINS], cwd=Path(__file__).parents[1], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        pid, folder = process.stdout.readline().split()
        assert psutil.pid_exists(int(pid)) and Path(folder).is_dir()
        if end is not None:
            process.send_signal(end)
    until = time.monotonic() + 20
    while Path(folder).exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(folder).exists()
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
