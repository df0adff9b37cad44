import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

import polarscore
from training import bench_cache, bench_methods
from training.bench import Kept, TaskFound, average, bench_task, run
from training.bench_methods import METHODS, OWN, Case, Method, chosen
from training.bounds import ece_floor, r2_ceiling, squared_correlations
from training.calibration import auroc, ece, measures, r2
from training.errors import InputError
from training.figures import bench_figure
from training.significance import Gap, auroc_gaps, weighted_aurocs
from training.state import State
from training.tracking import connect, log_bench
from training.verdict import as_json, best, claims, duels, scales

# MLflow uses an old loader of SQLAlchemy's when first imported.
pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
              pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]

MEASURES = {"n", "error_rate", "mean_risk", "ece", "r2", "auroc", "aurc", "brier"}
VOTES_ONLY = ("majority_vote", "dawid_skene")


def rows(n=120, seed=0, confidence=True):
    rng = np.random.default_rng(seed)
    names = np.array(["ham", "spam"])
    gold = rng.integers(2, size=n)

    def said(right):
        return names[np.where(rng.random(n) < right, gold, 1 - gold)]

    answers, first, second = said(0.75), said(0.8), said(0.7)
    return [{"id": f"r{i}", "text": f"{names[gold[i]]} number {i}", "answer": answers[i],
             "votes": [first[i], second[i]], "label": names[gold[i]],
             "split": ("train", "train", "valid", "test")[i % 4],
             **({"llm_confidence": 0.5 + 0.4 * rng.random()} if confidence else {})} for i in range(n)]


TOML = """
[task]
name = "{name}"
classes = ["ham", "spam"]
[data]
path = "data.jsonl"
split = "split"
label = "label"
[[sources]]
name = "s1"
[[sources]]
name = "s2"
"""


def write(folder, data, name="mail"):
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "task.toml").write_text(TOML.format(name=name))
    (place / "data.jsonl").write_text("\n".join(map(json.dumps, data)))
    return place


def encode(texts):
    """Vectors that know a little of the class."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((len(texts), 8)).astype(np.float32)
    vectors[:, 0] += [2.0 * text.startswith("spam") for text in texts]
    return vectors


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "tasks", rows()).parent


def only(*names):
    return chosen(names)


class Counted:
    """A method that counts how often it is asked, and what for."""

    def __init__(self, name="counted", answer=None):
        self.calls = []
        self.method = Method(name, self.risks, modules=("risk",))
        self.answer = answer or (lambda case: np.linspace(0, 1, len(case.table)) * (case.seed + 1) / 4)

    def risks(self, case):
        self.calls.append(case.seed)
        return self.answer(case)


# what is printed


def test_the_json_is_the_contract(folder):
    write(folder, rows(seed=1, confidence=False), "another")
    found = run(folder, encode, 1, METHODS)
    content = json.loads(json.dumps(as_json(found), allow_nan=False))
    names = [method.name for method in METHODS]
    assert names == ["llm_confidence", "majority_vote", "dawid_skene", "label_model", "distilled", "paper_linear",
                     "paper_quadratic", "paper_euclidean", "paper_chebyshev", "polarscore", "polarscore_no_votes",
                     "gold"]
    assert list(content["tasks"]) == ["another", "mail"]
    assert list(content["tasks"]["mail"]) == names == list(content["mean"])
    assert list(content["tasks"]["another"]) == names[1:]  # no confidence is stored
    for found_measures in (*content["tasks"]["mail"].values(), *content["mean"].values()):
        assert set(found_measures) == MEASURES
        assert found_measures["n"] == 30
    assert set(content["bounds"]["tasks"]["mail"]["gold"]) == {"ece_floor", "r2_ceiling", "r2_ratio"}
    assert content["duels"]["mail"]["against"] in names
    assert content["claims"]["ece_audit_25"]["holds"] is None  # not measured
    assert isinstance(content["claims"]["ece_to_paper"]["holds"], bool)


def test_measures_are_means_over_seeds(folder):
    scores = {0: 0.2, 1: 0.6}
    counted = Counted(answer=lambda case: np.full(len(case.table), scores[case.seed]))
    found = run(folder, encode, 2, [counted.method])["mail"]
    assert [each["mean_risk"] for each in found.per_seed["counted"]] == pytest.approx([0.2, 0.6])
    assert found.measures["counted"]["mean_risk"] == pytest.approx(0.4)
    assert found.gaps == {}  # ours is not among them


def test_a_measure_that_some_runs_cannot_tell_is_the_mean_of_the_others():
    one, other = measures(np.array([0.5]), np.array([1.0])), measures(np.array([0.2, 0.4]), np.array([0.0, 1.0]))
    assert average([one, other])["auroc"] == other["auroc"] == 1.0
    assert average([one])["auroc"] is None


# what is kept


def test_a_bench_that_was_stopped_goes_on_where_it_was(folder, tmp_path):
    kept, first = Kept(tmp_path / "kept"), Counted("first")

    def stop(case):
        if case.seed == 1:
            raise KeyboardInterrupt
        return np.full(len(case.table), 0.3)

    with pytest.raises(KeyboardInterrupt):
        run(folder, encode, 2, [first.method, Counted("second", stop).method], kept)
    assert first.calls == [0, 1]
    second = Counted("second", lambda case: np.full(len(case.table), 0.3))
    lines = []
    again = run(folder, encode, 2, [first.method, second.method], kept, lines.append)
    assert first.calls == [0, 1] and second.calls == [1]
    assert [line.split(",")[1:3] for line in lines] == [[" seed 0: 0 methods computed", " 2 kept"],
                                                        [" seed 1: 1 methods computed", " 1 kept"]]
    assert again == run(folder, encode, 2, [first.method, second.method])
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file() and path.suffix != ".parquet"]


def test_fresh_ignores_what_is_kept(folder, tmp_path):
    counted = Counted()
    for fresh in (False, False, True):
        run(folder, encode, 1, [counted.method], Kept(tmp_path / "kept", fresh))
    assert len(counted.calls) == 2


@pytest.mark.parametrize("change", ["data", "declaration", "vectors"])
def test_what_risks_depend_on_is_in_their_key(folder, tmp_path, change):
    counted, kept = Counted(), Kept(tmp_path / "kept")
    run(folder, encode, 1, [counted.method], kept)
    if change == "data":
        write(folder, rows(seed=5))
    if change == "declaration":
        (folder / "mail" / "task.toml").write_text(TOML.format(name="mail") + 'family = "other"\n')
    run(folder, (lambda texts: encode(texts) + 1) if change == "vectors" else encode, 1, [counted.method], kept)
    assert len(counted.calls) == 2


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"nonsense" * 9,
                                    lambda b: b[:60] + bytes([b[60] ^ 1]) + b[61:]],
                         ids=["empty", "cut", "nonsense", "flipped"])
def test_a_damaged_file_is_computed_again(folder, tmp_path, damage):
    counted, kept = Counted(), Kept(tmp_path / "kept")
    whole = run(folder, encode, 1, [counted.method], kept)
    path, = (tmp_path / "kept").rglob("*.parquet")
    path.write_bytes(damage(path.read_bytes()))
    assert run(folder, encode, 1, [counted.method], kept) == whole
    assert len(counted.calls) == 2
    run(folder, encode, 1, [counted.method], kept)
    assert len(counted.calls) == 2  # mended


def test_kept_risks_come_back_bit_for_bit_under_their_key_alone(tmp_path):
    path = tmp_path / "deep" / "risks.parquet"
    risks = np.array([0.1, np.nan, 1 / 3, 1.0])
    bench_cache.write(path, "key", risks)
    np.testing.assert_array_equal(bench_cache.read(path, "key", 4), risks)
    assert bench_cache.read(path, "other", 4) is None
    assert bench_cache.read(path, "key", 5) is None
    assert bench_cache.read(tmp_path / "none", "key", 4) is None
    assert [each.name for each in path.parent.iterdir()] == ["risks.parquet"]


def test_the_codes_digest_follows_imports_at_any_depth(tmp_path):
    room = tmp_path / "training"
    room.mkdir()
    files = {"top": "from training.middle import x", "middle": "def f():\n    from training import bottom",
             "bottom": "x = 1", "figures": "y = 1", "aside": "z = 1"}
    for name, text in files.items():
        (room / f"{name}.py").write_text(text)
    assert bench_cache.imported(["top"], room) == {"top", "middle", "bottom"}

    def digest(**changed):
        for name, text in {**files, **changed}.items():
            (room / f"{name}.py").write_text(text)
        bench_cache.code_digest.cache_clear()
        return bench_cache.code_digest(("top",), room=room)

    assert digest() == digest(aside="z = 2") != digest(bottom="x = 2")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_methods_modules_are_all_that_its_code_names(method):
    behind = bench_cache.imported(("table", *method.modules)) | {"bench_methods"}
    pending, seen = [method.risks], set()
    while pending:
        function = pending.pop()
        function = getattr(function, "func", function)  # a partial's
        for name in function.__code__.co_names:
            value = function.__globals__.get(name)
            if getattr(value, "__module__", "").startswith("training.") and value not in seen:
                assert value.__module__.removeprefix("training.") in behind, name
                seen.add(value)
                if value.__module__ == bench_methods.__name__ and hasattr(value, "__code__"):
                    pending.append(value)


# no label where none belongs


def test_shuffled_labels_change_no_risk_but_golds(folder, tmp_path):
    data = rows()
    rng = np.random.default_rng(3)
    given = [row["label"] for row in data]
    learned_on = [i for i, row in enumerate(data) if row["split"] != "test"]
    for i, j in zip(learned_on, rng.permutation(learned_on), strict=True):
        data[i]["label"] = given[j]
    write(tmp_path / "shuffled", data)
    before, after = (run(place, encode, 1, METHODS)["mail"].per_seed for place in (folder, tmp_path / "shuffled"))
    assert before["gold"] != after["gold"]
    assert {name: value for name, value in before.items() if name != "gold"} == \
           {name: value for name, value in after.items() if name != "gold"}


def test_a_method_is_handed_no_label_unless_it_audits(folder, monkeypatch):
    seen = {}

    def audit(task, table, vectors, model, seed):
        seen["audited"] = (table.labels != -1).all()
        return model.score(vectors, table.answers, table.votes).risk

    def slow(task, table, vectors, model, seed):
        seen["transformer"] = (table.labels != -1).any()
        return np.zeros(len(table))

    monkeypatch.setitem(bench_methods.AUDITED, "polarscore_audit_25", audit)
    monkeypatch.setitem(bench_methods.TRANSFORMERS, "polarscore_transformer", slow)
    plain = Counted(answer=lambda case: np.full(len(case.table), float((case.table.labels != -1).any())))
    methods = [plain.method, *chosen(["polarscore_audit_25", "polarscore_transformer", OWN], transformer=True)]
    found = run(folder, encode, 1, methods)["mail"]
    assert seen == {"audited": True, "transformer": False}
    assert found.measures["counted"]["mean_risk"] == 0.0
    assert found.per_seed["polarscore_audit_25"] == found.per_seed[OWN]  # the same version, trained once
    assert claims({"mail": found})["ece_audit_25"].value == found.measures["polarscore_audit_25"]["ece"]


def test_a_version_is_trained_once_for_all_methods_that_build_on_it(folder, monkeypatch):
    trained, learn = [], bench_methods.learn
    monkeypatch.setattr(bench_methods, "learn", lambda *given: trained.append(given) or learn(*given))
    run(folder, encode, 2, only("polarscore", "polarscore_no_votes"))
    assert [config.seed for *_, config in trained] == [0, 1]


# bounds


def test_the_floor_is_the_ece_of_a_perfectly_calibrated_score():
    rng = np.random.default_rng(0)
    risk = rng.beta(0.6, 2.0, 800)
    found = [ece(risk, (rng.random(800) < risk).astype(float)) for _ in range(300)]
    assert ece_floor(risk) == pytest.approx(np.mean(found), abs=4 * np.std(found) / np.sqrt(200))
    assert ece_floor(risk) == ece_floor(risk)


def test_the_floor_of_certainty_is_nothing_and_of_no_rows_unknown():
    assert ece_floor(np.array([0.0, 1.0, 1.0])) == 0.0
    assert ece_floor(np.array([])) is None


def test_the_floor_sinks_with_more_rows():
    risk = np.random.default_rng(0).random(4000)
    assert ece_floor(risk) < ece_floor(risk[:400]) < ece_floor(risk[:40])


@given(st.integers(0, 10**6), st.integers(4, 90))
def test_r2_of_many_draws_is_that_of_each(seed, n):
    rng = np.random.default_rng(seed)
    risk = rng.random((3, n))
    error = (rng.random((3, n)) < risk).astype(float)
    expected = [np.nan if (value := r2(one, other)) is None else value for one, other in zip(risk, error, strict=True)]
    np.testing.assert_allclose(squared_correlations(risk, error), expected, atol=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.5, 3.0), (0.8, 1.6), (4.0, 40.0)])
def test_a_perfectly_calibrated_score_reaches_the_ceiling(a, b):
    rng = np.random.default_rng(1)
    risk = rng.beta(a, b, (60, 1500))
    error = (rng.random(risk.shape) < risk).astype(float)
    own = np.mean([auroc(one, other) for one, other in zip(risk, error, strict=True)])
    reached = squared_correlations(risk, error)
    ceiling = r2_ceiling(1500, a / (a + b), float(own))
    assert ceiling == pytest.approx(reached.mean(), abs=4 * reached.std() / np.sqrt(60) + 0.01)


def test_the_ceiling_rises_with_auroc_and_with_rows():
    found = [r2_ceiling(900, 0.2, value) for value in (0.55, 0.7, 0.85, 0.99, 1 - 1e-12)]
    assert found == sorted(found) and found[-1] <= 1
    assert r2_ceiling(200, 0.2, 0.7) < r2_ceiling(5000, 0.2, 0.7)


@pytest.mark.parametrize(("rate", "value"), [(0.2, None), (0.2, 0.5), (0.2, 0.3), (0.0, 0.9), (1.0, 0.9), (0.2, 1.0)])
def test_without_a_ceiling_there_is_none(rate, value):
    assert r2_ceiling(100, rate, value) is None


def test_too_few_rows_have_no_ceiling():
    assert r2_ceiling(1, 0.3, 0.8) is None


# significance


@given(st.integers(0, 10**6), st.integers(2, 40))
def test_a_weighted_auroc_is_that_of_the_repeated_rows(seed, n):
    rng = np.random.default_rng(seed)
    risk, error = np.round(rng.random(n), 1), rng.integers(2, size=n).astype(float)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=3).astype(float)
    for found, times in zip(weighted_aurocs(risk, error, counts), counts.astype(int), strict=True):
        expected = auroc(np.repeat(risk, times), np.repeat(error, times))
        assert np.isnan(found) if expected is None else found == pytest.approx(expected)


def test_a_gap_is_the_difference_of_the_measures_and_its_error_that_of_fresh_samples():
    rng = np.random.default_rng(0)

    def sample():
        truth = rng.random(600)
        error = (rng.random(600) < truth).astype(float)
        return truth, np.clip(truth + 0.4 * rng.standard_normal(600), 0, 1), error

    ours, theirs, error = sample()
    gap = auroc_gaps([ours], {"other": [theirs], "own": [ours]}, error)
    assert gap["other"].difference == pytest.approx(auroc(ours, error) - auroc(theirs, error))
    assert gap["own"] == Gap(0.0, 0.0)
    fresh = [auroc(one, wrong) - auroc(two, wrong) for one, two, wrong in (sample() for _ in range(300))]
    assert gap["other"].standard_error == pytest.approx(np.std(fresh), rel=0.3)


def test_a_gap_over_seeds_is_the_mean_of_theirs():
    rng = np.random.default_rng(0)
    error = rng.integers(2, size=50).astype(float)
    ours, theirs = [rng.random(50) for _ in range(3)], [rng.random(50) for _ in range(3)]
    expected = np.mean([auroc(one, error) - auroc(two, error) for one, two in zip(ours, theirs, strict=True)])
    assert auroc_gaps(ours, {"other": theirs}, error)["other"].difference == pytest.approx(expected)


def test_gaps_that_cannot_be_told():
    assert auroc_gaps([np.array([0.1, 0.2])], {"other": [np.array([0.2, 0.1])]}, np.zeros(2)) == {}
    assert auroc_gaps([np.array([0.1])], {}, np.array([1.0])) == {}


def test_behind_is_more_than_the_margin_and_an_error():
    assert Gap(-0.031, 0.02).behind_by_more_than(0.01)
    assert not Gap(-0.029, 0.02).behind_by_more_than(0.01)
    assert not Gap(0.5, 0.01).behind_by_more_than(0.01)
    assert not Gap(-0.5, None).behind_by_more_than(0.01)


# the verdict


def made_up(**values):
    """A task's findings: ECE, AUROC, R² by method, all ceilings 0.8."""
    empty = measures(np.array([]), np.array([]))
    per_seed = {method: [{**empty, "n": 9, "error_rate": 0.2, "ece": e, "auroc": a, "r2": r}]
                for method, (e, a, r) in values.items()}
    own = values.get(OWN)
    gaps = {method: Gap(own[1] - a, 0.01) for method, (_, a, _) in values.items()
            if own and method != OWN and a is not None}
    return TaskFound(per_seed, {method: {"ece_floor": 0.02, "r2_ceiling": 0.8} for method in values}, gaps)


def test_the_verdict_by_hand():
    found = {
        "one": made_up(polarscore=(0.05, 0.9, 0.7), paper_linear=(0.1, 0.8, 0.5), paper_chebyshev=(0.2, 0.85, 0.5),
                       majority_vote=(0.2, 0.7, 0.3), dawid_skene=(0.04, 0.6, 0.1)),
        "two": made_up(polarscore=(0.05, 0.7, 0.82), paper_linear=(0.1, 0.71, 0.5), paper_chebyshev=(0.2, 0.69, 0.5),
                       majority_vote=(0.2, 0.73, 0.3), dawid_skene=(0.04, 0.6, 0.1)),
    }
    told = claims(found)
    assert (told["ece_to_paper"].against, told["ece_to_paper"].value) == ("paper_linear", pytest.approx(0.5))
    assert told["ece_to_paper"].holds
    assert not told["ece_to_dawid_skene"].holds
    assert (told["auroc_over_paper"].against, told["auroc_over_paper"].value) == (
        "paper_chebyshev", pytest.approx(0.03))
    assert told["r2_to_ceiling"].value == pytest.approx(0.95)
    assert scales(found)[OWN].tasks == 2
    met = duels(found)
    assert (met["one"].against, met["two"].against) == ("paper_chebyshev", "majority_vote")
    assert met["two"].exceeds and not met["one"].exceeds
    assert told["auroc_behind"].value == 1 and not told["auroc_behind"].holds


def test_a_verdict_on_what_was_not_run_is_open():
    told = claims({"one": made_up(paper_linear=(0.1, 0.8, 0.5))})
    assert all(claim.holds is None for claim in told.values())
    assert best({}, "ece", ["paper_linear"]) is None


def test_ties_between_ours_and_the_votes_hold_and_below_is_below():
    same = {"one": made_up(polarscore=(0.1, 0.8, 0.5), majority_vote=(0.1, 0.8, 0.5))}
    assert not claims(same)["ece_to_majority_vote"].holds
    assert not claims(same)["auroc_over_majority_vote"].holds
    assert claims(same)["auroc_behind"].holds


# bad input


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match=r"the method 'oracle' is unknown\. Expected some of llm_confidence, "):
        chosen(["polarscore", "oracle"])


def test_a_transformer_is_asked_for_separately(monkeypatch):
    monkeypatch.setattr(bench_methods, "TRANSFORMERS", {"slow": lambda *given: None})
    assert "slow" not in [method.name for method in chosen()]
    assert chosen(transformer=True)[-1].name == "slow"
    with pytest.raises(InputError, match=r"Add --transformer"):
        chosen(["slow"])
    monkeypatch.setattr(bench_methods, "TRANSFORMERS", {})
    with pytest.raises(InputError, match=r"--transformer"):
        chosen(transformer=True)


def test_a_folder_without_a_task_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"holds no task\. Expected folders with a task\.toml"):
            run(folder, encode, 1, METHODS)


@pytest.mark.parametrize(("split", "said"), [("train", "no labelled answers in split 'test'"),
                                             ("test", "no row in split 'train'")])
def test_a_task_that_cannot_be_measured_is_named(tmp_path, split, said):
    write(tmp_path, [{**row, "split": split} for row in rows()])
    with pytest.raises(InputError, match=rf"^mail: .*{said}"):
        run(tmp_path, encode, 1, METHODS)


@pytest.mark.parametrize("errors", ["none", "one", "all"])
def test_few_errors_or_none_give_null_and_no_crash(tmp_path, errors):
    data = rows(60)
    tested = [row for row in data if row["split"] == "test"]
    for place, row in enumerate(tested):
        wrong = errors == "all" or (errors == "one" and not place)
        row["label"] = {"ham": "spam", "spam": "ham"}[row["answer"]] if wrong else row["answer"]
    write(tmp_path, data)
    found = run(tmp_path, encode, 1, METHODS)
    told = found["mail"].measures[OWN]
    assert (told["auroc"] is None) == (errors != "one")
    assert told["r2"] is None or errors == "one"
    assert told["ece"] is not None and found["mail"].bounds[OWN]["ece_floor"] is not None
    content = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert (content["duels"] == {}) == (errors != "one")
    bench_figure(content["tasks"], content["mean"], content["bounds"]).savefig(tmp_path / "plot.png")


def test_one_row_to_measure_and_labels_of_one_class(tmp_path):
    data = [{**row, "split": "test" if not place else "train", "label": "ham"} for place, row in enumerate(rows(30))]
    write(tmp_path, data)
    found = run(tmp_path, encode, 1, METHODS)["mail"]
    assert found.measures["gold"]["n"] == 1 and found.measures[OWN]["r2"] is None


def test_a_confidence_with_gaps_is_no_method(tmp_path):
    data = rows()
    data[3].pop("llm_confidence")
    assert data[3]["split"] == "test"
    place = write(tmp_path, data)
    assert "llm_confidence" not in bench_task(place, encode, [0], only("llm_confidence", *VOTES_ONLY)).per_seed


# MLflow and the command line


def test_mlflow_holds_a_run_a_task_and_below_it_one_a_method(folder, tmp_path):
    write(folder, rows(seed=1), "mean")  # a name that is also ours
    content = as_json(run(folder, encode, 2, only(*VOTES_ONLY)))
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path / "state")})
    figure = bench_figure(content["tasks"], content["mean"], content["bounds"])
    outer = log_bench(state, content, figure, 2)
    client = connect(state)
    runs = client.search_runs([client.get_experiment_by_name("bench").experiment_id], max_results=100)
    assert {each.info.status for each in runs} == {"FINISHED"}
    parents = {each.info.run_id: each.data.tags.get("mlflow.parentRunId") for each in runs}
    tasks = [each for each in runs if parents[each.info.run_id] == outer]
    assert sorted(each.info.run_name for each in tasks) == ["mail", "mean", "mean"]
    mail = next(each.info.run_id for each in tasks if each.info.run_name == "mail")
    below = {each.data.tags["method"]: each for each in runs if parents[each.info.run_id] == mail}
    assert set(below) == set(VOTES_ONLY)
    told = below["dawid_skene"].data.metrics
    assert told["ece"] == pytest.approx(content["tasks"]["mail"]["dawid_skene"]["ece"])
    assert told["bounds.ece_floor"] > 0
    history = client.get_metric_history(below["dawid_skene"].info.run_id, "per_seed.auroc")
    assert [each.step for each in history] == [0, 1]
    assert {each.path for each in client.list_artifacts(outer)} == {"bench.json", "bench.png"}


def test_a_log_that_breaks_off_is_no_finished_bench(folder, tmp_path):
    content = as_json(run(folder, encode, 1, only("majority_vote")))
    state = State.from_environment({"POLARSCORE_HOME": str(tmp_path / "state")})

    class Stopped(Figure):
        def savefig(self, *given, **named):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log_bench(state, content, Stopped(), 1)
    client = connect(state)
    only_run, = client.search_runs([client.get_experiment_by_name("bench").experiment_id])
    assert only_run.info.status == "FAILED"


@pytest.fixture
def command(monkeypatch, capfd, tmp_path):
    """Runs the command line; returns the exit code, standard output and standard error."""

    monkeypatch.chdir(tmp_path)
    for name in ("POLARSCORE_HOME", "POLARSCORE_DATABASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)

    def command(*arguments):
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", os.environ.copy())  # MLflow leaves its URI there
            patch.setattr(sys, "argv", ["polarscore", "bench", *map(str, arguments)])
            with pytest.raises(SystemExit) as end:
                polarscore.main()
        return end.value.code, *capfd.readouterr()

    return command


def test_the_command_prints_json_alone_or_tables(command, folder, tmp_path):
    given = (folder, "--methods", "majority_vote, dawid_skene", "--seeds", 2, "--plot", tmp_path / "bench.png")
    code, said, told = command(*given, "--json")
    assert code == 0
    assert list(json.loads(said)["mean"]) == ["majority_vote", "dawid_skene"]
    assert "mail, seed 1: 2 methods computed, 0 kept" in told
    assert (tmp_path / "bench.png").stat().st_size > 0
    code, said, told = command(*given)
    assert "mail, seed 1: 0 methods computed, 2 kept" in told
    for part in ("floor", "ceiling", "where ours is behind", "the verdict", "not measured", "logged as run"):
        assert part in said


@pytest.mark.parametrize(("given", "line"), [
    (("--methods", "oracle"), "polarscore: the method 'oracle' is unknown. Expected some of llm_confidence, "),
    (("--methods", ""), "polarscore: the method '' is unknown."),
    (("--plot", "bench.jpg"), "polarscore: --plot bench.jpg should end in .png."),
])
def test_the_command_refuses_in_a_line(command, folder, given, line):
    code, said, told = command(folder, *given)
    assert code == 2 and said == "" and told.startswith(line) and told.count("\n") == 1


def test_the_plot_takes_tasks_that_lack_a_method_or_a_measure(tmp_path):
    told = made_up(polarscore=(0.1, 0.8, 0.5), gold=(0.05, None, 0.5)).measures
    tasks = {"one": told, "a_task_with_a_very_long_name_$1$": {OWN: told[OWN]}}
    drawn = bench_figure(tasks, told, {"mean": {OWN: {"ece_floor": 0.02}}})
    drawn.savefig(tmp_path / "plot.png")
    assert Path(tmp_path / "plot.png").stat().st_size > 0


def test_a_case_keeps_its_labels_apart(folder):
    from training.table import read_table
    from training.task import read_task

    task = read_task(folder / "mail")
    table = read_table(task)
    case = Case.of(task, table, encode(list(table.texts)), 0)
    assert (case.table.labels == -1).all() and (case.labelled.labels == table.labels).all()
    assert replace(case.table, labels=table.labels).digest == table.digest
