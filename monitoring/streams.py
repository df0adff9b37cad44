"""Shares that are counted as they come, against what they were in a reference: bets that they left it. Pure.

A stream is a share: of the answers, those of a class; of a source's votes, those that agree with the LLM. Its null:
each time, given all before, the probability is the one that the reference was drawn with, give or take a tolerance. The
bets on all streams, up and down, are one average of bets. In truth answers come in bursts of their kind: the tolerance
is what absorbs small swings, and large ones are drift.

The reference's probability p is not known. For each p there are two bets that are fair if it is the true one: one on
the reference, κ u^(κ − 1) with u the probability of a share as far off as the one that was found; one on what came
since, against p + tolerance. Their product is a bet, too, and the least of these products over all p is at most the
one of the true p.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import beta

from monitoring.evidence import best_start, first_reached, over_starts, p_value, peak, starts

SHIFTS = np.array([0.9, 4.0])
"""How far a share is bet to be off, as a difference of logits: somewhat, and as good as all or nothing."""

SCALE, HORIZON = 100, 10_000_000
"""Of `starts`, in scores."""

LEVELS = np.array([1, 0.5, 0.3, 0.15, 0.07, 0.03, 0.01, 3e-3, 1e-3, 1e-4, 1e-5, 1e-7, 1e-10, 1e-14, 0])
"""The p are tried in cells between those at which u is one of these."""

KAPPA = 0.2
MINOR = 1.0
"""Bets whose log never got beyond this, with the reference taken at its word, count as lost: it saves time."""


@dataclass(frozen=True)
class Stream:
    """hits, (blocks,), of trials, (blocks,), in each block of time; and in the reference.

    only_up: a smaller share is no matter; nor is one up to `floor`.
    """

    name: str
    hits: np.ndarray
    trials: np.ndarray
    hits_before: int
    trials_before: int
    only_up: bool = False
    floor: float = 0.0

    @property
    def before(self) -> float:
        """The share in the reference."""
        return self.hits_before / self.trials_before if self.trials_before else 0.0

    def now(self, first: int = 0) -> float:
        """The share since a block, NaN without a trial."""
        trials = self.trials[first:].sum()
        return float(self.hits[first:].sum() / trials) if trials else float("nan")

    def z(self) -> float:
        """By how many standard errors the share is off the reference's; 0 without a trial."""
        n, before = float(self.trials.sum()), float(self.trials_before)
        pooled = (float(self.hits.sum()) + self.hits_before) / max(n + before, 1)
        if not n or not before or not 0 < pooled < 1:
            return 0.0
        return float(abs(self.now() - self.before) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / before)))


@dataclass(frozen=True)
class _Bets:
    """Each of (bets,): on its stream's share, or where `down` on one less it, growing by `shift`.

    limits: (bets, levels), the tolerance added to the p at which u is each of `LEVELS`; hits, trials: (bets, blocks).
    """

    stream: np.ndarray
    down: np.ndarray
    shift: np.ndarray
    limits: np.ndarray
    hits: np.ndarray
    trials: np.ndarray

    def growth(self, level: int, which: np.ndarray) -> np.ndarray:
        """(of which, blocks): log of what bets against the limit at a level hold, begun with the first block."""
        shift = self.shift[which, None]
        cost = np.log1p(np.minimum(self.limits[which, level, None], 1) * np.expm1(shift))
        return np.asarray(self.hits[which] * shift - self.trials[which] * cost)


@dataclass(frozen=True)
class Watch:
    """Streams in the same blocks of time, and the bets on them. scores: (blocks,), how many each block has."""

    streams: Sequence[Stream]
    scores: np.ndarray
    alpha: float
    tolerance: float

    @cached_property
    def bets(self) -> _Bets:
        """Those that could ever pay, as far as the reference says."""
        sides = [(place, down) for place, stream in enumerate(self.streams) for down in (False, True)
                 if not (down and stream.only_up)]
        of, down = np.array(sides, dtype=int).reshape(-1, 2).T
        hits, trials = (np.array([getattr(self.streams[place], key) for place in of], dtype=float)
                        for key in ("hits_before", "trials_before"))
        hits = np.where(down, trials - hits, hits)
        with np.errstate(invalid="ignore"):
            p = beta.isf(LEVELS, hits[:, None] + 1, (trials - hits)[:, None])
        p = np.where((hits < trials)[:, None], p, 1.0)
        floor = np.array([self.streams[place].floor for place in of])
        limits = np.maximum(p + self.tolerance, floor[:, None])
        pays = limits[:, 1] < 1
        of, down, limits = (np.repeat(each[pays], len(SHIFTS), axis=0) for each in (of, down > 0, limits))
        summed = [(np.cumsum(stream.hits), np.cumsum(stream.trials)) for stream in self.streams]
        counted = [(all_ - hit if mirrored else hit, all_)
                   for place, mirrored in zip(of, down, strict=True) for hit, all_ in [summed[place]]]
        table = np.array(counted, dtype=float).reshape(len(of), 2, len(self.scores))
        return _Bets(of, down, np.tile(SHIFTS, int(pays.sum())), limits, table[:, 0], table[:, 1])

    @cached_property
    def log_starts(self) -> np.ndarray:
        """(blocks,)."""
        return starts(np.cumsum(self.scores) - self.scores, SCALE, HORIZON)

    @cached_property
    def held(self) -> np.ndarray:
        """(bets, blocks): log of what the money 1 on each bet has become."""
        bets, log_evidence = self.bets, np.log(KAPPA) + (KAPPA - 1) * np.log(LEVELS[:-1])
        every = np.arange(len(bets.stream))
        held = log_evidence[0] + over_starts(bets.growth(1, every), self.log_starts)
        which = every[held.max(axis=1, initial=-np.inf) > MINOR]
        least = held[which]
        for level in range(1, len(LEVELS) - 1):
            growth = bets.growth(level + 1, which)
            np.minimum(least, log_evidence[level] + over_starts(growth, self.log_starts), out=least)
        held[:] = -np.inf
        held[which] = least
        return held

    @cached_property
    def log_wealth(self) -> np.ndarray:
        """(blocks,): log of the average of what all bets hold."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.logaddexp.reduce(self.held, axis=0) - np.log(max(len(self.held), 1)))

    @property
    def noticed(self) -> int | None:
        """The block with which the evidence first sufficed."""
        return first_reached(self.log_wealth, self.alpha, self.scores > 0)

    @property
    def sure(self) -> float:
        """1 − the probability that chance ever brings as much evidence."""
        return 1 - p_value(self.log_wealth, self.scores > 0)

    @property
    def since(self) -> int:
        """The block with which the change began, as far as can be told."""
        row = peak(self.log_wealth, self.scores > 0)
        best = np.array([self.held[:, row].argmax()])
        return best_start(self.bets.growth(1, best)[0], self.log_starts, row)[0]

    def pull(self) -> np.ndarray:
        """(streams,): log of the most that a bet on each holds where the evidence is greatest."""
        most = np.full(len(self.streams), -np.inf)
        np.maximum.at(most, self.bets.stream, self.held[:, peak(self.log_wealth, self.scores > 0)])
        return most

    def smallest(self) -> float | None:
        """The smallest change of one share that would have been noticed by now in about half of all cases, or None.

        With the share q the mean log of a bet on n trials is n (q d − log(1 − l + l e^d)), with l the limit and d the
        shift; the change is the least q, over bets, with which that and the evidence of the reference suffice.
        """
        bets = self.bets
        trials = bets.trials[:, -1:]
        before = np.array([stream.before for stream in self.streams])[bets.stream]
        shift = bets.shift[:, None]
        needed = -np.log(self.alpha) + np.log(max(len(trials), 1)) - self.log_starts[0]
        against = needed - np.log(KAPPA) - (KAPPA - 1) * np.log(LEVELS[:-1])
        with np.errstate(divide="ignore"):
            cost = np.log1p(np.minimum(bets.limits[:, 1:], 1) * np.expm1(shift))
            seen = np.where(against > 0, (against / trials + cost) / shift, 0.0).max(axis=1, initial=0.0)
        possible = (seen - np.where(bets.down, 1 - before, before))[seen <= 1]
        return float(possible.min()) if len(possible) else None
