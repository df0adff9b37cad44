import json
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import settings

from monitoring.store import Store
from tests import servers
from training import state

settings.register_profile("polarscore", deadline=None, max_examples=50)
settings.load_profile("polarscore")

BENCH = Path(__file__).parents[2] / "shared" / "bench"


@pytest.fixture(scope="session")
def bench():
    """The folder of the nine benchmark tasks, which is not part of the project."""
    if not BENCH.is_dir():
        pytest.skip(f"the benchmark is not at {BENCH}")
    return BENCH


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    """A prediction store, on each kind of database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else f"sqlite:///{tmp_path}/store.db"
    with Store(url) as opened:
        yield opened


@pytest.fixture(scope="session", autouse=True)
def _no_own_keys(tmp_path_factory):
    """Keys in a folder of the tests': nobody's own ones are read, or written."""
    folder, real = tmp_path_factory.mktemp("keys"), state._config
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLARSCORE_KEYS", str(folder))
        patch.setattr(state, "_config", lambda environ: real(
            environ if {"XDG_CONFIG_HOME", "HOME"} & set(environ) else {"HOME": str(folder)}))
        yield


@pytest.fixture(autouse=True)
def keys(tmp_path_factory, monkeypatch):
    """The folder of keys of one test, empty."""
    folder = tmp_path_factory.mktemp("keys")
    monkeypatch.setenv("POLARSCORE_KEYS", str(folder))
    return folder


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server to test with, started once; skips where none is installed."""
    with servers.postgres() as cluster:
        yield cluster


@pytest.fixture
def postgres_url(postgres):
    """The URL of an empty schema in PostgreSQL, of one test alone."""
    with postgres.schema() as url:
        yield url


@pytest.fixture(scope="session")
def mlflow_server(postgres, tmp_path_factory):
    """The URL of an MLflow server on PostgreSQL, its artefacts behind it by URI; started once. It delivers webhooks."""
    local = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
             "MLFLOW_WEBHOOK_CACHE_TTL": "0", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode()}
    artifacts = tmp_path_factory.mktemp("artifacts").as_uri()
    with postgres.database() as database, servers.mlflow_server(database, artifacts, local) as url:
        yield url


@pytest.fixture
def write_task(tmp_path):
    """Writes a task of two classes and the sources s1 and s2; returns its folder. The keywords replace parts."""

    def write(data, name="data.jsonl", *, data_keys='label = "label"', sources=("s1", "s2"), toml=None, code=None):
        if toml is None:
            toml = f'[task]\nname = "mail"\nclasses = ["ham", "spam"]\n[data]\npath = "{name}"\n{data_keys}\n'
            toml += "".join(f'[[sources]]\nname = "{source}"\n' for source in sources)
        (tmp_path / "task.toml").write_text(toml)
        if isinstance(data, list):
            data = "\n".join(map(json.dumps, data))
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        if code is not None:
            (tmp_path / "sources.py").write_text(code)
        return tmp_path

    return write
