from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monitoring.sampling import UNIFORM, Draw, draw, pull, scale_of, systematic, total_probability
from training.errors import InputError

AT = datetime(2025, 3, 31, tzinfo=UTC)
START = AT - timedelta(days=30)


def population(n: int = 200, **changes) -> pd.DataFrame:
    risk = np.random.default_rng(1).beta(1, 3, n)
    values = {"score_id": [f"s{row}" for row in range(n)], "item_id": [f"i{row}" for row in range(n)], "risk": risk,
              "created_at": pd.Timestamp(START) + pd.to_timedelta(np.arange(n) * 3, unit="h"), "drawn": False}
    return pd.DataFrame(values | changes)


def drawn_from(frame: pd.DataFrame, budget: int, seed: int = 0, since=None, until=AT, earlier=()):
    return draw(frame, budget, seed, "m", "1", AT, since, until, earlier)


# Laws

risks = arrays(float, st.integers(1, 60), elements=st.floats(0, 1))


@given(risks, st.floats(0, 1))
def test_the_pull_is_the_root_mean_square_of_what_the_error_may_be_from_the_risk(risk, uniform):
    wrong = (1 - uniform) * risk + uniform / 2
    expected = np.sqrt(wrong * (1 - risk) ** 2 + (1 - wrong) * risk**2)
    np.testing.assert_allclose(pull(risk, uniform), expected, atol=1e-7)
    np.testing.assert_allclose(pull(1 - risk, uniform), expected, atol=1e-7)  # right and wrong alike
    assert (pull(risk, uniform) ** 2 >= risk * (1 - risk) - 1e-12).all()


@given(risks, st.integers(1, 80))
def test_probabilities_sum_to_the_budget_and_follow_the_pull(risk, budget):
    scale = scale_of(pull(risk, UNIFORM), budget)
    probability = Draw("d", "m", "1", AT, None, AT, budget, scale, UNIFORM, 0).probability(risk)
    assert probability.sum() == pytest.approx(min(budget, len(risk)))
    assert ((probability > 0) & (probability <= 1)).all()
    order = np.argsort(pull(risk, UNIFORM))
    assert (np.diff(probability[order]) >= -1e-12).all()


@given(arrays(float, st.integers(0, 30), elements=st.floats(0, 1)), st.integers(0, 5))
def test_systematic_draws_as_many_as_the_probabilities_sum_to_each_once(probability, seed):
    drawn = systematic(probability, probability, np.random.default_rng(seed))
    assert abs(len(drawn) - probability.sum()) < 1
    assert len(set(drawn.tolist())) == len(drawn)


def test_answers_are_drawn_as_often_as_their_probability_says():
    generator, risk = np.random.default_rng(0), np.random.default_rng(1).beta(1, 3, 40)
    probability = np.minimum(1, scale_of(pull(risk, UNIFORM), 8) * pull(risk, UNIFORM))
    counts = np.zeros(40)
    for _ in range(4000):
        np.add.at(counts, systematic(probability, risk, generator), 1)
    assert np.abs(counts / 4000 - probability).max() < 0.03


def test_every_draw_has_its_part_of_low_and_high_risks():
    risk, generator = np.linspace(0, 1, 300), np.random.default_rng(0)
    probability = np.full(300, 0.1)
    low = [int((systematic(probability, risk, generator) < 100).sum()) for _ in range(200)]
    assert set(low) <= {9, 10, 11}


def test_whoever_stops_early_has_drawn_at_random():
    risk, generator = np.linspace(0, 1, 100), np.random.default_rng(0)
    first = [risk[systematic(np.full(100, 0.2), risk, generator)[:3]].mean() for _ in range(800)]
    assert np.mean(first) == pytest.approx(0.5, abs=0.02)


# Draws

def test_a_draw_is_exact_repeatable_and_leaves_out_what_is_not_of_its_population():
    frame = population()
    frame.loc[:19, "drawn"] = True
    frame.loc[20:29, "risk"] = np.nan
    since = START + timedelta(hours=3 * 40)
    made, found = drawn_from(frame, 20, seed=1, since=since, until=START + timedelta(hours=3 * 149))
    assert list(found) == ["score_id", "item_id", "risk", "probability", "position", "label"]
    assert len(found) == 20 == found["score_id"].nunique() and found["position"].tolist() == list(range(20))
    assert set(found["score_id"]) <= set(frame["score_id"][40:150])
    np.testing.assert_allclose(found["probability"], made.probability(found["risk"].to_numpy()))
    again = drawn_from(frame, 20, seed=1, since=since, until=START + timedelta(hours=3 * 149))
    assert again[0] == made
    pd.testing.assert_frame_equal(again[1], found)
    other, rows = drawn_from(frame, 20, seed=2, since=since, until=START + timedelta(hours=3 * 149))
    assert other.draw_id != made.draw_id and not rows.equals(found)


def test_with_too_few_answers_all_are_drawn_for_sure():
    frame = population(7, risk=[0, 0, 0.2, 0.5, 0.9, 1, np.nan])
    made, found = drawn_from(frame, 10)
    assert len(found) == 6 and (found["probability"] == 1).all()
    assert (made.probability(np.linspace(0, 1, 101)) == 1).all()
    made, found = drawn_from(population(0), 5)
    assert found.empty and made.budget == 5


def test_an_answer_with_a_label_is_drawn_like_any_other_beyond_the_budget():
    frame = population(label=np.arange(200) % 2 == 0)
    made, found = drawn_from(frame, 20)
    assert (~found["label"]).sum() == 20 and 0 < found["label"][:20].sum() < 20  # anywhere in the order
    expected = made.probability(frame["risk"].to_numpy())[::2].sum()
    assert abs(found["label"].sum() - expected) < 1


def test_a_budget_of_none_is_refused():
    with pytest.raises(InputError, match=r"the budget.*Found 0"):
        drawn_from(population(), 0)


def test_what_several_draws_make_of_a_probability_by_hand():
    one = Draw("a", "m", "1", AT, None, START + timedelta(hours=5), 1, 1.0, 0.0, 0)  # pulls 1/2 at a risk of 1/2
    two = replace(one, since=START, until=AT, scale=0.5)
    moments = pd.Series([START - timedelta(hours=1), START + timedelta(hours=1), AT, AT])
    total = total_probability([one, two], np.array([0.5, 0.5, 0.5, np.nan]), moments)
    np.testing.assert_allclose(total, [0.5, 1 - 0.5 * 0.75, 0.25, 0.0])
    assert total_probability([], np.array([0.5]), moments[:1]).tolist() == [0.0]
    np.testing.assert_allclose(total_probability([two], np.full(4, 0.5), moments.to_numpy("datetime64[us]")),
                               [0, 0.25, 0.25, 0.25])


def test_successive_draws_reach_each_answer_as_often_as_their_total_says():
    frame, runs = population(60), 150
    counts, expected = np.zeros(60), np.zeros(60)
    for seed in range(runs):
        first, rows = drawn_from(frame, 10, seed)
        seen = frame.assign(drawn=frame["score_id"].isin(rows["score_id"]))
        second, more = drawn_from(seen, 10, seed + 10_000, earlier=[first])
        assert not set(rows["score_id"]) & set(more["score_id"])
        total = pd.Series(total_probability([first, second], frame["risk"].to_numpy(), frame["created_at"]),
                          index=frame["score_id"])
        counts += frame["score_id"].isin([*rows["score_id"], *more["score_id"]])
        expected += total.to_numpy()
        np.testing.assert_allclose(more["probability"], total[more["score_id"]])
    assert np.abs(counts - expected).max() / runs < 0.15
