"""A version's files on this machine: where they lie, or fetched once from a server."""

from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Lock
from weakref import finalize

from training.errors import InputError
from training.state import State


class Files:
    """What was fetched of the versions of a state. Goes away with this, or with the process.

    A version is fetched once: what was checked is what is used, whatever becomes of the artefact store meanwhile.
    Threads may share one.
    """

    def __init__(self, state: State):
        self._on_server = not state.tracking_uri.startswith("sqlite:")
        self._lock = Lock()
        self._fetched: dict[str, Path] = {}
        self._room: Path | None = None

    def folder(self, uri: str) -> Path:
        """The folder of `models:/NAME/VERSION` as MLflow logged it; the store's own where that is on this machine.

        Raises:
            InputError: it is not to be had.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        with self._lock:
            if uri not in self._fetched:
                target = mkdtemp(dir=self._temporary()) if self._on_server else None
                try:
                    self._fetched[uri] = Path(mlflow.artifacts.download_artifacts(uri, dst_path=target))
                except (MlflowException, OSError) as error:
                    raise InputError(f"the files of {uri} cannot be fetched: {str(error).splitlines()[0]}") from None
            return self._fetched[uri]

    def _temporary(self) -> Path:
        if self._room is None:
            room = TemporaryDirectory(prefix="polarscore-")
            finalize(self, room.cleanup)
            self._room = Path(room.name)
        return self._room
