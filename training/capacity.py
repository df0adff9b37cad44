"""What a device can take: how much at once, and whether it computes in bfloat16."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.amp import autocast

from training.errors import InputError

T = TypeVar("T")
LONG_TEXT = 256  # tokens


class Budget:
    """How much a batch may hold, in tokens or rows: half of it whenever the GPU runs out of memory.

    size: in units. tell: is given a line whenever it is halved. least: what it does not go below; 256 tokens are one
    long text.
    """

    def __init__(
        self, size: int, tell: Callable[[str], None] = lambda line: None, least: int = LONG_TEXT, unit: str = "tokens"
    ):
        self.size, self._tell, self._least, self._unit = size, tell, least, unit

    def run(self, attempt: Callable[[int], T]) -> T:
        """`attempt(size)`, again with half the size after each OutOfMemoryError.

        Raises:
            InputError: there is no room for the least.
        """
        while True:
            try:
                return attempt(self.size)
            except torch.cuda.OutOfMemoryError:
                pass  # left before the cache is emptied: the error's frames hold tensors
            torch.cuda.empty_cache()
            if self.size <= self._least:
                raise InputError(f"the GPU's memory has no room for a batch of {self.size} {self._unit}. "
                                 "Free some, or hide the GPU by CUDA_VISIBLE_DEVICES= to use the CPU.")
            self.size = max(self.size // 2, self._least)
            self._tell(f"the GPU ran out of memory: going on with batches of at most {self.size:,} {self._unit}.")


def in_bf16(device: str) -> autocast:
    """A context in which networks compute in bfloat16 where the device has it, and in float32 where not."""
    return autocast(torch.device(device).type, torch.bfloat16, enabled=has_bf16(device))


def has_bf16(device: str) -> bool:
    """Whether the device computes in bfloat16 itself; a processor that only emulates it is many times slower."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
