"""MLflow: a run for what asking again came to, in the model's experiment. It holds figures; no text and no id."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from training.state import State
from training.tracking import open_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND = "correction"


def log_correction(
    state: State,
    name: str,
    version: int,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float | None],
    content: Mapping[str, Any],
    figure: "Figure",
) -> str:
    """Keep a correction by a version of the model `name`. Returns the run's id.

    settings: its parameters. metrics: those that are None are left out. content: all of its figures, as JSON.
    """
    with open_run(state, name, [], KIND) as run:
        import mlflow

        mlflow.set_tags({"kind": KIND, "version": str(version)})
        mlflow.log_params(dict(settings))
        mlflow.log_metrics({key: float(value) for key, value in metrics.items() if value is not None})
        mlflow.log_dict(dict(content), "correction.json")
        mlflow.log_figure(figure, "correction.png", save_kwargs={"dpi": 150})
    return run.run_id
