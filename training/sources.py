"""Sources: labelling functions, the vote matrix, and the table of what each source does."""

import ast
import hashlib
import importlib.metadata
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from training.errors import InputError
from training.task import ABSTAIN, Columns, Source

__all__ = ["ABSTAIN", "LabellingFunction", "Row", "labelling_function"]

Vote = str | int | None


class Row(Mapping[str, Any]):
    """What a labelling function sees of a row: the columns that it declared, by key or by attribute."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]):
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __getattr__(self, key: str) -> Any:
        try:
            return self._values[key]
        except KeyError:
            raise AttributeError(key) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class LabellingFunction:
    """A named function from a row to a class (name or index) or an abstention (-1 or None).

    columns: what of the row it reads. `text` and `spans` are at hand wherever an answer is scored, so a
    function that reads no other column runs in production too.
    evidence: a sentence that says what a vote of this source rests on.
    """

    name: str
    family: str
    evidence: str | None
    columns: tuple[str, ...]
    function: Callable[[Row], Vote]

    def __call__(self, row: Row) -> Vote:
        """Vote on a row."""
        return self.function(row)

    @property
    def needs_only_text(self) -> bool:
        """Whether it can run in production, where a row is a text with its spans."""
        return set(self.columns) <= {"text", "spans"}


def labelling_function(
    function: Callable[[Row], Vote] | None = None,
    *,
    name: str | None = None,
    family: str = "rule",
    evidence: str | None = None,
    columns: Sequence[str] = ("text",),
) -> Any:
    """Make a source of a function, which it decorates with arguments or without. The name defaults to the function's.

    >>> @labelling_function(evidence="The text asks for a subscription.")
    ... def asks_to_subscribe(row):
    ...     return "spam" if "subscribe" in row.text.lower() else ABSTAIN
    >>> asks_to_subscribe(Row({"text": "Please subscribe!"}))
    'spam'
    """
    reads = (columns,) if isinstance(columns, str) else tuple(columns)

    def decorate(function: Callable[[Row], Vote]) -> LabellingFunction:
        return LabellingFunction(name or function.__name__, family, evidence, reads, function)

    return decorate if function is None else decorate(function)


def load_labelling_functions(path: Path) -> tuple[LabellingFunction, ...]:
    """The labelling functions that a `sources.py` defines, in the order in which it defines them.

    The file stands alone: it may import the standard library and installed packages, no neighbour.

    Raises:
        InputError: the file cannot be run, defines none, or gives two the same name.
    """
    try:
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
        module = types.ModuleType("polarscore_sources_" + hashlib.sha256(path.read_bytes()).hexdigest()[:16])
        module.__file__ = str(path)
        sys.modules[module.__name__] = module  # dataclasses and typing look a module up by its name
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:  # whatever a user's file raises is that file's fault
        line = getattr(error, "lineno", None) or _line_in(path, error)
        where = f", line {line}" if line else ""
        raise InputError(f"{path}{where} cannot be run: {type(error).__name__}: {error}.") from error
    functions = [value for value in vars(module).values() if isinstance(value, LabellingFunction)]
    functions = list({id(function): function for function in functions}.values())
    if not functions:
        raise InputError(f"{path} defines no labelling function. Decorate one with @labelling_function().")
    names = [function.name for function in functions]
    if not all(name.isprintable() for name in names):
        raise InputError(f"{path} names a labelling function with characters that cannot be printed on one line.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path} defines two labelling functions named '{twice}'.")
    return tuple(functions)


def requirements_of(path: Path) -> list[str]:
    """The packages that a `sources.py` imports, pinned as installed (`["vaderSentiment==3.3.2"]`).

    Raises:
        InputError: an import that is neither the standard library's, ours, nor an installed package's.
    """
    packages = importlib.metadata.packages_distributions()
    pins = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or "."] if not node.level else ["."]
        for top in (module.split(".")[0] for module in modules):
            if top in sys.stdlib_module_names or top == "training":
                continue
            if top not in packages:
                raise InputError(f"{path} imports '{top or '.'}', which is no installed package, and so could not "
                                 "travel with the model. Put what it needs into sources.py itself.")
            pins.add(f"{packages[top][0]}=={importlib.metadata.version(packages[top][0])}")
    return sorted(pins)


def apply_labelling_functions(
    functions: Sequence[LabellingFunction],
    frame: pd.DataFrame,
    columns: Columns,
    classes: Sequence[str],
    ids: np.ndarray,
) -> np.ndarray:
    """The vote matrix (n, functions). A task's text and spans reach the functions as `text` and `spans`.

    Raises:
        InputError: a column that the data lacks, a function that raises or names no class; names the row.
    """
    values: dict[str, Any] = {str(name): frame[name].tolist() for name in frame.columns}
    values["text"] = frame[columns.text].tolist()
    values["spans"] = (list(zip(*(frame[name].tolist() for name in columns.spans), strict=True))
                       if columns.spans else [()] * len(frame))
    votes = np.full((len(frame), len(functions)), ABSTAIN, dtype=np.int16)
    for number, function in enumerate(functions):
        for column in function.columns:
            if column not in values:
                raise InputError(f"sources.py: '{function.name}' reads the column '{column}', which the data lacks.")
        views = zip(*(values[column] for column in function.columns), strict=True)
        cast = [_vote(function, Row(dict(zip(function.columns, view, strict=True))), ids[row])
                for row, view in enumerate(views)]
        votes[:, number] = encode_classes(pd.Series(cast, dtype=object), classes, ids,
                                          f"sources.py: '{function.name}'", quote=False)
    return votes


def encode_classes(
    values: pd.Series, classes: Sequence[str], ids: np.ndarray, where: str, quote: bool = True
) -> np.ndarray:
    """Class names or indices to indices (n,) int16; None, NaN, "", -1 become -1 (abstains, no answer).

    A string that is a class's name means that class, even if it looks like another's index.
    quote: whether an error repeats the value at fault, which may be a piece of somebody's text.

    Raises:
        InputError: names the row and the value that is no class; `where` begins the sentence.
    """
    codes = class_codes(classes)
    values = values.astype(object)
    try:
        mapped = values.map(codes, na_action="ignore")
    except TypeError:  # a list, an object: it cannot be a key of the map, so it is no class
        mapped = values.map(lambda value: codes.get(value) if isinstance(value, str | int | float) else None)
    wrong = (mapped.isna() & values.notna() | values.map(lambda value: isinstance(value, bool))).to_numpy(dtype=bool)
    if wrong.any():
        row = int(wrong.argmax())
        found = repr(str(values.iloc[row])[:60]) if quote else f"a value of type {type(values.iloc[row]).__name__}"
        if str(values.iloc[row]) in classes:
            raise InputError(f"{where} of row '{ids[row]}' is a number that names one class and is the index "
                             f"of another: {found}. Give classes by name, as strings.")
        raise InputError(f"{where} of row '{ids[row]}' is no class of this task: {found}. "
                         f"Expected {classes_shown(classes)}, or -1.")
    return mapped.astype(float).fillna(ABSTAIN).to_numpy(dtype=np.int16)


def class_codes(classes: Sequence[str]) -> dict[Any, int]:
    """What a class may be called, and its index: its name, its index as a number or a string; nothing is -1.

    A number that is one class's index and another's name is left out: it could mean either.
    """
    codes: dict[Any, int] = {ABSTAIN: ABSTAIN, "": ABSTAIN, None: ABSTAIN}
    codes |= {index: index for index, name in enumerate(classes) if name == str(index) or str(index) not in classes}
    codes |= {form: index for index in range(ABSTAIN, len(classes)) for form in (str(index), f"{index}.0")}
    return codes | {name: index for index, name in enumerate(classes)}


def classes_shown(classes: Sequence[str]) -> str:
    """What an error says was expected where something is no class."""
    return f"one of {', '.join(classes[:12])}{', …' if len(classes) > 12 else ''}, an index below {len(classes)}"


def source_table(votes: np.ndarray, answers: np.ndarray, sources: Sequence[Source]) -> pd.DataFrame:
    """What each source does, all as shares, without gold labels; one row a source.

    coverage: rows where it votes. overlaps: rows where it and another source vote. conflicts: rows where
    it votes and another source says something else. agreement: of its votes beside an answer of the LLM,
    those that say the same (null without any). classes: how many classes it ever names.
    """
    n, m = votes.shape
    voted = votes != ABSTAIN
    voters = voted.sum(axis=1)
    named = [int(k) for k in np.unique(votes[voted])]
    same = np.zeros((n, m), dtype=np.int32)  # how many sources say what source j says, j included
    for k in named:
        says = votes == k
        same += says * says.sum(axis=1, keepdims=True, dtype=np.int32)
    beside = voted & (answers != ABSTAIN)[:, None]
    agrees = beside & (votes == answers[:, None])
    with np.errstate(invalid="ignore"):
        agreement = agrees.sum(axis=0) / beside.sum(axis=0)
    return pd.DataFrame({
        "source": [source.name for source in sources],
        "family": [source.family for source in sources],
        "coverage": voted.mean(axis=0),
        "overlaps": (voted & (voters[:, None] > 1)).mean(axis=0),
        "conflicts": (voted & (same < voters[:, None])).mean(axis=0),
        "agreement": agreement,
        "classes": np.sum([(votes == k).any(axis=0) for k in named], axis=0, dtype=np.int64),
    })


def _vote(function: LabellingFunction, row: Row, identifier: str) -> Vote:
    try:
        return function(row)
    except (Exception, SystemExit) as error:  # whatever a user's function raises is that function's fault
        raise InputError(f"sources.py: '{function.name}' raised {type(error).__name__} "
                         f"on row '{identifier}'.") from error


def _line_in(path: Path, error: BaseException) -> int | None:
    lines = []
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines[-1] if lines else None
