"""What the gates judge by, gathered elsewhere and handed over as data; and what a gate says. Pure."""

from dataclasses import dataclass

import numpy as np

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"


@dataclass(frozen=True)
class Gate:
    """What one gate found, in figures and in words. A figure is None where there is none to be had."""

    name: str
    state: str
    reason: str
    candidate: float | None = None
    champion: float | None = None


@dataclass(frozen=True)
class Compared:
    """Candidate and champion on the same rows, those that the LLM answered.

    candidate, champion: (n,) risks; champion None if there is none that can be judged on these rows. error: (n,) 0, 1,
    or NaN where there is no gold label.
    """

    candidate: np.ndarray
    champion: np.ndarray | None
    error: np.ndarray


@dataclass(frozen=True)
class Seen:
    """What a version makes of the same rows, without labels.

    agreement: of the votes that the LLM and the task's sources cast, the share that the harmonizer agrees with.
    coverage: the share of rows on which a source votes that the version knows. sources: how many it knows.
    decided_alone: (n, sources) whether taking this vote away moves the risk across 1/2; None for fewer than two
    sources, and for a champion, of which nobody asks.
    """

    agreement: float | None
    coverage: float | None
    sources: tuple[str, ...]
    decided_alone: np.ndarray | None = None


@dataclass(frozen=True)
class Operation:
    """What a version does where only its own files are at hand.

    load_error: why MLflow cannot load it with pickle off; None: it can. pickles: files of it that hold a pickle.
    score_error: why it cannot score its stored example; None: it can, or there is none. differing: of the cells that
    two loads give for the example, how many differ; None: not told, so there is no example. requirements: its pip
    requirements, line by line.
    """

    load_error: str | None = None
    pickles: tuple[str, ...] = ()
    score_error: str | None = None
    differing: int | None = None
    signature: bool = False
    requirements: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """A running bundle, measured.

    latency_one_ms, latency_batch_ms: the 95th percentile of a request with one item and with 32; the medians beside
    them. memory_mib: of all its processes, once it has answered. start_s: until it was ready.
    """

    latency_one_ms: float
    latency_batch_ms: float
    memory_mib: float
    start_s: float
    median_one_ms: float | None = None
    median_batch_ms: float | None = None


@dataclass(frozen=True)
class Facts:
    """Everything there is to judge a candidate by. Of what is None, nothing is known.

    no_rows: why there is no row to judge by. no_champion: why a champion that there is cannot be judged on these rows.
    """

    rows: Compared | None = None
    candidate: Seen | None = None
    champion: Seen | None = None
    operation: Operation | None = None
    measured: Measured | None = None
    no_rows: str = ""
    no_champion: str = ""
