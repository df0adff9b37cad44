import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.aggregation import AGGREGATORS, descend, objective_losses, objective_table, objectives_of
from training.harmonizer import make_harmonizer
from training.pareto import vote_table

KINDS = list(AGGREGATORS)
CLASSES = 3


def gradient(table, vectors, kind, seed=0):
    """The aggregated gradient, one vector, of a harmonizer's parameters in float64."""
    harmonizer = make_harmonizer("linear", vectors.shape[1], CLASSES, seed).double()
    parameters = list(harmonizer.parameters())
    log_h = harmonizer(torch.from_numpy(vectors))
    if kind == "linear":
        objective_losses(table, log_h).sum().backward()
    else:
        descend(table, log_h, parameters, AGGREGATORS[kind]())
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])


def each_gradient(table, vectors):
    return [gradient(table[:, [kind]], vectors, "linear") for kind in range(table.shape[1])]


@st.composite
def cases(draw, objectives=(1, 4)):
    """A table (n, G, K) in which some objectives are silent, and vectors (n, 4)."""
    n, kinds = draw(st.integers(1, 8)), draw(st.integers(*objectives))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    table = random.random((n, kinds, CLASSES)) * (random.random((n, kinds, CLASSES)) < 0.4)
    table[:, random.random(kinds) < 0.2] = 0
    return torch.from_numpy(table), random.normal(size=(n, 4))


@pytest.mark.parametrize("kind", KINDS)
@given(cases(objectives=(1, 1)), st.integers(1, 4))
@settings(deadline=None)
def test_identical_objectives_give_their_gradient(kind, case, copies):
    table, vectors = case
    found = gradient(table.repeat(1, copies, 1), vectors, kind)
    torch.testing.assert_close(found, gradient(table, vectors, "linear"), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@given(cases())
@settings(deadline=None)
def test_a_step_raises_no_objective(kind, case):
    table, vectors = case
    found = gradient(table, vectors, kind)
    size = max([*(float(each.norm()) for each in each_gradient(table, vectors)), 1e-12])
    for each in each_gradient(table, vectors):
        assert float(each @ found) >= -0.05 * size**2  # Frank and Wolfe stop early, the projection is regularised


@pytest.mark.parametrize("kind", KINDS)
@given(cases())
@settings(deadline=None)
def test_an_objective_without_a_vote_in_the_batch_changes_nothing(kind, case):
    table, vectors = case
    silent = torch.zeros(len(table), 1, CLASSES, dtype=torch.float64)
    found = gradient(torch.cat([table, silent], dim=1), vectors, kind)
    assert found.isfinite().all()
    torch.testing.assert_close(found, gradient(table, vectors, kind))


@pytest.mark.parametrize("kind", KINDS)
@given(cases(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_objectives_does_not_matter(kind, case, random):
    table, vectors = case
    order = random.sample(range(table.shape[1]), table.shape[1])
    torch.testing.assert_close(gradient(table[:, order], vectors, kind), gradient(table, vectors, kind),
                               rtol=0.02, atol=0.02)  # ties in Frank and Wolfe's choice


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_any_vote_leaves_no_gradient(kind):
    assert (gradient(torch.zeros(3, 2, CLASSES, dtype=torch.float64), np.ones((3, 4)), kind) == 0).all()


def test_where_nothing_conflicts_upgrad_is_the_mean_of_the_gradients():
    table = torch.zeros(2, 2, CLASSES, dtype=torch.float64)
    table[0, 0, 0] = table[1, 1, 0] = 1.0  # both for the same class, each on a row with inputs of its own
    vectors = np.eye(2, 4)
    found = gradient(table, vectors, "upgrad")
    one, other = each_gradient(table, vectors)
    assert float(one @ other) > 0
    torch.testing.assert_close(found, (one + other) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_opposite_objectives_leave_no_direction(kind):
    table = torch.zeros(1, 2, CLASSES, dtype=torch.float64)
    table[0, 0, 0] = table[0, 1, 1] = 1.0
    one = torch.tensor([[0.5, 0.5, 1e-300]], dtype=torch.float64).log().requires_grad_()  # between the two votes
    descend(table, one.log_softmax(dim=1), [one], AGGREGATORS[kind]())
    assert one.grad.abs().max() < 1e-6


@given(st.integers(0, 10**6))
def test_the_objectives_add_up_to_linear(seed):
    random = np.random.default_rng(seed)
    votes, weights = random.integers(-1, CLASSES, (9, 5)), random.random(5)
    table = objective_table(votes, weights, CLASSES, np.array([0, 1, 0, 2, 1]))
    assert table.shape == (9, 3, CLASSES) and table.dtype == np.float32
    np.testing.assert_allclose(table.sum(axis=1), vote_table(votes, weights, CLASSES, "sum"), rtol=1e-6)


def test_a_family_is_an_objective_and_the_llm_is_in_its_own():
    assert objectives_of(["llm", "rules", "llm", "kb", "rules"]).tolist() == [0, 1, 0, 2, 1]
    assert objectives_of(["llm", "a", "b", "llm", "c"], most=3).tolist() == [0, 1, 1, 0, 1]
    assert objectives_of(["llm"]).tolist() == [0]


@pytest.mark.parametrize("kind", KINDS)
@given(cases(), st.sampled_from([1e-3, 0.5, 8.0]))
@settings(deadline=None)
def test_weights_scale_the_objectives_and_all_of_them_the_step(kind, case, factor):
    table, vectors = case
    found = gradient(factor * table, vectors, kind)
    torch.testing.assert_close(found, factor * gradient(table, vectors, kind), rtol=1e-3, atol=1e-3 * factor)


def test_the_shortest_vector_by_hand():
    """Of two orthogonal gradients a and 2a, 4/5 of the first and 1/5 of the second: it listens to the small one."""
    first = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    log_h = torch.stack([first[:1], first[1:]])
    table = torch.tensor([[[2.0], [0.0]], [[0.0], [4.0]]], dtype=torch.float64)
    descend(table, log_h, [first], AGGREGATORS["mgda"]())
    torch.testing.assert_close(first.grad, torch.tensor([-0.8, -0.4], dtype=torch.float64), rtol=1e-3, atol=1e-3)
