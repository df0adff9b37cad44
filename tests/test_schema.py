import sqlite3
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from monitoring import tables
from monitoring.store import Feedback, Store
from registry import history
from registry.chain import faults
from registry.database import connect
from registry.history import History
from registry.keys import Keys
from registry.schema import CURRENT, VERSION_TABLE, version
from training.errors import InputError

OLD = [  # as polarscore 0.2.0 logged them
    (1, "ada", "promote", "mail", 1, "candidate", "production", None, "the first", [{"name": "ece", "candidate": 0.1}]),
    (2, "bob", "promote", "spam", 4, "candidate", "staging", None, "", []),
    (3, "ada", "promote", "mail", 2, "candidate", "production", 1, "größer", []),
]
LATER = ("ix_scores_created_at", "ix_scores_model_version_created_at")  # indexes that came after the columns they hold


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path / 'a.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def engine_of(url):
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))


def as_then(table, columns, metadata):
    """The table as it was when it had so many columns."""
    there = [sa.Column(c.name, c.type, *(sa.ForeignKey(key.target_fullname) for key in c.foreign_keys),
                       primary_key=c.primary_key, nullable=c.nullable) for c in list(table.c)[:columns]]
    names = {column.name for column in there}
    return sa.Table(table.name, metadata, *there, *(
        sa.Index(index.name, *(column.name for column in index.columns)) for index in table.indexes
        if {column.name for column in index.columns} <= names and index.name not in LATER))


def made_by_0_2_0(url):
    """The tables as `create_all` of polarscore 0.2.0 left them."""
    engine, metadata = engine_of(url), sa.MetaData()
    log = as_then(history.STAGE_LOG, 11, metadata)
    scores, feedback = as_then(tables.SCORES, 13, metadata), as_then(tables.FEEDBACK, 4, metadata)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(scores), {
            "score_id": "s1", "item_id": "a", "created_at": datetime(2026, 11, 20, tzinfo=UTC), "model": "mail",
            "version": "1", "answer": "spam", "harmonizer_answer": "ham", "risk": 0.5,
            "probabilities": {"spam": 0.4, "ham": 0.6}, "votes": {}, "votes_used": False, "text_length": 3})
        connection.execute(sa.insert(feedback), {"score_id": "s1", "label": "ham",
                                                 "created_at": datetime(2026, 11, 21, tzinfo=UTC)})
    with engine.begin() as connection:
        for entry, who, action, model, number, old, new, replaced, why, gates in OLD:
            connection.execute(sa.insert(log), {
                "entry": entry, "at": datetime(2026, 11, 20, entry, tzinfo=UTC), "who": who, "action": action,
                "model": model, "version": number, "from_stage": old, "to_stage": new, "replaced": replaced, "why": why,
                "gates": gates})
    engine.dispose()


def test_the_migrations_make_what_the_code_expects(url):
    engine = connect(url)
    with engine.connect() as connection:
        assert version(connection) == CURRENT
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, [history.METADATA, tables.METADATA]) == []
    engine.dispose()


def test_a_database_of_an_older_polarscore_is_refused_with_the_command_that_migrates(url):
    made_by_0_2_0(url)
    for opened in (History, Store):
        with pytest.raises(InputError, match=r"has schema 0000.*Back it up, then run: polarscore registry migrate"):
            opened(url)
    with pytest.raises(InputError, match="Back it up, then run: polarscore registry migrate"):
        Store(url, patient=True)


def test_a_migration_keeps_the_log_and_links_it(url, tmp_path):
    made_by_0_2_0(url)
    connect(url, migrating=True).dispose()
    keys = Keys(tmp_path / "keys")
    with History(url) as log:
        entries = log.entries("mail")
        assert [(e.seq, e.who, e.version, e.replaced, e.why) for e in entries] == [
            (1, "ada", 1, None, "the first"), (2, "ada", 2, 1, "größer")]
        assert entries[0].gates == [{"name": "ece", "candidate": 0.1}]
        assert entries[1].at == datetime(2026, 11, 20, 3, tzinfo=UTC)
        assert [fault for fault in faults(entries, keys.made_by)] == [
            "the log of 'mail' is of a time before entries were signed. To vouch for it, run: polarscore registry "
            "migrate"]
        assert log.moves("mail")[1].version == 2 and log.models() == ["mail", "spam"]
    connect(url, migrating=True).dispose()  # once more does no harm


def test_a_migration_keeps_scores_and_feedback_which_were_all_served(url):
    made_by_0_2_0(url)
    connect(url, migrating=True).dispose()
    with Store(url) as store:
        (row,) = store.frame("mail").to_dict("records")
        assert (row["score_id"], row["label"], row["error"]) == ("s1", "ham", 1.0)
        assert store.add_feedback([Feedback("spam", id="a")]) == 1
    engine = engine_of(url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT role, shadow_of, text_hash FROM scores")).one() == (
            "serving", None, None)
    engine.dispose()


def test_a_database_of_a_newer_polarscore_is_refused(url):
    connect(url).dispose()
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'"))
    engine.dispose()
    for migrating in (False, True):
        with pytest.raises(InputError, match="Use the newer polarscore that made it"):
            connect(url, migrating)
    with pytest.raises(InputError, match="Use the newer polarscore that made it"):
        Store(url, patient=True)


def test_a_migration_that_is_cut_short_leaves_the_old_tables(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    made_by_0_2_0(url)

    def fail(*arguments, **keywords):
        raise OSError("no space left")

    monkeypatch.setattr("alembic.op.create_index", fail)
    with pytest.raises(InputError, match="no space left"):
        connect(url, migrating=True)
    monkeypatch.undo()
    with sqlite3.connect(tmp_path / "a.db") as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(stage_log)")]
    connection.close()
    assert "seq" not in columns
    connect(url, migrating=True).dispose()
    with History(url) as log:
        assert log.count("mail") == 2


def test_a_database_that_is_current_is_opened_without_writing(tmp_path):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    connect(url).dispose()
    before = (tmp_path / "a.db").read_bytes()
    (tmp_path / "a.db.lock").unlink(missing_ok=True)
    connect(url).dispose()
    assert (tmp_path / "a.db").read_bytes() == before and not (tmp_path / "a.db.lock").exists()


def test_the_log_shares_a_database_with_mlflow(url):
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('of mlflow')"))
    connect(url).dispose()
    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "of mlflow"
    engine.dispose()
