import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.embeddings import EmbeddingCache, Memory, text_keys
from training.encoder import Encoder, default_spec
from training.harmonizer import make_harmonizer
from training.prepared import ready
from training.spec import EncoderSpec
from training.transformer import make_transformer

SPEC = EncoderSpec("counted", "1", 4)


class Counted:
    def __init__(self):
        self.seen = []

    def encode(self, texts, progress=lambda done: None):
        self.seen += texts
        return np.stack([np.full(4, len(text), dtype=np.float32) for text in texts])


@settings(max_examples=50)
@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 12))
def test_memory_holds_the_newest_that_fit_and_never_mixes_them_up(numbers, room):
    memory = Memory(1, size=4 * room)
    for number in numbers:
        memory.put([bytes([number])], np.full((1, 1), number, dtype=np.float32))
    vectors, known = memory.find([bytes([number]) for number in range(31)])
    assert known.sum() == min(room, len(set(numbers)))
    assert vectors[known, 0].tolist() == np.flatnonzero(known).tolist()
    memory.clear()
    assert not memory.find([bytes([number]) for number in range(31)])[1].any()


def test_more_than_fits_keeps_the_last():
    memory = Memory(1, size=8)
    memory.put([b"a", b"b", b"c"], np.arange(3, dtype=np.float32)[:, None])
    assert memory.find([b"a", b"b", b"c"])[1].tolist() == [False, True, True]


def test_a_text_is_encoded_once_however_often_it_occurs_and_wherever_it_is_remembered(tmp_path):
    texts = ["a", "bb", "a", "ccc", "bb"]
    for path in (None, tmp_path / "cache.db"):
        counted = Counted()
        cache = EmbeddingCache(path, lambda c=counted: c, SPEC, memory=2 * 4 * 4)
        for _ in range(2 if path else 1):
            assert cache.encode(texts)[:, 0].tolist() == [1, 2, 1, 3, 2]
        assert counted.seen == ["a", "bb", "ccc"]
        assert cache.encode([]).shape == (0, 4)


def test_what_is_erased_from_the_file_is_forgotten_by_every_process(tmp_path):
    path, counted = tmp_path / "cache.db", Counted()
    cache = EmbeddingCache(path, lambda: counted, SPEC)
    cache.encode(["a", "bb"])
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM vectors WHERE key = ?", text_keys(SPEC, ["a"]))
        database.execute("PRAGMA user_version = 1")
    database.close()
    cache.encode(["a", "bb"])
    assert counted.seen == ["a", "bb", "a"]


def test_a_cache_that_does_not_write_reads_what_others_wrote_and_forgets_what_they_erase(tmp_path):
    path, counted, other = tmp_path / "cache.db", Counted(), Counted()
    EmbeddingCache(path, lambda: other, SPEC).encode(["a"])
    cache = EmbeddingCache(path, lambda: counted, SPEC, writes=False)
    cache.encode(["a", "bb"])
    cache.encode(["a", "bb"])
    assert counted.seen == ["bb"]
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM vectors").fetchone() == (1,)
        database.execute("PRAGMA user_version = 1")
    database.close()
    cache.encode(["bb"])
    assert counted.seen == ["bb", "bb"]


def test_a_text_that_is_erased_while_it_is_encoded_is_not_kept(tmp_path):
    path = tmp_path / "cache.db"

    class Slow(Counted):
        def encode(self, texts, progress=lambda done: None):
            if not self.seen:
                with sqlite3.connect(path) as database:
                    database.execute("PRAGMA user_version = 1")
                database.close()
            return super().encode(texts, progress)

    slow = Slow()
    cache = EmbeddingCache(path, lambda: slow, SPEC)
    for _ in range(3):
        cache.encode(["a"])
    assert slow.seen == ["a", "a"]  # the first was erased while it was under way


@pytest.mark.parametrize("kind", ["vectors", "texts"])
def test_what_several_prepared_is_scored_in_one_pass_as_if_each_were_alone(kind):
    harmonizer = make_harmonizer("mlp", 384, 3, 0).eval() if kind == "vectors" else make_transformer(0, 3, 0)
    made = ready(harmonizer, default_spec(), "cpu", pack_tokens=40)
    texts = np.array(["one", "two words", "three more words", "one"], dtype=object)
    spans = np.empty((4, 0, 2), dtype=np.int64)
    parts = [made.prepare(texts[a:b], spans[a:b]) for a, b in ((0, 1), (1, 3), (3, 4))]
    assert [len(part.tokens.lengths) for part in parts] == [1, 2, 1]
    together = made.beliefs(parts)
    for row in range(4):
        alone = made.beliefs([made.prepare(texts[row : row + 1], spans[:1])])
        assert alone[0] == pytest.approx(together[row], abs=1e-5)
    again = made.prepare(texts, spans)
    assert again.work == 0 if kind == "vectors" else again.work > 0
    assert made.beliefs([again]) == pytest.approx(together, abs=1e-5)
    assert parts[0].keys == text_keys(default_spec(), ["one"])
    several = made.prepare(np.array(["new"] * 5, dtype=object), np.empty((5, 0, 2), dtype=np.int64))
    assert len(several.tokens.lengths) == 1
    assert np.ptp(made.beliefs([several, several]), axis=0).max() < 1e-6
    made.warm_up()


def test_what_was_scored_is_written_later_unless_it_was_erased_meanwhile(tmp_path):
    cache = EmbeddingCache(tmp_path / "cache.db", Encoder, default_spec())
    made = ready(make_harmonizer("mlp", 384, 3, 0).eval(), default_spec(), "cpu", cache)
    spans = np.empty((1, 0, 2), dtype=np.int64)
    rows = []
    for number, text in enumerate(["kept", "erased"]):
        part = made.prepare(np.array([text], dtype=object), spans)
        made.beliefs([part])
        with sqlite3.connect(tmp_path / "cache.db") as database:
            if number:
                database.execute("PRAGMA user_version = 5")
        made.remember([part])
        cache._writing.submit(lambda: None).result()
        rows.append(database.execute("SELECT count(*) FROM vectors").fetchone()[0])
        database.close()
    assert rows == [1, 1]


def test_a_file_that_is_damaged_meanwhile_stops_nobody(tmp_path, caplog):
    path = tmp_path / "cache.db"
    cache = EmbeddingCache(path, Encoder, default_spec())
    made = ready(make_harmonizer("mlp", 384, 3, 0).eval(), default_spec(), "cpu", cache)
    for each in tmp_path.iterdir():
        each.unlink()
    path.write_text("dear diary, " * 500)
    for _ in range(2):
        part = made.prepare(np.array(["text"], dtype=object), np.empty((1, 0, 2), dtype=np.int64))
        assert made.beliefs([part]).shape == (1, 3)
        made.remember([part])
    cache._writing.submit(lambda: None).result()
    assert caplog.text.count("cannot be used") == 1


def test_float32_is_what_this_processor_computes_in_unless_it_has_better():
    encoder = Encoder()
    assert encoder.runner.precision in ("float32", "bfloat16") and encoder.runner.pack_tokens == 2048
