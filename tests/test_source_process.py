import importlib
import os
import threading
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import InputError
from training.source_process import SourceProcess, scrubbed
from training.sources import apply_labelling_functions, load_labelling_functions
from training.task import Columns

CLASSES = ("ham", "spam", "2")
WELL = '''
import re
from training.sources import ABSTAIN, labelling_function

WORD = re.compile("[aeiou]+")

@labelling_function()
def by_name(row):
    return "spam" if "buy" in row.text else ABSTAIN

@labelling_function
def by_index(row):
    return len(row.text) % 2

@labelling_function(columns=("text", "spans"))
def by_spans(row):
    return {3: "ham", 4: "1", 5: None, 6: float("nan"), 7: "", 8: 1.0, 9: "-1"}.get(len(row["text"]), -1) if not (
        row.spans) else row.spans[0][0] % 2

@labelling_function(columns="text")
def vowels(row):
    return "ham" if WORD.search(row.text) else ABSTAIN
'''
BAD = '''
import os, re, sys, time
from training.sources import ABSTAIN, labelling_function

HOSTILE = re.compile("(a+)+$")
print("at import")

@labelling_function
def first(row):
    print("printed", row.text)
    sys.stdout.write("{}\\n")
    sys.stderr.write("noise\\n")
    os.write(1, b"raw\\n")
    return 0

@labelling_function
def fails(row):
    text = row.text
    if text == "raise":
        raise ValueError(text)
    if text == "exit":
        sys.exit(3)
    if text == "hard exit":
        os._exit(0)
    if text == "memory":
        return len(bytearray(3 * 2**30)) * 0
    if text == "regex":
        return int(bool(HOSTILE.match("a" * 40 + "!")))
    if text == "sleep":
        time.sleep(60)
    if text == "stubborn":
        while True:
            try:
                time.sleep(60)
            except Exception:
                pass
    if text == "deaf":
        return max(range(10**12)) * 0  # goes on inside of C: no signal is seen
    if text == "read":
        return len(sys.stdin.read()) + len(os.read(0, 5))
    if text.startswith("value"):
        return {"value list": [1], "value bool": True, "value class": "purple", "value 7": 7, "value dict": {},
                "value object": object()}[text]
    return 1

@labelling_function
def last(row):
    return 0
'''


def names(code):
    return [line.split("(")[0][4:] for line in code.splitlines() if line.startswith("def ")]


def started(code, seconds=0.1):
    return SourceProcess(code, names(code), CLASSES, seconds)


def ask(process, *texts):
    return process.votes(texts, np.zeros((len(texts), 0, 2), dtype=np.int64))


@pytest.fixture(scope="module")
def well():
    with started(WELL) as process:
        yield process


@pytest.fixture(scope="module")
def bad():
    with started(BAD) as process:
        yield process


def expected(tmp_path, texts, spans):
    file = tmp_path / "sources.py"
    file.write_text(WELL)
    frame = pd.DataFrame({"text": texts, "a": pd.Series([tuple(s[0]) for s in spans] if spans.shape[1] else [()] *
                                                        len(texts), dtype=object)})
    columns = Columns(path="-", spans=("a",) if spans.shape[1] else ())
    return apply_labelling_functions(load_labelling_functions(file), frame, columns, CLASSES, np.arange(len(texts)))


@pytest.mark.parametrize("entities", [0, 1])
@given(texts=st.lists(st.text(max_size=12), min_size=1, max_size=20))
def test_votes_are_those_of_training(well, tmp_path_factory, texts, entities):
    spans = np.tile(np.arange(len(texts))[:, None, None], (1, entities, 2))
    found = well.votes(texts, spans)
    wanted = expected(tmp_path_factory.mktemp("code"), texts, spans)
    assert found.votes.dtype == np.int16 and found.failures == {}
    assert np.array_equal(found.votes, wanted)


def test_long_texts_and_many_are_answered(well):
    texts = ["buy " * 50_000] + [f"{'x' * (n % 9)}" for n in range(3_000)]
    votes = ask(well, *texts).votes
    assert votes.shape == (3_001, 4) and votes[0].tolist() == [1, 0, -1, 0]
    assert votes[1:, 1].tolist() == [n % 9 % 2 for n in range(3_000)]


def test_only_the_functions_that_are_named_run_and_in_that_order():
    with SourceProcess(WELL, ["vowels", "by_name"], CLASSES, 0.1) as process:
        assert ask(process, "buy", "xyz").votes.tolist() == [[0, 1], [-1, -1]]


def test_without_functions_or_texts_there_is_nothing_to_ask(well):
    before = psutil.Process().children()
    with SourceProcess("", [], CLASSES, 0.1) as process:
        assert psutil.Process().children() == before
        assert ask(process, "a", "b").votes.shape == (2, 0)
    assert ask(well).votes.shape == (0, 4)


@pytest.mark.parametrize(("text", "reason"), [
    ("raise", "raised"), ("exit", "raised"), ("memory", "raised"), ("hard exit", "ended"), ("regex", "too_slow"),
    ("sleep", "too_slow"), ("stubborn", "too_slow"), ("deaf", "too_slow"), ("value list", "no_class"),
    ("value bool", "no_class"), ("value class", "no_class"), ("value 7", "no_class"), ("value dict", "no_class"),
    ("value object", "no_class"),
])
def test_what_a_function_does_makes_it_abstain_and_nothing_else(bad, text, reason):
    began = time.monotonic()
    found = ask(bad, "fine", text, "fine")
    assert found.votes.tolist() == [[0, 1, 0], [0, -1, 0], [0, 1, 0]]
    assert found.failures == {"fails": {reason: 1}}
    assert time.monotonic() - began < 10
    assert ask(bad, "fine").failures == {}


def test_what_a_function_reads_and_prints_is_not_the_protocol(bad):
    ask(bad, "read")
    assert ask(bad, "fine", "fine").votes.tolist() == [[0, 1, 0]] * 2


def test_a_source_that_is_slow_on_every_text_bounds_the_call_and_is_then_left_alone():
    with started(BAD, seconds=0.05) as process:
        began = time.monotonic()
        found = ask(process, *["sleep"] * 200)
        assert time.monotonic() - began < 4
        assert (found.votes[:, [0, 2]] == 0).all() and (found.votes[:, 1] == -1).all()
        assert found.failures == {"fails": {"too_slow": 3, "skipped": 197}}
        for _ in range(5):
            ask(process, "sleep", "sleep", "sleep")
        began = time.monotonic()
        assert ask(process, "sleep").failures == {"fails": {"skipped": 1}}
        assert time.monotonic() - began < 0.05
        process._rests = [0.0] * 3
        assert ask(process, "fine").failures == {} and process._slow == [0, 0, 0]


def test_a_call_ends_in_time_even_if_every_function_is_slow():
    code = BAD + "".join(f"\n@labelling_function\ndef slow{n}(row):\n    time.sleep(60)\n" for n in range(20))
    with started(code, seconds=0.1) as process:
        began = time.monotonic()
        found = ask(process, "fine", "fine")
        assert time.monotonic() - began < 4
        assert found.votes[0, 0] == 0 and found.votes[-1, -1] == -1
        assert {reason for each in found.failures.values() for reason in each} == {"too_slow", "skipped"}


def test_a_process_that_was_killed_comes_back(well):
    for _ in range(2):
        for child in psutil.Process(well._link._process.pid).children():
            child.kill()
        assert ask(well, "buy").votes.shape == (1, 4)
        os.kill(well._link._process.pid, 9)
        ask(well, "buy")
        assert ask(well, "buy").votes[0].tolist() == [1, 1, 0, 0]


def test_threads_take_turns_and_each_gets_its_own(well):
    wrong = []

    def play(number):
        for length in range(number, number + 30):
            votes = ask(well, "y" * length, "buy").votes
            if votes[0, 1] != length % 2 or votes[1, 0] != 1:
                wrong.append(length)

    threads = [threading.Thread(target=play, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_it_ends_with_its_parent_and_when_it_is_closed():
    process = started(WELL)
    family = [psutil.Process(process._link._process.pid)]
    family += family[0].children()
    assert len(family) == 2
    process.close()
    psutil.wait_procs(family, 5)
    assert not any(each.is_running() and each.status() != "zombie" for each in family)
    assert ask(process, "buy").failures["by_name"] == {"ended": 1}


@pytest.mark.parametrize("code", ["1/0", "import no_such_module_anywhere", "x ="])
def test_code_that_cannot_run_is_one_line(code):
    with pytest.raises(InputError, match=r"sources\.py cannot be run in a process of its own: \w+\.$"):
        SourceProcess(code, ["f"], CLASSES, 0.1)


def test_secrets_stay_here(monkeypatch):
    kept = {"PATH": "/bin", "HOME": "/root", "LANG": "C", "NLTK_DATA": "/data", "TMPDIR": "/tmp"}
    private = {"POLARSCORE_DATABASE_URL": "x", "POLARSCORE_HOME": "x", "MLFLOW_TRACKING_URI": "x", "MY_API_KEY": "x",
               "PGPASSWORD": "x", "HF_TOKEN": "x", "STORE": "postgresql://ada:word@host/db", "DATABASE_URL": "x"}
    assert scrubbed(kept | private) == kept
    monkeypatch.setenv("POLARSCORE_DATABASE_URL", "x")
    code = WELL + "\nimport os\n@labelling_function\ndef told(row):\n    return sum('POLAR' in n for n in os.environ)\n"
    with started(code) as process:
        assert ask(process, "a").votes[0, -1] == 0


def test_the_file_and_the_folder_may_be_gone(tmp_path, monkeypatch):
    (tmp_path / "training").mkdir()  # not the package that is meant
    (tmp_path / "training" / "__init__.py").write_text("1/0")
    monkeypatch.chdir(tmp_path)
    with started(WELL) as process:
        assert ask(process, "buy").votes[0, 0] == 1
    assert importlib.import_module("training.sources")
