"""A tokenizer's words remembered: texts are read many times faster than by the tokenizer itself.

BERT's lower-casing WordPiece tokenizers split a text at white space, and look at each piece by itself. So what the
tokenizer makes of a piece is asked once, and remembered by a hash of the piece, not by the piece; a text that holds one
of the tokenizer's special tokens is left to the tokenizer.

The hash of bytes c_s … c_e is Σ c_i p^(i − s), modulo 2^64, mixed, with an odd p drawn when the process starts:
one running sum over many texts gives those of all their pieces. Two pieces could only be made to agree if they were
longer than a thousand bytes, of which the tokenizer makes the same unknown word.
"""

import json
import secrets
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

BETWEEN = " \x00 "  # between two texts; no text that is read here has it
REMEMBERED = 2**17  # pieces, at which all are forgotten before the next are read
AT_ONCE = 2**19  # characters
SPACE = ord(" ")
SLOTS = 20  # bits of the hash that choose a place: four times what is remembered and comes at once
LOWER = np.frombuffer(bytes(range(256)).lower().translate(bytes.maketrans(b"\t\n\r", b"   ")), dtype=np.uint8)
ODD = np.uint64(0x9E3779B97F4A7C15)


class Pieces:
    """What a tokenizer makes of pieces, by their hashes, in an open-addressed table. Not for two threads at a time."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._base = secrets.randbits(64) | 1
        self._powers = _powers(self._base, AT_ONCE)
        self._inverse = _powers(pow(self._base, -1, 2**64), AT_ONCE)
        self.forget()

    def __len__(self) -> int:
        return self._count

    def forget(self) -> None:
        """All of it."""
        self._count = 0
        self._hashes = np.zeros(2**SLOTS, dtype=np.uint64)  # 0: nobody's place
        self._numbers = np.zeros(2**SLOTS, dtype=np.int32)
        self._starts = np.zeros(REMEMBERED, dtype=np.int64)  # where in `_ids` those of a piece begin, and, next, end
        self._ids = np.zeros(2 * REMEMBERED, dtype=np.int32)

    def read(self, text: bytes) -> np.ndarray:
        """The token ids (T,) of all pieces of a text in UTF-8, in their order, none of them special."""
        units = LOWER[np.frombuffer(text, dtype=np.uint8)]
        edges = np.flatnonzero(np.diff(units != SPACE, prepend=False, append=False))
        firsts, ends = edges[::2], edges[1::2]
        hashes = self._hashed(units, firsts, ends)
        places = self._find(hashes)
        unknown = np.flatnonzero(self._hashes[places] == 0)
        if len(unknown):
            for row in unknown[np.unique(hashes[unknown], return_index=True)[1]].tolist():
                piece = units[firsts[row] : ends[row]].tobytes().decode()
                self._add(hashes[row : row + 1], self._tokenizer.encode(piece, add_special_tokens=False).ids)
            places = self._find(hashes)
        numbers = self._numbers[places]
        starts = self._starts[numbers]
        lengths = self._starts[numbers + 1] - starts
        return self._ids[np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)]

    def add(self, piece: str, ids: Sequence[int]) -> None:
        """Remember the token ids of a piece."""
        units = LOWER[np.frombuffer(piece.encode(), dtype=np.uint8)]
        self._add(self._hashed(units, np.array([0]), np.array([len(units)])), ids)

    def _hashed(self, units: np.ndarray, firsts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        if len(units) > len(self._powers):
            self._powers = _powers(self._base, len(units))
            self._inverse = _powers(pow(self._base, -1, 2**64), len(units))
        sums = np.zeros(len(units) + 1, dtype=np.uint64)
        np.cumsum(self._powers[: len(units)] * units, out=sums[1:])
        mixed = (sums[ends] - sums[firsts]) * self._inverse[firsts]
        mixed = (mixed ^ (mixed >> np.uint64(29))) * ODD
        mixed = (mixed ^ (mixed >> np.uint64(32))) * ODD
        return np.maximum(mixed, np.uint64(1))

    def _find(self, hashes: np.ndarray) -> np.ndarray:
        """The place of each hash, or the free one where it would be."""
        places = (hashes >> np.uint64(64 - SLOTS)).astype(np.int64)
        found = self._hashes[places]
        elsewhere = np.flatnonzero((found != hashes) & (found != 0))
        while len(elsewhere):
            places[elsewhere] = (places[elsewhere] + 1) % 2**SLOTS
            found = self._hashes[places[elsewhere]]
            elsewhere = elsewhere[(found != hashes[elsewhere]) & (found != 0)]
        return places

    def _add(self, hashed: np.ndarray, ids: Sequence[int]) -> None:
        place, number, start = int(self._find(hashed)[0]), self._count, int(self._starts[self._count])
        self._hashes[place], self._numbers[place], self._count = hashed[0], number, number + 1
        if number + 2 > len(self._starts):
            self._starts = np.resize(self._starts, 2 * len(self._starts))
        if start + len(ids) > len(self._ids):
            self._ids = np.resize(self._ids, 2 * (start + len(ids)))
        self._ids[start : start + len(ids)] = ids
        self._starts[number + 1] = start + len(ids)


class WordPiece:
    """Texts to token ids, exactly as a tokenizer reads them."""

    def __init__(self, tokenizer: Any, most: int, first: int, last: int):
        """most: tokens of a text, the special ones `first` and `last` included."""
        self._most, self._first, self._last = most, first, last
        self._pieces, self._turn = Pieces(tokenizer), threading.Lock()
        self._special = ["\x00"] + [token.content for token in tokenizer.get_added_tokens_decoder().values()]

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
        """Whether the text holds nothing special."""
        return not any(special in text for special in self._special)

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (T,) int32 of texts that it takes, one after the other, and the number of tokens of each (n,)."""
        with self._turn:
            found = [self._read(some) for some in _some_at_once(texts)]
        ids = np.concatenate(found) if found else np.empty(0, dtype=np.int32)
        starts = np.flatnonzero(ids == self._first)  # no piece has it
        lengths = np.diff(starts, append=len(ids))
        kept = np.minimum(lengths, self._most)
        if (kept == lengths).all():
            return ids, lengths
        ids = ids[np.arange(len(ids)) - np.repeat(starts, lengths) < np.repeat(kept, lengths)]
        ids[np.cumsum(kept) - 1] = self._last
        return ids, kept

    def _read(self, texts: Sequence[str]) -> np.ndarray:
        """All token ids of texts, however long they are."""
        if len(self._pieces) > REMEMBERED:
            self._pieces.forget()
        if not len(self._pieces):
            self._pieces.add(BETWEEN.strip(), (self._last, self._first))
        return self._pieces.read((BETWEEN + BETWEEN.join(texts) + BETWEEN).encode("utf-8", "replace"))[1:-1]


def _some_at_once(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Neighbours of a bounded number of units, or one text."""
    ends = np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)) + len(BETWEEN))
    start = 0
    while start < len(texts):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + AT_ONCE, side="right")), start + 1)
        yield texts[start:stop]
        start = stop


def _powers(base: int, count: int) -> np.ndarray:
    """1, p, p², … modulo 2^64: (count,)."""
    powers = np.full(count, base, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers, out=powers)
