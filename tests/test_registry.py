import numpy as np
import pytest

from registry.comparison import differences
from registry.evaluation import evaluate, task_folder
from registry.versions import Versions
from tests import registries
from tests.registries import SPEC, WIDTH
from training.errors import InputError
from training.sources import ABSTAIN
from training.table import Table

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    home = tmp_path_factory.mktemp("registry") / "state"
    registries.template(home)
    return home


@pytest.fixture
def versions(template, tmp_path):
    return Versions(registries.copied(template, tmp_path / "state"))


def encode(texts, progress=None):
    """Made-up vectors, the same for the same text."""
    seeds = [sum(text.encode()) for text in texts]
    return np.stack([np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32) for seed in seeds])


def test_versions_are_listed_newest_first_with_their_measures(versions):
    found = versions.list("mail")
    assert [version.version for version in found] == [4, 3, 2, 1] == [v.version for v in versions.list()]
    assert {version.stage for version in found} == {"candidate"}
    assert found[0].aliases == ("candidate",) and found[0].measures("valid") is None
    measures = found[1].measures("valid")
    assert (measures["n"], measures["ece"], measures["r2"]) == (40, 0.3, None)
    assert versions.models() == ["mail"]


def test_a_version_has_a_number_and_aliases(versions):
    assert versions.get("models:/mail/2").version == 2
    assert versions.get("models:/mail@candidate") == versions.get("models:/mail/4")
    assert versions.get("models:/mail/2").uri == "models:/mail/2"


@pytest.mark.parametrize(("uri", "message"), [
    ("mail", "names no version. Expected models:/NAME/VERSION"),
    ("models:/mail", "names no version"),
    ("models:/mail/latest", "names no version"),
    ("models:/mail/9", "model 'mail' has no version 9"),
    ("models:/mail@production", "model 'mail' has no alias 'production'. It has: candidate."),
    ("models:/letters/1", "no model 'letters' is registered. Registered: mail."),
])
def test_a_version_that_does_not_exist_is_an_input_error_that_names_those_that_do(versions, uri, message):
    with pytest.raises(InputError, match=message):
        versions.get(uri)


def test_a_version_that_polarscore_did_not_make_is_refused(versions, tmp_path):
    (tmp_path / "foreign").mkdir()
    versions.client.create_model_version("mail", (tmp_path / "foreign").as_uri())
    with pytest.raises(InputError, match=r"cannot be fetched|was not made by polarscore"):
        versions.spec(versions.number("mail", 5))


def test_versions_differ_in_what_differs(versions):
    one, two = versions.number("mail", 1), versions.number("mail", 2)
    assert differences(versions, one, one) == {}
    assert differences(versions, one, two) == {"valid ece": (0.1, 0.2), "Pareto weight of friend": (0.5, 1.0)}
    assert differences(versions, versions.number("mail", 4), two)["valid n"] == (None, 40)


def rows(answers, labels):
    n = len(answers)
    return Table(
        classes=SPEC.classes, sources=SPEC.sources, ids=np.array([f"r{i}" for i in range(n)], dtype=object),
        texts=np.array([f"text {i}" for i in range(n)], dtype=object), spans=np.zeros((n, 0, 2), dtype=np.int64),
        splits=np.array(["valid"] * n, dtype=object), answers=np.array(answers, dtype=np.int16),
        votes=np.full((n, 1), ABSTAIN, dtype=np.int16), labels=np.array(labels, dtype=np.int16),
        confidence=np.full(n, np.nan), digest="",
    )


def test_a_version_is_measured_on_labelled_answers_alone(versions):
    one = versions.number("mail", 1)
    assert evaluate(versions, one, rows([0, 1, -1, 0], [0, 0, 0, -1]), encode, "valid").measures["n"] == 2
    with pytest.raises(InputError, match="split 'valid' has no row with both an answer and a gold label"):
        evaluate(versions, one, rows([0, -1], [-1, 0]), encode, "valid")


def test_a_task_that_went_away_is_asked_for(versions, tmp_path):
    client = versions.client
    run = client.create_run(client.create_experiment("gone"), tags={"polarscore.task_dir": str(tmp_path / "gone")})
    client.create_model_version("mail", "file:///nowhere", run_id=run.info.run_id)
    with pytest.raises(InputError, match=r"is not here any more. Name one with --task"):
        task_folder(versions, versions.number("mail", 5), None)
