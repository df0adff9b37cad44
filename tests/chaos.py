"""Processes that are killed and processes that race, around the stages of one model; and what must hold afterwards.

The processes are forked off a server that has imported everything and opened nothing.
"""

import itertools
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter

import sqlalchemy as sa

from registry.opening import Registry
from registry.promotion import promote, rollback
from registry.stages import PRODUCTION, SINGLE, STAGES, check_way, holders, stages_of
from registry.verification import repair, verify
from tests import registries
from training.errors import InputError, PolarscoreError
from training.state import State

REFUSED, KILLED = 3, -signal.SIGKILL


def processes():
    """The context to start them in."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos", "mlflow", "alembic.command", "model_signing.signing",
                                    "registry.judging", "registry.evidence"])
    return context


def environment(state):
    """What makes another process see the same registry."""
    return {"POLARSCORE_HOME": str(state.home), "POLARSCORE_KEYS": str(state.keys),
            "POLARSCORE_DATABASE_URL": state.database_url, "MLFLOW_TRACKING_URI": state.tracking_uri}


def act(registry, number, to):
    """Promote a version to a stage; `back`: roll back."""
    if to == "back":
        return rollback(registry, "mail", f"process {os.getpid()}", "")
    version = registry.versions.number("mail", number)
    return promote(registry, version, to, registries.yes, f"process {os.getpid()}", "")


def once(environ, number, to, kill_at=None):
    """The body of a process that acts once; it kills itself at a certain step, if told to.

    A step is a statement that writes to any database, or the commit of such ones: before each the process can die.
    """
    os.environ |= environ
    steps, written = itertools.count(1), set()

    def step():
        if next(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def write(connection, cursor, statement, *arguments):
        if statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE"):
            written.add(connection)
            step()

    @sa.event.listens_for(sa.Engine, "commit")
    def commit(connection):
        if connection in written:
            written.remove(connection)
            step()

    try:
        with Registry.open(State.from_environment()) as registry:
            act(registry, number, to)
    except PolarscoreError as error:
        print(f"refused: {error}", file=sys.stderr)
        sys.exit(REFUSED)


def run(context, state, number, to, kill_at=None, kill_after=None):
    """Have a process act once. kill_at: its step; kill_after: seconds. Returns its exit code and how long it took."""
    process = context.Process(target=once, args=(environment(state), number, to, kill_at))
    began = time.monotonic()
    process.start()
    if kill_after is not None:
        process.join(kill_after)
        process.kill()
    process.join()
    return process.exitcode, time.monotonic() - began


def situation(registry):
    """Aliases, tags of stages and the length of the log."""
    tags = {version.version: version.tags.get("stage", "candidate") for version in registry.versions.list("mail")}
    return registry.versions.aliases("mail"), tags, registry.history.count("mail")


def expected(before, number, to, entries):
    """What a change makes of a situation."""
    aliases, tags, count = before
    aliases, tags = dict(aliases), dict(tags)
    if to in SINGLE:
        replaced = aliases.get(to)
        aliases = {name: held for name, held in aliases.items() if name not in SINGLE or held != number} | {to: number}
        if replaced:
            tags[replaced] = "archived"
    tags[number] = to
    return aliases, tags, count + entries


def after_a_kill(state, before, number, to):
    """What is wrong after a process was killed in the change of a version to a stage: nothing, hopefully.

    `before` or the new situation must hold once repaired. Says also whether there was anything to repair.
    """
    with Registry.open(state) as registry:
        found = verify(registry, "mail")
        wrong = [f"not explained: {finding.what}" for finding in found
                 if found[0].kind != "interrupted" and finding.kind != "interrupted"]
        done = repair(registry, "mail", "repairer")
        wrong += [f"not repaired: {finding.what}" for finding in verify(registry, "mail")]
        now = situation(registry)
        if now not in (before, expected(before, number, to, 1)):
            wrong.append(f"neither the old state nor the new one: {before} became {now}")
        return wrong, done, now != before


def contender(environ, seed, rounds, barrier, results):
    """The body of a process that races: in each round it picks a change that is possible, judges it, and tries it."""
    os.environ |= environ
    chance = random.Random(seed)
    with Registry.open(State.from_environment()) as registry:
        for _ in range(rounds):
            number, to = _possible(registry, chance)
            barrier.wait()
            try:
                act(registry, number, to)
                results.put(("done", to))
            except PolarscoreError as error:
                results.put(("refused", str(error)))
            except Exception as error:  # whatever it is, the race must not hang on it
                results.put(("broken", repr(error)))
            barrier.wait()


def _possible(registry, chance):
    stages = stages_of(registry.history.moves("mail"))
    numbers = [version.version for version in registry.versions.list("mail")]
    choices = [(number, to) for number in numbers for to in STAGES
               if _is_way(number, stages.get(number, "candidate"), to)]
    choices += [(0, "back")] * (PRODUCTION in stages.values())
    return chance.choice(choices)


def _is_way(number, stage, to):
    try:
        check_way("mail", number, stage, to)
    except InputError:
        return False
    return True


def race(context, state, rounds, contenders=8, seed=0):
    """Rounds of processes that change stages at once. Returns what was wrong after any of them, and what they said."""
    barrier, results = context.Barrier(contenders + 1), context.Queue()
    racing = [context.Process(target=contender, args=(environment(state), f"{seed} {place}", rounds, barrier, results))
              for place in range(contenders)]
    for process in racing:
        process.start()
    wrong, said = [], Counter()
    with Registry.open(state) as registry:
        for number in range(rounds):
            before = registry.history.count("mail")
            barrier.wait()
            barrier.wait()
            outcomes = [results.get() for _ in range(contenders)]
            said.update(f"{how} {what}" if how == "done" else how for how, what in outcomes)
            wrong += [f"round {number}: {what}" for how, what in outcomes if how == "broken"]
            entries = registry.history.entries("mail")
            if len(entries) - before != sum(how == "done" for how, _ in outcomes):
                wrong.append(f"round {number}: {len(entries) - before} entries for {outcomes}")
            held = {name: version for name, version in registry.versions.aliases("mail").items() if name in SINGLE}
            if held != holders(entries):
                wrong.append(f"round {number}: aliases {held}, and the log says {holders(entries)}")
            wrong += [f"round {number}: {finding.what}" for finding in verify(registry, "mail")]
    for process in racing:
        process.join()
    return wrong, said
