"""Run as a program of its own, by its path: load a version twice by MLflow, and score its stored example with both.

So that the version's own code, and only that, is what runs, this imports nothing of the project. Prints one JSON object
with `load_error`, `score_error` and `differing`, as in `registry.gate_facts.Operation`.
"""

import json
import os
import sys
from typing import Any


def twice(folder: str) -> dict[str, Any]:
    """What two loads of an MLflow model's folder show."""
    import mlflow

    found: dict[str, Any] = {"load_error": None, "score_error": None, "differing": None}
    try:
        one, other = mlflow.pyfunc.load_model(folder), mlflow.pyfunc.load_model(folder)
    except Exception as error:  # whatever the version's code raises
        said = (str(error).strip() or "it says no more").splitlines()[0]
        return found | {"load_error": f"{type(error).__name__}: {said}"[:300]}
    try:
        example = one.input_example
        if example is not None:
            found["differing"] = differing(one.predict(example), other.predict(example))
    except Exception as error:  # its message may hold a text
        return found | {"score_error": type(error).__name__}
    return found


def differing(one: Any, other: Any) -> int:
    """In how many cells two frames differ, missing ones being equal; in all of them where their shapes differ."""
    if one.shape != other.shape or list(one.columns) != list(other.columns):
        return int(max(one.size, other.size))
    same = (one == other).fillna(False) | (one.isna() & other.isna())
    return int((~same.astype(bool)).to_numpy().sum())


if __name__ == "__main__":
    answer = os.dup(1)
    os.dup2(2, 1)  # what the version prints is not the answer
    os.write(answer, json.dumps(twice(sys.argv[1])).encode())
