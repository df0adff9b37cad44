import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import Thresholds
from serving.policy import decide, policy_of
from serving.schema import Policy
from training.audit_result import Guarantee

NONE = Thresholds()
risks = st.lists(st.floats(0, 1) | st.just(math.nan), max_size=30).map(lambda found: np.array(found, dtype=np.float64))
thresholds = st.tuples(st.none() | st.floats(0, 1), st.none() | st.floats(0, 1)).filter(
    lambda pair: None in pair or pair[0] <= pair[1]).map(lambda pair: Thresholds(accept=pair[0], review=pair[1]))
guarantees = st.none() | st.builds(
    lambda threshold: guarantee(threshold), st.none() | st.floats(0, 1))


def guarantee(threshold, alpha=0.05, delta=0.1):
    return Guarantee(alpha, delta, threshold, 0.5, 0.04, 60, "words")


def decisions(policy, *values):
    return decide(policy, np.array(values, dtype=np.float64))


def test_without_a_guarantee_the_risk_itself_decides():
    policy = policy_of(None, NONE)
    assert policy == Policy(accept=0.1, review=0.5, basis="risk", alpha=0.1, confidence=None)
    assert decisions(policy, 0, 0.1, 0.11, 0.49, 0.5, 1, math.nan) == [
        "accept", "accept", "ask again", "ask again", "review", "review", "ask again"]


def test_a_guarantee_says_what_is_accepted():
    policy = policy_of(guarantee(0.23), NONE)
    assert policy == Policy(accept=0.23, review=0.5, basis="guarantee", alpha=0.05, confidence=0.9)
    assert decisions(policy, 0.23, 0.24) == ["accept", "ask again"]


def test_without_a_threshold_to_promise_nothing_is_accepted():
    policy = policy_of(guarantee(None), NONE)
    assert (policy.accept, policy.basis) == (None, "guarantee")
    assert decisions(policy, 0, 0.49, 0.5) == ["ask again", "ask again", "review"]


def test_the_configuration_comes_first_and_promises_nothing():
    policy = policy_of(guarantee(0.23), Thresholds(accept=0.4, review=0.4))
    assert policy == Policy(accept=0.4, review=0.4, basis="configured", alpha=None, confidence=None)
    assert decisions(policy, 0.4, 0.41) == ["accept", "review"]


def test_a_high_threshold_moves_review_up_and_a_low_configured_review_moves_it_down():
    assert policy_of(guarantee(0.7), NONE).review == 0.7
    assert policy_of(None, Thresholds(accept=0.8)).review == 0.8
    assert policy_of(guarantee(0.2), Thresholds(review=0.9)).basis == "guarantee"
    assert policy_of(guarantee(0.2), Thresholds(review=0.05)) == Policy(
        accept=0.05, review=0.05, basis="configured", alpha=None, confidence=None)


@given(risks, guarantees, thresholds)
def test_decisions_follow_the_order_of_the_risks(risk, promised, configured):
    policy = policy_of(promised, configured)
    assert policy.accept is None or policy.accept <= policy.review
    found = decide(policy, risk)
    assert len(found) == len(risk)
    ranks = [("accept", "ask again", "review").index(decision) for decision in found]
    told = [(value, rank) for value, rank in zip(risk, ranks, strict=True) if not math.isnan(value)]
    assert [rank for _, rank in sorted(told)] == sorted(rank for _, rank in told)
    assert all(decision == "ask again" for decision, value in zip(found, risk, strict=True) if math.isnan(value))
    assert all(value <= policy.accept for value, rank in told if rank == 0)


@pytest.mark.parametrize("promised", [None, guarantee(0.3), guarantee(None)])
def test_risks_may_be_none_at_all(promised):
    assert decisions(policy_of(promised, NONE)) == []
