"""Somebody changes one thing after the other behind the registry's back: what of it is found?

    python benchmarks/registry_tampering.py

Each way of `tests/tampering.py` is tried on a registry that was whole. `registry verify` must name the right thing, and
the promotion, rollback or bundling that relies on it must refuse and change nothing; the service must refuse what was
changed in the model store. Prints a table, and exits with 1 if anything was missed. Where nothing can be found, and
nothing is claimed to be, it says so.
"""

import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.table import Table

from registry.opening import Registry
from tests import tampering


def main() -> int:
    warnings.simplefilter("ignore")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    began, table, wrong = time.monotonic(), Table("tampered with", "found by"), {}
    with tempfile.TemporaryDirectory() as place:
        state = tampering.prepared(Path(place))
        for name, finder, missed in ways(state):
            tampering.restore(state)
            if found := missed():
                wrong[name] = found
            table.add_row(name, "; ".join(found) or finder)
        blind = [name for name in tampering.BLIND if not seen(state, name)]
    Console(width=140).print(table)
    print(f"found {len(table.rows) - len(wrong)} of {len(table.rows)}, {time.monotonic() - began:.0f} s")
    print("not found, and not claimed to be:", *blind, sep="\n  ")
    return 1 if wrong else 0


def ways(state):
    """All ways: in words, what should find it, and what tries it."""
    for name, way in tampering.WAYS.items():
        refused = f"; refused: {', '.join(way.relying)}" if way.relying else ""
        yield name, f"verify{refused}", lambda way=way: tampering.missed(state, way)
    for name, way in tampering.STORE.items():
        yield name, "the service's start", lambda way=way: tampering.missed_by_the_service(state, way)
    for name, (way, follows) in tampering.FOLLOWED.items():
        yield (name, "the service that follows",
               lambda way=way, follows=follows: tampering.missed_by_the_service(state, way, follows))


def seen(state, name):
    """What `verify` says of a way that it is not said to find."""
    tampering.restore(state)
    with Registry.open(state) as registry:
        tampering.BLIND[name](registry)
    with Registry.open(state) as registry:
        return tampering.findings(registry)


if __name__ == "__main__":
    sys.exit(main())
