"""A file put in its place whole or not at all."""

import os
from pathlib import Path

from training.errors import InputError


def check_place(path: Path, replace: bool, remedy: str) -> None:
    """Refuse a file that could not be put there, before anything is computed. remedy: where there is one already.

    Raises:
        InputError: it exists and is not to be replaced, or its folder cannot be written.
    """
    if (path.exists() or path.is_symlink()) and not replace:
        raise InputError(f"{path} exists already. {remedy}")
    if path.is_dir():
        raise InputError(f"{path} is a folder. Expected a file to write.")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file but a device or a pipe. Expected a file to write.")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: the folder {path.parent.absolute()} is read-only.")


def place(path: Path, text: str, replace: bool, remedy: str) -> None:
    """Put a text there in UTF-8; whoever reads sees the old file, the new one, or none.

    Raises:
        InputError: as `check_place`, or writing fails.
    """
    check_place(path, replace, remedy)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8", errors="replace", newline="")
        if replace:
            os.replace(draft, path)
        else:
            os.link(draft, path)
    except FileExistsError:
        raise InputError(f"{path} exists already. {remedy}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        draft.unlink(missing_ok=True)
