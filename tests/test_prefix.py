"""How far a draw has been checked."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from monitoring.prefix import CHECKED, reached

DAY = pd.Timestamp("2026-03-01", tz="UTC")
labels = st.lists(st.one_of(st.none(), st.integers(-5, 40)), min_size=1, max_size=30)


def moments(minutes):
    return pd.Series(pd.to_datetime([None if each is None else DAY + pd.Timedelta(minutes=each) for each in minutes],
                                    utc=True).as_unit("us"))


def counts(minutes, until=100):
    """Since which minute each counts; minutes: of the labels, in the draw's order, below 0 before the draw."""
    known = [each if each is not None and each <= until else None for each in minutes]
    order = np.random.default_rng(0).permutation(len(known))
    drawn = pd.DataFrame({"draw_id": "d", "position": order * 3, "at": DAY})  # positions between may be erased
    found = reached(drawn, moments([known[place] for place in order]))
    by_place = found.iloc[np.argsort(order)]
    return [None if pd.isna(each) else (each - DAY) // pd.Timedelta(minutes=1) for each in by_place]


def looked(known):
    """The length of the first positions that count at a moment, by the definition."""
    asked = [place for place, each in enumerate(known) if each is None or each > 0]
    last = asked[-1] if asked else -1
    for k in range(len(known), 0, -1):
        share = sum(each is not None for each in known[:k])
        ends = k - 1 if k - 1 in asked or last < 0 else last if k - 1 > last else None
        if share >= CHECKED * k - 1e-9 and ends is not None and known[ends] is not None:
            return k
    return 0


@given(labels)
def test_what_counts_at_a_moment_is_what_lies_in_the_longest_first_part_that_is_checked(minutes):
    found = counts(minutes)
    for until in range(42):
        known = [each if each is not None and each <= until else None for each in minutes]
        k = looked(known)
        counted = [place for place, each in enumerate(found) if each is not None and each <= until]
        assert [place for place in range(k) if known[place] is not None] == counted


@given(labels, st.integers(0, 40))
def test_no_later_label_changes_since_when_another_counts(minutes, until):
    before, after = counts(minutes, until), counts(minutes)
    assert all(each is None or each == later for each, later in zip(before, after, strict=True))


def test_draws_do_not_touch_each_other_and_nothing_is_reached_of_nothing():
    drawn = pd.DataFrame({"draw_id": ["a", "b", "a"], "position": [0, 0, 1], "at": DAY})
    assert reached(drawn, moments([3, None, 1])).tolist() == [DAY + pd.Timedelta(minutes=3), pd.NaT,
                                                              DAY + pd.Timedelta(minutes=3)]
    assert reached(drawn.iloc[:0], moments([])).dtype == "datetime64[us, UTC]"
