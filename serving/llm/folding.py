"""Texts in the form in which they are compared: one shape for letters, quotes and dashes that look alike. Pure."""

import re
import unicodedata

_ALIKE = str.maketrans({
    **dict.fromkeys("‘’‚‛‹›′`´ʼ＇", "'"), **dict.fromkeys("“”„‟«»″〝〞「」『』", '"'),
    **dict.fromkeys("‐‑‒−﹣－", "-"), **dict.fromkeys("–—―", " - "),
})
_PAIRS = "аaеeоoрpсcуyхxіiѕsјjԁdԛqԝwһhӏlоoαaοoеeιiρpνvκkτtυuАAВBЕEКKМMНHОOРPСCТTУYХXІIЅSЈJΑAΒBΕEΖZΗHΙIΚKΜMΝNΟOΡPΤTΥYΧX"
_LATIN = str.maketrans(_PAIRS[::2], _PAIRS[1::2])


def folded(text: str) -> str:
    """Compatible forms (NFKC: full-width letters and the like), nothing invisible, plain quotes and dashes.

    Case and line breaks stay.
    """
    if text.isascii():
        return text.replace("`", "'")
    text = unicodedata.normalize("NFKC", text.translate(_ALIKE)).translate(_ALIKE)
    return "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Co", "Cs"))


def undisguised(text: str) -> str:
    """`folded`, without accents, in lower case, on one line, Cyrillic and Greek letters as the Latin they look like.

    Only to look for what somebody hides: of a text in those scripts it makes gibberish.
    """
    text = folded(text).translate(_LATIN)
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) != "Mn")
    return re.sub(r"\s+", " ", text.casefold())
