"""A version whose harmonizer is a fine-tuned transformer: trained, saved, loaded, and scored by all who score."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from serving.schema import Item
from serving.scorer import Scorer
from training import beliefs, job
from training.beliefs import beliefs_of, encoder_for
from training.bench_methods import Case, chosen
from training.encoder import default_spec
from training.errors import InputError
from training.finetune import FinetuneConfig
from training.fit import FitConfig, check
from training.learning import learn
from training.model import load, save
from training.pareto import uniform_weights
from training.running import Runner
from training.scoring import score_rows, score_table
from training.spec import WEIGHTS, EncoderSpec
from training.state import State
from training.table import read_table
from training.task import LLM, read_task
from training.textfit import finetune_config, fit_texts
from training.transformer import TextHarmonizer, make_transformer
from training.weighting import fitted_weights

CONFIG = FitConfig(harmonizer="transformer", epochs=1)
NAMES = (LLM, "friend", "other")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(entities, n=20):
    random = np.random.default_rng(0)
    made = []
    for i in range(n):
        first, second = random.choice(["rain", "snow", "wind", "hail"], 2, replace=False)
        true = int(first < second)
        spans = {"first": [0, len(first)], "second": [len(first) + 7, len(first) + 7 + len(second)]}
        answer, *votes = (int(true ^ (random.random() < 0.2)) for _ in range(3))
        made.append({"id": f"i{i}", "text": f"{first} causes {second} {i}", "answer": answer if i % 9 else -1,
                     "votes": votes if i % 5 else [-1, votes[1]], "label": true, **(spans if entities else {}),
                     "split": ("train", "train", "valid", "test")[i % 4]})
    return made


def write(folder, entities, made=None):
    spans = 'spans = ["first", "second"]\n' if entities else ""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.toml").write_text(
        '[task]\nname = "weather"\nclasses = ["no", "yes"]\n[data]\npath = "data.jsonl"\nlabel = "label"\n'
        f'split = "split"\n{spans}' + "".join(f'[[sources]]\nname = "{name}"\n' for name in NAMES[1:]))
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, made or rows(entities))))
    return folder


def no_encoder(*given):
    raise AssertionError("a transformer needs no vectors")


def learned(folder, config=CONFIG):
    task = read_task(folder)
    table = read_table(task)
    weights = dict(zip(NAMES, uniform_weights(3).tolist(), strict=True))
    return table, *learn(task, table, np.empty((len(table), 0), dtype=np.float32), weights, config)


@pytest.fixture(scope="module", params=[0, 2], ids=["texts", "relations"])
def version(request, tmp_path_factory):
    """A table, the version learned from it, how it came about, and the folder that it was saved to."""
    place = tmp_path_factory.mktemp("version")
    table, fitted, model = learned(write(place / "task", request.param))
    save(model, place / "saved")
    return table, model, fitted, place / "saved"


def test_it_is_learned_as_any_version_is(version):
    table, model, fitted, _ = version
    assert model.spec.harmonizer == "transformer" and model.spec.sharpness >= 1
    assert len(fitted.epochs) == fitted.best == 1 and np.isfinite(fitted.epochs[0].held_out_source_losses).all()
    assert fitted.epochs[0].source_losses.shape == (3,)
    scores = score_table(model, no_encoder, table)
    assert np.isnan(scores.risk).tolist() == (table.answers == -1).tolist()
    assert scores.probabilities.sum(axis=1) == pytest.approx(1.0)
    with pytest.raises(TypeError, match="reads texts"):
        model.score(np.zeros((len(table), 384), dtype=np.float32), table.answers, table.votes)


def test_save_and_load_gives_the_same_risks_bit_for_bit(version):
    table, model, _, folder = version
    loaded = load(folder)
    assert loaded.spec == model.spec and isinstance(loaded.harmonizer, TextHarmonizer)
    one, other = (score_table(each, no_encoder, table) for each in (model, loaded))
    assert one.risk.tobytes() == other.risk.tobytes() and one.probabilities.tobytes() == other.probabilities.tobytes()
    assert 80e6 < (folder / WEIGHTS).stat().st_size < 100e6


def test_rows_and_requests_get_these_risks_without_an_encoder(version, monkeypatch):
    table, model, _, folder = version
    monkeypatch.setattr(beliefs, "Encoder", no_encoder)
    scorer = Scorer.from_folder(folder, "1", "cpu")
    scorer.warm_up()
    expected = score_table(model, no_encoder, table)
    frame = pd.DataFrame({"id": table.ids, "text": table.texts, "answer": table.answers,
                          "votes": table.votes.tolist()})
    if table.spans.shape[1]:
        frame["spans"] = table.spans.tolist()
    found = score_rows(load(folder), no_encoder, frame, "the rows")
    assert found["risk"].to_numpy() == pytest.approx(expected.risk, nan_ok=True, abs=1e-6)
    answered = np.flatnonzero(table.answers != -1)
    scored = scorer.score([
        Item(text=table.texts[row], answer=int(table.answers[row]), spans=tuple(map(tuple, table.spans[row].tolist())),
             votes={name: int(vote) for name, vote in zip(NAMES[1:], table.votes[row], strict=True) if vote != -1})
        for row in answered])
    assert [each.risk for each in scored] == pytest.approx(expected.risk[answered].tolist(), abs=1e-6)


def test_shuffled_labels_change_no_bit(tmp_path):
    made = rows(2)
    turned = [row | {"label": 1 - row["label"]} for row in made]
    (table, _, one), (_, _, other) = (learned(write(tmp_path / name, 2, data))
                                      for name, data in (("a", made), ("b", turned)))
    assert score_table(one, no_encoder, table).risk.tobytes() == score_table(other, no_encoder, table).risk.tobytes()


def test_another_encoder_than_its_own_is_refused(version):
    _, model, _, folder = version
    with pytest.raises(InputError, match=r"was trained on .* install the one that it needs"):
        encoder_for(model.harmonizer, EncoderSpec(default_spec().name, "0.0.9", 384), "cpu")
    with pytest.raises(TypeError, match="no encoder"):
        encoder_for(model.harmonizer, model.spec.encoder, "cpu")(["a text"])
    spec = json.loads((folder / "spec.json").read_text())
    try:
        (folder / "spec.json").write_text(json.dumps(spec | {"classes": ["a", "b", "c"]}))
        with pytest.raises(InputError, match=r"no weights of a .transformer. harmonizer .* for 3 classes"):
            load(folder)
    finally:
        (folder / "spec.json").write_text(json.dumps(spec))


def test_without_a_vote_held_out_the_training_rows_are_told_of(tmp_path):
    table = read_table(read_task(write(tmp_path, 0)))
    train, valid = (table.rows(table.splits == split) for split in ("train", "valid"))
    silent = replace(valid, answers=np.full_like(valid.answers, -1), votes=np.full_like(valid.votes, -1))
    seen = []
    _, fitted = fit_texts(train, silent, uniform_weights(3), CONFIG, seen.append)
    assert seen == fitted.epochs and (seen[0].held_out_source_losses > 0).all()


def test_a_configuration_means_the_transformers_own_by_default():
    assert finetune_config(FitConfig(device="cpu")) == FinetuneConfig()
    found = finetune_config(FitConfig(epochs=2, learning_rate=0.01, scalariser="chebyshev", seed=7, device="cpu"))
    assert (found.epochs, found.checks, found.scalariser, found.seed) == (2, 2, "chebyshev", 7)
    assert (found.head_rate, found.encoder_rate) == (0.01, 0.001)


@pytest.mark.parametrize("scalariser", ["mgda", "upgrad"])
def test_an_aggregator_of_gradients_is_refused(scalariser):
    with pytest.raises(InputError, match=f"too many weights for '{scalariser}'.* Expected one of linear"):
        check(replace(CONFIG, scalariser=scalariser))


@pytest.mark.parametrize("rule", ["minimum_variance", "front"])
def test_weights_that_need_a_first_fit_have_that_of_an_mlp(tmp_path, rule):
    task = read_task(write(tmp_path, 0))
    table = read_table(task)
    vectors = np.random.default_rng(0).normal(size=(len(table), 8)).astype(np.float32)
    found, other = (fitted_weights(rule, task, table, vectors, FitConfig(kind, epochs=2))[0]
                    for kind in ("transformer", "mlp"))
    assert found == other


def test_beliefs_survive_a_gpu_without_memory(monkeypatch):
    harmonizer, asked = make_transformer(0, 2, seed=0), []
    texts, spans = np.array(["one text", "and another"], dtype=object), np.zeros((2, 0, 2), dtype=np.int64)
    expected = beliefs_of(harmonizer, texts, spans, no_encoder)
    own = Runner._start

    def small_gpu(self, tokens, size, progress):
        asked.append(size)
        if size > 600:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return own(self, tokens, size, progress)

    monkeypatch.setattr(Runner, "_start", small_gpu)
    assert beliefs_of(harmonizer, texts, spans, no_encoder).tobytes() == expected.tobytes()
    assert asked == [2048, 1024, 512]


def test_the_benchmark_has_the_papers_and_ours(tmp_path):
    task = read_task(write(tmp_path, 2))
    table = read_table(task)
    vectors = np.random.default_rng(0).normal(size=(len(table), 384)).astype(np.float32)
    case = Case.of(task, table, vectors, seed=0)
    wanted = ["paper_transformer", "polarscore_transformer"]
    for method in chosen(wanted, transformer=True):
        risks = method.risks(case)
        assert np.isnan(risks).tolist() == (table.answers == -1).tolist(), method.name
        assert ((risks >= 0) & (risks <= 1))[table.answers != -1].all(), method.name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
@pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes are included by select_dtypes")
def test_it_is_registered_and_loaded_by_everyone(tmp_path, monkeypatch):
    import mlflow

    from registry.evaluation import evaluate
    from registry.versions import Versions
    from serving.batch import score_batch

    monkeypatch.setattr(job.EmbeddingCache, "encode", no_encoder)
    folder, state = write(tmp_path / "task", 2), State.from_environment({"POLARSCORE_HOME": str(tmp_path / "state")})
    told = []
    trained = job.train(folder, state, CONFIG,
                        progress=job.Progress(epoch=lambda epoch, of: told.append((epoch.number, of))))
    assert told == [(1, 1)]
    versions = Versions(state)
    found = versions.get("models:/weather@candidate")
    table = read_table(read_task(folder))
    evaluated = evaluate(versions, found, table, job.embeddings(state), "test")
    assert evaluated.measures == pytest.approx(trained.measures["test"], abs=1e-6)
    score_batch(state, folder, "models:/weather@candidate", tmp_path / "scores.parquet", keep=False)
    risks = pd.read_parquet(tmp_path / "scores.parquet")["risk"].to_numpy(float)
    expected = score_table(load(Path(versions.folder(found))), no_encoder, table).risk
    assert risks.tobytes() == expected.tobytes()
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    frame = pd.read_json(folder / "data.jsonl", lines=True).drop(columns=["label", "split"])
    told_by_pyfunc = mlflow.pyfunc.load_model("models:/weather@candidate").predict(frame)["risk"]
    assert told_by_pyfunc.to_numpy(float) == pytest.approx(expected, nan_ok=True, abs=1e-6)
