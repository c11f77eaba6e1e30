"""Tokenizers for the tests of tasks: GPT-2's real one, and one that splits digits off as SmolLM2's does."""

import functools

from tests.lm.tokenizer_test import gpt2_files
from tracr_jax.lm.tokenizer import END_OF_TEXT, Tokenizer, byte_level_spec


@functools.cache
def gpt2_tokenizer(*, split_digits: bool = False) -> Tokenizer:
    merges, vocab = gpt2_files()
    rules = [m.split(" ") for m in merges.splitlines()[1:]]
    return Tokenizer.from_spec(byte_level_spec(vocab, rules, special=[END_OF_TEXT], split_digits=split_digits))


@functools.cache
def filtered(task, *, split_digits: bool = False, as_coded_order: bool = False) -> Tokenizer:
    return gpt2_tokenizer(split_digits=split_digits).filtered(task.keep_merge, as_coded_order=as_coded_order)
