import numpy as np
import pytest

from training.cautions import agreement, warnings_of
from training.table import read_table
from training.task import ABSTAIN, read_task
from training.weighting import families_of
from training.worth import from_votes

CLASSES = ("ham", "spam")


def warned(votes, families, classes=CLASSES):
    return warnings_of(votes, families, classes, from_votes(votes, families, len(classes)))


def made(n=2000, right=(0.8, 0.75, 0.75, 0.75), share=0.5, seed=0):
    """Votes (n, m) of independent sources, each right so often, on two classes."""
    generator = np.random.default_rng(seed)
    gold = generator.random(n) < share
    return np.column_stack([gold ^ (generator.random(n) >= chance) for chance in right]).astype(np.int64)


FAMILIES = ["llm", "a", "b", "c"]


def test_by_hand():
    votes = np.array([[0, 0, 1], [1, 0, ABSTAIN], [0, ABSTAIN, 0], [ABSTAIN, 1, 1]])
    # pairs (answer, vote): (0, 0), (0, 1), (1, 0), (0, 0); 0.75 · 0.75 + 0.25 · 0.25 by chance
    assert agreement(votes, np.array([False, True, True]), 2) == (0.5, 0.625)


def test_sound_sources_raise_no_alarm():
    assert warned(made(), FAMILIES) == []
    assert warned(made(share=0.9), FAMILIES) == []
    assert warned(made(right=(0.97, 0.9, 0.9, 0.9), share=0.96), FAMILIES) == []  # one class nearly always, rightly


@pytest.mark.parametrize("seed", range(5))
def test_votes_that_know_nothing_are_told(seed):
    (found,) = warned(made(right=(0.9, 0.5, 0.5, 0.5), seed=seed), FAMILIES)
    assert "where chance alone would give 50%" in found and found.endswith("polarscore train TASK --audit N")


def test_a_constant_source_agrees_by_chance_alone():
    votes = made(right=(0.8, 0.8))
    votes[:, 1] = 1
    assert "chance alone" in warned(votes, FAMILIES[:2])[0]
    votes[:, 0] = 1  # the LLM as well: all agree, and know nothing
    assert "agree on 100% of their votes, where chance alone would give 100%" in warned(votes, FAMILIES[:2])[0]


def test_an_llm_that_says_one_class_is_told_where_others_differ():
    votes = made(n=4000, right=(0.8, 0.75, 0.75, 0.75))
    votes[np.random.default_rng(1).random(4000) < 0.9, 0] = 1
    assert any("the LLM says 'spam' in 95%" in found.replace("The", "the") for found in warned(votes, FAMILIES))


def test_sources_of_the_llms_family_contradict_nothing():
    assert "no source outside" in warned(made(), ["llm"] * 4)[0].lower()
    assert "no source outside" in warned(made(right=(0.8,)), ["llm"])[0].lower()
    votes = made()
    votes[40:, 3] = ABSTAIN
    assert "only 40 votes" in warned(votes, ["llm", "llm", "llm", "a"])[0]


def test_answers_that_stand_alone_and_a_family_that_outweighs_are_told():
    votes = made()
    votes[:1700, 1:] = ABSTAIN
    assert warned(votes, FAMILIES)[0].startswith("85% of the answers have no vote")
    votes = made()
    votes[:1400, 3] = ABSTAIN
    (found,) = warned(votes, ["llm", "llm", "llm", "a"])
    assert "own family counts as" in found


def test_neither_the_order_of_rows_nor_copies_change_the_word():
    votes = made(right=(0.9, 0.5, 0.5, 0.5))
    assert warned(votes[::-1], FAMILIES) == warned(votes, FAMILIES)
    assert warned(votes[:, [0, 1, 1, 1]], FAMILIES)[0][:60] == warned(votes, FAMILIES)[0][:60]


def test_no_answer_at_all_is_a_warning_and_no_crash():
    votes = made()
    votes[:, 0] = ABSTAIN
    assert len(warned(votes, FAMILIES)) == 1


@pytest.mark.slow
def test_on_the_nine_tasks_it_speaks_where_agreement_is_empty(bench):
    spoken = set()
    for folder in sorted(path.parent for path in bench.glob("*/task.toml")):
        task = read_task(folder)
        table = read_table(task)
        votes = np.column_stack([table.answers, table.votes])[table.splits != "test"]
        if warned(votes, families_of(task, table), table.classes):
            spoken.add(folder.name)
    assert spoken == {"cdr", "chemprot"}
