from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monitoring.alarms import ALARMS, Thresholds, as_json, decide
from monitoring.change import of_categories, of_means, of_numbers
from monitoring.evidence import evidence, first_crossing
from monitoring.review import choose, inclusion

DAY = pd.Timestamp("2025-03-01", tz="UTC")


def table(n: int = 200, **changes) -> pd.DataFrame:
    moments = DAY + pd.to_timedelta(np.arange(n), unit="h")
    values = {
        "score_id": [f"s{row}" for row in range(n)], "item_id": [f"i{row}" for row in range(n)],
        "created_at": moments, "risk": (np.arange(n) % 10 + 0.5) / 10, "answer": np.where(np.arange(n) % 2, "a", "b"),
        "agreement": 0.5, "sources_voting": 4, "label": None, "labelled_at": pd.NaT, "error": np.nan,
    }
    frame = pd.DataFrame(values | changes)
    return frame.assign(labelled_at=frame["created_at"].where(frame["error"].notna()))


def verdict(name: str, reference: pd.DataFrame, current: pd.DataFrame, limits: Thresholds | None = None):
    return next(alarm for alarm in decide(reference, current, limits) if alarm.name == name)


# Evidence: laws

rows = st.integers(1, 40).flatmap(lambda n: st.tuples(
    arrays(float, n, elements=st.floats(0, 1)), arrays(float, n, elements=st.sampled_from([0.0, 1.0]))))


@given(rows, st.floats(0, 0.5))
def test_evidence_is_positive_and_shrinks_with_tolerance(sample, tolerance):
    risk, error = sample
    strict, lenient = evidence(risk, error), evidence(risk, error, tolerance)
    assert (lenient > 0).all() and np.isfinite(strict).all()


@given(rows)
def test_evidence_is_the_same_for_errors_and_for_right_answers(sample):
    risk, error = sample
    np.testing.assert_allclose(evidence(risk, error), evidence(1 - risk, 1 - error), rtol=1e-9)


@given(arrays(float, 5, elements=st.floats(0, 1)), st.floats(0, 0.3))
@settings(max_examples=40)
def test_on_average_no_bet_against_true_risks_pays(risk, tolerance):
    outcomes = np.array(np.meshgrid(*[[0.0, 1.0]] * 5)).reshape(5, -1).T  # every one of 32
    chance = np.where(outcomes == 1, risk, 1 - risk).prod(axis=1)
    mean = sum(p * evidence(risk, error, tolerance)[-1] for p, error in zip(chance, outcomes, strict=True))
    assert mean <= 1 + 1e-9


def test_evidence_by_hand():
    # one wrong answer of risk 1/2: a bet at stake λ on errors holds 1 + λ/2, the other 1 - λ/2: 1 on average
    assert evidence(np.array([0.5]), np.array([1.0])) == pytest.approx([1.0])
    # two of them: the mean of (1 + λ/2)² and (1 - λ/2)² is 1 + λ²/4; the mean λ² is 0.8525/5
    assert evidence(np.full(2, 0.5), np.ones(2))[-1] == pytest.approx(1 + 0.8525 / 5 / 4)


def test_the_order_of_what_came_at_the_same_moment_does_not_matter():
    generator = np.random.default_rng(0)
    risk, error = np.full(90, 0.5), np.r_[np.ones(70), np.zeros(20)]
    moments = np.repeat([1, 2, 3], 30)
    found = {first_crossing(risk, error[order], moments, 0.05) for order in [
        np.r_[generator.permutation(30), 30 + generator.permutation(30), 60 + generator.permutation(30)]
        for _ in range(5)]}
    assert len(found) == 1 and found <= {29, 59, 89}
    assert first_crossing(np.empty(0), np.empty(0), np.empty(0), 0.05) is None


def test_a_calibrated_model_rings_no_more_often_than_alpha_however_often_one_looks():
    generator, runs, alpha = np.random.default_rng(7), 1000, 0.05
    rung = 0
    for _ in range(runs):
        risk = generator.beta(1, 3, 500)
        error = (generator.random(500) < risk).astype(float)
        rung += first_crossing(risk, error, np.arange(500), alpha) is not None
    assert rung / runs <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_shift_of_a_fifth_is_seen_within_three_hundred_labels(sign):
    generator, seen = np.random.default_rng(8), 0
    for _ in range(100):
        risk = generator.uniform(0.25, 0.75, 300)
        error = (generator.random(300) < risk + sign * 0.2).astype(float)
        seen += first_crossing(risk, error, np.arange(300), 0.05, Thresholds().calibration_tolerance) is not None
    assert seen >= 95


# Changes: against worked examples


def test_changes_by_hand():
    assert of_numbers(pd.Series([0.1, 0.2, np.nan]), pd.Series([0.15, 0.3])).size == pytest.approx(0.5)
    assert of_categories(pd.Series(["a", "a", "b", None]), pd.Series(["a", "b"])).size == pytest.approx(0.25)
    assert of_categories(pd.Series(["a"] * 3), pd.Series(["a"] * 9)) == (0.0, 1.0)
    assert of_means(pd.Series([1.0, 3.0]), pd.Series([0.0, 2.0])).size == pytest.approx(1.0)
    assert of_means(pd.Series([1.0] * 3), pd.Series([0.5] * 3)) == (0.5, 0.0)
    assert of_means(pd.Series([1.0] * 3), pd.Series([1.0] * 3)) == (0.0, 1.0)


# Alarms: each decision by hand


def test_nothing_rings_where_nothing_changed():
    alarms = decide(table(), table(error=np.tile([0.0] * 5 + [1.0] * 5, 20)))
    assert {alarm.name: alarm.state for alarm in alarms} == dict.fromkeys(ALARMS, "ok")
    assert all(alarm.since is None and alarm.reason for alarm in alarms)


def test_without_scores_everything_is_unknown_and_says_why():
    for empty in (table(0), pd.DataFrame()):
        alarms = decide(table(), empty)
        assert {alarm.state for alarm in alarms} == {"unknown"} and all(alarm.reason for alarm in alarms)
    assert {alarm.state for alarm in decide(pd.DataFrame(), table())[:-1]} == {"unknown"}
    assert verdict("calibration", table(), table()).reason == "no feedback yet on an answer with a risk"


def test_calibration_rings_at_the_moment_when_the_evidence_sufficed():
    # risk 1/2 and always wrong: the wealth is about ½ · mean of (1 + λ (1/2 − 0.02))ⁿ ≥ 20, λ up to 0.8
    current = table(risk=0.5, error=1.0)
    alarm = verdict("calibration", table(), current)
    wealth = evidence(np.full(200, 0.5), np.ones(200), 0.02)
    row = int((wealth >= 20).argmax())
    assert 12 <= row <= 20
    assert (alarm.state, alarm.size) == ("alarm", 0.5)
    assert alarm.since == current["created_at"][row]
    assert alarm.reason == "100.0% of 200 checked answers wrong, 50.0% predicted: more than chance explains"
    assert verdict("calibration", table(), table(risk=0.5, error=0.0)).size == -0.5


def test_few_labels_are_unknown_unless_they_suffice():
    few = table(risk=0.5, error=[1.0, 0.0] * 5 + [np.nan] * 190)
    assert verdict("calibration", table(), few).state == "unknown"
    enough = table(risk=0.5, error=[1.0] * 25 + [np.nan] * 175)
    assert verdict("calibration", table(), enough).state == "alarm"


def test_risk_drift_needs_a_distance_and_more_than_chance():
    assert verdict("risk_drift", table(), table(risk=0.9)).state == "alarm"
    assert verdict("risk_drift", table(), table(risk=np.linspace(0, 1, 200))).state == "ok"
    far_but_few = verdict("risk_drift", table(40), table(40, risk=(np.arange(40) % 10 + 2) / 12))
    assert far_but_few.state == "ok" and far_but_few.size >= 0.1 and "may be chance" in far_but_few.reason


def test_answer_drift_is_the_share_that_would_have_to_change():
    alarm = verdict("answer_drift", table(), table(answer="a"))
    assert (alarm.state, alarm.size) == ("alarm", pytest.approx(0.5))
    assert alarm.since == datetime(2025, 3, 1, tzinfo=UTC)
    assert "'c' was never given there" in verdict("answer_drift", table(), table(answer="c")).reason


def test_agreement_and_sources_fall():
    assert verdict("agreement_drop", table(), table(agreement=0.4)).state == "alarm"
    assert verdict("agreement_drop", table(), table(agreement=0.9)).state == "ok"
    assert verdict("agreement_drop", table(), table(agreement=np.nan)).state == "unknown"
    silent = verdict("sources_silent", table(), table(sources_voting=3))
    assert (silent.state, silent.size) == ("alarm", 0.25)
    assert verdict("sources_silent", table(), table(sources_voting=5)).state == "ok"
    assert verdict("sources_silent", table(sources_voting=0), table()).state == "unknown"


def test_a_constant_or_missing_risk_rings():
    assert verdict("constant_or_missing_risk", table(), table(risk=0.3)).state == "alarm"
    missing = verdict("constant_or_missing_risk", table(), table(risk=[np.nan, 0.1, 0.2, 0.3] * 50))
    assert (missing.state, missing.size) == ("alarm", 0.25)
    all_missing = verdict("constant_or_missing_risk", table(), table(risk=np.nan))
    assert (all_missing.state, all_missing.size) == ("alarm", 1.0)


def test_what_check_prints():
    quiet = as_json(decide(table(), table()))
    assert quiet["ok"] and not as_json(decide(table(), table()), strict=True)["ok"]
    assert [alarm["name"] for alarm in quiet["alarms"]] == list(ALARMS)
    loud = as_json(decide(table(), table(answer="a")))
    assert not loud["ok"] and loud["alarms"][2]["since"] == "2025-03-01T00:00:00+00:00"
    assert set(loud["alarms"][0]) == {"name", "state", "since", "size", "reason"}


# Review: laws


@given(arrays(float, st.integers(0, 60), elements=st.floats(0, 1)), st.integers(0, 70), st.floats(0.05, 1))
def test_probabilities_sum_to_the_budget(risk, budget, uniform_share):
    probability = inclusion(risk, budget, uniform_share)
    assert probability.sum() == pytest.approx(min(budget, len(risk)))
    assert ((probability >= 0) & (probability <= 1 + 1e-9)).all()
    assert (np.diff(probability[np.argsort(risk)]) >= -1e-9).all()  # riskier is likelier


def test_a_draw_is_exact_repeatable_and_of_the_unlabelled():
    frame = table(label=["a"] * 100 + [None] * 100)
    drawn = choose(frame, 20, seed=1)
    assert list(drawn.columns) == ["score_id", "item_id", "risk", "probability"]
    assert len(drawn) == 20 == drawn["score_id"].nunique()
    assert set(drawn["score_id"]) <= set(frame["score_id"][100:])
    pd.testing.assert_frame_equal(drawn, choose(frame, 20, seed=1))
    assert not drawn.equals(choose(frame, 20, seed=2))
    assert len(choose(frame, 500, seed=1)) == 100 and choose(frame, 0, seed=1).empty
    assert choose(table(risk=np.nan), 5, seed=1).empty


def test_answers_are_drawn_as_often_as_their_probability_says():
    frame = table(40)
    counts = pd.Series(0.0, index=frame["score_id"])
    for seed in range(500):
        counts[choose(frame, 8, seed=seed)["score_id"]] += 1
    expected = inclusion(frame["risk"].to_numpy(), 8, 0.3)
    assert np.abs(counts.to_numpy() / 500 - expected).max() < 0.08


def test_weights_make_the_estimate_true_on_average():
    frame = table(100)
    error = (frame["risk"] > 0.6).astype(float).set_axis(frame["score_id"])
    drawn = [choose(frame, 15, seed=seed) for seed in range(400)]
    means = [float((error[rows["score_id"]].to_numpy() / rows["probability"]).sum() / 100) for rows in drawn]
    assert np.mean(means) == pytest.approx(error.mean(), abs=0.02)


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="budget"):
        choose(table(), -1, seed=0)
