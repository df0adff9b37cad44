"""Gates: may a version go on to a stage? Decided from facts and from the margins of `gates.toml`. Pure.

Each gate passes, fails, or is unknown because what it needs is not there. A failure refuses; whether an unknown one
does is configuration.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from registry import gates_labelled, gates_operational, gates_unlabelled
from registry.gate_config import Transition
from registry.gate_facts import FAIL, PASS, UNKNOWN, Compared, Facts, Gate, Measured, Operation, Seen

__all__ = ["FAIL", "GATES", "PASS", "UNKNOWN", "Compared", "Decision", "Facts", "Gate", "Measured", "Operation", "Seen",
           "decide", "together"]

Rule = Callable[[Facts, Any, Transition], Gate]
"""The facts, the gate's own margins, and the transition that it stands in."""

GATES: dict[str, Rule] = {
    "sound": gates_unlabelled.sound,
    "agreement": gates_unlabelled.agreement,
    "drift": gates_unlabelled.drift,
    "coverage": gates_unlabelled.coverage,
    "single_source": gates_unlabelled.single_source,
    "ece": gates_labelled.ece,
    "auroc": gates_labelled.auroc,
    "aurc": gates_labelled.aurc,
    "loads": gates_operational.loads,
    "reload": gates_operational.reload,
    "signature": gates_operational.signature,
    "requirements": gates_operational.requirements,
    "latency": gates_operational.latency,
    "memory": gates_operational.memory,
}

_GRAVITY = (PASS, UNKNOWN, FAIL)


@dataclass(frozen=True)
class Decision:
    """All gates' findings. unknown_blocks: the names of those that refuse, too, if they cannot be judged."""

    gates: tuple[Gate, ...]
    unknown_blocks: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether no gate refuses."""
        return not self.refusing

    @property
    def refusing(self) -> tuple[Gate, ...]:
        """The gates that failed, or that cannot be judged where that blocks."""
        return tuple(gate for gate in self.gates if gate.state == FAIL
                     or (gate.state == UNKNOWN and gate.name in self.unknown_blocks))

    @property
    def refusal(self) -> str:
        """Why not, in one line."""
        return "; ".join(f"{gate.name}: {gate.reason}" if gate.state == FAIL else
                         f"{gate.name}, which cannot be judged and therefore blocks: {gate.reason}"
                         for gate in self.refusing)


def decide(facts: Facts, way: Transition) -> Decision:
    """Judge a candidate by the gates that stand in a transition."""
    standing = way.gates.standing
    return Decision(tuple(GATES[name](facts, margins, way) for name, margins in standing.items()),
                    tuple(name for name in standing if way.blocks(name)))


def together(first: Decision, then: Decision) -> Decision:
    """Two transitions at once: every gate of either, by its graver finding; of two alike, by the second one's."""
    found: dict[str, Gate] = {}
    blocks: dict[str, bool] = {}
    for decision in (first, then):
        for gate in decision.gates:
            name, held = gate.name, gate.name in decision.unknown_blocks
            before = found.get(name)
            if before is None or _grave(gate, held) >= _grave(before, blocks[name]):
                found[name], blocks[name] = gate, held
    order = [name for name in GATES if name in found]
    return Decision(tuple(found[name] for name in order), tuple(name for name in order if blocks[name]))


def _grave(gate: Gate, blocks: bool) -> tuple[bool, int]:
    return (gate.state == FAIL or (gate.state == UNKNOWN and blocks), _GRAVITY.index(gate.state))
