"""A cache of vectors by content, so that a text is encoded once for training, scoring and monitoring.

One SQLite file that several processes may share, and in front of it, in memory, the vectors used last. Keys are
SHA-256 digests of encoder and text: neither holds a text.
"""

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np

from training.errors import InputError
from training.reading import MAX_TOKENS
from training.spec import EncoderSpec

IN_MEMORY = 128 * 2**20  # bytes of vectors
CHUNK = 2048  # texts encoded and kept at a time
PARAMETERS = 500  # keys of one query
WAITING = 8  # batches of vectors that may wait to be written

LOG = logging.getLogger("bentoml.polarscore")


class Encodes(Protocol):
    """What makes vectors, as `training.encoder.Encoder` does."""

    def encode(self, texts: Sequence[str], progress: Callable[[int], None]) -> np.ndarray: ...  # noqa: D102


def text_keys(spec: EncoderSpec, texts: Sequence[str]) -> list[bytes]:
    """The keys of passages (`training.encoder.passages`): SHA-256 digests of encoder and passage."""
    head = hashlib.sha256(json.dumps([spec.name, spec.version, MAX_TOKENS]).encode() + b"\0")

    def key(text: str) -> bytes:
        own = head.copy()
        own.update(text.encode("utf-8", "surrogatepass"))
        return own.digest()

    return [key(text) for text in texts]


class Memory:
    """Vectors by key, the newest that fit; the oldest make room. Safe to share between threads."""

    def __init__(self, width: int, size: int = IN_MEMORY):
        """size: bytes of vectors."""
        self._room = max(1, size // (4 * width))
        self._vectors = np.empty((self._room, width), dtype=np.float32)  # untouched pages take no memory
        self._owners: list[bytes | None] = [None] * self._room
        self._places: dict[bytes, int] = {}
        self._next, self._turn = 0, threading.Lock()

    def find(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """The vectors (n, width) and whether each is known (n,); those that are not are undefined."""
        with self._turn:
            places = np.fromiter((self._places.get(key, -1) for key in keys), dtype=np.int64, count=len(keys))
            return self._vectors[places], places >= 0

    def put(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Remember vectors (n, width)."""
        with self._turn:
            for key, vector in zip(keys[-self._room :], vectors[-self._room :], strict=True):
                if key in self._places:
                    continue
                old = self._owners[self._next]
                if old is not None:
                    del self._places[old]
                self._owners[self._next], self._places[key] = key, self._next
                self._vectors[self._next] = vector
                self._next = (self._next + 1) % self._room

    def clear(self) -> None:
        """Forget all, and overwrite it."""
        with self._turn:
            self._vectors[list(self._places.values())] = 0
            self._places.clear()
            self._owners, self._next = [None] * self._room, 0


class EmbeddingCache:
    """Vectors by content, made by an encoder that is loaded on first use: texts all known need none.

    path: the file; None: in memory alone. Whoever erases from the file raises its `PRAGMA user_version`, and every
    process then forgets what it has in memory.
    """

    def __init__(self, path: Path | None, make_encoder: Callable[[], Encodes], spec: EncoderSpec,
                 memory: int = IN_MEMORY, writes: bool = True):
        """memory: bytes of vectors held there. writes: whether new vectors go into the file too.

        Raises:
            InputError: the file cannot be opened.
        """
        self._path, self._make_encoder, self.spec, self._writes = path, make_encoder, spec, writes
        self._encoder: Encodes | None = None
        self._memory, self._seen, self._turn = Memory(spec.width, memory), 0, threading.Lock()
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="vectors")
        self._waiting, self._told = 0, False
        if path is None:
            return
        try:
            with closing(self._connect()) as database, database:
                database.execute("PRAGMA journal_mode=WAL")
                database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
                self._seen = database.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise InputError(f"the embedding cache {path} cannot be opened: {error}.") from None

    def encode(self, texts: Sequence[str], progress: Callable[[int], None] = lambda done: None) -> np.ndarray:
        """Vectors (n, width) of the texts, encoding only those not seen before; kept batch by batch."""
        keys = text_keys(self.spec, texts)
        vectors, known, erased = self.find(keys)
        progress(int(known.sum()))
        gaps = np.flatnonzero(~known)
        places: dict[bytes, int] = {}
        for row in gaps.tolist():
            places.setdefault(keys[row], row)  # a text that occurs twice is encoded in its first row
        missing = list(places.values())
        for start in range(0, len(missing), CHUNK):
            rows = missing[start : start + CHUNK]
            vectors[rows] = self.encoder.encode([texts[row] for row in rows], progress)
            self.keep([keys[row] for row in rows], vectors[rows], erased)
        vectors[gaps] = vectors[[places[keys[row]] for row in gaps.tolist()]]
        return vectors

    @property
    def encoder(self) -> Encodes:
        """The encoder."""
        if self._encoder is None:
            self._encoder = self._make_encoder()
        return self._encoder

    def find(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, int]:
        """The vectors (n, width), whether each is known (n,), and how often something was erased until now.

        Vectors that are not known are undefined.
        """
        if self._path is None:
            return *self._memory.find(keys), 0
        with closing(self._connect()) as database:
            erased = self._forget_if_told(database)
            vectors, known = self._memory.find(keys)
            rows, found = self._fetch(database, keys, np.flatnonzero(~known).tolist())
            vectors[rows], known[rows] = found, True
            self._put([keys[row] for row in rows], found, erased, database)
        return vectors, known, erased

    def remembered(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Of the vectors in memory alone: as `find`."""
        return self._memory.find(keys)

    def keep(self, keys: Sequence[bytes], vectors: np.ndarray, erased: int) -> None:
        """Remember vectors (n, width), in the file too if there is one to be written.

        erased: what `find` told when they were missing. If more has been erased since, they are not kept: they may be
        of a text that was.
        """
        if self._path is None:
            return self._memory.put(keys, vectors)
        with closing(self._connect()) as database, database:
            if self._writes:
                database.execute("BEGIN IMMEDIATE")
            if self._put(keys, vectors, erased, database) and self._writes:
                database.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)",
                                     [(key, vector.tobytes()) for key, vector in zip(keys, vectors, strict=True)])
        return None

    def found(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, int]:
        """`find`, but a file that cannot be read has nothing, and the log says so once."""
        try:
            return self.find(keys)
        except sqlite3.Error as error:
            self._complain(error)
            return *self._memory.find(keys), self._seen

    def put(self, keys: Sequence[bytes], vectors: np.ndarray, erased: int) -> None:
        """`keep`, but in memory alone, and whatever the file is like."""
        if self._path is None:
            return self._memory.put(keys, vectors)
        try:
            with closing(self._connect()) as database:
                self._put(keys, vectors, erased, database)
        except sqlite3.Error as error:
            self._complain(error)
        return None

    def keep_later(self, keys: Sequence[bytes], erased: int) -> None:
        """`keep` what is in memory, in a thread of its own. What cannot be written is left out: it is only a cache."""
        if self._path is None or not self._writes or self._waiting >= WAITING:
            return
        self._waiting += 1
        self._writing.submit(self._keep_now, list(keys), erased)

    def _keep_now(self, keys: list[bytes], erased: int) -> None:
        try:
            vectors, known = self._memory.find(keys)
            self.keep([key for key, there in zip(keys, known.tolist(), strict=True) if there], vectors[known], erased)
        except sqlite3.Error as error:
            self._complain(error)
        finally:
            self._waiting -= 1

    def _complain(self, error: sqlite3.Error) -> None:
        if not self._told:
            self._told = True
            LOG.warning("the embedding cache %s cannot be used: %s. Texts are encoded again", self._path, error)

    def _put(self, keys: Sequence[bytes], vectors: np.ndarray, erased: int, database: sqlite3.Connection) -> bool:
        """Put vectors into memory, unless more was erased: whether they are there."""
        if not len(keys):
            return True
        with self._turn:
            if int(database.execute("PRAGMA user_version").fetchone()[0]) != erased or self._seen != erased:
                return False
            self._memory.put(keys, vectors)
            return True

    def _forget_if_told(self, database: sqlite3.Connection) -> int:
        with self._turn:
            erased = int(database.execute("PRAGMA user_version").fetchone()[0])
            if erased != self._seen:
                self._memory.clear()
                self._seen = erased
            return erased

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path or "", timeout=60)
        database.execute("PRAGMA synchronous = OFF")  # a power cut costs a cache
        return database

    def _fetch(
        self, database: sqlite3.Connection, keys: Sequence[bytes], rows: list[int]
    ) -> tuple[list[int], np.ndarray]:
        """Of these rows, those whose keys the file has, and their vectors (n, width)."""
        wanted = list(dict.fromkeys(keys[row] for row in rows))
        found: dict[bytes, bytes] = {}
        for start in range(0, len(wanted), PARAMETERS):
            chunk = wanted[start : start + PARAMETERS]
            marks = ",".join("?" * len(chunk))
            found |= dict(database.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", chunk).fetchall())
        there = [row for row in rows if keys[row] in found]
        vectors = np.frombuffer(b"".join(found[keys[row]] for row in there), dtype=np.float32)
        return there, vectors.reshape(len(there), self.spec.width)
