import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from training.audit_result import KNOTS, Guarantee, Recalibration
from training.errors import InputError
from training.harmonizer import HARMONIZERS, make_harmonizer
from training.model import RiskModel, align_votes, load, save
from training.risk import risk
from training.sources import load_labelling_functions
from training.spec import FORMAT, EncoderSpec, Spec, digest, load_spec
from training.task import Columns, Source
from training.worth import Worth

CODE = '''
from training.sources import ABSTAIN, labelling_function


@labelling_function()
def shouts(row):
    return "spam" if row.text.isupper() else ABSTAIN


@labelling_function(columns=("text", "author"))
def author(row):
    return "ham"
'''
SOURCES = (Source(name="friend"), Source(name="shouts", family="rule"), Source(name="author", family="rule"))
RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(7, 5)).astype(np.float32)
ANSWERS, VOTES = np.array([0, 1, -1, 0, 1, 0, 1]), RANDOM.integers(-1, 2, (7, 3)).astype(np.int16)


@pytest.fixture(params=sorted(HARMONIZERS))
def saved(request, tmp_path):
    """A version in memory, and the folder that it was saved to."""
    import hashlib

    code = tmp_path / "mine" / "sources.py"
    code.parent.mkdir()
    code.write_text(CODE)
    spec = Spec(
        name="mail", classes=("ham", "spam"), sources=SOURCES, stored_sources=1, columns=Columns(path="data.csv"),
        encoder=EncoderSpec("fake", "1", 5), harmonizer=request.param, scalariser="linear",
        pareto_weights={"LLM": 0.25, "friend": 0.25, "shouts": 0.25, "author": 0.25},
        sharpness=1.5,
        data_digest="0" * 64,
        sources_digest=hashlib.sha256(CODE.encode()).hexdigest(),
    )
    functions = tuple(function for function in load_labelling_functions(code) if function.needs_only_text)
    dependence = np.triu(RANDOM.random((4, 4)), 1)
    worth = Worth(np.array([0.4, 0.6]), RANDOM.dirichlet([1, 1], (4, 2)), dependence + dependence.T,
                  RANDOM.random((4, 2)))
    model = RiskModel(spec, make_harmonizer(request.param, 5, 2, seed=3).eval(), worth, functions)
    save(model, tmp_path / "version", code)
    return model, tmp_path / "version"


def test_save_and_load_is_the_identity(saved, tmp_path):
    model, folder = saved
    loaded = load(folder)
    assert loaded.spec == model.spec and [f.name for f in loaded.functions] == ["shouts"]
    assert all(np.array_equal(value, vars(model.worth)[name]) for name, value in vars(loaded.worth).items())
    one, other = loaded.score(VECTORS, ANSWERS, VOTES), model.score(VECTORS, ANSWERS, VOTES)
    assert one.risk.tobytes() == other.risk.tobytes() and one.probabilities.tobytes() == other.probabilities.tobytes()
    save(loaded, tmp_path / "again", folder / "sources.py")
    for file in sorted(path.name for path in folder.iterdir()):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes(), file
    assert digest(folder) == digest(tmp_path / "again")


def test_scores_are_probabilities_and_no_answer_has_no_risk(saved):
    model, _ = saved
    scores = model.score(VECTORS, ANSWERS, VOTES)
    told = ANSWERS != -1
    assert np.isnan(scores.risk).tolist() == (~told).tolist()
    assert scores.probabilities.sum(axis=1) == pytest.approx(1.0)
    assert scores.risk[told] == pytest.approx(1 - scores.probabilities[told, ANSWERS[told]])
    silent = model.score(VECTORS, np.full_like(ANSWERS, -1), np.full_like(VOTES, -1))  # the text alone
    assert scores.harmonizer_answers.tolist() == silent.probabilities.argmax(axis=1).tolist()
    assert scores.votes_used.tolist() == (VOTES != -1).any(axis=1).tolist()


def test_an_audit_is_kept_and_recalibrates_the_risks(saved, tmp_path):
    model, folder = saved
    audit = {"recalibration": Recalibration(values=tuple(np.linspace(0.2, 0.6, len(KNOTS)).tolist()), labels=25,
                                            mean_risk=0.4, mean_low=0.3, mean_high=0.5, curve=((0.5, 0.4, 0.3, 0.5),)),
             "guarantee": Guarantee(alpha=0.1, delta=0.1, threshold=None, accepted=0.0, upper=1.0, labels=25,
                                    words="no threshold can be promised")}
    spec = model.spec.model_copy(update=audit)
    save(replace(model, spec=spec), tmp_path / "audited", folder / "sources.py")
    loaded = load(tmp_path / "audited")
    assert loaded.spec == spec
    before, after = model.score(VECTORS, ANSWERS, VOTES), loaded.score(VECTORS, ANSWERS, VOTES)
    told = ANSWERS != -1
    assert after.risk[told] == pytest.approx(spec.recalibration.apply(before.risk[told]))
    assert after.risk[told] == pytest.approx(risk(after.probabilities, ANSWERS)[told])
    assert np.argsort(after.risk[told]).tolist() == np.argsort(before.risk[told]).tolist()
    assert np.array_equal(after.probabilities[~told], before.probabilities[~told])


def test_no_rows_have_no_scores(saved):
    model, _ = saved
    scores = model.score(np.empty((0, 5), dtype=np.float32), np.empty(0, dtype=int), np.empty((0, 3), dtype=np.int16))
    assert scores.risk.shape == (0,) and scores.probabilities.shape == (0, 2)


def test_functions_of_the_text_vote_where_no_vote_was_given(saved):
    model, _ = saved
    given = np.array([[-1, -1, -1], [-1, 0, 1], [0, -1, -1]], dtype=np.int16)
    texts = np.array(["BUY", "BUY", "hi"], dtype=object)
    completed = model.complete_votes(texts, np.zeros((3, 0, 2), dtype=int), given)
    assert completed.tolist() == [[-1, 1, -1], [-1, 0, 1], [0, -1, -1]]
    assert given[0].tolist() == [-1, -1, -1]


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def without_worth(path):
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    path.write_bytes(raw[:8] + raw[8 : 8 + size].replace(b"worth.seen", b"worth.seex") + raw[8 + size :])


def respecified(**changes):
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "damage", "found"),
    [
        ("weights.safetensors", lambda path: path.unlink(), "weights.safetensors is missing or damaged"),
        ("weights.safetensors", cut, "weights.safetensors is missing or damaged"),
        ("weights.safetensors", lambda path: path.write_bytes(b""), "weights.safetensors is missing or damaged"),
        ("weights.safetensors", without_worth, "weights.safetensors is missing or damaged"),
        ("spec.json", lambda path: path.unlink(), "spec.json is missing or damaged"),
        ("spec.json", cut, "spec.json is missing or damaged"),
        ("spec.json", lambda path: path.write_bytes(b"\xff"), "spec.json is missing or damaged"),
        ("spec.json", lambda path: path.write_text("[]"), "spec.json has format None"),
        ("spec.json", respecified(format=FORMAT + 1), f"format {FORMAT + 1}. This polarscore reads format {FORMAT}"),
        ("spec.json", respecified(colour="red"), "unknown key 'colour'"),
        ("spec.json", respecified(classes=["a", "b", "c"]), "no weights of a"),
        ("spec.json", respecified(harmonizer="forest"), "harmonizer 'forest' is unknown"),
        ("sources.py", lambda path: path.unlink(), "sources.py is not the file that this version was trained with"),
        ("sources.py", lambda path: path.write_text(CODE + "1 / 0"), "sources.py is not the file that this version"),
    ],
)
def test_a_damaged_version_is_one_line_that_names_the_file(saved, name, damage, found):
    _, folder = saved
    damage(folder / name)
    with pytest.raises(InputError) as refusal:
        load(folder)
    assert found in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_version_without_sources_py_runs_none(saved):
    _, folder = saved
    respecified(sources_digest=None)(folder / "spec.json")
    (folder / "sources.py").write_text("raise SystemExit('it was run')")
    assert load(folder).functions == () and load_spec(folder / "spec.json").sources_digest is None


def test_votes_are_aligned_by_name():
    wanted = [Source(name=name) for name in "abc"]
    votes = np.array([[0, 1]], dtype=np.int16)
    assert align_votes(votes, [wanted[2], wanted[0]], wanted).tolist() == [[1, -1, 0]]
    with pytest.raises(InputError, match="the source 'd' is unknown to this version"):
        align_votes(votes, [wanted[0], Source(name="d")], wanted)
