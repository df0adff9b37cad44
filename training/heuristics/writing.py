"""The heuristics as a `sources.py` that a person can read and edit. Pure: the text of the file."""

import inspect
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from training.heuristics import words
from training.heuristics.estimates import PRIOR_LABELS
from training.heuristics.finding import Found, Heuristic
from training.heuristics.stumps import MEASURES, Counts, Points, Says

FAMILY = "written"
MARKS = {"#": "number", "?": "question", "!": "exclamation", "£": "pound", "$": "dollar", "€": "euro", "%": "percent"}

TOP = '''"""Sources of the task '{task}', written by `polarscore sources` from {labels} labels. They are yours to edit.

Each function looks at one thing and votes for a class, or abstains where it is absent. The comment above it says on
how many labels it was right, of those that it votes on; they had no say in its class. Then how often it is taken to be
right, and between which rates that lies with confidence 0.9: what the labels taught of all texts on which it votes
counts as {prior:.0f} labels more. Last its share of the texts of train and valid.
A phrase is in lower case, `^` stands where a text begins and `#` for a number: "^ how many", "call #".
Train again after an edit: polarscore train TASK_DIR
"""

import functools
import re

from training.sources import ABSTAIN, labelling_function

'''

CARD = '''

# ── Points ──
#
# Each phrase that a text says adds its points; the class with most gets the vote if it leads by LEAD or more.
# Ten points make a class e = 2.7 times as likely.
# {comment}

LEAD = {lead}
BASE = {base}
POINTS = {{
{rows}
}}


@labelling_function(
    family={family},
    evidence={evidence},
)
def {source}(row):
    said = [POINTS[phrase] for phrase in POINTS if says(row.text, phrase)]
    total = {{label: base + sum(points.get(label, 0) for points in said) for label, base in BASE.items()}}
    first, second = sorted(total.values(), reverse=True)[:2]
    return max(total, key=total.get) if said and first - second >= LEAD else ABSTAIN
'''


@dataclass(frozen=True)
class Written:
    """A heuristic with the name and the evidence that it is written with."""

    name: str
    evidence: str
    heuristic: Heuristic


def named(found: Found, taken: Collection[str] = ()) -> list[Written]:
    """The heuristics in the order of the file, by class, the table of points last. taken: names of other sources."""
    last = len(found.classes)
    order = sorted(found.heuristics, key=lambda each: last if each.label is None else each.label)
    used = {*taken, *dir(words), "row", "LEAD", "BASE", "POINTS", "ABSTAIN", "labelling_function"}
    written = []
    for each in order:
        name = next(name for name in _names(_slug(each.rule)) if name not in used)
        used.add(name)
        written.append(Written(name, evidence_of(each.rule), each))
    return written


def source_code(task: str, found: Found, written: list[Written]) -> str:
    """The text of the file. task: its name."""
    measures = dict.fromkeys(each.heuristic.rule.measure for each in written
                             if isinstance(each.heuristic.rule, Counts))
    helpers = [words.words, words.says, *(getattr(words, measure) for measure in measures)]
    parts = [TOP.format(task=task, labels=sum(found.labels), prior=PRIOR_LABELS), words.HEAD]
    parts += [f"\n\n{re.sub('  # type: ignore.*', '', inspect.getsource(helper))}" for helper in helpers]
    section: int | None = None
    for each in written:
        label = each.heuristic.label
        if isinstance(each.heuristic.rule, Points):
            parts.append(_card(each, found.classes))
            continue
        assert label is not None
        if label != section:
            parts.append(f"\n\n# ── {quoted(found.classes[label])} ──\n")
            section = label
        parts.append(
            f"\n\n# {_comment(each)}\n"
            f"@labelling_function(family={quoted(FAMILY)}, evidence={quoted(each.evidence)})\n"
            f"def {each.name}(row):\n"
            f"    return {quoted(found.classes[label])} if {_condition(each.heuristic.rule)} else ABSTAIN\n")
    return "".join(parts)


def evidence_of(rule: Says | Counts | Points) -> str:
    """What a vote rests on, as a sentence about the text."""
    if isinstance(rule, Points):
        return "By points for all its phrases together, the text is most like the texts of this class."
    if isinstance(rule, Counts):
        unit = MEASURES[rule.measure].removesuffix("s" if rule.bound == 1 else "\0")
        return f"The text has {'at least' if rule.at_least else 'at most'} {rule.bound} {unit}."
    begins = rule.phrase.startswith("^ ")
    number = ", # being any number" if "#" in rule.phrase else ""
    return f"The text {'begins with' if begins else 'says'} '{rule.phrase.removeprefix('^ ')}'{number}."


def quoted(text: str) -> str:
    """A Python literal on one line, in double quotes where that is as plain."""
    literal = repr(text)
    return f'"{literal[1:-1]}"' if literal[0] == "'" and '"' not in literal else literal


def _condition(rule: Says | Counts | Points) -> str:
    if isinstance(rule, Says):
        return f"says(row.text, {quoted(rule.phrase)})"
    assert isinstance(rule, Counts)
    return f"{rule.measure}(row.text) {'>=' if rule.at_least else '<='} {rule.bound}"


def _comment(each: Written) -> str:
    known = each.heuristic.estimate
    share = 100 * known.coverage
    labels = f"{known.seen} label{'s' if known.seen > 1 else ''}"
    right = f"Right on {known.right} of {labels}" if known.seen else "Seen with no label"
    return (f"{right}, {known.precision:.2f} ({known.low:.2f} to {known.high:.2f}); votes on "
            f"{share:.{0 if share >= 10 else 1}f} % of the texts.")


def _card(each: Written, classes: tuple[str, ...]) -> str:
    card = each.heuristic.rule
    assert isinstance(card, Points)

    def shown(points: Mapping[int, int]) -> str:
        return "{" + ", ".join(f"{quoted(classes[label])}: {more}" for label, more in points.items()) + "}"

    order = sorted(card.points, key=lambda phrase: _standing(card.points[phrase]))
    rows = "\n".join(f"    {quoted(phrase)}: {shown(card.points[phrase])}," for phrase in order)
    return CARD.format(comment=_comment(each), lead=card.lead, base=shown(dict(enumerate(card.base))), rows=rows,
                       source=each.name, family=quoted(FAMILY), evidence=quoted(each.evidence))


def _standing(points: Mapping[int, int]) -> tuple[int, int]:
    """By the class with most points, the strongest phrases first."""
    label = max(points, key=lambda label: points[label])
    return label, -points[label]


def _slug(rule: Says | Counts | Points) -> str:
    """An identifier that tells the rule, of ASCII letters."""
    if isinstance(rule, Points):
        return "weighs_words"
    if isinstance(rule, Counts):
        return f"{MEASURES[rule.measure].replace(' ', '_')}_at_{'least' if rule.at_least else 'most'}_{rule.bound}"
    begins = rule.phrase.startswith("^ ")
    plain = " ".join(MARKS.get(part, part) for part in rule.phrase.removeprefix("^ ").split())
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "_", ascii_only.lower().replace("'", "")).strip("_")[:60]
    return f"{'begins' if begins else 'says'}_{slug or 'phrase'}"


def _names(first: str) -> Iterator[str]:
    yield first
    number = 2
    while True:
        yield f"{first}_{number}"
        number += 1
