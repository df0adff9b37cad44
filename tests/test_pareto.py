import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.pareto import SCALARISERS, family_weights, source_losses, uniform_weights, vote_table

CLASSES = 4
KINDS = ["linear", "quadratic", "euclidean", "chebyshev"]


@st.composite
def voted(draw):
    """Votes (n, m), weights (m,) that float32 holds exactly, and log-probabilities (n, K) in float64."""
    n, m = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    votes = draw(st.lists(st.integers(-1, CLASSES - 1), min_size=n * m, max_size=n * m))
    weights = draw(st.lists(st.integers(0, 16).map(lambda k: k / 8), min_size=m, max_size=m))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    log_h = torch.from_numpy(random.normal(size=(n, CLASSES))).log_softmax(dim=1)
    return np.array(votes).reshape(n, m), np.array(weights), log_h


def by_table(kind, votes, weights, log_h):
    scalariser = SCALARISERS[kind]
    table = torch.from_numpy(vote_table(votes, weights, CLASSES, scalariser.gather)).double()
    return scalariser.combine(table, -log_h)


def by_loop(kind, votes, weights, log_h):
    """The definition, a row and a source at a time."""
    rows = []
    for row, said in enumerate(votes):
        losses = [weights[j] * -log_h[row, vote] for j, vote in enumerate(said) if vote >= 0 and weights[j] > 0]
        if not losses:
            rows.append(0.0 * log_h[row, 0])
            continue
        weighted = torch.stack(losses)
        rows.append({"linear": weighted.sum, "quadratic": lambda w=weighted: w.sum() ** 2,
                     "euclidean": lambda w=weighted: w.square().sum().sqrt(), "chebyshev": weighted.max}[kind]())
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
@given(voted())
def test_the_table_gives_the_loss_and_the_gradient_of_the_loop(kind, case):
    votes, weights, log_h = case
    found, expected = [], []
    for way, kept in ((by_table, found), (by_loop, expected)):
        leaf = log_h.clone().requires_grad_()
        loss = way(kind, votes, weights, leaf)
        loss.mean().backward()
        kept += [loss.detach(), leaf.grad]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@given(voted(), st.randoms(use_true_random=False))
def test_permuting_sources_permutes_weights(kind, case, random):
    votes, weights, log_h = case
    order = random.sample(range(len(weights)), len(weights))
    found = by_table(kind, votes[:, order], weights[order], log_h)
    torch.testing.assert_close(found, by_table(kind, votes, weights, log_h), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_where_all_abstain_adds_no_loss_and_no_gradient(kind):
    log_h = torch.randn(3, CLASSES, dtype=torch.float64).log_softmax(dim=1).requires_grad_()
    loss = by_table(kind, np.array([[0, 1], [-1, -1], [2, -1]]), np.array([0.5, 0.5]), log_h)
    loss.sum().backward()
    assert loss[1] == 0 and (log_h.grad[1] == 0).all()
    assert log_h.grad.isfinite().all() and log_h.grad[0].abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_vote_met_exactly_has_no_loss_and_a_finite_gradient(kind):
    logits = torch.tensor([[200.0, 0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = by_table(kind, np.array([[0, 0]]), np.array([1.0, 0.5]), logits.log_softmax(dim=1))
    loss.sum().backward()
    assert loss.item() == 0 and logits.grad.isfinite().all()


@given(voted(), st.data())
def test_a_copy_of_a_source_changes_nothing_under_chebyshev(case, data):
    votes, weights, log_h = case
    copied = data.draw(st.integers(0, len(weights) - 1))
    twice = np.column_stack([votes, votes[:, copied]]), np.append(weights, weights[copied])
    assert torch.equal(by_table("chebyshev", *twice, log_h), by_table("chebyshev", votes, weights, log_h))


@pytest.mark.parametrize("kind", KINDS)
@given(voted(), st.integers(1, 8))
def test_weights_scale_the_loss(kind, case, factor):
    votes, weights, log_h = case
    scale = factor**2 if kind == "quadratic" else factor
    torch.testing.assert_close(by_table(kind, votes, factor * weights, log_h),
                               scale * by_table(kind, votes, weights, log_h), rtol=1e-6, atol=0)


@given(voted())
def test_source_losses_are_those_of_the_loop(case):
    votes, _, log_h = case
    expected = [sum(-log_h[row, vote].item() for row, vote in enumerate(column) if vote >= 0) / len(votes)
                for column in votes.T]
    assert source_losses(votes, log_h.numpy()) == pytest.approx(expected)


def test_values_worked_by_hand():
    log_h = torch.tensor([[0.5, 0.25, 0.25, 0.0]], dtype=torch.float64).log()
    votes, weights = np.array([[0, 1, 1]]), np.array([0.5, 0.25, 0.25])
    log2 = np.log(2)  # ℓ = log 2, 2 log 2, 2 log 2; w ℓ = ½ log 2 three times
    log_h[0, 3] = -50.0
    for kind, expected in {"linear": 1.5 * log2, "quadratic": (1.5 * log2) ** 2,
                           "euclidean": np.sqrt(0.75) * log2, "chebyshev": 0.5 * log2}.items():
        assert by_table(kind, votes, weights, log_h).item() == pytest.approx(expected, rel=1e-6), kind


def test_uniform_weights_sum_to_one():
    assert uniform_weights(4).tolist() == [0.25] * 4


@pytest.mark.parametrize("weights", [[1.0], [1.0, -0.1], [1.0, np.nan], [1.0, np.inf]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match="Pareto weights should be 2 finite numbers"):
        vote_table(np.array([[0, 1]]), np.array(weights), 2, "sum")


def test_the_llm_asked_differently_counts_as_one_voter():
    assert family_weights(["a", "a", "b", "b", "a"]).tolist() == pytest.approx([1 / 9, 1 / 9, 1 / 3, 1 / 3, 1 / 9])
    assert family_weights(["a", "b", "c"]).tolist() == uniform_weights(3).tolist()
