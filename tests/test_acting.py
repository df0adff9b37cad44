"""From an alarm on the guarantee to what it does; how the registry's log and a service that follows it take that."""

import math
import multiprocessing
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from scipy.stats import binom

from monitoring.acting import LOWER, ROLL_BACK, act, kept_by, plan
from monitoring.settings import ActionSettings, Settings
from monitoring.store import Feedback, ScoredAnswer, Store
from registry import stage_commands
from registry.chain import Entry
from registry.database import now
from registry.history import STAGE_LOG, threshold_by_log
from registry.keys import Keys
from registry.lowering import lift, lower
from registry.opening import Registry
from registry.promotion import Overtaken, at, rollback
from registry.threshold import NOTHING, UNCHANGED, gate, limit_of, words
from registry.verification import repair, verify
from serving.config import Thresholds
from serving.policy import policy_of
from tests import registries
from tests.registries import log, move
from training.audit_result import Guarantee
from training.errors import CheckFailed, InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")

PROMISE = Guarantee(0.1, 0.1, 0.4, 0.6, 0.09, 60, "accepting every answer with a risk of at most 0.4 keeps the rate.")
TWO = ActionSettings(on_guarantee=LOWER, reviewers=2, labels=50)
LOWERS, ROLLS = Settings(action=TWO), Settings(action=TWO.model_copy(update={"on_guarantee": ROLL_BACK}))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Three versions of `mail`, whose audit promises an error rate of at most 0.1 up to a risk of 0.4."""
    home = tmp_path_factory.mktemp("acting") / "state"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registries, "SPEC", registries.SPEC.model_copy(update={"guarantee": PROMISE}))
        registries.template(home, versions=3)
    return home


@pytest.fixture
def state(template, tmp_path):
    return registries.copied(template, tmp_path / "state")


@pytest.fixture
def registry(state):
    with Registry.open(state) as opened:
        yield opened


@pytest.fixture
def store(state):
    with Store(state.database_url) as opened:
        yield opened


def keep(store, version, wrong, n=300, name="", reviewers=("ada", "bob"), trusted=True, chosen="all", **more):
    """Score n answers of risks below 0.4, of which every `wrong`-th is wrong, and have them labelled."""
    rows = [ScoredAnswer(
        score_id=f"{name}{version}-{i}", item_id=f"{name}{i}", model="mail", version=str(version), answer="ham",
        harmonizer_answer="ham", risk=0.4 * (i + 0.5) / n, probabilities={"ham": 0.7, "spam": 0.3}, votes={},
        votes_used=False, text_length=10) for i in range(n)]
    store.add_scores(rows)
    label(store, [row.score_id for row in rows], wrong, reviewers, trusted, chosen, **more)


def label(store, ids, wrong, reviewers=("ada", "bob"), trusted=True, chosen="all", **more):
    store.add_feedback([
        Feedback("spam" if wrong(i) else "ham", score_id=score_id, reviewer=reviewers[i % len(reviewers)],
                 chosen=chosen, trusted=trusted, **more) for i, score_id in enumerate(ids)])


def third(i):
    return i % 3 == 0


def tenth(i):
    return i % 20 == 0


def acted(registry, store, number, settings=LOWERS):
    return act(registry, store, registry.versions.number("mail", number), settings, "ada")


# ---- which threshold the labels still support


def test_the_threshold_is_where_an_exact_test_of_a_binomial_still_passes():
    risk = np.arange(1, 201) / 1000
    error = np.zeros(200)
    assert kept_by(risk, error, np.ones(200), 0.1, 0.1) == 0.2
    error[120:] = 1
    kept = kept_by(risk, error, np.ones(200), 0.1, 0.1)
    n = round(kept * 1000)
    assert 115 < n < 135 and binom.cdf(error[:n].sum(), n, 0.1) <= 0.1
    assert kept_by(risk, np.ones(200), np.ones(200), 0.1, 0.1) == NOTHING
    assert kept_by(risk[:21], error[:21], np.ones(21), 0.1, 0.1) == NOTHING  # 0.9 ** 21 is more than 0.1
    assert kept_by(risk[:22], error[:22], np.ones(22), 0.1, 0.1) == risk[21]
    assert kept_by(np.empty(0), np.empty(0), np.empty(0), 0.1, 0.1) == NOTHING


def test_equal_weights_do_not_matter_and_ties_stay_together():
    risk, error = np.repeat([0.1, 0.2, 0.3], 60), np.tile([0.0] * 19 + [1.0], 9)
    kept = [kept_by(risk, error, np.full(180, weight), 0.1, 0.2) for weight in (1, 7)]
    assert kept[0] == kept[1] == 0.3
    error[130:] = 1
    assert kept_by(risk, error, np.ones(180), 0.1, 0.2) in (0.1, 0.2)


def test_a_threshold_beyond_the_truth_is_kept_as_seldom_as_promised():
    generator, beyond = np.random.default_rng(0), 0
    for _ in range(1000):  # answers up to a risk of 0.2 are wrong at exactly 0.1, those above more often
        risk = np.sort(generator.random(400) * 0.4)
        kept = kept_by(risk, (generator.random(400) < np.where(risk <= 0.2, 0.1, 0.3)).astype(float), np.ones(400),
                       0.1, 0.1)
        beyond += kept > 0.2
    assert beyond / 1000 <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / 1000)


def test_weights_are_one_over_the_chance_to_be_drawn():
    generator, beyond, found = np.random.default_rng(1), 0, []
    for _ in range(500):  # risky answers, more often wrong, are drawn more often
        risk = np.sort(generator.random(3000) * 0.4)
        wrong = generator.random(3000) < np.where(risk <= 0.2, 0.04, 0.5)
        chance = np.clip(risk, 0.05, 1)
        drawn = generator.random(3000) < chance
        kept = kept_by(risk[drawn], wrong[drawn].astype(float), 1 / chance[drawn], 0.1, 0.1)
        truth = wrong[risk <= kept].mean() if kept > 0 else 0
        beyond, found = beyond + (truth > 0.1), [*found, kept]
    assert beyond / 500 <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / 500) and np.median(found) > 0.15


# ---- what is done, and when nothing is


def test_a_broken_promise_lowers_the_threshold_once(registry, store):
    move(registry, 1, "production")
    keep(store, 1, lambda i: i >= 150 and i % 2 == 0)
    done = acted(registry, store, 1)
    assert (done.action, done.done, done.entry) == (LOWER, True, 2)
    *_, entry = log(registry)
    assert (entry.who, entry.action, entry.version, entry.from_stage, entry.to_stage) == (
        "ada", "threshold", 1, "production", "production")
    assert entry.why.startswith("alarm on the guarantee: since ") and "the promise does not hold" in entry.why
    limit = limit_of(entry)
    assert 0.15 < limit < 0.26 and entry.gates == [
        {"name": "threshold", "state": "lowered", "reason": "", "candidate": limit, "champion": 0.4}]
    assert words(entry) == done.words == f"threshold lowered from 0.4 to {limit:.4g}"
    assert verify(registry, "mail") == []
    again = acted(registry, store, 1)
    assert not again.done and "0 labels of reviewers count on accepted answers; 50 are needed" in again.words
    assert len(log(registry)) == 2 and verify(registry, "mail") == []


def test_what_comes_after_can_lower_it_further_and_to_nothing(registry, store):
    move(registry, 1, "production")
    keep(store, 1, lambda i: i >= 150 and i % 2 == 0)
    first = limit_of(log(registry)[-1]) if acted(registry, store, 1).done else None
    keep(store, 1, third, name="later ")
    done = acted(registry, store, 1)
    assert done.words == "threshold lowered: nothing is accepted" and limit_of(log(registry)[-1]) == NOTHING
    assert log(registry)[-1].gates[0]["champion"] == first
    keep(store, 1, third, name="last ")
    assert acted(registry, store, 1).words == "nothing is promised of what is accepted"


def test_a_broken_promise_rolls_back_once(registry, store):
    for number in (1, 2):
        move(registry, number, "production")
    keep(store, 1, third, name="long ago ")
    keep(store, 2, third)
    done = acted(registry, store, 2, ROLLS)
    assert (done.action, done.done, done.entry, done.words) == (ROLL_BACK, True, 3, "rolled back to version 1")
    *_, entry = log(registry)
    assert (entry.action, entry.version, entry.replaced) == ("rollback", 1, 2)
    assert entry.why.startswith("alarm on the guarantee: ")
    assert registries.held(registry) == {"production": 1} and verify(registry, "mail") == []
    assert acted(registry, store, 2, ROLLS).words == "models:/mail/2 is not in production by the log"
    assert not acted(registry, store, 1, ROLLS).done  # what was said of version 1 before it came back is old
    assert len(log(registry)) == 3


def test_where_there_is_nothing_to_roll_back_to_it_says_so(registry, store):
    move(registry, 1, "production")
    keep(store, 1, third)
    done = acted(registry, store, 1, ROLLS)
    assert not done.done and done.words.startswith("it failed: there is nothing to roll 'mail' back to")
    assert len(log(registry)) == 1


@pytest.mark.parametrize(("how", "words"), [
    ({"trusted": False}, "0 labels of reviewers count on accepted answers; 50 are needed"),
    ({"n": 40}, "40 labels of reviewers count on accepted answers; 50 are needed"),
    ({"reviewers": ("ada",)}, "1 reviewer gave 5 such labels or more; 2 are needed"),
    ({"reviewers": ["ada"] * 297 + ["bob"] * 3}, "1 reviewer gave 5 such labels or more; 2 are needed"),
    ({"reviewers": (None,)}, "0 reviewers gave 5 such labels or more; 2 are needed"),
    ({"chosen": "whim"}, "0 labels of reviewers count on accepted answers; 50 are needed; not counted: 300 chosen by"),
    ({"wrong": tenth}, "by the labels of reviewers alone: "),
    ({"n": 0}, "0 labels of reviewers"),
], ids=["not trusted", "few", "one reviewer", "hardly a second", "nameless", "by whim", "promise kept", "none"])
def test_nothing_is_done(registry, store, how, words):
    move(registry, 1, "production")
    keep(store, 1, **{"wrong": third} | how)
    done = acted(registry, store, 1)
    assert (done.action, done.done) == (None, False) and words in done.words
    assert len(log(registry)) == 1


def test_labels_of_others_do_not_sway_what_reviewers_say(registry, store):
    move(registry, 1, "production")
    keep(store, 1, tenth)
    label(store, [f"1-{i}" for i in range(300)], lambda i: True, ("mallory",), trusted=False)
    label(store, [f"1-{i}" for i in range(300)], lambda i: True, ("eve",), trusted=False)
    assert not acted(registry, store, 1).done and len(log(registry)) == 1


def test_nobody_else_lends_a_label_its_choice_or_takes_one_away_under_a_reviewers_name(registry, store):
    move(registry, 1, "production")
    keep(store, 1, third, chosen="risk")
    label(store, [f"1-{i}" for i in range(300)], lambda i: False, ("mallory",), trusted=False, chosen="all")
    assert "0 labels of reviewers count" in acted(registry, store, 1).words
    keep(store, 1, third, name="later ")
    label(store, [f"later 1-{i}" for i in range(300)], lambda i: False, ("ada", "bob"), trusted=False, withdrawn=True)
    label(store, [f"later 1-{i}" for i in range(300)], lambda i: False, ("bob", "ada"), trusted=False, chosen="unknown")
    assert acted(registry, store, 1).done


def test_risky_answers_that_are_reviewed_first_lower_nothing():
    generator = np.random.default_rng(0)
    risk = np.sort(generator.beta(1, 14, 2000))[::-1]
    first = risk[risk <= 0.4][:150]
    frame = pd.DataFrame({
        "score_id": [f"s{i}" for i in range(150)], "risk": first, "chosen": "all", "probability": 1.0,
        "error": (generator.random(150) < first).astype(float),
        "labelled_at": pd.Timestamp("2026-11-26", tz="UTC") + pd.to_timedelta(np.arange(150), unit="min")})
    said = pd.DataFrame({"score_id": frame["score_id"], "reviewer": np.resize(["ada", "bob"], 150)})
    assert plan(LOWERS, frame, said, PROMISE, UNCHANGED).action == LOWER  # by errors alone
    kept = plan(LOWERS, frame, said, PROMISE, UNCHANGED, risk=pd.Series(risk))
    assert kept.action is None and kept.words.startswith("by the labels of reviewers alone: ")


def test_what_others_said_before_does_not_shut_an_answer_out(registry, store):
    keep(store, 1, third, reviewers=("mallory",), trusted=False)
    move(registry, 1, "production")
    label(store, [f"1-{i}" for i in range(300)], third)
    assert acted(registry, store, 1).done


def test_what_reviewers_take_back_does_not_count(registry, store):
    move(registry, 1, "production")
    keep(store, 1, third)
    store.add_feedback([Feedback("ham", score_id=f"1-{i}", reviewer=("ada", "bob")[i % 2], trusted=True,
                                 withdrawn=True) for i in range(300)])
    assert not acted(registry, store, 1).done and len(log(registry)) == 1


def test_one_label_or_no_feedback_at_all(registry, store):
    move(registry, 1, "production")
    assert "0 labels" in acted(registry, store, 1).words
    keep(store, 1, third, n=1)
    assert "1 labels" in acted(registry, store, 1).words


def test_without_leave_nothing_is_done(registry, store):
    move(registry, 1, "production")
    keep(store, 1, third)
    with pytest.raises(InputError, match="the settings name no action"):
        acted(registry, store, 1, Settings())
    assert plan(LOWERS, pd.DataFrame(), pd.DataFrame(), None, UNCHANGED).action is None
    assert len(log(registry)) == 1


def test_a_change_meanwhile_is_not_overrun(registry, store):
    move(registry, 1, "production")
    seen = log(registry)[-1].head
    version = registry.versions.number("mail", 1)
    lower(registry, version, 0.3, "bob", "by hand", seen=seen)
    with pytest.raises(Overtaken, match="another process has changed the log of 'mail' meanwhile"):
        lower(registry, version, 0.2, "ada", "", seen=seen)
    with pytest.raises(Overtaken):
        rollback(registry, "mail", "ada", "", seen=seen)
    assert len(log(registry)) == 2


def _act(state, start, results):
    with Registry.open(state) as registry, Store(state.database_url) as store:
        start.wait(60)
        results.put(acted(registry, store, 1).done)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_two_that_act_at_once_leave_one_entry(state):
    with Registry.open(state) as registry, Store(state.database_url) as store:
        move(registry, 1, "production")
        keep(store, 1, third)
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    both = [context.Process(target=_act, args=(state, start, results)) for _ in range(2)]
    for process in both:
        process.start()
    assert sorted(results.get(timeout=90) for _ in both) == [False, True]
    for process in both:
        process.join()
    with Registry.open(state) as registry:
        assert [entry.action for entry in log(registry)] == ["promote", "threshold"]
        assert verify(registry, "mail") == []


# ---- the registry's log


def test_a_lowered_threshold_stays_with_its_version_until_it_is_lifted_or_promoted_anew(registry):
    history = registry.history
    one, two = (registry.versions.number("mail", number) for number in (1, 2))
    move(registry, 1, "production")
    assert history.threshold("mail") is None and limit_of(history.threshold("mail")) == UNCHANGED
    lower(registry, one, 0.2, "ada", "")
    assert limit_of(history.threshold("mail")) == 0.2
    between = now()
    move(registry, 2, "production")
    assert history.threshold("mail") is None
    with pytest.raises(InputError, match="models:/mail/1 is not in production"):
        lower(registry, one, 0.1, "ada", "")
    rollback(registry, "mail", "ada", "")
    assert limit_of(history.threshold("mail")) == 0.2
    assert at(registry, "mail", between) == at(registry, "mail", now()) == 1
    lift(registry, one, "ada", "a mistake")
    assert limit_of(history.threshold("mail")) == UNCHANGED and words(log(registry)[-1]) == "threshold as trained again"
    lower(registry, one, 0.3, "ada", "")
    move(registry, 2, "candidate")
    move(registry, 2, "production")
    lower(registry, two, 0.1, "ada", "")
    move(registry, 1, "candidate")
    move(registry, 1, "production")
    assert history.threshold("mail") is None
    assert verify(registry, "mail") == []


def test_a_threshold_is_never_raised(registry):
    move(registry, 1, "production")
    one = registry.versions.number("mail", 1)
    for to in (0.4, 0.5):
        with pytest.raises(InputError, match=r"should become lower than 0.4. Found 0"):
            lower(registry, one, to, "ada", "")
    with pytest.raises(InputError, match="was not lowered since its promotion"):
        lift(registry, one, "ada", "")
    lower(registry, one, 0.2, "ada", "")
    with pytest.raises(InputError, match=r"should become lower than 0.2. Found 0.3"):
        lower(registry, one, 0.3, "ada", "")
    lower(registry, one, NOTHING, "ada", "")
    for to in (0.1, 0.9):
        with pytest.raises(InputError, match=r"lowered to nothing.*: polarscore registry threshold mail --lift"):
            lower(registry, one, to, "ada", "")
    for to in (1.5, -0.1, math.nan):
        with pytest.raises(InputError, match="should be a risk between 0 and 1"):
            lower(registry, one, to, "ada", "")
    assert len(log(registry)) == 3


def test_an_entry_that_says_no_threshold_is_refused():
    entry = Entry("ada", "threshold", "mail", 1, "production", "production", None, "")
    for gates in ([], [{}], [gate(0.4, 0.2), gate(0.4, 0.1)], [gate(0.4, 0.2) | {"candidate": 3}],
                  [gate(0.4, 0.2) | {"candidate": "low"}], [gate(0.4, 0.2) | {"state": "raised"}], [None]):
        with pytest.raises(CheckFailed, match="says no threshold"):
            limit_of(replace(entry, gates=gates))
    with pytest.raises(CheckFailed, match="says no threshold"):
        limit_of(replace(entry, action="promote", gates=[gate(0.4, 0.2)]))


def test_a_killed_lowering_is_undone_or_finished(registry, monkeypatch):
    move(registry, 1, "production")
    one = registry.versions.number("mail", 1)

    class Killed(BaseException):
        pass

    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("registry.promotion.aliases.apply", killed)
        with pytest.raises(Killed):
            lower(registry, one, 0.2, "ada", "")
    assert repair(registry, "mail", "ada") == [
        "undid an interrupted change that had not begun: threshold of version 1 of 'mail' to production"]
    with monkeypatch.context() as patch:
        patch.setattr("registry.history.Changing.log", killed)
        with pytest.raises(Killed):
            lower(registry, one, 0.2, "ada", "")
    assert [finding.kind for finding in verify(registry, "mail")] == ["interrupted"]
    assert limit_of(registry.history.threshold("mail")) == UNCHANGED
    assert "finished an interrupted change" in repair(registry, "mail", "ada")[0]
    assert limit_of(registry.history.threshold("mail")) == 0.2 and verify(registry, "mail") == []


def test_a_changed_threshold_breaks_the_chain(registry):
    move(registry, 1, "production")
    lower(registry, registry.versions.number("mail", 1), 0.2, "ada", "")
    with registry.history._engine.begin() as connection:
        connection.execute(sa.update(STAGE_LOG).where(STAGE_LOG.c.seq == 2).values(gates=[gate(0.4, 0.39)]))
    assert any("is not as it was written" in finding.what for finding in verify(registry, "mail"))


def test_the_history_shows_it(registry):
    move(registry, 1, "production")
    lower(registry, registry.versions.number("mail", 1), 0.25, "ada", "")
    assert stage_commands._way(log(registry)[-1]) == "threshold lowered from 0.4 to 0.25"


# ---- the service


@pytest.mark.parametrize(("guarantee", "thresholds", "accept", "alpha"), [
    (PROMISE, Thresholds(), 0.2, 0.1), (None, Thresholds(), 0.1, 0.1), (PROMISE, Thresholds(accept=0.3), 0.2, None),
    (replace(PROMISE, threshold=None), Thresholds(), None, 0.1),
])
def test_the_policy_accepts_no_more_than_the_log_allows(guarantee, thresholds, accept, alpha):
    policy = policy_of(guarantee, thresholds, 0.2)
    assert (policy.accept, policy.alpha) == (accept, alpha)
    assert policy_of(guarantee, thresholds, NOTHING).accept is None
    assert policy_of(guarantee, thresholds, UNCHANGED) == policy_of(guarantee, thresholds)


def test_a_lowered_threshold_promises_nothing_with_confidence():
    assert policy_of(PROMISE, Thresholds()).confidence == 0.9
    assert policy_of(PROMISE, Thresholds(), 0.2).confidence is None
    assert policy_of(PROMISE, Thresholds(), 0.5).confidence == 0.9


@contextmanager
def followed(state, number=1):
    """A desk with a version, and what makes it follow the real log once."""
    from prometheus_client import CollectorRegistry

    from serving.desk import Desk
    from serving.following import Follower
    from serving.lineup import Lineup
    from serving.meters import Meters
    from serving.scorer import Scorer
    from serving.service import vouched
    from tests.test_following import Ones, Straight
    from training.model import load
    from training.prepared import Prepared
    from training.spec import digest

    class Narrow(Ones):
        def prepare(self, texts, spans):
            vectors = np.ones((len(texts), registries.WIDTH), "f4")
            return Prepared([b"key"] * len(texts), None, np.full(len(texts), -1), vectors, [])

    folders = {str(each): state.home / "files" / str(each) / "artifacts" for each in (1, 2)}
    models = {each: load(folder, "cpu") for each, folder in folders.items()}
    scorers = {each: Scorer(model, Narrow(model), each, name="mail", digest=digest(folders[each]))
               for each, model in models.items()}
    with Store(state.database_url) as store:
        desk = Desk(Lineup(scorers[str(number)]), Straight(store), Meters(CollectorRegistry()))
        from registry.history import in_production_by_log

        def by_log(read):
            return lambda: vouched(read(store.engine, "mail"), Keys.of(state))

        follower = Follower(desk, by_log(in_production_by_log), lambda version, files: scorers[version],
                            threshold=by_log(threshold_by_log))
        yield desk, follower


def test_a_service_that_follows_takes_a_lowered_threshold_over(registry, state, caplog):
    caplog.set_level("INFO", "bentoml.polarscore")
    one = registry.versions.number("mail", 1)
    move(registry, 1, "production")
    with followed(state) as (desk, follower):
        follower.look()
        assert desk.version().policy.accept == 0.4 and desk.watched == ("1", None)
        lower(registry, one, 0.2, "ada", "")
        for _ in range(2):
            follower.look()
        assert (desk.version().policy.accept, desk.version().policy.confidence) == (0.2, None)
        assert caplog.text.count("version 1 accepts no risk above 0.2 from now on") == 1
        lower(registry, one, NOTHING, "ada", "")
        follower.look()
        assert desk.version().policy.accept is None
        move(registry, 2, "production")
        follower.look()
        assert desk.scorer.version == "2" and desk.version().policy.accept == 0.4
        rollback(registry, "mail", "ada", "")
        follower.look()
        assert desk.scorer.version == "1" and desk.version().policy.accept is None
        lift(registry, one, "ada", "")
        follower.look()
        assert desk.version().policy.accept == 0.4


def test_a_threshold_that_nobody_trusted_signed_is_not_taken_over(registry, state):
    one = registry.versions.number("mail", 1)
    move(registry, 1, "production")
    lower(registry, one, 0.2, "ada", "")
    with followed(state) as (desk, follower):
        follower.look()
        with registry.history._engine.begin() as connection:
            connection.execute(sa.update(STAGE_LOG).where(STAGE_LOG.c.seq == 2).values(gates=[gate(0.4, 0.39)]))
        follower.look()
        assert desk.version().policy.accept == 0.2 and "is not signed by a key that is trusted" in desk.watched[1]
