"""Where things are kept: one folder with embedded defaults, replaced part by part by environment variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.errors import InputError


@dataclass(frozen=True)
class State:
    """The places that polarscore reads and writes.

    home: the state folder, absolute (`POLARSCORE_HOME`, default `./.polarscore`).
    tracking_uri: MLflow's store (`MLFLOW_TRACKING_URI`, default SQLite in the state folder).
    database_url: predictions, feedback and the stage log (`POLARSCORE_DATABASE_URL`, default SQLite there).
    keys: what signs and who is trusted (`POLARSCORE_KEYS`, default `~/.config/polarscore`); never inside `home`.
    """

    home: Path
    tracking_uri: str
    database_url: str
    keys: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "State":
        """Read the places from environment variables; nothing is created yet."""
        home = Path(environ.get("POLARSCORE_HOME") or ".polarscore").absolute()
        return cls(
            home=home,
            tracking_uri=environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}",
            database_url=environ.get("POLARSCORE_DATABASE_URL") or f"sqlite:///{home / 'polarscore.db'}",
            keys=Path(environ.get("POLARSCORE_KEYS") or _config(environ) / "polarscore").absolute(),
        )

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts, where the tracking store is the embedded one."""
        return self.home / "artifacts"

    @property
    def bento_home(self) -> Path:
        """BentoML's store of models and Bentos (`BENTOML_HOME` of everything we start)."""
        return self.home / "bentoml"

    @property
    def embeddings(self) -> Path:
        """The content-addressed cache of text vectors."""
        return self.home / "embeddings.db"

    @property
    def reports(self) -> Path:
        """Evidently's reports."""
        return self.home / "reports"

    def prepare(self) -> "State":
        """Create the state folder.

        Raises:
            InputError: it cannot be created or written, or has a character in its path that a URL reads as another.
        """
        if set("%?") & set(str(self.home)):
            raise InputError(f"the state folder {self.home} has a % or ? in its path, which MLflow cannot address. "
                             "Set POLARSCORE_HOME to another folder.")
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the state folder {self.home} cannot be created: {error.strerror}. "
                             "Set POLARSCORE_HOME to a folder that can be written.") from None
        if not os.access(self.home, os.W_OK | os.X_OK):
            raise InputError(f"the state folder {self.home} is read-only. "
                             "Set POLARSCORE_HOME to a folder that can be written.")
        return self


def _config(environ: Mapping[str, str]) -> Path:
    """Where a user's settings are, by the XDG convention."""
    return Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config")
