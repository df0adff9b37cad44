"""A tokenizer's words remembered: texts are read many times faster than by the tokenizer itself.

BERT's lower-casing WordPiece tokenizers split a text at white space, and look at each piece by itself. So what the
tokenizer makes of a piece is asked once, and remembered by a hash of the piece, not by the piece; a text that holds one
of the tokenizer's special tokens is left to the tokenizer.

The hash of bytes c_s … c_e is Σ c_i p^(i − s), modulo 2^64, mixed, with an odd p drawn when the process starts:
one running sum over many texts gives those of all their pieces. Whatever p is, two pieces can be made to agree if they
are longer than a thousand bytes; long ones are asked anew each time.
"""

import json
import secrets
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

BETWEEN = " \x00 "  # between two texts; no text that is read here has it
REMEMBERED = 2**17  # pieces, at which all are forgotten before the next are read
AT_ONCE = 2**17  # characters
LONG = 512  # bytes of a piece that is not remembered
SPACE = ord(" ")
SLOTS = 19  # bits of the hash that choose a place, three times as many as there are pieces at most
LOWER = np.frombuffer(bytes(range(256)).lower().translate(bytes.maketrans(b"\t\n\r", b"   ")), dtype=np.uint8)
ODD = np.uint64(0x9E3779B97F4A7C15)


class Table(NamedTuple):
    """Open-addressed: the hash and the number at each place, 0 being nobody's hash; and the token ids by number.

    ids: those of number i begin at starts[i] and end at starts[i + 1].
    """

    hashes: np.ndarray
    numbers: np.ndarray
    starts: np.ndarray
    ids: np.ndarray

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """The place of each hash, or the free one where it would be."""
        places = (hashes >> np.uint64(64 - SLOTS)).astype(np.int64)
        found = self.hashes[places]
        elsewhere = np.flatnonzero((found != hashes) & (found != 0))
        while len(elsewhere):
            places[elsewhere] = (places[elsewhere] + 1) % 2**SLOTS
            found = self.hashes[places[elsewhere]]
            elsewhere = elsewhere[(found != hashes[elsewhere]) & (found != 0)]
        return places


class Pieces:
    """What a tokenizer makes of pieces, by their hashes. Safe to share between threads, which read at the same time."""

    def __init__(self, tokenizer: Any, first: dict[str, Sequence[int]]):
        """first: pieces whose token ids are known from the start."""
        self._tokenizer, self._first, self._turn = tokenizer, first, threading.Lock()
        self._base = secrets.randbits(64) | 1
        self._powers = _powers(self._base, 2 * AT_ONCE)
        self._inverse = _powers(pow(self._base, -1, 2**64), 2 * AT_ONCE)
        self._forget()

    def __len__(self) -> int:
        return self._count

    def read(self, text: bytes) -> np.ndarray:
        """The token ids (T,) of all pieces of a text in UTF-8, in their order, none of them special."""
        units = LOWER[np.frombuffer(text, dtype=np.uint8)]
        edges = np.flatnonzero(np.diff(units != SPACE, prepend=False, append=False))
        firsts, ends = edges[::2], edges[1::2]
        hashes = self._hashed(units, firsts, ends)
        if len(self) > REMEMBERED:
            with self._turn:
                self._forget()
        while True:
            table = self._table
            places = table.find(hashes)
            unknown = np.flatnonzero(table.hashes[places] == 0)
            if not len(unknown):
                break
            rows = unknown[np.unique(hashes[unknown], return_index=True)[1]].tolist()
            self._learn([units[firsts[row] : ends[row]].tobytes().decode() for row in rows], hashes[rows])
        numbers = table.numbers[places]
        starts = table.starts[numbers]
        lengths = table.starts[numbers + 1] - starts
        return table.ids[np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)]

    def _forget(self) -> None:
        self._count = 0
        self._table = Table(np.zeros(2**SLOTS, dtype=np.uint64), np.zeros(2**SLOTS, dtype=np.int32),
                            np.zeros(REMEMBERED, dtype=np.int64), np.zeros(2 * REMEMBERED, dtype=np.int32))
        for piece, ids in self._first.items():
            units = LOWER[np.frombuffer(piece.encode(), dtype=np.uint8)]
            self._add(self._hashed(units, np.array([0]), np.array([len(units)])), ids)

    def _hashed(self, units: np.ndarray, firsts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        powers, inverse = self._powers, self._inverse
        if len(units) > len(powers):
            powers, inverse = _powers(self._base, len(units)), _powers(pow(self._base, -1, 2**64), len(units))
        sums = np.zeros(len(units) + 1, dtype=np.uint64)
        np.multiply(powers[: len(units)], units.astype(np.uint64), out=sums[1:])
        np.cumsum(sums[1:], out=sums[1:])
        mixed = (sums[ends] - sums[firsts]) * inverse[firsts]
        mixed = (mixed ^ (mixed >> np.uint64(29))) * ODD
        mixed = (mixed ^ (mixed >> np.uint64(32))) * ODD
        for row in np.flatnonzero(ends - firsts >= LONG).tolist():
            mixed[row] = secrets.randbits(64)
        return np.maximum(mixed, np.uint64(1))

    def _learn(self, pieces: Sequence[str], hashes: np.ndarray) -> None:
        """Ask the tokenizer."""
        asked = [one.ids for one in self._tokenizer.encode_batch(list(pieces), add_special_tokens=False)]
        with self._turn:
            for row, ids in enumerate(asked):
                self._add(hashes[row : row + 1], ids)

    def _add(self, hashed: np.ndarray, ids: Sequence[int]) -> None:
        table, number = self._table, self._count
        place, start = int(table.find(hashed)[0]), int(table.starts[number])
        if table.hashes[place]:
            return  # another thread was first
        if number + 2 > len(table.starts):
            table = table._replace(starts=np.resize(table.starts, 2 * len(table.starts)))
        if start + len(ids) > len(table.ids):
            table = table._replace(ids=np.resize(table.ids, 2 * (start + len(ids))))
        table.ids[start : start + len(ids)] = ids
        table.starts[number + 1] = start + len(ids)
        self._table, self._count = table, number + 1
        table.numbers[place] = number
        table.hashes[place] = hashed[0]  # last: whoever finds it finds the rest


class WordPiece:
    """Texts to token ids, exactly as a tokenizer reads them."""

    def __init__(self, tokenizer: Any, most: int, first: int, last: int):
        """most: tokens of a text, the special ones `first` and `last` included."""
        self._most, self._first, self._last = most, first, last
        self._pieces = Pieces(tokenizer, {BETWEEN.strip(): (last, first)})
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
        """Whether the text, or many in one, holds nothing special."""
        return not any(special in text for special in self._special)

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (T,) int32 of texts that it takes, one after the other, and the number of tokens of each (n,)."""
        found = [self._pieces.read((BETWEEN + BETWEEN.join(some) + BETWEEN).encode("utf-8", "replace"))[1:-1]
                 for some in _some_at_once(texts)]
        ids = np.concatenate(found) if found else np.empty(0, dtype=np.int32)
        starts = np.flatnonzero(ids == self._first)  # no piece has it
        lengths = np.diff(starts, append=len(ids))
        kept = np.minimum(lengths, self._most)
        if (kept == lengths).all():
            return ids, lengths
        ids = ids[np.arange(len(ids)) - np.repeat(starts, lengths) < np.repeat(kept, lengths)]
        ids[np.cumsum(kept) - 1] = self._last
        return ids, kept


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
