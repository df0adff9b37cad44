"""Answers kept on disk by what was asked, so that nothing is asked, or paid, twice.

One SQLite file that several threads and processes share; only its owner may read it. It holds what the LLM said, and
of what it was asked a hash alone. An answer is in the file once `put_many` returns, and survives whatever ends the
process. With `synchronous=NORMAL`, a power cut may lose the answers of the last moments, never the file's order. In
WAL's journal, who reads waits for no writer. It needs a local disk, not a network's file system.
"""

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from serving.llm.exchange import Failed, Prompt, Reply, Token
from serving.llm.settings import Endpoint
from training.errors import InputError

FILE = "llm.db"
FORMAT = 1
WAIT_S = 10  # how long a writer waits for those of other processes
AT_ONCE = 5_000  # keys of one query
TABLES = """
    CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS refused (key BLOB PRIMARY KEY, detail TEXT NOT NULL) WITHOUT ROWID;
"""
ROW = TypeAdapter(tuple[str, str, str | None, list[tuple[str, float]], int, int])
TROUBLE = {
    "SQLITE_BUSY": f"is held by another process for more than {WAIT_S} s. End that one, or wait for it",
    "SQLITE_FULL": "cannot be written: the disk is full",
    "SQLITE_IOERR": "cannot be read or written: the disk fails, or is full",
    "SQLITE_READONLY": "may not be written",
    "SQLITE_CANTOPEN": "cannot be opened",
}


def key_of(endpoint: Endpoint, prompt: Prompt) -> bytes:
    """By what an answer is kept: the SHA-256 of the URL, the model with its version, and all of the prompt, its sample
    number included.

    Neither the endpoint's name nor its secret is part of it.
    """
    messages = [(message.role, message.content) for message in prompt.messages]
    asked = [endpoint.url, endpoint.model, endpoint.version, messages, float(prompt.temperature), prompt.max_tokens,
             prompt.logprobs, prompt.sample]
    return hashlib.sha256(json.dumps(asked).encode()).digest()


class Cache:
    """The open file. Close it, or use it in a `with`. All of it raises InputError where the file cannot be used."""

    def __init__(self, path: Path):
        """Open it, or make it."""
        self.path = path
        self._reading, self._writing = threading.Lock(), threading.Lock()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            with FileLock(f"{path}.lock"), self._told():
                self._writer, self._reader = _opened(path), _connected(path)
        except OSError as error:
            raise InputError(f"{path}, where the LLM's answers are kept, cannot be opened: {error.strerror}.") from None

    def get(self, key: bytes) -> Reply | None:
        """The answer kept by that key."""
        with self._reading, self._told():
            row = self._reader.execute("SELECT reply FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else _read(row[0])

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Reply]:
        """The answers kept by those keys, of those that are, and can be read."""
        found = {key: _read(reply) for key, reply in self._rows("answers", keys)}
        return {key: reply for key, reply in found.items() if reply is not None}

    def put_many(self, replies: Mapping[bytes, Reply]) -> None:
        """Keep answers; on disk when this returns."""
        self._write("answers", [(key, _written(reply)) for key, reply in replies.items()])

    def refused(self, keys: Sequence[bytes]) -> dict[bytes, Failed]:
        """What is kept of questions that an endpoint refused although it answered others."""
        return {key: Failed("rejected", detail.decode(errors="replace")) for key, detail in self._rows("refused", keys)}

    def put_refused(self, refused: Mapping[bytes, Failed]) -> None:
        """Keep which questions were refused; on disk when this returns."""
        self._write("refused", [(key, failed.detail) for key, failed in refused.items()])

    @contextmanager
    def asking(self) -> Iterator[bool]:
        """For as long as somebody asks: whether nobody else does, in another process."""
        lock = FileLock(f"{self.path}.asking.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def close(self) -> None:
        """Close the file."""
        with self._reading, self._writing:
            self._reader.close()
            self._writer.close()

    def __enter__(self) -> "Cache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, table: str, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        rows: list[tuple[bytes, bytes]] = []
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            query = f"SELECT * FROM {table} WHERE key IN ({','.join('?' * len(some))})"
            with self._reading, self._told():
                rows += self._reader.execute(query, some).fetchall()
        return rows

    def _write(self, table: str, rows: Sequence[tuple[bytes, str]]) -> None:
        with self._writing, self._told(), self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", rows)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
            trouble = TROUBLE.get(name, "is damaged or no such file. Move it away to begin a new one")
            raise InputError(f"{self.path}, where the LLM's answers are kept, {trouble}.") from None


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
    connection.text_factory = bytes
    return connection


def _opened(path: Path) -> sqlite3.Connection:
    connection = _connected(path)
    try:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found not in (0, FORMAT):
            raise InputError(f"{path}, where the LLM's answers are kept, has format {found}. Expected {FORMAT}: it is "
                             "of another version of polarscore.")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if found == 0:
            connection.executescript(f"{TABLES} PRAGMA user_version = {FORMAT};")
    except BaseException:
        connection.close()
        raise
    return connection


def _written(reply: Reply) -> str:
    tokens = [(token.text, token.logprob) for token in reply.tokens]
    return json.dumps([reply.text, reply.finish, reply.refusal, tokens, reply.tokens_in, reply.tokens_out])


def _read(row: bytes) -> Reply | None:
    """The answer in a row; None: the row is damaged."""
    try:
        text, finish, refusal, tokens, tokens_in, tokens_out = ROW.validate_json(row)
    except ValidationError:
        return None
    return Reply(text, finish, refusal, tuple(Token(*token) for token in tokens), tokens_in, tokens_out, cached=True)
