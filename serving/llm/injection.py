"""Texts that order an answer: which class a text tells whoever reads it to name. Pure.

Two things have to come together: a verb of answering with one class as its object, and a sign that the order goes to
the machine: earlier instructions are revoked, a role of a conversation is played, or the form of the answer is
prescribed ("answer only with", "the class should be"). A text that merely names a class ("this is spam, please report
it") orders nothing. What is disguised by look-alike letters, invisible ones or other quotes is found all the same; what
is encoded or put in other words is not: this finds many, never all.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from serving.llm.folding import undisguised
from serving.llm.naming import Names

_GAP = r"(?:\W+\w+){0,6}?\W+"
_REVOKING = (r"\b(?:ignor\w*|disregard\w*|forget|override|overrule|bypass|discard|skip|do not follow|don't follow|stop "
             r"following|vergiss|missachte\w*|oubli\w*|olvid\w*|dimentica\w*|esque[cg]\w*)\b")
_EARLIER = r"\b(?:previous|prior|above|all|your|these|those|earlier|preceding|existing|original)\b"
_REVOKED = re.compile(
    rf"{_REVOKING}{_GAP}(?:instruc\w*|instruktion\w*|anweisung\w*|istruzion\w*|prompts?|befehle?|ordenes|"
    r"everything (?:above|before|i said|you were told)|all of the above|(?:what|all) (?:you were told|came before))\b"
    rf"|{_REVOKING}{_GAP}{_EARLIER}{_GAP}(?:rules?|regeln|regles|reglas|directions?|directives?|guidelines?|commands?|"
    r"orders|tasks?)\b"
    r"|\b(?:regardless of|whatever) (?:\w+ ){0,3}(?:instructions?|rules|guidelines|prompt|told|say)\b"
    r"|\b(?:ignore|disregard) (?:the |all |your )?(?:rules|guidelines|above)\b"
    r"|\b(?:new|updated|revised|real|actual|important) (?:system )?(?:instructions?|task|rules?|orders?)\s*"
    r"(?:[:-]|are\b|is\b)"
    r"|\b(?:system|developer|admin\w*)[ -]?(?:prompt|override|message|instructions?|note)\b|\bsystem\s*:"
    r"|\byou are (?:now|no longer)\b|\bfrom now on\b|\bend of (?:the )?(?:text|message|input|data|prompt)\b"
    r"|\b(?:as|dear|hey|attention|note to(?: the)?) (?:an? )?"
    r"(?:ai|llm|language model|assistant|chatbot|classifier|gpt)\b"
    r"|\b(?:ai|llm|language model|assistant|chatbot|classifier)s?\s*(?:[:,]|must|should|shall|will)")
_SET_ASIDE = re.compile(rf"{_REVOKING}{_GAP}{_EARLIER}{_GAP}(?:messages?|text)\b"
                        rf"|{_REVOKING}{_GAP}(?:messages?|text) above\b")  # people say so of mails, too
_ROLE = (r"(?:(?:^|[\W_])(?:assistant|system|model)\W*[:>|]\W*(?:answer\W+)?|\[/inst\]\W*"
         r"|<(?:\|im_start\||\|start_header_id\||start_of_turn)>\W*(?:assistant|model)\W+)")
_NAMING = (r"answer|respond|reply|say|output|return|print|write|choose|select|pick|predict|classify|label|tag|"
           r"categori[sz]e|antworte\w*|schreib\w*|sag\w*|repond\w*|dis|ecri\w*|respond\w*|"
           r"conteste|contesta|di|escrib\w*|rispond\w*|scrivi|responda|diga")
_TOLD = r"(?<!\bi )(?<!\bwe )(?<!\bhe )(?<!\bshe )(?<!\bthey )(?<!'d )"  # "they say yes" tells, and orders nothing
_VERB = rf"{_TOLD}\b(?:{_NAMING}|mark|rate|flag|report|treat|set)\b"
_JOINT = r"[\s'\"*:(\[-]+"
_BETWEEN = rf"(?:{_JOINT}(?!not\b|never\b)\w+){{0,7}}?{_JOINT}"
_FEW = rf"(?:{_JOINT}\w+){{0,3}}?{_JOINT}"
_FORM = r"(?:only|just|exactly|solely|nothing but|the (?:word|class|label|category|answer))"
_NOUN = r"(?:answer|label|class|classification|category|output|response|reply)"
_SORT = r"(?:answer|respond|output|predict|classify|label|categori[sz]e)"
_PLAIN = (rf"\b(?:answer|respond|reply|output|return|print|write|say)\b{_FEW}{_FORM}\b{_FEW}"
          rf"|\byour {_NOUN} (?:\w+ ){{0,4}}(?:must|should|has to|shall) be\b{_JOINT}"
          rf"|\b(?:just|only|simply) {_SORT}\b{_FEW}"
          rf"|\bi (?:want|need|order|command|ask|tell|instruct) you to {_SORT}\b{_FEW}"
          rf"|\byou (?:must|should|have to|need to|shall|will|are to) (?:\w+ )?{_SORT}\b{_FEW}")
_SHOULD = (rf"\b(?:your|the (?:correct|right|only|true|expected|final)) {_NOUN} "
           rf"(?:is|must be|should be|has to be|will be)\b{_JOINT}|\b{_NOUN}\s*:{_JOINT}?")


@lru_cache(maxsize=64)
def _patterns(classes: tuple[str, ...]) -> tuple[Names, list[re.Pattern[str]]]:
    """The names, and patterns: of a name; of orders after a revocation; of orders after "ignore the message"; of plain
    orders; of a further class behind the one that is ordered.
    """
    names = Names(tuple(undisguised(name).strip() for name in classes))
    one = f"(?P<order>{names.source})"
    only = r"(?=[\s'\"*]+(?:only|alone|and nothing else)\b(?! (?:if|when|for|on|after)\b))"
    return names, [re.compile(pattern) for pattern in (
        one,
        rf"(?:{_VERB}{_BETWEEN}|{_SHOULD}){one}",
        rf"(?:{_TOLD}\b(?:{_NAMING})\b{_BETWEEN}|{_SHOULD}){one}",
        rf"(?:{_PLAIN}|{_ROLE}){one}|\b{_SORT}\b(?: (?:with|as|this as|it as))?{_JOINT}(?P<alone>{names.source}){only}",
        rf"[\s'\"*,/]*(?:\b(?:or|and|oder|und|ou|et|o|y|e)\b|/|,)[\s'\"*]*(?:{names.source})",
    )]


def ordered(text: str, classes: Sequence[str]) -> frozenset[int]:
    """The classes that a text orders to be answered; none where it leaves a choice, as in "answer yes or no"."""
    return _ordered(text, tuple(classes))


@lru_cache(maxsize=1024)  # a text may be asked about many times, and a passage shown beside many texts
def _ordered(text: str, classes: tuple[str, ...]) -> frozenset[int]:
    names, (named, revoking, setting_aside, plain, choice) = _patterns(classes)
    told = undisguised(text)
    if not named.search(told):
        return frozenset()
    orders = [*plain.finditer(told)]
    if _REVOKED.search(told):
        orders += revoking.finditer(told)
    elif _SET_ASIDE.search(told):
        orders += setting_aside.finditer(told)
    chosen = [next(filter(None, order.groupdict().values())) for order in orders if not choice.match(told, order.end())]
    return frozenset(index for name in chosen if (index := names.whole(name)) is not None)
