"""Tokenizers for the tests of tasks: GPT-2's real one, and one that splits digits off as SmolLM2's does."""

import functools

from tokenizers import models

from tests.lm.tokenizer_test import gpt2_files
from tracr_jax.lm.byte_level import END_OF_TEXT, byte_level
from tracr_jax.lm.tokenizer import Tokenizer


@functools.cache
def gpt2_tokenizer(*, split_digits: bool = False) -> Tokenizer:
    merges, vocab = gpt2_files()
    rules = [tuple(m.split(" ")) for m in merges.splitlines()[1:]]
    model = models.BPE(vocab=vocab, merges=rules)
    return Tokenizer(byte_level(model, special=[END_OF_TEXT], split_digits=split_digits))


@functools.cache
def filtered(task, *, split_digits: bool = False, as_coded_order: bool = False) -> Tokenizer:
    return gpt2_tokenizer(split_digits=split_digits).filtered(task.keep_merge, as_coded_order=as_coded_order)
