import sys
import types
import warnings

import numpy as np
import pytest

from monitoring import weighing
from monitoring.decomposition import decompose
from monitoring.smooth import smooth_ece, smooth_error
from training import calibration


def answers(n: int, seed: int, shift: float = 0.0, decimals: int = 12) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    risk = np.round(generator.beta(2, 4, n), decimals)
    return risk, (generator.random(n) < np.clip(risk + shift, 0, 1)).astype(float)


@pytest.mark.parametrize(("n", "shift"), [(50, 0.0), (200, 0.0), (1000, 0.1), (5000, -0.1), (20000, 0.05)])
def test_it_is_the_one_of_relplot(monkeypatch, n, shift):
    if "seaborn" not in sys.modules:
        monkeypatch.setitem(sys.modules, "seaborn", types.ModuleType("seaborn"))  # which its plots alone need
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        relplot = pytest.importorskip("relplot")
        risk, error = answers(n, seed=n, shift=shift)
        expected = relplot.smECE(risk, error)
    assert smooth_ece(risk, error) == pytest.approx(expected, abs=1.5e-3)


def test_where_all_have_one_risk_it_is_the_gap():
    """Smoothing moves nothing from one sign to another: ∫|…| = |r − e| at any width."""
    assert smooth_ece(np.full(10, 0.3), np.array([1.0] * 7 + [0.0] * 3)) == pytest.approx(0.4, abs=1e-4)
    assert smooth_ece(np.zeros(4), np.ones(4)) == pytest.approx(1.0, abs=1e-4)  # at the edge, too
    assert smooth_ece(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == pytest.approx(0.0, abs=1e-4)


def test_a_row_of_weight_two_is_two_rows():
    risk, error = answers(300, seed=1)
    weight = np.random.default_rng(0).integers(1, 4, 300)
    repeated = np.repeat(np.arange(300), weight)
    assert smooth_ece(risk, error, weight.astype(float)) == pytest.approx(smooth_ece(risk[repeated], error[repeated]))
    for name in ("ece", "auroc", "aurc"):
        measure = getattr(weighing, name)
        assert measure(risk, error, weight.astype(float)) == pytest.approx(
            measure(risk[repeated], error[repeated], np.ones(len(repeated))),
            abs=5e-3 if name == "aurc" else 1e-9)  # whose sum takes a step a row
    assert decompose(risk, error, weight.astype(float)).score == pytest.approx(
        decompose(risk[repeated], error[repeated], np.ones(len(repeated))).score)


def test_its_order_and_the_scale_of_weights_do_not_matter():
    risk, error = answers(500, seed=2)
    order = np.random.default_rng(0).permutation(500)
    weight = np.random.default_rng(1).random(500) + 0.1
    assert smooth_ece(risk[order], error[order], weight[order]) == pytest.approx(smooth_ece(risk, error, weight * 7))


@pytest.mark.parametrize(("shift", "truth"), [(0.0, 0.0), (0.15, 0.15)])
def test_the_interval_covers_the_truth(shift, truth):
    covered = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        risk = 0.1 + 0.6 * generator.random(400)
        error = (generator.random(400) < risk + shift).astype(float)
        found = smooth_error(risk, error, seed=seed, cells=256)
        assert 0 <= found.low <= found.value <= found.high
        covered += found.low <= truth <= found.high
    assert covered >= 54  # of 60, at 95 %, fewer than 54 come once in a hundred times


def test_the_interval_is_the_same_again_and_narrows():
    risk, error = answers(400, seed=3, shift=0.1)
    many = answers(40_000, seed=3, shift=0.1)
    assert smooth_error(risk, error) == smooth_error(risk, error)
    wide, narrow = smooth_error(risk, error), smooth_error(*many)
    assert narrow.high - narrow.low < (wide.high - wide.low) / 4


@pytest.mark.parametrize("n", [1, 2, 40, 1000])
def test_the_parts_of_the_brier_score_sum_to_it(n):
    risk, error = answers(n, seed=4, shift=0.1)
    weight = np.random.default_rng(0).random(n) + 0.05
    parts = decompose(risk, error, weight)
    assert parts.reliability - parts.resolution + parts.uncertainty + parts.within == pytest.approx(parts.score)
    assert parts.score == pytest.approx(np.average((risk - error) ** 2, weights=weight))


def test_without_spread_in_the_bins_the_parts_are_murphys():
    """By hand: risks 0.25 (of 4, 1 wrong) and 0.75 (of 4, 2 wrong): reliability ½ 0.25², resolution 0.125²."""
    parts = decompose(np.repeat([0.25, 0.75], 4), np.array([1, 0, 0, 0, 1, 1, 0, 0.0]), np.ones(8))
    assert (parts.reliability, parts.resolution, parts.uncertainty, parts.within) == pytest.approx(
        (0.03125, 0.015625, 15 / 64, 0))


@pytest.mark.parametrize("decimals", [1, 3, 12])
@pytest.mark.parametrize("n", [1, 2, 7, 50, 777, 5000])
def test_with_equal_weights_measures_are_those_of_calibration(n, decimals):
    risk, error = answers(n, seed=5, decimals=decimals)
    weight = np.full(n, 3.0)
    for name in ("ece", "auroc", "aurc", "r2"):
        expected = getattr(calibration, name)(risk, error)
        assert getattr(weighing, name)(risk, error, weight) == (
            None if expected is None else pytest.approx(expected, abs=1e-9)), name
    bins = weighing.reliability(risk, error, weight)
    columns = ["low", "high", "n", "mean_risk", "error_rate"]
    np.testing.assert_allclose(bins[columns], calibration.reliability(risk, error)[columns])
    assert (bins["error_low"] <= bins["error_rate"]).all() and (bins["error_rate"] <= bins["error_high"]).all()


def test_weights_undo_how_answers_were_drawn():
    risk, error = answers(200_000, seed=6, shift=0.1)
    probability = 0.02 + 0.9 * risk
    drawn = np.random.default_rng(0).random(len(risk)) < probability
    kept = risk[drawn], error[drawn], 1 / probability[drawn]
    for name in ("ece", "auroc", "aurc"):
        whole = getattr(weighing, name)(risk, error, np.ones(len(risk)))
        assert getattr(weighing, name)(*kept) == pytest.approx(whole, abs=0.015), name
    assert abs(weighing.aurc(*kept[:2], np.ones(drawn.sum())) - weighing.aurc(risk, error, np.ones(len(risk)))) > 0.05


def test_the_interval_of_a_rate_is_clopper_and_pearsons_and_holds_the_rate():
    rate, low, high = weighing.rates(np.array([0] * 10 + [1] * 4), np.array([1.0, *[0] * 9, *[1] * 4]), np.ones(14), 3)
    assert rate[:2] == pytest.approx([0.1, 1.0]) and np.isnan(rate[2])
    assert (low[0], high[0]) == pytest.approx((0.0025286, 0.4450161), abs=1e-6)  # as R's binom.test(1, 10) says
    assert (low[1], high[1]) == pytest.approx((0.3976354, 1.0), abs=1e-6)
    assert (low[2], high[2]) == (0.0, 1.0)
