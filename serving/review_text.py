"""A text as a page may show it: cut to a length, its entities marked, nothing in it that turns or hides the rest. Pure.

Offsets are those of Python's strings, in characters and not in UTF-16 units, so those beyond U+FFFF are one each.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

LONGEST = 20_000  # characters that are shown

TURNS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
"""Characters that change the direction of what is around them: shown by their names, since they could make a text lie.
"""

UNSEEN = {
    0xAD, 0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x200B, *range(0x2060, 0x2066),
    *range(0x206A, 0x2070), 0x2800, 0x3164, *range(0xFE00, 0xFE0E), 0xFEFF, 0xFFA0, *range(0xFFF9, 0xFFFC),
    *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE01F0),
}
"""Characters without a width or an ink, tags and variation selectors among them: shown by their names, too."""

_JOINED = "[\u0600-\u1fff\u2190-\u2bff\ufe0f\U0001f000-\U0001faff]"
JOINERS = re.compile(f"(?<!{_JOINED})[\u200c\u200d]|[\u200c\u200d](?!{_JOINED})")
"""Joiners that join nothing; in emoji, Arabic and Indic scripts they stay, since there they are seen."""

SHOWN = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n\r"} | {0x7F: "\u2421"} | {
    code: f"\u27e8U+{code:04X}\u27e9" for code in [*TURNS, *UNSEEN, *range(0x80, 0xA0), 0x2028, 0x2029]}
"""What is shown in place of a character that would not be seen, or not stay where it is."""


@dataclass(frozen=True)
class Piece:
    """A part of a text. entities: the numbers of those that it lies in, from 1; none mostly. opens: that begin here."""

    text: str
    entities: tuple[int, ...] = ()
    opens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Shown:
    """A text in pieces. cut: how many characters more there are. beyond: the numbers of entities that begin there."""

    pieces: tuple[Piece, ...]
    cut: int
    beyond: tuple[int, ...]


def shown(text: str, spans: Sequence[tuple[int, int]] = (), longest: int = LONGEST) -> Shown:
    """A text in pieces that join to it, cut after `longest`; spans: [start, end) of each entity, which may overlap."""
    length = min(len(text), longest)
    placed = [(number, start, min(end, length)) for number, (start, end) in enumerate(spans, 1)
              if 0 <= start < min(end, length)]
    ends = sorted({0, length, *(place for _, start, end in placed for place in (start, end))})
    pieces = tuple(
        Piece(_seen(text[start:end]), tuple(number for number, a, b in placed if a <= start and end <= b),
              tuple(number for number, a, _ in placed if a == start))
        for start, end in pairwise(ends))
    beyond = tuple(number for number, (start, _) in enumerate(spans, 1) if start >= length)
    return Shown(pieces, len(text) - length, beyond)


def _seen(text: str) -> str:
    return JOINERS.sub(lambda found: f"\u27e8U+{ord(found[0]):04X}\u27e9", text).translate(SHOWN)
