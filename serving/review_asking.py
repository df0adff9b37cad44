"""What a reviewer asks to see, as an address and the fields of a form say it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlencode

from monitoring.queue import QUEUES, QueueName


@dataclass(frozen=True)
class Asking:
    """What a reviewer asks to see. queue: None: the sample, or if nothing of it is left, the riskiest.

    answer: what the LLM said; score: one answer, by its score_id.
    """

    queue: QueueName | None = None
    version: str | None = None
    answer: str | None = None
    least: float = 0.0
    most: float = 1.0
    score: str | None = None

    @classmethod
    def of(cls, said: Mapping[str, str]) -> "Asking":
        """By the fields of a form or an address; what is none of its kind is left out."""
        queue = said.get("queue")
        return cls(
            cast(QueueName, queue) if queue in QUEUES else None, said.get("version") or None,
            said.get("class") or None, _share(said.get("least"), 0.0), _share(said.get("most"), 1.0),
            said.get("score") or None)

    @property
    def fields(self) -> dict[str, str]:
        """As fields, those that say something."""
        found = {"queue": self.queue, "version": self.version, "class": self.answer, "score": self.score,
                 "least": f"{self.least:g}" if self.least > 0 else None,
                 "most": f"{self.most:g}" if self.most < 1 else None}
        return {name: value for name, value in found.items() if value}

    @property
    def address(self) -> str:
        """Of the page that shows it, from the folder that it is in."""
        return "review" + (f"?{urlencode(self.fields)}" if self.fields else "")

    @property
    def narrows(self) -> bool:
        """Whether a filter leaves answers out."""
        return bool(self.fields.keys() - {"queue", "score"})


def _share(value: str | None, otherwise: float) -> float:
    try:
        found = float(value or "")
    except ValueError:
        return otherwise
    return found if 0 <= found <= 1 else otherwise
