from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.gate_config import GateConfig, Named, Transition, read_gates
from registry.gates import (
    FAIL,
    GATES,
    PASS,
    UNKNOWN,
    Compared,
    Decision,
    Facts,
    Gate,
    Measured,
    Operation,
    Seen,
    decide,
    together,
)
from registry.gates_labelled import ece_interval
from registry.gates_operational import pinned
from training.calibration import ece

RISK = np.random.default_rng(0).random(600)
ERROR = (np.random.default_rng(1).random(600) < RISK).astype(float)
SEEN = Seen(agreement=0.7, coverage=0.9, sources=("a", "b"), decided_alone=np.zeros((600, 2), dtype=bool))
FINE = Operation(differing=0, signature=True, requirements=("torch==2.13.0", "numpy==2.4.6"))
QUICK = Measured(latency_one_ms=20.0, latency_batch_ms=200.0, memory_mib=900.0, start_s=5.0)
FACTS = Facts(Compared(RISK, RISK, ERROR), SEEN, SEEN, FINE, QUICK)
DEFAULT = read_gates().production
LABELLED = {name: {"margin": 0.02} for name in ("ece", "auroc", "aurc")}


def way(gates, **keys):
    return Transition.model_validate({"gates": gates, **keys})


def judged(facts, name, margins=None, **keys):
    (gate,) = decide(facts, way({name: margins or {}}, **keys)).gates
    return gate


def compared(candidate, champion, error=ERROR):
    return replace(FACTS, rows=Compared(candidate, champion, error))


def states(decision):
    return {gate.name: gate.state for gate in decision.gates}


def test_every_gate_of_the_file_has_a_rule_in_the_same_order():
    assert list(GATES) == list(Named.model_fields)


def test_the_same_version_again_passes_every_gate():
    decision = decide(FACTS, DEFAULT)
    assert states(decision) == dict.fromkeys(GATES, PASS)
    assert decision.allowed and decision.refusal == "" and decision.refusing == ()


def test_a_first_version_passes_every_gate_with_its_own_figures():
    decision = decide(replace(compared(RISK, None), champion=None), DEFAULT)
    assert states(decision) == dict.fromkeys(GATES, PASS)
    assert all(gate.champion is None for gate in decision.gates)
    assert all(gate.candidate is not None for gate in decision.gates if gate.name in LABELLED)
    assert "no version to compare with yet" in decision.gates[1].reason


@pytest.mark.parametrize("stage", ["staging", "production"])
def test_where_nothing_is_known_nothing_is_known_and_by_default_nothing_blocked(stage):
    decision = decide(Facts(no_rows="the task is gone"), getattr(read_gates(), stage))
    assert set(states(decision).values()) == {UNKNOWN} and decision.allowed
    assert decision.gates[0].reason == "the task is gone"


def test_a_gate_that_does_not_stand_there_is_not_asked():
    assert decide(Facts(), Transition()).gates == ()
    assert [gate.name for gate in decide(FACTS, way({"memory": {"mib": 1}, "sound": {}})).gates] == ["sound", "memory"]


def test_whether_unknown_blocks_is_for_the_transition_and_then_for_the_gate():
    gates = {"sound": {}, "loads": {"unknown": "pass"}, "reload": {"unknown": "block"}}
    blocking = decide(Facts(), way(gates, unknown="block"))
    assert blocking.unknown_blocks == ("sound", "reload") and not blocking.allowed
    assert [gate.name for gate in blocking.refusing] == ["sound", "reload"]
    assert blocking.refusal == ("sound, which cannot be judged and therefore blocks: there is no answer to judge it by"
                                "; reload, which cannot be judged and therefore blocks: the version was not tried out")
    assert decide(Facts(), way(gates)).unknown_blocks == ("reload",)
    assert decide(FACTS, way(gates, unknown="block")).allowed


@pytest.mark.parametrize(("candidate", "name"), [
    (np.clip(RISK + 0.3, 0, 1), "ece"),
    (np.random.default_rng(2).permutation(RISK), "auroc"),
    (1 - RISK, "aurc"),
])
def test_a_worse_candidate_is_refused_in_words(candidate, name):
    decision = decide(compared(candidate, RISK), way(LABELLED))
    assert not decision.allowed and states(decision)[name] == FAIL
    found = next(found for found in decision.gates if found.name == name)
    assert f"{name}: {found.candidate:.3f}" in decision.refusal
    assert f"beside {found.champion:.3f} of the champion" in decision.refusal
    assert "on the same 600 labelled answers" in decision.refusal and "\n" not in decision.refusal


def test_a_better_candidate_passes():
    assert decide(compared(RISK, np.clip(RISK + 0.3, 0, 1)), way(LABELLED)).allowed


def test_what_is_within_margin_and_noise_is_tolerated():
    worse = np.clip(RISK + 0.02, 0, 1)
    assert decide(compared(worse, RISK), way(LABELLED)).allowed
    strict = way({name: {"margin": 0} for name in LABELLED})
    few = slice(0, 40)  # on 40 answers, chance alone makes such a difference
    noisy = np.clip(RISK + np.random.default_rng(3).normal(0, 0.01, 600), 0, 1)
    assert decide(compared(noisy[few], RISK[few], ERROR[few]), strict).allowed


def test_the_margins_are_what_refuses():
    worse = compared(np.clip(RISK + 0.1, 0, 1), RISK)
    assert judged(worse, "ece", {"margin": 0.02}).state == FAIL
    assert judged(worse, "ece", {"margin": 0.5}).state == PASS


@pytest.mark.parametrize("champion", [None, RISK, 1 - RISK])
def test_a_limit_on_the_calibration_holds_with_a_champion_or_without(champion):
    high = np.clip(RISK + 0.3, 0, 1)
    found = judged(compared(high, champion), "ece", {"margin": 1, "limit": 0.1})
    assert found.state == FAIL and "more than the limit of 0.100" in found.reason
    assert judged(compared(high, champion), "ece", {"margin": 1, "limit": 0.9}).state == PASS


def test_the_calibration_is_shown_with_its_interval():
    found = judged(FACTS, "ece", {"margin": 0.02})
    low, high = ece_interval(RISK, ERROR)
    assert 0 <= low < found.candidate < high <= 1
    assert f"{found.candidate:.3f} (90% interval {low:.3f} to {high:.3f})" in found.reason


@given(st.integers(1, 80), st.integers(0, 2**31))
def test_the_interval_holds_the_figure_and_stays_a_share(n, seed):
    draw = np.random.default_rng(seed)
    risk, error = draw.random(n), draw.integers(0, 2, n).astype(float)
    low, high = ece_interval(risk, error)
    assert 0 <= low <= ece(risk, error) + 1e-12 and ece(risk, error) <= high + 1e-12 <= 1 + 1e-9
    wider = ece_interval(risk, error, 0.99)
    assert wider[0] <= low and high <= wider[1]


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.25])
def test_the_interval_mostly_holds_the_truth(shift):
    draw = np.random.default_rng(4)

    def rows(n):
        risk = draw.beta(1.2, 4, n)
        return risk, (draw.random(n) < np.clip(risk - shift, 0, 1)).astype(float)

    truth = ece(*rows(200_000))
    held = [low <= truth <= high for low, high in (ece_interval(*rows(200)) for _ in range(60))]
    assert np.mean(held) >= 0.85


@pytest.mark.parametrize(("risk", "reason"), [
    (np.where(np.arange(600) == 3, np.nan, RISK), "0.2% of the risks are no numbers"),
    (np.full(600, np.nan), "100.0% of the risks are no numbers"),
    (np.full(600, 0.25), "every answer has the same risk, 0.250"),
])
@pytest.mark.parametrize("labelled", [True, False])
def test_an_unsound_candidate_is_refused_with_or_without_labels(risk, reason, labelled):
    facts = replace(compared(risk, None, ERROR if labelled else np.full(600, np.nan)), champion=None)
    decision = decide(facts, DEFAULT)
    assert not decision.allowed and decision.refusal == f"sound: {reason}"


def test_some_risks_that_are_no_numbers_can_be_allowed_and_are_left_out():
    some = np.where(np.arange(600) < 60, np.nan, RISK)
    assert judged(compared(some, RISK), "sound", {"nan_share": 0.1}).state == PASS
    assert judged(compared(some, RISK), "sound", {"nan_share": 0.09}).state == FAIL
    assert judged(compared(np.full(600, np.nan), RISK), "sound", {"nan_share": 1.0}).state == FAIL
    rest = judged(compared(RISK[60:], RISK[60:], ERROR[60:]), "ece", {"margin": 0})
    assert judged(compared(some, RISK), "ece", {"margin": 0}) == rest
    assert judged(compared(RISK, some), "drift", {"maximum": 0}).state == PASS


def test_without_an_answer_there_is_nothing_to_judge_by():
    none = np.empty(0)
    nothing = replace(compared(none, none, none), candidate=replace(SEEN, agreement=None, coverage=None,
                                                                    decided_alone=np.empty((0, 2), dtype=bool)))
    found = decide(nothing, DEFAULT).gates[:8]
    assert {gate.state for gate in found} == {UNKNOWN}


@pytest.mark.parametrize("labelled", [0, 29])
def test_without_enough_labels_the_labelled_gates_are_unknown(labelled):
    error = np.where(np.arange(600) < labelled, ERROR, np.nan)
    decision = decide(compared(1 - RISK, RISK, error), way(LABELLED))
    assert decision.allowed and set(states(decision).values()) == {UNKNOWN}
    assert decision.gates[0].reason == f"{labelled} labelled answers, 30 needed"
    assert judged(compared(RISK, RISK, error), "aurc", {"margin": 0}, min_labelled=max(labelled, 1)).state == (
        PASS if labelled else UNKNOWN)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_errors_of_one_kind_leave_auroc_unknown(value):
    assert judged(compared(RISK, RISK, np.full(600, value)), "auroc", {"margin": 0}).state == UNKNOWN


def test_only_labelled_answers_count_and_their_order_does_not():
    mask = np.arange(600) < 300
    padded = decide(compared(RISK, 1 - RISK, np.where(mask, ERROR, np.nan)), way(LABELLED))
    cut = decide(compared(RISK[mask], (1 - RISK)[mask], ERROR[mask]), way(LABELLED))
    turned = decide(compared(RISK[mask][::-1], (1 - RISK)[mask][::-1], ERROR[mask][::-1]), way(LABELLED))
    for one, two, three in zip(padded.gates, cut.gates, turned.gates, strict=True):
        assert (one.state, one.candidate, one.champion) == (two.state, two.candidate, two.champion)
        assert (three.candidate, three.champion) == pytest.approx((two.candidate, two.champion))


def test_a_decision_is_the_same_each_time():
    facts = compared(np.clip(RISK + 0.05, 0, 1), RISK)
    assert decide(facts, DEFAULT) == decide(facts, DEFAULT)


@pytest.mark.parametrize(("name", "field"), [("agreement", "agreement"), ("coverage", "coverage")])
def test_what_the_champion_saw_and_the_candidate_does_not_is_refused(name, field):
    margins = {"drop": 0.05} | ({"minimum": 0.5} if name == "coverage" else {})
    for own, state in ((0.66, PASS), (0.64, FAIL), (0.9, PASS)):
        facts = replace(FACTS, candidate=replace(SEEN, **{field: own}), champion=replace(SEEN, **{field: 0.7}))
        found = judged(facts, name, margins)
        assert (found.state, found.candidate, found.champion) == (state, own, 0.7)
    assert "6.0% fewer, more than 5.0%" in judged(
        replace(FACTS, candidate=replace(SEEN, **{field: 0.64}), champion=replace(SEEN, **{field: 0.7})), name,
        margins).reason


def test_a_source_must_vote_on_enough_rows_whatever_the_champion():
    thin = replace(FACTS, candidate=replace(SEEN, coverage=0.04), champion=None)
    found = judged(thin, "coverage", {"minimum": 0.05})
    assert found.state == FAIL and found.reason == "a source votes on 4.0% of the rows: fewer than 5.0%"
    assert judged(thin, "coverage", {"minimum": 0.04}).state == PASS


def test_drift_is_the_mean_distance_on_the_same_rows():
    moved = compared(np.array([0.2, 0.4, 0.9]), np.array([0.1, 0.6, 0.9]), np.full(3, np.nan))
    found = judged(moved, "drift", {"maximum": 0.1})
    assert found.state == PASS and found.candidate == pytest.approx(0.1)
    assert "moves by 0.100 on average, from a mean of 0.533 to 0.500" in found.reason
    assert "Kolmogorov-Smirnov distance 0.333" in found.reason
    assert judged(moved, "drift", {"maximum": 0.099}).state == FAIL


@given(st.integers(2, 60), st.integers(0, 2**31))
def test_drift_is_symmetric_and_none_from_oneself(n, seed):
    draw = np.random.default_rng(seed)
    one, other, error = draw.random(n), draw.random(n), np.full(n, np.nan)
    there, back = (judged(compared(a, b, error), "drift", {"maximum": 1}).candidate
                   for a, b in ((one, other), (other, one)))
    assert there == pytest.approx(back) and 0 <= there <= 1
    assert judged(compared(one, one, error), "drift", {"maximum": 0}).candidate == 0


def test_no_source_may_decide_alone_too_often():
    alone = np.zeros((10, 2), dtype=bool)
    alone[:3, 1] = alone[3:4, 0] = True
    facts = replace(FACTS, candidate=replace(SEEN, decided_alone=alone))
    found = judged(facts, "single_source", {"maximum": 0.4})
    assert (found.state, found.candidate) == (PASS, 0.4)
    assert "on 40.0% of the answers" in found.reason and "most often 'b', on 30.0%" in found.reason
    assert judged(facts, "single_source", {"maximum": 0.39}).state == FAIL


@pytest.mark.parametrize(("sources", "reason"), [(("a",), "one source only"), ((), "has no source")])
def test_of_a_single_source_nothing_can_be_told(sources, reason):
    facts = replace(FACTS, candidate=replace(SEEN, sources=sources, decided_alone=None))
    found = judged(facts, "single_source", {"maximum": 0})
    assert found.state == UNKNOWN and reason in found.reason


def test_a_champion_that_cannot_be_judged_leaves_unknown_what_needs_it_and_no_more():
    facts = replace(compared(RISK, None), champion=None, no_champion="the champion has other classes")
    found = decide(facts, way({"sound": {}, "agreement": {"drop": 0}, "drift": {"maximum": 0},
                               "coverage": {"minimum": 0.5, "drop": 0}, "single_source": {"maximum": 0}, **LABELLED}))
    unknown = {"agreement", "drift", "coverage", "ece", "auroc", "aurc"}
    assert {gate.name for gate in found.gates if gate.state == UNKNOWN} == unknown
    assert all("the champion has other classes" in gate.reason for gate in found.gates if gate.name in unknown)
    assert judged(facts, "coverage", {"minimum": 0.5}).state == PASS  # compares nothing


@pytest.mark.parametrize(("name", "wrong", "reason"), [
    ("loads", {"load_error": "ImportError: no module"}, "MLflow cannot load it with pickle off: ImportError: no"),
    ("loads", {"pickles": ("model.pkl", "b", "c", "d")}, "a pickle is among its files: model.pkl, b, c and 1 more"),
    ("reload", {"load_error": "ImportError"}, "MLflow cannot load it"),
    ("reload", {"differing": 2}, "scores its own example differently in 2 cells"),
    ("reload", {"score_error": "ValueError", "differing": None}, "it cannot score its own example: ValueError"),
    ("signature", {"signature": False}, "it has no MLflow signature"),
    ("requirements", {"requirements": ()}, "it does not name the packages"),
    ("requirements", {"requirements": ("torch", "numpy==2.4.6")}, "1 of its 2 packages are not pinned: torch"),
])
def test_what_does_not_run_is_refused(name, wrong, reason):
    found = judged(replace(FACTS, operation=replace(FINE, **wrong)), name)
    assert found.state == FAIL and reason in found.reason


def test_without_an_example_the_reload_is_unknown():
    found = judged(replace(FACTS, operation=replace(FINE, differing=None)), "reload")
    assert found.state == UNKNOWN and found.reason == "no example is stored with it"


@pytest.mark.parametrize(("line", "is_pinned"), [
    ("torch==2.13.0", True), ("psycopg[binary]==3.3.9", True), ("x===1", True), ("a==1 ; python_version > '3'", True),
    ("x @ file:///x.whl --hash=sha256:00", True), ("torch", False), ("torch>=2", False), ("torch==2.*", False),
    ("-r more.txt", False), ("git+https://example.org/x", False), ("x @ https://example.org/x.whl", False),
])
def test_a_pin_names_one_version(line, is_pinned):
    assert pinned(line) is is_pinned


@pytest.mark.parametrize(("name", "margins", "state", "reason"), [
    ("latency", {"one_ms": 20, "batch_ms": 200}, PASS, "within 20.0 ms with one item, within 200.0 ms with 32"),
    ("latency", {"one_ms": 19}, FAIL, "more than 19 ms for one"),
    ("latency", {"one_ms": 19, "batch_ms": 199}, FAIL, "more than 19 ms for one and 199 ms for 32"),
    ("latency", {}, PASS, "20.0 ms"),
    ("memory", {"mib": 900}, PASS, "its processes take 900 MiB"),
    ("memory", {"mib": 899.5}, FAIL, "more than 899.5"),
])
def test_a_bundle_must_be_quick_and_small_enough(name, margins, state, reason):
    found = judged(FACTS, name, margins)
    assert found.state == state and reason in found.reason
    assert judged(replace(FACTS, measured=None), name, margins).reason == "no running bundle was measured"


def test_a_figure_that_is_no_number_does_not_pass():
    lost = replace(FACTS, measured=replace(QUICK, memory_mib=float("nan"), latency_one_ms=float("nan")))
    assert judged(lost, "memory", {"mib": 1000}).state == judged(lost, "latency", {"one_ms": 100}).state == FAIL


FOUND = [(state, blocks) for state, blocks in product((PASS, UNKNOWN, FAIL), (True, False))]


@pytest.mark.parametrize(("one", "other"), list(product(FOUND, FOUND)))
def test_two_transitions_together_allow_what_both_allow(one, other):
    def decision(state, blocks, reason):
        return Decision((Gate("sound", state, reason),), ("sound",) if blocks else ())

    first, then = decision(*one, "first"), decision(*other, "then")
    both = together(first, then)
    assert len(both.gates) == 1
    assert both.allowed == (first.allowed and then.allowed)
    assert set(both.refusing) <= set(first.refusing + then.refusing)


def test_two_transitions_together_have_every_gate_once_in_order():
    one = decide(FACTS, way({"memory": {"mib": 2000}, "sound": {}, "ece": {"margin": 0.02}}))
    other = decide(FACTS, way({"ece": {"margin": 0.5}, "drift": {"maximum": 0.1}}))
    assert [gate.name for gate in together(one, other).gates] == ["sound", "drift", "ece", "memory"]
    assert together(one, one) == one and together(Decision(()), one) == one == together(one, Decision(()))


def test_figures_of_a_decision_are_numbers_or_none():
    for facts in (FACTS, Facts(), compared(np.full(600, np.nan), None)):
        for gate in decide(facts, DEFAULT).gates:
            for figure in (gate.candidate, gate.champion):
                assert figure is None or (type(figure) is float and np.isfinite(figure))


def test_an_empty_file_has_no_gate():
    assert decide(Facts(), GateConfig().production) == Decision(())
