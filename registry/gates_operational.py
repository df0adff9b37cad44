"""Gates on what runs: does the version load, is it complete, is its bundle quick and small enough? Pure."""

from registry.gate_config import Latency, Margins, Memory, Transition
from registry.gate_facts import FAIL, PASS, UNKNOWN, Facts, Gate

SHOWN = 3  # names in a reason
UNTRIED = "the version was not tried out"
UNMEASURED = "no running bundle was measured"


def loads(facts: Facts, margins: Margins, way: Transition) -> Gate:
    """MLflow loads it with pickle off, and none of its files is a pickle."""
    found = facts.operation
    if found is None:
        return Gate("loads", UNKNOWN, UNTRIED)
    if found.pickles:
        return Gate("loads", FAIL, f"a pickle is among its files: {_some(found.pickles)}")
    if found.load_error is not None:
        return Gate("loads", FAIL, f"MLflow cannot load it with pickle off: {found.load_error}")
    return Gate("loads", PASS, "MLflow loads it with pickle off")


def reload(facts: Facts, margins: Margins, way: Transition) -> Gate:
    """Two loads score the stored example identically. candidate: how many cells differ."""
    found = facts.operation
    if found is None:
        return Gate("reload", UNKNOWN, UNTRIED)
    if found.load_error is not None:
        return Gate("reload", FAIL, f"MLflow cannot load it with pickle off: {found.load_error}")
    if found.score_error is not None:
        return Gate("reload", FAIL, f"it cannot score its own example: {found.score_error}")
    if found.differing is None:
        return Gate("reload", UNKNOWN, "no example is stored with it")
    if found.differing:
        return Gate("reload", FAIL, f"loaded twice, it scores its own example differently in {found.differing} cells",
                    float(found.differing))
    return Gate("reload", PASS, "loaded twice, it scores its own example identically", 0.0)


def signature(facts: Facts, margins: Margins, way: Transition) -> Gate:
    """It says what it takes and gives."""
    if facts.operation is None:
        return Gate("signature", UNKNOWN, UNTRIED)
    if not facts.operation.signature:
        return Gate("signature", FAIL, "it has no MLflow signature of what it takes and gives")
    return Gate("signature", PASS, "it says what it takes and gives")


def requirements(facts: Facts, margins: Margins, way: Transition) -> Gate:
    """It names its packages, each at one version. candidate: how many are at none."""
    if facts.operation is None:
        return Gate("requirements", UNKNOWN, UNTRIED)
    lines = facts.operation.requirements
    if not lines:
        return Gate("requirements", FAIL, "it does not name the packages that it needs")
    loose = tuple(line for line in lines if not pinned(line))
    if loose:
        return Gate("requirements", FAIL, f"{len(loose)} of its {len(lines)} packages are not pinned: {_some(loose)}",
                    float(len(loose)))
    return Gate("requirements", PASS, f"all {len(lines)} packages are pinned", 0.0)


def latency(facts: Facts, margins: Latency, way: Transition) -> Gate:
    """How long the bundle takes for 19 of 20 requests. candidate: for one item, in ms."""
    found = facts.measured
    if found is None:
        return Gate("latency", UNKNOWN, UNMEASURED)
    words = (f"19 of 20 requests are answered within {found.latency_one_ms:.1f} ms with one item, "
             f"within {found.latency_batch_ms:.1f} ms with 32")
    over = [f"{limit:g} ms for {what}" for limit, value, what in (
        (margins.one_ms, found.latency_one_ms, "one"), (margins.batch_ms, found.latency_batch_ms, "32"),
    ) if limit is not None and not value <= limit]
    if over:
        return Gate("latency", FAIL, f"{words}: more than {' and '.join(over)}", found.latency_one_ms)
    return Gate("latency", PASS, words, found.latency_one_ms)


def memory(facts: Facts, margins: Memory, way: Transition) -> Gate:
    """What the bundle's processes take together, in MiB."""
    if facts.measured is None:
        return Gate("memory", UNKNOWN, UNMEASURED)
    taken = facts.measured.memory_mib
    words = f"its processes take {taken:.0f} MiB"
    if not taken <= margins.mib:
        return Gate("memory", FAIL, f"{words}: more than {margins.mib:g}", taken)
    return Gate("memory", PASS, words, taken)


def pinned(requirement: str) -> bool:
    """Whether a line of pip requirements names one version: `name==1.2`, or a file by its hash."""
    from packaging.requirements import InvalidRequirement, Requirement

    if "--hash=" in requirement:
        return True
    try:
        found = list(Requirement(requirement).specifier)
    except InvalidRequirement:
        return False
    return any(each.operator in ("==", "===") and not each.version.endswith(".*") for each in found)


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
