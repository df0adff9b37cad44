"""What a check found as figures for Prometheus: a text file for node_exporter's textfile collector.

One file a model; node_exporter reads those whose name ends in `.prom`. It is replaced in one step, so that nobody reads
half of it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from monitoring.alarm import Alarm
from training.errors import InputError

LABELS = ("model", "version")
OF_VERSION = {
    "polarscore_error_rate_estimate": "Estimated share of wrong answers",
    "polarscore_error_rate_estimate_low": "Lower end of the estimate's 95 % interval",
    "polarscore_error_rate_estimate_high": "Upper end of the estimate's 95 % interval",
    "polarscore_labels": "Answers with a label that counts in the estimate",
    "polarscore_mean_risk": "Mean risk of the scores",
    "polarscore_scores": "Scores kept",
    "polarscore_threshold": "Answers of at most this risk are accepted",
}
"""Figures of a version. One that cannot be told has no sample."""


def write_exposition(
    path: Path, model: str, version: str, alarms: Sequence[Alarm], figures: Mapping[str, float | None], at: datetime
) -> None:
    """Replace the file. figures: by the names of `OF_VERSION`, None for what cannot be told.

    Raises:
        InputError: it cannot be written.
    """
    registry = CollectorRegistry()
    own = {"model": model, "version": version}

    def gauge(name: str, words: str, *more: str) -> Gauge:
        return Gauge(name, words, (*LABELS, *more), registry=registry)

    rings = gauge("polarscore_alarm", "1 where an alarm rings, else 0", "name")
    unknown = gauge("polarscore_alarm_unknown", "1 where it cannot be told whether it should ring, else 0", "name")
    size = gauge("polarscore_alarm_size", "How large the difference is that an alarm watches", "name")
    since = gauge("polarscore_alarm_since_seconds", "When what an alarm rings for began, since 1970", "name")
    for alarm in alarms:
        labels = own | {"name": alarm.name}
        rings.labels(**labels).set(alarm.state == "alarm")
        unknown.labels(**labels).set(alarm.state == "unknown")
        if alarm.size is not None:
            size.labels(**labels).set(alarm.size)
        if alarm.since is not None:
            since.labels(**labels).set(alarm.since.timestamp())
    for name, words in OF_VERSION.items():
        value = figures.get(name)
        if value is not None:
            gauge(name, words).labels(**own).set(value)
    gauge("polarscore_check_seconds", "When the alarms were looked at last, since 1970").labels(**own).set(
        at.timestamp())
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise InputError(f"the file for Prometheus cannot be written to {path}: {error.strerror}.") from None
