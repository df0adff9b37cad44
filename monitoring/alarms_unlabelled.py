"""Alarms that need no label: whether what was scored is still like what the version was trained on. Pure.

Each looks at shares (`streams`), hour by hour, against those of the training answers: a change that is larger than
`share` allows, and not by chance. While there is none, the alarm ever rings with a probability of at most alpha; that
counts each answer by itself, so an hour in which answers of one kind come in a bunch is more than chance, too.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from monitoring.alarm import Alarm, Context, unknown
from monitoring.streams import Stream, Watch
from monitoring.tally import AGREES, CATEGORIES, DIFFERS, NUMBERS, SOURCE, Tally, added

IN_ONE_BIN = 0.9
"""Risks are nearly all the same if more of them than this lie in one bin."""

WORDS = {"risk": "risk", "answer": "answer", "harmonizer_answer": "harmonizer's answer",
         "text_length": "text's length", "agreement": "share of the voting sources that agree with the LLM"}


def risk_drift(context: Context) -> Alarm:
    """Whether risks are distributed as in training. size: the largest change of a share of risks below an edge."""
    return _of_feature("risk_drift", context, ["risk"], "risks")


def answer_drift(context: Context) -> Alarm:
    """Whether the LLM gives each class as often as in training. size: the share that would have to change class."""
    return _of_feature("answer_drift", context, ["answer"], "answers")


def text_drift(context: Context) -> Alarm:
    """Whether texts are as long as in training, and the harmonizer takes them for the same classes."""
    return _of_feature("text_drift", context, ["text_length", "harmonizer_answer"], "texts")


def agreement_drift(context: Context) -> Alarm:
    """Whether sources agree with the LLM as much as in training. size: the largest change of a share below an edge."""
    return _of_feature("agreement_drift", context, ["agreement"], "answers that a source voted on")


def source_drift(context: Context) -> Alarm:
    """Whether each source votes as often as in training, and agrees with the LLM in as many of its votes.

    size: the largest change of a source's share of answers with a vote that agrees, one that differs, or none.
    """
    name, before, blocks = "source_drift", context.reference, _blocks(context)
    sources = sorted(key for key in before.counts if key.startswith(SOURCE))
    if not sources:
        return unknown(name, "of the training answers no source's votes are kept; train the model again to watch them")
    scores, streams = _scores(blocks), []
    for source in sources:
        agrees, differs = (_series(blocks, source, key) for key in (AGREES, DIFFERS))
        then = [before.counts[source].get(key, 0) for key in (AGREES, DIFFERS)]
        label, votes = source.removeprefix(SOURCE), agrees + differs
        streams += [Stream(f"{label} votes", votes, scores, sum(then), before.n),
                    Stream(f"{label} agrees with the LLM, where it votes,", agrees, votes, then[0], sum(then))]
    return _judge(name, context, streams, "scores", scores, lambda now: max(
        _distance(_with_rest(before, source), _with_rest(now, source)) for source in sources))


def missing_risk(context: Context) -> Alarm:
    """Whether risks are missing more often than in training, or nearly all the same. size: the share missing."""
    before, blocks = context.reference, _blocks(context)
    counts, then = _binned("risk", before, blocks)
    scores, with_risk = _scores(blocks), counts.sum(axis=0)
    known = int(then.sum())
    streams = [Stream("there is no risk", scores - with_risk, scores, before.n - known, before.n, only_up=True)]
    streams += [
        Stream(f"the risk lies between {_edge('risk', place)} and {_edge('risk', place + 1)}", counts[place], with_risk,
               int(then[place]), known, only_up=True, floor=IN_ONE_BIN)
        for place in range(NUMBERS["risk"])
    ]
    return _judge("missing_risk", context, streams, "scores", scores,
                  lambda now: 1 - sum(now.counts.get("risk", {}).values()) / max(now.n, 1), shown=streams[0])


UNLABELLED: Mapping[str, Callable[[Context], Alarm]] = {
    "risk_drift": risk_drift, "answer_drift": answer_drift, "text_drift": text_drift,
    "agreement_drift": agreement_drift, "source_drift": source_drift, "missing_risk": missing_risk,
}


def _of_feature(name: str, context: Context, features: Sequence[str], what: str) -> Alarm:
    before, blocks = context.reference, _blocks(context)
    features = [feature for feature in features if before.counts.get(feature)]
    if not features:
        return unknown(name, f"nothing is kept of the {what} of the training answers to compare with")
    streams = [stream for feature in features for stream in _streams(feature, before, blocks)]
    trials = sum((_series(blocks, features[0], key) for key in _keys(features[0], blocks)), np.zeros(len(blocks)))
    return _judge(name, context, streams, what, trials, lambda now: max(
        _change(feature, before, now) for feature in features))


def _streams(feature: str, before: Tally, blocks: Sequence[Tally]) -> Iterable[Stream]:
    """A share a class; of numbers a share below each edge, so that many small changes to one side are one large one."""
    if feature in CATEGORIES:
        known = before.counts[feature]
        trials = sum((_series(blocks, feature, key) for key in _keys(feature, blocks)), np.zeros(len(blocks)))
        said = f"the {WORDS[feature]} is"
        for key, count in sorted(known.items()):
            yield Stream(f"{said} '{key}'", _series(blocks, feature, key), trials, count, sum(known.values()))
        others = sum((_series(blocks, feature, key) for key in _keys(feature, blocks) - known.keys()), 0 * trials)
        yield Stream(f"{said} none of those in training", others, trials, 0, sum(known.values()))
    else:
        counts, then = (each.cumsum(axis=0) for each in _binned(feature, before, blocks))
        bins = sorted(int(key) for key in before.counts[feature])
        first, last = (1, NUMBERS[feature] - 1) if feature in NUMBERS else (bins[0], bins[-1] + 1)
        for place in range(max(first, 1), last + 1):
            yield Stream(f"the {WORDS[feature]} is below {_edge(feature, place)}", counts[place - 1], counts[-1],
                         int(then[place - 1]), int(then[-1]))


def _judge(
    name: str, context: Context, streams: Sequence[Stream], what: str, trials: np.ndarray,
    size: Callable[[Tally], float], shown: Stream | None = None,
) -> Alarm:
    """The alarm that bets on the streams ring. trials: (blocks,), how many of `what` each block has.

    shown: the share that is told while none rings; None: the one that is furthest off, by its standard error.
    """
    settings, n = context.settings, int(trials.sum())
    for count, where in ((context.reference.n, "in training"), (n, "in production")):
        if count < settings.rows:
            return unknown(name, f"only {count:,} {what} {where}; {settings.rows} are needed to tell", n)
    moments, blocks = [moment for moment, _ in context.tallies], _blocks(context)
    watch = Watch(streams, trials, settings.alpha, settings.share)
    if watch.noticed is None:
        told = shown or max(streams, key=Stream.z)
        return Alarm(name, "ok", None, size(added(blocks)), n=n, sure=watch.sure, smallest=watch.smallest(),
                     reason=f"in {n:,} {what} {_said(told, 0)}: no more than chance and a change of "
                            f"{settings.share:.0%} explain")
    since, pull = watch.since, watch.pull()
    strongest = [streams[place] for place in np.argsort(-pull, kind="stable")[:3] if pull[place] > 0]
    facts = "; ".join(_said(stream, since) for stream in strongest)
    return Alarm(name, "alarm", moments[since], size(added(blocks[since:])), noticed=moments[watch.noticed], n=n,
                 sure=watch.sure, smallest=watch.smallest(),
                 reason=f"since {moments[since]:%Y-%m-%d %H:%M} UTC {facts}: more than chance and a change of "
                        f"{settings.share:.0%} explain")


def _said(stream: Stream, first: int) -> str:
    return f"{stream.name} in {stream.now(first):.1%}, in training {stream.before:.1%}"


def _change(feature: str, before: Tally, now: Tally) -> float:
    """Of classes the total variation, of numbers the Kolmogorov-Smirnov distance between their bins; in [0, 1]."""
    keys = sorted(before.counts[feature].keys() | now.counts.get(feature, {}).keys())
    then, after = (np.array([_series([each], feature, key)[0] for key in keys]) for each in (before, now))
    moved = after / max(after.sum(), 1) - then / then.sum()
    return float(np.abs(moved).sum() / 2 if feature in CATEGORIES else np.abs(moved.cumsum()).max())


def _distance(before: np.ndarray, now: np.ndarray) -> float:
    return float(np.abs(now - before).sum() / 2)


def _with_rest(of: Tally, source: str) -> np.ndarray:
    """The shares of answers on which a source agrees, differs, and abstains."""
    shares = of.shares(source)
    said = [shares.get(key, 0.0) for key in (AGREES, DIFFERS)]
    return np.array([*said, 1 - sum(said)])


def _binned(feature: str, before: Tally, blocks: Sequence[Tally]) -> tuple[np.ndarray, np.ndarray]:
    """Counts of a number's bins: (bins, blocks), and (bins,) of the reference."""
    names = [f"{place:02d}" for place in range(NUMBERS.get(feature, 64))]
    then = before.counts.get(feature, {})
    return np.array([_series(blocks, feature, key) for key in names]), np.array([then.get(key, 0) for key in names])


def _blocks(context: Context) -> list[Tally]:
    return [each for _, each in context.tallies]


def _scores(blocks: Sequence[Tally]) -> np.ndarray:
    return np.array([block.n for block in blocks], dtype=float)


def _series(blocks: Sequence[Tally], feature: str, key: str) -> np.ndarray:
    return np.array([block.counts.get(feature, {}).get(key, 0) for block in blocks], dtype=float)


def _keys(feature: str, blocks: Sequence[Tally]) -> set[str]:
    return {key for block in blocks for key in block.counts.get(feature, {})}


def _edge(feature: str, place: int) -> str:
    """The lower edge of a bin."""
    return f"{2**place:,} characters" if feature == "text_length" else f"{place / NUMBERS[feature]:.2f}"
