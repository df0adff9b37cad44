import numpy as np
import pandas as pd
import pytest

from monitoring.answers import labelled, plain, safe
from monitoring.settings import AlarmSettings
from monitoring.slices import MOST, slices
from monitoring.timeline import timeline
from training.calibration import ece
from training.errors import InputError


def frame(n: int = 2000, seed: int = 0, labels: float = 1.0, **columns: object) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    risk = generator.beta(2, 4, n)
    error = (generator.random(n) < risk).astype(float)
    drawn = generator.random(n) < labels
    return pd.DataFrame({
        "score_id": [f"s{row}" for row in range(n)], "risk": risk, "answer": generator.choice(["ham", "spam"], n),
        "harmonizer_answer": "ham", "text_length": generator.integers(10, 500, n),
        "sources_voting": 2, "agreement": generator.choice([0.0, 0.5, 1.0], n),
        "created_at": pd.date_range("2026-03-01", periods=n, freq="h", tz="UTC"),
        "error": np.where(drawn, error, np.nan), "probability": np.where(drawn, labels, np.nan),
        "group": generator.choice(["a", "b"], n),
    }).assign(**columns)


def cut(table: pd.DataFrame, also: tuple[str, ...] = ()):
    whole = safe(table, also)
    return slices(whole, labelled(whole, 30), also)


def test_each_slice_has_the_measures_of_its_rows():
    whole = frame()
    found = cut(whole, ("group",)).table.set_index(["slice", "value"])
    rows = whole[whole["group"] == "b"]
    row = found.loc[("group", "b")]
    assert row["n"] == row["labelled"] == len(rows)
    assert row["mean_risk"] == pytest.approx(rows["risk"].mean())
    assert row["error_rate"] == pytest.approx(rows["error"].mean())
    assert row["gap"] == pytest.approx(rows["error"].mean() - rows["risk"].mean())
    assert row["ece"] == pytest.approx(ece(rows["risk"].to_numpy(), rows["error"].to_numpy()))
    assert {"all agree with the LLM", "some disagree", "most disagree"} == set(found.loc["sources"].index)
    assert found.loc["length in characters"]["n"].sum() == len(whole)


def test_a_slice_where_the_risks_are_off_is_marked_and_others_are_not():
    whole = frame(4000)
    off = whole["group"] == "b"
    whole.loc[off, "error"] = (np.random.default_rng(1).random(off.sum()) < whole["risk"][off] + 0.2).astype(float)
    marked = cut(whole, ("group",)).table.query("marked").set_index("slice")["value"]
    assert marked["group"] == "b"
    assert not cut(frame(4000), ("group",)).table["marked"].any()


def test_many_slices_of_true_risks_are_rarely_marked():
    wrongly = 0
    for seed in range(40):
        whole = frame(1500, seed=seed, many=np.random.default_rng(seed).integers(0, 30, 1500).astype(str))
        told = labelled(safe(whole, ("many",)), 30)
        limits = AlarmSettings(tolerance=0.0)
        wrongly += slices(safe(whole, ("many",)), told, ("many",), limits).table["marked"].any()
    assert wrongly <= 5  # of 40 at 5 %: more than 5 come once in seventy times


def test_small_slices_are_put_together_and_none_can_be_told_by_subtraction():
    names = ["x"] * 1990 + ["rare"] * 2 + ["seldom"] * 8
    found = cut(frame(2000, of=names), ("of",)).table.query("slice == 'of'").set_index("value")
    assert list(found.index) == ["x", "others (2)"] and found.loc["others (2)", "n"] == 10


def test_what_cannot_be_sliced_is_left_out_with_a_word():
    many = [f"v{row % (MOST + 1)}" for row in range(2000)]
    found = cut(frame(2000, many=many, one="same", few=["a"] * 1998 + ["b"] * 2), ("many", "one", "few"))
    assert found.left_out[-3:] == [f"many: it has more than {MOST} values", "one: all answers are in one slice",
                                   "few: all answers are in one slice"]
    assert not {"many", "one", "few"} & set(found.table["slice"])


def test_few_labels_show_no_error_and_are_not_judged():
    whole = frame(300, of=["x"] * 280 + ["y"] * 20)
    whole.loc[whole.index >= 284, "error"] = np.nan  # four labels in y
    row = cut(whole, ("of",)).table.query("slice == 'of'").set_index("value").loc["y"]
    assert row["labelled"] == 4 and row["n"] == 20
    assert row[["error_rate", "error_low", "error_high", "gap", "ece", "p_value"]].isna().all() and not row["marked"]


@pytest.mark.parametrize("column", ["score_id", "item_id", "text", "created_at", "error"])
def test_columns_that_name_rows_are_refused(column):
    with pytest.raises(InputError, match="single answers"):
        cut(frame(50), (column,))


def test_names_cannot_be_markup():
    found = cut(frame(100, of=["<script>alert(1)</script>"] * 50 + ["[a](b)*_`#"] * 50), ("of",)).table
    assert not any(set("<>[]*_`#&") & set(name) for name in found["value"])
    assert plain("a\nb") == "a b"


def test_weights_undo_how_labels_were_drawn():
    whole = frame(60_000)
    probability = 0.02 + 0.5 * whole["risk"]
    drawn = np.random.default_rng(0).random(len(whole)) < probability
    part = whole.assign(error=whole["error"].where(drawn), probability=probability.where(drawn))
    full, found = (cut(table).table.set_index(["slice", "value"]) for table in (whole, part))
    assert (found["error_rate"] - full["error_rate"]).abs().max() < 0.05
    assert ((found["error_low"] <= full["error_rate"]) & (full["error_rate"] <= found["error_high"])).mean() > 0.8


def test_labels_of_unknown_choice_hold_for_themselves_alone():
    whole = frame(500, labels=0.4)
    assert labelled(safe(whole), 30).known
    unknown = labelled(safe(whole.assign(probability=np.nan)), 30)
    assert not unknown.known and len(unknown) == whole["error"].notna().sum() and (unknown.weight == 1).all()
    mixed = whole["probability"].where(np.arange(500) < 300)
    some = labelled(safe(whole.assign(probability=mixed)), 30)
    assert some.known and some.left_out == (whole["error"].notna() & mixed.isna()).sum()
    assert labelled(safe(frame(50).assign(probability=np.nan)), 30).known  # every answer is labelled


def test_over_time_by_day_week_or_month():
    whole = frame(24 * 20)
    days = timeline(safe(whole), labelled(safe(whole), 30))
    assert len(days) == 20 and days["start"].iloc[0] == "2026-03-01" and (days["n"] == 24).all()
    first = whole[:24]
    assert days["mean_risk"].iloc[0] == pytest.approx(first["risk"].mean())
    assert days["error_rate"].iloc[0] == pytest.approx(first["error"].mean())
    weeks = frame(24 * 100)
    starts = pd.to_datetime(timeline(safe(weeks), labelled(safe(weeks), 30))["start"])
    assert set(starts.dt.dayofweek) == {0} and len(starts) == 16
    months = frame(24 * 1500)
    starts = pd.to_datetime(timeline(safe(months), labelled(safe(months), 30))["start"])
    assert set(starts.dt.day) == {1}


def test_clocks_that_jump_and_days_of_few_answers_make_no_period():
    moments = pd.Series(pd.date_range("2026-03-01", periods=100, freq="h", tz="UTC"))
    moments[:3] = pd.Timestamp("1970-01-01", tz="UTC")
    moments[3] = pd.NaT
    whole = safe(frame(100, created_at=moments))
    table = timeline(whole, labelled(whole, 30))
    assert table["start"].min() == "2026-03-01" and table["n"].sum() == 92  # 4 are left of the last day
    assert len(timeline(whole[:0], labelled(whole[:0], 30))) == 0
