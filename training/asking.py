"""How the LLM is asked, as `[ask]` in `task.toml` says it: prompts, examples, and the sources that more questions make.

No endpoint is named here: where texts may go is for the machine's owner to say (`serving.llm.settings`), not for
whoever wrote the task.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["prompt", "samples", "confidence", "logprobs", "judge", "retrieval"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Example(_Frozen):
    """A text and the class that it belongs to, shown to the LLM before it is asked."""

    text: Annotated[str, Field(min_length=1)]
    answer: str


class Wording(_Frozen):
    """What the LLM is told. system: what it is to do; empty: a plain sentence made of the classes.

    question: asked about the text. classes: a line about each class, by name. examples: in this order.
    """

    system: str = ""
    question: str = ""
    classes: dict[str, str] = {}
    examples: tuple[Example, ...] = ()


class AskedSource(Wording):
    """A source whose votes come from more questions to an LLM.

    kind: `prompt`, the same question in other words, those of this source in place of the task's; `samples`, several
    answers at a temperature, votes for what most of them say; `confidence`, votes for the LLM's answer where the LLM
    says in words that it is sure; `logprobs`, the same by the probability of its tokens; `judge`, rates the answer
    without a reference, and names a better class if it finds one; `retrieval`, answers beside passages that are like
    the text.
    family: by default the LLM's own, or the model's name for another endpoint. endpoint: of the LLM's settings, where
    it is not the one that is asked anyway. count: of samples or passages. at_least: how sure the LLM has to be, or
    what share of the samples has to agree, for a vote. passages: a file with a column `text`, beside task.toml.
    """

    name: Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]*$")]
    kind: Kind
    family: str = ""
    endpoint: str | None = None
    count: Annotated[int, Field(ge=1, le=100)] = 5
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.9
    at_least: Share = 0.5
    passages: str | None = None

    @model_validator(mode="after")
    def _retrieval_has_passages(self) -> "AskedSource":
        if (self.kind == "retrieval") != (self.passages is not None):
            raise ValueError("`passages` names the file of a source of kind retrieval, and of no other")
        return self


class Ask(Wording):
    """All of `[ask]`. max_tokens: of an answer. sources: those that more questions make."""

    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 16
    sources: tuple[AskedSource, ...] = ()

    def check(self, classes: tuple[str, ...]) -> None:
        """Hold what is said against the task's classes.

        Raises:
            ValueError: it names a class that is none, or two sources alike.
        """
        for wording in (self, *self.sources):
            for name in (*wording.classes, *(example.answer for example in wording.examples)):
                if name not in classes:
                    raise ValueError(f"[ask] names the class '{name[:60]}', which [task] does not list")
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"[[ask.sources]] should have distinct names. Found '{twice}' twice")
