"""What people say of scores, and how it was chosen of which: in a file, in the store, in a frame."""

import json
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from monitoring.consensus import consensus
from monitoring.feedback import read_feedback
from monitoring.sampling import Draw, draw
from monitoring.store import COLUMNS, Feedback, ScoredAnswer, Store
from monitoring.tables import TakenFeedback
from registry.database import now
from training.errors import InputError

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLASSES = ("spam", "ham", "other")


def scored(number, at=0, **changes):
    values = {
        "score_id": f"s{number}", "item_id": f"i{number}", "model": "mail", "version": "1", "answer": "spam",
        "harmonizer_answer": "ham", "risk": 0.25, "probabilities": dict.fromkeys(CLASSES, 1 / 3),
        "votes": {"a": "spam", "b": "ham"}, "votes_used": True, "text_length": 27,
        "created_at": START + timedelta(minutes=at),
    }
    return ScoredAnswer(**values | changes)


@pytest.fixture
def plain(tmp_path):
    """A store on SQLite, for what does not depend on the database."""
    with Store(f"sqlite:///{tmp_path}/plain.db") as opened:
        yield opened


def says(label="ham", score="s1", reviewer=None, **more):
    return Feedback(label, score_id=score, reviewer=reviewer, **more)


def seen(store, *columns, **narrow):
    """Those columns of a frame, of a row a list."""
    frame = store.frame("mail", **narrow)
    return frame[list(columns)].astype(object).where(frame[list(columns)].notna(), None).to_numpy().tolist()


# Several people


def test_most_reviewers_decide_and_the_first_of_as_many_disputed(store):
    store.add_scores([scored(1)])
    for rows, expected in [
        ([says("ham", reviewer="ada")], ["ham", False, 1, 1.0]),
        ([says("spam", reviewer="bob")], ["ham", True, 2, 1.0]),  # the label that was said first
        ([says("ham", reviewer="ada")], ["ham", True, 2, 1.0]),  # to say it again makes it no later
        ([says("spam")], ["spam", False, 3, 0.0]),  # nobody in particular is one of them
        ([says("other", reviewer="bob")], ["ham", True, 3, 1.0]),  # three ways
        ([says("ham", reviewer="bob"), says("other")], ["ham", False, 3, 1.0]),
    ]:
        store.add_feedback(rows)
        assert seen(store, "label", "disputed", "reviewers", "error") == [expected]
        assert seen(store, "label", "disputed", "reviewers", "error", labelled=True) == [expected]


def test_what_is_withdrawn_counts_no_more_and_can_be_said_again(store):
    store.add_scores([scored(1), scored(2)])
    columns = ("label", "disputed", "reviewers", "chosen", "labelled_at")
    store.add_feedback([says("ham", reviewer="ada", chosen="all"), says("spam", reviewer="bob")])
    store.add_feedback([says("no class", reviewer="ada", withdrawn=True)])
    assert seen(store, *columns[:4], labelled=True) == [["spam", False, 1, "unknown"]]
    assert store.add_feedback([says("", reviewer="bob", withdrawn=True), says("x", "s2", withdrawn=True)]) == 2
    assert seen(store, *columns) == [[None, False, 0, None, None]] * 2
    assert store.frame("mail", labelled=True).empty
    store.add_feedback([says("other", reviewer="ada")])
    assert seen(store, *columns[:4], labelled=True) == [["other", False, 1, "unknown"]]


def test_of_trusted_rows_alone_no_other_row_changes_anything(store):
    store.add_scores([scored(1, risk=0.4), scored(2, at=1)])
    store.add_draw(a_draw("a"), ["s2"], [0.5])
    store.add_feedback([says("spam", reviewer="eve", trusted=True, chosen="random", probability=0.5)])
    before = store.frame("mail", trusted=True)
    assert before[["label", "chosen", "probability", "reviewers"]].to_numpy().tolist()[0] == ["spam", "random", 0.5, 1]
    assert store.frame("mail", "1", labelled=True, trusted=True)["score_id"].tolist() == ["s1"]
    store.add_feedback([says("x", reviewer="eve", withdrawn=True), says("ham", reviewer="eve", chosen="all"),
                        says("ham", reviewer="ada", chosen="all"), says("ham", "s2", chosen="random", probability=0.1)])
    assert store.frame("mail", trusted=True).equals(before)
    assert seen(store, "label", "chosen") == [["ham", "all"], ["ham", "drawn"]]
    store.add_feedback([says("ham", reviewer="kim", trusted=True)])
    assert seen(store, "label", "disputed", "reviewers", trusted=True)[0] == ["spam", True, 2]
    store.add_feedback([says("x", reviewer="eve", withdrawn=True, trusted=True)])
    assert seen(store, "label", "disputed", "reviewers", trusted=True)[0] == ["ham", False, 1]


def test_late_and_repeated_labels_are_as_old_as_the_first_one(store):
    store.add_scores([scored(1, created_at=now() - timedelta(days=400))])
    before = now()
    store.add_feedback([says("ham", reviewer="ada")])
    between = now()
    for _ in range(3):
        store.add_feedback([says("ham", reviewer="ada"), says("ham", reviewer="bob")])
    frame = store.frame("mail", labelled=True)
    assert before <= frame["labelled_at"][0] <= between and frame["reviewers"].tolist() == [2]
    with store.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM feedback")).scalar() == 7  # nothing is overwritten


def said(*rows):
    frame = pd.DataFrame(rows, columns=["score_id", "reviewer", "label"])
    return frame.assign(chosen="unknown", probability=np.nan, withdrawn=False,
                        created_at=pd.Timestamp(START))


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["ada", "bob", "kim", None]), st.sampled_from("abc"),
                          st.booleans()), max_size=30))
def test_the_consensus_is_what_going_through_the_rows_gives(rows):
    frame = said(*(row[:3] for row in rows)).assign(withdrawn=[row[3] for row in rows])
    frame = frame.astype({"withdrawn": bool})
    standing, first = {}, {}
    for place, (score, who, label, withdrawn) in enumerate(rows):
        standing.setdefault(score, {})[who] = None if withdrawn else label
        first = {key: at for key, at in first.items() if key[:2] != (score, who)} if withdrawn else first
        first if withdrawn else first.setdefault((score, who, label), place)
    expected = {}
    for score, by in standing.items():
        labels = [label for label in by.values() if label is not None]
        if labels:
            most = max(map(labels.count, labels))
            winners = {label for label in labels if labels.count(label) == most}
            expected[score] = (min(winners, key=lambda label: min(first[score, who, label] for who in by
                                                                  if by[who] == label)), len(labels), len(winners) > 1)
    found = consensus(frame)
    assert {score: (row.label, row.reviewers, row.disputed)
            for score, row in zip(found.index, found.itertuples(), strict=True)} == expected


def test_the_order_of_scores_does_not_matter_to_a_consensus():
    rows = said(("x", "ada", "a"), ("y", "ada", "b"), ("x", "bob", "b"), ("x", None, "b"))
    found = consensus(rows)
    assert found.loc["x", "label"] == "b" and found.loc["y", "label"] == "b"
    assert consensus(rows.iloc[[1, 0, 2, 3]]).sort_index().equals(found.sort_index())


# How it was chosen


@pytest.mark.parametrize(("rows", "chosen", "probability"), [
    ([{}], "unknown", None),
    ([{"chosen": "all"}], "all", 1.0),
    ([{"chosen": "random", "probability": 0.1}], "random", 0.1),
    ([{"chosen": "risk"}], "risk", None),
    ([{"chosen": "risk", "probability": 0.3}], "risk", 0.3),
    ([{"chosen": "whim"}], "whim", None),
    ([{"probability": 0.3}], "unknown", None),  # without a word on how, it says nothing
    ([{"chosen": "random", "probability": 0.1}, {}], "random", 0.1),  # a correction does not say how
    ([{"chosen": "all"}, {"chosen": "whim"}], "whim", None),  # a correction of just that
    ([{"chosen": "whim"}, {"chosen": "random", "probability": 0.1, "reviewer": "bob"}], "random", 0.1),
    ([{"chosen": "all"}, {"chosen": "random", "probability": 0.1, "reviewer": "bob"}], "all", 1.0),
    ([{"chosen": "risk"}, {"chosen": "whim", "reviewer": "bob"}], "risk", None),
])
def test_how_an_answer_was_chosen(plain, rows, chosen, probability):
    plain.add_scores([scored(1)])
    plain.add_feedback([says(**row) for row in rows])
    assert seen(plain, "chosen", "probability") == [[chosen, probability]]


FAULTS = [
    ({"chosen": "random"}, "'chosen' is random, so 'probability' should say"),
    ({"chosen": "random", "probability": 0.0}, "above 0 and at most 1. Found 0.0"),
    ({"chosen": "risk", "probability": 1.5}, "above 0 and at most 1. Found 1.5"),
    ({"chosen": "all", "probability": 0.5}, "should be 1 or missing. Found 0.5"),
    ({"chosen": "whim", "probability": 0.5}, "whim, which has no known probability"),
    ({"chosen": "Random"}, "one of all, random, risk, whim, unknown. Found 'Random'"),
    ({"chosen": "drawn"}, "Found 'drawn'"),
    ({"reviewer": "a\nb"}, "printable"),
    ({"reviewer": "a\0b"}, "printable"),
    ({"reviewer": "x" * 257}, "1 to 256"),
]


@pytest.mark.parametrize(("row", "found"), FAULTS)
def test_what_cannot_be_is_refused_in_one_line_by_the_store_and_of_a_file(plain, tmp_path, row, found):
    plain.add_scores([scored(1)])
    with pytest.raises(InputError, match=found) as refusal:
        plain.add_feedback([says(), says(**row)])
    assert "\n" not in str(refusal.value) and plain.frame("mail")["label"].isna().all()
    lines = [{"score_id": "s1", "label": "ham"}, {"score_id": "s1", "label": "ham", **row}]
    (tmp_path / "said.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(InputError, match=rf"said\.jsonl, row 2: .*{found}") as refusal:
        read_feedback(tmp_path / "said.jsonl")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("chosen", ["", "unknown"])
def test_a_file_that_says_a_probability_says_of_what(tmp_path, chosen):
    path = tmp_path / "said.csv"
    path.write_text(f"score_id,label,chosen,probability\ns1,ham,{chosen},0.3\n")
    with pytest.raises(InputError, match=r"row 1: 'probability' is 0.3, so 'chosen' should be random or risk") as found:
        read_feedback(path)
    assert "\n" not in str(found.value)
    path.write_text("score_id,label,chosen,probability\ns1,ham,all,1\n")
    assert read_feedback(path) == [says(chosen="all", probability=1.0)]


@pytest.mark.parametrize("chance", ["often", True, [0.1], float("nan")])
def test_a_probability_of_a_random_share_is_a_number(plain, chance):
    plain.add_scores([scored(1)])
    if chance is not True:
        with pytest.raises(InputError, match="'probability' should be a number"):
            plain.add_feedback([says(chosen="random", probability=chance)])


def test_a_file_says_who_and_how_and_never_what_to_trust(tmp_path):
    table = pd.DataFrame({
        "score_id": ["s1", "s2", "s3"], "label": ["ham"] * 3, "reviewer": ["ada", None, 7], "trusted": True,
        "withdrawn": True, "chosen": ["random", None, "all"], "probability": [0.25, np.nan, np.nan], "risk": 0.1})
    table["reviewer"] = table["reviewer"].map(lambda who: who if who is None else str(who))
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "a.jsonl").write_text(table.to_json(orient="records", lines=True))
    for name in ("a.parquet", "a.csv", "a.jsonl"):
        assert read_feedback(tmp_path / name) == [
            says("ham", "s1", "ada", chosen="random", probability=0.25), says("ham", "s2"),
            says("ham", "s3", "7", chosen="all")]
    (tmp_path / "b.csv").write_text("score_id,label,chosen,probability\ns1,ham,random,often\n")
    with pytest.raises(InputError, match=r"row 1: 'probability' should be a number .* Found 'often'"):
        read_feedback(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("score_id,label,chosen,probability\ns1,ham,random,NaN\n")
    with pytest.raises(InputError, match="Found none"):
        read_feedback(tmp_path / "c.csv")


def test_a_journal_brings_all_that_was_said(store):
    store.add_scores([scored(1), scored(2, item_id="i1")])
    row = Feedback("ham", id="i1", reviewer="ada", chosen="random", probability=0.5, trusted=True)
    for _ in range(2):
        store.merge([], [TakenFeedback("u1", row, "mail", START)])
    columns = ("label", "reviewers", "chosen", "probability", "labelled_at")
    for trusted in (False, True):
        assert seen(store, *columns, trusted=trusted) == [["ham", 1, "random", 0.5, pd.Timestamp(START)]] * 2
    gone = Feedback("", id="i1", reviewer="ada", trusted=True, withdrawn=True)
    store.merge([], [TakenFeedback("u2", gone, "mail", START)])
    assert store.frame("mail", labelled=True).empty


# Draws


def a_draw(name, since=None, until=60, scale=1.0, **changes):
    values = {"draw_id": name, "model": "mail", "version": "1", "at": START + timedelta(days=1),
              "since": since if since is None else START + timedelta(minutes=since),
              "until": START + timedelta(minutes=until), "budget": 2, "scale": scale, "uniform": 0.1, "seed": 2**40}
    return Draw(**values | changes)


def test_draws_come_out_as_they_went_in(store):
    store.add_scores([scored(number, at=number) for number in range(4)])
    first, second = a_draw("a"), a_draw("b", since=2, at=START + timedelta(days=2))
    store.add_draw(second, ["s3"], [0.5])
    store.add_draw(first, ["s2", "s1"], np.array([0.25, 1.0]))
    store.add_draw(a_draw("c", version="2", at=START), [], [])
    assert store.draws("mail", "1") == [first, second] and store.draws("nobody") == []
    assert [each.draw_id for each in store.draws("mail")] == ["c", "a", "b"]
    assert store.drawn("a").to_dict("list") == {"score_id": ["s2", "s1"], "probability": [0.25, 1.0],
                                                "position": [0, 1]}
    assert store.drawn("nothing").empty


def test_drawn_wins_and_its_probability_is_that_of_all_draws_that_saw_it(store):
    store.add_scores([scored(number, at=number, risk=number / 10) for number in range(6)])
    first, second = a_draw("a", until=3, scale=0.6), a_draw("b", since=2, scale=0.9)
    store.add_draw(first, ["s1", "s2"], [0.1, 0.1])
    store.add_draw(second, ["s4"], [0.2])
    store.add_feedback([says(score="s1", chosen="whim"), says(score="s4"), says(score="s5", chosen="all"),
                        says(score="s3", chosen="whim")])

    def chance(risk, *draws):
        return 1 - float(np.prod([1 - each.probability(np.array([risk]))[0] for each in draws]))

    frame = store.frame("mail")
    assert frame["chosen"].tolist() == [None, "drawn", None, "whim", "drawn", "all"]
    expected = [np.nan, chance(0.1, first), np.nan, np.nan, chance(0.4, second), 1.0]
    assert np.allclose(frame["probability"], expected, equal_nan=True)  # s2 was drawn, and has no label yet
    labelled = store.frame("mail", "1", labelled=True)
    assert labelled.equals(frame[frame["reviewers"] > 0].reset_index(drop=True))


def test_what_was_drawn_is_that_of_the_score_in_the_dark_too(store):
    dark = scored(9, version="2", role="shadow", shadow_of="s1", risk=0.9, answer="ham")
    store.add_scores([scored(1), dark])
    made = a_draw("a", scale=0.5)
    store.add_draw(made, ["s1"], [0.5])
    store.add_feedback([says("ham")])
    for version, error in (("1", 1.0), ("2", 0.0)):
        frame = store.frame("mail", version, labelled=True)
        chosen = {"1": "drawn", "2": "elsewhere"}[version]  # by a risk that is not its own
        assert frame[["chosen", "error"]].to_numpy().tolist() == [[chosen, error]]
        assert frame["probability"].tolist() == pytest.approx(made.probability(np.array([0.25])).tolist())


@pytest.mark.parametrize(("ids", "chances", "found"), [
    (["s1", "nothing"], [0.5, 0.5], "Found 'nothing'"),
    (["s2"], [0.5], "Found 's2'"),  # drawn before
    (["s3"], [0.5], "Found 's3'"),  # no risk
    (["s4"], [0.5], "Found 's4'"),  # another version's
    (["s5"], [0.5], "Found 's5'"),  # in the dark
    (["s1", "s1"], [0.5, 0.5], "Found 's1'"),
    (["s1"], [0.0], "a probability above 0"), (["s1"], [float("nan")], "a probability"), (["s1"], [], "a probability"),
])
def test_a_draw_at_fault_is_refused_as_a_whole(store, ids, chances, found):
    store.add_scores([scored(1), scored(2), scored(3, risk=None, answer=None), scored(4, version="2"),
                      scored(5, role="shadow", shadow_of="s4")])
    store.add_draw(a_draw("a"), ["s2"], [0.5])
    with pytest.raises(InputError, match=found):
        store.add_draw(a_draw("b"), ids, chances)
    assert [each.draw_id for each in store.draws("mail")] == ["a"] and store.drawn("b").empty
    with pytest.raises(InputError, match="the draw a is kept already"):
        store.add_draw(a_draw("a"), ["s1"], [0.5])
    with pytest.raises(InputError, match="of models:/mail/1 is under way"), store.drawing("mail", "1") as drawing:
        drawing.add(a_draw("c", version="2"), [], [])


def test_the_population_of_a_draw(store):
    store.add_scores([scored(number, at=number) for number in range(6)] + [
        scored(10, risk=None, answer=None), scored(11, version="2"), scored(12, role="shadow", shadow_of="s11")])
    store.add_draw(a_draw("a"), ["s2"], [0.5])
    store.add_feedback([says(score="s3"), says("spam", "s3", "bob"), says(score="s4"),
                        says(score="s4", withdrawn=True)])
    with store.drawing("mail", "1") as drawing:
        seen = drawing.population(None, START + timedelta(days=1))
        part = drawing.population(START + timedelta(minutes=1), START + timedelta(minutes=4))
        none = drawing.population(START + timedelta(days=1), START + timedelta(days=2))
        assert drawing.draws() == [a_draw("a")]
    assert seen["score_id"].tolist() == [f"s{number}" for number in range(6)]
    assert seen.loc[seen["drawn"], "score_id"].tolist() == ["s2"]
    assert seen.loc[seen["label"], "score_id"].tolist() == ["s3"]
    assert part["score_id"].tolist() == ["s1", "s2", "s3", "s4"]
    assert none.empty and none.dtypes.equals(seen.dtypes)


def test_draws_at_the_same_time_draw_no_answer_twice(store):
    store.add_scores([scored(number, at=number / 10) for number in range(120)])
    began, faults = threading.Barrier(4), []

    def one(number):
        began.wait()
        try:
            with store.drawing("mail", "1") as drawing:
                moment = START + timedelta(hours=number + 1)
                made, rows = draw(drawing.population(None, moment), 20, number, "mail", "1", moment, None, moment,
                                  drawing.draws())
                drawing.add(made, rows["score_id"].tolist(), rows["probability"].to_numpy())
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    drawn = pd.concat([store.drawn(each.draw_id) for each in store.draws("mail")])
    assert len(drawn) == 80 and drawn["score_id"].is_unique


def test_a_draw_that_fails_leaves_nothing(store):
    store.add_scores([scored(1)])
    with suppress(ZeroDivisionError), store.drawing("mail", "1") as drawing:
        drawing.add(a_draw("a"), ["s1"], [0.5])
        raise ZeroDivisionError
    assert store.draws("mail") == []


def test_what_is_erased_is_drawn_no_more(store):
    store.add_scores([scored(1), scored(2)])
    store.add_draw(a_draw("a"), ["s1", "s2"], [0.5, 0.5])
    store.add_feedback([says()])
    with store.erasing(["s1"], now()):
        pass
    assert store.drawn("a")["score_id"].tolist() == ["s2"] and len(store.draws("mail")) == 1
    with store.erasing_before(now()):
        pass
    assert store.drawn("a").empty and store.frame("mail").empty


def test_of_an_answer_scored_again_the_drawn_score_stands_then_one_of_known_choice_then_the_last(store):
    store.add_scores([scored(number, item_id="i", at=number) for number in range(5)])
    columns = ("error", "again")
    store.add_feedback([Feedback("ham", id="i")])
    assert seen(store, *columns) == [[1.0, True]] * 4 + [[1.0, False]]
    store.add_feedback([says(score="s3", chosen="risk"), says(score="s0", chosen="whim")])
    assert seen(store, "again") == [[True], [True], [True], [False], [True]]
    store.add_feedback([says(score="s2", chosen="random", probability=0.1)])
    assert seen(store, "again") == [[True], [True], [False], [True], [True]]
    store.add_draw(a_draw("a"), ["s1"], [0.5])
    assert seen(store, "again") == [[True], [False], [True], [True], [True]]


def test_a_draw_counts_as_far_as_it_has_been_checked_in_its_order(store):
    drawn = [f"s{number}" for number in range(12)]
    store.add_scores([scored(number, at=number) for number in range(12)])
    store.add_feedback([says(score=each, chosen="whim") for each in ("s0", "s4", "s5", "s11")])
    store.add_draw(a_draw("a", at=now()), drawn, [0.5] * 12)

    def counted():
        frame = store.frame("mail", "1", labelled=True)
        assert frame["chosen"].isin(["drawn", "whim", "unknown"]).all()
        assert (frame["probability"].notna() == frame["chosen"].eq("drawn")).all()
        return frame.loc[frame["chosen"] == "drawn", "score_id"].tolist()

    assert counted() == []  # what was labelled before is as far as nobody has checked
    store.add_feedback([says(score="s2")])
    assert counted() == []
    store.add_feedback([says(score="s1")])
    assert counted() == ["s0", "s1", "s2"]
    store.add_feedback([says(score=f"s{number}") for number in (3, 6, 8, 9)])
    first = store.frame("mail", "1", labelled=True).set_index("score_id")["labelled_at"]
    assert counted() == ["s0", "s1", "s10", "s11", *drawn[2:10]][:2] + drawn[2:7] + ["s8", "s9"]  # 9 of 10
    store.add_feedback([says(score="s7")])
    later = store.frame("mail", "1", labelled=True).set_index("score_id")["labelled_at"]
    assert counted() == drawn[:10] and later[first.index].drop("s11").equals(first.drop("s11"))
    store.add_feedback([says(score="s10")])
    assert sorted(counted()) == sorted(drawn)
    assert store.frame("mail", "1", labelled=True)["labelled_at"].min() > store.draws("mail")[0].at


def test_labels_of_erased_scores_are_still_seen_by_alarms_and_by_nothing_else(store):
    store.add_scores([scored(number, at=number) for number in range(4)] + [
        scored(9, version="2", role="shadow", shadow_of="s1", answer="ham", risk=0.9)])
    store.add_draw(a_draw("a", scale=0.5), ["s1"], [0.5])
    store.add_feedback([says(score="s0", chosen="whim", trusted=True), says(score="s1"), says("spam", "s1", "bob")])
    columns = ["created_at", "labelled_at", "version", "risk", "error", "chosen", "probability", "again"]
    before = {(version, trusted): store.frame("mail", version, labelled=True, trusted=trusted)
              for version in "12" for trusted in (False, True)}
    with store.erasing_before(START + timedelta(minutes=2)) as erased:
        assert erased.scores == {"s0", "s1", "s9"}
    for (version, trusted), frame in before.items():
        found = store.frame("mail", version, labelled=True, trusted=trusted)
        assert found[columns].equals(frame[columns]) and found.dtypes.equals(frame.dtypes)
        assert found["score_id"].str.startswith("erased-").all() and found["label"].isna().all()
        assert len(store.frame("mail", version, labelled=True, last=1, trusted=trusted)) == min(len(frame), 1)
    assert store.frame("mail", "1")["score_id"].tolist() == ["s2", "s3"]
    assert store.frame("mail", "1", labelled=True, since=START + timedelta(minutes=1))["error"].tolist() == [1.0]
    store.add_feedback([says(score="s2")])
    assert store.frame("mail", "1", labelled=True, votes=True)["vote:a"].tolist() == [None, None, "spam"]
    with store.erasing(["s2"], now()):
        pass
    assert len(store.frame("mail", "1", labelled=True)) == 2  # of what is erased by name nothing stays


# Frames


def test_a_frame_of_nothing_has_the_types_of_any(store):
    store.add_scores([scored(1), scored(2), scored(3, answer=None, risk=None)])
    store.add_feedback([says(reviewer="ada", trusted=True)])
    store.add_draw(a_draw("a"), ["s2"], [0.5])
    full = store.frame("mail")
    assert tuple(full.columns) == COLUMNS
    for frame in (store.frame("nobody"), store.frame("mail", "7"), store.frame("nobody", labelled=True),
                  store.frame("mail", since=now()), store.frame("mail", last=0), store.frame("mail", labelled=True)):
        assert frame.dtypes.equals(full.dtypes) and frame.index.equals(pd.RangeIndex(len(frame)))
    assert store.frame("nobody", votes=True).dtypes.equals(full.dtypes)


def test_frames_narrow_from_both_ends_to_the_newest_and_to_what_is_labelled(store):
    store.add_scores([scored(number, at=number) for number in (3, 1, 4, 2, 0)])  # clocks jump
    store.add_feedback([says(score=f"s{number}") for number in (0, 2, 3)])

    def ids(**narrow):
        return [seen[0] for seen in globals()["seen"](store, "score_id", **narrow)]

    moment = [START + timedelta(minutes=number) for number in range(5)]
    assert ids() == ids(last=9) == ["s0", "s1", "s2", "s3", "s4"]
    assert ids(since=moment[1], until=moment[3]) == ["s1", "s2", "s3"]
    assert ids(last=2) == ["s3", "s4"] and ids(last=2, until=moment[3]) == ["s2", "s3"]
    assert ids(labelled=True) == ["s0", "s2", "s3"] and ids(labelled=True, last=2) == ["s2", "s3"]
    assert ids(labelled=True, since=moment[1], until=moment[2]) == ["s2"] == ids(labelled=True, last=1, until=moment[2])
    assert store.frame("mail", last=3)["error"].isna().tolist() == [False, False, True]


def test_many_labels_are_found_by_their_scores_and_by_themselves(plain):
    plain.add_scores([scored(number, at=number / 100) for number in range(300)])
    plain.add_feedback([says(score=f"s{number}", reviewer=f"r{again}") for number in range(200) for again in range(3)])
    assert plain.frame("mail", last=150).equals(plain.frame("mail").tail(150).reset_index(drop=True))
    assert plain.frame("mail", labelled=True).equals(plain.frame("mail").head(200))


def test_votes_have_a_column_for_each_source_seen(store):
    store.add_scores([scored(1, votes={"b": "ham", "a": "spam"}), scored(2, at=1, votes={}),
                      scored(3, at=2, votes={"c": "other", "b": "spam"}, answer=None, risk=None)])
    frame = store.frame("mail", votes=True)
    assert frame.columns.tolist() == [*COLUMNS, "vote:a", "vote:b", "vote:c"]
    assert frame["vote:b"].tolist() == ["ham", None, "spam"] and frame["vote:c"].tolist() == [None, None, "other"]
    assert frame["sources_voting"].tolist() == [2, 0, 2] and frame["sources_agreeing"].tolist() == [1, 0, 0]
    assert store.frame("mail", votes=True, last=1).columns.tolist() == [*COLUMNS, "vote:b", "vote:c"]


def test_two_versions_with_the_same_moment_are_told_apart_and_in_one_order(store):
    store.add_scores([scored(2, version="2"), scored(1), scored(3)])
    assert store.frame("mail")["score_id"].tolist() == ["s1", "s2", "s3"]
    assert store.frame("mail", "1", last=1)["score_id"].tolist() == ["s3"]
    assert store.frame("mail", "2")["score_id"].tolist() == ["s2"]


def test_spans_are_kept_beside_a_text_alone(store):
    spans = ((0, 2), (3, 5))
    store.add_scores([scored(1, text="ab cd", spans=spans), scored(2)])
    with store.engine.connect() as connection:
        kept = connection.execute(sa.text("SELECT spans FROM scores ORDER BY score_id")).scalars().all()
    assert (json.loads(kept[0]) if isinstance(kept[0], str) else kept[0]) == [[0, 2], [3, 5]] and kept[1] is None
    with pytest.raises(InputError, match="spans only beside the text"):
        store.add_scores([scored(3, spans=spans)])


def test_the_queries_go_by_an_index(plain):
    """Without statistics SQLite takes every equality for a rare one: it has to be kept from the wrong index."""
    plain.add_scores([scored(1)])
    plain.add_feedback([says()])
    asked = []
    sa.event.listen(plain.engine, "before_cursor_execute",
                    lambda connection, cursor, statement, values, *rest: asked.append((statement, values)))
    plain.frame("mail", "1", labelled=True)
    plain.frame("mail", labelled=True)
    plain.frame("mail", "1", last=5)
    plain.frame("mail", last=5)
    plain.look_up(says(), "mail")
    plain.look_up(Feedback("ham", id="i1"), "mail")
    plain.models()
    with plain.drawing("mail", "1") as drawing:
        drawing.population(START, now())
        drawing.add(a_draw("a"), ["s1"], [0.5])
    expected = {
        "score_id IN": "sqlite_autoindex_scores_1", "shadow_of IN": "ix_scores_shadow_of",
        "item_id IN": "ix_scores_item_id", "scores.version = ": "ix_scores_model_version_created_at",
        "scores.role = ": "ix_scores_model_created_at"}
    told = []
    with plain.engine.connect() as connection:
        for statement, values in tuple(asked):
            if "FROM scores" in statement:
                plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
                condition, index = next(each for each in expected.items() if each[0] in statement)
                assert any(f"scores USING INDEX {index}" in step for step in plan), (statement, plan)
                told.append(condition)
    assert set(told) == set(expected)


def test_what_the_rows_of_a_file_do_not_say_is_said_for_all_and_rows_without_a_label_are_left_out(tmp_path):
    path, left_out = tmp_path / "sheet.csv", []
    path.write_text("score_id,label,chosen,reviewer\ns1,a,,\ns2,,,\ns3,b,whim,ben\n")
    rows = read_feedback(path, "ann", "all", blank=left_out.append)
    assert rows == [Feedback("a", "s1", reviewer="ann", chosen="all"),
                    Feedback("b", "s3", reviewer="ben", chosen="whim")]
    assert left_out == [1]
    with pytest.raises(InputError, match=r"sheet.csv, row 2 has no label"):
        read_feedback(path)
    path.write_text("score_id,label\ns1,\n")
    with pytest.raises(InputError, match=r"sheet.csv, row 1 has no label"):
        read_feedback(path, blank=left_out.append)
