"""Starting the service from a bundle: in the foreground, or beside this process for as long as it is needed."""

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from registry.export import QUIET, bento_path, find
from serving.config import SERVICE, read_config
from serving.entry import LISTEN, is_loopback
from serving.keyfile import API_KEYS, Keyring, keys_path
from training.errors import InputError, PolarscoreError
from training.state import State

LOOPBACK = "127.0.0.1"
START_S = 120  # how long a service may take until it is ready
ANSWER_S = 10  # how long it may take to answer what it has taken in; what takes longer is cut short
STOP_S = 35  # how long it may take to stop: ANSWER_S, then the batcher, whoever follows, and the journal


def serve(
    tag: str | None, host: str, port: int, state: State, follow: bool = False, allow_unsigned: bool = False,
    config: Path | None = None,
) -> None:
    """Become the service of a bundle, the one bundled last by default; does not return.

    follow: take over, without a pause, whatever version of its model is put into production. allow_unsigned: serve
    what nobody signed, also where the machine trusts keys. config: the file of `serving.config`.

    Raises:
        InputError: no such bundle, a host that is no address of this machine, a port that is taken, a configuration or
            a file of API keys at fault, a host that others reach while no key opens anything.
    """
    address = _address(host)
    command, environment = _command(find(tag, state.prepare()), address, port, state, follow, allow_unsigned, config)
    _refuse_open_house(address, state, config or _named())
    _refuse_taken(address, port)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)  # so that signals reach it as they came


@contextmanager
def running(
    tag: str | None, state: State, port: int = 0, follow: bool = False, allow_unsigned: bool = False,
    config: Path | None = None,
) -> Iterator[str]:
    """The service of a bundle on a loopback port (0: a free one), as its base URL, stopped at the end.

    Raises:
        InputError: no such bundle, a port that is taken, or a configuration at fault.
        PolarscoreError: it does not come up; names its log, which stays in the state folder.
    """
    tag, port = find(tag, state.prepare()), port or _free_port()
    _refuse_taken(LOOPBACK, port)
    log = state.home / "logs" / f"serve-{port}.log"
    log.parent.mkdir(exist_ok=True)
    command, environment = _command(tag, LOOPBACK, port, state, follow, allow_unsigned, config)
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    try:
        url = f"http://{LOOPBACK}:{port}"
        _wait_until_ready(url, process, log)
        yield url
    finally:
        _stop(process)


def _command(
    tag: str, host: str, port: int, state: State, follow: bool, allow_unsigned: bool, config: Path | None
) -> tuple[list[str], dict[str, str]]:
    """What to run, with which environment. A Bento's path names it where a module could have its tag's name.

    How many threads compute is left as the user has it (OMP_NUM_THREADS and the like). Unless the user says how they
    wait for each other, they sleep: where others compute, too, threads that spin make a pass take almost twice as long.
    """
    named = config or _named()
    if named is not None:
        read_config(named)
    waits = {} if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ) else {"OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", "bentoml", "serve", str(bento_path(tag, state)),
               "--host", host, "--port", str(port), "--timeout-graceful-shutdown", str(ANSWER_S)]
    environment = os.environ | QUIET | waits | {
        "POLARSCORE_HOME": str(state.home),
        "POLARSCORE_DATABASE_URL": state.database_url,
        "POLARSCORE_KEYS": str(state.keys),
        "BENTOML_HOME": str(state.bento_home),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "POLARSCORE_FOLLOW": "1" if follow else "0",
        LISTEN: host,
        API_KEYS: str(keys_path(state)),
    } | ({"POLARSCORE_ALLOW_UNSIGNED": "1"} if allow_unsigned else {}) | (
        {SERVICE: str(named.absolute())} if named else {})
    return command, environment


def _named() -> Path | None:
    """The configuration that the environment names."""
    return Path(os.environ[SERVICE]) if os.environ.get(SERVICE) else None


def _address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError:
        raise InputError(f"the host '{host}' is unknown. Expected an address such as 127.0.0.1 or 0.0.0.0.") from None


def _refuse_open_house(address: str, state: State, config: Path | None) -> None:
    """Everybody needs a key: somebody should be able to ask the service something."""
    path = keys_path(state)
    always = config is not None and read_config(config).keys == "always"
    if not Keyring(path).usable() and (always or not is_loopback(address)):
        why = 'the configuration says keys = "always"' if always else f"on {address} others reach the service"
        raise InputError(f"{why}, so every request needs an API key, and {path} has none that is usable. "
                         "Make one: polarscore apikey create NAME --scope score.")


def _refuse_taken(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise InputError(f"the service cannot listen on {host}:{port}: {why}. Choose another --port.") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with opener.open(f"{url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise PolarscoreError(f"the service did not come up: {_why(log)} The whole log is in {log}.")


def _why(log: Path) -> str:
    """What the service itself says of its failure, or the last line of its log."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    ours = [line.removeprefix("polarscore: ") for line in lines if line.startswith("polarscore: ")]
    return (ours or lines or ["it said nothing."])[-1]


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to end, which answers what it has taken in; end it and its workers if it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
