"""Erasing vectors of texts from the file of the embedding cache (`training.embeddings`)."""

import sqlite3
from contextlib import closing
from pathlib import Path

from monitoring.erasure import Erased

WAIT_S = 30  # how long it waits for other writers


def erase_vectors(path: Path, erased: Erased, doubtful: bool) -> int:
    """Erase the vectors of erased scores' texts: how many. Whoever keeps some in memory is told to forget them.

    doubtful: where a score had no hash, which alone tells the vector of its text, erase all there are.
    """
    if not path.exists() or not erased.scores:
        return 0
    with closing(_open(path)) as cache:
        cache.execute("BEGIN IMMEDIATE")
        if erased.unhashed and doubtful:
            gone = cache.execute("DELETE FROM vectors WHERE true").rowcount
        else:
            keys = [(bytes.fromhex(each),) for each in erased.hashes]
            gone = cache.executemany("DELETE FROM vectors WHERE key = ?", keys).rowcount
        (told,) = cache.execute("PRAGMA user_version").fetchone()
        cache.execute(f"PRAGMA user_version = {(told + 1) % 2**31}")
        cache.execute("COMMIT")
    return max(gone, 0)


def rewrite(path: Path) -> bool:
    """Rewrite the file, so that it holds nothing that was erased; False if a reader kept us from it."""
    if not path.exists():
        return True
    with closing(_open(path)) as cache:
        cache.execute("VACUUM")
        return bool(cache.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)


def _open(path: Path) -> sqlite3.Connection:
    cache = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
    cache.execute("PRAGMA secure_delete = ON")
    cache.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
    return cache
