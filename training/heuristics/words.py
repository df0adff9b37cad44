"""What a written source sees of a text: its words, and counts of a few habits. A `sources.py` holds copies of these.

So this module needs the standard library alone, and a copy of any function here works beside `HEAD`.
"""

import functools
import re

READS = 20_000  # characters of a text
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+|[?!£$€%]")

HEAD = f"""READS = {READS:_}  # characters of a text
WORD = re.compile(r"{WORD.pattern}")
"""


@functools.lru_cache(maxsize=256)
def words(text):  # type: ignore[no-untyped-def]
    """The words of a text in lower case between spaces, `^` where it begins, `#` for a number."""
    found = WORD.findall(text[:READS].lower())
    return " ".join(["", "^", *("#" if word.isdecimal() else word for word in found), ""])


def says(text, *phrases):  # type: ignore[no-untyped-def]
    """Whether one of the phrases is among the words of a text, in this order and with none between."""
    lowered = text[:READS].lower()
    return any(all(part in lowered for part in phrase.split() if part not in "#^") and f" {phrase} " in words(text)
               for phrase in phrases)


def word_count(text):  # type: ignore[no-untyped-def]
    """How many words, numbers and marks a text has."""
    return words(text).count(" ") - 2


def digit_count(text):  # type: ignore[no-untyped-def]
    """How many digits a text has."""
    return sum(map(str.isdecimal, text[:READS]))


def capital_count(text):  # type: ignore[no-untyped-def]
    """How many capital letters a text has."""
    return sum(map(str.isupper, text[:READS]))


def link_count(text):  # type: ignore[no-untyped-def]
    """How many addresses of the web a text has."""
    lowered = text[:READS].lower()
    return lowered.count("http") + lowered.count("www.")


def exclamation_count(text):  # type: ignore[no-untyped-def]
    """How many exclamation marks a text has."""
    return text[:READS].count("!")
