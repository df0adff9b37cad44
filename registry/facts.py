"""What is known of a version at the moment of its promotion: everything that its evidence states, as plain data.

No text of the task is among it: names, figures and digests alone.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from registry.aliases import EVIDENCE_TAG
from registry.environment import checkout, packages, surroundings
from registry.signing import digests
from registry.versions import STAGE_TAG, Version, Versions
from training.spec import SPEC, load_spec
from training.tracking import DATA_TAG, DIGEST_TAG, WARNINGS_TAG

if TYPE_CHECKING:
    from registry.judging import Judged

FORMAT = 1
SPLITS = ("train", "valid", "test")
COMMIT_TAG = "mlflow.source.git.commit"
REQUIREMENTS = "requirements.txt"
OURS = (STAGE_TAG, EVIDENCE_TAG)
"""Tags of a version that the registry itself changes after a promotion."""


@dataclass(frozen=True)
class Occasion:
    """One promotion: what moved from where to where, in place of which version, by whom, why, and when."""

    action: str
    from_stage: str
    to_stage: str
    replaced: int | None
    who: str
    why: str
    at: datetime


def gather(
    versions: Versions, version: Version, folder: Path, occasion: Occasion, judged: "Judged", signer: str
) -> dict[str, Any]:
    """The facts, ready for JSON.

    folder: the version's whole folder in MLflow. signer: the id of the key that signs the evidence.
    """
    spec = load_spec(folder / "artifacts" / SPEC)
    here = checkout()
    return plain({
        "format": FORMAT, "model": version.model, "version": version.version, "uri": version.uri,
        "run_id": version.run_id, "created": version.created, "signer": signer,
        "promotion": asdict(occasion),
        "decision": asdict(judged.decision) | {"allowed": judged.decision.allowed, "refusal": judged.decision.refusal},
        "evaluation": {"task": judged.task, "digest": judged.task_digest, "split": judged.split,
                       "labelled": judged.labelled, "picture": drawable(judged)},
        "bundle": asdict(judged.measured) if judged.measured else None,
        "measures": {split: version.measures(split) for split in SPLITS},
        "warnings": _warnings(version),
        "task": spec.name, "classes": spec.classes,
        "sources": [{"name": source.name, "family": source.family} for source in spec.sources],
        "harmonizer": spec.harmonizer, "scalariser": spec.scalariser, "encoder": asdict(spec.encoder),
        "pareto_weights": spec.pareto_weights, "sharpness": spec.sharpness,
        "recalibration": asdict(spec.recalibration) | {"words": spec.recalibration.words},
        "guarantee": asdict(spec.guarantee) if spec.guarantee else None,
        "data_digest": spec.data_digest, "sources_digest": spec.sources_digest,
        "commits": {"training": _trained_at(versions, version), "promotion": here.commit, "dirty": here.dirty},
        "environment": surroundings() | {"packages": packages(folder / REQUIREMENTS)},
        "tags": lasting(version.tags),
        "files": digests(folder),
    })


def drawable(judged: "Judged") -> bool:
    """Whether there are labelled risks to draw."""
    rows = judged.compared
    return rows is not None and bool((np.isfinite(rows.error) & np.isfinite(rows.candidate)).any())


def lasting(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that nothing should change any more, sorted."""
    return {key: value for key, value in sorted(tags.items()) if key not in OURS}


def is_binding(tag: str) -> bool:
    """Whether training left a tag: one that was changed speaks against a version. Others are anybody's to set."""
    return tag in (DIGEST_TAG, DATA_TAG, WARNINGS_TAG) or tag.partition(".")[0] in SPLITS


def plain(value: Any) -> Any:
    """As JSON has it: moments as ISO text in UTC, NaN and infinity as null, arrays and tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(entry) for entry in value)
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _warnings(version: Version) -> list[str]:
    try:
        found = json.loads(version.tags.get(WARNINGS_TAG, "[]"))
    except json.JSONDecodeError:
        found = [version.tags[WARNINGS_TAG]]
    return [str(warning) for warning in found] if isinstance(found, list) else [str(found)]


def _trained_at(versions: Versions, version: Version) -> str | None:
    """The commit of the training run's code; None where MLflow has none, or the run is gone."""
    from mlflow.exceptions import MlflowException

    try:
        return versions.run_tag(version, COMMIT_TAG) if version.run_id else None
    except MlflowException:
        return None
