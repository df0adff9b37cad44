"""What differs between two versions, in figures."""

from typing import Any

from registry.versions import Version, Versions


def differences(versions: Versions, one: Version, other: Version) -> dict[str, tuple[Any, Any]]:
    """What is not the same, by name: measures of each split, Pareto weights, sources, data, harmonizer."""
    left, right = _facts(versions, one), _facts(versions, other)
    keys = dict.fromkeys([*left, *right])
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def _facts(versions: Versions, version: Version) -> dict[str, Any]:
    spec = versions.spec(version)
    facts: dict[str, Any] = {
        "harmonizer": spec.harmonizer, "scalariser": spec.scalariser, "encoder": spec.encoder.name,
        "data": spec.data_digest, "sources.py": spec.sources_digest,
    }
    for split in ("train", "valid", "test"):
        facts |= {f"{split} {key}": value for key, value in (version.measures(split) or {}).items()}
    return facts | {f"Pareto weight of {name}": value for name, value in spec.pareto_weights.items()}
