"""The model card of a promoted version: what its evidence says, for people, in Markdown and as one HTML page. Pure.

Names and reasons are other people's text: in the card they are text, and never markup.
"""

import base64
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

PICTURE = "reliability.png"
_MOST = 10
_JOINERS = "\u200c\u200d"  # they shape letters in some scripts
_MEASURES = {"n": "answers", "error_rate": "error rate", "mean_risk": "mean risk", "ece": "ECE", "r2": "R²",
             "auroc": "AUROC", "aurc": "AURC", "brier": "Brier"}
_NOT_FOR = (
    "answers of another LLM or to another prompt, other classes, or texts unlike those of its training: there its "
    "risks are worth nothing until they are measured",
    "proving that a single answer is right: a low risk says that few of such answers are wrong, not which",
    "deciding alone about a person, where a wrong answer does harm that nobody would notice",
    "replacing the LLM: what the harmonizer would answer itself is a means to the risk",
)
_STYLE = """
:root { color-scheme: light }
body { margin: 0; background: #fff; color: #1c2329; font: 1rem/1.55 system-ui, sans-serif }
main { max-width: 54rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; overflow-wrap: break-word; overflow-x: auto }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .5rem 0 1rem }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid #d5dbe1 }
table { border-collapse: collapse; width: 100%; font-size: .92rem; margin: .8rem 0 }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #d5dbe1; text-align: left; vertical-align: top }
th { background: #f1f4f7 }
td { font-variant-numeric: tabular-nums }
td:last-child { overflow-wrap: anywhere }
td[style] { white-space: nowrap; overflow-wrap: normal }
pre { background: #f1f4f7; padding: .7rem .9rem; white-space: pre-wrap; font-size: .85rem }
code { font-family: ui-monospace, monospace; font-size: .9em }
img { max-width: min(100%, 30rem); height: auto }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: .25rem solid #2a7f9e; background: #f1f7f9 }
"""


def markdown(facts: Mapping[str, Any]) -> str:
    """The card in Markdown (CommonMark with tables), from the facts that `registry.evidence.gather` collects."""
    parts = [_head(facts), _purpose(facts), _training(facts), _worth(facts), _threshold(facts), _gates(facts),
             _warnings(facts), _provenance(facts), _verifying(facts)]
    return "\n\n".join(parts) + "\n"


def html(content: str, picture: bytes | None = None) -> str:
    """A card as a page that stands alone: nothing is loaded, nothing runs.

    picture: the PNG that the card shows, if it shows one; it becomes a part of the page.
    """
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(content)
    body = re.sub(r"<th(?=[ >])", '<th scope="col"', body)
    if picture is not None:
        body = body.replace(f'src="{PICTURE}"', f'src="data:image/png;base64,{base64.b64encode(picture).decode()}"')
    heading = re.search(r"<h1>(.*?)</h1>", body)
    title = re.sub(r"<[^>]*>", "", heading[1]) if heading else "Model card"
    policy = escape("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
            f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n")


def _head(facts: Mapping[str, Any]) -> str:
    moved = facts["promotion"]
    replaced = "" if moved["replaced"] is None else f" It took the place of version {moved['replaced']}."
    why = f"\n>\n> Reason given: {_text(moved['why'])}" if moved["why"].strip() else "\n>\n> No reason was given."
    return (f"# {_text(facts['model'])}, version {facts['version']}\n\n"
            f"> From {_text(moved['from_stage'])} to **{_text(moved['to_stage'])}** by {_text(moved['who'])} on "
            f"{_moment(moved['at'])} ({_text(moved['action'])}).{replaced}{why}")


def _purpose(facts: Mapping[str, Any]) -> str:
    classes = ", ".join(map(_text, facts["classes"]))
    return ("## What it is for\n\n"
            f"It gives an LLM's answer in the task {_text(facts['task'])} (classes: {classes}) a **risk**: the "
            "probability that the answer is wrong. Answers of low risk can be accepted unseen, those of high risk "
            "go to a person or are asked again.\n\nIt must not be used for\n\n" + _bullets(_NOT_FOR))


def _training(facts: Mapping[str, Any]) -> str:
    weights = sorted(facts["pareto_weights"].items(), key=lambda pair: -pair[1])
    families = {source["name"]: source["family"] for source in facts["sources"]}
    rows = [(_text(name), _text(families.get(name) or "–"), f"{weight:.4g}") for name, weight in weights[:_MOST]]
    if weights[_MOST:]:
        rest = sum(weight for _, weight in weights[_MOST:])
        rows.append((f"{len(weights) - _MOST} more, together", "", f"{rest:.4g}"))
    checked = facts["recalibration"]["labels"]
    labels = f" Then {checked} answers that people had checked set the scale of the risks." if checked else ""
    return ("## How it was trained\n\n"
            f"Without labels: a harmonizer ({_text(facts['harmonizer'])}, over the encoder "
            f"{_text(facts['encoder']['name'])} {_text(facts['encoder']['version'])}) learned to agree with the LLM "
            f"and with {_count(len(facts['sources']), 'noisy source')} at once, by the scalariser "
            f"{_text(facts['scalariser'])} under these Pareto weights.{labels}\n\n"
            + _table(("source", "family", "weight"), rows, right=(2,)))


def _worth(facts: Mapping[str, Any]) -> str:
    told = {split: found for split, found in facts["measures"].items() if found}
    if told:
        rows = [(_text(split), *(_figure(found.get(key)) for key in _MEASURES)) for split, found in told.items()]
        words = (_table(("split", *_MEASURES.values()), rows, right=range(1, 9)) + "\n\n"
                 "As measured at training time, on answers with labels; no label was trained on. ECE, AURC and Brier: "
                 "lower is better. R² and AUROC: higher is better; an AUROC of 0.5 is no better than chance.")
    else:
        words = "Its training had no labels to measure it by: how good its risks are was not known then."
    judged = facts["evaluation"]
    picture = "There is no reliability plot: no labelled answers were at hand at the promotion."
    if judged["picture"]:
        picture = ("![Reliability plot: observed error rate against risk in ten bins; on the dashed diagonal, the "
                   f"risks are true]({PICTURE})\n\nAt the promotion, on {_rows(judged)}.")
    return f"## What it is worth\n\n{words}\n\n{picture}"


def _threshold(facts: Mapping[str, Any]) -> str:
    promise, scale = facts["guarantee"], facts["recalibration"]["words"]
    words = ("No threshold is promised: nobody checked answers for one. Whoever accepts answers below some risk does "
             "so on the strength of the measures above.")
    if promise and promise["threshold"] is None:
        words = f"No threshold can be promised. {_sentence(promise['words'])}"
    elif promise:
        words = (f"Answers with a risk up to **{promise['threshold']:.4g}** can be accepted. "
                 f"{_sentence(promise['words'])} It accepts {promise['accepted']:.1%} of the answers of the valid "
                 f"split, and rests on {_count(promise['labels'], 'checked answer')}. It holds for answers like those, "
                 "and no longer once they drift.")
    return f"## Threshold and guarantee\n\n{words}" + (f"\n\nThe scale was {_sentence(scale)}" if scale else "")


def _gates(facts: Mapping[str, Any]) -> str:
    judged, decision = facts["evaluation"], facts["decision"]
    if not decision["gates"]:
        return "## What the gates said\n\nNo gate was asked."
    rows = [(_text(gate["name"]), _text(gate["state"]), _figure(gate.get("candidate")), _figure(gate.get("champion")),
             _text(gate["reason"])) for gate in decision["gates"]]
    verdict = "They let it pass." if decision["allowed"] else f"They refused it: {_sentence(decision['refusal'])}"
    where = "No task was at hand." if judged["task"] is None else f"Judged on {_rows(judged)}."
    return (f"## What the gates said\n\n{verdict} ({where})\n\n"
            + _table(("gate", "found", "this version", "champion", "in words"), rows, right=(2, 3)))


def _warnings(facts: Mapping[str, Any]) -> str:
    general = ("If all sources err together, agreement looks like truth; without checked answers nothing shows it.",
               "The risks hold for answers like those of its training. `polarscore monitor check` watches that.")
    found = facts["warnings"]
    words = "Its training warned:\n\n" + _bullets(map(_sentence, found)) if found else "Its training gave no warning."
    return f"## Limits and warnings\n\n{words}\n\nOf every version:\n\n" + _bullets(general)


def _provenance(facts: Mapping[str, Any]) -> str:
    commits, here = facts["commits"], facts["environment"]
    state = {None: "", True: ", with changes that were not committed", False: ""}[commits["dirty"]]
    judged = facts["evaluation"]
    rows = [
        ("MLflow run", _text(facts["run_id"])),
        ("registered", _moment(facts["created"])),
        ("training data, digest", _text(facts["data_digest"])),
        ("labelling functions, digest", _text(facts["sources_digest"] or "none")),
        ("task of the gates, digest", _text(judged["digest"] or "none")),
        ("commit of the training", _text(commits["training"] or "unknown")),
        ("commit of the promotion", _text(commits["promotion"] or "unknown") + state),
        ("promoted with", _text(f"polarscore {here['polarscore']}, Python {here['python']}, {here['platform']}")),
        ("packages", ", ".join(_text(f"{name} {pin or '(not pinned)'}") for name, pin in here["packages"].items())
         or "unknown"),
        ("files", _count(len(facts["files"]), "file") + ", each with its digest in evidence.json"),
        ("signed by the key", _text(facts["signer"])),
    ]
    return "## Where it comes from\n\n" + _table(("what", "which"), rows)


def _verifying(facts: Mapping[str, Any]) -> str:
    model = shlex.quote(_plain(facts["model"]))
    return ("## How to verify it\n\n"
            "This card was written from evidence.json beside it. What the log says of this promotion, the evidence, "
            f"the files and the tags agree if this finds nothing:\n\n```\npolarscore registry verify {model}\n```\n\n"
            "Without polarscore: the first line, in the folder of this card, prints the digest that the log's signed "
            "entry carries; the second compares the version's files with their signature.\n\n"
            "```\nsha256sum * | sha256sum\npython -m model_signing verify key MODEL_FOLDER --signature model.sig "
            "--public_key PUBLIC_KEY.pem --no-ignore-git-paths\n```")


def _rows(judged: Mapping[str, Any]) -> str:
    """Which answers the version was judged on."""
    return (f"{_count(judged['labelled'], 'labelled answer')} of the split {_text(judged['split'])} of "
            f"{_text(judged['task'] or 'an unnamed task')}")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """right: the columns of figures. The cells are Markdown already."""
    figures = set(right)
    rule = ["---:" if column in figures else "---" for column in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def _bullets(items: Iterable[str]) -> str:
    """A list; no item of it begins another list or a heading."""
    return "\n".join("- " + re.sub(r"^(\d*)([#+\-=.)])", r"\1\\\2", item) for item in items)


def _plain(text: Any) -> str:
    """In one line, and without what cannot be seen or turns the reading direction round."""
    kept = (c if c in _JOINERS or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else " "
            for c in str(text))
    return " ".join("".join(kept).split())


def _text(text: Any) -> str:
    """Any text as Markdown that shows it: no markup in it works, and it stays in its line and its table cell."""
    line = re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", _plain(text))  # a_b needs no escape
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _sentence(text: str) -> str:
    line = _text(text)
    return line if line.endswith((".", "!", "?")) or not line else line + "."


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _figure(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else _text(value)


def _moment(at: str) -> str:
    """2026-11-26 14:03 UTC, of an ISO moment in UTC."""
    return f"{_text(at[:10])} {_text(at[11:16])} UTC"
