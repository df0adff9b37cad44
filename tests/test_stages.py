from types import SimpleNamespace

import pytest

from registry.stages import STAGES, check_way, holders, in_production, stages_of
from training.errors import InputError


def entry(version, to="production", action="promote", replaced=None):
    return SimpleNamespace(version=version, to_stage=to, action=action, replaced=replaced)


def test_what_a_rollback_walks_back_through():
    assert in_production([]) == []
    assert in_production([entry(1), entry(2, "staging"), entry(2)]) == [1, 2]
    assert in_production([entry(1), entry(2), entry(1, action="rollback"), entry(3)]) == [1, 3]
    assert in_production([entry(1), entry(1, action="seal"), entry(1, action="repair")]) == [1]


def test_where_the_versions_are():
    moves = [entry(1, "staging"), entry(1), entry(2, "staging"), entry(2, replaced=1), entry(3, "archived")]
    assert stages_of(moves) == {1: "archived", 2: "production", 3: "archived"}
    assert holders(moves) == {"production": 2}
    assert stages_of([*moves, entry(2, "archived", "repair")]) == stages_of(moves)
    back = entry(1, action="rollback", replaced=2)
    assert stages_of([*moves, back]) == {1: "production", 2: "archived", 3: "archived"}


WAYS = {("candidate", "staging"), ("candidate", "production"), ("staging", "production"), ("candidate", "archived"),
        ("staging", "archived"), ("archived", "candidate")}


@pytest.mark.parametrize("to", STAGES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_version_goes_on_along_the_ways_alone(stage, to):
    if (stage, to) in WAYS:
        check_way("mail", 1, stage, to)
        return
    with pytest.raises(InputError, match="version 1 of 'mail'"):
        check_way("mail", 1, stage, to)


@pytest.mark.parametrize("stage", ["canary", "", "Production"])
def test_a_stage_that_does_not_exist_is_an_input_error(stage):
    with pytest.raises(InputError, match=r"is unknown. Expected one of candidate, staging, production, archived"):
        check_way("mail", 1, "candidate", stage)


def test_what_is_refused_comes_with_what_to_do_instead():
    with pytest.raises(InputError, match=r"is in production. To take it out, promote another or run: .* rollback mail"):
        check_way("mail", 1, "production", "staging")
    with pytest.raises(InputError, match=r"is archived. To have it judged anew, promote it --to candidate first"):
        check_way("mail", 1, "archived", "production")
