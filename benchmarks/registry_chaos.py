"""Processes killed in the middle of promotions, and eight at a time that race: what is left of the registry?

    python benchmarks/registry_chaos.py [--kills 200] [--races 100] [--database sqlite|postgresql]

A promotion goes through a real MLflow store with evidence and signatures; only what the gates would say is made up.
With `postgresql`, MLflow's store and the log are two databases of a PostgreSQL server that is started for it. Half of
the kills fall before a certain write or commit, one after the other; half at random moments. After each, the registry
must be in the old state or in the new one once `verify --repair` has run, and whole. After each round of a race,
whole without repair. Prints what happened, and exits with 1 if anything was wrong.
"""

import argparse
import logging
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from registry.opening import Registry
from registry.stages import stages_of
from tests import chaos, registries, servers

VERSIONS = 12
EACH = 25  # kills or rounds on a registry, before another one is made: to verify a long log takes long


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--races", type=int, default=100, help="rounds, of eight processes each")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    wrong = []
    for name, part, times in (("kills", kills, options.kills), ("races", races, options.races)):
        began, found, outcomes = time.monotonic(), [], Counter()
        for start in range(0, times, EACH):
            with ExitStack() as stack:
                state = prepared(stack, options.database)
                more, others = part(state, range(start, min(times, start + EACH)), options.seed + start)
                found += more
                outcomes += others
            if found:
                break
        if times:
            print(f"{options.database}, {times} {name}, {time.monotonic() - began:.0f} s:")
            for outcome, count in outcomes.most_common():
                print(f"  {count:5}  {outcome}")
            print(f"  wrong: {len(found)}", flush=True)
            for line in found:
                print(f"    {line}")
        wrong += found
    return 1 if wrong else 0


def prepared(stack, database):
    """A state of its own: version 1 in production, 2 in staging, the others candidates."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="polarscore-chaos-")))
    environment = {"POLARSCORE_KEYS": str(folder / "keys")}
    if database == "postgresql":
        cluster = stack.enter_context(servers.postgres())
        tracking, log = (stack.enter_context(cluster.database()) for _ in range(2))
        environment |= {"MLFLOW_TRACKING_URI": tracking.replace("postgresql:", "postgresql+psycopg:"),
                        "POLARSCORE_DATABASE_URL": log}
    state = registries.template(folder / "state", VERSIONS, environment)
    with Registry.open(state) as registry:
        registries.move(registry, 1, "production")
        registries.move(registry, 2, "staging")
    return state


def kills(state, trials, seed):
    """Kill a process that promotes a candidate to production: before one of its steps after another, and at random."""
    context, chance = chaos.processes(), random.Random(seed)
    wrong, outcomes, step = [], Counter(), trials.start // 2
    with Registry.open(state) as registry:
        number = candidate(registry)
    chaos.run(context, state, number, "archived")  # the first process waits for the server that forks them
    with Registry.open(state) as registry:
        number = candidate(registry)
    code, seconds = chaos.run(context, state, number, "production")
    if code != 0:
        return [f"the promotion that nobody killed ended with {code}"], outcomes
    for trial in trials:
        with Registry.open(state) as registry:
            number = candidate(registry)
            before = chaos.situation(registry)
        if trial % 2:
            how = {"kill_after": chance.uniform(0.1, 0.95) * seconds}
        else:
            step += 1
            how = {"kill_at": step}
        code, _ = chaos.run(context, state, number, "production", **how)
        if code == 0 and "kill_at" in how:
            step = 0  # that was beyond the last step: begin again
        found, done, changed = chaos.after_a_kill(state, before, number, "production")
        wrong += [f"kill {trial}, {how}: {what}" for what in found]
        what = f"{done[0].split(' change')[0]} change" if done else "nothing to repair"
        outcomes[f"{'killed' if code == chaos.KILLED else 'came through'}, {what}, "
                 f"{'the new' if changed else 'the old'} state"] += 1
    return wrong, outcomes


def races(state, rounds, seed):
    """Eight processes that change stages at once."""
    return chaos.race(chaos.processes(), state, len(rounds), contenders=8, seed=seed)


def candidate(registry):
    """A version that is a candidate; those that were archived are made candidates again when there is none."""
    stages = stages_of(registry.history.moves("mail"))
    free = [number for number in range(1, VERSIONS + 1) if stages.get(number, "candidate") == "candidate"]
    if not free:
        free = [number for number, stage in stages.items() if stage == "archived"]
        for number in free:
            registries.move(registry, number, "candidate")
    return free[0]


if __name__ == "__main__":
    sys.exit(main())
