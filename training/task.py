"""A task: what `task.toml` declares, read into a frozen object that refuses unknown keys."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.asking import Ask
from training.errors import InputError
from training.toml_file import read_toml

ABSTAIN = -1
"""The vote of a source that has nothing to say about a row; also: no answer, no gold label."""

LLM = "LLM"
"""How the LLM, the first source of all, is named beside the others."""


NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
"""What a task or a model may be called: it becomes part of paths and URIs."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Name = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""A name on one line: it stands in error messages, tables and tags."""


class Source(_Frozen):
    """A cheap, noisy voter. Sources of one family (one model, one author) are likely to err together.

    evidence: a sentence that says what its votes rest on, shown where an answer is explained.
    """

    name: Name
    family: str = ""
    evidence: str = ""

    @model_validator(mode="before")
    @classmethod
    def _family_defaults_to_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("family"):
            return {**values, "family": values.get("name", "")}
        return values


class Columns(_Frozen):
    """`[data]`: the data file and which of its columns means what. None: the data has no such column.

    confidence: the LLM's own in its answer, 0 to 1; used by the benchmark alone, and only if the data has it.
    followup: what the LLM said when it was asked again, `{way: {"label": class, "raw": what it wrote}}` or
    `{way: class}`; used by `polarscore correct` alone, and only if the data has it.
    """

    path: Name
    id: str = "id"
    split: str | None = None
    text: str = "text"
    spans: tuple[str, ...] = ()
    answer: str = "answer"
    response: str | None = None
    votes: str = "votes"
    confidence: str = "llm_confidence"
    followup: str = "followup"
    label: str | None = None


class Header(_Frozen):
    """`[task]`: the name, the classes in the order of their indices, and whose answers are checked."""

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    classes: tuple[Name, ...]
    llm: str = "llm"
    llm_family: str = "llm"


class Task(_Frozen):
    """Everything `task.toml` says, and the folder it stands in. Immutable. ask: how the LLM is asked, if it says so."""

    folder: Path
    task: Header
    data: Columns
    ask: Ask | None = None
    about: dict[str, Any] = {}
    sources: tuple[Source, ...] = ()

    @property
    def name(self) -> str:
        """The task's name, which a registered model takes by default."""
        return self.task.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a class's index is its place here."""
        return self.task.classes

    @property
    def data_path(self) -> Path:
        """The data file."""
        return self.folder / self.data.path

    @property
    def sources_path(self) -> Path | None:
        """`sources.py` beside the task file, if there is one."""
        path = self.folder / "sources.py"
        return path if path.is_file() else None

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "Task":
        _refuse_repeats("classes", self.classes)
        _refuse_repeats("sources", [LLM, *(source.name for source in self.sources)])
        if len(self.classes) < 2:
            raise ValueError(f"[task] classes should name at least two classes. Found {len(self.classes)}")
        if self.ask:
            self.ask.check(self.classes)
            _refuse_repeats("sources", [LLM, *(s.name for s in self.sources), *(s.name for s in self.ask.sources)])
        return self


def read_task(folder: Path) -> Task:
    """Read `folder/task.toml`.

    Raises:
        InputError: no such file, no valid TOML, or a key that is unknown, missing or of the wrong kind.
    """
    path = Path(folder) / "task.toml"
    if Path(folder).is_file():
        raise InputError(f"{folder} is a file. Expected a task's folder with a task.toml in it.")
    content = read_toml(path, "A task is a folder with a task.toml in it.")
    if "folder" in content:
        raise InputError(f"{path}: unknown key 'folder'.")
    try:
        return Task(folder=Path(folder).absolute(), **content)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}.") from None


def describe(error: ValidationError) -> str:
    """The first thing wrong, in one line that names the key and never repeats the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key '{key}'"
        case "missing":
            return f"the key '{key}' is missing"
        case "value_error":
            return str(first["ctx"]["error"]) if not key else f"'{key}': {first['ctx']['error']}"
        case _:
            return f"'{key}': {first['msg']}"


def _refuse_repeats(what: str, names: Any) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} should have distinct names. Found '{name}' twice")
        seen.add(name)
