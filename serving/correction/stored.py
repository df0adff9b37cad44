"""What an LLM said when it was asked again, as the data holds it: no endpoint is needed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from serving.correction.asked import Said
from training.errors import InputError
from training.rows import parsed
from training.sources import encode_classes
from training.task import ABSTAIN

NOT_STORED = "not stored"
NO_CLASS = "no class"


@dataclass(frozen=True)
class Stored:
    """n rows. answers, raw: by way, (n,) classes with -1 for none, and what was said. held: by way, (n,) whether the
    row holds anything. price: of a question, as if it had been asked.
    """

    answers: Mapping[str, np.ndarray]
    raw: Mapping[str, list[str | None]]
    held: Mapping[str, np.ndarray]
    price: float = 0.0

    def __call__(self, way: str, rows: np.ndarray) -> Said:
        """The stored answers of the rows, as an `Asker` gives them."""
        answers, held = self.answers[way][rows], self.held[way][rows]
        reasons = [None if answer != ABSTAIN else NO_CLASS if known else NOT_STORED
                   for answer, known in zip(answers, held, strict=True)]
        return Said(answers, held, reasons, [self.raw[way][row] for row in rows], np.where(held, self.price, 0.0))


def read_stored(
    column: pd.Series, classes: tuple[str, ...], ids: np.ndarray, where: str, price: float = 0.0
) -> Stored:
    """The follow-ups in a column of `{way: {"label": class, "raw": what was said}}` or `{way: class}`, by row (n,).

    A row may have none, or lack a way. where: begins the sentence of an error.

    Raises:
        InputError: a row holds something else, or a class that is none; no row holds anything.
    """
    rows = [_row(value, row, where) for value, row in zip(column, ids, strict=True)]
    ways = list(dict.fromkeys(way for row in rows for way in row))
    if not ways:
        raise InputError(f"{where}: no row of this split holds what the LLM said when it was asked again. Choose "
                         "another with --split, or name an endpoint instead of --stored.")
    answers, raw, held = {}, {}, {}
    for way in ways:
        cells = [row.get(way) for row in rows]
        told = [cell if isinstance(cell, dict) else {"label": cell} for cell in cells]
        labels = pd.Series([cell.get("label") for cell in told], dtype=object)
        answers[way] = encode_classes(labels, classes, ids, f"{where}: '{way}'", quote=False).astype(np.int64)
        raw[way] = [cell["raw"] if isinstance(cell.get("raw"), str) else None for cell in told]
        held[way] = np.array([not _nothing(cell) for cell in cells], dtype=bool)
    return Stored(answers, raw, held, price)


def _row(value: Any, row: str, where: str) -> dict[str, Any]:
    value = parsed(value)
    if _nothing(value):
        return {}
    if not isinstance(value, dict):
        raise InputError(f'{where} of row \'{row}\' should be an object, {{WAY: {{"label": CLASS, "raw": TEXT}}}} or '
                         f"{{WAY: CLASS}}. Found {type(value).__name__}.")
    for way, cell in value.items():
        if isinstance(cell, dict) and (strange := cell.keys() - {"label", "raw"}):
            raise InputError(f"{where} of row '{row}': '{way[:60]}' has the unknown key '{min(strange)[:60]}'. "
                             "Expected label and raw.")
    return {way: cell for way, cell in value.items() if cell is not None}  # Parquet fills in what a row lacks


def _nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or (
        isinstance(value, float) and np.isnan(value))
