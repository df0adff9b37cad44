"""Asking MLflow's registry: what it has under a name, and what a search finds."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from training.errors import InputError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

PAGE = 1000  # the most that MLflow gives at a time
NOTHING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what it says of a name that it does not know


def found(get: "Callable[..., ModelVersion]", *names: str) -> "ModelVersion | None":
    """The version that MLflow has under a name; None if there is none.

    Raises:
        InputError: the registry does not answer.
    """
    from mlflow.exceptions import MlflowException

    try:
        return get(*names)
    except MlflowException as error:
        if error.error_code in NOTHING:
            return None
        raise _unreadable(error) from None


def pages(search: Callable[..., Any], limit: int | None = None) -> tuple[list[Any], bool]:
    """What a search finds, at most so much of it (None: all); and whether there is more.

    Raises:
        InputError: the registry does not answer.
    """
    from mlflow.exceptions import MlflowException

    results: list[Any] = []
    token = None
    try:
        while limit is None or len(results) < limit:
            page = search(max_results=PAGE if limit is None else min(PAGE, limit - len(results)), page_token=token)
            results += page
            token = page.token
            if not token:
                return results, False
    except MlflowException as error:
        raise _unreadable(error) from None
    return results, True


def by_name(name: str) -> str:
    """The filter that finds a name. MLflow's filters know no way to escape a quote."""
    quote = '"' if "'" in name else "'"
    return f"name={quote}{name}{quote}"


def _unreadable(error: Exception) -> InputError:
    return InputError(f"MLflow's registry cannot be read: {str(error).splitlines()[0][:300]}")
