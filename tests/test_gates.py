import numpy as np
import pytest

from registry.gates import FAIL, PASS, UNKNOWN, Compared, Gates, decide

RISK = np.random.default_rng(0).random(600)
ERROR = (np.random.default_rng(1).random(600) < RISK).astype(float)


def states(decision):
    return {gate.name: gate.state for gate in decision.gates}


def test_a_sound_candidate_without_a_champion_passes_with_its_own_figures():
    decision = decide(Compared(RISK, None, ERROR))
    assert decision.allowed and decision.refusal == ""
    assert states(decision) == {"sound": PASS, "ece": PASS, "auroc": PASS, "aurc": PASS}
    assert all(gate.candidate is not None and gate.champion is None for gate in decision.gates[1:])


def test_the_same_version_again_passes():
    assert set(states(decide(Compared(RISK, RISK, ERROR))).values()) == {PASS}


@pytest.mark.parametrize(("candidate", "gate"), [
    (np.clip(RISK + 0.3, 0, 1), "ece"),
    (np.random.default_rng(2).permutation(RISK), "auroc"),
    (1 - RISK, "aurc"),
])
def test_a_worse_candidate_is_refused_in_words(candidate, gate):
    decision = decide(Compared(candidate, RISK, ERROR))
    assert not decision.allowed and states(decision)[gate] == FAIL
    found = next(found for found in decision.gates if found.name == gate)
    assert f"{gate}: {found.candidate:.3f} beside {found.champion:.3f} of the champion" in decision.refusal
    assert "on the same 600 labelled answers" in decision.refusal and "\n" not in decision.refusal


def test_a_better_candidate_passes():
    assert decide(Compared(RISK, np.clip(RISK + 0.3, 0, 1), ERROR)).allowed


def test_what_is_within_margin_and_noise_is_tolerated():
    worse = np.clip(RISK + 0.02, 0, 1)
    assert decide(Compared(worse, RISK, ERROR)).allowed
    strict = Gates(ece=0.0, auroc=0.0, aurc=0.0)
    few = slice(0, 40)  # on 40 answers, chance alone makes such a difference
    noisy = np.clip(RISK + np.random.default_rng(3).normal(0, 0.01, 600), 0, 1)
    assert decide(Compared(noisy[few], RISK[few], ERROR[few]), strict).allowed


def test_the_margins_are_what_refuses():
    worse = np.clip(RISK + 0.1, 0, 1)
    assert states(decide(Compared(worse, RISK, ERROR)))["ece"] == FAIL
    assert states(decide(Compared(worse, RISK, ERROR), Gates(ece=0.5)))["ece"] == PASS


@pytest.mark.parametrize(("risk", "reason"), [
    (np.where(np.arange(600) == 3, np.nan, RISK), "0.2% of the risks are no numbers"),
    (np.full(600, 0.25), "every answer has the same risk, 0.250"),
    (np.empty(0), "there is no answer to judge it by"),
])
@pytest.mark.parametrize("labelled", [True, False])
def test_an_unsound_candidate_is_refused_with_or_without_labels(risk, reason, labelled):
    error = (ERROR if labelled else np.full(600, np.nan))[:len(risk)]
    decision = decide(Compared(risk, None, error))
    assert not decision.allowed and decision.refusal == f"sound: {reason}"


@pytest.mark.parametrize("labelled", [0, 29])
def test_without_enough_labels_nothing_is_known_and_nothing_blocked(labelled):
    error = np.where(np.arange(600) < labelled, ERROR, np.nan)
    decision = decide(Compared(1 - RISK, RISK, error))
    assert decision.allowed
    assert states(decision) == {"sound": PASS, "ece": UNKNOWN, "auroc": UNKNOWN, "aurc": UNKNOWN}
    assert decision.gates[1].reason == f"{labelled} labelled answers, 30 needed"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_feedback_of_one_kind_leaves_auroc_unknown(value):
    decision = decide(Compared(RISK, RISK, np.full(600, value)))
    assert decision.allowed and states(decision)["auroc"] == UNKNOWN


def test_only_labelled_answers_count_and_their_order_does_not():
    mask = np.arange(600) < 300
    padded = decide(Compared(RISK, 1 - RISK, np.where(mask, ERROR, np.nan)))
    cut = decide(Compared(RISK[mask], (1 - RISK)[mask], ERROR[mask]))
    turned = decide(Compared(RISK[mask][::-1], (1 - RISK)[mask][::-1], ERROR[mask][::-1]))
    for one, two, three in zip(padded.gates[1:], cut.gates[1:], turned.gates[1:], strict=True):
        assert (one.state, one.candidate, one.champion) == (two.state, two.candidate, two.champion)
        assert (three.candidate, three.champion) == pytest.approx((two.candidate, two.champion))


def test_a_decision_is_the_same_each_time():
    rows = Compared(np.clip(RISK + 0.05, 0, 1), RISK, ERROR)
    assert decide(rows) == decide(rows)
