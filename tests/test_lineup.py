from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.lineup import Lineup, run, share
from serving.refusal import Refusal
from serving.schema import Item
from serving.scorer import Scored

BROKEN = RuntimeError("a text")


@dataclass(frozen=True, eq=False)
class Prepared:
    items: list
    tokens: int
    failures: dict = field(default_factory=dict)

    def text_hashes(self):
        return [f"hash of {item.text}" for item in self.items]


class FakeScorer:
    """Knows classes and sources, and says who it is. fails: at `prepare`, at `run`, or nowhere."""

    def __init__(self, version, classes=("no", "yes"), sources=("friend",), fails=None, error=BROKEN):
        self.version, self.classes, self.sources, self.entities = version, classes, sources, 0
        self.name, self.fails, self.error, self.passes = "Fake", fails, error, []

    def remember(self, parts):
        pass

    def prepare(self, items):
        if self.fails == "prepare":
            raise self.error
        for place, item in enumerate(items):
            if item.answer not in self.classes:
                raise Refusal("unknown_class", "no class", f"items.{place}.answer")
            for source in item.votes:
                if source not in self.sources:
                    raise Refusal("unknown_source", "no source", f"items.{place}.votes.{source}")
        return Prepared(list(items), sum(len(item.text) for item in items))

    def run(self, prepared):
        self.passes.append([item.text for each in prepared for item in each.items])
        if self.fails == "run":
            raise self.error
        return [[Scored(item.answer, item.answer, 0.5, {}, dict(item.votes), False) for item in each.items]
                for each in prepared]


class Failures(list):
    def __call__(self, scorer, kind, items):
        self.append((scorer.version, kind, items))


def items(*texts, **changes):
    return [Item(**{"text": text, "answer": "yes"} | changes) for text in texts]


def texts(count):
    return [f"text {number}" for number in range(count)]


def who(answered):
    """Which version answers each item, in order."""
    return [answered.answers[place].scorer.version for place in sorted(answered.answers)]


def score(lineup, *requests):
    failures = Failures()
    found = run([lineup.prepare(request, failures) for request in requests], failures)
    return found, failures


def test_one_version_answers_all_in_one_pass():
    only = FakeScorer("1")
    found, failures = score(Lineup(only), items("a", "b"), items("c"))
    assert [who(each) for each in found] == [["1", "1"], ["1"]] and not failures
    assert only.passes == [["a", "b", "c"]] and found[0].shadow == {}
    assert found[1].answers[0].text_hash == "hash of c"


def test_a_shadow_scores_everything_and_answers_nothing():
    lineup = Lineup(FakeScorer("1"), FakeScorer("2"))
    assert lineup.prepare(items("abc", "d"), Failures()).tokens == 8  # of both
    found, failures = score(lineup, items("a", "b"), items("c"))
    assert [who(each) for each in found] == [["1", "1"], ["1"]] and not failures
    assert [{place: by.scorer.version for place, by in each.shadow.items()} for each in found] == [
        {0: "2", 1: "2"}, {0: "2"}]
    assert lineup.second.passes == [["a", "b", "c"]]


@pytest.mark.parametrize("fails", ["prepare", "run"])
@pytest.mark.parametrize(("error", "kind"), [
    (RuntimeError("a text"), "RuntimeError"), (Refusal("source_failed", "a text"), "source_failed"),
    (MemoryError(), "MemoryError")])
def test_a_shadow_that_fails_touches_no_answer(fails, error, kind):
    found, failures = score(Lineup(FakeScorer("1"), FakeScorer("2", fails=fails, error=error)), items("a", "b"))
    assert who(found[0]) == ["1", "1"] and found[0].shadow == {} and failures == [("2", kind, 2)]


def test_a_shadow_with_other_classes_fails_for_itself():
    found, failures = score(Lineup(FakeScorer("1"), FakeScorer("2", classes=("no", "perhaps"))), items("a"))
    assert who(found[0]) == ["1"] and failures == [("2", "unknown_class", 1)]


def test_a_split_is_by_id_and_each_item_is_scored_once():
    lineup = Lineup(FakeScorer("1"), FakeScorer("2"), 30)
    (found,), failures = score(lineup, items(*texts(2000)))
    said = who(found)
    assert not failures and found.shadow == {}
    assert 0.26 < said.count("2") / 2000 < 0.34
    assert sorted(lineup.first.passes[0] + lineup.second.passes[0]) == sorted(texts(2000))
    assert [found.answers[place].part.prepared.items[found.answers[place].number].text for place in range(2000)] == [
        f"text {place}" for place in range(2000)]


def test_an_item_is_always_answered_by_the_same_version():
    one, two = Lineup(FakeScorer("1"), FakeScorer("2"), 50), Lineup(FakeScorer("3"), FakeScorer("4"), 50)
    first = [Item(id=f"i{n}", text=f"text {n}", answer="yes") for n in range(50)]
    later = [Item(id=f"i{n}", text="changed", answer="no") for n in reversed(range(50))]
    (before,), _ = score(one, first)
    (after,), _ = score(two, later)
    assert [version == "2" for version in who(before)] == [version == "4" for version in who(after)][::-1]
    assert all(one.answers(item).version == version for item, version in zip(first, who(before), strict=True))


@given(st.text(min_size=1), st.text(min_size=1))
def test_shares_lie_between_0_and_100_and_come_from_the_id(name, text):
    item = Item.model_construct(id=name, text=text, answer=None, votes={}, spans=())
    assert 0 <= share(item) < 100
    assert share(item) == share(item.model_copy(update={"text": "another"}))
    assert share(item.model_copy(update={"id": None})) == share(
        Item.model_construct(id=None, text=text, answer=None, votes={}, spans=()))


def test_a_split_of_everything_leaves_the_first_nothing():
    lineup = Lineup(FakeScorer("1"), FakeScorer("2"), 100)
    (found,), _ = score(lineup, items("a", "b"))
    assert who(found) == ["2", "2"] and lineup.first.passes == []


@pytest.mark.parametrize("fails", ["prepare", "run"])
def test_what_the_second_cannot_answer_the_first_does(fails):
    lineup = Lineup(FakeScorer("1"), FakeScorer("2", fails=fails), 50)
    found, failures = score(lineup, items(*texts(40)), items(*texts(20)))
    assert [who(each) for each in found] == [["1"] * 40, ["1"] * 20]
    assert {(version, kind) for version, kind, _ in failures} == {("2", "RuntimeError")}
    theirs = sum(share(item) < 50 for item in items(*texts(40), *texts(20)))
    assert sum(count for _, _, count in failures) == theirs


def test_with_other_classes_a_split_is_a_shadow():
    lineup = Lineup(FakeScorer("1"), FakeScorer("2", classes=("yes", "no")), 100)
    (found,), _ = score(lineup, items("a"))
    assert not lineup.splits and who(found) == ["1"] and list(found.shadow) == [0]


@pytest.mark.parametrize("percent", [0, 50])
def test_each_version_is_given_the_votes_of_the_sources_it_knows(percent):
    lineup = Lineup(FakeScorer("1", sources=("old", "both")), FakeScorer("2", sources=("both", "new")), percent)
    (found,), failures = score(lineup, items(*texts(20), votes={"old": 1, "both": 1, "new": 1}))
    assert not failures
    for by in [*found.answers.values(), *found.shadow.values()]:
        assert set(by.scored.votes) == set(by.scorer.sources)
    with pytest.raises(Refusal) as refusal:
        score(lineup, items(*texts(20), votes={"nobody": 1}))
    assert refusal.value.kind == "unknown_source"


def test_a_refusal_names_the_place_in_the_request():
    lineup = Lineup(FakeScorer("1"), FakeScorer("2"), 50)
    asked = items(*texts(20))
    place = max(n for n, item in enumerate(asked) if share(item) >= 50)
    asked[place] = asked[place].model_copy(update={"answer": "perhaps"})
    with pytest.raises(Refusal) as refusal:
        score(lineup, asked)
    assert refusal.value.where == f"items.{place}.answer"


def test_an_item_at_fault_is_refused_whichever_was_to_answer_it():
    lineup = Lineup(FakeScorer("1"), FakeScorer("2"), 50)
    asked = items(*texts(20))
    place = max(n for n, item in enumerate(asked) if share(item) < 50)
    asked[place] = asked[place].model_copy(update={"answer": "perhaps"})
    with pytest.raises(Refusal) as refusal:
        score(lineup, asked)
    assert refusal.value.where == f"items.{place}.answer"


def test_requests_of_before_and_after_a_swap_may_share_a_pass():
    one, two, three = FakeScorer("1"), FakeScorer("2"), FakeScorer("3")
    before = Lineup(one, two)
    after = before.led_by(two)
    assert after.second is None  # it is the first one now
    failures = Failures()
    ready = [before.prepare(items("a"), failures), after.prepare(items("b"), failures),
             after.beside(three).prepare(items("c"), failures)]
    found = run(ready, failures)
    assert [who(each) for each in found] == [["1"], ["2"], ["2"]] and not failures
    assert [[by.scorer.version for by in each.shadow.values()] for each in found] == [["2"], [], ["3"]]


def test_a_first_version_that_fails_fails_the_pass():
    with pytest.raises(RuntimeError):
        score(Lineup(FakeScorer("1", fails="run"), FakeScorer("2")), items("a"))


def test_an_item_is_seen_without_votes_of_sources_that_only_the_other_version_knows():
    one, two = FakeScorer("1", sources=("friend", "old")), FakeScorer("2", sources=("friend", "new"))
    (asked,) = items("x", votes={"friend": "yes", "old": "no", "new": "no", "nobody": "no"})
    lineup = Lineup(one, two, 50)
    assert list(lineup.as_seen_by(one, asked).votes) == ["friend", "old", "nobody"]
    assert list(lineup.as_seen_by(two, asked).votes) == ["friend", "new", "nobody"]
    assert Lineup(one).as_seen_by(one, asked) == asked
