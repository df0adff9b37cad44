from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from training.audit import Audited, Draw, cells, draw, order
from training.audit_result import Recalibration
from training.errors import InputError
from training.guarantee import Look, guarantee, looks, p_value, passed
from training.recalibration import fit_recalibration

EVERYWHERE = np.ones(91, dtype=bool)


def audited(drawn: Draw, wrong: np.ndarray) -> Audited:
    """All rows checked; class 0 is the answer, and the label of a row that is not wrong."""
    return Audited(drawn.rows, drawn.cell, drawn.probability, drawn.purpose, wrong[drawn.rows].astype(np.int64))


def pool(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Risks, all of split valid, and answers, all of class 0."""
    risk = np.random.default_rng(seed).beta(0.5, 4.0, n)
    return risk, np.full(n, "valid", dtype=object), np.zeros(n, dtype=np.int64)


def test_by_hand():
    # 22 cells of 10 answers; more than 10 % wrong is 23 of 220: one in each of 21 cells and two in one.
    assert p_value(np.array([0]), 22, 10, 23)[0] == pytest.approx(0.9**21 * 0.8)
    # so many answers that whole numbers do not matter: the binomial test
    assert p_value(np.array([1]), 38, 10**6, 38 * 10**5 + 1)[0] == pytest.approx(binom.cdf(1, 38, 0.1), rel=1e-4)
    assert p_value(np.array([0]), 2, 1, 3)[0] == 0  # three errors among two answers: impossible


def test_the_even_spread_is_the_worst():
    generator = np.random.default_rng(0)
    for _ in range(300):
        count, size = generator.integers(10, 40), generator.integers(2, 12)
        errors = generator.integers(2 * size, count * size)
        spread = generator.multivariate_hypergeometric([size] * count, errors)
        chances = np.ones(1)
        for chance in spread / size:
            chances = np.convolve(chances, [1 - chance, chance])
        claimed = p_value(np.arange(count + 1), count, size, errors)
        assert (np.cumsum(chances)[: count + 1] <= claimed + 1e-9).all()


def test_looks_are_where_one_more_may_be_wrong():
    found = looks(10**5, 0.1, 0.1, EVERYWHERE)
    assert found == [Look(38, 1), Look(52, 2), Look(65, 3), Look(78, 4), Look(91, 5)]
    assert looks(10**5, 0.1, 0.1, np.ones(21, dtype=bool)) == []  # 0.9 ** 21 > 0.1
    tied = EVERYWHERE.copy()
    tied[37:40] = False
    assert looks(10**5, 0.1, 0.1, tied)[0] == Look(41, 1)


def test_the_first_look_that_fails_ends_it():
    tested = [Look(2, 0), Look(4, 1), Look(6, 1)]
    wrong = np.array([[0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 1, 0]])
    assert passed(wrong, tested).tolist() == [3, 0, 2]
    assert passed(wrong, []).tolist() == [0, 0, 0]


def test_all_right_accepts_all_that_was_drawn_from():
    risk, splits, answers = pool(2000)
    found = guarantee(risk, splits, answers, audited(draw(risk, splits, 100), np.zeros(2000)))
    assert found.threshold is not None and found.labels == 91 and found.upper < 0.1
    assert found.accepted == pytest.approx((risk <= found.threshold).mean())
    assert "with confidence 0.9" in found.words


def test_all_wrong_has_no_threshold():
    risk, splits, answers = pool(2000)
    found = guarantee(risk, splits, answers, audited(draw(risk, splits, 100), np.ones(2000)))
    assert found.threshold is None and found.accepted == 0 and "no threshold" in found.words


def test_an_unchecked_row_counts_as_wrong():
    risk, splits, answers = pool(2000)
    whole = audited(draw(risk, splits, 100), np.zeros(2000))
    part = replace(whole, labels=np.where(np.arange(100) % 4 == 0, -1, whole.labels))
    assert guarantee(risk, splits, answers, whole).threshold is not None
    found = guarantee(risk, splits, answers, part)
    assert found.threshold is None and found.labels == 68


def test_rows_left_out_of_the_file_count_as_wrong_too():
    risk, splits, answers = pool(2000)
    wrong = np.zeros(2000)
    whole = audited(draw(risk, splits, 100), wrong)
    keep = whole.cell % 4 != 0
    part = Audited(*(getattr(whole, name)[keep] for name in ("rows", "cell", "probability", "purpose", "labels")))
    assert guarantee(risk, splits, answers, part).threshold is None


def test_another_order_or_edited_probabilities_give_no_threshold():
    risk, splits, answers = pool(2000)
    back = audited(draw(risk, splits, 100), np.zeros(2000))
    assert "otherwise" in guarantee(risk[::-1], splits, answers, back).words
    assert guarantee(risk, splits, answers, replace(back, probability=back.probability / 2)).threshold is None


def test_chosen_rows_give_no_threshold():
    risk, splits, answers = pool(500)
    splits[:] = "train"
    found = guarantee(risk, splits, answers, audited(draw(risk, splits, 100), np.zeros(500)))
    assert found.threshold is None and "drawn at random" in found.words


def test_equal_risks_are_accepted_together():
    risk, splits, answers = pool(2000)
    risk = np.round(risk, 2)
    found = guarantee(risk, splits, answers, audited(draw(risk, splits, 100), np.zeros(2000)))
    assert found.accepted == pytest.approx((risk <= found.threshold).mean())


def test_on_the_recalibrated_scale_it_accepts_the_same_answers():
    risk, splits, answers = pool(2000)
    back = audited(draw(risk, splits, 100), np.zeros(2000))
    recalibration = fit_recalibration(risk[back.rows], np.zeros(100))
    plain = guarantee(risk, splits, answers, back)
    found = guarantee(risk, splits, answers, back, recalibration=recalibration)
    assert found.threshold == pytest.approx(recalibration.apply(np.array([plain.threshold]))[0], rel=0.05)
    assert found.threshold < plain.threshold and f"{found.threshold:.4g}" in found.words
    assert (found.accepted, found.upper, found.labels) == (plain.accepted, plain.upper, plain.labels)
    assert ((recalibration.apply(risk) <= found.threshold) == (risk <= plain.threshold)).all()


def test_a_border_that_the_recalibrated_scale_does_not_show_is_not_used():
    risk, splits, answers = pool(2000)
    back = audited(draw(risk, splits, 100), np.zeros(2000))
    flat = Recalibration(values=(0.2,) * 49, labels=100)
    assert guarantee(risk, splits, answers, back, recalibration=flat).threshold is None


def test_no_nonsense():
    risk, splits, answers = pool(200)
    with pytest.raises(InputError, match="delta should lie between 0 and 1"):
        guarantee(risk, splits, answers, audited(draw(risk, splits, 50), np.zeros(200)), delta=1.0)


def profiles(n: int) -> dict[str, np.ndarray]:
    """Errors by the order of risk that tempt a rule to accept too much: all just break the promise somewhere."""
    generator = np.random.default_rng(7)
    flat = generator.permutation(np.arange(n) < 0.101 * n)
    half = generator.permutation(np.arange(n // 2) < 0.101 * (n // 2))
    return {
        "worthless": flat,
        "cliff": np.concatenate([half, np.ones(n - n // 2, dtype=bool)]),
        "upside down": np.arange(n) < 0.101 * n,
        "even": np.arange(n) % 9 == 4,
        "late": np.concatenate([np.zeros(n // 3, dtype=bool), np.arange(n - n // 3) % 6 == 0]),
    }


@pytest.mark.parametrize("name", profiles(10))
@pytest.mark.parametrize("rows", [300, 3000])
def test_the_promise_is_kept_however_bad_the_risk(name, rows):
    error, trials = profiles(rows)[name].astype(np.int64), 2000
    risk = np.sort(np.random.default_rng(3).beta(0.5, 6.0, rows))
    borders, equal = cells(risk, 100, 0.1)
    sizes = np.diff(borders)
    places = borders[:-1] + (np.random.default_rng(4).random((trials, len(sizes))) * sizes).astype(np.int64)
    tested = looks(int(sizes[0]), 0.1, 0.1, np.ones(equal, dtype=bool))
    accepted = np.array([0, *(look.cells * sizes[0] for look in tested)])[passed(error[places[:, :equal]], tested)]
    broken = (np.concatenate([[0], np.cumsum(error)])[accepted] > 0.1 * accepted).mean()
    assert broken <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / trials)


def test_the_sorted_places_of_the_draw_are_the_cells():
    risk, splits, _ = pool(777)
    drawn = draw(risk, splits, 100)
    places = np.empty(777, dtype=np.int64)
    places[order(risk)] = np.arange(777)
    inside = drawn.cell >= 0
    size = round(1 / drawn.probability[0])
    assert (places[drawn.rows[inside]] // size == drawn.cell[inside]).all() and inside.sum() == 91
