"""Asking an endpoint again: prompts out, answers back, with what they cost and why there is none."""

from collections.abc import Callable, Sequence

import numpy as np

from serving.correction.asked import Said
from serving.correction.evidence import Material, Question
from serving.llm.exchange import Failed, Outcome, Prompt, Reply
from serving.llm.parsing import parsed
from serving.llm.settings import Endpoint
from training.errors import InputError
from training.task import ABSTAIN

Ask = Callable[[Sequence[Prompt], Callable[[int, Outcome], None]], object]
"""Asks prompts; tells each outcome, with its place, as it comes. Raises InputError if the endpoint is not to be had."""

BROKEN_OFF = "failed: broken off"
INTERRUPTED = "interrupted"


class EndpointAsker:
    """An `Asker`. Where an endpoint fails on the way, or a Ctrl-C comes, what was said until then counts.

    trouble: why it broke off, so that nobody is asked from then on; None = it did not. progress: how many rows are
    done, of how many.
    """

    def __init__(
        self, material: Material, endpoint: Endpoint, ask: Ask, progress: Callable[[int, int], None]
    ) -> None:
        self._material, self._endpoint, self._ask, self._progress = material, endpoint, ask, progress
        self._heard = False
        self.trouble: str | None = None

    def __call__(self, way: str, rows: np.ndarray) -> Said:
        """Ask the rows in their order.

        Raises:
            InputError: the endpoint cannot be asked at all, or never answered.
        """
        outcomes: dict[int, Outcome] = {}
        if self.trouble is not None:
            return self._said(len(rows), [], outcomes)
        questions = self._material.questions(way, rows)

        def told(place: int, outcome: Outcome) -> None:
            outcomes[place] = outcome
            self._heard = self._heard or isinstance(outcome, Reply)
            self._progress(len(outcomes), len(questions))

        try:
            self._ask([question.prompt for question in questions], told)
        except (InputError, KeyboardInterrupt) as error:
            if not self._heard:
                raise
            self.trouble = str(error) or INTERRUPTED
        return self._said(len(rows), questions, outcomes)

    def _said(self, n: int, questions: Sequence[Question], outcomes: dict[int, Outcome]) -> Said:
        answers = np.full(n, ABSTAIN, dtype=np.int64)
        asked, cost = np.zeros(n, dtype=bool), np.zeros(n)
        reasons: list[str | None] = [BROKEN_OFF] * n
        raw: list[str | None] = [None] * n
        for place, outcome in outcomes.items():
            found = parsed(outcome, self._material.table.classes, questions[place].data)
            answers[place] = found.answer
            reasons[place] = None if found.reason == "answered" else found.reason
            asked[place] = not (isinstance(outcome, Failed) and outcome.kind == "budget")
            if isinstance(outcome, Reply):
                raw[place], cost[place] = outcome.text, price(outcome, self._endpoint)
        return Said(answers, asked, reasons, raw, cost)


def price(reply: Reply, endpoint: Endpoint) -> float:
    """The money that a reply costs, also where it was kept from before."""
    return (reply.tokens_in * endpoint.price_in + reply.tokens_out * endpoint.price_out) / 1e6

