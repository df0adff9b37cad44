"""What `/metrics` tells beside BentoML's own: the risks given, decisions, labels, failures, what waits to be kept."""

import threading
from collections import Counter as Counts
from collections.abc import Callable, Iterable
from contextlib import suppress

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

EVERY_S = 5.0
RISK_BUCKETS = [step / 20 for step in range(1, 21)]
_VERSION = ["model", "version"]


class Meters:
    """All of them; labels are names of models, versions, classes of errors and sources, and never a text."""

    def __init__(self, registry: CollectorRegistry = REGISTRY):
        """Register the meters; once a process and registry."""
        self._risk = Histogram("polarscore_risk", "Risk of the answers scored", [*_VERSION, "role"],
                               buckets=RISK_BUCKETS, registry=registry)
        self._scored = Counter("polarscore_scored_answers", "Answers scored, with a risk or without",
                               [*_VERSION, "role"], registry=registry)
        self._decisions = Counter("polarscore_decisions", "What to do with the answers that were scored",
                                  [*_VERSION, "role", "decision"], registry=registry)
        self._feedback = Counter("polarscore_feedback", "Scores, of whichever version, that got a label by feedback",
                                 ["model"], registry=registry)
        self._second = Counter("polarscore_second_version_failures", "Items that the second version could not score",
                               [*_VERSION, "kind"], registry=registry)
        self._sources = Counter("polarscore_source_failures", "Votes that a source failed to give: it abstained",
                                [*_VERSION, "source", "reason"], registry=registry)
        self._journal = Gauge("polarscore_journal_rows", "Scores and labels that wait on disk for the database",
                              registry=registry, multiprocess_mode="livesum")
        self._aside = Gauge("polarscore_journal_rows_set_aside", "Scores and labels that the database refuses for good",
                            registry=registry, multiprocess_mode="livesum")

    def scored(
        self, model: str, version: str, role: str, risks: Iterable[float | None], decisions: Iterable[str]
    ) -> None:
        """Count answers that a version scored, as `serving` or as `shadow`. risks: None where there is no answer."""
        labels = {"model": model, "version": version, "role": role}
        risk, count = self._risk.labels(**labels), 0
        for value in risks:
            count += 1
            if value is not None:
                risk.observe(value)
        self._scored.labels(**labels).inc(count)
        for decision, times in Counts(decisions).items():
            self._decisions.labels(**labels, decision=decision).inc(times)

    def labelled(self, model: str, count: int) -> None:
        """Count scores that got a label."""
        self._feedback.labels(model=model).inc(count)

    def second_failed(self, model: str, version: str, kind: str, items: int) -> None:
        """Count items that a second version could not score, by the kind of error."""
        self._second.labels(model=model, version=version, kind=kind).inc(items)

    def sources_failed(self, model: str, version: str, source: str, reason: str, votes: int) -> None:
        """Count votes that a source failed to give."""
        self._sources.labels(model=model, version=version, source=source, reason=reason).inc(votes)

    def watch(
        self, waiting: Callable[[], int], ended: threading.Event, aside: Callable[[], int] = lambda: 0
    ) -> None:
        """Tell every few seconds how many rows wait for the database, in a thread of its own, until it has ended.

        aside: how many rows it refuses for good.
        """
        def run() -> None:
            while True:
                with suppress(Exception):  # a journal that is away; it says so to those who write
                    self._journal.set(waiting())
                    self._aside.set(aside())
                if ended.wait(EVERY_S):
                    return

        threading.Thread(target=run, name="metering", daemon=True).start()
