import csv
import gzip
import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.errors import InputError
from training.table import read_table
from training.task import read_task

SECRET = "Marzipan-Krokodil"  # a word of the texts that no error may repeat
ROWS = [
    {"id": "r1", "text": f"hello, {SECRET}\nnow", "answer": "ham", "votes": [0, "spam"], "label": 0},
    {"id": "r2", "text": f"buy {SECRET}", "answer": 1, "votes": [1, -1], "label": "spam"},
    {"id": "r3", "text": f"NA {SECRET} 漢字 😀", "answer": -1, "votes": [None, 0], "label": -1},
]
SPANNED = 'label = "label"\nspans = ["span"]'


def changed(**keys):
    """The rows, the second one changed; a value of ... leaves the key out."""
    return [ROWS[0], {key: value for key, value in (ROWS[1] | keys).items() if value is not ...}, ROWS[2]]


def same(one, other):
    return all(np.array_equal(getattr(one, key), getattr(other, key))
               for key in ("ids", "texts", "spans", "splits", "answers", "votes", "labels"))


def as_csv(rows, votes):
    out = io.StringIO()
    cells = [{key: value for key, value in row.items() if key != "votes"} | votes(row["votes"]) for row in rows]
    writer = csv.DictWriter(out, cells[0].keys())
    writer.writeheader()
    writer.writerows(cells)
    return out.getvalue()


def as_parquet(rows):
    out = io.BytesIO()
    pd.DataFrame(rows).to_parquet(out)
    return out.getvalue()


def indexed(rows):
    """The rows with classes as indices alone, which a typed format can hold."""
    index = {"ham": 0, "spam": 1, None: -1}
    return [row | {"answer": index.get(row["answer"], row["answer"]), "label": index.get(row["label"], row["label"]),
                   "votes": [index.get(vote, vote) for vote in row["votes"]]} for row in rows]


def by_name(votes):
    return dict(zip(("s1", "s2"), votes, strict=True))


LINES = "\n".join(map(json.dumps, ROWS))
CSV = as_csv(ROWS, lambda votes: {f"vote:{name}": vote for name, vote in by_name(votes).items()})
FORMS = {
    "data.jsonl": LINES,
    "lines.json": "\ufeff" + LINES.replace("\n", "\r\n") + "\n\n",
    "data.jsonl.gz": gzip.compress(LINES.encode()),
    "dicts.jsonl": [row | {"votes": by_name(row["votes"])} for row in ROWS],
    "sparse.jsonl": [row | {"votes": {name: vote for name, vote in by_name(row["votes"]).items() if vote != -1}}
                     for row in ROWS],
    "strings.jsonl": [row | {"votes": json.dumps(row["votes"])} for row in ROWS],
    "columns.jsonl": [{key: value for key, value in row.items() if key != "votes"} | {"extra": [1]}
                      | {f"vote:{name}": vote for name, vote in by_name(row["votes"]).items()} for row in ROWS],
    "digits.jsonl": [row | {"answer": str(row["answer"]), "votes": list(map(str, row["votes"]))}
                     for row in indexed(ROWS)],
    "data.csv": CSV,
    "marked.csv": "\ufeff" + CSV,
    "data.csv.gz": gzip.compress(CSV.encode()),
    "json_votes.csv": as_csv(ROWS, lambda votes: {"votes": json.dumps(votes)}),
    "json_dicts.csv": as_csv(ROWS, lambda votes: {"votes": json.dumps(by_name(votes))}),
    "floats.csv": as_csv(indexed(ROWS), lambda votes: {f"vote:{n}": float(v) for n, v in by_name(votes).items()}),
    "data.parquet": as_parquet(indexed(ROWS)),
    "dicts.parquet": as_parquet([row | {"votes": by_name(row["votes"])} for row in indexed(ROWS)]),
    "names.parquet": as_parquet([row | {"answer": answer, "label": answer, "votes": json.dumps(row["votes"])}
                                 for row, answer in zip(ROWS, ("ham", "spam", None), strict=True)]),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_rows_in_any_form_are_the_same_table(write_task, name):
    table = read_table(read_task(write_task(FORMS[name], name)))
    assert table.ids.tolist() == ["r1", "r2", "r3"] and table.texts.tolist() == [row["text"] for row in ROWS]
    assert table.answers.tolist() == [0, 1, -1] and table.labels.tolist() == [0, 1, -1]
    assert table.votes.tolist() == [[0, 1], [1, -1], [-1, 0]] and table.spans.shape == (3, 0, 2)
    assert [source.name for source in table.sources] == ["s1", "s2"] and len(table) == 3


def test_a_column_of_categories_is_a_column_of_names(write_task):
    out = io.BytesIO()
    frame = pd.DataFrame(indexed(ROWS)).assign(answer=pd.Categorical(["ham", "spam", None]))
    frame.to_parquet(out)
    assert read_table(read_task(write_task(out.getvalue(), "data.parquet"))).answers.tolist() == [0, 1, -1]


def test_a_name_that_looks_like_an_index_is_a_name(write_task):
    toml = '[task]\nname = "t"\nclasses = ["1", "0"]\n[data]\npath = "data.jsonl"\n[[sources]]\nname = "s"\n'
    table = read_table(read_task(write_task([{"id": "a", "text": "x", "answer": "0", "votes": ["1"]}], toml=toml)))
    assert table.answers.tolist() == [1] and table.votes.tolist() == [[0]]
    with pytest.raises(InputError, match="row 'a' is a number that names one class and is the index of another: '0'"):
        read_table(read_task(write_task([{"id": "a", "text": "x", "answer": 0, "votes": ["1"]}], toml=toml)))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(texts, st.integers(-1, 1), st.integers(-1, 1)), min_size=1, max_size=8))
def test_any_text_comes_through_csv_and_json_lines_alike(write_task, drawn):
    rows = [{"id": "first", "text": "x", "answer": 0, "votes": [0, 0], "label": 0}]
    rows += [{"id": f"i{n}", "text": text, "answer": answer, "votes": [vote, -1], "label": -1}
             for n, (text, answer, vote) in enumerate(drawn)]
    lines = read_table(read_task(write_task(rows)))
    cells = as_csv(rows, lambda votes: {f"vote:{name}": vote for name, vote in by_name(votes).items()})
    assert same(lines, read_table(read_task(write_task(cells, "data.csv"))))
    assert lines.texts.tolist() == [row["text"] for row in rows]


def test_a_text_longer_than_the_csv_modules_limit_is_read(write_task):
    cells = CSV.replace("buy", "buy " * 50_000)
    assert len(read_table(read_task(write_task(cells, "data.csv"))).texts[1]) > 200_000


def test_spans_are_pairs_inside_the_text_however_written(write_task):
    for pair in ([0, 5], "[0, 5]", (0, 5)):
        rows = [row | {"span": pair} for row in ROWS]
        table = read_table(read_task(write_task(rows, data_keys=SPANNED)))
        assert table.spans.tolist() == [[[0, 5]]] * 3


def test_rows_without_a_split_get_one_by_their_id_alone(write_task):
    rows = [ROWS[0] | {"id": f"row {n}"} for n in range(400)]
    table = read_table(read_task(write_task(rows)))
    shares = {split: (table.splits == split).mean() for split in ("train", "valid", "test")}
    assert shares["train"] == pytest.approx(0.8, abs=0.06) and shares["valid"] == pytest.approx(0.1, abs=0.05)
    again = read_table(read_task(write_task(rows[::-1])))
    assert again.splits.tolist() == table.splits.tolist()[::-1]
    assert len(table.split("test")) == (table.splits == "test").sum()


def test_a_split_that_is_not_there_is_refused(write_task):
    rows = [row | {"part": "train"} for row in ROWS]
    table = read_table(read_task(write_task(rows, data_keys='label = "label"\nsplit = "part"')))
    with pytest.raises(InputError, match="no row in split 'test'"):
        table.split("test")
    with pytest.raises(InputError, match="split 'dev' is unknown"):
        table.split("dev")


def test_the_digest_tells_data_and_rules_apart(write_task):
    rule = "from training.sources import labelling_function\n@labelling_function()\ndef rule(row):\n    return 0\n"
    made = [(ROWS, None), (changed(label=0), None), (ROWS, rule), (ROWS, rule)]
    digests = [read_table(read_task(write_task(rows, code=code))).digest for rows, code in made]
    assert len(set(digests)) == 3 and digests[2] == digests[3]


def without(key):
    return [{name: value for name, value in row.items() if name != key} for row in ROWS]


BAD_ROWS = {
    "no id column": (without("id"), "lacks the column 'id'"),
    "no text column": (without("text"), "lacks the column 'text'"),
    "no answer column": (without("answer"), "lacks the column 'answer'"),
    "no votes column": (without("votes"), "lacks the column 'votes'"),
    "no label column": (without("label"), "lacks the column 'label'"),
    "strange answer": (changed(answer="eggs"), "'answer' of row 'r2' is no class of this task: 'eggs'"),
    "answer too high": (changed(answer=2), "'answer' of row 'r2' is no class of this task: '2'"),
    "answer too low": (changed(answer=-2), "'answer' of row 'r2'"),
    "answer between": (changed(answer=0.5), "'answer' of row 'r2'"),
    "answer a truth value": (changed(answer=True), "'answer' of row 'r2' is no class of this task: 'True'"),
    "answer a list": (changed(answer=[1]), "'answer' of row 'r2'"),
    "answer infinite": (changed(answer=float("inf")), "'answer' of row 'r2'"),
    "strange label": (changed(label="eggs"), "'label' of row 'r2' is no class of this task: 'eggs'"),
    "strange vote": (changed(votes=[0, "eggs"]), "'votes' of row 'r2' is no class of this task: 'eggs'"),
    "vote a list": (changed(votes=[[1], 0]), "'votes' of row 'r2'"),
    "all votes lists": ([row | {"votes": [[0], [1]]} for row in ROWS], "'votes' of row 'r1'"),
    "too few votes": (changed(votes=[0]), "'votes' of row 'r2' should have 2 entries, one a source. Found 1"),
    "too many votes": (changed(votes=[0, 1, 1]), "'votes' of row 'r2' should have 2 entries, one a source. Found 3"),
    "no votes": (changed(votes=None), "'votes' of row 'r2' should have 2 entries"),
    "votes a word": (changed(votes="ham"), "'votes' of row 'r2' should have 2 entries"),
    "votes mixed": (changed(votes={"s1": 0}), "'votes' of row 'r1' should be an object"),
    "unknown source": ([row | {"votes": {"s9": 0}} for row in ROWS], "'votes' of row 'r1' names the source 's9'"),
    "repeated id": (changed(id="r1"), "row 'r1' occurs more than once"),
    "ids that print alike": ([ROWS[0] | {"id": 1}, ROWS[1] | {"id": "1"}], "row '1' occurs more than once"),
    "null id": (changed(id=None), "row 2 has no id in 'id'"),
    "empty id": (changed(id=""), "row 2 has no id in 'id'"),
    "half a character in the id": (changed(id="\ud800"), "row 2 has an id in 'id' that is no valid Unicode"),
    "null text": (changed(text=None), "row 'r2': 'text' should be a text. Found NoneType"),
    "NaN text": (changed(text=float("nan")), "row 'r2': 'text' should be a text. Found float"),
    "empty text": (changed(text=""), "row 'r2': 'text' should be a text. Found a blank one"),
    "blank text": (changed(text=" \n\u3000"), "row 'r2': 'text' should be a text. Found a blank one"),
    "number for a text": (changed(text=7), "row 'r2': 'text' should be a text. Found int"),
    "all abstain": ([row | {"votes": [-1, None]} for row in ROWS], "every source abstains on every row of data.jsonl"),
    "no answer at all": ([row | {"answer": None} for row in ROWS], "no row of data.jsonl has an answer of the LLM"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_one_line_that_names_the_row(write_task, case):
    rows, found = BAD_ROWS[case]
    assert_refused(write_task(rows), found)


@pytest.mark.parametrize("pair", [[0, 99], [-1, 2], [2, 2], [3, 1], [0, 1.5], [0], [0, 1, 2], None, "x", "[0",
                                  [None, 1], {"start": 0}, [0, float("nan")], [0, 10**30]])
def test_spans_outside_the_text_are_refused(write_task, pair):
    rows = [row | {"span": [0, 1]} for row in ROWS]
    rows[1]["span"] = pair
    assert_refused(write_task(rows, data_keys=SPANNED), "row 'r2': 'span'")


@pytest.mark.parametrize("split", ["Test", "dev", None, 1, ["train"]])
def test_an_unknown_split_is_refused(write_task, split):
    rows = [row | {"part": "train"} for row in ROWS]
    rows[1]["part"] = split
    assert_refused(write_task(rows, data_keys='label = "label"\nsplit = "part"'),
                   "row 'r2': 'part' should be one of train, valid, test")


whole = gzip.compress((LINES * 20).encode())
BAD_FILES = {
    "empty.jsonl": ("", "is empty"),
    "blank.jsonl": (" \n\n", "is empty"),
    "empty.csv": ("", "is empty"),
    "mark.csv": ("\ufeff", "is empty"),
    "header.csv": ("id,text,answer,label,vote:s1,vote:s2\n", "is empty"),
    "empty.jsonl.gz": (gzip.compress(b""), "is empty"),
    "empty.parquet": (as_parquet(indexed(ROWS)[:0] or pd.DataFrame(columns=list(ROWS[0]))), "is empty"),
    "cut.jsonl.gz": (whole[:-20], "is not a whole gzip file"),
    "flipped.jsonl.gz": (whole[:60] + bytes([whole[60] ^ 255]) + whole[61:], "is not a whole gzip file"),
    "wrong_sum.jsonl.gz": (whole[:-6] + bytes([whole[-6] ^ 255]) + whole[-5:], "is not a whole gzip file"),
    "no_gzip.jsonl.gz": (LINES, "is not a whole gzip file"),
    "latin.jsonl": ('{"id": "é"}'.encode("latin-1"), "is not UTF-8"),
    "latin.csv": (CSV.encode() + b"r4,\xe9,ham,ham,0,0\n", "is not UTF-8"),
    "broken.jsonl": (LINES + f'\n{{"text": "{SECRET}', "line 4 is not valid JSON"),
    "no_object.jsonl": (LINES + "\n[1]", "line 4 should be a JSON object. Found list"),
    "whole.json": (json.dumps(ROWS), "line 1 should be a JSON object. Found list"),
    "deep.jsonl": ("[" * 200_000, "line 1 is JSON with too long a number or too deep a nesting"),
    "long.jsonl": ('{"id": ' + "9" * 5000 + "}", "line 1 is JSON with too long a number or too deep a nesting"),
    "short_row.csv": (CSV + f"r4,{SECRET}\n", "row 4 should have 6 cells, as the header. Found 2"),
    "long_row.csv": (CSV + f"r4,{SECRET},0,0,0,0,0\n", "row 4 should have 6 cells, as the header. Found 7"),
    "open_quote.csv": (CSV + f'r4,"{SECRET},0,0,0,0\n', "is not a CSV file that can be read"),
    "twice.csv": (CSV.replace("label", "text"), "two columns named 'text'"),
    "one_source.csv": (CSV.replace("vote:s2", "vote"), "lacks the column 'vote:s2'"),
    "other_source.csv": (CSV.replace("vote:s2", "vote:s9"), "has the column 'vote:s9', which is no source"),
    "broken.parquet": (b"PAR1" + SECRET.encode(), "is not a Parquet file"),
    "cut.parquet": (as_parquet(indexed(ROWS))[:-40], "is not a Parquet file"),
    "data.xlsx": ("x", "has an unknown format"),
    "data": ("x", "has an unknown format"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_line_that_names_it(write_task, name):
    content, found = BAD_FILES[name]
    assert_refused(write_task(content, name), found, name)


def test_a_missing_file_is_refused(write_task):
    folder = write_task(ROWS)
    (folder / "data.jsonl").unlink()
    assert_refused(folder, r"data.jsonl does not exist")


def assert_refused(folder, found, name=""):
    with pytest.raises(InputError) as refusal:
        read_table(read_task(folder))
    said = str(refusal.value)
    assert found in said and name in said
    assert "\n" not in said and SECRET not in said


@pytest.mark.parametrize(
    ("name", "classes", "sources", "splits"),
    [("sms", 2, 73, (4571, 500, 500)), ("youtube", 2, 10, (1686, 120, 250)), ("trec", 6, 68, (5033, 500, 500)),
     ("semeval", 9, 164, (1749, 178, 600)), ("cdr", 2, 32, (8297, 902, 4617)),
     ("chemprot", 10, 27, (12861, 1607, 1607)),
     ("health_advice_gpt4", 3, 13, (6074, 867, 1735)), ("health_advice_gpt35", 3, 8, (6074, 867, 1735)),
     ("media_bias", 2, 8, (2115, 302, 604))],
)
def test_the_benchmarks_tasks_load(bench, name, classes, sources, splits):
    table = read_table(read_task(bench / name))
    assert (len(table.classes), len(table.sources)) == (classes, sources) == (classes, table.votes.shape[1])
    assert tuple((table.splits == split).sum() for split in ("train", "valid", "test")) == splits
    assert table.votes.min() == -1 and table.votes.max() < classes and (table.labels >= 0).all()
