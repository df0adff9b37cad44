import importlib.metadata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.errors import InputError
from training.sources import (
    ABSTAIN,
    Row,
    encode_classes,
    labelling_function,
    load_labelling_functions,
    requirements_of,
    source_table,
)
from training.table import read_table
from training.task import Source, read_task

SECRET = "Marzipan-Krokodil"
ROWS = [{"id": "r1", "text": f"free {SECRET}", "answer": 0, "votes": [0], "label": 0, "author": "eve", "span": [0, 4]},
        {"id": "r2", "text": "see you", "answer": 1, "votes": [-1], "label": 1, "author": "bob", "span": [4, 7]}]
HEAD = "from training.sources import ABSTAIN, labelling_function\n"


def rules(*bodies):
    """A `sources.py` with functions f0, f1, … of these bodies."""
    return HEAD + "".join(f"@labelling_function()\ndef f{n}(row):\n    {body}\n" for n, body in enumerate(bodies))


def test_a_function_is_decorated_with_arguments_or_without():
    @labelling_function
    def bare(row):
        return 0

    @labelling_function(columns="author")
    def reads_one(row):
        return 0

    assert (bare.name, bare.columns, bare(Row({}))) == ("bare", ("text",), 0)
    assert reads_one.columns == ("author",)


def test_functions_vote_beside_the_stored_votes(write_task):
    code = rules("return 'spam' if 'free' in row.text else ABSTAIN", "return None if 'you' in row['text'] else 0")
    table = read_table(read_task(write_task(ROWS, sources=("s1",), code=code)))
    assert [(source.name, source.family) for source in table.sources] == [("s1", "s1"), ("f0", "rule"), ("f1", "rule")]
    assert table.votes.tolist() == [[0, 1, 0], [-1, -1, -1]]


def test_functions_alone_are_sources_enough(write_task):
    rows = [{key: value for key, value in row.items() if key != "votes"} for row in ROWS]
    table = read_table(read_task(write_task(rows, sources=(), code=rules("return 1"))))
    assert table.votes.tolist() == [[1], [1]]


def test_a_function_sees_the_columns_that_it_declares_and_no_other(write_task):
    code = HEAD + (
        "@labelling_function(name='all', family='people', evidence='Eve.', columns=('author', 'spans', 'text'))\n"
        "def rule(row):\n"
        "    assert list(row) == ['author', 'spans', 'text'] and len(row) == 3\n"
        "    (start, end), = row.spans\n"
        "    return 'spam' if row.author == 'eve' and row.text[start:end] == 'free' else 'ham'\n"
    )
    folder = write_task(ROWS, sources=("s1",), data_keys='label = "label"\nspans = ["span"]', code=code)
    assert read_table(read_task(folder)).votes[:, 1].tolist() == [1, 0]
    (function,) = load_labelling_functions(folder / "sources.py")
    assert (function.name, function.family, function.evidence) == ("all", "people", "Eve.")
    assert not function.needs_only_text


@pytest.mark.parametrize("peek", ["row.label", "row['label']", "row.answer", "row.votes"])
def test_what_a_function_did_not_declare_is_out_of_its_sight(write_task, peek):
    assert_refused(write_task(ROWS, sources=("s1",), code=rules(f"return {peek}")), "'f0' raised")


def test_a_decorated_function_can_be_called_as_it_is():
    @labelling_function(evidence="It shouts.", columns=("text", "spans"))
    def shouts(row):
        return "spam" if row.text.isupper() else ABSTAIN

    assert shouts(Row({"text": "BUY"})) == "spam" and shouts(Row({"text": "hi"})) == ABSTAIN
    assert shouts.needs_only_text and shouts.name == "shouts"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("x = 1", "defines no labelling function"),
        ("1 / 0", "line 1 cannot be run: ZeroDivisionError"),
        ("def f(:", "line 1 cannot be run: SyntaxError"),
        ("\nimport sys; sys.exit(3)", "line 2 cannot be run: SystemExit"),
        ("import no_such_package_at_all", "line 1 cannot be run: ModuleNotFoundError"),
        ("\x00", "cannot be run"),
        (HEAD + "labelling_function(3)", "cannot be run: AttributeError"),
        (rules("return 0") + "@labelling_function(name='f0')\ndef g(row): return 0", "two labelling functions named"),
        (HEAD + "@labelling_function(name='a\\nb')\ndef f(row): return 0", "cannot be printed on one line"),
        (HEAD + "@labelling_function()\ndef s1(row): return 0", "names a source 's1', a name that is taken"),
        (HEAD + "@labelling_function()\ndef LLM(row): return 0", "names a source 'LLM', a name that is taken"),
        (HEAD + "@labelling_function(columns=('colour',))\ndef f(row): return 0", "'f' reads the column 'colour'"),
        (rules("raise ValueError(row.text)"), "'f0' raised ValueError on row 'r1'"),
        (rules("import sys; sys.exit()"), "'f0' raised SystemExit on row 'r1'"),
        (rules("return row.text"), "'f0' of row 'r1' is no class of this task: a value of type str"),
        (rules("return True"), "'f0' of row 'r1' is no class of this task: a value of type bool"),
        (rules("return 2"), "'f0' of row 'r1' is no class of this task"),
        (rules("return [0]"), "'f0' of row 'r1' is no class of this task: a value of type list"),
    ],
)
def test_a_bad_sources_py_is_one_line_that_names_the_function(write_task, code, found):
    assert_refused(write_task(ROWS, sources=("s1",), code=code), found)


def assert_refused(folder, found):
    with pytest.raises(InputError) as refusal:
        read_table(read_task(folder))
    assert found in str(refusal.value) and "sources.py" in str(refusal.value)
    assert "\n" not in str(refusal.value) and SECRET not in str(refusal.value)


@given(st.lists(st.sampled_from(["ham", "spam", 0, 1, "0", "1", 1.0, "1.0", None, "", -1, "-1", "-1.0", float("nan")])))
def test_classes_by_name_or_index_are_the_same(values):
    meant = {"ham": 0, "0": 0, "spam": 1, "1": 1, "1.0": 1, 0: 0, 1: 1}
    found = encode_classes(pd.Series(values, dtype=object), ("ham", "spam"), np.arange(len(values)), "answer")
    assert found.tolist() == [meant.get(value, -1) for value in values]


def test_the_source_table_of_an_example_worked_by_hand():
    votes = np.array([[0, 0, -1], [0, 1, -1], [-1, 1, -1], [-1, -1, -1]])
    table = source_table(votes, np.array([0, 0, -1, 1]), [Source(name=name) for name in "abc"]).set_index("source")
    columns = ["coverage", "overlaps", "conflicts", "agreement", "classes"]
    assert table.loc["a", columns].tolist() == [0.5, 0.5, 0.25, 1, 1]
    assert table.loc["b", columns].tolist() == [0.75, 0.5, 0.25, 0.5, 2]
    assert table.loc["c", columns].fillna(-9).tolist() == [0, 0, 0, -9, 0]


@given(arrays(np.int16, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.integers(-1, 2)))
def test_the_source_table_is_that_of_the_definitions(votes):
    answers = np.zeros(len(votes), dtype=np.int16)
    table = source_table(votes, answers, [Source(name=f"s{j}") for j in range(votes.shape[1])])
    for j in range(votes.shape[1]):
        others = [[v for i, v in enumerate(row) if i != j and v >= 0] for row in votes if row[j] >= 0]
        own = [row[j] for row in votes if row[j] >= 0]
        assert table["coverage"][j] == pytest.approx(len(own) / len(votes))
        assert table["overlaps"][j] == pytest.approx(sum(map(bool, others)) / len(votes))
        conflicts = sum(any(v != mine for v in rest) for mine, rest in zip(own, others, strict=True))
        assert table["conflicts"][j] == pytest.approx(conflicts / len(votes))
        assert table["classes"][j] == len(set(own))


def test_the_requirements_are_the_installed_packages_that_it_imports(tmp_path):
    path = tmp_path / "sources.py"
    path.write_text(HEAD + "import re, json\nimport numpy as np\nfrom scipy.stats import norm\n"
                    "def f():\n    import yaml.nodes\n")
    pins = {package: importlib.metadata.version(package) for package in ("numpy", "scipy", "PyYAML")}
    assert requirements_of(path) == sorted(f"{package}=={version}" for package, version in pins.items())
    for line in ("import neighbour", "from . import neighbour", "from .neighbour import x"):
        path.write_text(line)
        with pytest.raises(InputError, match="which is no installed package"):
            requirements_of(path)
