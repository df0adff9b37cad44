"""Sources from a few labels: the file that is written, the labels that are read, the command, the benchmark."""

import ast
import json
import os
import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

import training.job
from tests.test_heuristics import mail, vectors_of
from training.bench_written import WRITTEN, written_task
from training.errors import InputError
from training.heuristics import placing
from training.heuristics.estimates import estimate
from training.heuristics.finding import Found, Heuristic
from training.heuristics.labels import drawn, own_labels, read_labels
from training.heuristics.sources_command import sources
from training.heuristics.stumps import MEASURES, Counts, Points, Says, phrases_of
from training.heuristics.writing import named, quoted, source_code
from training.rows import read_rows
from training.source_process import SourceProcess
from training.sources import ABSTAIN, class_codes, load_labelling_functions, requirements_of
from training.table import read_table, rows_to_table
from training.task import read_task

HOSTILE = ('say "hi"', "it's", "a\\b\n\"\"\"c", "x.*+?(y)[z]{2}", "naïve İSTANBUL ΑΣ ΑΣ", "ﬁ ½ ²", "{task} %s $1",
           "\ud800 lone", "‮ evil", "#! ^ # don’t", "\x00\x1f\x85 \u2028", "عربى ١٢٣ 你好")
NAMES = st.text(st.characters(exclude_characters="".join(map(chr, [*range(32), 127])), exclude_categories=["Cs"]),
                min_size=1, max_size=12)


@st.composite
def foundlings(draw):
    """Texts, and heuristics of what they say, whether or not any label would bear them out."""
    texts = draw(st.lists(st.one_of(st.text(max_size=60), st.sampled_from(HOSTILE)), min_size=1, max_size=6))
    classes = tuple(draw(st.lists(NAMES, min_size=2, max_size=4, unique=True)))
    phrases = sorted(set().union(*map(phrases_of, texts)))
    random.Random(draw(st.integers(0, 99))).shuffle(phrases)
    labels = st.integers(0, len(classes) - 1)
    known = estimate(draw(st.integers(0, 9)), 9, draw(st.integers(0, 3)), 3, 0.8)
    rules = [Says(phrase) for phrase in phrases[:8]]
    rules += [Counts(draw(st.sampled_from(list(MEASURES))), draw(st.booleans()), draw(st.integers(0, 5)))]
    card = {phrase: draw(st.dictionaries(labels, st.integers(1, 30), min_size=1)) for phrase in phrases[:6]}
    base = tuple(draw(st.lists(st.integers(0, 30), min_size=len(classes), max_size=len(classes))))
    kept = [Heuristic(rule, draw(labels), known) for rule in dict.fromkeys(rules)]
    kept.append(Heuristic(Points(base, card, draw(st.integers(0, 20))), None, known))
    return texts, Found(classes, tuple(kept), (50,) * len(classes), (), ())


@given(foundlings())
def test_every_file_compiles_and_votes_as_what_it_was_written_from(tmp_path_factory, case):
    texts, seen = case
    written = named(seen)
    path = tmp_path_factory.mktemp("written") / "sources.py"
    path.write_text(source_code("mail", seen, written), encoding="utf-8")
    functions = load_labelling_functions(path)
    assert [(function.name, function.family, function.evidence) for function in functions] == [
        (each.name, "written", each.evidence) for each in written]
    assert all(function.needs_only_text for function in functions)
    codes = class_codes(seen.classes)
    for function, each in zip(functions, written, strict=True):
        votes = [codes[function(_Row(text))] for text in texts]
        assert votes == each.heuristic.votes(texts).tolist()


class _Row:
    def __init__(self, text):
        self.text = text


@given(st.text())
def test_a_literal_is_the_text_on_one_line(text):
    assert ast.literal_eval(quoted(text)) == text
    assert len(quoted(text).splitlines()) == 1


def rows(table, labelled=True):
    names = np.array(table.classes)
    return [{"id": table.ids[row], "split": table.splits[row], "text": table.texts[row],
             "answer": names[table.answers[row]], **({"label": names[table.labels[row]]} if labelled else {})}
            for row in range(len(table))]


@pytest.fixture
def task(write_task):
    """The folder of a task that has no source yet."""
    return write_task(rows(mail()), sources=(), data_keys='split = "split"\nlabel = "label"')


@pytest.fixture
def table(task):
    told = read_task(task)
    return rows_to_table(told, read_rows(told.data_path), "data.jsonl")


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    """Runs `polarscore sources` with letters in the place of the encoder; returns what it prints."""
    monkeypatch.setenv("POLARSCORE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(training.job, "embeddings", lambda state: vectors_of)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(sources)

    def call(*arguments):
        app([str(argument) for argument in arguments], standalone_mode=False)
        return capfd.readouterr().out

    return call


def test_from_labels_to_a_task_that_can_be_trained(run, task, table, tmp_path):
    told = json.loads(run(task, "--from-task", 40, "--most", 10, "--json"))
    assert told["file"] == str(task / "sources.py") and sum(told["labels"].values()) == 40
    read = read_table(read_task(task))
    assert [source.name for source in read.sources] == [each["source"] for each in told["sources"]]
    for number, each in enumerate(told["sources"]):
        assert each["coverage"] == pytest.approx((read.votes[:, number] != ABSTAIN)[table.splits != "test"].mean())
        assert each["low"] <= each["precision"] <= each["high"] and each["evidence"].startswith(("The text", "By"))
    assert set(told["sources"][0]) == {"source", "class", "coverage", "right", "seen", "believed", "precision", "low",
                                       "high", "evidence"}
    assert requirements_of(task / "sources.py") == []
    code = (task / "sources.py").read_text()
    names = [source.name for source in read.sources]
    with SourceProcess(code, names, table.classes, 0.25) as process:
        found = process.votes(list(table.texts), table.spans)
    assert found.votes.tolist() == read.votes.tolist() and not found.failures


def test_draw_label_write(run, task, table, tmp_path):
    run(task, "--draw", 40)
    sheet = pd.read_csv(tmp_path / "mail-labels.csv", dtype=str)
    assert list(sheet) == ["id", "split", "text", "label"] and sheet["label"].isna().all()
    assert set(sheet["split"]) == {"train", "valid"} and not sheet["id"].duplicated().any()
    names = dict(zip(table.ids, np.array(table.classes)[table.labels], strict=True))
    sheet["label"] = sheet["id"].map(names)
    sheet.loc[0, "label"] = ""
    sheet.to_csv(tmp_path / "done.csv", index=False)
    assert "from 39 labels" in run(task, "--labels", tmp_path / "done.csv", "--out", tmp_path / "mine.py")
    assert load_labelling_functions(tmp_path / "mine.py")
    with pytest.raises(InputError, match=r"mail-labels.csv exists already\. It may hold labels"):
        run(task, "--draw", 40)


def test_a_file_of_somebody_is_kept(run, task):
    (task / "sources.py").write_text("mine")
    with pytest.raises(InputError, match=r"sources.py exists already.*--replace"):
        run(task, "--from-task", 40)
    assert (task / "sources.py").read_text() == "mine"
    run(task, "--from-task", 40, "--replace", "--most", 5)
    first = (task / "sources.py").read_bytes()
    run(task, "--from-task", 40, "--replace", "--most", 5)
    assert (task / "sources.py").read_bytes() == first and b"says" in first
    assert not list(task.glob(".*"))


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "give one of --labels"),
    (["--draw", 3, "--from-task", 3], "give one of --labels"),
    (["--from-task", 30, "--balanced"], "--balanced says how --draw draws"),
    (["--from-task", 0], "the number of labels should be from 1 to 60, the labelled rows in split train. Found 0"),
    (["--from-task", 61], "Found 61"),
    (["--draw", 91], "the number of labels should be from 1 to 90"),
    (["--draw", 91, "--balanced"], "the number of labels should be from 1 to 90"),
    (["--draw", 9, "--out", "x.txt"], "should end in .csv"),
    (["--from-task", 30, "--out", "nowhere/x.py"], "there is no folder nowhere"),
    (["--from-task", 30, "--out", ".", "--replace"], "is a folder"),
    (["--labels", "none.csv"], "none.csv does not exist"),
])
def test_bad_input_is_one_clear_line(run, task, arguments, message):
    with pytest.raises(InputError) as refused:
        run(task, *arguments)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (task / "sources.py").exists()


@pytest.mark.parametrize(("lines", "message"), [
    ("id,label\n", "has no label yet"),
    ("", "is empty"),
    ("id,label\nm1,\nm2,-1\n", "has no label yet"),
    ("id,class\nm1,spam\n", "lacks the column 'label'"),
    ("id,label\nm999,spam\n", "row 'm999' is not in the data"),
    ("id,label\nm4,spam\n", "row 'm4' lies in split test"),
    ("id,label\nm1,news\n", "'label' of row 'm1' is no class of this task: 'news'"),
    ("id,label\nm1,spam\nm1,ham\n", "row 'm1' has two different labels"),
])
def test_a_file_of_labels_with_something_wrong(table, tmp_path, lines, message):
    (tmp_path / "labels.csv").write_text(lines)
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / "labels.csv", table)


def test_labels_are_read_by_name_or_index_and_once(table, tmp_path):
    (tmp_path / "labels.jsonl").write_text('{"id": "m1", "label": "spam"}\n{"id": "m2", "label": 0}\n'
                                           '{"id": "m1", "label": 1}\n{"id": "m3", "label": null}\n')
    labelled = read_labels(tmp_path / "labels.jsonl", table)
    assert (labelled.rows.tolist(), labelled.labels.tolist()) == ([1, 2], [1, 0])


def test_blanks_around_a_label_are_passed_over_unless_a_class_is_called_so(table, tmp_path):
    (tmp_path / "labels.csv").write_text("id,label\nm1, ham\nm2,ham \nm3,spam\nm5, \n")
    classes = replace(table, classes=("ham", "ham ", "spam"))
    assert read_labels(tmp_path / "labels.csv", classes).labels.tolist() == [0, 1, 2]


def test_a_device_is_never_written_over(run, task, tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(InputError, match=r"pipe.py is no file but a device or a pipe"):
        run(task, "--from-task", 40, "--out", tmp_path / "pipe.py", "--replace")
    assert (tmp_path / "pipe.py").is_fifo()


def test_a_task_without_labels_of_its_own_is_told_so(table):
    table.labels[table.splits == "train"] = ABSTAIN
    with pytest.raises(InputError, match=r"from 1 to 30, the labelled rows in split valid\. Found 31"):
        own_labels(table, 31, 0)
    table.labels[:] = ABSTAIN
    with pytest.raises(InputError, match=r"the task has no labelled rows in split train"):
        own_labels(table, 5, 0)


@pytest.mark.parametrize(("right", "seen", "words"), [
    (0, 0, "# Seen with no label, 0.80 ("), (1, 1, "# Right on 1 of 1 label, "), (2, 3, "# Right on 2 of 3 labels, ")])
def test_what_is_known_stands_above_each_function(right, seen, words):
    known = estimate(3, 100, right, seen, 0.8)
    kept = (Heuristic(Says("free"), 0, known), Heuristic(Points((0, 1), {"free": {0: 5}}, 2), None, known))
    found = Found(("spam", "ham"), kept, (2, 2), (), ())
    lines = source_code("mail", found, named(found, {"weighs_words"})).splitlines()
    assert sum(line.startswith(words) and line.endswith("; votes on 3.0 % of the texts.") for line in lines) == 2
    assert max(map(len, lines)) <= 120
    assert "def weighs_words_2(row):" in lines  # the function is called as the source is


def test_own_labels_are_of_split_train(table):
    labelled = own_labels(table, 60, 3)
    assert set(table.splits[labelled.rows]) == {"train"} and len(np.unique(labelled.rows)) == 60
    assert labelled.labels.tolist() == table.labels[labelled.rows].tolist()


def test_a_balanced_draw_takes_the_answers_in_turn(table):
    rare = np.flatnonzero(table.splits != "test")[:5]
    table.answers[:] = 0
    table.answers[rare] = 1
    found = drawn(table, 10, 0, balanced=True)
    assert np.bincount(table.answers[found]).tolist() == [5, 5]
    assert len(drawn(table, 90, 0, balanced=True)) == 90


def test_a_file_that_comes_meanwhile_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(placing, "check_place", lambda *_: None)
    (tmp_path / "x").write_text("theirs")
    with pytest.raises(InputError, match=r"exists already\. Move it"):
        placing.place(tmp_path / "x", "ours", False, "Move it.")
    assert (tmp_path / "x").read_text() == "theirs" and len(list(tmp_path.iterdir())) == 1


def test_methods_of_the_benchmark_see_the_drawn_labels_alone(task, table):
    vectors, told = vectors_of(table.texts), read_task(task)
    seen = own_labels(table, 60, 1).rows
    other = table.labels.copy()
    unseen = np.setdiff1d(np.arange(len(table)), seen)
    other[unseen] = np.where(table.splits[unseen] == "train", ABSTAIN, 1 - other[unseen])
    shuffled = mail()
    shuffled.labels[:] = other
    for name, method in WRITTEN.items():
        risks = method(told, table, vectors, 1)
        assert risks.shape == (len(table),) and ((risks >= 0) & (risks <= 1)).all(), name
        assert np.array_equal(risks, method(told, shuffled, vectors, 1)), name
    written, blind = written_task(told, table, vectors, 1)
    assert (blind.labels == ABSTAIN).all() and written.sources == blind.sources
