"""Processes that take in scores and feedback and are killed, and what must be in the store afterwards.

A process writes what it acknowledges into a file, a line each, before anything else: `s SCORE_ID`, or
`f SCORE_ID LABEL`. Each score gets each label at most once, so that a row that came twice shows.
"""

import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

from monitoring.journal import Journal
from monitoring.store import Feedback, ScoredAnswer, Store
from monitoring.tables import FEEDBACK, SCORES

CLASSES = ("a", "b", "c")
DRAINED_S = 60
MARK = "KILLS_IN"  # the variable by which a keeper knows the processes
KEEPER = """
import os, shutil, sys, time
import psutil
mark, folder = sys.argv[1:]
sys.stdin.read()

def marked():
    for process in psutil.process_iter():
        try:
            if process.environ().get(mark) == folder and process.pid != os.getpid():
                yield process
        except (psutil.Error, OSError):
            pass

until = time.monotonic() + 60
while (found := list(marked())) and time.monotonic() < until:
    for process in found:
        try:
            process.kill()
        except psutil.Error:
            pass
    psutil.wait_procs(found, timeout=5)
shutil.rmtree(folder, ignore_errors=True)
"""


@contextmanager
def place():
    """A folder, and this process's environment marked with it.

    However this process ends, killed included, whatever it has started meanwhile ends too, and the folder goes.
    """
    folder = tempfile.mkdtemp(prefix="polarscore-kills-")
    keeper = subprocess.Popen([sys.executable, "-c", KEEPER, MARK, folder], stdin=subprocess.PIPE,
                              start_new_session=True)
    os.environ[MARK] = folder
    try:
        yield Path(folder)
    finally:
        del os.environ[MARK]
        keeper.communicate()  # closes its pipe


def processes():
    """The context to start them in."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.kills", "psycopg", "alembic.command"])
    return context


def scored(score_id, item_id, **changes):
    """A score of a model of three classes."""
    values = {"score_id": score_id, "item_id": item_id, "model": "mail", "version": "1", "answer": "a",
              "harmonizer_answer": "b", "risk": 0.25, "probabilities": dict.fromkeys(CLASSES, 0.25),
              "votes": {"rule": "a"}, "votes_used": True, "text_length": 9}
    return ScoredAnswer(**values | changes)


def serve(url, journal, acknowledged, seed):
    """The body of a process: two threads score, one gives feedback, until it is killed."""
    store = Store(url)
    kept, chance, out = Journal(journal, store), random.Random(seed), Acknowledged(acknowledged)
    kept.start()
    lately = []

    def score():
        while True:
            rows = [scored(uuid4().hex, f"item {chance.randrange(99)}") for _ in range(chance.randint(1, 20))]
            kept.add_scores(rows)
            out.say(f"s {row.score_id}" for row in rows)
            lately.extend(row.score_id for row in rows)
            time.sleep(0.01)

    for _ in range(2):
        threading.Thread(target=score, daemon=True).start()
    while True:
        if len(lately) > 3:
            place = chance.randrange(len(lately) // 2, len(lately) - 1)
            for label in chance.sample(CLASSES, chance.randint(1, 3)):
                kept.add_feedback(Feedback(label, score_id=lately[place]), "mail")
                out.say([f"f {lately[place]} {label}"])
            del lately[: place + 1]
        time.sleep(0.001)


class Acknowledged:
    """A file of lines, each written at once, so that a killed process leaves whole ones."""

    def __init__(self, path):
        self.path = path
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def say(self, lines):
        """Write them."""
        os.write(self._file, "".join(f"{line}\n" for line in lines).encode())

    def read(self):
        """The score_ids, and of each one that has some, its labels in their order."""
        scores, labels = set(), defaultdict(list)
        with open(self.path, encoding="ascii") as lines:
            for kind, score_id, *label in map(str.split, lines):
                scores.add(score_id)
                if kind == "f":
                    labels[score_id] += label
        return scores, labels


def run(context, url, folder, number, seed):
    """Let one process or two, that share a journal, serve and be killed; drain; what is wrong then, and a count."""
    acknowledged = folder / f"{number}.acknowledged"
    out = Acknowledged(acknowledged)
    serving = [context.Process(target=serve, args=(url, folder / "journal.db", acknowledged, seed + each), daemon=True)
               for each in range(1 + number % 2)]
    for process in serving:
        process.start()
    until = time.monotonic() + 60
    while not acknowledged.stat().st_size and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    for process in serving:
        process.kill()
        process.join()
    with Store(url) as store:
        journal = Journal(folder / "journal.db", store)
        waited = journal.waiting
        journal.start()
        left = journal.close(DRAINED_S)
        wrong = [f"{left} rows wait still"] if left else []
        return wrong + missing(store, *out.read()), Counter(waited=waited, **counts(*out.read()))


def counts(scores, labels):
    """How much was acknowledged."""
    return {"scores": len(scores), "feedback": sum(map(len, labels.values()))}


def missing(store, scores, labels):
    """What of the acknowledged the store lacks, has twice, or has in another order."""
    with store.engine.connect() as connection:
        there = Counter(connection.execute(sa.select(SCORES.c.score_id)).scalars())
        given = defaultdict(list)
        for score_id, label in connection.execute(
                sa.select(FEEDBACK.c.score_id, FEEDBACK.c.label).order_by(FEEDBACK.c.feedback_id)):
            given[score_id].append(label)
    wrong = [f"the score {score_id} is kept {there[score_id]} times" for score_id in scores if there[score_id] != 1]
    wrong += [f"the labels of {score_id} are {given[score_id]}, acknowledged were {said}"
              for score_id, said in labels.items() if given[score_id][:len(said)] != said]
    return wrong + [f"{score_id} has a label twice: {said}" for score_id, said in given.items()
                    if len(set(said)) != len(said)]
