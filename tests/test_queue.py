from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from monitoring import queue
from monitoring.queue import QUEUES, Wanted, answer, left_of, own_words, progress, versions
from monitoring.queue import waiting as sample_of
from monitoring.store import Feedback, Store
from serving.access import LOCAL
from serving.review_bins import bins_of
from tests.reviewing import MODEL, drawn, scored

NOW = datetime.now(UTC)
ALL = Wanted(MODEL)


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        store.add_scores([scored(number) for number in range(8)])
        yield store


def ask(store, question, *arguments):
    with store.engine.connect() as connection:
        return question(connection, *arguments)


def waiting(store, name, wanted=ALL, reviewer="anna", most=100):
    return ask(store, QUEUES[name], wanted, reviewer, NOW, most)


def say(store, score_id, label, reviewer, **said):
    said = {"trusted": True} | said
    store.add_feedback([Feedback(label, score_id, reviewer=reviewer, **said)])


def test_the_sample_comes_in_the_order_of_its_draws_until_it_is_labelled(store):
    assert waiting(store, "sample") == []
    drawn(store, "s5", "s1", "s3")
    drawn(store, "s0", draw_id="d2")
    assert waiting(store, "sample") == ["s5", "s1", "s3", "s0"]
    say(store, "s1", "positive", "anna")
    say(store, "s5", "positive", "bob")
    assert waiting(store, "sample") == ["s3", "s0"]
    say(store, "s1", "positive", "anna", withdrawn=True)
    assert waiting(store, "sample") == ["s1", "s3", "s0"]
    say(store, "s1", "negative", "anna")
    assert waiting(store, "sample", most=1) == ["s3"]


def test_the_sample_is_that_of_the_draws_made_last_and_of_its_version(store, monkeypatch):
    drawn(store, "s5", "s1")
    drawn(store, "s0", "s2", draw_id="d2")
    assert waiting(store, "sample", Wanted(MODEL, "4")) == ["s5", "s1", "s0", "s2"]
    assert waiting(store, "sample", Wanted(MODEL, "5")) == waiting(store, "sample", Wanted("Other")) == []
    monkeypatch.setattr(queue, "PART", 4)  # looked up one by one at first
    assert waiting(store, "sample", Wanted(MODEL, answer="negative", least=0.1)) == ["s0", "s2"]
    monkeypatch.setattr(queue, "DRAWN_AT_MOST", 3)
    assert waiting(store, "sample") == ["s0", "s2"]


def test_of_the_riskiest_only_as_many_are_asked_about_as_it_takes(store, monkeypatch):
    monkeypatch.setattr(queue, "PART", 4)
    for number in (0, 1, 2, 5):
        say(store, f"s{number}", "negative", "bob")
    assert waiting(store, "riskiest", most=2) == ["s3", "s4"]
    assert waiting(store, "riskiest", most=9) == ["s3", "s4", "s6", "s7"]


def test_a_few_scores_are_left_of_the_sample_but_for_the_words_of_one_reviewer(store):
    drawn(store, "s0", "s1", "s2")
    for score_id in ("s0", "s1", "s3"):
        say(store, score_id, "negative", "anna")
    say(store, "s1", "negative", "bob")
    named = ["s0", "s1", "s2", "s3"]
    assert ask(store, left_of, MODEL, "anna", named) == {"s0", "s2"}
    assert ask(store, left_of, MODEL, None, named) == {"s2"}
    assert ask(store, left_of, "Other", "anna", named) == ask(store, left_of, MODEL, "anna", []) == set()


def test_a_score_is_unlabelled_once_every_reviewer_has_taken_back_what_was_said(store):
    say(store, "s0", "negative", "anna")
    say(store, "s0", "negative", None)
    say(store, "s0", "negative", "anna", withdrawn=True)
    assert "s0" not in waiting(store, "riskiest")
    say(store, "s0", "negative", None, withdrawn=True)
    assert waiting(store, "riskiest")[0] == "s0"


def test_the_riskiest_come_first_among_the_newest_served_scores(store, monkeypatch):
    store.add_scores([scored(0, score_id="old", created_at=NOW - timedelta(days=31)),
                      scored(0, score_id="dark", role="shadow", shadow_of="s0", version="5"),
                      scored(0, score_id="none", answer=None, risk=None), scored(0, score_id="other", model="Other")])
    assert waiting(store, "riskiest") == [f"s{number}" for number in range(8)]
    assert waiting(store, "riskiest", most=2) == ["s0", "s1"]
    monkeypatch.setattr(queue, "NEWEST", 3)
    store.add_scores([scored(4, score_id="newest", created_at=NOW)])
    assert waiting(store, "riskiest") == ["newest", "s6", "s7"]


def test_filters_hold_in_every_queue(store):
    drawn(store, *(f"s{number}" for number in range(8)))
    assert waiting(store, "sample", Wanted(MODEL, answer="positive")) == ["s1", "s3", "s5", "s7"]
    assert waiting(store, "riskiest", Wanted(MODEL, answer="positive", least=0.5)) == ["s1", "s3", "s5"]
    assert waiting(store, "riskiest", Wanted(MODEL, most=0.7)) == ["s4", "s5", "s6", "s7"]
    for name in QUEUES:
        assert waiting(store, name, Wanted(MODEL, version="5")) == []
    for number in (0, 1):
        say(store, f"s{number}", "negative" if number == 0 else "positive", "bob")  # both against the harmonizer
    assert waiting(store, "second", Wanted(MODEL, answer="positive")) == ["s1"]
    assert waiting(store, "second", Wanted(MODEL, least=0.95)) == ["s0"]


def test_a_second_opinion_is_asked_for_where_it_would_tell(store):
    say(store, "s0", "negative", "bob")  # the harmonizer says positive
    say(store, "s1", "negative", "bob")  # as the harmonizer
    assert waiting(store, "second") == ["s0"] and waiting(store, "second", reviewer="bob") == []
    say(store, "s1", "positive", "cleo")  # a tie, which comes first
    assert waiting(store, "second") == ["s1", "s0"] and waiting(store, "second", reviewer="cleo") == ["s0"]
    say(store, "s1", "positive", "anna")
    assert waiting(store, "second") == ["s0"]
    assert waiting(store, "second", reviewer="dora") == ["s0"]  # two to one is no tie
    say(store, "s0", "negative", "cleo")  # two agree
    assert waiting(store, "second") == []
    say(store, "s0", "negative", "cleo", withdrawn=True)
    assert waiting(store, "second") == ["s0"]
    say(store, "s2", "negative", None)  # nobody's name is one, too
    assert waiting(store, "second") == ["s2", "s0"]


def test_what_applications_feed_and_other_models_hide_no_disagreement(store, monkeypatch):
    """Neither do they make one."""
    monkeypatch.setattr(queue, "LABELS", 3)
    say(store, "s1", "negative", "bob")
    say(store, "s1", "positive", LOCAL, trusted=False)
    store.add_scores([scored(number, score_id=f"o{number}", model="Other") for number in range(8)])
    for number in range(8):
        say(store, f"o{number}", "negative", "bob")
        say(store, f"s{number}", "negative", "app", trusted=False)
    assert waiting(store, "second") == []  # two to one, since the application's word is one
    say(store, "s1", "negative", "app", trusted=False, withdrawn=True)
    assert waiting(store, "second") == ["s1"]
    assert ask(store, progress, MODEL, "bob", NOW - timedelta(hours=1)) == queue.Progress({"s1"}, {"s1"})
    monkeypatch.setattr(queue, "BY_REVIEWERS", 2)
    assert waiting(store, "second") == []


def test_progress_counts_answers_and_not_labels(store):
    drawn(store, "s0", "s1", "s2")
    midnight = NOW - timedelta(hours=1)
    assert ask(store, progress, MODEL, "anna", midnight) == queue.Progress(frozenset(), frozenset())
    assert ask(store, sample_of, MODEL) == ["s0", "s1", "s2"]
    say(store, "s0", "negative", "anna")
    say(store, "s0", "positive", "anna")
    say(store, "s0", "positive", "bob")
    say(store, "s3", "positive", "bob")
    found = ask(store, progress, MODEL, "anna", midnight)
    assert (found.checked, found.mine) == ({"s0", "s3"}, {"s0"})
    assert ask(store, sample_of, MODEL) == ["s1", "s2"]
    assert ask(store, progress, MODEL, "anna", NOW + timedelta(hours=1)).checked == frozenset()
    assert ask(store, progress, "Other", "anna", midnight).checked == frozenset()


def test_an_answer_comes_with_its_text_and_a_reviewer_with_what_stands(store):
    store.add_scores([scored(0, "Anna 🙂 Karl", score_id="spans", spans=((0, 4), (5, 6)))])
    found = ask(store, answer, MODEL, "spans")
    assert (found.text, found.spans, list(found.probabilities)) == (
        "Anna 🙂 Karl", ((0, 4), (5, 6)), ["negative", "positive"])
    store.add_scores([scored(0, score_id="dark", role="shadow", shadow_of="s0", version="5")])
    for model, score_id in ((MODEL, "nowhere"), ("Other", "s0"), (MODEL, "dark")):
        assert ask(store, answer, model, score_id) is None
    assert ask(store, own_words, ["s0"], "anna") == {}
    began = datetime.now(UTC)
    say(store, "s0", "negative", "anna")
    say(store, "s0", "positive", "bob")
    word = ask(store, own_words, ["s0", "s1"], "anna")["s0"]
    assert word.label == "negative" and began <= word.at <= datetime.now(UTC)
    assert ask(store, own_words, ["s0"], None) == {}
    say(store, "s0", "negative", "anna", withdrawn=True)
    assert ask(store, own_words, ["s0"], "anna")["s0"].label is None


def test_versions_are_those_that_served(store):
    store.add_scores([scored(0, score_id=f"v{version}", version=version) for version in ("10", "9")])
    assert ask(store, versions, MODEL) == ["10", "9", "4"] and ask(store, versions, "Other") == []


def test_no_query_reads_all_scores_or_all_labels(store):
    """As SQLite plans them: `SEARCH … USING INDEX`, or a scan of what a bounded query inside has found."""
    drawn(store, "s0", "s1")
    for number in range(32):
        say(store, f"s{number % 8}", "negative", "bob")
    said = []

    def note(connection, cursor, statement, parameters, context, many):
        if statement.lstrip().startswith("SELECT"):
            said.append((statement, parameters))

    sa.event.listen(store.engine, "before_cursor_execute", note)
    for name in QUEUES:
        for wanted in (ALL, Wanted(MODEL, "4", "positive", 0.1, 0.9)):
            waiting(store, name, wanted)
    ask(store, progress, MODEL, "anna", NOW)
    ask(store, answer, MODEL, "s0")
    ask(store, own_words, ["s0"], "anna")
    ask(store, left_of, MODEL, "anna", ["s0"])
    with store.engine.connect() as connection:
        assert bins_of(connection, MODEL, "4")
    sa.event.remove(store.engine, "before_cursor_execute", note)
    assert len(said) > 8
    with store.engine.connect() as connection:
        for statement, parameters in said:
            for *_, step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
                assert not step.startswith("SCAN scores") and "scores_model_created_at (model=?)" not in step, statement
                if step.startswith("SCAN feedback"):  # by its primary key, from its end
                    assert step == "SCAN feedback" and "LIMIT" in statement


@pytest.mark.slow
def test_on_postgresql_the_queues_are_the_same_and_no_plan_reads_a_table(postgres_url):
    """Where a sequential scan is too dear, as on a large table, each of its steps has an index to go by."""
    with Store(postgres_url) as store:
        store.add_scores([scored(number) for number in range(8)])
        drawn(store, "s5", "s1", "s3")
        say(store, "s0", "negative", "bob")
        say(store, "s1", "negative", "bob")
        say(store, "s1", "negative", "bob", withdrawn=True)
        assert waiting(store, "sample") == ["s5", "s1", "s3"]
        assert waiting(store, "sample", Wanted(MODEL, "4", "positive", 0.1, 0.8)) == ["s5", "s3"]
        assert waiting(store, "riskiest", most=3) == ["s1", "s2", "s3"]
        assert waiting(store, "second") == ["s0"]
        assert ask(store, progress, MODEL, "bob", NOW - timedelta(hours=1)) == queue.Progress({"s0"}, {"s0"})
        assert ask(store, left_of, MODEL, "bob", ["s5", "s0"]) == {"s5"}
        assert ask(store, own_words, ["s1"], "bob")["s1"].label is None
        with store.engine.connect() as connection:
            connection.exec_driver_sql("SET enable_seqscan = off")
            said = []
            sa.event.listen(store.engine, "before_cursor_execute", lambda *each: said.append(each[2:4]))
            for name in QUEUES:
                QUEUES[name](connection, Wanted(MODEL, "4", "positive", 0.1, 0.9), "anna", NOW, 10)
            progress(connection, MODEL, "anna", NOW - timedelta(hours=1))
            assert bins_of(connection, MODEL, "6") == ()
            for statement, parameters in list(said):
                for (step,) in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters):
                    assert "Seq Scan on" not in step and "Hash" not in step, (statement, step)
