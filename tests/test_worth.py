import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training import worth as module
from training.worth import Worth, from_beliefs, from_votes, learned_weights, posterior, refined, vote_weights

CLASSES = 3


@st.composite
def voted(draw):
    """Votes (n, m) of m families, and beliefs (n, K)."""
    n, m = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    votes = draw(arrays(np.int16, (n, m), elements=st.integers(-1, CLASSES - 1)))
    families = draw(st.lists(st.sampled_from("abc"), min_size=m, max_size=m))
    beliefs = np.random.default_rng(draw(st.integers(0, 1000))).dirichlet(np.ones(CLASSES), n)
    return votes, families, beliefs


def simulated(accuracies, n=2000, classes=CLASSES, coverage=1.0, seed=0):
    """Independent sources of known accuracy: the truth (n,), the votes (n, m), and a name a source."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, n)
    right = random.random((n, len(accuracies))) < accuracies
    votes = np.where(right, truth[:, None], (truth[:, None] + random.integers(1, classes, right.shape)) % classes)
    votes[random.random(votes.shape) >= coverage] = -1
    return truth, votes.astype(np.int16), [f"s{j}" for j in range(len(accuracies))]


def same(one, other, sources=slice(None)):
    """Whether two worths are equal, the first one's sources being taken in some order."""
    dependence = one.dependence[sources][:, sources]
    return all(map(lambda a, b: a == pytest.approx(b, abs=1e-5), *zip(
        (one.balance, other.balance), (one.precision[sources], other.precision), (dependence, other.dependence),
        (one.seen[sources], other.seen), strict=True)))


@given(voted())
def test_precisions_are_probabilities_and_dependence_is_symmetric(case):
    votes, families, beliefs = case
    first = from_votes(votes, families, CLASSES)
    for worth in (first, refined(first, votes, families, beliefs)):
        assert worth.precision.shape == (votes.shape[1], CLASSES, CLASSES)
        assert worth.precision.sum(axis=2) == pytest.approx(1.0) and (worth.precision > 0).all()
        assert worth.balance.sum() == pytest.approx(1.0) and np.isfinite(worth.evidence).all()
        assert worth.dependence == pytest.approx(worth.dependence.T)
        assert (worth.dependence >= 0).all() and (worth.dependence <= 1).all()
        assert (np.diagonal(worth.dependence) == 0).all()
        assert ((worth.accuracy > 0) & (worth.accuracy < 1)).all()


@given(voted(), st.randoms(use_true_random=False))
def test_permuting_sources_permutes_their_worth_and_weights_and_leaves_the_posterior(case, random):
    votes, families, beliefs = case
    order = random.sample(range(votes.shape[1]), votes.shape[1])
    worth = refined(from_votes(votes, families, CLASSES), votes, families, beliefs)
    moved_votes, moved_families = votes[:, order], [families[j] for j in order]
    moved = refined(from_votes(moved_votes, moved_families, CLASSES), moved_votes, moved_families, beliefs)
    assert same(worth, moved, order)
    assert posterior(moved, moved_votes, beliefs) == pytest.approx(posterior(worth, votes, beliefs), abs=1e-5)
    assert learned_weights(moved, moved_votes) == pytest.approx(learned_weights(worth, votes)[order], abs=1e-5)


@given(voted(), st.permutations(range(CLASSES)))
def test_permuting_classes_permutes_probabilities(case, new):
    votes, families, beliefs = case
    new, old = np.array(new), np.argsort(new)  # class k is called new[k]; what is k was called old[k]
    renamed = np.where(votes == -1, -1, new[votes]).astype(np.int16)
    worth = refined(from_votes(votes, families, CLASSES), votes, families, beliefs)
    moved = refined(from_votes(renamed, families, CLASSES), renamed, families, beliefs[:, old])
    assert moved.balance == pytest.approx(worth.balance[old], abs=1e-5)
    assert moved.precision == pytest.approx(worth.precision[:, old][:, :, old], abs=1e-5)
    assert posterior(moved, renamed, beliefs[:, old]) == pytest.approx(posterior(worth, votes, beliefs)[:, old],
                                                                       abs=1e-5)


@given(voted())
def test_a_source_that_never_votes_changes_nothing(case):
    votes, families, beliefs = case
    more = np.column_stack([votes, np.full(len(votes), -1, dtype=np.int16)])
    worth = refined(from_votes(votes, families, CLASSES), votes, families, beliefs)
    found = refined(from_votes(more, [*families, "new"], CLASSES), more, [*families, "new"], beliefs)
    assert same(found, worth, slice(votes.shape[1]))
    assert posterior(found, more, beliefs) == pytest.approx(posterior(worth, votes, beliefs), abs=1e-6)
    weights, before = learned_weights(found, more)[:-1], learned_weights(worth, votes)
    assert weights / weights.sum() == pytest.approx(before)


@given(voted())
def test_a_row_without_votes_keeps_its_belief_or_the_class_shares(case):
    votes, families, beliefs = case
    worth = from_votes(votes, families, CLASSES)
    silent = np.full_like(votes, -1)
    assert posterior(worth, silent, beliefs) == pytest.approx(beliefs, abs=1e-6)
    assert posterior(worth, silent) == pytest.approx(np.tile(worth.balance, (len(votes), 1)))


@given(voted())
def test_the_posterior_is_a_probability_and_depends_on_its_own_row_alone(case):
    votes, families, beliefs = case
    worth = from_votes(votes, families, CLASSES)
    found = posterior(worth, votes, beliefs)
    assert found.sum(axis=1) == pytest.approx(1.0) and (found >= 0).all()
    alone = [posterior(worth, votes[[row]], beliefs[[row]])[0] for row in range(len(votes))]
    assert found == pytest.approx(np.array(alone), abs=1e-6)


@given(voted(), st.integers(1, 5))
def test_chunks_do_not_change_the_posterior(case, chunk):
    votes, families, beliefs = case
    worth = from_votes(votes, families, CLASSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        small = posterior(worth, votes, beliefs)
    assert small == pytest.approx(posterior(worth, votes, beliefs), abs=1e-6)


@given(voted())
def test_evidence_adds_up_as_the_formula_says(case):
    votes, families, beliefs = case
    worth = from_votes(votes, families, CLASSES)
    weights = vote_weights(votes, worth.dependence)
    found = posterior(worth, votes, beliefs)
    for row, said in enumerate(votes):
        spoken = [(j, v) for j, v in enumerate(said) if v >= 0]
        logits = np.log(beliefs[row])
        for j, v in spoken:
            copies = worth.dependence**8
            group = {i: 1 + sum(copies[i, other] for other, _ in spoken) for i, _ in spoken}
            weight = 1 / (group[j] * (1 + sum((worth.dependence - copies)[j, i] / group[i] for i, _ in spoken)))
            assert weights[row, j] == pytest.approx(weight, abs=1e-6)
            logits = logits + weight * np.log(worth.precision[j, v] / worth.balance)
        assert found[row] == pytest.approx(np.exp(logits) / np.exp(logits).sum(), abs=1e-5)
    assert (weights[votes == -1] == 0).all()


VOTES = np.array([[0, 0], [0, 1], [1, -1], [1, 1]], dtype=np.int16)
BELIEFS = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.1, 0.9]])


@pytest.fixture
def by_hand(monkeypatch):
    """A prior of two votes, right in three of four; half within a family; one row together is few."""
    for name, value in {"PRIOR_PRECISION": 0.75, "PRIOR_VOTES": 2.0, "WITHIN_FAMILY": 0.5, "FEW_TOGETHER": 1.0}.items():
        monkeypatch.setattr(module, name, value)


def test_worth_of_two_sources_by_hand(by_hand):
    worth = from_beliefs(VOTES, ["a", "b"], BELIEFS, BELIEFS)
    assert worth.balance == pytest.approx([0.46, 0.54])  # (1.8 + 1/2) / (4 + 1)
    # source 0 votes 0 on rows whose beliefs add up to (1.5, 0.5); the prior there is 0.75 (1, 0) + 0.25 (0.46, 0.54)
    assert worth.seen.tolist() == [pytest.approx([2, 2]), pytest.approx([1, 2])]
    assert worth.precision == pytest.approx(np.array([
        [[(1.5 + 2 * 0.865) / 4, (0.5 + 2 * 0.135) / 4], [(0.3 + 2 * 0.115) / 4, (1.7 + 2 * 0.885) / 4]],
        [[(0.9 + 2 * 0.865) / 3, (0.1 + 2 * 0.135) / 3], [(0.7 + 2 * 0.115) / 4, (1.3 + 2 * 0.885) / 4]],
    ]))
    assert worth.accuracy == pytest.approx([(0.8075 + 0.8675) / 2, (2.63 / 3 + 2 * 0.7675) / 3])
    # they meet on three rows and agree on two. Given class 0 source 0 votes (2, 0.8)/2.8, source 1 (1.275, 1.325)/2.6;
    # given class 1 they vote (1, 2.2)/3.2 and (0.475, 1.925)/2.4
    agree = [(2 * 1.275 + 0.8 * 1.325) / 2.8 / 2.6, (1 * 0.475 + 2.2 * 1.925) / 3.2 / 2.4]
    expected = (1.6 * agree[0] + 1.4 * agree[1]) / 3
    dependence = (2 / 3 - expected) / (1 - expected) * 3 / (3 + 1)
    assert worth.dependence == pytest.approx(np.array([[0, dependence], [dependence, 0]]), abs=1e-6)
    kin = from_beliefs(VOTES, ["a", "a"], BELIEFS, BELIEFS)
    assert kin.dependence[0, 1] == pytest.approx(0.5 * 3 / 4)  # they share three rows of four


def test_posterior_of_two_sources_by_hand():
    precision = np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.9, 0.1], [0.4, 0.6]]])
    worth = Worth(np.array([0.6, 0.4]), precision, np.array([[0, 0.25], [0.25, 0]]), np.ones((2, 2)))
    found = posterior(worth, VOTES, np.tile([0.5, 0.5], (4, 1)))
    odds = np.array([(0.8 / 0.2 * 0.9 / 0.1 / 1.5**2) ** 0.8, (0.8 / 0.2 * 0.4 / 0.6 / 1.5**2) ** 0.8, 0.3 / 0.7 / 1.5,
                     (0.3 / 0.7 * 0.4 / 0.6 / 1.5**2) ** 0.8])  # 0.8 = 1 / (1 + 0.25)
    assert found[:, 0] == pytest.approx(odds / (1 + odds), abs=1e-6)
    alone = posterior(worth, VOTES)[:, 0]  # without beliefs, the class shares of 0.6 to 0.4
    assert alone == pytest.approx(1.5 * odds / (1 + 1.5 * odds), abs=1e-6)


def test_better_sources_are_believed_to_be_better():
    truth, votes, families = simulated([0.9, 0.75, 0.6, 0.45])
    worth = from_votes(votes, families, CLASSES)
    assert (np.diff(worth.accuracy) < 0).all()
    weights = learned_weights(worth, votes)
    assert weights.sum() == pytest.approx(1.0) and (weights > 0).all()
    assert weights[:3].min() > weights[3]
    majority = np.stack([(votes == k).sum(axis=1) for k in range(CLASSES)], axis=1).argmax(axis=1)
    assert (posterior(worth, votes).argmax(axis=1) == truth).mean() > (majority == truth).mean()


@pytest.mark.parametrize("times", [1, 10])
def test_copies_share_one_weight(times):
    _, votes, families = simulated([0.8, 0.7, 0.75, 0.65, 0.8])
    copied = np.column_stack([votes, *[votes[:, 2]] * times])
    names = [*families, *(f"copy{t}" for t in range(times))]
    worth = from_votes(copied, names, CLASSES)
    copies = [2, *range(5, 5 + times)]
    weights = vote_weights(copied, worth.dependence)
    assert weights[:, copies].sum(axis=1).max() < 1.3
    assert weights[:, copies].std(axis=1).max() < 0.01  # each has the same part of it
    assert worth.dependence[np.ix_(copies, copies)][~np.eye(len(copies), dtype=bool)].min() > 0.95


def test_a_family_asked_the_same_rows_counts_as_dependent_though_its_errors_differ():
    _, votes, families = simulated([0.8, 0.8, 0.8, 0.8])
    strangers = from_votes(votes, families, CLASSES)
    kin = from_votes(votes, ["llm", "llm", "llm", "x"], CLASSES)
    assert strangers.dependence.max() < 0.5 and (kin.dependence[:3, :3][~np.eye(3, dtype=bool)] >= 0.5).all()
    assert kin.dependence[3].max() < 0.5


def test_sources_that_never_meet_are_independent():
    _, votes, families = simulated([0.8, 0.7, 0.6, 0.7])
    only = np.random.default_rng(1).integers(0, 4, len(votes))
    votes[np.arange(4) != only[:, None]] = -1
    worth = from_votes(votes, families, CLASSES)
    assert (worth.dependence == 0).all() and np.isfinite(worth.evidence).all()
    assert (vote_weights(votes, worth.dependence)[votes != -1] == 1).all()


def test_that_a_rule_speaks_up_is_evidence():
    """A rule that only ever says 1 has no confusion to learn; where it is silent, nothing changes."""
    truth, votes, families = simulated([0.85, 0.8, 0.8], classes=2)
    random = np.random.default_rng(2)
    speaks = random.random(len(truth)) < np.where(truth == 1, 0.4, 0.04)
    votes = np.column_stack([votes, np.where(speaks, 1, -1)]).astype(np.int16)
    worth = from_votes(votes, [*families, "rule"], 2)
    assert worth.evidence[3, 1, 1] > 0.2 > 0 > worth.evidence[3, 1, 0]


def test_a_vote_for_a_class_that_nobody_named_before_does_not_beat_all_others():
    random = np.random.default_rng(0)
    votes = random.integers(0, 2, (500, 5)).astype(np.int16)
    beliefs = np.column_stack([random.dirichlet([5, 5], 500), np.zeros(500)])
    worth = refined(from_votes(votes, list("abcde"), 3), votes, list("abcde"), beliefs)
    found = posterior(worth, np.array([[0, 0, 0, 0, 2]]), np.array([[0.9, 0.1, 0.0]]))
    assert found[0, 0] > 0.9
