"""The names of classes in words: whether a phrase is one, and where a sentence mentions some. Pure.

Case counts only where two names differ in nothing else, and so do spaces, hyphens, underscores and slashes. A longer
name wins over a shorter one that is part of it. In what order the classes are listed makes no difference.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from serving.llm.folding import folded

WEAK = frozenset({
    "a", "an", "the", "no", "not", "none", "yes", "other", "others", "and", "or", "is", "it", "in", "on", "at", "to",
    "of", "for", "all", "any", "some", "true", "false", "one", "both", "neither", "either", "this", "that", "these",
    "same", "n/a", "i", "you", "we", "he", "she", "they", "as", "by", "if", "be", "so", "but",
})
"""Names that a sentence has to contain anyway: they are read only where they stand alone. So are those of one letter
or two."""

_BETWEEN = r"[\s_/-]+"
_SEPARATORS = re.compile(_BETWEEN)
_FIRST, _LAST = re.compile(r"[\w!¬≠~+]"), re.compile(r"[\w+#]")
_BEFORE, _AFTER = r"(?<![^\W_])(?<![^\W_][_-])", r"(?![^\W_])(?![_-][^\W_])(?!'[^\W_])"


class Mention(NamedTuple):
    """A class, by its index, that a text names at [start, end)."""

    start: int
    end: int
    named: int


class Names:
    """How the classes are called. source: a regular expression for any of the names."""

    def __init__(self, classes: Sequence[str]):
        shown = [folded(name).strip() for name in classes]
        self._stages: list[tuple[Callable[[str], str], dict[str, set[int]]]] = []
        for key in (str, str.casefold, _bare):
            keys: dict[str, set[int]] = defaultdict(set)
            for index, name in enumerate(shown):
                if key(name):
                    keys[key(name)].add(index)
            self._stages.append((key, dict(keys)))
        self.count = len(shown)
        self.numbered = not any(_bare(name).isdigit() for name in shown)
        self.weak = frozenset(i for i, name in enumerate(shown) if name.casefold() in WEAK or len(name) < 3)
        folds = [_SEPARATORS.sub(" ", name).casefold() for name in shown]
        patterns = {}
        for name, fold in zip(shown, folds, strict=True):
            if not name:
                continue
            words = [re.escape(word) for word in _SEPARATORS.split(name) if word]
            case = "i" if folds.count(fold) == 1 else "-i"
            pattern = _BETWEEN.join(words) if case == "i" and words else re.escape(name)
            patterns[name] = f"(?{case}:{pattern})"
        ordered = [pattern for _, pattern in sorted(patterns.items(), key=lambda item: (-len(item[0]), item[0]))]
        self.source = f"{_BEFORE}(?:{'|'.join(ordered) or '(?!)'}){_AFTER}"
        self._any = re.compile(self.source, re.IGNORECASE)

    def whole(self, phrase: str) -> int | None:
        """The class that a folded phrase is, and nothing more, whatever quotes and punctuation are around it."""
        for key, keys in self._stages:
            if found := keys.get(key(phrase.strip())):
                return next(iter(found)) if len(found) == 1 else None
        return None

    def mentions(self, text: str, weak: bool = False) -> list[Mention]:
        """Where a folded text names classes; of weak names none, unless these are wanted, too."""
        found = [(match, self.whole(match.group())) for match in self._any.finditer(text)]
        return [Mention(*match.span(), index) for match, index in found
                if index is not None and (weak or index not in self.weak)]


    def begins(self, phrase: str) -> bool:
        """Whether a longer name begins as this phrase does, so that a phrase cut short may have meant it."""
        bare = _bare(phrase)
        return any(key.startswith(bare) and key != bare for key in self._stages[-1][1])


@lru_cache(maxsize=64)
def names_of(classes: tuple[str, ...]) -> Names:
    """The names of these classes, made once."""
    return Names(classes)


def _bare(phrase: str) -> str:
    """Letters and figures in lower case, with what is inside a name but spaces, hyphens, underscores and slashes.

    A sign that denies what follows it stays: `!spam` is not `spam`.
    """
    phrase = phrase.replace("**", "").strip("_ ")
    begin, end = _FIRST.search(phrase), _LAST.search(phrase[::-1])
    kept = phrase[begin.start():len(phrase) - end.start()] if begin and end else ""
    return _SEPARATORS.sub("", kept).casefold()
