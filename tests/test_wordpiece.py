from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from training.encoder import Encoder
from training.reading import MAX_TOKENS, Reader
from training.wordpiece import WordPiece

ASCII = st.text(st.characters(min_codepoint=0, max_codepoint=127), max_size=80)
WORDY = st.lists(st.sampled_from(["the", "Unbelievable", "x1y", "don't", "U.S.", "$5,000!", "_", "\t", " ", "[CLS]",
                                  "[mask]", "http://a.b/c?d=1", "naïve", "数", "A" * 120, "\ufffd", "#hash"]),
                 max_size=30).map(" ".join)


@pytest.fixture(scope="module")
def tokenizer():
    return Encoder().read._tokenizer


@settings(max_examples=300)
@given(st.lists(ASCII | WORDY | st.text(max_size=40), max_size=6))
@example(["", " ", "a\x00b", "a\x1fb", "a\x7fb", "[CLS] a", "word " * 300, "unbelievably " * 200])
def test_every_text_is_read_as_the_tokenizer_reads_it(tokenizer, texts):
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    read = Reader(tokenizer)(texts)
    expected = [one.ids for one in tokenizer.encode_batch(texts)]
    assert read.lengths.tolist() == [len(ids) for ids in expected]
    assert read.ids.tolist() == [number for ids in expected for number in ids]


def test_plain_texts_do_not_reach_the_tokenizer(tokenizer):
    fast = WordPiece.of(tokenizer, MAX_TOKENS)
    assert fast.takes("Plain text, naïvely.") and not fast.takes("a\x00b") and not fast.takes("a [SEP] b")
    ids, lengths = fast(["a a", "b"])
    assert lengths.tolist() == [4, 3] and np.array_equal(ids[:4], tokenizer.encode("a a").ids)


def test_a_tokenizer_of_another_make_is_left_alone():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    other = Tokenizer(WordLevel({"a": 0, "?": 1}, unk_token="?"))
    other.pre_tokenizer = Whitespace()
    assert WordPiece.of(other, 10) is None
    assert Reader(other)(["a a b"]).ids.tolist() == [0, 0, 1]


def test_what_is_remembered_is_bounded_and_forgetting_changes_nothing(monkeypatch, tokenizer):
    monkeypatch.setattr("training.wordpiece.REMEMBERED", 8)
    monkeypatch.setattr("training.wordpiece.AT_ONCE", 40)
    fast = WordPiece.of(tokenizer, MAX_TOKENS)
    texts = [f"word{number} unbelievably{number * 7} is {number}" for number in range(40)]
    for _ in range(2):
        ids, lengths = fast(texts)
        assert lengths.tolist() == [len(tokenizer.encode(text).ids) for text in texts]
        assert ids.tolist() == [number for text in texts for number in tokenizer.encode(text).ids]
        assert len(fast._pieces) <= 8 + 40
    assert fast([])[0].shape == (0,)


def test_pieces_whose_hashes_are_made_to_agree_are_not_mixed_up(tokenizer):
    def thue_morse(length, zero, one):
        return "".join(one if number.bit_count() % 2 else zero for number in range(length))

    texts = [thue_morse(2048, "a", "!"), thue_morse(2048, "!", "a"), thue_morse(1024, "b", "-")]
    fast = WordPiece.of(tokenizer, MAX_TOKENS)
    for _ in range(2):
        ids, _ = fast(texts)
        assert ids.tolist() == [number for text in texts for number in tokenizer.encode(text).ids]


def test_several_threads_share_what_is_remembered(tokenizer):
    fast = WordPiece.of(tokenizer, MAX_TOKENS)
    texts = [f"n{number % 700} of {number}" for number in range(4000)]
    expected = [tokenizer.encode(text).ids for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for start, (ids, lengths) in zip(range(0, 4000, 100), pool.map(
                lambda start: fast(texts[start : start + 100]), range(0, 4000, 100)), strict=True):
            assert ids.tolist() == [number for each in expected[start : start + 100] for number in each]
            assert len(lengths) == 100
