"""Sources from a few labels: what is proposed, believed and chosen."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given
from hypothesis import strategies as st

from training.errors import InputError
from training.heuristics import card, words
from training.heuristics.choosing import chosen
from training.heuristics.estimates import PRIOR_LABELS, Estimates, estimate, estimates_of
from training.heuristics.finding import Heuristic, Sample, found
from training.heuristics.labels import Labelled, own_labels
from training.heuristics.opinion import FOLDS, Lesson, Opinion, folds_of, opinion_of
from training.heuristics.stumps import Counts, Points, Says, covered, phrases_of, points_votes, stumps_of
from training.heuristics.writing import evidence_of, named, source_code
from training.table import Table
from training.task import ABSTAIN

SPAM = ("free prize", "win cash now", "call 0800 123", "claim your prize", "free ringtone!", "urgent: win")
HAM = ("see you", "i am home", "good night", "love you", "meet at 6", "how are you?")


def mail(n=120, seed=0, classes=("ham", "spam")):
    """A table of n messages that are easily told apart; one in four is of split test."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    texts = np.array([" ".join(generator.choice(SPAM if label else HAM, 3)) + f" {generator.choice(list('abcdefgh'))}"
                      for label in labels], dtype=object)
    answers = np.where(generator.random(n) < 0.2, 1 - labels, labels)
    splits = np.where(np.arange(n) % 4 == 0, "test", np.where(np.arange(n) % 4 == 1, "valid", "train")).astype(object)
    return Table(classes, (), np.array([f"m{row}" for row in range(n)], dtype=object), texts,
                 np.zeros((n, 0, 2), dtype=np.int64), splits, answers.astype(np.int16),
                 np.empty((n, 0), dtype=np.int16), labels.astype(np.int16), np.full(n, np.nan), "")


def vectors_of(texts):
    """Unit vectors of letters, in the place of an encoder."""
    counts = np.array([[text.count(letter) for letter in "abcdefghilmnoprstuwy0"] for text in texts]) + 0.1
    return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def code_of(table, labelled, **how):
    seen = found(Sample.of(table, vectors_of(table.texts), labelled), **how)
    return source_code("mail", seen, named(seen))


def test_what_a_source_sees_of_a_text():
    assert words.words("Don't CALL 0800 123, now!") == " ^ don't call # # now ! "
    assert words.words("") == " ^ "
    assert phrases_of("Call 12!") == {"call", "#", "!", "^ call", "call #", "# !", "^ call #", "call # !"}
    assert words.says("Call me", "^ call", "x") and not words.says("Recall me", "call")
    assert not words.says("call me", "call us") and words.says("a 99 b", "a # b")
    counts = [getattr(words, name)("HTTP://a.b www.C 12!") for name in (
        "word_count", "digit_count", "capital_count", "link_count", "exclamation_count")]
    assert counts == [7, 2, 5, 2, 1]


@given(st.lists(st.text(max_size=40), min_size=1, max_size=8))
def test_every_candidate_covers_the_texts_on_which_it_would_vote(texts):
    candidates = stumps_of(texts, fewest=1)
    covers = candidates.covers.toarray().astype(bool)
    assert covers.shape == (len(texts), len(candidates.stumps))
    for stump, column in zip(candidates.stumps, covers.T, strict=True):
        assert covered(stump, texts).tolist() == column.tolist()
    assert len({column.tobytes() for column in covers.T}) == covers.shape[1]


def test_a_phrase_of_few_different_texts_is_no_candidate():
    copies = ["secret code"] * 6 + [f"hello {letter}" for letter in "abcdefg"]
    phrases, covers = stumps_of(copies).phrases()
    assert not any("secret" in phrase for phrase in phrases)
    assert covers.shape == (13, len(phrases))
    assert stumps_of([]).covers.shape == (0, 0)


def an_opinion(beliefs, rows):
    folds = np.arange(rows) % FOLDS
    return Opinion(np.array(beliefs), np.array([beliefs] * FOLDS), folds, 0.0, ())


def test_coverage_and_precision_by_hand():
    covers = sparse.csc_matrix(np.array([[1, 0], [1, 1], [0, 1], [0, 1]], dtype=np.float32))
    opinion = an_opinion([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]], 3)
    seen = estimates_of(covers, opinion, np.array([0, 1, 2]), np.array([0, 0, 1]), np.array([0.5, 0.5]))
    assert seen.label.tolist() == [0, 1]
    assert seen.count.tolist() == [2, 3]
    assert seen.seen.tolist() == [2, 2]
    assert seen.right.tolist() == [2, 0]  # each label of the second is what turns the class that it denies
    q = np.array([(0.9 + 0.8 + 3 * 0.5) / 5, (0.2 + 0.8 + 0.9 + 3 * 0.5) / 6])
    assert seen.believed == pytest.approx(q)
    assert seen.precision == pytest.approx((seen.right + PRIOR_LABELS * q) / (2 + PRIOR_LABELS))
    assert seen.one(0).coverage == 0.5


def test_right_three_times_of_three_is_not_believed():
    few, many = estimate(10, 100, 3, 3, 0.5), estimate(10, 100, 60, 60, 0.5)
    assert few.precision == pytest.approx(6 / 9) and few.low < 0.5
    assert many.precision > 0.95 and many.low > 0.9
    assert few.low < few.precision < few.high <= 1


def test_a_label_has_no_say_in_what_it_tells():
    """A heuristic with one label has, out of fold, the class of the opinion, here the wrong one."""
    covers = sparse.csc_matrix(np.ones((4, 1), dtype=np.float32))
    seen = estimates_of(covers, an_opinion([[0.6, 0.4]] * 4, 1), np.array([0]), np.array([1]), np.array([0.5, 0.5]))
    assert (seen.label.tolist(), seen.right.tolist(), seen.seen.tolist()) == ([1], [0], [1])


def some_estimates(label, precision, covers):
    count = np.asarray(covers.sum(axis=0)).ravel().astype(np.int64)
    zero = np.zeros(len(label), dtype=np.int64)
    return Estimates(np.array(label), count, zero, zero, np.array(precision), np.array(precision), covers.shape[0])


def test_the_next_heuristic_finds_other_texts():
    covers = sparse.csc_matrix(np.array([[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]) * 1.0)
    seen = some_estimates([0, 0, 0], [0.9, 0.925, 0.8], covers)
    balance, allowed = np.array([0.5, 0.5]), np.array([True, True])
    # Least 0.75, lift 0.6, 0.7, 0.2: gain 2.4, 2.1, 0.4, each over 3; then 0 and 0.2 · 1 · (1 − 1/5).
    assert chosen(covers, seen, balance, 9, allowed) == [0, 2]
    assert chosen(covers, seen, balance, 1, allowed) == [0]
    assert chosen(covers, seen, balance, 9, np.array([False, True])) == []


def test_the_classes_take_turns_and_a_poor_heuristic_is_left_out():
    covers = sparse.csc_matrix(np.eye(6)[:, :5])
    seen = some_estimates([0, 0, 0, 1, 1], [0.9, 0.9, 0.9, 0.8, 0.7], covers)
    assert chosen(covers, seen, np.array([0.5, 0.5]), 9, np.array([True, True])) == [0, 3, 1, 2]


@given(st.integers(0, 2**32 - 1))
def test_every_fold_has_its_share_of_every_class(seed):
    labels = np.array([0] * 10 + [1] * 5)
    folds = folds_of(labels, seed)
    assert np.bincount(folds[labels == 0]).tolist() == [2] * 5 and np.bincount(folds[labels == 1]).tolist() == [1] * 5


def test_an_opinion_that_nothing_can_teach_is_the_shares_of_the_classes():
    vectors = np.tile(vectors_of(["x"]), (20, 1))
    lesson = Lesson(sparse.csr_matrix((20, 0)), vectors, np.arange(10), np.array([0, 1] * 5), 2, np.ones(10))
    opinion = opinion_of(lesson, folds_of(lesson.labels, 0))
    assert opinion.beliefs == pytest.approx(0.5)


def test_lines_that_tell_the_classes_are_an_opinion_too():
    labels = np.array([0, 1] * 20)
    noise = np.random.default_rng(0).normal(size=(40, 30))
    vectors = np.hstack([np.eye(2)[labels], noise])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    lines = np.eye(2, 32)
    lesson = Lesson(sparse.csr_matrix((40, 0)), vectors, np.arange(6), labels[:6], 2, np.ones(6), lines)
    opinion, without = (opinion_of(each, folds_of(lesson.labels, 0)) for each in (lesson, replace(lesson, lines=None)))
    assert "zero_shot" in opinion.used and "zero_shot" not in without.used
    assert opinion.loss < without.loss
    assert (opinion.beliefs.argmax(axis=1) == labels).mean() > (without.beliefs.argmax(axis=1) == labels).mean()


def test_a_table_of_points_says_what_the_opinion_says_and_its_copy_too():
    table = mail()
    phrases, covers = stumps_of(list(table.texts)).phrases()
    beliefs = np.where((table.labels == 1)[:, None], [0.02, 0.98], [0.95, 0.05])
    columns, points, base = card.fitted(covers, beliefs)
    said = card.votes(covers, columns, points, base, 5)
    assert (said == table.labels)[said != ABSTAIN].all() and (said != ABSTAIN).mean() > 0.9
    assert points.min() == 0 and base.min() == 0
    rows = np.arange(20)
    fitted = card.card_of(covers, phrases, an_opinion(beliefs, 20), rows, table.labels[rows].astype(np.int64))
    assert fitted is not None
    assert points_votes(fitted[0], list(table.texts)).tolist() == card.votes(
        covers, columns, points, base, fitted[0].lead).tolist()
    assert card.card_of(sparse.csc_matrix((120, 0)), [], an_opinion(beliefs, 20), rows, table.labels[rows]) is None


def test_points_by_hand():
    table = Points((3, 0), {"win": {1: 8}, "home": {0: 2}}, 5)
    assert points_votes(table, ["win", "win home", "home", "nothing", "Win, WIN"]).tolist() == [1, -1, 0, -1, 1]


def test_found_sources_are_right_and_of_every_class():
    table = mail()
    seen = found(Sample.of(table, vectors_of(table.texts), own_labels(table, 40, 0)), most=12)
    assert len(seen.heuristics) <= 12 and sum(seen.labels) == 40 and seen.without == ()
    assert isinstance(seen.heuristics[-1].rule, Points)
    assert {each.label for each in seen.heuristics} == {0, 1, None}
    votes = np.column_stack([each.votes(list(table.texts)) for each in seen.heuristics])
    assert (votes == table.labels[:, None])[votes != ABSTAIN].mean() > 0.8


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_the_rows_changes_no_byte(seed):
    table, labelled = mail(), own_labels(mail(), 30, 0)
    order = np.random.default_rng(seed).permutation(len(table))
    shuffled = np.random.default_rng(seed).permutation(30)
    moved = Labelled(np.argsort(order)[labelled.rows][shuffled], labelled.labels[shuffled])
    assert code_of(table.rows(order), moved, most=10) == code_of(table, labelled, most=10)
    assert own_labels(table.rows(order), 30, 0).labels.tolist() == labelled.labels.tolist()


def test_labels_outside_of_the_budget_and_texts_of_split_test_change_no_byte():
    table = mail()
    labelled = own_labels(table, 30, 0)
    outside = np.setdiff1d(np.arange(len(table)), labelled.rows)
    other = table.labels.copy()
    other[outside] = 1 - other[outside]
    texts = np.where(table.splits == "test", "win win win", table.texts).astype(object)
    changed = replace(table, labels=other, texts=texts)
    assert code_of(changed, labelled, most=10) == code_of(table, labelled, most=10)


def test_a_class_with_one_label_gets_no_function_and_is_told():
    table = mail(classes=("ham", "spam", "news"))
    labelled = own_labels(table, 30, 0)
    labelled.labels[0] = 2
    seen = found(Sample.of(table, vectors_of(table.texts), labelled), most=10)
    assert seen.without == ("news",) and seen.labels[2] == 1
    assert all((each.votes(list(table.texts)) != 2).all() for each in seen.heuristics)


def test_labels_of_one_class_are_not_enough():
    table = mail()
    rows = np.flatnonzero((table.labels == 1) & (table.splits == "train"))[:5]
    with pytest.raises(InputError, match=r"at least two classes should have 2 labels each\. Found ham 0, spam 5"):
        found(Sample.of(table, vectors_of(table.texts), Labelled(rows, np.ones(5, dtype=np.int64))))


@pytest.mark.parametrize(("rule", "sentence"), [
    (Says("subscribe"), "The text says 'subscribe'."),
    (Says("^ how many"), "The text begins with 'how many'."),
    (Says("call #"), "The text says 'call #', # being any number."),
    (Counts("digit_count", True, 11), "The text has at least 11 digits."),
    (Counts("link_count", True, 1), "The text has at least 1 link."),
    (Counts("word_count", False, 3), "The text has at most 3 words."),
])
def test_evidence_is_a_sentence_about_the_text(rule, sentence):
    assert evidence_of(rule) == sentence


def test_names_are_distinct_and_leave_those_alone_that_are_taken():
    one = estimate(1, 2, 1, 1, 0.9)
    rules = [Says("a b"), Says("a b'"), Says("я"), Says("ю"), Says("^ a"), Says("# !"), Counts("word_count", True, 2)]
    table = mail()
    seen = replace(found(Sample.of(table, vectors_of(table.texts), own_labels(table, 30, 0)), most=4),
                   heuristics=tuple(Heuristic(rule, 0, one) for rule in rules))
    assert [each.name for each in named(seen, {"says_a_b"})] == [
        "says_a_b_2", "says_a_b_3", "says_phrase", "says_phrase_2", "begins_a", "says_number_exclamation",
        "words_at_least_2"]
