import threading
import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from monitoring.feedback import NoClass, unknown
from monitoring.forgetting import Forgotten
from monitoring.journal import Journal, JournalAway, JournalFull, StoreAway
from monitoring.store import Feedback, Store
from registry.envelope import Proof
from serving.config import Beside, Keeping, ServiceConfig, Thresholds
from serving.desk import Desk
from serving.lineup import Lineup
from serving.meters import Meters
from serving.refusal import Refusal
from serving.schema import FeedbackRequest, Item
from serving.scorer import Scored
from serving.slices import Slice
from training.audit_result import Guarantee
from training.errors import InputError, PolarscoreError

SECRET = "Marzipan-Krokodil"


@dataclass(frozen=True, eq=False)
class Prepared:
    items: list
    tokens: int
    failures: dict = field(default_factory=dict)

    def text_hashes(self):
        return [f"hash of {len(item.text)}" for item in self.items]


class FakeScorer:
    """The risk of an answer is its text's length in hundredths."""

    name, digest, device, precision, pack_tokens, proof = "Fake", "0" * 64, "cpu", "float32", 512, Proof()
    classes, sources, entities = ("no", "yes"), ("friend",), 0

    def __init__(self, version="1", guarantee=None, broken=False):
        self.version, self.broken, self.passes = version, broken, []
        self.model = SimpleNamespace(spec=SimpleNamespace(guarantee=guarantee))

    def remember(self, parts):
        pass

    def prepare(self, items):
        return Prepared(list(items), sum(len(item.text) for item in items))

    def run(self, prepared):
        self.passes.append(len(prepared))
        if self.broken:
            raise RuntimeError(SECRET)
        return [[Scored(item.answer, "no", None if item.answer is None else min(len(item.text) / 100, 1),
                        {"no": 0.5, "yes": 0.5}, {}, False) for item in each.items] for each in prepared]

    def class_name(self, label, where):
        if label not in self.classes:
            raise Refusal("unknown_class", "no class", where)
        return label


class FakeJournal:
    waiting = 7

    def __init__(self, error=None):
        self.rows, self.error = [], error

    def add_scores(self, rows):
        if self.error:
            raise self.error
        self.rows += rows

    def add_feedback(self, row, model):
        if self.error:
            raise self.error
        return 2


def make(lineup=None, journal=None, erase=None, **config):
    registry = CollectorRegistry()
    meters, settings = Meters(registry), ServiceConfig(**config)
    return Desk(lineup or Lineup(FakeScorer()), journal or FakeJournal(), meters, settings, erase), registry


def item(length=5, **changes):
    return Item(**{"text": "x" * length, "answer": "yes"} | changes)


def test_many_requests_go_through_one_pass_and_one_write():
    writes = []
    desk, _ = make(journal=SimpleNamespace(waiting=0, add_scores=writes.append))
    ready = [desk.prepare([item(5), item(30)]), desk.prepare([item(60, id="a")])]
    assert [each.tokens for each in ready] == [35, 60]
    one, two = desk.finish(ready)
    assert [score.risk for score in one.scores] == [0.05, 0.3] and [score.id for score in two.scores] == ["a"]
    assert desk.scorer.passes == [2] and [len(rows) for rows in writes] == [3]
    ids = [score.score_id for each in (one, two) for score in each.scores]
    assert len(set(ids)) == 3 and [row.score_id for row in writes[0]] == ids


def test_scores_carry_decisions_and_the_policy():
    desk, _ = make()
    found = desk.score([item(5), item(30), item(60), item(5, answer=None)])
    assert [score.decision for score in found.scores] == ["accept", "ask again", "review", "ask again"]
    assert (found.policy.accept, found.policy.basis, found.beside) == (0.1, "risk", None)
    assert [row.decision for row in desk._journal.rows] == [score.decision for score in found.scores]
    promised = Guarantee(0.05, 0.1, 0.3, 0.5, 0.04, 60, "")
    desk, _ = make(Lineup(FakeScorer(guarantee=promised)))
    assert desk.score([item(30)]).scores[0].decision == "accept"
    assert desk.version().policy.basis == "guarantee"
    desk, _ = make(Lineup(FakeScorer(guarantee=promised)), thresholds=Thresholds(accept=0.01))
    assert desk.score([item(30)]).policy.basis == "configured"


@pytest.mark.parametrize(("keep", "text", "text_hash"), [
    ("drop", None, None), ("hash", None, "hash of 3"), ("keep", "a\ufffdb", "hash of 3")])
def test_of_a_text_only_what_is_configured_is_kept(keep, text, text_hash):
    desk, _ = make(keeping=Keeping(text=keep))
    desk.score([item(text="a\0b")])
    (row,) = desk._journal.rows
    assert (row.text, row.text_hash, row.text_length) == (text, text_hash, 3)


def test_a_shadow_is_kept_beside_what_was_served(tmp_path):
    with Store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        journal = Journal(tmp_path / "journal.db", store)
        desk, registry = make(Lineup(FakeScorer("1"), FakeScorer("2")), journal)
        found = desk.score([item(5, id="a"), item(30)])
        assert {score.version for score in found.scores} == {"1"} and found.beside is None
        while journal.drain():
            pass
        assert desk.feedback(FeedbackRequest(score_id=found.scores[0].score_id, label="yes")).labelled == 1
        assert desk.feedback(FeedbackRequest(id="a", label="yes")).labelled == 1
        while journal.drain():
            pass
        served, dark = store.frame("Fake", "1"), store.frame("Fake", "2")
        journal.close()
        with sa.create_engine(f"sqlite:///{tmp_path / 'store.db'}").connect() as connection:
            rows = connection.execute(sa.text(
                "SELECT role, shadow_of, score_id, item_id, decision FROM scores ORDER BY score_id")).all()
    ids = [score.score_id for score in found.scores]
    assert [(row.role, row.shadow_of) for row in rows] == [
        ("serving", None), ("shadow", ids[0]), ("serving", None), ("shadow", ids[1])]
    assert [row.item_id for row in rows] == ["a", "a", ids[1], ids[1]]
    assert served["label"].tolist() == dark["label"].tolist() == ["yes", None]
    assert dark["error"].tolist()[0] == 0
    for version, role in (("1", "serving"), ("2", "shadow")):
        labels = {"model": "Fake", "version": version, "role": role}
        assert registry.get_sample_value("polarscore_scored_answers_total", labels) == 2


def test_a_split_names_both_policies():
    desk, registry = make(Lineup(FakeScorer("1"), FakeScorer("2"), 50))
    found = desk.score([item(number + 1) for number in range(40)])
    versions = [score.version for score in found.scores]
    assert set(versions) == {"1", "2"} and found.version == "1" and found.beside.version == "2"
    assert [row.role for row in desk._journal.rows] == ["serving"] * 40
    assert [row.version for row in desk._journal.rows] == versions
    counted = [registry.get_sample_value("polarscore_scored_answers_total",
                                         {"model": "Fake", "version": version, "role": "serving"}) for version in "12"]
    assert sum(counted) == 40


def test_a_broken_shadow_is_counted_and_told_once(caplog):
    desk, registry = make(Lineup(FakeScorer("1"), FakeScorer("2", broken=True)))
    for _ in range(3):
        assert desk.score([item(), item()]).version == "1"
    assert registry.get_sample_value("polarscore_second_version_failures_total",
                                     {"model": "Fake", "version": "2", "kind": "RuntimeError"}) == 6
    assert caplog.text.count("version 2, beside version 1, cannot score everything: RuntimeError") == 1
    assert SECRET not in caplog.text and {row.role for row in desk._journal.rows} == {"serving"}


@pytest.mark.parametrize(("error", "kind"), [
    (JournalFull("the journal is full."), "journal_full"), (JournalAway("the journal is away."), "store_unavailable"),
    (OSError(28, SECRET), "store_unavailable"),
    (sa.exc.OperationalError(SECRET, {}, Exception(SECRET)), "store_unavailable"),
])
def test_what_cannot_be_kept_is_not_answered_and_not_counted(error, kind):
    desk, registry = make(journal=FakeJournal(error))
    with pytest.raises(Refusal) as refusal:
        desk.score([item()])
    assert (refusal.value.kind, refusal.value.status) == (kind, 503)
    assert SECRET not in refusal.value.message and "Retry-After" in refusal.value.headers
    labels = {"model": "Fake", "version": "1", "role": "serving"}
    assert registry.get_sample_value("polarscore_scored_answers_total", labels) is None


def test_sources_that_fail_are_counted():
    desk, registry = make()
    desk.finish([replace_failures(desk.prepare([item(), item()]), {("friend", "time"): 2})])
    labels = {"model": "Fake", "version": "1", "source": "friend", "reason": "time"}
    assert registry.get_sample_value("polarscore_source_failures_total", labels) == 2


def replace_failures(ready, failures):
    part = ready.answering[0]
    return replace(ready, answering=(replace(part, prepared=replace(part.prepared, failures=failures)),))


def test_a_label_that_the_version_which_scored_does_not_know_is_no_class(tmp_path):
    with Store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        journal, before, after = Journal(tmp_path / "journal.db", store), FakeScorer("1"), FakeScorer("2")
        after.classes = ("no", "perhaps")
        desk, _ = make(Lineup(before), journal)
        (score,) = desk.score([item(id="a")]).scores
        desk.swap(after)
        for named in ({"id": "a"}, {"score_id": score.score_id}):
            with pytest.raises(Refusal) as refusal:
                desk.feedback(FeedbackRequest(label="perhaps", **named))
            found = refusal.value
            assert (found.kind, found.status, found.where) == ("unknown_class", 400, "label")
        with pytest.raises(Refusal, match="no score"):
            desk.feedback(FeedbackRequest(label="no", id="nobody"))
        journal.close()


def test_slices_are_kept_with_the_last_of_them_in_one_write():
    writes = []
    desk, registry = make(journal=SimpleNamespace(waiting=0, add_scores=writes.append))
    prepare, labels = desk.preparer(), {"model": "Fake", "version": "1", "role": "serving"}
    (first,) = desk.finish([Slice(prepare([item(5, id="a"), item(30)]))])
    (second,) = desk.finish([Slice(prepare([item(7)]))])
    assert writes == [] and registry.get_sample_value("polarscore_scored_answers_total", labels) is None
    last = Slice(prepare([item(60, id="d")]), (first, second), last=True)
    whole, other = desk.finish([last, desk.prepare([item(10)])])
    assert [score.risk for score in whole.scores] == [0.05, 0.3, 0.07, 0.6] and len(other.scores) == 1
    ids = [score.score_id for each in (whole, other) for score in each.scores]
    assert [[row.score_id for row in rows] for rows in writes] == [ids] and len(set(ids)) == 5
    assert registry.get_sample_value("polarscore_scored_answers_total", labels) == 5
    full, _ = make(journal=FakeJournal(JournalFull("full.")))
    (first,) = full.finish([Slice(prepare([item()]))])
    with pytest.raises(Refusal):
        full.finish([Slice(prepare([item()]), (first,), last=True)])


def test_what_is_kept_is_given_even_if_it_cannot_be_counted(caplog, monkeypatch):
    desk, _ = make()
    monkeypatch.setattr(desk, "_meters", None)
    assert len(desk.score([item()]).scores) == 1 and "AttributeError while scores were counted" in caplog.text


def test_feedback_is_counted():
    desk, registry = make()
    assert desk.feedback(FeedbackRequest(id="a", label="yes")).labelled == 2
    assert registry.get_sample_value("polarscore_feedback_total", {"model": "Fake"}) == 2


def test_the_journals_length_is_told():
    registry, ended, asked = CollectorRegistry(), threading.Event(), threading.Event()
    Meters(registry).watch(lambda: asked.set() or 7, ended)
    assert asked.wait(10)
    ended.set()
    for _ in range(100):
        if registry.get_sample_value("polarscore_journal_rows") == 7:
            break
        time.sleep(0.01)
    assert registry.get_sample_value("polarscore_journal_rows") == 7


@pytest.mark.parametrize(("error", "kind", "status"), [
    (unknown(Feedback("yes", None, "a"), "Fake"), "unknown_id", 404),
    (NoClass("the feedback for the id 'a' says 'yes', which is no class."), "unknown_class", 400),
    (StoreAway("it is away."), "store_unavailable", 503),
    (JournalFull("full."), "journal_full", 503)])
def test_feedback_that_cannot_be_kept_is_refused(error, kind, status):
    desk, _ = make(journal=FakeJournal(error))
    with pytest.raises(Refusal) as refusal:
        desk.feedback(FeedbackRequest(id="a", label="yes"))
    assert (refusal.value.kind, refusal.value.status) == (kind, status)


def test_forgetting():
    asked = []
    desk, _ = make(erase=lambda ids: asked.append(list(ids)) or Forgotten(2, 1, 1, False))
    assert desk.forget("a").model_dump() == {"scores": 2, "labels": 1, "vectors": 1, "all_vectors": False}
    assert asked == [["a"]]


@pytest.mark.parametrize(("error", "kind", "status"), [
    (InputError("of 'a' no score is kept."), "unknown_id", 404),
    (PolarscoreError("not all could be erased."), "store_unavailable", 503)])
def test_forgetting_that_fails(error, kind, status):
    def erase(ids):
        raise error

    desk, _ = make(erase=erase)
    with pytest.raises(Refusal) as refusal:
        desk.forget("a")
    assert (refusal.value.kind, refusal.value.status) == (kind, status)


def test_version_tells_of_precision_passes_and_the_second():
    desk, _ = make(beside=Beside(version="staging", percent=10.0))
    assert (desk.version().precision, desk.version().pack_tokens, desk.version().beside) == ("float32", 512, None)
    desk.seat(None, "no version is in staging")
    assert desk.version().beside.model_dump() == {"version": None, "percent": 0, "reason": "no version is in staging"}
    desk, _ = make(Lineup(FakeScorer("1"), FakeScorer("2"), 10))
    assert desk.version().beside.model_dump() == {"version": "2", "percent": 10, "reason": None}
    other = FakeScorer("3")
    other.classes = ("yes", "no")
    desk.seat(other)
    assert desk.version().beside.percent == 0 and "scores in the dark" in desk.version().beside.reason


def test_a_request_is_finished_by_the_version_that_began_it():
    one, two, three = FakeScorer("1"), FakeScorer("2"), FakeScorer("3")
    desk, _ = make(Lineup(one))
    ready, prepare = desk.prepare([item()]), desk.preparer()
    desk.swap(two)
    desk.seat(three)
    again = prepare([item()])
    assert [each.version for each in desk.finish([ready, desk.prepare([item()]), again])] == ["1", "2", "1"]
    assert [(row.version, row.role) for row in desk._journal.rows] == [
        ("1", "serving"), ("2", "serving"), ("3", "shadow"), ("1", "serving")]


def test_score_ids_are_unique_over_threads():
    desk, _ = make()
    threads = [threading.Thread(target=lambda: [desk.score([item(), item()]) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [row.score_id for row in desk._journal.rows]
    assert len(ids) == len(set(ids)) == 400
