"""The scorer behind BentoML's adaptive batching, which counts rows: what `service_load.py --adaptive` serves.

It scores, and does nothing else: no decisions, nothing is kept, no keys, no limits.
"""

import os
from pathlib import Path
from typing import Any

import bentoml

from serving.schema import Item
from serving.scorer import Scorer


@bentoml.service(name="adaptive", workers=1, traffic={"timeout": 60})
class Adaptive:
    """One scorer, one method."""

    def __init__(self) -> None:
        """Load the version that the benchmark has written."""
        self._scorer = Scorer.from_folder(Path(os.environ["POLARSCORE_VERSION_FOLDER"]), "1")
        self._scorer.warm_up()

    @bentoml.api(batchable=True, max_batch_size=256, max_latency_ms=2_000)
    def score(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The risk of each item."""
        scored = self._scorer.score([Item.model_validate(item) for item in items])
        return [{"risk": each.risk, "probabilities": each.probabilities} for each in scored]
