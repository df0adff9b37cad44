import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.risk import majority_vote_risk, risk, vote_chances, with_votes

CLASSES = 3


@st.composite
def voted(draw):
    """Votes (n, m), m of at least 1, and beliefs (n, K)."""
    n, m = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    votes = draw(arrays(np.int16, (n, m), elements=st.integers(-1, CLASSES - 1)))
    beliefs = np.random.default_rng(draw(st.integers(0, 1000))).dirichlet(np.ones(CLASSES), n).astype(np.float32)
    return votes, beliefs


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


@given(voted())
def test_chances_of_each_true_class_sum_to_one_and_none_is_zero(case):
    chances = vote_chances(*case)
    assert chances.shape == (case[0].shape[1], CLASSES, CLASSES)
    assert chances.sum(axis=1) == pytest.approx(1.0, abs=1e-5) and (chances > 0).all()


@given(voted())
def test_probabilities_sum_to_one_and_without_answer_and_votes_are_the_beliefs(case):
    votes, beliefs = case
    chances = vote_chances(votes, beliefs)
    found = with_votes(beliefs, votes[:, 0], votes[:, 1:], chances)
    assert found.sum(axis=1) == pytest.approx(1.0) and (found >= 0).all()
    silent = np.full_like(votes, -1)
    assert with_votes(beliefs, silent[:, 0], silent[:, 1:], chances) == pytest.approx(beliefs, abs=1e-6)


@given(voted(), st.randoms(use_true_random=False))
def test_the_order_of_sources_changes_nothing(case, random):
    votes, beliefs = case
    order = [0, *random.sample(range(1, votes.shape[1]), votes.shape[1] - 1)]  # the LLM stays the first
    chances = vote_chances(votes, beliefs)
    assert vote_chances(votes[:, order], beliefs) == pytest.approx(chances[order])
    moved = with_votes(beliefs, votes[:, 0], votes[:, order][:, 1:], chances[order])
    assert moved == pytest.approx(with_votes(beliefs, votes[:, 0], votes[:, 1:], chances))


@given(voted())
def test_votes_are_weighed_as_the_formula_says(case):
    votes, beliefs = case
    chances = vote_chances(votes, beliefs).astype(np.float64)
    found = with_votes(beliefs, votes[:, 0], votes[:, 1:], chances)
    for row, said in enumerate(votes):
        spoken = [(j, v) for j, v in enumerate(said) if v >= 0]
        likely = np.prod([chances[j, v] for j, v in spoken], axis=0) if spoken else np.ones(CLASSES)
        posterior = beliefs[row] * likely ** (1 / np.sqrt(max(len(spoken), 1)))
        n = sum(j > 0 for j, _ in spoken)
        share = np.array([sum(v == k for j, v in spoken if j > 0) for k in range(CLASSES)]) / max(n, 1)
        b = n / (n + 1) / 2
        assert found[row] == pytest.approx((1 - b) * posterior / posterior.sum() + b * share, abs=1e-6)


def test_an_llm_that_is_always_right_is_trusted_more_than_one_that_guesses():
    truth = np.tile([0, 1], 50)
    beliefs = np.where(truth[:, None] == np.arange(2), 0.95, 0.05).astype(np.float32)
    unsure, nobody = np.full((1, 2), 0.5), np.empty((1, 0), dtype=np.int16)
    right, guess = (with_votes(unsure, np.array([0]), nobody, vote_chances(says[:, None], beliefs))[0, 0]
                    for says in (truth, np.tile([0, 0, 1, 1], 25)))
    assert right > 0.9 and guess == pytest.approx(0.5, abs=0.01)


def test_majority_vote_counts_the_llm_among_the_voters():
    votes = np.array([[0, 1, -1], [-1, -1, -1], [1, 1, 1], [0, 0, 0]])
    found = majority_vote_risk(np.array([0, 1, 0, -1]), votes)
    assert found[:3].tolist() == pytest.approx([1 / 3, 0, 3 / 4]) and np.isnan(found[3])
