import hashlib
import json
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from registry.chain import Entry, content
from registry.history import STAGE_LOG
from registry.keys import Keys
from registry.opening import Registry
from registry.promotion import at, rollback
from registry.sealing import seal
from registry.verification import repair, verify
from tests import registries
from tests.registries import held, judged, log, move, no, stages
from training.errors import CheckFailed, InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    home = tmp_path_factory.mktemp("registry") / "state"
    registries.template(home)
    return home


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request, template, tmp_path):
    """A copy of the template, its log in SQLite or in PostgreSQL."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return registries.copied(template, tmp_path / "state", url)


@pytest.fixture
def registry(state):
    with Registry.open(state) as opened:
        yield opened


@pytest.fixture
def local(template, tmp_path):
    """The same, in SQLite alone."""
    with Registry.open(registries.copied(template, tmp_path / "state")) as opened:
        yield opened


def test_a_promotion_moves_alias_tag_and_log_and_leaves_evidence(registry):
    change = move(registry, 1, "production", why="the first")
    assert (change.version, change.from_stage, change.to_stage, change.replaced) == (1, "candidate", "production", None)
    assert held(registry) == {"production": 1}
    version = registry.versions.number("mail", 1)
    assert version.tags["stage"] == "production" and version.tags["evidence"] == change.evidence
    (entry,) = log(registry)
    assert (entry.who, entry.action, entry.version, entry.why) == ("ada", "promote", 1, "the first")
    assert (entry.from_stage, entry.to_stage, entry.replaced) == ("candidate", "production", None)
    assert entry.gates == [{"name": "ece", "state": "pass", "reason": "0.100", "candidate": 0.1, "champion": None}]
    assert registry.history.evidence("mail", 1) == (change.evidence, entry.evidence)
    assert abs(datetime.now(UTC) - entry.at) < timedelta(minutes=5)
    assert verify(registry, "mail") == []


def test_there_is_at_most_one_version_in_a_stage_and_the_one_before_is_archived(registry):
    for number in (1, 2, 3):
        move(registry, number, "staging")
        move(registry, number, "production")
    assert held(registry) == {"production": 3}
    assert stages(registry) == {1: "archived", 2: "archived", 3: "production", 4: "candidate"}
    assert [entry.replaced for entry in log(registry)] == [None, None, None, 1, None, 2]
    assert verify(registry, "mail") == []


def test_a_champion_and_a_shadow_stand_side_by_side(local):
    move(local, 1, "production")
    move(local, 2, "staging")
    assert held(local) == {"production": 1, "staging": 2}
    move(local, 3, "staging")
    assert stages(local) == {1: "production", 2: "archived", 3: "staging", 4: "candidate"}


def test_the_judge_sees_candidate_and_champion(local):
    seen = []

    def judge(candidate, champion):
        seen.append((candidate.version, champion and champion.version))
        return judged()

    move(local, 1, "production", judge)
    move(local, 2, "production", judge)
    assert seen == [(1, None), (2, 1)]


def test_a_refused_promotion_changes_nothing_and_says_why(registry):
    move(registry, 1, "production")
    before = held(registry), stages(registry), log(registry)
    with pytest.raises(CheckFailed, match=r"version 2 of 'mail' stays in candidate. ece: 0.300 beside") as refusal:
        move(registry, 2, "production", no)
    assert refusal.value.exit_code == 1
    assert (held(registry), stages(registry), log(registry)) == before


def test_what_was_put_away_can_be_judged_anew_and_not_otherwise(local):
    move(local, 4, "staging")
    assert move(local, 4, "archived").gates == ()
    assert held(local) == {} and stages(local)[4] == "archived" and verify(local, "mail") == []
    assert "candidate" not in local.versions.aliases("mail")
    with pytest.raises(InputError, match=r"is archived. To have it judged anew, promote it --to candidate first"):
        move(local, 4, "production")
    move(local, 4, "candidate")
    assert local.versions.aliases("mail") == {"candidate": 4} and verify(local, "mail") == []
    move(local, 4, "staging")
    assert verify(local, "mail") == []


def test_a_version_that_was_deleted_cannot_be_promoted(local):
    gone = local.versions.number("mail", 2)
    local.versions.client.delete_model_version("mail", "2")
    with pytest.raises((InputError, CheckFailed), match=r"models:/mail/2|version 2"):
        registries.promote(local, gone, "staging", registries.yes, "ada", "")
    assert log(local) == [] and verify(local, "mail") == []


@pytest.mark.parametrize(("who", "why"), [("a\nb", ""), ("ada", "x\0y"), ("ada", "x" * 2001)])
def test_what_is_said_for_the_log_is_one_line(local, who, why):
    with pytest.raises(InputError, match="should be one line of printable text"):
        registries.promote(local, local.versions.number("mail", 1), "staging", registries.yes, who, why)
    assert log(local) == []


def test_rollback_goes_back_and_a_second_one_goes_back_one_more(registry):
    evidence = [move(registry, number, "production").evidence for number in (1, 2, 3)]
    change = rollback(registry, "mail", "bob", "too many alarms")
    assert (change.version, change.from_stage, change.replaced) == (2, "archived", 3)
    assert change.evidence == evidence[1]
    assert rollback(registry, "mail", "bob", "").version == 1
    assert held(registry) == {"production": 1}
    assert stages(registry) == {1: "production", 2: "archived", 3: "archived", 4: "candidate"}
    assert [(entry.action, entry.who) for entry in log(registry)[3:]] == [("rollback", "bob")] * 2
    assert verify(registry, "mail") == []
    with pytest.raises(InputError, match="before version 1, no version was in production"):
        rollback(registry, "mail", "bob", "")


def test_a_rollback_brings_thresholds_and_pareto_weights_back_with_the_version(local):
    for number in (1, 2):
        move(local, number, "production")
    rollback(local, "mail", "bob", "")
    production = local.versions.get("models:/mail@production")
    assert local.versions.spec(production).pareto_weights == {"LLM": 1.0, "friend": 0.5}


def test_after_a_rollback_a_new_promotion_can_be_rolled_back_too(local):
    for number in (1, 2):
        move(local, number, "production")
    rollback(local, "mail", "bob", "")
    move(local, 3, "production")
    assert rollback(local, "mail", "bob", "").version == 1


def test_there_is_nothing_to_roll_back_to_at_first(local):
    with pytest.raises(InputError, match="no version has been in production"):
        rollback(local, "mail", "bob", "")
    with pytest.raises(InputError, match="no model 'letters'"):
        rollback(local, "letters", "bob", "")


def test_what_was_in_production_at_a_moment(registry):
    assert at(registry, "mail", datetime.now(UTC)) is None
    move(registry, 1, "production")
    move(registry, 2, "staging")
    move(registry, 2, "production")
    rollback(registry, "mail", "bob", "")
    first, staged, second, back = (entry.at for entry in log(registry))
    tick = timedelta(microseconds=1)
    assert at(registry, "mail", first - tick) is None
    assert [at(registry, "mail", moment) for moment in (first, staged, second - tick, second)] == [1, 1, 1, 2]
    assert at(registry, "mail", back) == 1 == at(registry, "mail", datetime.now(UTC) + timedelta(days=1))


def test_an_alias_moved_behind_our_back_is_named_and_put_back(registry):
    move(registry, 1, "production")
    move(registry, 2, "staging")
    registry.versions.client.set_registered_model_alias("mail", "production", "3")
    registry.versions.client.delete_registered_model_alias("mail", "staging")
    assert [finding.what for finding in verify(registry, "mail")] == [
        "the alias 'staging' of 'mail' points at no version, and the log says version 2",
        "the alias 'production' of 'mail' points at version 3, and the log says version 1",
    ]
    remedy = r"points at version 3, and the log says version 1. To put it back, run: .* registry verify mail --repair"
    for act in (lambda: rollback(registry, "mail", "bob", ""), lambda: move(registry, 4, "production")):
        with pytest.raises(InputError, match=remedy):
            act()
    assert len(repair(registry, "mail", "bob")) == 2
    assert held(registry) == {"production": 1, "staging": 2} and verify(registry, "mail") == []
    assert (log(registry)[-1].action, log(registry)[-1].who) == ("repair", "bob")


def test_if_mlflow_fails_at_the_first_step_nothing_has_happened(local, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(local.versions.client, "set_registered_model_alias", fail)
    with pytest.raises(OSError, match="no space"):
        move(local, 1, "production")
    assert log(local) == [] and held(local) == {} and verify(local, "mail") == []


def test_if_mlflow_fails_in_the_middle_the_change_can_be_finished(local, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(local.versions.client, "set_model_version_tag", fail)
    with pytest.raises(InputError, match=r"in the middle of the change: no space left. To finish it, run: .*--repair"):
        move(local, 1, "production")
    monkeypatch.undo()
    assert {finding.kind for finding in verify(local, "mail")} == {"interrupted", "alias"}
    assert "finished an interrupted change" in repair(local, "mail", "bob")[0]
    assert held(local) == {"production": 1} and len(log(local)) == 1 and verify(local, "mail") == []


def test_models_do_not_see_each_other(local):
    client = local.versions.client
    client.create_registered_model("O'Neill")
    client.create_model_version("O'Neill", "file:///nowhere")
    move(local, 1, "production")
    assert local.history.entries("O'Neill") == [] == verify(local, "O'Neill")
    assert at(local, "O'Neill", datetime.now(UTC)) is None


def test_the_first_promotion_of_a_machine_makes_a_key_and_says_so(local):
    said = []
    registries.promote(local, local.versions.number("mail", 1), "staging", registries.yes, "ada", "", said.append)
    assert len(said) == 1 and "made a key that signs promotions" in said[0]
    assert local.keys.private.exists() and not local.keys.private.is_relative_to(local.state.home)


def test_a_machine_that_only_checks_makes_no_key(local):
    move(local, 1, "staging")
    local.keys.private.unlink()
    with pytest.raises(InputError, match="there is no signing key"):
        move(local, 2, "staging")
    assert len(log(local)) == 1 and verify(local, "mail") == []


def test_a_machine_that_does_not_trust_the_log_promotes_nothing(local, tmp_path):
    move(local, 1, "staging")
    with Registry.open(local.state.__class__(**(vars(local.state) | {"keys": tmp_path / "others"}))) as stranger:
        with pytest.raises(CheckFailed, match=r"is not as it was signed|not among those trusted"):
            move(stranger, 2, "staging")
        assert not stranger.keys.private.exists()
        assert "not signed by a key that is trusted here" in verify(stranger, "mail")[0].what
    assert len(log(local)) == 1


def test_a_key_that_nobody_trusts_signs_nothing(local, tmp_path):
    move(local, 1, "staging")
    Keys(tmp_path / "others").make()
    shutil.copyfile(tmp_path / "others" / "signing.pem", local.keys.private)
    with pytest.raises(InputError, match="is not trusted here"):
        move(local, 2, "staging")


def test_another_machine_that_trusts_the_key_reads_on(local, tmp_path):
    move(local, 1, "staging")
    shutil.copytree(local.keys.folder / "trusted", tmp_path / "others" / "trusted")
    with Registry.open(local.state.__class__(**(vars(local.state) | {"keys": tmp_path / "others"}))) as reader:
        assert verify(reader, "mail") == []
    assert set(json.loads((tmp_path / "others" / "heads.json").read_text()).values()) == {log(local)[-1].head}




def test_a_log_without_signatures_is_vouched_for_and_built_upon(registry):
    with registry.history._engine.begin() as connection:
        for entry in chained([(1, "staging", None), (1, "production", None), (2, "production", 1)]):
            connection.execute(sa.insert(STAGE_LOG), asdict(entry))
    client = registry.versions.client
    client.set_registered_model_alias("mail", "production", "2")
    for number, stage in ((1, "archived"), (2, "production")):
        client.set_model_version_tag("mail", str(number), "stage", stage)
    with pytest.raises(InputError, match=r"ends in an entry without a signature. To vouch for it, run: .* migrate"):
        move(registry, 3, "staging")
    assert "before entries were signed" in verify(registry, "mail")[0].what
    assert seal(registry, "mail", "ada") and not seal(registry, "mail", "ada")
    assert verify(registry, "mail") == []
    assert (log(registry)[-1].action, log(registry)[-1].version, stages(registry)[2]) == ("seal", 2, "production")
    move(registry, 3, "production")
    assert rollback(registry, "mail", "bob", "").version == 2 and verify(registry, "mail") == []


def chained(moves):
    """Entries as a migration links them: numbered and hashed, signed by nobody."""
    entries = []
    for version, to, replaced in moves:
        entry = Entry("ada", "promote", "mail", version, "candidate", to, replaced, "")
        entry = replace(entry, seq=len(entries) + 1, previous=entries[-1].hash if entries else "")
        entries.append(replace(entry, hash=hashlib.sha256(content(entry)).hexdigest()))
    return entries


def test_a_champion_that_came_while_a_candidate_was_judged_is_not_replaced(local):
    def judge(candidate, champion):
        if champion is None:
            move(local, 2, "production")
        return registries.yes(candidate, champion)

    with pytest.raises(InputError, match="another process has changed the stages of 'mail' meanwhile"):
        move(local, 1, "production", judge)
    assert held(local) == {"production": 2} and len(log(local)) == 1 and verify(local, "mail") == []


def test_files_that_change_while_they_are_judged_are_not_signed(local):
    spec = local.versions.folder(local.versions.number("mail", 1)) / "spec.json"

    def judge(candidate, champion):
        spec.write_text(spec.read_text().replace("0.5", "0.6"))
        return registries.yes(candidate, champion)

    with pytest.raises(CheckFailed, match="have changed while they were judged"):
        move(local, 1, "staging", judge)
    assert log(local) == []


def test_a_promotion_that_is_refused_makes_no_key(local):
    with pytest.raises(CheckFailed):
        move(local, 1, "production", no)
    with pytest.raises(InputError):
        rollback(local, "mail", "bob", "")
    assert not local.keys.folder.exists()


def test_a_version_in_production_that_was_deleted_is_no_dead_end(local):
    for number in (1, 2):
        move(local, number, "production")
    local.versions.client.delete_model_version("mail", "2")
    assert [finding.kind for finding in verify(local, "mail")] == ["version"]
    said = []
    registries.promote(local, local.versions.number("mail", 3), "production", registries.yes, "ada", "", said.append)
    assert "is gone from MLflow: nothing to compare with" in said[0]
    assert held(local) == {"production": 3}
