"""What the sources of a version are worth: what it believes of each, and what its run saw of it. No label is needed."""

import math
from dataclasses import dataclass
from typing import Any

from registry.versions import Version, Versions
from training.model import load
from training.task import LLM


@dataclass(frozen=True)
class SourceWorth:
    """One source, or the LLM, which is named so and of no family here.

    accuracy: how often its votes are believed to be right. coverage: the share of rows on which it votes.
    counts_as: how many independent votes one of its votes counts as, on average. The last two are None where the run
    does not tell.
    """

    source: str
    family: str | None
    accuracy: float
    coverage: float | None
    counts_as: float | None


def worth_of(versions: Versions, version: Version) -> list[SourceWorth]:
    """The LLM first, then the sources, those believed most first.

    Raises:
        InputError: the version's files are not to be had.
    """
    model = load(versions.folder(version))
    seen = _seen(version)
    llm, *accuracies = model.worth.accuracy.tolist()
    found = [SourceWorth(source.name, source.family, accuracy, *seen.get(source.name, (None, None)))
             for source, accuracy in zip(model.spec.sources, accuracies, strict=True)]
    return [SourceWorth(LLM, None, llm, None, None), *sorted(found, key=lambda source: -source.accuracy)]


def _seen(version: Version) -> dict[str, tuple[float | None, float | None]]:
    """Coverage and `counts_as` by source, from the table that the version's run logged; empty if there is none."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        table = mlflow.artifacts.load_dict(f"runs:/{version.run_id}/sources.json")
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        return {row["source"]: (_number(row.get("coverage")), _number(row.get("counts_as"))) for row in rows}
    except (MlflowException, OSError, ValueError, KeyError, TypeError):
        return {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
