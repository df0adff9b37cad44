"""What `/metrics` tells beside BentoML's own: of scores, labels, what waits to be kept, and of asking an LLM again."""

import threading
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from serving.llm.usage import Usage

EVERY_S = 5.0
SECONDS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60]
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


class CorrectMeters:
    """What is told of asking again; labels are reasons and kinds from fixed lists, and never a text."""

    def __init__(self, registry: CollectorRegistry = REGISTRY):
        """Register the meters; once a process and registry."""
        self._asked = Counter("polarscore_asked_again", "Answers of which the LLM was asked again", ["way"],
                              registry=registry)
        self._changed = Counter("polarscore_changed_answers", "New answers that replaced the first", ["way"],
                                registry=registry)
        self._abstained = Counter("polarscore_asked_again_abstained", "Questions without a new answer, by the reason",
                                  ["reason"], registry=registry)
        self._failed = Counter("polarscore_llm_failures", "Questions to the LLM without a reply, by the kind",
                               ["kind"], registry=registry)
        self._cached = Counter("polarscore_llm_cached", "Questions to the LLM whose reply was known", registry=registry)
        self._tokens = Counter("polarscore_llm_tokens", "Tokens that the LLM has read (in) and written (out)",
                               ["direction"], registry=registry)
        self._money = Counter("polarscore_llm_money", "What the LLM has cost, by the prices of its endpoint",
                              registry=registry)
        self._seconds = Histogram("polarscore_asked_again_seconds", "How long a request waited for the LLM",
                                  buckets=SECONDS, registry=registry)

    def waited(self, seconds: float) -> None:
        """Count how long a request waited for the LLM."""
        self._seconds.observe(seconds)

    def asked(self, way: str, asked: int, changed: int, abstained: Mapping[str, int]) -> None:
        """Count what came of a request's questions."""
        self._asked.labels(way=way).inc(asked)
        self._changed.labels(way=way).inc(changed)
        for reason, count in abstained.items():
            self._abstained.labels(reason=reason).inc(count)

    def took(self, before: Usage, after: Usage) -> None:
        """Count what was used since before."""
        for kind, count in after.failed.items():
            self._failed.labels(kind=kind).inc(count - before.failed.get(kind, 0))
        self._cached.inc(after.cached - before.cached)
        self._tokens.labels(direction="in").inc(after.tokens_in - before.tokens_in)
        self._tokens.labels(direction="out").inc(after.tokens_out - before.tokens_out)
        self._money.inc(max(0.0, after.money - before.money))
