"""What asking again does, learned without labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.correction.habits import Habits, expected_gain, kept, learn, likelihood, margin_of, weighed

CERTAIN = np.eye(3)


def world(seed=0, rows=4000, classes=4, right=0.6, keeps=0.9, mends=0.5):
    """Probabilities that are true, first answers, new ones, and gold: an LLM with known habits."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.5), rows)
    gold = (p.cumsum(axis=1) < rng.random(rows)[:, None]).sum(axis=1)
    first = np.where(rng.random(rows) < right, gold, (gold + rng.integers(1, classes, rows)) % classes)
    wrong = first != gold
    again = np.where(wrong & (rng.random(rows) < mends), gold, first)
    spoiled = ~wrong & (rng.random(rows) > keeps)
    again = np.where(spoiled, (first + rng.integers(1, classes, rows)) % classes, again)
    likely = np.where(np.arange(classes) == first[:, None], right, (1 - right) / (classes - 1))
    p = p * likely
    return p / p.sum(axis=1, keepdims=True), first, again, gold


@given(st.integers(0, 20), st.floats(0.3, 1.0), st.floats(0.05, 0.9))
def test_habits_are_found_without_labels(seed, keeps, mends):
    p, first, again, gold = world(seed, keeps=keeps, mends=mends)
    truth = np.eye(4)[gold]  # whoever knew the gold classes would find exactly these
    told = learn(truth, first, again)
    assert told.kept == pytest.approx(keeps, abs=0.03) and told.mended == pytest.approx(mends, abs=0.06)
    found = learn(p, first, again)
    assert 0 < found.kept < 1 and 0 < found.mended < 1 and found.mended + found.stubborn < 1 + 1e-9
    assert found.shares.sum() == pytest.approx(1) and found.asked == len(first)


def nothing_asked(classes):
    return learn(np.empty((0, classes)), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


def test_nothing_asked_is_what_is_presumed():
    for classes in (2, 5):
        found = nothing_asked(classes)
        assert found.kept == 0.8 and found.asked == 0 and (found.shares == 1 / classes).all()
    assert (nothing_asked(5).mended, nothing_asked(5).stubborn) == (0.4, 0.4)
    assert (nothing_asked(2).mended, nothing_asked(2).stubborn) == (0.5, 0.5)  # of two classes none is a third
    blank = learn(CERTAIN, np.array([0, -1, 2]), np.array([-1, 1, -1]))  # either answer is missing
    assert blank.asked == 0 and blank.kept == 0.8


def test_worked_by_hand():
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    found = learn(p, np.array([0, 0]), np.array([0, 1]))
    assert found.kept == pytest.approx((0.9 + 3.2) / (1.1 + 4))  # the first is kept, right with 0.9
    mended, stubborn = 0.8 + 1.6, 0.1 + 1.6
    assert found.mended == pytest.approx(mended / (mended + stubborn))
    assert found.shares == pytest.approx([1 / 3, 2 / 3])


@given(st.integers(2, 6), st.floats(0.05, 0.95), st.floats(0.05, 0.9), st.floats(0.01, 0.99), st.integers(0, 99))
def test_of_any_true_class_the_new_answers_sum_to_one(classes, keeps, mends, part, seed):
    rng = np.random.default_rng(seed)
    stubborn = (1 - mends) * (1.0 if classes == 2 else part)
    habits = Habits(keeps, mends, stubborn, rng.dirichlet(np.ones(classes) * 5), 9)
    for first in range(-1, classes):
        each = likelihood(habits, np.full(classes, first), np.arange(classes))  # (new answer, true class)
        assert each.sum(axis=0) == pytest.approx(1, abs=1e-6)


@given(st.integers(0, 50))
def test_new_probabilities_sum_to_one_and_no_answer_changes_nothing(seed):
    p, first, again, _ = world(seed, 60)
    habits = learn(p, first, again)
    again = np.where(np.arange(60) % 3 == 0, -1, again)
    found = weighed(p, first, again, habits)
    assert found.sum(axis=1) == pytest.approx(1)
    assert found[::3] == pytest.approx(p[::3])
    order = np.random.default_rng(seed).permutation(60)
    assert (weighed(p[order], first[order], again[order], habits) == found[order]).all()


def test_what_is_kept():
    p = np.array([[0.3, 0.7, 0.0], [0.4, 0.6, 0.0], [0.9, 0.1, 0.0], [0.2, 0.1, 0.7], [0.5, 0.5, 0.0]])
    first, again = np.array([0, 0, -1, 0, -1]), np.array([1, 1, 1, -1, -1])
    assert kept(p, first, again, 2.0).tolist() == [1, 0, 1, 0, -1]


def test_worse_answers_have_to_argue_better():
    p = np.full((10, 2), 0.5)
    p[:, 0], p[:, 1] = 0.8, 0.2
    first = np.zeros(10, dtype=int)
    shares = np.array([0.5, 0.5])
    assert margin_of(Habits(1.0, 0.9, 0.1, shares, 5), p, first) == 2.0
    worse = margin_of(Habits(0.5, 0.5, 0.5, shares, 5), p, first)
    assert worse == pytest.approx(2 * 4**2)  # odds of 4 to 1 become even
    assert margin_of(Habits(0.5, 0.5, 0.5, shares, 5), p, np.full(10, -1)) == 2.0


@given(st.integers(0, 30))
def test_gain_is_what_believing_comes_to(seed):
    """The expectation, over new answers drawn as the habits say, of the gain in probability: to the digit."""
    p, first, again, _ = world(seed, 40)
    habits = learn(p, first, again)
    margin = margin_of(habits, p, first)
    gain = expected_gain(p, first, habits, margin)
    assert (gain >= 0).all()
    total = np.zeros(40)
    for new in range(4):
        answers = np.full(40, new)
        found = likelihood(habits, first, answers) * p  # (row, true class): joint with this new answer
        stands = kept(found / found.sum(axis=1, keepdims=True), first, answers, margin)
        rows = np.arange(40)
        total += found[rows, stands] - found[rows, first]
    assert gain == pytest.approx(total, abs=1e-9)


def test_choosing_beats_taking_blindly():
    p, first, again, gold = world(3, keeps=0.7, mends=0.4)
    habits = learn(p[:200], first[:200], again[:200])
    found = kept(weighed(p, first, again, habits), first, again, margin_of(habits, p, first))
    right = (found == gold).mean()
    assert right > (again == gold).mean() and right > (first == gold).mean()
