"""The file of the API keys: written in one step by the commands, read again by the service once it changes."""

import json
import logging
import os
import stat
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError

from serving.access import ApiKey, Keys, recognise
from training.errors import InputError
from training.state import State
from training.task import describe

API_KEYS = "POLARSCORE_API_KEYS"
"""Names the file, in place of `api-keys.json` in the state folder."""

LOG = logging.getLogger("bentoml.polarscore")


def keys_path(state: State, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the keys are, or would be; absolute."""
    return Path(environ.get(API_KEYS) or state.home / "api-keys.json").absolute()


def read_keys(path: Path) -> Keys:
    """The keys that a file holds; none where there is no file.

    Raises:
        InputError: it cannot be read, is damaged, or anybody may write it.
    """
    try:
        with path.open("rb") as file:
            open_to_all = os.fstat(file.fileno()).st_mode & stat.S_IWOTH
            content: Any = json.loads(file.read())
        if open_to_all:
            raise InputError(f"everybody may write the API keys in {path}. Run: chmod 600 {path}.")
        if not isinstance(content, dict) or content.keys() != {"keys"} or not isinstance(content["keys"], list):
            raise ValueError("it should hold one list, keys")
        keys = tuple(ApiKey.model_validate(key) for key in content["keys"])
        if len({key.id for key in keys}) < len(keys):
            raise ValueError("an id occurs twice")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise InputError(f"the API keys in {path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        why = describe(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(f"the API keys in {path} are damaged: {why}. Put the file back from a backup, or move it "
                         "away and make new keys: polarscore apikey create.") from None
    return keys


def change_keys(path: Path, change: Callable[[Keys], Keys]) -> None:
    """Put what `change` makes of the keys in place of them. The file is its owner's alone, and never half written.

    Raises:
        InputError: the file is damaged or cannot be written; or as `change` does.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            keys = change(read_keys(path))
            try:
                with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                    json.dump({"keys": [key.model_dump(mode="json") for key in keys]}, file, indent=1)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(draft, path)
            finally:
                draft.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"the API keys in {path} cannot be written: {error.strerror}.") from None


class Keyring:
    """The keys of a file as they are now.

    A file that is damaged or gone while the service runs changes nothing: the last good keys stay, and the log says so
    once.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)):
        """Read the file.

        Raises:
            InputError: as `read_keys` does.
        """
        self.path, self._now = path, now
        self._seen = self._looks()
        self._keys = {key.id: key for key in read_keys(path)}

    def find(self, given: str) -> ApiKey | None:
        """The usable key that was given, by the file as it is now; None: it is none."""
        self._look_again()
        return recognise(self._keys, given, self._now())

    def still(self, identity: str) -> ApiKey | None:
        """The key with that id, if it is usable by the file as it is now."""
        self._look_again()
        key = self._keys.get(identity)
        return key if key is not None and key.usable(self._now()) else None

    def usable(self) -> bool:
        """Whether any key opens anything."""
        self._look_again()
        return any(key.usable(self._now()) for key in self._keys.values())

    def _look_again(self) -> None:
        looks = self._looks()
        if looks == self._seen:
            return
        self._seen = looks
        try:
            if looks is None:
                raise InputError(f"the API keys in {self.path} are gone.")
            self._keys = {key.id: key for key in read_keys(self.path)}
            LOG.info("the API keys were read again: %d", len(self._keys))
        except InputError as error:
            LOG.error("%s Those read before go on to be good.", error)

    def _looks(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
