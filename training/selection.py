"""Which rows a training job uses: to learn, to stop on, and to tell what votes are worth."""

import zlib

import numpy as np

from training.errors import InputError
from training.table import Table

WORTH_ROWS = 20_000


def held_out(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Which rows to train on and which to stop on: train and valid, or nine tenths and a tenth of train."""
    train, valid = table.splits == "train", table.splits == "valid"
    if not train.any():
        raise InputError("the data has no row in split 'train'.")
    if not valid.any():
        tenth = np.fromiter((zlib.crc32(str(i).encode()) % 10 == 0 for i in table.ids), dtype=bool, count=len(table))
        train, valid = train & ~tenth, train & tenth
    return (train, valid) if train.any() and valid.any() else (train | valid, train | valid)


def some(rows: np.ndarray, seed: int) -> np.ndarray:
    """The places of the rows that a mask picks; at most 20,000 of them, which tell what votes are worth well enough."""
    places = np.flatnonzero(rows)
    if len(places) <= WORTH_ROWS:
        return places
    return np.sort(np.random.default_rng(seed).choice(places, WORTH_ROWS, replace=False))
