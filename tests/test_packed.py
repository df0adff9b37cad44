import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from training.packed import PackedNetwork, PaddedNetwork, _after, _embed, loaded, packed, pooled
from training.packing import packs, runs
from training.reading import Tokens, joined
from training.running import Runner

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 32, "max_position_embeddings": 40}
LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=20)


def network(kind=BertModel, config=BertConfig, **other):
    torch.manual_seed(3)
    return kind(config(**{**SMALL, **other})).eval()


def tokens(lengths, entities=0, seed=0):
    random = np.random.default_rng(seed)
    lengths = np.asarray(lengths, dtype=np.int64)
    total = int(lengths.sum())
    weights = random.random((total, 1 + entities)).astype(np.float32)
    return Tokens(random.integers(4, 50, total).astype(np.int32), lengths, weights)


def one_by_one(net, read):
    """The states of each text, run alone by transformers."""
    starts = np.cumsum(read.lengths) - read.lengths
    with torch.inference_mode():
        return torch.cat([net(input_ids=torch.from_numpy(read.ids[a : a + n]).long()[None]).last_hidden_state[0]
                          for a, n in zip(starts, read.lengths, strict=True)])


@given(LENGTHS, st.integers(1, 100))
def test_packs_hold_every_row_once_within_the_budget_and_leave_no_room_for_the_next(lengths, budget):
    lengths = np.array(lengths)
    found = list(packs(lengths, budget))
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    assert all(len(rows) == 1 or lengths[rows].sum() <= budget for rows in found)
    assert all(lengths[rows].sum() + lengths[after[0]] > budget
               for rows, after in itertools.pairwise(found))
    assert np.diff(lengths[np.concatenate(found)]).min(initial=0) >= 0


@given(LENGTHS)
def test_runs_cover_a_pack(lengths):
    lengths = np.sort(lengths)
    found = list(runs(lengths))
    assert [length for _, texts, length in found for _ in range(texts)] == lengths.tolist()
    assert [start for start, *_ in found] == np.cumsum([0, *(n * length for _, n, length in found)])[:-1].tolist()
    assert len({length for *_, length in found}) == len(found)


@settings(max_examples=20)
@given(LENGTHS, st.randoms())
def test_taking_and_joining_keep_every_text_whole(lengths, random):
    read, rows = tokens(lengths, 1), list(range(len(lengths)))
    random.shuffle(rows)
    taken = read.take(np.array(rows))
    back = taken.take(np.argsort(rows))
    assert all(np.array_equal(getattr(back, name), getattr(read, name)) for name in ("ids", "lengths", "pools"))
    half = len(rows) // 2
    parts = [read.take(np.arange(*ends)) for ends in ((0, half), (half, len(rows))) if ends[0] < ends[1]]
    assert np.array_equal(joined(parts).ids, read.ids)


@pytest.mark.parametrize(("kind", "config", "how"), [
    (BertModel, BertConfig, PackedNetwork), (RobertaModel, RobertaConfig, PackedNetwork),
    (DistilBertModel, DistilBertConfig, PaddedNetwork)])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_pack_gives_each_text_the_states_that_it_has_alone(kind, config, how, activation):
    other = {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 32, "activation": activation} \
        if kind is DistilBertModel else {"hidden_act": activation}
    net, read = network(kind, config, **other), tokens([3, 3, 7, 8, 8, 30])
    run = packed(net, torch.float32)
    assert isinstance(run, how)
    with torch.inference_mode():
        assert run(loaded(read, "cpu")).numpy() == pytest.approx(one_by_one(net, read).numpy(), abs=2e-6)


def test_what_is_compiled_for_a_gpu_is_compiled_once_for_any_number_of_tokens(monkeypatch):
    from torch._dynamo.testing import CompileCounter

    compilations = CompileCounter()
    monkeypatch.setattr("training.packed._embed", torch.compile(_embed, backend=compilations))
    monkeypatch.setattr("training.packed._after", torch.compile(_after, backend=compilations))
    net = PackedNetwork(network(), torch.float32)
    with torch.inference_mode():
        for lengths in ([3, 4], [5, 9, 30], [2] * 7, [11]):
            read = tokens(lengths)
            assert net(loaded(read, "cpu")).numpy() == pytest.approx(one_by_one(network(), read).numpy(), abs=2e-6)
    assert compilations.frame_count == 2


def test_pooling_weighs_tokens_within_their_text():
    read = tokens([2, 3], entities=1)
    states = torch.randn(5, 16)
    found = pooled(states, loaded(read, "cpu")).numpy()
    weights = torch.from_numpy(read.pools)
    expected = torch.stack([weights[:2].T @ states[:2], weights[2:].T @ states[2:]]).numpy()
    assert found.shape == (2, 2, 16) and found == pytest.approx(expected, abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(LENGTHS, st.integers(1, 200))
def test_results_come_in_the_order_of_the_texts_whatever_the_budget(lengths, budget):
    net, read, done = network(), tokens(lengths), []
    found = Runner(net, "cpu", lambda pooled: pooled[:, 0], budget)(read, done.append)
    with torch.inference_mode():
        states = one_by_one(net, read)
    expected = pooled(states, loaded(read, "cpu"))[:, 0].numpy()
    assert found == pytest.approx(expected, abs=1e-5) and sum(done) == len(lengths)
