"""What sentences say about classes: which are affirmed, and how plainly. Pure; texts come folded.

Plainly: the reply begins or ends with a class alone, or says "the answer is …". Else a sentence has to affirm it.
"""

import re
from dataclasses import dataclass

from serving.llm.frames import affirmed, bare, without_choice
from serving.llm.naming import Mention, Names

_PART = re.compile(r"[.;:?,\n()]|!(?!\w)|\s-+\s|\s[-=]>\s?")
_CLAUSE = re.compile(
    r"[.;?\n,]|!(?=\s)|\s-+\s|\b(?:but|because|since|so|therefore|hence|thus|whereas|while|sondern|mais|sino|ma)\b",
    re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n")
_CUE = re.compile(
    r"(?:(?P<strong>\b(?:final(?:ly)?|therefore|thus|hence|conclu\w+|overall|so|in summary|correct(?:ed|ion))\b"
    r"[^.\n]{0,60}?)?"
    r"\b(?:answer|class|category|label|classification|prediction|verdict|output|result|response|antwort|klasse|reponse|"
    r"réponse|respuesta|risposta|resposta|ответ|答案|回答|答え)[\s'\"*_]*"
    r"(?:\b(?:is|would be|should be|must be|ist|est|es|è)\b|是|:|=)"
    r"|(?P<summed>(?:^|(?<=[.!?\n]))[\s*_#>-]*(?:(?:overall|(?:in )?summary|(?:in )?conclusion|finally)[*_]*[:,]"
    r"|(?:(?:the|overall|final) )?(?:sentiment|relation(?:ship)?|topic|tone|type|intent|polarity|stance|emotion|"
    r"rating|grade|decision|judge?ment)[*_]*:)))"
    r"[\s'\"*_:=#>-]*(?=(?P<rest>[^\n]{1,300}))", re.IGNORECASE)
_NO_DENIAL = re.compile(r"\b(?:no|without(?: a| any)?|little) (?:doubt|question)\b|\bundoubtedly\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:not?|non|nor|neither|never|none|nothing|cannot|without|hardly|barely|rarely|unlikely|rather than|instead of|"
    r"opposed to|different from|other than|anything but|far from|less \w+|than|unlike|except|excluding|lacks?|lacking|"
    r"absen\w+|fails? to|rules? out|ruled out|wrong\w*|incorrect\w*|false\w*|isnt|arent|wasnt|doesnt|dont|didnt|cant|"
    r"wont|"
    r"kein\w*|nicht|weder|noch|nie|pas|aucun\w*|jamais|ni|sin|não|nao|sem|niet|geen|ikke|inte|ingen|не|нет|ни)\b|n't\b"
    r"|[!¬≠~]+\W*$|\b(?:anti|non|un|not)[-\s]?$", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"[\s'\"*_)]*(?:(?:is|are|was|were|does|do|did|would|can|could|should|will|has|have|must|might|may|ca|wo|ist|wird)\s*"
    r"(?:n't|not|nicht|kein\w*|no\b|never|unlikely|incorrect|wrong|false|impossible|ruled|low)"
    r"|\bcannot\b|[:=?(-]+\s*(?:no|not|false|nein|0|low|unlikely|wrong|incorrect)\b|[~?]"
    r"|[,(-]*\s*(?:perhaps|maybe|possibly|or (?:maybe|perhaps|not)|if|unless)\b)", re.IGNORECASE)
MOST = 40
"""Conclusions that are read, the last ones."""

_NUMBER = re.compile(r"^\W{0,3}\d{1,2}[.):\]]+\s*")
_TAKEN_BACK = re.compile(
    r"(?:^|[.!?\n])\s*(?:wait|hmm+|on second thoughts?|scratch that|just kidding|actually)\b"
    r"|[.!?\n]\s*no\s*(?:[.!;:]|$|\n)", re.IGNORECASE)


@dataclass(frozen=True)
class Read:
    """What a reply asserts. plain: by a sign that it is the answer. affirmed: in a sentence. last: the one plain class
    that a conclusion ends with, if there is one. named: all classes mentioned without being denied, doubted ones too.
    """

    plain: frozenset[int] = frozenset()
    affirmed: frozenset[int] = frozenset()
    named: frozenset[int] = frozenset()
    last: int | None = None


def read(text: str, names: Names, whole: bool = True) -> Read:
    """Read a reply. whole: its end is an end, and was not cut off."""
    back = [match.end() for match in _TAKEN_BACK.finditer(text)] if names.whole("no") is None else []
    if back:
        rest = _read(text[back[-1]:], names, whole)
        if not (rest.plain or rest.affirmed or rest.last is not None):
            return Read(named=rest.named)
    return _read(text, names, whole)


def _read(text: str, names: Names, whole: bool) -> Read:
    plain, last = _cues(text, names)
    parts = [part.strip() for part in _PART.split(text)]
    before = text.split("(")[0]  # "Cause - Effect(e1, e2)"
    begin = before if names.whole(before) is not None else parts[0]
    leads = names.whole(begin)
    if leads is not None and not _DENIED_AFTER.match(text[len(begin):]):
        alone = [names.whole(part) for part in parts]  # "spam, ham": the answer begins with two classes
        plain |= {index for index in alone if index is not None and index not in names.weak} | {leads}
    lines = [names.whole(line) for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and whole and lines[-1] is not None:
        plain |= {index for index in lines if index is not None and (index == lines[-1] or index not in names.weak)}
    text = without_choice(text)
    named = [mention for mention in names.mentions(text) if not _denied(text, mention)]
    single = len(_SENTENCE.split(text.strip())) == 1
    told = {mention.named for mention in named
            if affirmed(text, mention.start, mention.end) or (single and bare(text, mention.start, mention.end))}
    weak = names.mentions(text, weak=True)
    if single and len(weak) == 1 and not re.search(r"\w", text[weak[0].end:]) and affirmed(text, *weak[0][:2]):
        told.add(weak[0].named)  # "I would say yes."
    final = names.whole(_SENTENCE.split(text.strip())[-1])
    told |= {final} if whole and final is not None else set()
    return Read(frozenset(plain), frozenset(told), frozenset(mention.named for mention in named), last)


def _cues(text: str, names: Names) -> tuple[set[int], int | None]:
    """The classes after "the answer is …", and the one after the last such conclusion, if it is one.

    Where the last of them denies or doubts its class, there are none.
    """
    found: set[int] = set()
    last = None
    for cue in list(_CUE.finditer(text))[-MOST:]:
        rest = _NUMBER.sub("", cue["rest"]) if names.numbered else cue["rest"]
        sentence, part = _SENTENCE.split(rest)[0], _PART.split(rest)[0]
        index = None if _DENIED_AFTER.match(rest, len(part)) else names.whole(part)
        mentions = names.mentions(sentence)
        named = {mention.named for mention in mentions if not _denied(sentence, mention)}
        if index is None and (cue["summed"] or not any(
                affirmed(sentence, mention.start, mention.end, straight=True) for mention in mentions)):
            if mentions and not cue["summed"]:
                found, last = set(), None
            continue
        named |= {index} if index is not None else set()
        if cue["strong"] or cue["summed"]:
            last = named.copy().pop() if len(named) == 1 else None
        elif named - {last}:
            last = None
        found |= named
    return found, last


def _denied(text: str, mention: Mention) -> bool:
    before = _CLAUSE.split(_NO_DENIAL.sub(" ", text[max(0, mention.start - 200):mention.start]))[-1]
    return bool(_DENIED.search(before) or _DENIED_AFTER.match(text, mention.end))
