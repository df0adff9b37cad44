"""The shapes of clauses that affirm a class: "this text is …", "I would classify it as …", "das ist …". Pure.

A clause has to be of such a shape from its beginning to the class, and end behind it as such clauses do. So nothing is
read out of words that nobody listed: a denial or a doubt in other words, or another language, affirms nothing.
"""

import re

DATA = (r"(?:text|message|sms|e-?mail|mail|comment|review|tweet|post|sentence|question|claim|statement|content|passage|"
        r"document|article|abstract|title|headline|input|example|sentiment|tone|polarity|stance|emotion|"
        r"relation(?:ship)?|topic|intent|type|advice|answer|class|category|label|classification|prediction|verdict|"
        r"output|result|response|conclusion)")
MODIFIERS = (r"(?:(?:clearly|definitely|certainly|obviously|undoubtedly|most|more|very|quite|highly|likely|probably|"
             r"best|strongly|overwhelmingly|indeed|actually|therefore|thus|a|an|the|clear|typical|obvious|"
             r"(?:case|example|instance|piece|form) of|"
             r"class|category|label)\b[\s:'\"*_`(\[]*)*")
_THING = (rf"(?:this|it|that|(?:the|this|that|its|my|your)\s(?:\w+\s){{0,3}}?{DATA}"
          r"(?:\s(?:of|in|for|to|between|from|about|given|here|above|expressed|described|you provided)\b"
          r"(?:\W{1,3}\w+){0,8}?)?)")
_IS = (r"(?:is|are|(?:would|should|must|can) be|seems(?: to be)?|appears(?: to be)?|looks(?: to be| like)?|"
       r"reads (?:as|like)|sounds like|counts as|qualifies as|constitutes|represents|falls (?:under|into|in)|"
       r"belongs (?:to|in)|contains|has|gives|provides|offers|expresses|conveys|"
       r"does (?:have|contain|give|provide|offer))")
_CALLED = (r"(?:(?:classified|categori[sz]ed|labell?ed|tagged|considered|described|identified|rated|regarded|marked)"
           r"(?: (?:as|to be|under))?)?")
_SAY = r"(?:say|answer|choose|pick|select|conclude|predict|go with|think|believe)"
_SORT = r"(?:classify|label|call|categori[sz]e|rate|consider|mark|tag|judge)"
_I = r"(?:I(?:'d|'ll| would| will)?|let me)"
_INTRO = (rf"(?:(?:{_I} {_SAY}(?: that)?|there is no doubt(?: that)?|no doubt|(?:it is|it's) clear that|sure|"
          r"ok(?:ay)?|yes|well|clearly|overall|finally|in (?:summary|conclusion|short)|which means(?: that)?|and|then|"
          r"here|to me)[\s,:!]*)*")
_FRAME = re.compile(
    rf"{_INTRO}(?:(?:(?:{_THING}\s)?{_IS}|it's|that's)\s*{MODIFIERS}{_CALLED}"
    rf"|{_I} {_SAY}(?: that| with| for)?|{_I} {_SORT}(?: (?:this|it|that|the)(?: \w+){{0,3}}?)?(?: (?:as|to be|under))?"
    r"|(?:das|es|dies(?:e[rs]?)?(?: \w+)?|der text|die nachricht) ist(?: eine?)?"
    r"|(?:c'est|cet?(?:te)? \w+ est)(?: du| une?)?|il s'agit (?:de|du|d'une?)|(?:(?:esto|est[ea] \w+) )?es(?: una?)?"
    r"|(?:questo )?[eè](?: uno?)?|(?:isto )?é(?: uma?)?"
    rf")[\s:'\"*_`(\[]*{MODIFIERS}", re.IGNORECASE)
_RATHER = re.compile(rf"(?:\bnot\b[^.;!?\n]{{1,60}}\bbut (?:rather )?(?:(?:it )?is )?"
                     rf"|[,;-]\s*(?:so|therefore|hence|thus),? ){MODIFIERS}$", re.IGNORECASE)
_CLAUSE = re.compile(r"[.;?\n,]|!(?=\s)|\s-+\s|\b(?:but|because|since|so|therefore|hence|thus|whereas|while|and)\b",
                     re.IGNORECASE)
_ENDS = re.compile(rf"[\s'\"*_`)\]]*(?:$|[.,;!(]|-|(?:{DATA}|because|since|as|due|given|rather|instead|and|but|not|"
                   r"in (?:tone|nature|this|my)|to me)\b)", re.IGNORECASE)
_YES = re.compile(r"[\s'\"*_`]*(?:[:=]\s*(?:yes|true|correct)\b|is the (?:(?:correct|right|best|most likely) )?"
                  r"(?:class|answer|label|category)\b)", re.IGNORECASE)
_STRAIGHT = re.compile(rf"{_INTRO}[\s:'\"*_`(\[]*{MODIFIERS}", re.IGNORECASE)
_NO_MORE = re.compile(rf"\W*{DATA}?\W*(?<!\?)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!](?:\s|$)|\n")
_AMONG = re.compile(r"\b(?:between|among|out of|of) [^.,;!?\n]{1,60}\b(?:and|or)\b[^.,;!?\n]{1,40},\s*", re.IGNORECASE)
_DOUBT_BEFORE = re.compile(
    r"\b(?:if|unless|whether|doubt\w*|unclear|unsure|uncertain|not sure|maybe|perhaps|possibly|might|may|could|can't|"
    r"cannot|impossible|hard to|difficult to|mistake\w*|mistaken\w*|opposite|supposed\w*|suppos\w+|pretend\w*|unlikely|"
    r"hypothetical\w*|otherwise|previously|formerly|allegedly|so-called|assum\w+|imagin\w+|either)\b",
    re.IGNORECASE)
_DOUBT_AFTER = re.compile(
    r"\b(?:if|unless|except|or|maybe|perhaps|possibly|might|could|mistake\w*|wrong\w*|not sure|unsure|doubt\w*|"
    r"otherwise)\b|\?", re.IGNORECASE)
_NO_DOUBT = re.compile(r"\b(?:no|without(?: a| any)?|little|beyond(?: a| any)?) doubt\b", re.IGNORECASE)


def without_choice(text: str) -> str:
    """The text without "between … and …," before what is chosen."""
    return _AMONG.sub("", text)


def bare(text: str, start: int, end: int) -> bool:
    """Whether a text is a class at [start, end) and nothing more: "Probably spam", "yes, a spam message"."""
    return bool(_STRAIGHT.fullmatch(text[:start]) and _NO_MORE.fullmatch(text[end:]))


def affirmed(text: str, start: int, end: int, straight: bool = False) -> bool:
    """Whether a class that stands at [start, end) is affirmed. straight: the text begins behind "the answer is"."""
    sentence = re.split(r"[.!?]\s|\n", text[max(0, start - 300):start])[-1]
    clause = _CLAUSE.split(sentence)[-1].lstrip(" \"'*_`>#")
    after = _SENTENCE_END.split(text[end:end + 200])[0]
    if _DOUBT_BEFORE.search(_NO_DOUBT.sub(" ", sentence)) or _DOUBT_AFTER.search(_NO_DOUBT.sub(" ", after)):
        return False
    if _YES.match(text, end):
        return not clause.strip("'\"*_` ")
    if not _ENDS.match(text[end:end + 200].split("\n")[0]):
        return False
    first = straight and len(sentence) == start
    return bool(_FRAME.fullmatch(clause) or _RATHER.search(sentence) or (first and _STRAIGHT.fullmatch(sentence)))
