"""A version as MLflow loads it: `mlflow.pyfunc.load_model("models:/NAME@ALIAS").predict(DataFrame)`.

Logged as code, with `training/` beside it, so that it runs where only the pinned requirements are installed.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from training.beliefs import encoder_for
from training.encoder import best_device
from training.model import load
from training.scoring import score_rows
from training.spec import SPEC


class RiskScorer(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined]
    """Rows of `text`, `answer` and, if wanted, `id`, `spans`, `votes` to risks."""

    def load_context(self, context: Any) -> None:
        """Read the version's files and load its encoder, where it reads by one."""
        self._model = load(Path(context.artifacts[SPEC]).parent, best_device())
        self._encode = encoder_for(self._model.harmonizer, self._model.spec.encoder, best_device())

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A row each: id, risk (null without an answer), p_CLASS…, answer, harmonizer_answer."""
        return score_rows(self._model, self._encode, model_input, "the input")


mlflow.models.set_model(RiskScorer())
