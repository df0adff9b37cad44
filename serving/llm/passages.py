"""Passages that are like a text: a file of them beside the task, and the nearest by the encoder. Pure but for reading.

Nearness is the cosine of the vectors. A passage that is the text itself is left out, however its blanks are set.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serving.llm.kind import Encode
from training.errors import InputError
from training.rows import read_rows

BLOCK = 1 << 24  # cosines at a time


def read_passages(folder: Path, name: str) -> list[str]:
    """The distinct texts in the column `text` of a file (Parquet, JSON Lines or CSV) inside the task's folder.

    Raises:
        InputError: the file is outside the folder, missing or unreadable, lacks the column, or has a row without text.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"passages = '{name[:60]}' leads out of the task's folder. Put the file beside task.toml.")
    frame = read_rows(path)
    if "text" not in frame:
        raise InputError(f"{path} lacks the column 'text'. Found {', '.join(map(str, frame.columns))}.")
    found: dict[str, str] = {}
    for number, text in enumerate(frame["text"], 1):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{path}, row {number}: 'text' should be a text. Found {type(text).__name__}, or a blank.")
        found.setdefault(_plain(text), text)
    return list(found.values())


def similar(texts: Sequence[str], passages: Sequence[str], count: int, encode: Encode) -> list[list[str]]:
    """For each text, at most `count` distinct passages, the most similar first, none of them the text itself."""
    places = {_plain(passage): place for place, passage in enumerate(passages)}
    own = np.array([places.get(_plain(text), -1) for text in texts], dtype=np.int64)
    if not texts or not passages:
        return [[] for _ in texts]
    found = nearest(encode(list(texts)), encode(list(passages)), count, own)
    return [[passages[place] for place in row if place >= 0] for row in found.tolist()]


def nearest(queries: np.ndarray, keys: np.ndarray, count: int, own: np.ndarray) -> np.ndarray:
    """The keys (m, width) of highest cosine with each query (n, width): (n, min(count, m)) indices, best first.

    own: (n,) a key that a query may not have, -1 = none. Equal cosines go by index; -1 where no key is left.
    """
    count = min(count, len(keys))
    unit, others = _unit(queries), _unit(keys)
    found = np.empty((len(queries), count), dtype=np.int64)
    step = max(1, BLOCK // max(len(keys), 1))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        cosines = unit[rows] @ others.T
        barred = np.flatnonzero(own[rows] >= 0)
        cosines[barred, own[rows][barred]] = -np.inf
        best = np.sort(np.argpartition(-cosines, count - 1, axis=1)[:, :count], axis=1)
        near = np.take_along_axis(cosines, best, axis=1)
        order = np.argsort(-near, axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        found[rows] = np.where(np.take_along_axis(near, order, axis=1) == -np.inf, -1, best)
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _plain(text: str) -> str:
    return " ".join(text.split())
