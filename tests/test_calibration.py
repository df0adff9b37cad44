import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from training.calibration import aurc, auroc, brier, ece, measures, r2, reliability, risk_coverage, riskiest_share
from training.risk import majority_vote_risk
from training.table import read_table
from training.task import ABSTAIN, read_task

# Risks on a coarse grid are tied often and lie on the edges of bins; noise below 1e-9 does not untie them.
coarse = st.integers(0, 20).map(lambda k: k / 20)
fine = st.integers(0, 10**6).map(lambda k: k / 10**6)
rows = st.lists(st.tuples(st.one_of(coarse, fine), st.booleans()), min_size=1, max_size=60)
answered = rows.map(lambda pairs: (np.array([r for r, _ in pairs]), np.array([float(e) for _, e in pairs])))


def slow_ece(risk, error):
    total = 0.0
    for b in range(10):
        held = [i for i, r in enumerate(risk) if b / 10 <= r < (b + 1) / 10 or (b == 9 and r == 1)]
        if held:
            gap = sum(risk[i] for i in held) / len(held) - sum(error[i] for i in held) / len(held)
            total += len(held) / len(risk) * abs(gap)
    return total


def slow_auroc(risk, error):
    rounded = [round(r, 9) for r in risk]
    pairs = [(p, q) for p, e in zip(rounded, error, strict=True) if e
             for q, f in zip(rounded, error, strict=True) if not f]
    return sum((p > q) + (p == q) / 2 for p, q in pairs) / len(pairs) if pairs else None


def slow_aurc(risk, error):
    rounded = [round(r, 9) for r in risk]
    shared = {r: np.mean([e for s, e in zip(rounded, error, strict=True) if s == r]) for r in rounded}
    in_order = [shared[r] for r in sorted(rounded)]
    return np.mean([np.mean(in_order[:k]) for k in range(1, len(in_order) + 1)])


def slow_r2(risk, error):
    """Of rows that are in the falling order of their risk already."""
    width = math.isqrt(len(risk))
    bins = [slice(start, start + width) for start in range(0, len(risk) - width + 1, width)]
    x, y = [np.mean(risk[b]) for b in bins], [np.mean(error[b]) for b in bins]
    return np.corrcoef(x, y)[0, 1] ** 2


@given(answered)
def test_measures_are_those_of_the_formulas(both):
    risk, error = both
    assert ece(risk, error) == pytest.approx(slow_ece(risk, error), abs=1e-12)
    assert auroc(risk, error) == pytest.approx(slow_auroc(risk, error))
    assert aurc(risk, error) == pytest.approx(slow_aurc(risk, error))
    assert brier(risk, error) == pytest.approx(sum((r - e) ** 2 for r, e in zip(risk, error, strict=True)) / len(risk))


@given(st.lists(st.booleans(), min_size=4, max_size=80), st.randoms(use_true_random=False))
def test_r2_without_ties_is_that_of_the_formula(errors, random):
    risk = np.array(sorted(random.sample(range(1000), len(errors)), reverse=True)) / 1000
    error = np.array(errors, dtype=float)
    width = math.isqrt(len(error))
    assume(np.ptp(error[: len(error) // width * width].reshape(-1, width).mean(axis=1)) > 0)
    assert r2(risk, error) == pytest.approx(slow_r2(risk, error))


def test_r2_drops_the_last_incomplete_bin():
    risk, error = np.arange(11)[::-1] / 20, np.array([1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0], dtype=float)
    assert r2(risk, error) == r2(risk[:9], error[:9])


def test_r2_with_ties_is_the_mean_over_twenty_of_their_orders():
    random, away = np.random.default_rng(1), []
    for _ in range(40):
        risk = random.integers(0, 5, 100) / 10
        error = (random.random(100) < risk).astype(float)
        orders = [np.lexsort((random.random(100), -risk)) for _ in range(100)]
        every = [slow_r2(risk[order], error[order]) for order in orders]
        away.append((r2(risk, error) - np.mean(every)) / np.std(every))
        assert r2(risk, error) == r2(risk, error)
    assert 0 < np.sqrt(np.mean(np.square(away))) < 2 / math.sqrt(20)  # a mean of 20 strays 1/√20 as far as one order


@given(answered, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(both, random):
    risk, error = both
    order = random.sample(range(len(risk)), len(risk))
    assert measures(risk[order], error[order]) == pytest.approx(measures(risk, error), nan_ok=False)


@given(answered)
def test_noise_below_the_rounding_leaves_ties_tied(both):
    risk, error = both
    assume(((risk > 0) & (risk < 1)).all())
    noisy = risk + np.linspace(-1e-11, 1e-11, len(risk))
    assert auroc(noisy, error) == auroc(risk, error)
    assert aurc(noisy, error) == aurc(risk, error)
    assert r2(noisy, error) == pytest.approx(r2(risk, error), abs=1e-6)


@given(answered)
def test_measures_agree_with_scikit_learn(both):
    risk, error = both
    assume(0 < error.sum() < len(error))
    assert auroc(risk, error) == pytest.approx(roc_auc_score(error, risk))
    assert brier(risk, error) == pytest.approx(brier_score_loss(error, risk))


@given(answered)
def test_the_pictures_show_what_the_measures_say(both):
    risk, error = both
    bins = reliability(risk, error)
    assert bins["n"].sum() == len(risk)
    assert (bins["n"] * (bins["mean_risk"] - bins["error_rate"]).abs()).sum() / len(risk) == pytest.approx(
        ece(risk, error), abs=1e-12)
    assert risk_coverage(risk, error).mean() == pytest.approx(aurc(risk, error))
    assert risk_coverage(risk, error)[-1] == pytest.approx(error.mean())


def test_an_example_worked_by_hand():
    risk, error = np.array([0.05, 0.05, 0.25, 0.6, 0.95, 1.0]), np.array([0.0, 1, 0, 1, 0, 1])
    found = measures(risk, error)
    assert found["n"] == 6 and found["error_rate"] == 0.5
    assert found["mean_risk"] == pytest.approx(2.9 / 6)
    # bins: [.05 .05] against ½, [.25] against 0, [.6] against 1, [.95 1] against ½
    assert found["ece"] == pytest.approx((2 * 0.45 + 0.25 + 0.4 + 2 * 0.475) / 6)
    # of the nine pairs wrong beside right, .05 ties with .05; .6 is above two of three; 1 above all
    assert found["auroc"] == pytest.approx((0.5 + 2 + 3) / 9)
    # the first two share ½ each: ½, 1/2, 1/3, 2/4, 2/5, 3/6
    assert found["aurc"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 3 + 2 / 4 + 2 / 5 + 3 / 6) / 6)
    assert found["brier"] == pytest.approx((0.0025 + 0.9025 + 0.0625 + 0.16 + 0.9025 + 0) / 6)
    # bins of two rows: mean risks .05, .425, .975, mean errors ½ each
    assert found["r2"] is None


def test_a_risk_of_one_is_in_the_last_bin_and_an_edge_opens_the_next():
    assert reliability(np.array([0.1, 0.9, 1.0]), np.array([0, 1, 1]))["low"].tolist() == [0.1, 0.9]


def test_what_cannot_be_told_is_none():
    nothing = measures(np.array([]), np.array([]))
    assert nothing == {"n": 0} | dict.fromkeys(("error_rate", "mean_risk", "ece", "r2", "auroc", "aurc", "brier"))
    never_wrong = measures(np.array([0.1, 0.2, 0.3, 0.4]), np.zeros(4))
    assert never_wrong["auroc"] is None and never_wrong["r2"] is None
    assert never_wrong["ece"] == pytest.approx(0.25) and never_wrong["aurc"] == 0
    one_row = measures(np.array([0.3]), np.array([1.0]))
    assert one_row["r2"] is None and one_row["auroc"] is None and one_row["brier"] == pytest.approx(0.49)
    assert riskiest_share(np.array([0.3]), np.array([0.0]), 0.1) is None


def test_the_riskiest_share_holds_its_part_of_the_errors():
    risk, error = np.arange(10) / 10, np.array([0, 0, 0, 0, 0, 0, 1, 0, 1, 1], dtype=float)
    assert riskiest_share(risk, error, 0.2) == pytest.approx(2 / 3)
    assert riskiest_share(np.full(10, 0.5), error, 0.1) == pytest.approx(0.1)
    assert riskiest_share(risk, error, 1.0) == 1


@pytest.mark.parametrize(
    ("risk", "error"),
    [([0.1], [0, 1]), ([[0.1]], [[0]]), ([np.nan], [0]), ([1.1], [0]), ([-0.1], [0]), ([0.1], [0.5]),
     ([0.1], [np.nan])],
)
def test_rows_that_were_not_left_out_are_refused(risk, error):
    for measure in (measures, ece, r2, auroc, brier, risk_coverage):
        with pytest.raises(ValueError, match="should"):
            measure(np.array(risk), np.array(error))


@pytest.mark.parametrize("name", ["sms", "youtube", "trec", "semeval", "cdr", "chemprot", "health_advice_gpt4",
                                  "health_advice_gpt35", "media_bias"])
def test_majority_vote_on_the_benchmark_is_the_reference(bench, name):
    table = read_table(read_task(bench / name)).split("test")
    told = table.answers != ABSTAIN
    risk = majority_vote_risk(table.answers, table.votes)[told]
    error = (table.answers != table.labels)[told].astype(float)
    reference = json.loads((bench / "reference.json").read_text())["tasks"][name]
    found = measures(risk, error)
    assert found["error_rate"] == pytest.approx(reference["llm_error_rate"], abs=5.1e-5)
    for key, precision in {"ece": 5.1e-5, "auroc": 5.1e-4, "aurc": 5.1e-5, "brier": 5.1e-5}.items():
        assert found[key] == pytest.approx(reference["majority_vote"][key], abs=precision), key
