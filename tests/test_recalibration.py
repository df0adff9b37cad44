import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from training.calibration import ece
from training.recalibration import Recalibration, believed_threshold, fit_recalibration, posterior

RISKS = np.linspace(0, 1, 101)


def test_without_labels_it_is_the_identity():
    found = fit_recalibration(np.empty(0), np.empty(0))
    assert found == Recalibration() and (found.apply(RISKS) == RISKS).all()
    assert np.isnan(found.apply(np.array([np.nan]))).all()


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_it_keeps_the_order_and_stays_inside(labels):
    risk, wrong = np.array(labels, dtype=float).T
    found = fit_recalibration(risk, wrong)
    mapped = found.apply(RISKS)
    assert (np.diff(mapped) >= 0).all() and mapped.min() > 0 and mapped.max() < 1
    assert found.mean_low <= found.mean_risk <= found.mean_high
    assert all(low <= middle <= high for _, middle, low, high in found.curve)


def test_labels_that_contradict_each_other_pull_to_the_middle():
    risk = np.tile([0.02, 0.98], 40)
    mapped = fit_recalibration(risk, np.tile([0.0, 0.0, 1.0, 1.0], 20)).apply(np.array([0.02, 0.98]))
    assert 0.3 < mapped[0] <= mapped[1] < 0.7


@pytest.mark.parametrize("n", [1, 10, 100])
def test_all_right_lowers_the_risk_but_not_to_nothing(n):
    mapped = fit_recalibration(np.full(n, 0.3), np.zeros(n)).apply(np.array([0.3]))[0]
    assert 1 / (n + 2) / 2 < mapped < 0.3


def test_more_labels_leave_less_doubt_and_find_the_truth():
    generator = np.random.default_rng(0)
    risk = generator.random(4000)
    wrong = (generator.random(4000) < 0.2 + 0.3 * risk).astype(float)
    few, many = (fit_recalibration(risk[:n], wrong[:n]) for n in (25, 2000))
    assert many.mean_high - many.mean_low < (few.mean_high - few.mean_low) / 3
    assert many.mean_low < 0.35 < many.mean_high
    rest = slice(2000, None)
    assert ece(many.apply(risk[rest]), wrong[rest]) < 0.04 < ece(risk[rest], wrong[rest])


def test_weights_count():
    risk, wrong = np.full(40, 0.5), np.repeat([0.0, 1.0], 20)
    heavy = fit_recalibration(risk, wrong, np.repeat([1.0, 4.0], 20)).apply(np.array([0.5]))[0]
    assert heavy > fit_recalibration(risk, wrong).apply(np.array([0.5]))[0] + 0.1
    same = fit_recalibration(risk, wrong, np.full(40, 7.0))
    assert np.allclose(same.values, fit_recalibration(risk, wrong).values)


def test_weights_never_make_more_labels_than_there_are():
    risk, wrong = np.full(40, 0.3), np.zeros(40)
    plain, weighted = (posterior(risk, wrong, weight) for weight in (None, np.r_[1000.0, np.ones(39)]))
    assert plain.weight @ plain.shift < weighted.weight @ weighted.shift  # one effective label moves it less


def test_through_json_and_back():
    found = fit_recalibration(np.array([0.1, 0.9]), np.array([0.0, 1.0]), pool=np.array([0.2, np.nan]))
    assert TypeAdapter(Recalibration).validate_json(json.dumps(asdict(found))) == found
    summary = json.loads(json.dumps(found.summary()))
    assert summary["mean_risk"] == found.mean_risk and summary["interval"] == [found.mean_low, found.mean_high]
    assert summary["curve"][0] == dict(zip(("risk", "recalibrated", "low", "high"), found.curve[0], strict=True))
    assert "by 2 checked answers" in found.words and f"{found.mean_risk:.1%}" in found.words
    assert Recalibration().summary() is None and Recalibration().words == ""


def test_bad_labels_are_refused():
    with pytest.raises(ValueError, match="risk should lie in"):
        fit_recalibration(np.array([np.nan]), np.array([0.0]))
    with pytest.raises(ValueError, match="weight should be above 0"):
        fit_recalibration(np.array([0.5]), np.array([0.0]), np.array([0.0]))


def test_the_believed_threshold_follows_the_labels():
    pool = np.linspace(0.001, 0.999, 999)
    generator = np.random.default_rng(1)
    wrong = (generator.random(999) < pool).astype(float)
    t = believed_threshold(posterior(pool, wrong), pool, 0.1, 0.1)
    assert t is not None and 0.1 < t < 0.2  # the mean risk below t is t / 2
    assert believed_threshold(posterior(pool, np.ones(999)), pool, 0.1, 0.1) is None
