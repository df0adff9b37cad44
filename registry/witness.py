"""What this machine has seen of the stage logs: the newest head of each, in the folder of the keys.

It lies outside of the database and of MLflow's store, so that even both put back to an older state together are found.
"""

import json
import os
import re
from pathlib import Path

from filelock import FileLock

from training.errors import InputError

_HEAD = re.compile(r"\d+:[0-9a-f]+")


def remembered(path: Path, log: str) -> str | None:
    """The head of a log, `n:hash`, as last seen here; None: never seen.

    Raises:
        InputError: the file is damaged.
    """
    return _read(path).get(log)


def remember(path: Path, log: str, head: str) -> None:
    """Keep a head in place of an older one. On a machine that has no folder of keys nothing is kept.

    Raises:
        InputError: the folder cannot be written, or the file is damaged.
    """
    if not path.parent.is_dir():
        return
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent} cannot be written, so nothing is kept there of what was seen of the log.")
    with FileLock(path.with_suffix(".lock")):
        heads = _read(path)
        if int(heads.get(log, "0:").split(":")[0]) > int(head.split(":")[0]):
            return  # another process was quicker
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(heads | {log: head}, indent=1), encoding="utf-8")
        draft.replace(path)


def _read(path: Path) -> dict[str, str]:
    try:
        heads = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        heads = None
    if not isinstance(heads, dict) or not all(isinstance(head, str) and _HEAD.fullmatch(head)
                                              for head in heads.values()):
        raise InputError(f"{path} is damaged. It holds what this machine has seen of the stage logs: put it back from "
                         "a backup, or move it away.")
    return heads
