import json

import numpy as np
import pandas as pd
import pytest

from training.audit import COLUMNS, cells, draw, read_audit, write_audit
from training.errors import InputError
from training.table import read_table
from training.task import read_task


@pytest.fixture
def table(write_task):
    rows = [{"id": f"r{i}", "text": f"text, \"{i}\"\nof mail", "answer": ["ham", "spam", None][i % 3],
             "votes": ["ham", "spam"], "split": ["train", "valid", "valid", "test"][i % 4], "label": "ham"}
            for i in range(240)]
    return read_table(read_task(write_task(rows, data_keys='label = "label"\nsplit = "split"')))


@pytest.fixture
def risk(table):
    return np.where(table.answers < 0, np.nan, np.random.default_rng(0).random(240))


@pytest.fixture
def drawn_file(table, risk, tmp_path):
    path = tmp_path / "audit.csv"
    write_audit(path, table, draw(risk, table.splits, 30))
    return path


def filled(path, change=None, labels="spam"):
    """The file with every label filled in and one thing changed."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame["label"] = labels
    if change:
        frame = change(frame)
    frame.to_csv(path, index=False)
    return path


def test_the_draw_is_a_function_of_its_arguments(table, risk):
    one, same, other = (draw(risk, table.splits, 30, seed) for seed in (1, 1, 2))
    assert (one.rows == same.rows).all() and not (one.rows == other.rows).all()


@pytest.mark.parametrize("n", [1, 2, 7, 30, 80, 81, 100, 120])
def test_n_distinct_answered_rows_that_are_not_of_test(table, risk, n):
    drawn = draw(risk, table.splits, n)
    assert len(drawn.rows) == len(set(drawn.rows)) == n
    assert not np.isnan(risk[drawn.rows]).any() and (table.splits[drawn.rows] != "test").all()
    assert ((drawn.probability > 0) & (drawn.probability <= 1)).all()
    assert ((drawn.purpose == "random") == (table.splits[drawn.rows] == "valid")).all()
    assert (drawn.purpose == "random").sum() == min(n, 80)


@pytest.mark.parametrize("train", [0, 3, 300])
@pytest.mark.parametrize("valid", [0, 1, 90, 101, 135, 180, 275, 300])
def test_all_n_are_drawn_however_the_cells_fall(train, valid):
    risk = np.random.default_rng(1).beta(0.5, 5.0, train + valid)
    splits = np.array(["train"] * train + ["valid"] * valid, dtype=object)
    for n in (1, 10, 100, train + valid):
        if 1 <= n <= train + valid:
            drawn = draw(risk, splits, n)
            assert len(set(drawn.rows)) == len(drawn.rows) == n
            assert ((drawn.purpose == "random") == (splits[drawn.rows] == "valid")).all()


def test_rows_are_drawn_with_the_recorded_probability(table, risk):
    counts, told = np.zeros(240), np.full(240, np.nan)
    for seed in range(2000):
        drawn = draw(risk, table.splits, 20, seed)
        counts[drawn.rows] += 1
        told[drawn.rows] = drawn.probability
    seen = ~np.isnan(told)
    assert seen.sum() == 80 and np.nansum(told) == pytest.approx(20)
    assert (np.abs(counts[seen] / 2000 - told[seen]) < 5 * np.sqrt(told[seen] * (1 - told[seen]) / 2000) + 1e-9).all()


def test_cells_of_equal_size_lie_where_the_mean_risk_is_under_alpha():
    risk = np.linspace(0, 1, 10_001)
    borders, equal = cells(risk, 100, 0.1)
    assert equal == 91 and len(borders) == 101 and borders[-1] == 10_001
    assert (np.diff(borders[: equal + 1]) == 22).all()  # 0.2 of the rows have a mean risk of at most 0.1
    assert (cells(risk[:40], 100, 0.1)[0] == np.arange(41)).all()  # fewer answers than labels: all of them


@pytest.mark.parametrize("n", [0, -1, 121])
def test_an_n_that_the_data_cannot_give(table, risk, n):
    with pytest.raises(InputError, match=f"from 1 to 120, the answers in splits train and valid. Found {n}"):
        draw(risk, table.splits, n)


def test_there_and_back(table, risk, drawn_file):
    drawn = draw(risk, table.splits, 30)
    back = read_audit(filled(drawn_file), table)
    place = np.argsort(back.rows)
    for name in ("rows", "cell", "probability", "purpose"):
        assert (getattr(back, name)[place] == getattr(drawn, name)[np.argsort(drawn.rows)]).all()
    assert back.checked.all() and (back.labels == 1).all()


def test_the_texts_are_in_the_file_for_people(table, drawn_file):
    frame = pd.read_csv(drawn_file, dtype=str)
    assert tuple(frame.columns) == COLUMNS
    assert dict(zip(table.ids, table.texts, strict=True))[frame["id"][0]] == frame["text"][0]


def test_rows_not_yet_checked_are_told_apart(table, drawn_file):
    back = read_audit(filled(drawn_file, labels=[" ham "] * 10 + [""] * 20), table)
    assert back.checked.sum() == 10 and set(back.labels[back.checked]) == {0}


def test_json_lines_come_back_too(table, drawn_file, tmp_path):
    frame = pd.read_csv(filled(drawn_file), dtype=str, keep_default_na=False)
    path = tmp_path / "audit.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))
    assert (read_audit(path, table).rows == read_audit(drawn_file, table).rows).all()


def twice(frame, label):
    return pd.concat([frame, frame.iloc[:1].assign(label=label)])


def test_the_same_row_twice(table, drawn_file):
    before = read_audit(filled(drawn_file), table)
    again = read_audit(filled(drawn_file, lambda frame: twice(twice(frame, ""), "spam")), table)
    assert sorted(again.rows) == sorted(before.rows) and again.checked.all()


def put(column, value):
    def change(frame):
        frame.loc[3, column] = value
        return frame

    return change


@pytest.mark.parametrize(("change", "message"), [
    (lambda frame: twice(frame, "ham"), "has two different labels"),
    (put("id", "nobody"), "'nobody' is not in the data"),
    (put("id", "r3"), "lies in split test"),
    (put("id", "r2"), "has no answer of the LLM"),
    (put("label", "eggs"), "'label' of row .* is no class of this task: 'eggs'"),
    (put("answer", ""), "has another answer in the data now"),
    (put("probability", "0"), "should have a probability above 0, at most 1"),
    (put("probability", "1.5"), "should have a probability above 0, at most 1"),
    (put("probability", "often"), "should have a probability above 0, at most 1"),
    (put("probability", "nan"), "should have a probability above 0, at most 1"),
    (put("purpose", "fun"), "purpose random or chosen"),
    (put("cell", "2.5"), "a whole number from -1"),
    (put("cell", "1e9"), "a whole number from -1"),
    (lambda frame: frame.drop(columns="probability"), "lacks the column 'probability'"),
    (lambda frame: frame.assign(label=""), "has no label yet"),
    (lambda frame: frame.iloc[:0], "has no label yet|is empty"),
])
def test_a_file_edited_into_nonsense_is_one_clear_line(table, drawn_file, change, message):
    with pytest.raises(InputError, match=message) as caught:
        read_audit(filled(drawn_file, change), table)
    assert "\n" not in str(caught.value) and "of mail" not in str(caught.value)


def test_an_empty_file(table, tmp_path):
    (tmp_path / "audit.csv").write_text("")
    with pytest.raises(InputError, match="is empty"):
        read_audit(tmp_path / "audit.csv", table)


def test_a_file_that_exists_is_not_overwritten(table, risk, drawn_file):
    with pytest.raises(InputError, match="exists already, and may hold labels"):
        write_audit(drawn_file, table, draw(risk, table.splits, 30))
    with pytest.raises(InputError, match=r"should end in \.csv"):
        write_audit(drawn_file.with_suffix(".xlsx"), table, draw(risk, table.splits, 30))
