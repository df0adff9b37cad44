import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monitoring.estimation import (
    accepted_error,
    by_group,
    calibration_gap,
    error_rate,
    starts,
    weighted_error_rate,
)
from monitoring.sampling import UNIFORM, pull, scale_of, systematic
from monitoring.unlabelled import ROWS, error_rate_unlabelled, honesty

MONDAY = pd.Timestamp("2025-03-03", tz="UTC")


def table(risk, error=np.nan, probability=np.nan, **more) -> pd.DataFrame:
    n = len(risk)
    return pd.DataFrame({"risk": np.asarray(risk, float), "error": np.broadcast_to(error, n).astype(float),
                         "probability": np.broadcast_to(probability, n).astype(float), **more})


def sampled(risk: np.ndarray, error: np.ndarray, budget: int, seed: int) -> pd.DataFrame:
    probability = np.minimum(1, scale_of(pull(risk, UNIFORM), budget) * pull(risk, UNIFORM))
    seen = np.full(len(risk), np.nan)
    drawn = systematic(probability, risk, np.random.default_rng(seed))
    seen[drawn] = error[drawn]
    return table(risk, seen, probability)


# Laws

errors = arrays(float, st.integers(1, 30), elements=st.sampled_from([0.0, 1.0]))


@given(errors, st.data())
def test_an_estimate_is_a_number_in_its_interval_whatever_the_labels(error, data):
    n = len(error)
    risk = data.draw(arrays(float, n, elements=st.floats(0, 1)))
    probability = data.draw(arrays(float, n, elements=st.floats(0.01, 1)))
    frame = pd.concat([table(risk, error, probability), table([0.2, np.nan])])
    for estimate in (error_rate, weighted_error_rate):
        found = estimate(frame)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert (found.n, found.population) == (n, n + 1)
    gap = calibration_gap(frame)
    assert -1 <= gap.low <= gap.value <= gap.high <= 1


@given(errors, st.sampled_from([error_rate, weighted_error_rate]))
def test_with_a_label_on_every_answer_all_is_known_however_they_were_chosen(error, estimate):
    found = estimate(table(np.linspace(0, 1, len(error)), error))
    assert found.method == "exact"
    assert (found.value, found.low, found.high) == pytest.approx([error.mean()] * 3)


@given(errors)
def test_the_order_of_the_rows_does_not_matter(error):
    frame = table(np.linspace(0, 1, len(error)), error, 0.3)
    found, other = error_rate(frame), error_rate(frame[::-1])
    assert (found.value, found.low, found.high) == pytest.approx((other.value, other.low, other.high))


def test_true_risks_that_are_sharp_make_the_interval_narrow():
    generator = np.random.default_rng(0)
    risk = generator.choice([0.02, 0.98], 1000)
    frame = sampled(risk, (generator.random(1000) < risk).astype(float), 80, 0)
    ours, plain = error_rate(frame), weighted_error_rate(frame)
    assert ours.high - ours.low < 0.7 * (plain.high - plain.low)


# Worked by hand

def test_an_estimate_by_hand():
    frame = table([0.1, 0.5, 0.2, 0.4], [0, 1, np.nan, np.nan], [0.25, 0.5, np.nan, 0.9])
    # weights 4 and 2; error − risk −0.1 and 0.5: the gap is (−0.4 + 1) / 6; the mean risk is 0.3
    assert calibration_gap(frame).value == pytest.approx(0.1)
    found = error_rate(frame)
    assert found.value == pytest.approx(0.4) and found.n == 2 and found.population == 4
    assert found.method == "difference"
    assert weighted_error_rate(frame).value == pytest.approx(2 / 6)


def test_an_interval_by_hand():
    risk, error = np.full(400, 0.5), np.full(400, np.nan)
    error[:100] = np.tile([0.0, 1.0], 50)
    found = error_rate(table(risk, error, 0.25))
    reach = 1.984217 * np.sqrt(0.75 * 0.25 * 100 / 99 / 100)  # t of 99, a quarter of the answers seen
    assert (found.low, found.high) == pytest.approx((0.5 - reach, 0.5 + reach), abs=1e-5)


def test_drawn_answers_that_nobody_has_checked_yet_widen_the_interval():
    risk, error = np.full(100, 0.5), np.tile([0.0, 1.0], 50)
    whole = table(risk, error, 1.0)
    half = whole.assign(error=whole["error"].where(np.arange(100) < 50))
    assert error_rate(whole).high == 0.5
    found = error_rate(half)
    assert found.value == pytest.approx(0.5) and 0.08 < found.high - 0.5 < 0.12
    assert error_rate(half.iloc[:90]).reason == "50 labels of known choice, 90 answers"
    assert error_rate(half.iloc[20:]).reason.endswith("of which the labels so far stand for 38%")


def test_labels_of_one_item_tell_as_much_as_one():
    risk, error = np.full(400, 0.5), np.where(np.arange(400) < 100, np.tile([0.0, 1.0], 200), np.nan)
    once = table(risk, error, 0.25, item_id=np.arange(400))
    twice = pd.concat([once, once])
    for estimate in (error_rate, weighted_error_rate):
        alone, found = estimate(once), estimate(twice)
        assert (found.value, found.low, found.high) == pytest.approx((alone.value, alone.low, alone.high))
        assert (found.n, found.population) == (200, 800) and estimate(once.drop(columns="item_id")) == alone


# What cannot be told

@pytest.mark.parametrize(("frame", "reason"), [
    (table([]), "cannot tell: no answer with a risk is scored"),
    (table([np.nan], 1.0, 1.0), "cannot tell: no answer with a risk is scored"),
    (table([0.1, 0.2]), "cannot tell: no answer has a label yet"),
    (table([0.1, 0.2], [1.0, np.nan]), "cannot tell: of 1 labels it is not known how the answers were chosen"),
])
def test_what_cannot_be_told_says_why(frame, reason):
    for estimate in (error_rate, calibration_gap, weighted_error_rate):
        found = estimate(frame)
        assert (found.value, found.low, found.high, found.n, found.method) == (None, None, None, 0, "none")
        assert found.reason.startswith(reason)


def test_labels_chosen_in_an_unknown_way_do_not_count():
    frame = table([0.1] * 40, [0.0] * 10 + [1.0] * 20 + [np.nan] * 10, [0.25] * 10 + [np.nan] * 30)
    found = error_rate(frame)
    assert found.n == 10 and found.value == pytest.approx(0)


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_one_label_and_labels_of_one_class_leave_much_open(wrong):
    one = error_rate(table([0.3] * 100, [wrong] + [np.nan] * 99, 0.01))
    assert one.high - one.low > 0.9
    ten = error_rate(table([0.3] * 100, [wrong] * 10 + [np.nan] * 90, 0.1))
    assert 0.25 < ten.high - ten.low < 0.5


# Measured

def test_intervals_cover_and_the_estimate_is_true_on_average_though_the_labels_are_not():
    generator = np.random.default_rng(3)
    risk = generator.beta(1, 4, 600)
    error = (generator.random(600) < 0.1 + 0.6 * risk).astype(float)  # the risks are not calibrated
    found = [error_rate(sampled(risk, error, 30, seed)) for seed in range(300)]
    assert np.mean([each.value for each in found]) == pytest.approx(error.mean(), abs=0.02)
    assert np.mean([each.low <= error.mean() <= each.high for each in found]) >= 0.93


# Parts

def test_the_accepted_have_an_error_rate_of_their_own():
    frame = table([0.1] * 50 + [0.9] * 50, [0.0] * 50 + [1.0] * 50, 1.0)
    assert accepted_error(frame, 0.5).value == 0.0 and accepted_error(frame, 0.5).population == 50
    assert accepted_error(frame, 0.05).reason == "cannot tell: no answer has a risk of at most 0.05"
    assert accepted_error(table([]), 0.5).reason == "cannot tell: no answer with a risk is scored"


def test_groups_are_estimated_by_themselves():
    frame = table([0.1, 0.3, 0.2, np.nan], [0, 1, np.nan, np.nan], 1.0, version=["1", "1", "2", "2"])
    found = by_group(frame, frame["version"])
    assert found["group"].tolist() == ["1", "2"]
    assert found["answers"].tolist() == [2, 1] and found["labels"].tolist() == [2, 0]
    assert found["value"].tolist() == pytest.approx([0.5, np.nan], nan_ok=True)
    assert found["mean_risk"].tolist() == pytest.approx([0.2, 0.2])
    assert found["reason"][1] == "cannot tell: no answer has a label yet"
    gaps = by_group(frame, frame["version"], calibration_gap)
    assert gaps["value"][0] == pytest.approx(0.3)
    assert by_group(frame[:0], frame["version"][:0]).empty


def test_days_and_weeks_start_where_they_should():
    moments = pd.Series([MONDAY, MONDAY + pd.Timedelta(hours=30), MONDAY - pd.Timedelta(seconds=1)])
    days = starts(moments, "day")
    assert days.tolist() == [MONDAY, MONDAY + pd.Timedelta(days=1), MONDAY - pd.Timedelta(days=1)]
    assert starts(moments, "week").tolist() == [MONDAY, MONDAY, MONDAY - pd.Timedelta(days=7)]


# Without labels

def scored(n: int, mean: float, differ: float, **more) -> pd.DataFrame:
    answer = np.where(np.arange(n) < round(differ * n), "b", "a")
    return table(np.full(n, mean), **more).assign(answer=answer, harmonizer_answer="a")


def test_without_labels_by_hand():
    reference = scored(100, 0.2, 0.1)
    found = error_rate_unlabelled(scored(100, 0.3, 0.4), reference)
    assert found.value == pytest.approx(0.3 + (0.4 - 0.2) / 2)
    assert (found.low, found.high, found.n, found.population, found.method) == (None, None, 0, 100, "label-free")
    assert "the mean risk of 100 answers is 0.300, in training 0.200" in found.reason
    assert error_rate_unlabelled(scored(100, 0.3, 0.4), reference, audited=True).value == pytest.approx(0.3)
    assert error_rate_unlabelled(reference, reference).value == pytest.approx(0.15)  # the mean of the two clues
    assert error_rate_unlabelled(reference, reference, audited=True).value == pytest.approx(0.2)
    assert error_rate_unlabelled(scored(100, 0.3, 0.4), reference[:0]).value == pytest.approx(0.35)
    assert error_rate_unlabelled(scored(100, 0.9, 1.0), reference).value == 1.0


def test_too_few_answers_tell_nothing_without_labels():
    found = error_rate_unlabelled(scored(ROWS - 1, 0.3, 0.4), scored(100, 0.2, 0.1))
    assert found.value is None and found.reason == f"cannot tell: {ROWS - 1} answers with a risk, {ROWS} are needed"


def test_honesty_sets_what_was_thought_beside_what_labels_said():
    reference = scored(100, 0.2, 0.2)
    weeks = [MONDAY + pd.Timedelta(weeks=week) for week in range(4)]
    errors = [np.tile([0.0] * 8 + [1.0] * 2, 10), np.ones(100), np.full(100, np.nan), np.tile([0.0, 1.0], 50)]
    known = [0.99, 1.0, 0.5, np.nan]  # the last week's labels were chosen nobody knows how
    errors[3][50:] = np.nan
    frame = pd.concat([scored(100, 0.2, 0.2, error=error, probability=chance).assign(created_at=week)
                       for week, error, chance in zip(weeks, errors, known, strict=True)], ignore_index=True)
    found = honesty(frame, reference)
    assert found.table["start"].tolist() == weeks[:2]
    assert found.table["inside"].tolist() == [True, False] and (found.inside, found.periods) == (1, 2)
    assert found.table["unlabelled"].tolist() == pytest.approx([0.2, 0.2])
    assert found.reason.startswith("in 1 of 2 periods") and "off by 0.400 in the mean" in found.reason
    assert honesty(frame[:0], reference).periods == 0 == honesty(frame[200:], reference).inside
    assert "not known" in honesty(frame[200:], reference).reason
    for labels, periods in ((ROWS - 1, 1), (ROWS, 2)):  # one label would have an interval that holds anything
        fewer = frame.assign(error=frame["error"].mask((frame.index >= labels) & (frame.index < 100)))
        found = honesty(fewer, reference)
        assert (found.periods, found.few) == (periods, 2 - periods)
        assert ("; not counted, for fewer than 30 labels: 1" in found.reason) == (periods == 1)
    few = honesty(frame.assign(error=frame["error"].mask(frame.index > 0)), reference)
    assert few.reason.endswith("no period has 30 labels of known choice; not counted, for fewer than 30 labels: 1")
