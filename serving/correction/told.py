"""A correction as figures: for JSON, for MLflow, and as a table for people. No text and no id is in them. Pure."""

from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.correction.helped import Curve
from serving.correction.recommendation import FREE
from training.printing import columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from serving.correction.job import Correction

POINTS = 101
WHO = {"first": "the LLM's first", "by_risk": "the better of both, by risk", "blind": "the new ones of the same rows",
       "everybody": "the new ones of all rows", **FREE, "hindsight": "the better of both, in hindsight"}
"""Whose answers, in the order of the table."""


def as_json(found: "Correction") -> dict[str, Any]:
    """What `--json` prints, `out`, `habits`, `run_id` and `spent` aside.

    left: how many rows more are to be asked, as seen after the pilot; questions_per_mended, cost_per_mended: of those.
    expected: shares of right answers as believed beforehand; `believed_after`, of the kept ones with the new answers.
    measured: None without labels; where it stopped, `by_risk` and `blind` are the pilot's. cost: None where unknown.
    """
    course, advice = found.course, found.course.recommendation
    told, n = found.measured, len(found.judged)
    changed = course.corrected.kept != found.judged.first
    return {
        "model": found.version.model, "version": found.version.version, "split": found.split, "llm": found.llm, "n": n,
        "way": course.way, "recommended": advice.recommended, "stopped": course.stopped, "words": advice.words,
        "measured_words": told and told.words(advice.expected, course.stopped),
        "pilot": len(course.pilot), "asked": int(course.asked.sum()), "share_asked": float(course.asked.mean()),
        "changed": int(changed.sum()), "questions": course.questions, "left": advice.left,
        "cost": course.cost if found.priced else None, "questions_per_mended": advice.questions_per_mended,
        "cost_per_mended": advice.cost_per_mended,
        "without_answer": course.missing, "trouble": found.trouble,
        "ways": {way: {"kept": one.habits.kept, "mended": one.habits.mended, "stubborn": one.habits.stubborn,
                       "answered": one.habits.asked, "margin": one.margin, "expected_gain": float(one.gain.mean()),
                       "cost_of_a_question": one.cost if found.priced else None}
                 for way, one in course.tried.items()},
        "expected": advice.expected | {"believed_after": _believed_after(found)},
        "measured": None if told is None else {
            **{key: value for key, value in asdict(told).items() if key != "curve"}, "curve": thinned(told.curve)},
        "expected_curve": thinned(found.expected()),
    }


def thinned(curve: Curve) -> list[dict[str, float | None]]:
    """At most `POINTS` points of a curve, evenly over the share asked, with what a mended error takes in questions."""
    wanted = curve.share.searchsorted(np.linspace(0, curve.share[-1], POINTS))  # whose end is exact
    points = []
    for at in dict.fromkeys(wanted.tolist()):
        gain = float(curve.kept[at] - curve.kept[0])
        threshold = float(curve.threshold[at])
        points.append({"threshold": threshold if isfinite(threshold) else None,
                       "share": float(curve.share[at]), "kept": float(curve.kept[at]), "blind": float(curve.blind[at]),
                       "questions_per_mended": float(curve.share[at]) / gain if gain > 1e-9 else None})
    return points


def settings(content: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the run."""
    return {key: content[key] for key in ("version", "split", "llm", "n", "way", "pilot", "recommended", "stopped")}


def metrics(content: dict[str, Any]) -> dict[str, float | None]:
    """The figures of the run."""
    found = {key: content[key] for key in ("asked", "share_asked", "changed", "questions", "cost", "cost_per_mended")}
    found |= {f"expected.{key}": value for key, value in content["expected"].items()}
    for key, value in (content["measured"] or {}).items():
        if isinstance(value, dict):
            found |= {f"measured.{key}.{name}": part["value"] if isinstance(part, dict) else part
                      for name, part in value.items()}
        elif key != "curve":
            found[f"measured.{key}"] = value
    return found


def picture(found: "Correction") -> "Figure":
    """Measured where there are labels, else as expected; of the pilot alone where it ended with that."""
    from serving.correction.figure import correction_figure

    course, told = found.course, found.measured
    title = (f"{found.version.model} {found.version.version}, {found.split}: asked again by '{course.way}'"
             + (", pilot alone" if course.stopped and told else ""))
    if told is not None:
        chosen, line, levels = (told.by_risk.asked / told.n, told.by_risk.accuracy), told.curve, told.levels()
    else:
        chosen, line = (float(course.asked.mean()), _believed_after(found)), found.expected()
        levels = course.recommendation.expected
    return correction_figure(line, levels, None if course.stopped else chosen, title, measured=told is not None)


def table(content: dict[str, Any]) -> "Table":
    """Expected beside measured, by whose answers they are; of a pilot alone no accuracy, as few were asked."""
    expected, told = content["expected"], content["measured"] or {}
    planned = {"by_risk": content["pilot"] + content["left"], "everybody": content["n"]}
    grid = columns("answers", "asked", "right, expected", "right, measured", "right ones kept (95 %)",
                   "wrong ones mended (95 %)", "a mended error takes")
    for who, name in WHO.items():
        found = told.get(who)
        if not isinstance(found, dict):
            if who in expected or found is not None:
                grid.add_row(name, f"{planned.get(who, '')}", _percent(expected.get(who)), _percent(found), "", "", "")
            continue
        pilot = content["stopped"] and who != "everybody"
        grid.add_row(f"{name}: pilot alone" if pilot else name, f"{found['asked']}",
                     "" if pilot else _percent(expected.get(who)), "" if pilot else _percent(found["accuracy"]),
                     _interval(found["confidence_level"]), _interval(found["critique_score"]), _price(found))
    return grid


def _believed_after(found: "Correction") -> float:
    risk = found.course.corrected.kept_risk
    return float((1 - risk[risk == risk]).sum() / len(risk))  # NaN, no answer, is none that is right


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _interval(share: dict[str, float] | None) -> str:
    return "" if share is None else f"{share['value']:.0%} ({share['low']:.0%} to {share['high']:.0%}) of {share['n']}"


def _price(found: dict[str, Any]) -> str:
    if found["questions_per_mended"] is None:
        return "none mended, net" if found["asked"] else ""
    cost = found["cost_per_mended"]
    return f"{found['questions_per_mended']:.1f} questions" + (f", {cost:.2g}" if cost is not None else "")
