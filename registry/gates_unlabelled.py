"""Gates that need no label: is the risk sound, and does the candidate see what the champion saw? Pure."""


import numpy as np
from scipy.stats import ks_2samp

from registry.gate_config import Coverage, Drop, Maximum, Sound, Transition
from registry.gate_facts import FAIL, PASS, UNKNOWN, Facts, Gate

CONSTANT = 1e-6
NO_CHAMPION = "no version to compare with yet"


def sound(facts: Facts, margins: Sound, way: Transition) -> Gate:
    """Risks that are numbers, and not all the same."""
    if facts.rows is None or not len(facts.rows.candidate):
        return Gate("sound", UNKNOWN, _no_rows(facts))
    risk = facts.rows.candidate
    told = risk[np.isfinite(risk)]
    lost = 1 - len(told) / len(risk)
    if lost > margins.nan_share or not len(told):
        return Gate("sound", FAIL, f"{lost:.1%} of the risks are no numbers", lost)
    if np.ptp(told) < CONSTANT:
        return Gate("sound", FAIL, f"every answer has the same risk, {told[0]:.3f}", lost)
    return Gate("sound", PASS, f"{len(told)} risks between {told.min():.3f} and {told.max():.3f}", lost)


def agreement(facts: Facts, margins: Drop, way: Transition) -> Gate:
    """The share of the votes that the harmonizer agrees with, not much below the champion's."""
    own, other = _figures(facts, "agreement")
    if own is None:
        return Gate("agreement", UNKNOWN, _no_rows(facts))
    if other is None:
        return _alone("agreement", facts, f"the harmonizer agrees with {own:.1%} of the votes", own)
    words = f"the harmonizer agrees with {own:.1%} of the votes, the champion's with {other:.1%}"
    return _not_below("agreement", words, own, other, margins.drop)


def drift(facts: Facts, margins: Maximum, way: Transition) -> Gate:
    """How far the risks of the same answers move. candidate: the mean distance from the champion's risk."""
    if facts.rows is None or not len(facts.rows.candidate):
        return Gate("drift", UNKNOWN, _no_rows(facts))
    if facts.rows.champion is None:
        return _alone("drift", facts, "no risk to move away from", None)
    both = np.isfinite(facts.rows.candidate) & np.isfinite(facts.rows.champion)
    if not both.any():
        return Gate("drift", UNKNOWN, "no answer has a risk by both versions")
    one, other = facts.rows.candidate[both], facts.rows.champion[both]
    moved = float(np.abs(one - other).mean())
    distance = float(ks_2samp(one, other, method="asymp").statistic)
    words = (f"the risk of an answer moves by {moved:.3f} on average, from a mean of {other.mean():.3f} to "
             f"{one.mean():.3f}; Kolmogorov-Smirnov distance {distance:.3f}")
    if moved > margins.maximum:
        return Gate("drift", FAIL, f"{words}: more than {margins.maximum:.3f}", moved)
    return Gate("drift", PASS, words, moved)


def coverage(facts: Facts, margins: Coverage, way: Transition) -> Gate:
    """The share of rows on which a source votes: enough, and not much below the champion's."""
    own, other = _figures(facts, "coverage")
    if own is None:
        return Gate("coverage", UNKNOWN, _no_rows(facts))
    words = f"a source votes on {own:.1%} of the rows"
    if own < margins.minimum:
        return Gate("coverage", FAIL, f"{words}: fewer than {margins.minimum:.1%}", own, other)
    if margins.drop is None:
        return Gate("coverage", PASS, words, own, other)
    if other is None:
        return _alone("coverage", facts, words, own)
    return _not_below("coverage", f"{words}, one of the champion's on {other:.1%}", own, other, margins.drop)


def single_source(facts: Facts, margins: Maximum, way: Transition) -> Gate:
    """The share of answers of which one source's vote alone decides whether the risk is above 1/2."""
    seen = facts.candidate
    if seen is None:
        return Gate("single_source", UNKNOWN, _no_rows(facts))
    if len(seen.sources) < 2:
        return Gate("single_source", UNKNOWN, "the version has one source only, which cannot be told from a single one"
                    if seen.sources else "the version has no source")
    if seen.decided_alone is None or not len(seen.decided_alone):
        return Gate("single_source", UNKNOWN, _no_rows(facts))
    share = float(seen.decided_alone.any(axis=1).mean())
    words = f"on {share:.1%} of the answers one source's vote alone decides whether the risk is above 1/2"
    if share:
        by_source = seen.decided_alone.mean(axis=0)
        words += f"; most often '{seen.sources[by_source.argmax()]}', on {by_source.max():.1%}"
    if share > margins.maximum:
        return Gate("single_source", FAIL, f"{words}: more than {margins.maximum:.1%}", share)
    return Gate("single_source", PASS, words, share)


def _figures(facts: Facts, name: str) -> tuple[float | None, float | None]:
    return tuple(None if seen is None else getattr(seen, name)  # type: ignore[return-value]
                 for seen in (facts.candidate, facts.champion))


def _not_below(name: str, words: str, own: float, other: float, drop: float) -> Gate:
    if other - own > drop:
        return Gate(name, FAIL, f"{words}: {other - own:.1%} fewer, more than {drop:.1%}", own, other)
    return Gate(name, PASS, words, own, other)


def _alone(name: str, facts: Facts, words: str, own: float | None) -> Gate:
    """Without a champion to compare with: there is none yet, or it cannot be judged."""
    if facts.no_champion:
        return Gate(name, UNKNOWN, f"{words}; {facts.no_champion}", own)
    return Gate(name, PASS, f"{words}; {NO_CHAMPION}", own)


def _no_rows(facts: Facts) -> str:
    return facts.no_rows or "there is no answer to judge it by"
