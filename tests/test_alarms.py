"""Alarms: what each says of labels and tallies made by hand, and that nothing is ever NaN."""

import json
import math
from dataclasses import asdict, replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from monitoring.alarms import ALARMS, Alarm, Context, as_json, decide
from monitoring.labels import usable, weights
from monitoring.settings import AlarmSettings
from monitoring.streams import Stream
from monitoring.tally import Tally, tally

DAY = pd.Timestamp("2025-03-01", tz="UTC")
RISKS = (np.arange(200) % 10 + 0.5) / 10
TRUE = (7 * (np.arange(200) // 10) + 3 * np.arange(200)) % 20 < 20 * RISKS
"""Errors: of each risk as many as it says."""


def labelled(n: int = 200, **changes) -> pd.DataFrame:
    """As many errors as predicted, one label an hour, of a random half of the answers."""
    values = {
        "score_id": [f"s{row:05d}" for row in range(n)], "item_id": [f"i{row}" for row in range(n)], "version": "1",
        "risk": np.resize(RISKS, n), "answer": "a", "error": np.resize(TRUE, n).astype(float), "chosen": "random",
        "probability": 0.5, "disputed": False, "created_at": DAY,
        "labelled_at": DAY + pd.to_timedelta(np.arange(n), unit="h"),
    }
    return pd.DataFrame(values | changes)


def scores(n: int = 400, **changes) -> pd.DataFrame:
    row = np.arange(n)
    values = {
        "risk": (row % 20 + 0.5) / 20, "answer": np.where(row % 2, "a", "b"), "harmonizer_answer": "a",
        "text_length": 30 + row % 60, "agreement": np.where(row % 4, 0.75, 0.25),
        "vote:one": np.where(row % 2, "a", "b"), "vote:two": np.where(row % 3, "a", None),
    }
    return pd.DataFrame(values | changes).iloc[np.random.default_rng(1).permutation(n)]


def hours(frame: pd.DataFrame, size: int = 20) -> list[tuple[datetime, Tally]]:
    return [(DAY + timedelta(hours=hour), tally(frame.iloc[first:first + size]))
            for hour, first in enumerate(range(0, len(frame), size))]


REFERENCE = tally(scores(2000))
HOURS = hours(scores())


def context(frame: pd.DataFrame | None = None, now: pd.DataFrame | None = None, **changes) -> Context:
    values = {
        "labelled": labelled() if frame is None else frame, "tallies": HOURS if now is None else hours(now),
        "reference": REFERENCE, "reference_measures": {"n": 800, "error_rate": 0.5, "mean_risk": 0.5, "brier": 0.09},
        "threshold": 0.5, "alpha_promised": 0.1,
    }
    return Context(**(values | changes))


def verdict(name: str, *frames: pd.DataFrame | None, **changes) -> Alarm:
    return ALARMS[name](context(*frames, **changes))


def test_nothing_rings_where_nothing_changed():
    alarms = decide(context(alpha_promised=0.3))
    assert {alarm.name: alarm.state for alarm in alarms} == dict.fromkeys(ALARMS, "ok")
    assert all(alarm.since is alarm.noticed is None and alarm.reason and alarm.n for alarm in alarms)
    assert list(ALARMS)[:3] == ["calibration", "guarantee", "calibration_change"]


def test_without_anything_all_is_unknown_and_says_why():
    alarms = decide(Context())
    assert {alarm.state for alarm in alarms} == {"unknown"} and all(alarm.reason for alarm in alarms)
    assert alarms[0].reason == ("no feedback yet on an answer with a risk; "
                                "to have some chosen: polarscore monitor sample")
    assert as_json(alarms)["ok"] and not as_json(alarms, strict=True)["ok"]
    assert {alarm.state for alarm in decide(context(reference=Tally()))[3:]} == {"unknown"}
    assert {alarm.state for alarm in decide(context(tallies=[]))[3:]} == {"unknown"}


@pytest.mark.parametrize("frame", [
    labelled(1), labelled(1, error=1.0), labelled(error=0.0), labelled(error=1.0), labelled(risk=0.0),
    labelled(risk=1.0), labelled(risk=0.0, error=0.0), labelled(risk=1.0, error=1.0), labelled(error=np.nan),
    labelled(error=np.nan, disputed=True), labelled(labelled_at=pd.NaT), labelled(labelled_at=DAY),
    labelled(probability=np.r_[1.0, np.full(199, 0.001)]), labelled(probability=np.nan), labelled(chosen="whim"),
    labelled(risk=np.nan), pd.DataFrame(),
])
def test_whatever_the_labels_no_figure_is_nan(frame):
    alarms = decide(context(frame))
    assert all(alarm.reason for alarm in alarms)
    for alarm in alarms:
        figures = [alarm.size, alarm.low, alarm.high, alarm.sure, alarm.smallest]
        assert all(figure is None or math.isfinite(figure) for figure in figures), alarm
        assert (alarm.since is not None) == (alarm.noticed is not None) == (alarm.state == "alarm")
    json.dumps(as_json(alarms), allow_nan=False)


def test_what_is_printed():
    printed = as_json(decide(context(labelled(error=1.0))))
    assert not printed["ok"] and [alarm["name"] for alarm in printed["alarms"]] == list(ALARMS)
    assert set(printed["alarms"][0]) == {
        "name", "state", "since", "noticed", "size", "low", "high", "sure", "smallest", "n", "reason"}
    assert printed["alarms"][0]["since"] == "2025-03-01T00:00:00+00:00"


# Labels


@pytest.mark.parametrize(("error", "size", "words"), [
    (1.0, 0.5, "100.0% of 200 checked answers wrong, 50.0% predicted: errors come more often than the risks say"),
    (0.0, -0.5, "0.0% of 200 checked answers wrong, 50.0% predicted: errors come less often than the risks say"),
])
def test_calibration_tells_more_errors_from_fewer(error, size, words):
    alarm = verdict("calibration", labelled(error=error))
    assert (alarm.state, alarm.size) == ("alarm", pytest.approx(size))
    assert alarm.reason == f"since 2025-03-01 00:00 UTC {words}, more than chance explains"
    assert alarm.low <= size <= alarm.high and alarm.low * alarm.high > 0  # 0 is out
    assert alarm.sure > 0.999 and alarm.noticed > alarm.since


def test_a_change_after_a_healthy_time_is_dated_and_measured_from_then_on():
    error = np.r_[np.resize(TRUE, 1000), np.ones(60)]
    alarm = verdict("calibration", labelled(1060, error=error))
    began = DAY + timedelta(hours=1000)
    assert alarm.state == "alarm" and abs(alarm.since - began) <= timedelta(hours=12)
    assert alarm.since < alarm.noticed <= began + timedelta(hours=59)
    assert alarm.size > 0.35 and alarm.low > 0


def test_an_alarm_once_noticed_stays_noticed():
    bad = np.r_[np.ones(50), np.resize(TRUE, 950)]
    first = verdict("calibration", labelled(60, error=bad[:60]))
    last = verdict("calibration", labelled(1000, error=bad))
    assert first.state == last.state == "alarm" and first.noticed == last.noticed and first.since == last.since


def test_few_labels_are_unknown_unless_they_suffice():
    few = verdict("calibration", labelled(10, error=[0.0, 1.0] * 5))
    assert few.state == "unknown" and few.reason.endswith(
        "; 30 are needed to tell; to have some chosen: polarscore monitor sample") and few.n == 10
    assert verdict("calibration", labelled(25, risk=0.2, error=1.0)).state == "alarm"


def test_labels_chosen_by_a_whim_or_nobody_says_how_never_count():
    mixed = labelled(400, chosen=["random"] * 200 + ["whim"] * 150 + ["unknown"] * 50, error=np.r_[TRUE, np.ones(200)])
    alarm = verdict("calibration", mixed)
    assert (alarm.state, alarm.n) == ("ok", 200)
    assert alarm.reason.endswith("not counted: 200 chosen by a whim or in a way that was not said")
    assert verdict("calibration", labelled(chosen=None)).state == "unknown"


def test_what_arrives_together_is_weighed_together_in_any_order():
    frame = labelled(90, risk=0.5, error=np.r_[np.ones(70), np.zeros(20)],
                     labelled_at=np.repeat(pd.date_range(DAY, periods=3), 30))
    found = {verdict("calibration", frame.sample(frac=1, random_state=seed)).noticed for seed in range(4)}
    assert len(found) == 1 and found <= set(pd.date_range(DAY, periods=3))


def test_labels_chosen_by_risk_alone_leave_calibration_as_it_is():
    """The risky half is checked: far more errors than over all answers, yet as many as predicted."""
    frame = labelled(600, risk=np.tile([0.75, 0.95], 300), error=np.resize([1, 1, 1, 1, 0, 1, 1, 1], 600),
                     chosen="risk", probability=np.nan)
    assert verdict("calibration", frame).state == "ok"
    change = verdict("calibration_change", frame)
    assert change.state == "unknown" and "600 chosen with a probability that is not known" in change.reason


def test_the_guarantee_is_about_accepted_answers_and_weighs_how_they_were_chosen():
    kept, broken = (verdict("guarantee", labelled(error=np.where(RISKS < 0.5, error, 1.0))) for error in (0.0, 1.0))
    assert (kept.state, kept.size, kept.n) == ("ok", pytest.approx(-0.1), 100)
    assert broken.state == "alarm" and broken.size == pytest.approx(0.9) and broken.low > 0
    assert "100.0% of the accepted answers wrong by" in broken.reason and "at most 10.0% promised" in broken.reason
    none = verdict("guarantee", threshold=None)
    assert (none.state, none.reason) == ("unknown", "this version promises nothing: it has no threshold")
    none = verdict("guarantee", threshold=None, alpha_promised=None, accepts_nothing=True)
    assert none.reason == "this version promises nothing: its threshold was lowered to nothing"
    assert verdict("guarantee", labelled(risk=0.9)).state == "unknown"
    # of any three checked answers two are of a kind that is checked ten times as often, and a quarter of it is wrong
    chosen, wrong = np.resize([0.5, 0.5, 0.05], 1200), np.resize([1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], 1200)
    biased = labelled(1200, risk=0.1, probability=chosen, chosen="drawn", error=wrong)
    alarm = verdict("guarantee", biased)
    assert alarm.state == "ok" and alarm.size == pytest.approx(0.25 / 6 - 0.1)
    assert verdict("guarantee", biased.assign(probability=0.5)).state == "alarm"


def test_calibration_change_allows_for_the_error_of_what_was_measured_at_promotion():
    then = {"n": 2000, "error_rate": 0.6, "mean_risk": 0.5, "brier": 0.2}
    same = labelled(600, error=np.resize([0, 0, 0, 0, 1, 1, 1, 1, 1, 1], 600))
    assert verdict("calibration", same).state == "alarm"  # risks were never true, which promotion knew
    unchanged = verdict("calibration_change", same, reference_measures=then)
    assert unchanged.state == "ok" and unchanged.size == pytest.approx(0)
    worse = labelled(600, error=np.resize([0, 0, 1, 1, 1, 1, 1, 1, 1, 1], 600))
    assert verdict("calibration_change", worse, reference_measures=then).state == "alarm"
    assert verdict("calibration_change", worse, reference_measures=then | {"n": 20}).state == "ok"
    better = verdict("calibration_change", labelled(600, error=0.0), reference_measures=then)
    assert better.state == "alarm" and "less often than they did" in better.reason
    for nothing in (None, {}, {"n": 0, "error_rate": None, "mean_risk": None}):
        assert verdict("calibration_change", reference_measures=nothing).state == "unknown"


def test_only_a_score_that_was_made_again_is_left_out():
    """Evidence whose answer was erased has no more than its risk, its error and how it was chosen."""
    bare = labelled(score_id=[f"erased-{row}" for row in range(200)]).drop(columns=["item_id", "answer", "version"])
    assert verdict("calibration", bare).n == 200
    assert verdict("calibration", labelled(again=np.arange(200) % 4 == 0)).n == 150
    assert verdict("calibration", labelled(disputed=True)).n == 200


def test_what_was_chosen_by_the_risk_of_another_version_counts_where_it_is_weighed():
    frame = labelled(chosen=["elsewhere"] * 120 + ["random"] * 80, probability=0.5)
    alarm = verdict("calibration", frame)
    assert alarm.n == 80 and alarm.reason.endswith("not counted: 120 chosen by another version's risk")
    assert verdict("calibration_change", frame).n == 200
    unknown = verdict("calibration_change", frame.assign(probability=[np.nan] * 120 + [0.5] * 80))
    assert unknown.n == 80 and "120 chosen with a probability that is not known" in unknown.reason


@pytest.mark.parametrize("rare", ["random", "all", "risk", "drawn"])
def test_a_label_that_hardly_had_a_chance_silences_no_others(rare):
    frame = labelled(400, risk=0.2, error=np.resize([0, 0, 0, 1], 400), chosen=["random"] * 399 + [rare],
                     probability=[1.0] * 399 + [1e-6])
    for name in ("guarantee", "calibration_change"):
        then = {"n": 9000, "error_rate": 0.1, "mean_risk": 0.2, "brier": 0.09}
        alarm = verdict(name, frame, reference_measures=then)
        assert alarm.state == "alarm" and alarm.size == pytest.approx(0.15, abs=0.01)


def test_drawn_labels_are_weighed_by_the_least_chance_of_any_draw():
    rows = usable(labelled(4, chosen=["drawn", "drawn", "risk", "all"], probability=[0.4, 0.1, 0.5, 1]), True).rows
    assert weights(rows, rows, 0.05).tolist() == pytest.approx([0.125, 0.5, 1, 1])
    assert weights(rows, rows, None).tolist() == pytest.approx([0.25, 1, 1, 1])


def test_the_guarantee_rings_no_sooner_where_risky_answers_are_labelled_first():
    generator = np.random.default_rng(3)
    risk = np.sort(generator.beta(1, 14, 1500))[::-1]
    frame = labelled(1500, risk=risk, error=(generator.random(1500) < risk).astype(float), probability=1.0)
    known = {"threshold": 0.4, "accepted_risk": risk[risk <= 0.4].mean()}
    assert all(verdict("guarantee", frame.iloc[:n], **known).state != "alarm" for n in (50, 100, 200, 400, 800, 1500))
    alarm = verdict("guarantee", frame.iloc[:200], **known)
    assert alarm.low <= frame["error"][risk <= 0.4].mean() - 0.1 <= alarm.high and abs(alarm.size) < 0.15
    broken = verdict("guarantee", frame.assign(error=np.maximum(frame["error"], np.resize([0, 0, 0, 0, 1], 1500))),
                     **known)
    assert broken.state == "alarm" and broken.low > 0


def test_a_promise_that_holds_by_all_labels_does_not_ring():
    error = np.r_[np.resize([0, 0, 1], 300), np.resize([0] * 24 + [1], 6000)]
    frame = labelled(6300, risk=0.1, error=error, probability=1.0)
    assert verdict("guarantee", frame.iloc[:300]).state == "alarm"
    alarm = verdict("guarantee", frame)
    assert (alarm.state, alarm.since, alarm.noticed) == ("ok", None, None) and alarm.high < 0
    assert alarm.reason.endswith("it was broken since 2025-03-01 00:00, and holds by all labels")


@pytest.mark.parametrize(("true", "words"), [
    (lambda risk: np.full(len(risk), risk.mean()), "errors follow the risks less than they should"),
    (lambda risk: 2 * risk.mean() - risk, "errors follow the risks less than they should"),
    (lambda risk: expit(2.5 * logit(risk) + 0.58), "errors follow the risks more than they should"),
])
def test_calibration_sees_risks_that_are_right_in_the_mean_alone(true, words):
    generator = np.random.default_rng(0)
    risk = np.clip(generator.beta(2.4, 4, 3000), 0.02, 0.7)
    error = (generator.random(3000) < np.clip(true(risk), 0, 1)).astype(float)
    alarm = verdict("calibration", labelled(3000, risk=risk, error=error))
    assert alarm.state == "alarm" and words in alarm.reason and ", ECE 0." in alarm.reason
    wide = verdict("calibration", labelled(3000, risk=risk, error=error), settings=AlarmSettings(tolerance=0.4))
    assert wide.state == "ok" and "less than the 40.0% that matter" in wide.reason


def test_a_wide_tolerance_lets_a_small_gap_pass():
    frame = labelled(2000, risk=0.1, error=np.resize([1] + [0] * 6, 2000))
    assert verdict("calibration", frame, settings=AlarmSettings(tolerance=0)).state == "alarm"
    assert verdict("calibration", frame, settings=AlarmSettings(tolerance=0.1)).state == "ok"
    for name in ("calibration", "calibration_change"):
        exact, wide = (verdict(name, settings=AlarmSettings(tolerance=tolerance)) for tolerance in (0, 0.3))
        assert exact.smallest < 0.3 == wide.smallest


# Tallies


@pytest.mark.parametrize(("name", "changes", "words"), [
    ("risk_drift", {"risk": 0.9}, "the risk is below"),
    ("answer_drift", {"answer": "a"}, "the answer is 'b' in 0.0%, in training 50.0%"),
    ("answer_drift", {"answer": "c"}, "the answer is none of those in training in 100.0%, in training 0.0%"),
    ("text_drift", {"text_length": 900}, "the text's length is below"),
    ("text_drift", {"harmonizer_answer": "b"}, "the harmonizer's answer is 'a' in 0.0%, in training 100.0%"),
    ("agreement_drift", {"agreement": 0.25}, "the share of the voting sources that agree with the LLM is below"),
    ("source_drift", {"vote:two": None}, "two votes in 0.0%, in training 66.6%"),
    ("source_drift", {"vote:one": "a"}, "one agrees with the LLM, where it votes, in 50.0%, in training 100.0%"),
    ("missing_risk", {"risk": np.nan, "answer": None}, "there is no risk in 100.0%, in training 0.0%"),
    ("missing_risk", {"risk": 0.42}, "the risk lies between 0.40 and 0.45 in 100.0%, in training 5.0%"),
])
def test_a_change_of_what_is_scored_rings(name, changes, words):
    alarm = verdict(name, None, scores(**changes))
    assert alarm.state == "alarm"
    assert words in alarm.reason and alarm.reason.startswith("since 2025-03-01 00:00")
    assert alarm.since <= alarm.noticed <= DAY + timedelta(hours=10) and alarm.sure > 0.95


def test_a_source_that_fell_silent_is_named_and_dated():
    now = scores(1000)
    now.iloc[600:, now.columns.get_loc("vote:two")] = None
    alarm = verdict("source_drift", None, now)
    assert (alarm.state, alarm.size) == ("alarm", pytest.approx(2 / 3, abs=0.01))
    assert alarm.since == DAY + timedelta(hours=30) and alarm.noticed <= DAY + timedelta(hours=33)
    assert "one" not in alarm.reason.split(":")[1] and alarm.smallest < 0.2


def test_a_small_change_is_no_matter_and_few_scores_cannot_tell():
    slightly = scores(2000, answer=np.where(np.arange(2000) % 100 < 53, "a", "b"))
    assert verdict("answer_drift", None, slightly).state == "ok"
    few = verdict("answer_drift", None, scores(12))
    assert few.state == "unknown" and few.reason == "only 12 answers in production; 30 are needed to tell"


def test_while_nothing_rings_the_share_that_is_most_off_is_told():
    assert "there is no risk in 0.0%, in training 0.0%" in verdict("missing_risk").reason
    few = Stream("rare", np.array([2.0]), np.array([10.0]), 100, 1000)
    many = Stream("usual", np.array([560.0]), np.array([1000.0]), 500, 1000)
    assert many.z() > few.z() > 0 and abs(few.now() - few.before) > abs(many.now() - many.before)


def test_a_version_that_kept_no_votes_says_so():
    bare = replace(REFERENCE, counts={key: bins for key, bins in REFERENCE.counts.items() if ":" not in key})
    alarm = verdict("source_drift", reference=bare)
    assert alarm.state == "unknown" and "train the model again" in alarm.reason
    assert verdict("agreement_drift", reference=replace(bare, counts={"risk": {"00": 2000}})).state == "unknown"


def test_hours_without_scores_and_moments_that_repeat_change_nothing():
    quiet = [(DAY - timedelta(hours=3), Tally()), *hours(scores(answer="a")), (DAY, Tally())]
    alarm = verdict("answer_drift", tallies=quiet)
    assert alarm.state == "alarm" and alarm.size == pytest.approx(0.5)
    assert all(each.state in ("ok", "alarm") for each in decide(context(tallies=quiet)))


def test_alarms_without_labels_ring_seldom_while_nothing_changes():
    generator, rung, runs = np.random.default_rng(4), 0, 60
    for _ in range(runs):
        before, now = (generator.multinomial(n, np.full(8, 1 / 8), size=blocks)
                       for n, blocks in ((500, 1), (25, 80)))
        names = [f"c{place}" for place in range(8)]
        reference = Tally(500, {"answer": dict(zip(names, before[0].tolist(), strict=True))})
        blocks = [(DAY + timedelta(hours=hour), Tally(25, {"answer": dict(zip(names, row, strict=True))}))
                  for hour, row in enumerate(now.tolist())]
        alarm = ALARMS["answer_drift"](Context(AlarmSettings(share=0.0), tallies=blocks, reference=reference))
        rung += alarm.state == "alarm"
    assert rung / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def test_alarms_are_plain_data():
    assert asdict(decide(context())[0])["name"] == "calibration"
