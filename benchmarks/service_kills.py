"""Kill -9 in the middle of scoring and feedback: is what was acknowledged in the store afterwards, and once?

    python benchmarks/service_kills.py [--runs 100] [--database sqlite|postgresql] [--served]

Processes take in scores and feedback through the journal, as the service does, and are killed at random moments, every
second time two that share a journal. With `--served` it is a whole service: a real Bento under concurrent requests of
both kinds, killed with all its processes; the start after it drains what was left. Prints what was acknowledged and
what waited in the journal when the processes were killed, and exits with 1 if anything is missing or there twice.
However it ends itself, nothing that it started stays.
"""

import argparse
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
import psutil

from monitoring.forgetting import journal_of
from monitoring.journal import Journal
from monitoring.store import Store
from tests import kills, servers
from training.state import State


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--served", action="store_true", help="kill a whole service; a run takes some ten seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    began, total, wrong = time.monotonic(), Counter(), []
    with ExitStack() as stack:
        folder = stack.enter_context(kills.place())
        url = f"sqlite:///{folder / 'polarscore.db'}"
        if options.database == "postgresql":
            url = stack.enter_context(stack.enter_context(servers.postgres()).database())
        Store(url).close()
        run = served(folder, url) if options.served else journalled(folder, url)
        for number in range(options.runs):
            found, counted = run(number, options.seed + 10 * number)
            total += counted
            wrong += [f"run {number}: {what}" for what in found]
            wrong += [] if counted["scores"] else [f"run {number}: nothing was acknowledged"]
    print(f"{options.database}, {options.runs} runs, {time.monotonic() - began:.0f} s:")
    print(f"  acknowledged: {total['scores']:,} scores, {total['feedback']:,} labels; "
          f"{total['waited']:,} rows waited when the processes were killed")
    print(f"  wrong: {len(wrong)}")
    for line in wrong[:20]:
        print(f"    {line}")
    return 1 if wrong else 0


def journalled(folder, url):
    """A run with processes that only have a journal."""
    context = kills.processes()
    return lambda number, seed: kills.run(context, url, folder, number, seed)


def served(folder, url):
    """A run with a service, of a version of random weights."""
    from registry.export import build
    from tests.test_serving import write_version

    state = State.from_environment({"POLARSCORE_HOME": str(folder / "state"), "POLARSCORE_DATABASE_URL": url,
                                    "POLARSCORE_KEYS": str(folder / "keys")}).prepare()
    tag = build(write_version(folder / "made"), "Reviews", "4", {"stage": "production"}, state)
    return lambda number, seed: kill_service(state, tag, folder / f"{number}.acknowledged", seed)


def kill_service(state, tag, acknowledged, seed):
    """Start the service, which drains what the last one left; load it, kill it, and have a journal drain the rest."""
    from serving.launch import running
    from serving.probe import serving_on

    out, stop = kills.Acknowledged(acknowledged), threading.Event()
    with running(tag, state, allow_unsigned=True) as address:
        clients = [threading.Thread(target=load, args=(address, out, stop, seed + number)) for number in range(6)]
        for client in clients:
            client.start()
        until = time.monotonic() + 30
        while not acknowledged.stat().st_size and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(random.Random(seed).uniform(0, 2))
        kill(serving_on(urlsplit(address).port))
        stop.set()
        for client in clients:
            client.join()
    scores, labels = out.read()
    with Store(state.database_url) as store:
        journal = Journal(journal_of(state), store)
        waited = journal.waiting
        journal.start()
        left = journal.close(kills.DRAINED_S)
        wrong = [f"{left} rows wait still"] if left else []
        return wrong + kills.missing(store, scores, labels), Counter(waited=waited, **kills.counts(scores, labels))


def kill(process):
    """End a process at once, and all that it started: its group, and those that left it, as the sources' does."""
    below = process.children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for each in below:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(below)


def load(address, out, stop, seed):
    """A client: scores some texts and labels some scores, until the service is gone."""
    chance = random.Random(seed)
    with suppress(httpx.HTTPError), httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
        while not stop.is_set():
            items = [{"text": f"a film, {chance.randrange(200)}", "answer": chance.randrange(2)}
                     for _ in range(chance.randint(1, 8))]
            answer = client.post("/score", json={"items": items})
            if answer.status_code != 200:
                time.sleep(0.05)
                continue
            ids = [score["score_id"] for score in answer.json()["scores"]]
            out.say(f"s {score_id}" for score_id in ids)
            for label in chance.sample(["negative", "positive"], chance.randint(0, 2)):
                if client.post("/feedback", json={"score_id": ids[0], "label": label}).status_code == 200:
                    out.say([f"f {ids[0]} {label}"])


if __name__ == "__main__":
    sys.exit(main())
