"""What differs between two versions, in figures."""

from typing import Any

from registry.versions import Version, Versions
from training.model import load
from training.task import LLM

BY_SOURCE = ("Pareto weight of ", "believed accuracy of ")

Found = dict[str, tuple[Any, Any]]


def differences(versions: Versions, one: Version, other: Version) -> Found:
    """What is not the same, by name: measures of each split, audit, Pareto weights, worth, data, harmonizer."""
    left, right = _facts(versions, one), _facts(versions, other)
    keys = dict.fromkeys([*left, *right])
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def apart(found: Found) -> tuple[Found, dict[str, Found]]:
    """The differences that are not of sources; and the others by what they are, then by source, the largest first."""
    by_source = {}
    for prefix in BY_SOURCE:
        changed = {key.removeprefix(prefix): pair for key, pair in found.items() if key.startswith(prefix)}
        if changed:
            ranked = sorted(changed.items(), key=lambda item: -abs((item[1][1] or 0.0) - (item[1][0] or 0.0)))
            by_source[prefix.strip()] = dict(ranked)
    return {key: pair for key, pair in found.items() if not key.startswith(BY_SOURCE)}, by_source


def _facts(versions: Versions, version: Version) -> dict[str, Any]:
    model = load(versions.folder(version))
    spec, guarantee = model.spec, model.spec.guarantee
    facts: dict[str, Any] = {
        "harmonizer": spec.harmonizer, "scalariser": spec.scalariser, "encoder": spec.encoder.name,
        "data": spec.data_digest, "sources.py": spec.sources_digest,
        "checked answers": spec.recalibration.labels or None, "mean risk by the audit": spec.recalibration.mean_risk,
    }
    if guarantee:
        facts |= {"guaranteed threshold": guarantee.threshold, "accepted by it": guarantee.accepted,
                  "at an error rate under": guarantee.alpha, "with confidence": 1 - guarantee.delta}
    for split in ("train", "valid", "test"):
        facts |= {f"{split} {key}": value for key, value in (version.measures(split) or {}).items()}
    weight, accuracy = BY_SOURCE
    facts |= {f"{weight}{name}": value for name, value in spec.pareto_weights.items()}
    return facts | {f"{accuracy}{name}": value
                    for name, value in zip([LLM, *(source.name for source in spec.sources)],
                                           model.worth.accuracy.tolist(), strict=True)}
