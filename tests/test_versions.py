"""Versions as MLflow's registry lists them: the newest few of many, and from several threads. No file is read."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from registry import lookup
from registry.versions import Versions
from training.errors import InputError
from training.state import State

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Seven versions of `mail`, of which the first is in production and the second in staging, and one of `post`."""
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path_factory.mktemp("state"))})
    client = Versions(state).client
    for model, count in (("mail", 7), ("post", 1)):
        client.create_registered_model(model)
        for number in range(1, count + 1):
            client.create_model_version(model, "file:///nowhere", tags={"number": str(number)})
    for alias, number in (("production", 1), ("staging", 2), ("candidate", 7)):
        client.set_registered_model_alias("mail", alias, str(number))
    return state


@pytest.fixture
def versions(state):
    return Versions(state)


def named(found):
    return [(version.model, version.version) for version in found]


def test_the_newest_are_listed_and_those_with_an_alias(versions):
    found, others = versions.newest("mail", 2)
    assert [version.version for version in found] == [7, 6, 2, 1] and others
    assert [version.aliases for version in found] == [("candidate",), (), ("staging",), ("production",)]
    assert [version.stage for version in found] == ["candidate", "candidate", "staging", "production"]
    assert all(version == versions.number("mail", version.version) for version in found)
    assert versions.newest("mail", 7) == (versions.list("mail"), False)
    assert [version.version for version in versions.list("mail")] == [7, 6, 5, 4, 3, 2, 1]


def test_of_all_models_the_newest_are_listed(versions):
    assert named(versions.newest(None, 1)[0]) == [("mail", 7), ("mail", 2), ("mail", 1), ("post", 1)]
    assert named(versions.newest(None, 100)[0]) == named(versions.list()) and len(versions.list()) == 8
    assert versions.models() == ["mail", "post"]


def test_pages_are_put_together(versions, monkeypatch):
    whole = versions.list("mail"), versions.newest("mail", 5)
    monkeypatch.setattr(lookup, "PAGE", 2)
    assert (versions.list("mail"), versions.newest("mail", 5)) == whole


def test_what_is_asked_of_a_model_that_there_is_not_is_refused(versions):
    for ask in (versions.known, versions.aliases, versions.model_tags, versions.list,
                lambda name: versions.newest(name, 1), lambda name: versions.holder(name, "production"),
                lambda name: versions.holder(name, "latest"), lambda name: versions.number(name, 1)):
        for name in ("letters", "O'Neill"):
            with pytest.raises(InputError, match=f"no model '{name}' is registered. Registered: mail, post."):
                ask(name)


def test_a_holder_is_told_and_latest_is_no_alias(versions):
    assert versions.holder("mail", "production").version == 1
    assert versions.holder("post", "production") is None and versions.holder("mail", "latest") is None
    with pytest.raises(InputError, match=r"has no alias 'latest'. It has: candidate, production, staging."):
        versions.get("models:/mail@latest")
    with pytest.raises(InputError, match="has no version 99999999999999999999"):
        versions.get("models:/mail/99999999999999999999")


def test_a_registry_that_fails_is_not_taken_for_an_empty_one(versions, monkeypatch):
    from mlflow.exceptions import MlflowException

    def fail(*arguments, **named):
        raise MlflowException("the server is busy\nand more")

    for name in ("get_model_version", "get_model_version_by_alias", "search_registered_models"):
        monkeypatch.setattr(versions.client, name, fail)
    for ask in (lambda: versions.number("mail", 1), lambda: versions.holder("mail", "production"), versions.models):
        with pytest.raises(InputError, match=r"MLflow's registry cannot be read: the server is busy$"):
            ask()


def test_threads_may_share_one_or_have_their_own(state, versions):
    def look(number):
        own = versions if number % 2 else Versions(state)
        own.client.set_model_version_tag("post", "1", f"thread {number}", "was here")
        return named(own.newest("mail", 3)[0]), own.get("models:/mail@production").version

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(look, range(12)))
    assert all(each == found[0] for each in found)
    assert len([tag for tag in versions.number("post", 1).tags if tag.startswith("thread")]) == 12
