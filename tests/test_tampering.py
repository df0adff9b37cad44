import pytest

from registry.opening import Registry
from registry.verification import repair, verify
from tests import tampering
from tests.tampering import BLIND, FOLLOWED, RELYING, STORE, WAYS
from training.errors import CheckFailed

# BentoML, when first imported, uses old names of pathspec's and pydantic's.
pytestmark = [
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__` method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tampering.prepared(tmp_path_factory.mktemp("tampering"))


@pytest.fixture
def state(prepared):
    tampering.restore(prepared)
    return prepared


def test_a_registry_that_nobody_touched_is_whole_and_all_that_relies_on_it_goes_on(state):
    with Registry.open(state) as registry:
        assert verify(registry, "mail") == []
        for name in ("bundling", "first promotion", "rollback"):
            RELYING[name](registry)
        assert verify(registry, "mail") == []


@pytest.mark.parametrize("name", WAYS)
def test_it_is_found_and_named_and_nothing_relies_on_it(state, name):
    assert tampering.missed(state, WAYS[name]) == []


@pytest.mark.parametrize("name", STORE)
def test_the_service_refuses_what_was_changed_in_the_model_store(state, name):
    assert tampering.missed_by_the_service(state, STORE[name]) == []


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_service_that_follows_the_log_takes_nothing_over_that_was_changed(state, name):
    assert tampering.missed_by_the_service(state, *FOLLOWED[name]) == []


@pytest.mark.parametrize("name", BLIND)
def test_what_verify_cannot_find_is_no_more_than_is_said(state, name):
    with Registry.open(state) as registry:
        BLIND[name](registry)
    with Registry.open(state) as registry:
        assert verify(registry, "mail") == []


def test_tags_of_evidence_are_put_back(state):
    with Registry.open(state) as registry:
        for number, value in ((2, None), (4, "runs:/0/evidence"), (5, "runs:/0/evidence")):
            tampering.tag(number, "evidence", value)(registry)
        assert len(repair(registry, "mail", "bob")) == 3
        assert verify(registry, "mail") == []


def test_by_a_log_that_cannot_be_read_nothing_is_repaired(state):
    with Registry.open(state) as registry:
        tampering.column("at", "'yesterday'")(registry)
        tampering.alias("production", 3)(registry)
        with pytest.raises(CheckFailed, match="cannot be read"):
            repair(registry, "mail", "bob")
        assert registry.versions.aliases("mail")["production"] == 3


def test_there_are_more_than_fifty_ways_and_none_is_there_twice():
    assert len(WAYS) == sum(map(len, (tampering.FILES, tampering.ROWS, tampering.MLFLOW, tampering.EVIDENCE))) >= 100
