"""How sure a reply says that it is, 0 to 1: a percentage, a fraction, a decimal, or words. Pure.

The figures for words follow Kent, "Words of estimative probability", Studies in Intelligence, 1964, rounded and
extended by common words for one's own certainty. A reply that gives two figures, or none, is not guessed at.
"""

import math
import re

from serving.llm.parsing import LONGEST, REASONING

NUMBER = r"\d+(?:[.,]\d+)?"
PERCENT = r"(?:%|％|per ?cent\b|/ ?100\b|out of 100\b)"
SCALE = re.compile(rf"\b(?:scale (?:of|from)|from|between)?\s*\b[01]%? ?(?:to|-|–|and) ?(?:1|5|10|100)\b ?{PERCENT}?"
                   r"(?=\s|[.,:;)]|$)", re.IGNORECASE)
MARKED = re.compile(r"(?:confidence|certainty|probability|likelihood|answer)\W{0,6}(?:level|score|is)?\W{0,6}"
                    rf"(?=[-+]?{NUMBER})", re.IGNORECASE)
RANGE = re.compile(rf"(?<![\w.,-])({NUMBER}) ?%? ?(?:-|–|to|and) ?({NUMBER}) ?{PERCENT}?(?![\w/])", re.IGNORECASE)
FRACTION = re.compile(rf"(?<![\w.,/-])({NUMBER}) ?(?:/|out of\b|in\b) ?(\d+)(?![\w/])", re.IGNORECASE)
SHARE = re.compile(rf"(?<![\w.,-])({NUMBER}) ?{PERCENT}", re.IGNORECASE)
PLAIN = re.compile(r"(?<![\w.,/])-?\d+(?:[.,]\d+)?(?![\w/%]|[.,]\d)")
EVEN = re.compile(r"(?<![\w/])50 ?/ ?50(?![\w/])")

WORDS = {
    "absolutely certain": 0.99, "completely certain": 0.99, "completely sure": 0.99, "no doubt": 0.97,
    "without doubt": 0.97, "without a doubt": 0.97,
    "absolutely": 0.97, "definitely": 0.97, "certainly": 0.95, "almost certainly not": 0.07, "almost certain": 0.93,
    "almost certainly": 0.93, "nearly certain": 0.93, "certain": 0.95, "certainty": 0.95,
    "very confident": 0.93, "highly confident": 0.93, "very sure": 0.93, "extremely confident": 0.97,
    "very likely": 0.9, "highly likely": 0.9, "very high": 0.93, "high": 0.85, "confident": 0.85, "sure": 0.85,
    "pretty sure": 0.75, "fairly sure": 0.75, "quite sure": 0.8, "fairly confident": 0.75, "pretty confident": 0.75,
    "somewhat confident": 0.65, "somewhat sure": 0.65, "reasonably sure": 0.75, "reasonably confident": 0.75,
    "likely": 0.75, "probable": 0.75, "probably": 0.75, "moderate": 0.6, "moderately": 0.6, "medium": 0.6,
    "perhaps": 0.5, "maybe": 0.5, "possibly": 0.5, "possible": 0.5, "even chance": 0.5, "toss-up": 0.5,
    "fifty-fifty": 0.5, "unsure": 0.4, "uncertain": 0.4, "doubt": 0.3, "doubtful": 0.3, "guess": 0.4, "guessing": 0.4,
    "low": 0.3, "very low": 0.1, "unlikely": 0.25, "very unlikely": 0.1, "improbable": 0.25, "probably not": 0.3,
    "no idea": 0.2, "impossible": 0.02,
}
DENIED = 0.4
"""What a word for certainty counts as behind a `not`: its denial says that one is not sure, and no more."""

NEGATION = (r"(?:not|never|hardly|cannot|far from|anything but|nowhere near|less than|little|too \w+ to be|"
            r"without(?! a? ?doubt)|no(?! doubt)|\w+n['’]t)\s+(?:[\w%]+ ){0,2}")
LEVEL = re.compile(rf"(?<![\w-])(?P<denied>{NEGATION})?(?P<word>"
                   rf"{'|'.join(map(re.escape, sorted(WORDS, key=len, reverse=True)))})(?![\w-])", re.IGNORECASE)

ECHO = re.compile(r"\(\s*surely (?:right|wrong)\s*\)", re.IGNORECASE)
WRONG = re.compile(r"\b(?:wrong\w*|incorrect\w*|mistake\w*|false\w*|err(?:or|ors|ed|oneous)?|inaccurate)\b|"
                   r"(?:\bnot|n['’]t)\s+(?:\w+ )?(?:right|correct|true|accurate)\b", re.IGNORECASE)
DOUBTED = re.compile(rf"\b(?:not|never|hardly|doubt\w*|far from|nowhere near|less than|under|below|at most)\s+"
                     rf"(?:\w+\s+){{0,3}}?(?={NUMBER})|n['’]t\s+(?:\w+\s+){{0,3}}?(?={NUMBER})", re.IGNORECASE)


def certainty(reply: str) -> float | None:
    """The certainty that a reply states, None where it states none, or several.

    A number above 1 is one of a hundred; one up to 1 with a decimal point is a share. `1` alone may be either: None. So
    is what is said of being wrong, which may be meant either way, and a figure that is denied or doubted.
    """
    reply = EVEN.sub("50%", REASONING.sub("", reply)).strip()[:LONGEST]
    level = LEVEL.search(reply)
    if level and "%" in (level["denied"] or ""):
        return DENIED
    reply = ECHO.sub(" ", SCALE.sub(" ", reply))
    if DOUBTED.search(reply) or any(WRONG.search(sentence) and (re.search(r"\d", sentence) or LEVEL.search(sentence))
                                    for sentence in re.split(r"(?<=[.!?;])\s|\n", reply)):
        return None
    marked = MARKED.search(reply)
    figures = _figures(reply[marked.end() :].split("\n")[0] if marked else reply)
    if figures:
        return figures.pop() if len(figures) == 1 else None
    if level is None:
        return None
    figure = WORDS[level["word"].lower()]
    return min(figure, DENIED) if level["denied"] else figure


def _figures(reply: str) -> set[float | None]:
    """The distinct figures of a reply; those that say what they are of leave bare numbers aside. None: no share."""
    found: set[float | None] = set()
    for pattern, read in ((RANGE, _middle), (FRACTION, _part), (SHARE, _percentage)):
        found |= {read(*match.groups()) for match in pattern.finditer(reply)}
        reply = pattern.sub(" ", reply)
    return found or {_bare(match[0]) for match in PLAIN.finditer(reply)}


def _middle(low: str, high: str) -> float | None:
    least, most = _number(low), _number(high)
    return (least + most) / (2 if most <= 1 else 200) if least <= most <= 100 else None


def _part(part: str, of: str) -> float | None:
    return _number(part) / _number(of) if 0 < _number(of) < math.inf and _number(part) <= _number(of) else None


def _percentage(number: str) -> float | None:
    return _number(number) / 100 if _number(number) <= 100 else None


def _bare(number: str) -> float | None:
    value = _number(number)
    if value < 0:
        return None
    if value <= 1:
        return value if number != "1" else None
    return value / 100 if value <= 100 else None


def _number(text: str) -> float:
    return float(text.replace(",", "."))
