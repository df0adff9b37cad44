import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.errors import InputError
from training.fit import FitConfig, Voted
from training.reweighting import REWEIGHTINGS, correlation, eigenvector, gradient_gramian, minimum_variance, reweighted

CLASSES = 3
RULES = list(REWEIGHTINGS)


def case(seed, n=60, m=5):
    """Votes (n, m) around a truth, and probabilities (n, K)."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, CLASSES, n)
    votes = np.where(random.random((n, m)) < random.random(m), random.integers(0, CLASSES, (n, m)), truth[:, None])
    votes[random.random((n, m)) < 0.3] = -1
    h = random.dirichlet(np.ones(CLASSES), n)
    return votes, h


def weights_of(rule, votes, h):
    return REWEIGHTINGS[rule](correlation(gradient_gramian(votes, h)))


def gradients(votes, h):
    """By automatic differentiation: (m, n * K)."""
    found = []
    for column in votes.T:
        logits = torch.from_numpy(h).log().requires_grad_()
        rows = np.flatnonzero(column >= 0)
        (-logits.log_softmax(dim=1)[rows, column[rows]]).sum().backward()
        found.append(logits.grad.flatten().numpy())
    return np.array(found)


@given(st.integers(0, 10**6))
@settings(deadline=None)
def test_the_gramian_is_that_of_the_gradients_by_the_logits_and_the_cosine_their_correlation(seed):
    votes, h = case(seed)
    expected = gradients(votes, h)
    found = gradient_gramian(votes, h)
    np.testing.assert_allclose(found, expected @ expected.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(correlation(found), np.corrcoef(expected), atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_permuting_sources_permutes_weights(rule, seed, random):
    votes, h = case(seed)
    order = random.sample(range(5), 5)
    np.testing.assert_allclose(weights_of(rule, votes[:, order], h), weights_of(rule, votes, h)[order], atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
@given(st.integers(0, 10**6))
@settings(deadline=None)
def test_weights_are_at_least_0_and_sum_to_1_and_a_source_without_votes_gets_none(rule, seed):
    votes, h = case(seed)
    votes[:, 2] = -1
    found = weights_of(rule, votes, h)
    assert (found >= 0).all() and found.sum() == pytest.approx(1) and found[2] == 0


@given(st.integers(0, 10**6), st.integers(2, 10))
@settings(deadline=None)
def test_copies_of_a_source_share_its_weight_under_minimum_variance(seed, copies):
    votes, h = case(seed)
    alone = weights_of("minimum_variance", votes, h)
    found = weights_of("minimum_variance", np.column_stack([votes, *[votes[:, 0]] * (copies - 1)]), h)
    shares = found[[0, *range(5, 4 + copies)]]
    np.testing.assert_allclose(shares, shares.mean(), atol=1e-5)
    assert shares.sum() == pytest.approx(alone[0], abs=0.02)  # as the ridge has it, a little more
    np.testing.assert_allclose(found[1:5], alone[1:], atol=0.02)


@pytest.mark.parametrize("rule", RULES)
def test_sources_without_any_overlap_count_the_same(rule):
    votes = np.where(np.arange(60)[:, None] % 4 == np.arange(4), 1, -1)
    np.testing.assert_allclose(weights_of(rule, votes, np.full((60, CLASSES), 1 / CLASSES)), 0.25, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_where_nobody_votes_weights_are_uniform(rule):
    assert weights_of(rule, np.full((5, 2), -1), np.full((5, CLASSES), 1 / CLASSES)).tolist() == [0.5, 0.5]


def test_values_worked_by_hand():
    pair = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(minimum_variance(pair, ridge=0), [2 / 7, 2 / 7, 3 / 7], atol=1e-6)
    np.testing.assert_allclose(eigenvector(pair), [0.5, 0.5, 0], atol=1e-6)  # it follows those who agree
    against = np.array([[1, 0.6, -0.5], [0.6, 1, -0.5], [-0.5, -0.5, 1]])
    assert eigenvector(against)[2] == 0 and minimum_variance(against)[2] > 1 / 3


@pytest.mark.parametrize("rule", RULES)
def test_weights_come_from_a_first_fit_and_are_the_same_for_a_seed(rule):
    votes, _ = case(1)
    rows = Voted(np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32), votes)
    found = [reweighted(rule, rows, rows, CLASSES, FitConfig(epochs=2, scalariser="mgda")) for _ in range(2)]
    assert found[0].tobytes() == found[1].tobytes() and found[0].sum() == pytest.approx(1)
    silent = Voted(rows.vectors, np.full_like(votes, -1))
    with pytest.raises(InputError, match="no source"):
        reweighted(rule, silent, rows, CLASSES, FitConfig())
