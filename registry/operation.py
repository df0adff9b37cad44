"""What a version does by its own files alone: does it load with pickle off, score the same twice, name its packages?"""

import json
import os
import pickletools
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from registry.gate_facts import Operation

LOADER = Path(__file__).with_name("loading.py")
LOAD_S = 300  # how long two loads may take
PICKLES = (".pkl", ".pickle", ".p", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt")
"""Endings of files that are read by unpickling, whatever is in them."""

ENVIRONMENT = ("PATH", "TMP", "TEMP", "LANG", "LC_", "LD_LIBRARY_PATH", "DYLD_", "SYSTEMROOT", "VIRTUAL_ENV",
               "CUDA", "NVIDIA", "OMP_", "MKL_", "OPENBLAS_", "TORCH", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE",
               "TRANSFORMERS_", "XDG_CACHE_HOME")
"""How the environment variables begin that a version's code may see: no password, key or database is among them."""


def try_out(folder: Path) -> Operation:
    """Try a version out, given its MLflow model's folder. Nothing is written there."""
    loaded = _load_twice(folder)
    return Operation(loaded["load_error"], pickles(folder), loaded["score_error"], loaded["differing"],
                     has_signature(folder), requirements(folder))


def pickles(folder: Path) -> tuple[str, ...]:
    """The files below a folder that hold a pickle, by their ending or by what is in them."""
    return tuple(path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))
                 if path.is_file() and (path.suffix.lower() in PICKLES or _holds_pickle(path)))


def has_signature(folder: Path) -> bool:
    """Whether MLflow reads from the folder what the model takes and gives."""
    from mlflow.models import Model

    try:
        signature = Model.load(str(folder)).signature
    except Exception:  # a damaged MLmodel fails in many ways
        return False
    return signature is not None and bool(signature.inputs) and bool(signature.outputs)


def requirements(folder: Path) -> tuple[str, ...]:
    """The lines of the model's requirements.txt, without comments; none where there is no such file."""
    try:
        lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ()
    told = (line.split(" #")[0].strip() for line in lines)
    return tuple(line for line in told if line and not line.startswith("#"))


def _load_twice(folder: Path) -> dict[str, Any]:
    """What `registry.loading` says, run where nothing of ours is in reach and no secret either."""
    environment = {name: value for name, value in os.environ.items() if name.upper().startswith(ENVIRONMENT)}
    environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
                    "DO_NOT_TRACK": "true", "PYTHONDONTWRITEBYTECODE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="polarscore-load-") as place:
        environment["HOME"] = place  # not that in which keys are
        try:
            done = subprocess.run([sys.executable, "-P", str(LOADER), str(folder.absolute())], cwd=place,
                                  env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=LOAD_S)
            return dict(json.loads(done.stdout))
        except subprocess.TimeoutExpired:
            why = f"it took longer than {LOAD_S} s"
        except ValueError:
            why = f"the process ended with {done.returncode} while loading"
    return {"load_error": why, "score_error": None, "differing": None}


def _holds_pickle(path: Path) -> bool:
    """Whether a file is a pickle of protocol 2 or later, or a zip archive with one (as PyTorch writes).

    A safetensors file may begin like one by chance; the zeros that follow are in no pickle.
    """
    with path.open("rb") as file:
        head = file.read(2)
        if head[:1] == b"\x80" and head[1:] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            file.seek(0)
            try:
                return any(True for operation, _, _ in pickletools.genops(file) if operation.name == "STOP")
            except Exception:  # genops raises whatever its readers raise
                return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.lower().endswith(PICKLES) for name in archive.namelist())
    except zipfile.BadZipFile:
        return False
