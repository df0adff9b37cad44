import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.audit_result import KNOTS, Recalibration
from training.risk import (
    POOLED,
    SHARPEST,
    TEMPER,
    majority_vote_risk,
    recalibrated,
    risk,
    sharpened,
    sharpness,
    with_votes,
)
from training.worth import from_beliefs, from_votes, posterior, refined

CLASSES = 3


@st.composite
def voted(draw):
    """Votes (n, m), m of at least 1 and the LLM first, and beliefs (n, K)."""
    n, m = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    votes = draw(arrays(np.int16, (n, m), elements=st.integers(-1, CLASSES - 1)))
    beliefs = np.random.default_rng(draw(st.integers(0, 1000))).dirichlet(np.ones(CLASSES), n).astype(np.float32)
    return votes, beliefs


@st.composite
def answered(draw):
    """Beliefs (n, K) of any sureness, and answers (n,)."""
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    beliefs = random.dirichlet(np.full(CLASSES, draw(st.sampled_from([0.1, 1.0, 10.0, 1000.0]))), 60)
    answers = np.where(random.random(60) < draw(st.floats(0, 1)), beliefs.argmax(axis=1), random.integers(-1, 3, 60))
    return beliefs, answers


def map_of(values):
    """A recalibration whose curve at the knots is made of some heights, which it sorts."""
    heights = np.interp(np.linspace(0, 1, len(KNOTS)), np.linspace(0, 1, len(values)), np.sort(values))
    return Recalibration(values=tuple(map(float, heights)), labels=10)


@given(voted(), st.data())
def test_the_risk_is_the_probability_of_all_other_classes(case, data):
    _, beliefs = case
    answers = np.array(data.draw(st.lists(st.integers(-1, CLASSES - 1), min_size=len(beliefs), max_size=len(beliefs))))
    found = risk(beliefs, answers)
    for row, answer in enumerate(answers):
        if answer == -1:
            assert np.isnan(found[row])
        else:
            assert found[row] == pytest.approx(np.delete(beliefs[row], answer).sum(), abs=1e-6)
            assert 0 <= found[row] <= 1


@given(answered())
def test_the_mean_confidence_of_sharpened_beliefs_is_the_agreement_with_the_answers(case):
    beliefs, answers = case
    power = sharpness(beliefs, answers)
    assert 1 <= power <= SHARPEST
    told = answers != -1
    if told.any():
        agreement = (beliefs.argmax(axis=1) == answers)[told].mean()
        confidence = sharpened(beliefs, power).max(axis=1).mean()
        if power == 1:
            assert confidence >= agreement - 1e-9
        elif power < 0.999 * SHARPEST:
            assert confidence == pytest.approx(agreement, abs=1e-3)
        else:
            assert confidence <= agreement + 1e-9


def test_beliefs_stay_as_they_are_without_answers_and_where_nothing_could_sharpen_them():
    beliefs = np.array([[0.6, 0.4], [0.3, 0.7]])
    assert sharpness(beliefs, np.array([-1, -1])) == 1.0 and sharpness(beliefs, np.array([1, 0])) == 1.0
    even = np.full((2, 2), 0.5)
    assert 1 <= sharpness(even, np.array([0, 0])) <= SHARPEST and sharpened(even, SHARPEST) == pytest.approx(even)


@given(voted(), st.floats(1, 30))
def test_sharpening_keeps_the_order_of_the_classes_and_makes_the_first_surer(case, power):
    _, beliefs = case
    found = sharpened(beliefs, power)
    assert found.sum(axis=1) == pytest.approx(1.0) and np.isfinite(found).all()
    assert found.argmax(axis=1).tolist() == beliefs.argmax(axis=1).tolist()
    assert (found.max(axis=1) >= beliefs.max(axis=1) - 1e-6).all()
    assert sharpened(beliefs, 1.0) == pytest.approx(beliefs, abs=1e-6)


@given(voted(), st.randoms(use_true_random=False))
def test_the_order_of_the_sources_changes_no_risk(case, random):
    votes, beliefs = case
    names = list("abcd")[: votes.shape[1]]
    order = [0, *random.sample(range(1, votes.shape[1]), votes.shape[1] - 1)]  # the LLM stays the first
    before, after = (
        with_votes(beliefs, said[:, 0], said[:, 1:], refined(from_votes(said, kin, CLASSES), said, kin, beliefs), 1.5)
        for said, kin in ((votes, names), (votes[:, order], [names[j] for j in order])))
    assert after == pytest.approx(before, abs=1e-4)
    assert np.isfinite(before).all()


@given(voted(), st.floats(1, 5))
def test_probabilities_are_those_of_the_formula(case, power):
    votes, beliefs = case
    worth = from_beliefs(votes, list("abcd")[: votes.shape[1]], beliefs, beliefs)
    found = with_votes(beliefs, votes[:, 0], votes[:, 1:], worth, power)
    assert found.sum(axis=1) == pytest.approx(1.0) and (found >= 0).all()
    sure = posterior(worth, votes, sharpened(beliefs, power)) ** TEMPER
    assert found == pytest.approx((1 - POOLED) * sure / sure.sum(axis=1, keepdims=True) + POOLED * beliefs, abs=1e-6)


@given(voted(), st.floats(1, 5))
def test_without_answer_and_votes_the_classes_keep_the_order_of_the_beliefs(case, power):
    votes, beliefs = case
    worth = from_beliefs(votes, list("abcd")[: votes.shape[1]], beliefs, beliefs)
    silent = np.full_like(votes, -1)
    found = with_votes(beliefs, silent[:, 0], silent[:, 1:], worth, power)
    assert found.argmax(axis=1).tolist() == beliefs.argmax(axis=1).tolist()
    tempered = sharpened(beliefs, power * TEMPER)
    assert found == pytest.approx((1 - POOLED) * tempered + POOLED * beliefs, abs=1e-6)


def test_an_llm_that_is_always_right_is_trusted_more_than_one_that_guesses():
    truth = np.tile([0, 1], 500)
    beliefs = np.where(truth[:, None] == np.arange(2), 0.95, 0.05)
    unsure, nobody = np.full((1, 2), 0.5), np.empty((1, 0), dtype=np.int16)
    worths = [from_beliefs(says[:, None], ["LLM"], beliefs, beliefs) for says in (truth, np.tile([0, 0, 1, 1], 250))]
    right, guess = (with_votes(unsure, np.array([0]), nobody, worth, 1.0)[0, 0] for worth in worths)
    assert right > 0.85 and guess == pytest.approx(0.5, abs=0.02)


@given(voted(), st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_the_recalibrated_risk_is_the_curve_of_the_risk_and_other_classes_keep_their_proportions(case, values):
    votes, beliefs = case
    answers, curve = votes[:, 0], map_of(values)
    found = recalibrated(beliefs.astype(np.float64), answers, curve)
    before, after = risk(beliefs.astype(np.float64), answers), risk(found, answers)
    told = answers != -1
    assert after[told] == pytest.approx(curve.apply(before)[told], abs=1e-6)
    assert found.sum(axis=1) == pytest.approx(1.0, abs=1e-6) and (found >= 0).all() and np.isfinite(found).all()
    assert np.array_equal(found[~told], beliefs[~told])
    for row in np.flatnonzero(told):
        others = np.delete(beliefs[row], answers[row]).astype(np.float64), np.delete(found[row], answers[row])
        assert others[1] * others[0].sum() == pytest.approx(others[0] * others[1].sum(), abs=1e-6)
    order = np.argsort(before[told])
    assert (np.diff(after[told][order]) >= -1e-9).all()


def test_without_checked_answers_nothing_is_recalibrated_and_a_risk_of_nought_is_shared_out():
    sure = np.array([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3]])
    assert recalibrated(sure, np.array([0, -1]), Recalibration()) is sure
    found = recalibrated(sure, np.array([0, -1]), map_of([0.1, 0.9]))
    assert found[0] == pytest.approx([0.9, 0.05, 0.05]) and found[1].tolist() == sure[1].tolist()


def test_majority_vote_counts_the_llm_among_the_voters():
    votes = np.array([[0, 1, -1], [-1, -1, -1], [1, 1, 1], [0, 0, 0]])
    found = majority_vote_risk(np.array([0, 1, 0, -1]), votes)
    assert found[:3].tolist() == pytest.approx([1 / 3, 0, 3 / 4]) and np.isnan(found[3])
