"""The registry, opened: MLflow's versions, the log of stages, and the keys."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from registry.history import History
from registry.keys import Keys
from registry.versions import Versions
from training.state import State


@dataclass(frozen=True)
class Registry:
    """Where versions are, what the log says of them, and who is trusted."""

    state: State
    versions: Versions
    history: History
    keys: Keys

    @classmethod
    @contextmanager
    def open(cls, state: State) -> "Iterator[Registry]":
        """Open all of it; its database connections are given back at the end.

        Raises:
            InputError: a store cannot be opened, or the keys lie in the state folder.
        """
        versions, keys = Versions(state), Keys.of(state)
        with History(state.database_url) as history:
            yield cls(state, versions, history, keys)
