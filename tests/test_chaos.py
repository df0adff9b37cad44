import random

import pytest

from registry.opening import Registry
from tests import chaos, registries

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    home = tmp_path_factory.mktemp("chaos") / "state"
    registries.template(home, versions=10)
    return home


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request, template, tmp_path):
    """A copy of the template whose version 1 is in production and 2 in staging."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    state = registries.copied(template, tmp_path / "state", url)
    with Registry.open(state) as registry:
        registries.move(registry, 1, "production")
        registries.move(registry, 2, "staging")
    return state


def test_a_process_killed_at_any_step_leaves_the_old_state_or_the_new_one(state):
    context, number, outcomes = chaos.processes(), 3, set()
    places = iter(range(1, 1000, 2 if "sqlite" in state.database_url else 5))
    while True:
        place = next(places)
        with Registry.open(state) as registry:
            before = chaos.situation(registry)
        code, _ = chaos.run(context, state, number, "production", kill_at=place)
        if code != chaos.KILLED:
            break
        wrong, done, changed = chaos.after_a_kill(state, before, number, "production")
        assert not wrong, f"killed before step {place}"
        outcomes.add((done[0].split()[0] if done else "nothing", changed))
        if changed:
            number += 1
    assert code == 0
    assert {("nothing", False), ("finished", True)} <= outcomes
    assert ("undid", False) in outcomes or "sqlite" not in state.database_url  # two steps wide


def test_a_process_killed_at_a_random_moment_leaves_the_old_state_or_the_new_one(state):
    context = chaos.processes()
    code, seconds = chaos.run(context, state, 3, "staging")
    assert code == 0
    for trial in range(3):
        with Registry.open(state) as registry:
            before = chaos.situation(registry)
        code, _ = chaos.run(context, state, 4, "production", kill_after=random.Random(trial).uniform(0.1, seconds))
        wrong, _, changed = chaos.after_a_kill(state, before, 4, "production")
        assert not wrong
        if changed:
            break


def test_of_eight_processes_at_once_each_is_logged_or_refused(state):
    wrong, said = chaos.race(chaos.processes(), state, rounds=2)
    assert not wrong
    assert sum(said.values()) == 16 and said["refused"] > 0
