"""Servers that the tests start: a throw-away PostgreSQL, and MLflow on it. Both on loopback, on a free port.

Each runs under a keeper, a small process that waits for the tests to close a pipe. However the tests end, killed
included, the system closes the pipe, and the keeper stops the server and removes its folder.
"""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

ROOT = Path(__file__).resolve().parent.parent
STARTED_IN_S = 120
MISSING = ("no PostgreSQL is installed: initdb is neither on PATH nor in /usr/lib/postgresql/*/bin. Install one "
           "(apt-get install postgresql), or set POLARSCORE_TEST_POSTGRES to the URL of a database")
KEEPER = """
import os, pwd, select, shutil, signal, subprocess, sys
folder, stop, user, *command = sys.argv[1:]
account = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
with open(os.path.join(folder, "log"), "ab") as log:
    server = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                              start_new_session=True, **account)
while not select.select([sys.stdin], [], [], 0.1)[0]:
    if server.poll() is not None:
        sys.exit(1)
server.send_signal(int(stop))
try:
    server.wait(20)
except subprocess.TimeoutExpired:
    pass
try:
    os.killpg(server.pid, signal.SIGKILL)
except ProcessLookupError:
    pass
server.wait()
shutil.rmtree(folder, ignore_errors=True)
"""


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL server that tests may fill. url: of a database in which they make schemas and beside it others."""

    url: str

    @contextmanager
    def schema(self) -> Iterator[str]:
        """The URL of an empty schema of its own; dropped at the end."""
        name = f"test_{secrets.token_hex(8)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
            yield f"{self.url}{'&' if '?' in self.url else '?'}options=-csearch_path%3D{name}"
            connection.execute(f"DROP SCHEMA {name} CASCADE")

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database of its own; dropped at the end."""
        name = f"test_{secrets.token_hex(8)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
            yield urlsplit(self.url)._replace(path=f"/{name}").geturl()
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, the newest that is installed; None: there is none."""
    on_path = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = Path(on_path).resolve() if on_path else installed[-1] if installed else None
    return found.parent if found else None


@contextmanager
def postgres() -> Iterator[Cluster]:
    """The cluster to test with: POLARSCORE_TEST_POSTGRES, or a throw-away one. Skips where there is neither."""
    if given := os.environ.get("POLARSCORE_TEST_POSTGRES"):
        yield Cluster(given.replace("postgresql+psycopg:", "postgresql:"))
        return
    binaries = programs()
    if binaries is None:
        pytest.skip(MISSING)
    user, password = _unprivileged(), secrets.token_hex(16)
    with _folder(user) as folder:
        secret = folder / "password"
        secret.write_text(password)
        if user:
            shutil.chown(secret, user)
        initdb = [binaries / "initdb", "-D", folder / "data", "-U", "tester", "-A", "scram-sha-256",
                  f"--pwfile={secret}", "-E", "UTF8", "--locale=C", "--no-sync"]
        account = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
        subprocess.run(initdb, cwd=folder, check=True, stdout=subprocess.DEVNULL, **account)
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "200",
                    "fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "shared_buffers": "64MB"}

        def command(port: int) -> list[str]:
            return [str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(port),
                    *(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))]

        def url(port: int) -> str:
            return f"postgresql://tester:{password}@127.0.0.1:{port}/postgres"

        def ready(port: int) -> None:
            psycopg.connect(url(port), connect_timeout=5).close()

        with _kept(command, folder, ready, stop=2, user=user) as port:  # SIGINT: a fast shutdown
            yield Cluster(url(port))


@contextmanager
def mlflow_server(database: str, artifacts: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The URL of an MLflow server on a database and an artefact store, as examples/team/compose.yaml starts it."""
    backend = database.replace("postgresql:", "postgresql+psycopg:")
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": backend,
                **(environment or {})}

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "mlflow", "server", "--artifacts-destination", artifacts, "--host", "127.0.0.1",
                "--port", str(port), "--workers", "1"]

    def ready(port: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            pass

    with _folder(None) as folder, _kept(command, folder, ready, stop=9, environment=settings) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _kept(command: Callable[[int], Sequence[str]], folder: Path, ready: Callable[[int], None], *, stop: int,
          user: str | None = None, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """A server under a keeper, once it answers; gives its port. Where another takes the port first, tries again."""
    for _ in range(3):
        port = _free_port()
        keeping = [sys.executable, "-c", KEEPER, str(folder), str(stop), user or "", *command(port)]
        keeper = subprocess.Popen(keeping, stdin=subprocess.PIPE, start_new_session=True,
                                  env={**os.environ, **(environment or {})})
        try:
            if _answers(keeper, port, ready):
                yield port
                return
        finally:
            keeper.communicate()  # closes its pipe
    raise RuntimeError(f"{command(port)[0]} does not start: {(folder / 'log').read_text(errors='replace')[-2000:]}")


def _answers(keeper: subprocess.Popen[bytes], port: int, ready: Callable[[int], None]) -> bool:
    """Wait until a server answers; False if it ended instead."""
    until = time.monotonic() + STARTED_IN_S
    while keeper.poll() is None and time.monotonic() < until:
        try:
            ready(port)
        except (OSError, psycopg.OperationalError):
            time.sleep(0.1)
        else:
            return True
    return False


@contextmanager
def _folder(user: str | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="polarscore-test-"))
    try:
        if user:
            shutil.chown(folder, user)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> str | None:
    """Whom to start PostgreSQL as, which refuses to run as root; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
