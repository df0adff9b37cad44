"""The way of a body through the service: read, prepared in threads, scored in passes with others, answered."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pydantic_core
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from serving.batcher import Admission, Batcher
from serving.config import Limits
from serving.refusal import Refusal, refusal_of
from serving.schema import Item, ScoreRequest, ScoreResponse, check, read
from serving.slices import CHARACTERS, PLACE, Slice, Told, cut, ends_of, moved, prepared
from serving.streaming import Line, error_line, longest
from serving.threads import Threads, over

if TYPE_CHECKING:
    from serving.desk import Desk
    from serving.lineup import Ready

LINES = 256  # of a chunk at most

Result = TypeVar("Result")


@dataclass(frozen=True)
class Scoring:
    """Who has a part in it. threads: in which requests are prepared."""

    desk: "Desk"
    batcher: "Batcher[Ready | Slice, ScoreResponse | Told]"
    threads: Threads
    limits: Limits

    def admitted(self, patient: bool = False) -> Admission:
        """Let a request in.

        Raises:
            Refusal: too much is waiting (`Batcher.admit`).
        """
        return self.batcher.admit(self.threads.seconds_waiting, patient)

    async def whole(self, body: bytes) -> ScoreResponse:
        """The scores of the items that a body holds. One that is large goes through in slices, of which none is scored
        before all are found right, and none is kept before all are scored: then they are, in one write.

        Raises:
            Refusal: the body or an item is at fault, or the scores cannot be kept; then none of them is.
        """
        prepare = self.desk.preparer()
        slices, first = await self.threads.run(partial(self._first, body, prepare), len(body))
        if len(slices) == 1:
            return cast(ScoreResponse, await self.batcher.submit(first))
        ready = [first]
        for start, items in slices[1:]:
            work = partial(prepared, prepare, start, items)
            ready.append(await self.threads.run(work, sum(len(item.text) for item in items)))
        told: list[Told] = []
        for number, each in enumerate(ready[:-1]):
            told.append(cast(Told, await self.batcher.submit(Slice(each), patient=number > 0)))
        return cast(ScoreResponse, await self.batcher.submit(Slice(ready[-1], tuple(told), last=True), patient=True))

    def chunks(self, lines: list[Line]) -> list[list[Line]]:
        """Lines in chunks of about what goes into one pass."""
        sizes = (len(line or b"") for _, line in lines)
        ends = list(ends_of(sizes, CHARACTERS * self.batcher.pass_tokens, LINES))
        return [lines[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    async def lines(self, chunk: Sequence[Line]) -> bytes:
        """A score or an error for each line, as lines. What is overloaded is waited for.

        Raises:
            Refusal: none of it could be scored or kept.
        """
        size = sum(len(line or b"") for _, line in chunk)
        ready, numbers, answers = await self.threads.run(partial(self._prepared, chunk), size)
        if ready:
            response = cast(ScoreResponse, await self.batcher.submit(ready, patient=True))
            answers |= {number: score.model_dump_json().encode() + b"\n"
                        for number, score in zip(numbers, response.scores, strict=True)}
        return b"".join(answers[number] for number, _ in chunk)

    def _first(
        self, body: bytes, prepare: "Callable[[Sequence[Item]], Ready]"
    ) -> "tuple[list[tuple[int, Sequence[Item]]], Ready]":
        """The slices of a body, the first one prepared."""
        slices = cut(read(body, ScoreRequest, self.limits).items, self.batcher.pass_tokens)
        return slices, prepared(prepare, *slices[0])

    def _prepared(self, chunk: Sequence[Line]) -> "tuple[Ready | None, list[int], dict[int, bytes]]":
        """What of a chunk can be scored, the numbers of its lines, and what answers the others."""
        items: dict[int, Item] = {}
        errors: dict[int, bytes] = {}
        for number, line in chunk:
            try:
                items[number] = item_of(line, self.limits)
            except Refusal as refusal:
                errors[number] = error_line(refusal, number)
        while items:
            numbers = list(items)
            try:
                return self.desk.prepare(list(items.values())), numbers, errors
            except Refusal as refusal:
                found = PLACE.fullmatch(refusal.where or "")
                if not found:
                    raise
                number = numbers[int(found[1])]
                errors[number] = error_line(moved(refusal, found[2]), number)
                del items[number]
        return None, [], errors


def item_of(line: bytes | None, limits: Limits) -> Item:
    """The item that a line holds.

    Raises:
        Refusal: no JSON, a key that is missing, unknown or wrong, a text or line that is too long.
    """
    if line is None:
        raise Refusal("too_large", f"at most {longest(limits):,} bytes in one line", status=413)
    try:
        item = Item.model_validate(pydantic_core.from_json(line, allow_inf_nan=False, cache_strings="keys"))
        check([item], limits)
    except ValidationError as error:
        raise refusal_of(error) from None
    except ValueError as error:
        raise Refusal("invalid_json", f"the line is not JSON: {error}") from None
    except Refusal as refusal:
        raise moved(refusal, PLACE.sub(r"\2", refusal.where or "") or None) from None
    return item


async def while_there(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of work for a client that has sent all of its request; the work is given up when the client goes.

    What cannot be given up any more is over when this ends.

    Raises:
        ClientDisconnect: it went.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await over(task, gone)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
