"""Running a network over tokenised texts: in packs by a budget of tokens, copies and tokenising beside the compute."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.capacity import Budget, has_bf16
from training.packed import loaded, packed, pooled
from training.packing import packs
from training.reading import Tokens

PACK_TOKENS = {"cpu": 2_048, "cuda": 65_536}
CHUNK = 4_096  # texts tokenised at a time
TOKENISING = 6  # threads at most


def pack_tokens_for(device: str) -> int:
    """How many tokens a pass holds best on a device."""
    return PACK_TOKENS[device.partition(":")[0]]


@dataclass(frozen=True)
class Running:
    """Passes that were handed to the device; `result` waits for them."""

    rows: list[np.ndarray]
    parts: list[Tensor]

    def result(self) -> np.ndarray:
        """The results (n, …) float32, in the order of the texts."""
        found = torch.cat(self.parts).cpu().numpy()
        results = np.empty_like(found)
        results[np.concatenate(self.rows)] = found
        return results


class Runner:
    """A network of `transformers` with what is made of its pooled states, ready to run over tokens.

    Safe to call from one thread at a time. precision: `bfloat16` where the device computes in it, else `float32`.
    """

    def __init__(
        self, network: nn.Module, device: str, finish: Callable[[Tensor], Tensor], pack_tokens: int | None = None,
        tell: Callable[[str], None] = lambda line: None, half: bool | None = None,
    ):
        """finish: from (n, 1 + entities, width) float32 to the result (n, …). tell: as `training.capacity.Budget`.

        half: whether to compute in bfloat16; None: where the device does so itself.
        """
        self._dtype = torch.bfloat16 if (has_bf16(device) if half is None else half) else torch.float32
        self._network, self._device, self._finish = packed(network, self._dtype), device, finish
        self._budget = Budget(pack_tokens or pack_tokens_for(device), tell)

    @property
    def precision(self) -> str:
        """Of the matrix products: `bfloat16` or `float32`."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def pack_tokens(self) -> int:
        """Tokens of one pass."""
        return self._budget.size

    def __call__(self, tokens: Tokens, progress: Callable[[int], None] = lambda done: None) -> np.ndarray:
        """The results (n, …) float32, in the order of the texts; n is at least 1."""
        return self.start(tokens, progress).result()

    def start(self, tokens: Tokens, progress: Callable[[int], None] = lambda done: None) -> Running:
        """Hand the texts to the device and, where it is a GPU, do not wait for it.

        progress: is called with the number of texts just handed over.
        """
        return self._budget.run(lambda size: self._start(tokens, size, progress))

    @torch.inference_mode()
    def _start(self, tokens: Tokens, size: int, progress: Callable[[int], None]) -> Running:
        order, parts = [], []
        for rows in packs(tokens.lengths, size):
            pack = loaded(tokens.take(rows), self._device)
            parts.append(self._finish(pooled(self._network(pack), pack)).float())
            order.append(rows)
            progress(len(rows))
        return Running(order, parts)

    def over(
        self, chunks: Iterable[Tokens], progress: Callable[[int], None] = lambda done: None
    ) -> Iterator[np.ndarray]:
        """The results of each chunk, while the device works on the next one."""
        before: Running | None = None
        for tokens in chunks:
            running = self.start(tokens, progress)
            if before:
                yield before.result()
            before = running
        if before:
            yield before.result()


def ahead(read: Callable[..., Tokens], *columns: Sequence[Any] | np.ndarray) -> Iterator[Tokens]:
    """Texts tokenised chunk by chunk, in their order, the next ones while one is used; none for no text."""
    starts = range(0, len(columns[0]), CHUNK)
    workers = max(1, min(TOKENISING, (os.cpu_count() or 1) // 2, len(starts)))
    with ThreadPoolExecutor(workers, thread_name_prefix="tokenising") as pool:
        pending: deque[Future[Tokens]] = deque()
        for start in starts:
            pending.append(pool.submit(read, *(column[start : start + CHUNK] for column in columns)))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
