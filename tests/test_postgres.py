"""The PostgreSQL that the tests start, and the compose file of the example that a team starts from."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml

from tests import servers

ROOT = Path(__file__).resolve().parent.parent
TEAM = ROOT / "examples" / "team"
SECRET = re.compile(r"PASSWORD|SECRET|_KEY")
ON_ITS_OWN = """
import sys
from tests import servers
with servers.postgres() as cluster:
    print(cluster.url, flush=True)
    sys.stdin.read()
"""


def test_each_test_has_a_schema_of_its_own(postgres):
    with postgres.schema() as one, postgres.schema() as other:
        with psycopg.connect(one) as connection:
            connection.execute("CREATE TABLE stage_log (n int)")
        with psycopg.connect(other) as connection:
            assert connection.execute("SELECT to_regclass('stage_log')").fetchone() == (None,)
            (name,) = connection.execute("SELECT current_schema()").fetchone()
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT to_regnamespace(%s)", [name]).fetchone() == (None,)


def test_without_postgresql_a_test_is_skipped_and_says_what_to_install(monkeypatch):
    monkeypatch.delenv("POLARSCORE_TEST_POSTGRES", raising=False)
    monkeypatch.setattr(servers, "programs", lambda: None)
    with pytest.raises(pytest.skip.Exception, match="apt-get install postgresql"), servers.postgres():
        pass


def test_a_server_of_ones_own_is_used_as_it_is(monkeypatch):
    monkeypatch.setenv("POLARSCORE_TEST_POSTGRES", "postgresql+psycopg://me@db/mine")
    with servers.postgres() as cluster:
        assert cluster.url == "postgresql://me@db/mine"


@pytest.mark.slow
@pytest.mark.skipif(servers.programs() is None, reason=servers.MISSING)
def test_a_test_process_that_is_killed_leaves_no_server_and_no_folder():
    environment = {name: value for name, value in os.environ.items() if name != "POLARSCORE_TEST_POSTGRES"}
    with subprocess.Popen([sys.executable, "-c", ON_ITS_OWN], cwd=ROOT, env=environment, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        url = process.stdout.readline().strip()
        with psycopg.connect(url) as connection:
            folder = Path(connection.execute("SHOW data_directory").fetchone()[0]).parent
        assert folder.is_dir()
        process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 30
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not folder.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=5)


@pytest.mark.slow
@pytest.mark.skipif("POLARSCORE_TEST_POSTGRES" in os.environ, reason="users would stay behind on a server of one's own")
def test_the_teams_databases_are_each_of_their_own_user(postgres):
    server = urlsplit(postgres.url)
    environment = {**os.environ, "PGHOST": server.hostname, "PGPORT": str(server.port), "PGPASSWORD": server.password,
                   "POSTGRES_USER": server.username, "MLFLOW_PASSWORD": "it's one", "POLARSCORE_PASSWORD": "another",
                   "PATH": f"{servers.programs()}:{os.environ['PATH']}"}

    def connect(user, password, database):
        return psycopg.connect(host=server.hostname, port=server.port, user=user, password=password, dbname=database)

    try:
        subprocess.run(["sh", str(TEAM / "databases.sh")], env=environment, check=True)
        with connect("mlflow", "it's one", "mlflow") as own, connect("polarscore", "another", "polarscore") as other:
            own.execute("CREATE TABLE runs (n int)")
            other.execute("CREATE TABLE stage_log (n int)")
        for user, password, database in (("mlflow", "it's one", "polarscore"), ("polarscore", "another", "mlflow")):
            with pytest.raises(psycopg.OperationalError, match="permission denied"):
                connect(user, password, database)
    finally:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            for name in ("mlflow", "polarscore"):
                with suppress(psycopg.Error):
                    connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
                    connection.execute(f"DROP USER {name}")


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((TEAM / "compose.yaml").read_text())


def test_every_image_is_pinned(compose):
    base = re.search(r"^FROM (\S+)", (TEAM / "Dockerfile").read_text(), re.M)[1]
    for image in (base, *(service["image"] for service in compose["services"].values())):
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*", image), image
    for package in re.search(r"pip install --no-cache-dir (.*?) \\", (TEAM / "Dockerfile").read_text())[1].split():
        assert "==" in package
    installed = (ROOT / "constraints.txt").read_text()
    assert "mlflow" not in installed or "mlflow==3.17.2" in installed


def test_no_secret_is_committed_and_each_one_is_asked_for(compose):
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            if SECRET.search(name) and not name.startswith("AWS"):
                assert re.fullmatch(r"\$\{\w+:\?see \.env\.example\}", value), name
            assert not re.search(r"://\w+:(?!\$\{)", str(value)), name
    asked = set(re.findall(r"\$\{(\w+)", (TEAM / "compose.yaml").read_text()))
    lines = [line.split("=", 1) for line in (TEAM / ".env.example").read_text().splitlines()
             if line and not line.startswith("#")]
    assert {name for name, _ in lines} == asked
    assert all(value == "" for name, value in lines if SECRET.search(name))
    assert ".env" in (TEAM / ".gitignore").read_text().split()


def test_services_are_healthy_before_others_use_them_and_call_nobody(compose):
    postgres, mlflow = compose["services"]["postgres"], compose["services"]["mlflow"]
    assert postgres["healthcheck"]["test"] and mlflow["healthcheck"]["test"]
    assert mlflow["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}.items() <= mlflow["environment"].items()
    assert all(port.startswith("${LISTEN:-127.0.0.1}:") for service in (postgres, mlflow) for port in service["ports"])
    assert {mount.split(":")[0] for service in (postgres, mlflow) for mount in service["volumes"]
            if not mount.startswith("./")} == set(compose["volumes"])
