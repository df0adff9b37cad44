"""A file that a command writes: refused before the work if it cannot be, and put in its place in one step."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".parquet", ".jsonl", ".jsonl.gz")
"""Of a file of rows."""


def check_target(option: str, target: Path, endings: Sequence[str] = FORMATS) -> None:
    """Refuse a file that could not be written, before anything else is done. option: names it in an error.

    Raises:
        InputError: its ending, its folder, or what is there already.
    """
    if not target.name.endswith(tuple(endings)):
        raise InputError(f"{option} {target} should end in {', '.join(endings)}.")
    if target.is_dir():
        raise InputError(f"{option} {target} is a folder. Name a file.")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{option} {target}: there is no folder {target.absolute().parent}.")
    if target.exists() and not os.access(target, os.W_OK):
        raise InputError(f"{option} {target} is there, and may not be written.")
    try:
        tempfile.TemporaryFile(dir=target.absolute().parent).close()
    except OSError as error:
        raise InputError(f"{option} {target} cannot be written: {error.strerror}.") from None


def draft_of(frame: "pd.DataFrame", target: Path, mode: int = 0o644) -> Path:
    """Write a frame to a new file beside the target, in the target's format; `os.replace` then puts it there.

    Raises:
        InputError: it cannot be written; no new file is left then.
    """
    draft = None
    try:
        handle, name = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}.")
        os.close(handle)
        draft = Path(name)
        draft.chmod(mode)
        if target.name.endswith(".parquet"):
            frame.to_parquet(draft, index=False)
        else:
            frame.to_json(draft, orient="records", lines=True, force_ascii=False, double_precision=15,
                          compression="gzip" if target.name.endswith(".gz") else None)
    except OSError as error:
        if draft:
            draft.unlink(missing_ok=True)
        raise InputError(f"--out {target} cannot be written: {error.strerror}.") from None
    return draft
