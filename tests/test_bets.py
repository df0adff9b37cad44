"""Evidence: that no bet pays while nothing is wrong, and how soon the bets notice that something is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit
from scipy.stats import binom, norm

from monitoring.bets import ABOVE, CENTRE, MONEY, SHIFTS, SLOPED, SLOPES, Bets, on_mean, on_risks
from monitoring.confidence import interval_of_mean, interval_of_rate
from monitoring.evidence import FIRST, Evidence, best_start, first_reached, over_starts, p_value, starts
from monitoring.streams import KAPPA, LEVELS, Stream, Watch

OUTCOMES = np.array(list(itertools.product([0.0, 1.0], repeat=5)))
risks = arrays(float, 5, elements=st.floats(0, 1))


def of_risks(risk: np.ndarray, error: np.ndarray) -> Evidence:
    bets = on_risks(risk)
    return Evidence(bets.growth(error), bets.log_money, starts(np.arange(len(risk)), 50, 300_000))


# Fairness, over every outcome


@given(risks)
@settings(max_examples=40)
def test_no_bet_pays_on_average_while_errors_come_as_risks_say(risk):
    chance = np.where(OUTCOMES == 1, risk, 1 - risk).prod(axis=1)
    money = [np.exp(of_risks(risk, error).log_wealth[-1]) for error in OUTCOMES]
    assert chance @ money <= 1 + 1e-9
    if 1e-6 < risk.min() <= risk.max() < 1 - 1e-6:
        assert chance @ money == pytest.approx(1)


@given(st.floats(0.02, 0.9), st.floats(0, 0.2), arrays(float, 6, elements=st.floats(0.05, 1)),
       arrays(float, 6, elements=st.floats(0, 1)), arrays(float, 6, elements=st.floats(0, 1)))
def test_a_bet_on_the_mean_is_fair_however_likely_each_answer_was_chosen(promised, off, probability, rate, risk):
    drawn = probability / probability.sum()  # one of a population of six is chosen
    rate = rate * promised / max(rate.mean(), promised)  # as many of them are wrong as promised, or fewer
    weight = probability.min() / probability
    bets = on_mean(weight, promised)
    assert (drawn * _mean_pay(bets, rate)).sum(axis=1).max() <= 1 + 1e-9
    gap = float((rate - risk).mean())
    assert (drawn * _mean_pay(on_mean(weight, gap + off, gap - off, risk), rate)).sum(axis=1).max() <= 1 + 1e-9


def _mean_pay(bets: Bets, rate: np.ndarray) -> np.ndarray:
    return np.asarray(rate * np.exp(bets.if_wrong) + (1 - rate) * np.exp(bets.if_right))


@given(st.integers(1, 8), st.floats(0.01, 0.99), st.floats(0, 0.2))
@settings(max_examples=8, deadline=None)
def test_a_stream_and_its_reference_drawn_with_the_same_probability_pay_nothing(n, p, tolerance):
    mean = 0.0
    for before, now in itertools.product(range(n + 1), range(7)):
        stream = Stream("share", np.array([float(now)]), np.array([6.0]), before, n)
        watch = Watch([stream], np.array([6.0]), 0.05, tolerance)
        money = np.exp(watch.log_wealth[0])
        mean += money * binom.pmf(before, n, p) * binom.pmf(now, 6, min(p + tolerance, 1))
    assert mean <= 1 + 1e-9


def test_the_bet_on_a_reference_is_fair_and_made_at_ever_smaller_levels():
    u = (np.arange(100_000) + 0.5) / 100_000
    assert np.mean(KAPPA * u ** (KAPPA - 1)) <= 1
    assert (np.diff(LEVELS) < 0).all() and LEVELS[0] == 1 and LEVELS[-1] == 0


# Mixtures


def test_evidence_by_hand():
    # one wrong answer of risk 1/2: a bet with the shift d pays 2 e^d / (1 + e^d) or 2 / (1 + e^d), and started with it
    p = expit(SHIFTS)
    paid = (1 - SLOPED) * 2 * (ABOVE * MONEY @ p + (1 - ABOVE) * MONEY @ (1 - p))
    paid += SLOPED * 2 * expit(CENTRE - SLOPES * CENTRE).mean()
    assert np.exp(of_risks(np.array([0.5]), np.array([1.0])).log_wealth) == pytest.approx([FIRST * paid + 1 - FIRST])


def test_starts_sum_to_at_most_one_and_a_change_is_dated():
    parts = np.exp(starts(np.arange(5000), 50, 4000))
    assert parts[0] == FIRST and parts.sum() == pytest.approx(1) and (np.diff(parts[1:4000]) < 0).all()
    assert parts[4500] == 0
    growth = np.r_[np.linspace(0, -9, 100), np.linspace(-9, 11, 100)]
    log_starts = starts(np.arange(200), 50, 1e6)
    assert best_start(growth, log_starts, 199)[0] in (99, 100, 101)
    assert best_start(growth, log_starts, 5)[0] == 0


@given(arrays(float, (3, 30), elements=st.floats(-1, 1)))
def test_the_mixture_over_starts_is_the_sum_that_it_says(steps):
    growth, parts = steps.cumsum(axis=1), np.exp(starts(np.arange(30), 5, 100))
    before = np.hstack([np.zeros((3, 1)), growth[:, :-1]])
    for row in (0, 7, 29):
        begun, rest = np.exp(growth[:, [row]] - before[:, :row + 1]), 1 - parts[:row + 1].sum()
        held = (parts[:row + 1] * begun).sum(axis=1) + rest
        np.testing.assert_allclose(np.exp(over_starts(growth, np.log(parts))[:, row]), held, rtol=1e-9)


def test_no_bet_ever_loses_all_and_nothing_is_nan():
    bets = on_mean(np.ones(3), 0.5, -0.5, np.array([0.0, 0.5, 1.0]))
    assert np.isfinite(bets.if_right).all() and np.isfinite(bets.if_wrong).all()
    extremes = of_risks(np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0]))
    assert np.isfinite(extremes.log_wealth).all() and 0 < p_value(extremes.log_wealth, np.ones(4, bool)) < 1
    assert p_value(np.zeros(0), np.zeros(0, bool)) == 1


# How often, and how soon


def test_risks_that_are_true_ring_no_more_often_than_alpha():
    generator, runs, alpha = np.random.default_rng(7), 300, 0.05
    rung = 0
    for _ in range(runs):
        risk = generator.beta(1, 3, 2000)
        evidence = of_risks(risk, (generator.random(2000) < risk).astype(float))
        rung += first_reached(evidence.log_wealth, alpha, np.ones(2000, bool)) is not None
    assert rung / runs <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize(("mean", "spread", "most"), [(0.1, 10, 1.5), (0.2, 4, 1.5), (0.33, 12, 1.5)])
def test_half_as_many_errors_again_are_noticed_within_half_as_many_labels_again_as_the_best_test_needs(
    mean, spread, most,
):
    generator, alpha = np.random.default_rng(3), 0.05
    risk = generator.beta(mean * spread, (1 - mean) * spread, 100_000)
    true = np.minimum(1.5 * risk, 1)
    deviations = [np.sqrt((p * (1 - p)).mean()) for p in (risk, true)]
    fixed = ((norm.isf(alpha) * deviations[0] + norm.isf(0.2) * deviations[1]) / (true - risk).mean()) ** 2
    n, needed = int(8 * fixed), []
    for run in range(100):
        rows = slice(run * 900, run * 900 + n) if n <= 900 else generator.integers(0, 100_000, n)
        evidence = of_risks(risk[rows], (generator.random(n) < true[rows]).astype(float))
        row = first_reached(evidence.log_wealth, alpha, np.ones(n, bool))
        needed.append(np.inf if row is None else row + 1)
    assert np.median(needed) <= most * fixed


def test_slopes_are_noticed_and_one_answer_decides_nothing():
    generator, alpha = np.random.default_rng(6), 0.05
    risk = generator.beta(1.2, 4, 1500)
    for true in (generator.permutation(risk), np.clip(2 * risk.mean() - risk, 0, 1)):
        evidence = of_risks(risk, (generator.random(1500) < true).astype(float))
        assert first_reached(evidence.log_wealth, alpha, np.ones(1500, bool)) < 900
    surprise = of_risks(np.array([0.5, 1e-9, 1 - 1e-9]), np.array([1.0, 1.0, 1.0]))
    assert surprise.log_wealth.max() < -np.log(alpha)


def test_a_bet_on_accepted_risks_is_fair_up_to_the_highest():
    risk, promised = np.array([0.0, 0.05, 0.2, 0.3]), 0.1
    bets = on_mean(np.ones(4), promised - risk.mean(), risk=risk, most=0.3)
    assert np.isfinite(bets.if_right).all() and np.isfinite(bets.if_wrong).all()
    assert _mean_pay(bets, np.full(4, promised)).mean(axis=1).max() <= 1 + 1e-9


def test_the_smallest_shift_is_the_one_that_is_noticed_by_half_of_all():
    generator, alpha, n = np.random.default_rng(5), 0.05, 600
    risk = generator.beta(3, 9, n)
    smallest = on_risks(risk).smallest(risk, alpha, np.log(FIRST))
    assert smallest is not None and 0.02 < smallest < 0.15
    noticed = [first_reached(of_risks(risk, (generator.random(n) < risk + smallest).astype(float)).log_wealth, alpha,
                             np.ones(n, bool)) is not None for _ in range(200)]
    assert 0.4 <= np.mean(noticed) <= 0.85  # by now: also those noticed before
    assert on_risks(risk[:3]).smallest(risk[:3], alpha, np.log(FIRST)) is None


# Intervals


def test_intervals_hold_at_all_times():
    generator, missed = np.random.default_rng(2), np.zeros(2)
    for _ in range(60):
        value, probability = (generator.random(400) < 0.2).astype(float), generator.choice([0.2, 1.0], 400)
        for n in range(25, 401, 25):
            first = interval_of_rate(int(value[:n].sum()), n, np.log(0.2))
            second = interval_of_mean(value[:n], 0.2 / probability[:n], (0, 1), np.log(0.2))
            out = np.array([not low <= 0.2 <= high for low, high in (first, second)])
            missed += out
            if out.any():
                break
    assert (missed <= 12).all()


def test_intervals_shrink_stay_within_bounds_and_are_mirrored():
    assert interval_of_rate(0, 0, np.log(0.05)) == (0, 1)
    assert interval_of_mean(np.empty(0), np.empty(0), (-1, 1), np.log(0.05)) == (-1, 1)
    low, high = interval_of_rate(30, 100, np.log(0.05))
    assert low < 0.3 < high and high - low < 0.4
    assert interval_of_rate(70, 100, np.log(0.05)) == pytest.approx((1 - high, 1 - low), abs=1e-4)
    assert interval_of_rate(100, 100, np.log(0.05))[1] == 1
    few, many = (interval_of_mean(np.tile([0.0, 1.0], n), np.ones(2 * n), (0, 1), np.log(0.05)) for n in (50, 5000))
    assert few[0] < many[0] < 0.5 < many[1] < few[1]


def test_a_shift_of_logits_is_what_the_bets_are_best_at():
    risk = np.full(400, 0.2)
    true = expit(logit(risk) + SHIFTS[2])
    bets = on_risks(risk)
    grown = (true * bets.if_wrong + (1 - true) * bets.if_right).sum(axis=1)
    assert grown.argmax() == 2 and bets.side.tolist() == [1] * 4 + [-1] * 4 + [0] * 3
