"""The bundled sets and how they become rows: last words, cuts on the left, lines, windows."""

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.random_models import word_tokenizer
from tracr_jax.measure.language import texts

TOKENIZER = word_tokenizer([" cat", " cats", " dog", "The"])


def test_bundled_files_are_the_published_ones():
    passages = texts.lambada_texts()
    assert len(passages) == 5153
    assert passages[0].startswith("In my palm is a clear stone")
    assert passages[0].endswith("I don't care about signs")
    # The sums that tracr_jax/data/corpus/README.md states.
    for name, start in (("lambada_test.jsonl.gz", "4aa8d02cd17c"), ("wikitext2_test.txt.gz", "bbf94c53a05a")):
        assert hashlib.sha256(texts._read(name).encode()).hexdigest().startswith(start)
    assert texts.shakespeare().count("\n") == 2000
    assert texts.shakespeare().startswith("First Citizen:\nBefore we proceed")
    assert "Robert Boulter" in texts.wikitext()


def words(*passages, positions=50):
    return texts.last_word_rows(passages, TOKENIZER, positions=positions)


def test_the_last_word_is_all_its_tokens_and_the_space_before_it():
    for passage, word in [
        ("The dog saw two cats", " cats"),
        ("The dog saw an owl", " owl"),
        ("The dog\n\nran", "\n\nran"),
        ("The dog said “cat", " “cat"),
        ("The cat, the dog ", " dog "),
    ]:
        rows = words(passage)
        (row,), (count,) = rows.ids, rows.targets
        assert TOKENIZER.decode(row) == passage
        assert TOKENIZER.decode(row[-count:]) == word


def test_a_word_that_merges_with_what_stands_before_it_is_scored_from_there():
    class Merging:
        """Spells letters, but "a b" is one token."""

        def encode_batch(self, texts):
            return [[ord(c) for c in t.replace("a b", "\u0100")] for t in texts]

    rows = texts.last_word_rows(["xya b"], Merging(), positions=9)
    assert rows.ids == [[ord("x"), ord("y"), 0x100]]
    assert rows.targets == [1]


def test_long_passages_lose_their_beginning_never_their_last_word():
    passage = "The cat" + 20 * " dog" + " owl"
    rows = words(passage, "The cat", positions=6)
    assert rows.cut == 1
    assert [TOKENIZER.decode(r) for r in rows.ids] == [" dog dog dog owl", "The cat"]
    assert rows.targets == [4, 1]
    assert len(rows.ids[0]) == 7


def test_what_has_nothing_before_its_last_word_is_skipped():
    rows = words("", "   ", "cat", " dog", "The cat", "The crocodile", positions=5)
    assert [TOKENIZER.decode(r) for r in rows.ids] == ["The cat"]
    assert rows.skipped == 5


def test_lines_stand_alone_without_their_ends():
    text = "The cat\n\n  \nThe\n dog dog dog dog\nThe dog\n"
    rows = texts.line_rows(text, TOKENIZER, positions=2)
    assert [TOKENIZER.decode(r) for r in rows.ids] == ["The cat", " dog dog dog", "The dog"]
    assert (rows.cut, rows.skipped) == (1, 1)
    assert len(texts.line_rows(text, TOKENIZER, positions=2, limit=3).ids) == 2


@given(st.integers(2, 60), st.integers(1, 20))
def test_windows_score_every_token_but_the_first_once(tokens, length):
    ids = list(range(tokens))
    rows = texts.stream_rows(ids, length=length)
    assert [i for row in rows for i in row[1:]] == ids[1:]
    assert all(2 <= len(row) <= length + 1 for row in rows)
    assert all(b[0] == a[-1] for a, b in itertools.pairwise(rows))


@pytest.mark.parametrize("limit", [1, 2])
def test_the_first_windows(limit):
    assert texts.stream_rows(range(10), length=3, limit=limit) == [[0, 1, 2, 3], [3, 4, 5, 6]][:limit]
