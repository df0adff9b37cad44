import numpy as np
import pytest
import torch

from training.aggregation import AGGREGATORS
from training.errors import InputError
from training.fit import FitConfig, Voted, fit
from training.harmonizer import make_harmonizer
from training.pareto import SCALARISERS, source_losses, uniform_weights, vote_table

WAYS = [*SCALARISERS, *AGGREGATORS]
QUICK = FitConfig(epochs=5, batch_size=16)


def voted(n, seed=0, noise=(0.05, 0.1, 0.2)):
    """Vectors in two clouds, and the LLM and two sources that see which, with noise; the last often abstains."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, n)
    vectors = (random.normal(size=(n, 6)) + 2 * truth[:, None]).astype(np.float32)
    votes = np.stack([np.where(random.random(n) < wrong, 1 - truth, truth) for wrong in noise], axis=1)
    votes[random.random(n) < 0.5, -1] = -1
    return Voted(vectors, votes), truth


TRAIN, HELD_OUT = voted(120)[0], voted(40, seed=1)[0]


def weights_of(fitted):
    return {name: tensor.numpy().tobytes() for name, tensor in fitted.harmonizer.state_dict().items()}


@pytest.mark.parametrize("harmonizer", ["linear", "mlp"])
@pytest.mark.parametrize("scalariser", WAYS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(harmonizer, scalariser):
    config = FitConfig(harmonizer, scalariser, epochs=3, batch_size=16)
    torch.manual_seed(1)
    first = fit(TRAIN, HELD_OUT, 2, uniform_weights(3), config)
    torch.manual_seed(2)  # whatever the global state is
    second = fit(TRAIN, HELD_OUT, 2, uniform_weights(3), config)
    other = fit(TRAIN, HELD_OUT, 2, uniform_weights(3), FitConfig(harmonizer, scalariser, 3, 16, seed=1))
    assert weights_of(first) == weights_of(second) != weights_of(other)


@pytest.mark.parametrize("scalariser", WAYS)
def test_the_harmonizer_learns_what_the_sources_agree_on(scalariser):
    rows, truth = voted(300)
    config = FitConfig(scalariser=scalariser, batch_size=32, learning_rate=0.005)
    fitted = fit(rows, HELD_OUT, 2, uniform_weights(3), config)
    with torch.inference_mode():
        said = fitted.harmonizer(torch.from_numpy(rows.vectors)).argmax(dim=1).numpy()
    assert (said == truth).mean() > 0.95
    assert fitted.epochs[fitted.best - 1].loss < fitted.epochs[0].loss


@pytest.mark.parametrize("scalariser", WAYS)
def test_a_weight_of_0_leaves_a_source_out(scalariser):
    config, weights = FitConfig(scalariser=scalariser, epochs=3, batch_size=16), np.array([0.5, 0.5, 0.0])
    silenced = [Voted(rows.vectors, np.column_stack([rows.votes[:, :2], np.full(len(rows.votes), -1)]))
                for rows in (TRAIN, HELD_OUT)]
    without = [Voted(rows.vectors, rows.votes[:, :2]) for rows in (TRAIN, HELD_OUT)]
    found = weights_of(fit(TRAIN, HELD_OUT, 2, weights, config))
    assert found == weights_of(fit(*silenced, 2, weights, config)) == weights_of(fit(*without, 2, weights[:2], config))


def test_rows_without_a_vote_change_nothing():
    random = np.random.default_rng(5)
    more = Voted(np.concatenate([TRAIN.vectors, random.normal(size=(30, 6)).astype(np.float32)]),
                 np.concatenate([TRAIN.votes, np.full((30, 3), -1)]))
    assert weights_of(fit(more, HELD_OUT, 2, uniform_weights(3), QUICK)) == weights_of(
        fit(TRAIN, HELD_OUT, 2, uniform_weights(3), QUICK))


def test_training_stops_where_agreement_with_held_out_votes_no_longer_grows():
    noise = Voted(HELD_OUT.vectors, np.random.default_rng(3).integers(0, 2, HELD_OUT.votes.shape))
    fitted = fit(TRAIN, noise, 2, uniform_weights(3), FitConfig(epochs=200, patience=3, learning_rate=0.01))
    held_out = [epoch.held_out_loss for epoch in fitted.epochs]
    assert len(fitted.epochs) == fitted.best + 3 < 200
    assert fitted.best - 1 == int(np.argmin(held_out))


def test_what_is_kept_is_the_best_epoch():
    fitted = fit(TRAIN, HELD_OUT, 2, uniform_weights(3), FitConfig(epochs=40, patience=2, learning_rate=0.02))
    with torch.inference_mode():
        log_h = fitted.harmonizer(torch.from_numpy(HELD_OUT.vectors)).numpy()
    best = fitted.epochs[fitted.best - 1]
    assert source_losses(HELD_OUT.votes, log_h) == pytest.approx(best.held_out_source_losses)
    assert best.held_out_loss == pytest.approx(source_losses(HELD_OUT.votes, log_h).mean(), rel=1e-5)  # linear, 1/m


def test_each_epoch_is_reported_as_it_ends():
    seen = []
    fitted = fit(TRAIN, HELD_OUT, 2, uniform_weights(3), QUICK, seen.append)
    assert seen == fitted.epochs and [epoch.number for epoch in seen] == list(range(1, len(seen) + 1))
    assert all(epoch.source_losses.shape == (3,) for epoch in seen)


@pytest.mark.parametrize(
    ("config", "weights", "found"),
    [
        (FitConfig(harmonizer="forest"), [1, 1, 1], "harmonizer 'forest' is unknown. Expected one of linear, mlp"),
        (FitConfig(scalariser="cubic"), [1, 1, 1], "scalariser 'cubic' is unknown. Expected one of linear, quad"),
        (FitConfig(scalariser="pcgrad"), [1, 1, 1], "Expected one of linear, .*, mgda, upgrad"),
        (QUICK, [0, 0, 0], "no source with a weight above 0 votes on any row"),
    ],
)
def test_what_cannot_be_trained_is_refused(config, weights, found):
    with pytest.raises(InputError, match=found):
        fit(TRAIN, HELD_OUT, 2, np.array(weights, dtype=float), config)


def test_one_source_that_never_votes_is_no_vote_to_learn_from():
    silent = Voted(TRAIN.vectors, np.full((120, 1), -1))
    with pytest.raises(InputError, match="no source with a weight above 0 votes"):
        fit(silent, HELD_OUT, 2, np.ones(1), QUICK)


@pytest.mark.parametrize("scalariser", AGGREGATORS)
def test_an_aggregator_keeps_families_apart(scalariser):
    config = FitConfig(scalariser=scalariser, epochs=3, batch_size=16)
    one, apart = (fit(TRAIN, HELD_OUT, 2, uniform_weights(3), config, families=families)
                  for families in (["llm", "llm", "llm"], ["llm", "a", "b"]))
    assert weights_of(apart) == weights_of(fit(TRAIN, HELD_OUT, 2, uniform_weights(3), config)) != weights_of(one)


def test_many_sources_of_a_family_each_are_two_objectives():
    rows = Voted(TRAIN.vectors, np.repeat(TRAIN.votes, 20, axis=1))
    fitted = fit(rows, rows, 2, uniform_weights(60), FitConfig(scalariser="upgrad", epochs=2, batch_size=16))
    assert all(np.isfinite(epoch.source_losses).all() for epoch in fitted.epochs)


class SmallGPU(torch.nn.Linear):
    """Has no memory for more than ten rows at once."""

    def forward(self, rows):
        if len(rows) > 10:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return super().forward(rows)


@pytest.mark.parametrize("scalariser", SCALARISERS)
def test_a_gpu_without_memory_gets_smaller_batches_and_the_same_steps(scalariser, monkeypatch):
    config, said = FitConfig("linear", scalariser, epochs=2, batch_size=48), []
    expected = fit(TRAIN, HELD_OUT, 2, uniform_weights(3), config)
    monkeypatch.setattr("training.harmonizer.nn.Linear", SmallGPU)
    found = fit(TRAIN, HELD_OUT, 2, uniform_weights(3), config, tell=said.append)
    assert said[0] == "the GPU ran out of memory: going on with batches of at most 32,768 rows." and len(said) == 13
    for one, other in zip(found.harmonizer.parameters(), expected.harmonizer.parameters(), strict=True):
        assert one.detach().numpy() == pytest.approx(other.detach().numpy(), abs=1e-4)
    assert [epoch.loss for epoch in found.epochs] == pytest.approx([epoch.loss for epoch in expected.epochs], abs=1e-4)


@pytest.mark.parametrize("name", SCALARISERS)
def test_a_step_in_bf16_is_nearly_that_in_float32(name):
    random = np.random.default_rng(0)
    vectors = torch.from_numpy(random.normal(size=(64, 16)).astype(np.float32))
    scalariser = SCALARISERS[name]
    votes = random.integers(-1, 3, (64, 5))
    table = torch.from_numpy(vote_table(votes, np.full(5, 0.2), 3, scalariser.gather))
    found = []
    for half in (False, True):
        harmonizer = make_harmonizer("mlp", 16, 3, seed=0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            log_h = harmonizer(vectors)
        loss = scalariser.combine(table, -log_h).mean()
        loss.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in harmonizer.parameters()])
        assert torch.isfinite(gradient).all()
        found.append((loss.item(), gradient))
    assert found[1][0] == pytest.approx(found[0][0], rel=0.02)
    assert (found[1][1] - found[0][1]).norm() < 0.2 * found[0][1].norm()
