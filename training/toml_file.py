"""A TOML file that a person wrote, read into a mapping or refused in one line."""

import tomllib
from pathlib import Path
from typing import Any

from training.errors import InputError


def read_toml(path: Path, remedy: str = "") -> dict[str, Any]:
    """What a TOML file holds. remedy: a sentence for whoever has no such file.

    Raises:
        InputError: no such file, or it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. {remedy}".rstrip()) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number too long, a nesting too deep
        raise InputError(f"{path} is not valid TOML: {str(error).splitlines()[0].rstrip('.')}.") from None
