import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import weighting
from training.figures import front_figure
from training.fit import FitConfig, Voted
from training.front import choose, directions, front_of, hypervolume, non_dominated
from training.sweep import FAMILIES, LLM_AND_SOURCES, fronts, trace
from training.table import read_table
from training.task import read_task

QUICK = FitConfig(harmonizer="linear", epochs=3, batch_size=16)


def points(least=1, most=6, objectives=(2, 4)):
    """Losses (p, G) on a grid, so that ties come up."""
    return st.integers(*objectives).flatmap(lambda g: st.lists(
        st.lists(st.integers(0, 4), min_size=g, max_size=g), min_size=least, max_size=most)).map(
            lambda rows: np.array(rows, dtype=float))


def by_grid(losses, reference):
    """The volume by counting the unit cells that a point dominates: exact for whole numbers."""
    cells = np.stack(np.meshgrid(*[np.arange(reference)] * losses.shape[1]), axis=-1).reshape(-1, losses.shape[1])
    return (cells[:, None] >= losses[None]).all(axis=2).any(axis=1).sum()


@given(points())
@settings(deadline=None)
def test_the_hypervolume_is_exact(losses):
    assert hypervolume(losses, np.full(losses.shape[1], 4.0)) == pytest.approx(by_grid(losses, 4))


def test_hypervolumes_worked_by_hand():
    reference = np.array([3.0, 3.0])
    assert hypervolume(np.array([[1.0, 2.0]]), reference) == 2
    assert hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), reference) == 3
    assert hypervolume(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]]), reference) == 3  # the last is dominated
    assert hypervolume(np.array([[3.0, 0.0], [5.0, 1.0]]), reference) == 0  # no better than the reference
    assert hypervolume(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=float), np.full(3, 2.0)) == 4


@given(points(least=2))
@settings(deadline=None)
def test_the_hypervolume_falls_with_no_further_point_and_with_no_better_one(losses):
    reference = np.full(losses.shape[1], 4.0)
    assert hypervolume(losses, reference) >= hypervolume(losses[1:], reference) - 1e-9
    assert hypervolume(losses - 0.5, reference) > hypervolume(losses, reference)
    assert hypervolume(losses[::-1], reference) == pytest.approx(hypervolume(losses, reference))


@given(points())
def test_a_point_is_dominated_if_another_is_no_worse_and_somewhere_better(losses):
    expected = [not any((q <= p).all() and (q < p).any() for q in losses) for p in losses]
    assert non_dominated(losses).tolist() == expected and any(expected)


@given(points(), st.randoms(use_true_random=False))
def test_the_choice_is_on_the_front_and_depends_on_no_order(losses, random):
    chosen = choose(losses)
    assert non_dominated(losses)[chosen] and choose(losses) == chosen
    order = random.sample(range(len(losses)), len(losses))
    again = losses[order][choose(losses[order])]
    assert again.mean() == pytest.approx(losses[chosen].mean())
    assert choose(np.concatenate([losses, losses[:1] + 5])) == chosen  # a dominated point has no say
    assert choose(10 * losses + 1) == chosen


def test_the_choice_by_hand():
    losses = np.array([[0.1, 0.9], [0.4, 0.5], [0.8, 0.2]])  # given up: (0, 1), (3/7, 3/7) and (1, 0)
    assert choose(losses) == 1
    assert choose(losses * [1, 100]) == 1
    assert choose(losses[:1]) == 0
    assert choose(np.column_stack([losses, [5.0, 5.0, 5.0]])) == 1  # what is the same everywhere does not decide


@pytest.mark.parametrize(("objectives", "count"), [(2, 11), (3, 16), (4, 11), (5, 16), (6, 13), (9, 19)])
def test_preferences_are_spread_over_the_simplex(objectives, count):
    found = directions(objectives)
    assert found.shape == (count, objectives)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found >= 0).all() and len(np.unique(found.round(9), axis=0)) == count
    assert np.isclose(found, 1 / objectives).all(axis=1).any() and (found.max(axis=0) == 1).all()


def voted(n=120, seed=0):
    """Two clouds; the LLM, two rules that see which, with noise, and a knowledge base that seldom votes."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, n)
    vectors = (random.normal(size=(n, 6)) + truth[:, None]).astype(np.float32)
    votes = np.stack([np.where(random.random(n) < wrong, 1 - truth, truth) for wrong in (0.3, 0.1, 0.2, 0.1)], axis=1)
    votes[random.random(n) < 0.8, 3] = -1
    return Voted(vectors, votes)


TRAIN, HELD_OUT = voted(), voted(60, seed=1)
BY_FAMILY = ["llm", "rule", "rule", "kb"]


def test_a_sweep_traces_both_fronts_and_is_the_same_for_a_seed():
    found = fronts(BY_FAMILY, TRAIN, HELD_OUT, 2, QUICK)
    again = fronts(BY_FAMILY, TRAIN, HELD_OUT, 2, QUICK)
    assert list(found) == [LLM_AND_SOURCES, FAMILIES]
    assert found[FAMILIES].objectives == ("llm", "rule", "kb")
    for name, front in found.items():
        assert json.dumps(front.as_dict(BY_FAMILY)) == json.dumps(again[name].as_dict(BY_FAMILY))
        assert 0 <= front.hypervolume <= 1 and front.reference == np.log(2)
        assert not front.points[front.chosen].dominated
        assert all(point.weights.sum() == pytest.approx(1) for point in front.points)
        assert front.weights is front.points[front.chosen].weights
    assert list(fronts(["llm", "rule", "rule", "rule"], TRAIN, HELD_OUT, 2, QUICK)) == [LLM_AND_SOURCES]


def test_who_is_preferred_is_met_better():
    apart = [Voted(rows.vectors, np.column_stack([rows.vectors[:, 0] > 2, rows.votes[:, 1:]]).astype(int))
             for rows in (TRAIN, HELD_OUT)]  # an LLM that seldom says 1
    front = trace(np.array([0, 1, 1, 1]), ("LLM", "others"), *apart, 2, FitConfig(epochs=15, learning_rate=0.01))
    ends = [next(p for p in front.points if p.preference[side] == 1) for side in (0, 1)]
    assert ends[0].weights.tolist() == [1, 0, 0, 0] and ends[1].weights[0] == 0
    assert ends[0].losses[0] < ends[1].losses[0] and ends[1].losses[1] < ends[0].losses[1]


def test_permuting_sources_permutes_the_weights_of_the_front():
    order = [0, 3, 1, 2]
    moved = [Voted(rows.vectors, rows.votes[:, order]) for rows in (TRAIN, HELD_OUT)]
    kinds = np.array([0, 1, 1, 2])
    first = trace(kinds, BY_FAMILY[1:], TRAIN, HELD_OUT, 2, QUICK)
    second = trace(kinds[order], BY_FAMILY[1:], *moved, 2, QUICK)
    assert first.chosen == second.chosen
    np.testing.assert_allclose(second.weights, first.weights[order])


def test_an_objective_that_never_votes_is_left_out_and_one_alone_has_no_front():
    silent = TRAIN.votes.copy()
    silent[:, 3] = -1
    train = Voted(TRAIN.vectors, silent)
    found = fronts(BY_FAMILY, train, HELD_OUT, 2, QUICK)
    assert found[FAMILIES].objectives == ("llm", "rule") and found[FAMILIES].weights[3] == 0
    assert fronts(["llm"] * 4, train, HELD_OUT, 2, QUICK) == {}
    unheld = Voted(HELD_OUT.vectors, np.where(np.arange(4) == 3, -1, HELD_OUT.votes))
    assert all(np.isfinite(p.losses).all() for p in fronts(BY_FAMILY, TRAIN, unheld, 2, QUICK)[FAMILIES].points)


def test_the_front_is_drawn_in_the_plane_and_across_many_objectives():
    random = np.random.default_rng(0)
    for objectives in (2, 5):
        preferences = directions(objectives)
        losses = random.random((len(preferences), objectives))
        names = [f"family ${place}" for place in range(objectives)]
        front = front_of(names, preferences, preferences, losses, 3)
        front_figure(front, "A front").canvas.draw()
    alone = front_of(["a", "b"], np.array([[0.5, 0.5]]), np.array([[0.5, 0.5]]), np.array([[0.2, 0.3]]), 2)
    assert alone.chosen == 0 and not alone.points[0].dominated
    front_figure(alone, "A front").canvas.draw()


@pytest.mark.parametrize("rule", weighting.FITTED)
def test_learned_weights_use_no_label(rule, tmp_path):
    found = []
    for shift in (0, 1):
        folder = tmp_path / str(shift)
        folder.mkdir()
        (folder / "task.toml").write_text(
            '[task]\nname = "mail"\nclasses = ["ham", "spam"]\n[data]\npath = "data.jsonl"\nlabel = "label"\n'
            '[[sources]]\nname = "friend"\n[[sources]]\nname = "foe"\nfamily = "others"\n')
        rows = [{"id": f"{i}", "text": f"mail {i}", "answer": int(vote[0]), "votes": vote[1:3].tolist(),
                 "label": (int(vote[0]) + i * shift) % 2} for i, vote in enumerate(TRAIN.votes)]
        (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
        task = read_task(folder)
        found.append(weighting.fitted_weights(rule, task, read_table(task), TRAIN.vectors, QUICK)[0])
    assert list(found[0]) == ["LLM", "friend", "foe"]
    assert found[0] == found[1] and sum(found[0].values()) == pytest.approx(1)
