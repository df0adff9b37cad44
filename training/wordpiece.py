"""A tokenizer's words remembered: plain text is read many times faster than by the tokenizer itself.

BERT's lower-casing WordPiece tokenizers split a text at white space first, and then look at each piece by itself. So
what the tokenizer makes of a piece is asked once, and remembered; a text that is not plain ASCII, or that holds one of
the tokenizer's special tokens, is left to the tokenizer.
"""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

PLAIN = re.compile(r"[\t\n\r\x20-\x7e]*")
BETWEEN = " \x00 "  # between two texts; no plain text has it
REMEMBERED = 2**17  # pieces, at which all are forgotten before the next are read
AT_ONCE = 2**19  # characters


class Pieces(dict[str, int]):
    """Pieces by number, each with the token ids that a tokenizer makes of it when it is first wanted."""

    def __init__(self, tokenizer: Any, between: tuple[int, ...]):
        super().__init__()
        self._tokenizer, self._between = tokenizer, between
        self.forget()

    def forget(self) -> None:
        """All but what lies between two texts."""
        self.clear()
        self.ids = np.zeros(2 * REMEMBERED, dtype=np.int32)
        self.starts = np.zeros(REMEMBERED, dtype=np.int64)  # where in `ids` those of a piece begin, and, next, end
        self._add(BETWEEN.strip(), self._between)

    def __missing__(self, piece: str) -> int:
        """Ask the tokenizer."""
        return self._add(piece, self._tokenizer.encode(piece, add_special_tokens=False).ids)

    def _add(self, piece: str, ids: Sequence[int]) -> int:
        number = self[piece] = len(self)
        start = int(self.starts[number])
        if number + 2 > len(self.starts):
            self.starts = np.resize(self.starts, 2 * len(self.starts))
        if start + len(ids) > len(self.ids):
            self.ids = np.resize(self.ids, 2 * (start + len(ids)))
        self.ids[start : start + len(ids)] = ids
        self.starts[number + 1] = start + len(ids)
        return number


class WordPiece:
    """Plain texts to token ids, exactly as a tokenizer reads them."""

    def __init__(self, tokenizer: Any, most: int, first: int, last: int):
        """most: tokens of a text, the special ones `first` and `last` included."""
        self._most, self._first, self._last = most, first, last
        self._pieces, self._turn = Pieces(tokenizer, (last, first)), threading.Lock()
        self._special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]

    @classmethod
    def of(cls, tokenizer: Any, most: int) -> "WordPiece | None":
        """One for a `tokenizers.Tokenizer` that reads as BERT's lower-casing ones do; None for any other."""
        made = json.loads(tokenizer.to_str())
        normalizer, splitter, model = (made[part] or {} for part in ("normalizer", "pre_tokenizer", "model"))
        usual = (normalizer.get("type") == "BertNormalizer" and normalizer.get("lowercase") is True
                 and normalizer.get("clean_text") is True and splitter.get("type") == "BertPreTokenizer"
                 and model.get("type") == "WordPiece")
        around = tokenizer.encode("").ids
        if not usual or len(around) != 2 or around[0] == around[1] or tokenizer.encode("a b").ids[::3] != around:
            return None
        return cls(tokenizer, most, *around)

    def takes(self, text: str) -> bool:
        """Whether the text is plain."""
        plain = text.isascii() and (text.isprintable() or PLAIN.fullmatch(text) is not None)
        return plain and not any(special in text for special in self._special)

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (T,) int32 of plain texts, one after the other, and the number of tokens of each (n,)."""
        with self._turn:
            found = [self._read(some) for some in _some_at_once(texts)]
        ids = np.concatenate(found) if found else np.empty(0, dtype=np.int32)
        starts = np.flatnonzero(ids == self._first)  # no word has it
        lengths = np.diff(starts, append=len(ids))
        kept = np.minimum(lengths, self._most)
        if (kept == lengths).all():
            return ids, lengths
        ids = ids[np.arange(len(ids)) - np.repeat(starts, lengths) < np.repeat(kept, lengths)]
        ids[np.cumsum(kept) - 1] = self._last
        return ids, kept

    def _read(self, texts: Sequence[str]) -> np.ndarray:
        """All token ids of texts, however long they are."""
        pieces = self._pieces
        if len(pieces) > REMEMBERED:
            pieces.forget()
        split = (BETWEEN + BETWEEN.join(texts).lower() + BETWEEN).split()
        numbers = np.fromiter(map(pieces.__getitem__, split), dtype=np.int64, count=len(split))
        starts = pieces.starts[numbers]
        lengths = pieces.starts[numbers + 1] - starts
        firsts = np.cumsum(lengths) - lengths
        return pieces.ids[np.arange(int(lengths.sum())) + np.repeat(starts - firsts, lengths)][1:-1]


def _some_at_once(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Neighbours of a bounded number of characters, or one text."""
    ends = np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)))
    start = 0
    while start < len(texts):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + AT_ONCE, side="right")), start + 1)
        yield texts[start:stop]
        start = stop
