import json
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("polarscore", deadline=None, max_examples=50)
settings.load_profile("polarscore")

BENCH = Path(__file__).parents[2] / "shared" / "bench"


@pytest.fixture(scope="session")
def bench():
    """The folder of the nine benchmark tasks, which is not part of the project."""
    if not BENCH.is_dir():
        pytest.skip(f"the benchmark is not at {BENCH}")
    return BENCH


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
