"""Merge filters against the original's ids on GPT-2's real vocabulary, and the small tokenizers."""

import functools
import gzip
import json
from pathlib import Path

import pytest
from tokenizers import models

from tests.helpers.random_models import word_tokenizer
from tracr_jax.errors import UserError
from tracr_jax.lm.byte_level import END_OF_TEXT, byte_level
from tracr_jax.lm.tokenizer import Tokenizer

HERE = Path(__file__).parents[1]
EXAMPLES = json.loads((HERE / "golden/data_examples.json").read_text())
BRACKETS = set("()[]{}")


def printable_bytes():
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in prints] + [chr(256 + i) for i in range(256 - len(prints))]


@functools.cache
def gpt2_files():
    merges = gzip.decompress((HERE / "helpers/files/gpt2_merges.txt.gz").read_bytes()).decode()
    pieces = printable_bytes() + [m.replace(" ", "") for m in merges.splitlines()[1:]] + [END_OF_TEXT]
    return merges, {piece: i for i, piece in enumerate(pieces)}


@functools.cache
def gpt2(folder):
    merges, vocab = gpt2_files()
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return gpt2(tmp_path_factory.mktemp("gpt2"))


def keep_dyck(left, right):
    return not {left.replace(" ", ""), right.replace(" ", "")} & BRACKETS


def keep_int_sum(left, right):
    text = (left + right).strip()
    return not (text.isdigit() and len(text) > 1)


RULES = {"dyck": (keep_dyck, 242), "int-sum": (keep_int_sum, 1671)}


@pytest.mark.parametrize("task", RULES)
def test_number_of_merges_that_go(plain, task):
    rule, count = RULES[task]
    assert len(plain.merges()) - len(plain.filtered(rule).merges()) == count
    assert plain.filtered(rule).vocab_size == plain.vocab_size == 50257


@pytest.mark.parametrize("task", ["dyck", "int-sum", "count"])
def test_ids_of_the_original(plain, task):
    tokenizer = plain.filtered(RULES[task][0], as_coded_order=True) if task in RULES else plain
    for text, ids in EXAMPLES["tokenizer_only"][task].items():
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text
    for example in EXAMPLES[task]["examples"]:
        assert tokenizer.encode(example["prompt"]) == example["prompt_ids"]
        assert tokenizer.encode(f" {example['label']}") == example["target_ids"]


def test_hash_merges_stay_in_place_unless_as_coded(plain):
    assert plain.encode(" ## head") == [22492, 1182]
    assert plain.filtered(keep_dyck).encode(" ## head") == [22492, 1182]
    assert plain.filtered(keep_dyck, as_coded_order=True).encode(" ## head") == [220, 2235, 1182]


def test_single_tokens_and_their_text(plain):
    assert plain.single_id(" yes") == 3763
    assert plain.token_text(3763) == " yes"
    assert plain.single_id("Are parenthesis") is None
    assert plain.token_text(198) == "\n"
    assert plain.token_text(50256) == END_OF_TEXT
    assert plain.eos_id == plain.encode(END_OF_TEXT)[0] == 50256
    assert plain.token_text(plain.encode("é"[:1])[0]) == "é"
    assert plain.filtered(keep_dyck).token_text(7) == "("


def test_batch_equals_one_by_one_and_decoding_returns_the_text(plain):
    texts = ["Hello, wörld — 你好 🙂", "", " a  b\n\n\tc", f"x{END_OF_TEXT}y"]
    ids = plain.encode_batch(texts)
    assert ids == [plain.encode(t) for t in texts]
    assert [plain.decode(i) for i in ids] == texts


def test_filtered_tokenizer_survives_its_file(plain, tmp_path):
    filtered = plain.filtered(keep_dyck)
    filtered.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert json.loads(again.to_json()) == json.loads(filtered.to_json())
    assert again.encode("f(x) = [y]") == filtered.encode("f(x) = [y]") != plain.encode("f(x) = [y]")
    assert again.eos_id == filtered.eos_id


def test_digit_split_cuts_numbers_and_their_space():
    pieces = [*printable_bytes(), "Ġ7", "12", END_OF_TEXT]
    model = models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[("Ġ", "7"), ("1", "2")])
    tokenizer = Tokenizer(byte_level(model, special=[END_OF_TEXT], split_digits=True))
    assert [tokenizer.token_text(i) for i in tokenizer.encode("a 712")] == ["a", " ", "7", "1", "2"]
    assert tokenizer.single_id(" 7") is None


def test_whole_words_do_not_bypass_a_filter():
    """Llama 3 looks words up before it merges; a filtered tokenizer must not."""
    vocab = {p: i for i, p in enumerate([*printable_bytes(), "12", END_OF_TEXT])}
    model = models.BPE(vocab=vocab, merges=[("1", "2")], ignore_merges=True)
    tokenizer = Tokenizer(byte_level(model, special=[END_OF_TEXT]))
    assert len(tokenizer.encode("12")) == 1
    assert len(tokenizer.filtered(keep_int_sum).encode("12")) == 2


def test_word_tokenizer():
    words = [" yes", " no", " yellow", "Answer", " 7", "Anne"]
    tokenizer = word_tokenizer(words)
    for word in words:
        token = tokenizer.single_id(word)
        assert token is not None
        assert tokenizer.token_text(token) == word
    assert tokenizer.eos_id == tokenizer.vocab_size - 1
    with pytest.raises(UserError, match="cannot be single tokens"):
        word_tokenizer(["na", "ana"])


def test_missing_files_and_tokens_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="special token '<none>'"):
        Tokenizer.from_json(word_tokenizer([" yes"]).to_json(), {"eos_token": "<none>"})
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}', encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
