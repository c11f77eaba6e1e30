"""Runs of both families to export: random weights in which nothing is zero or one, on tokenizers of both kinds."""

import dataclasses
import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import models, processors

from tests.helpers import interpret_parts as P
from tests.helpers.random_models import TASK_WORDS, word_tokenizer
from tracr_jax.export import export_run
from tracr_jax.lm.byte_level import byte_level
from tracr_jax.lm.llama import Llama, LlamaConfig
from tracr_jax.lm.load import LoadedLM
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.lm.tokenizer_files import parsed
from tracr_jax.runs.build import build
from tracr_jax.runs.model import Injected, untouched

families = pytest.mark.parametrize("family", ["gpt2", "llama"])

# Shaped like evaluate's result; the numbers are of no run.
EVALUATION = {
    "sets": {
        "test": {
            "note": "Half | half.",
            "sample": 40,
            "injected": {"accuracy": 0.875, "low": 0.739, "high": 0.945},
            "original": {"accuracy": 0.025},
            "baselines": {"always_no": 0.5},
        }
    },
    "decode": {"test": {"all_positions": {"final_result_1": {"accuracy": 0.625, "majority": 0.975}}}},
    "retention": {"text": "held-out windows", "original": 37.125, "injected": 38.25},
}


def word_digits_tokenizer():
    """A small tokenizer that cuts digits off first and begins texts with a token of its own, as Llama's do."""
    words = word_tokenizer(TASK_WORDS)
    backend = parsed(words.to_json())
    backend.pre_tokenizer = byte_level(models.BPE(), split_digits=True).pre_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single=f"{words.eos_token} $A",
        pair=f"{words.eos_token} $A $B:1",
        special_tokens=[(words.eos_token, words.eos_id)],
    )
    return Tokenizer(backend, {"add_bos_token": True, "tokenizer_class": "LlamaTokenizerFast"})


def _llama() -> LoadedLM:
    tokenizer = word_digits_tokenizer()
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=18,
        intermediate_size=24,
        num_hidden_layers=8,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=6,
        max_position_embeddings=256,
    )
    return LoadedLM(Llama(config), None, tokenizer, "llama", "nowhere")


@functools.cache
def run_of(family: str) -> Injected:
    """A run of the small dyck task, as if trained."""
    run = P.small_run()
    if family == "llama":
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRACR_JAX_CACHE", folder)
            text = Path(folder) / "text.txt"
            text.write_text("the number of this text is here\n" * 900)
            config = dataclasses.replace(P.CONFIG, data=dataclasses.replace(P.CONFIG.data, text=str(text)))
            lm = _llama()
            shapes = jax.eval_shape(lm.model.init, jax.random.key(0))
            lm = dataclasses.replace(lm, params=jax.tree.map(lambda s: jnp.zeros(s.shape), shapes))
            run = untouched(build(config, task=P.DYCK, lm=lm))
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        around = 1.0 if getattr(path[-1], "key", "") == "scale" else 0.0
        return jnp.asarray(around + 0.2 * rng.standard_normal(leaf.shape), jnp.float32)

    params, adapter = jax.tree_util.tree_map_with_path(draw, (run.params, run.adapter))
    return dataclasses.replace(run, params=params, programs=(run.program.trained(adapter),))


def exporter(tmp_path_factory):
    """Family -> its exported folder, made when it is first asked for."""

    @functools.cache
    def get(family):
        return export_run(run_of(family), tmp_path_factory.mktemp("export") / family, evaluation=EVALUATION)

    return get


def code_blocks(markdown: str, language: str = "python") -> list[str]:
    """The fenced blocks of one language, in order."""
    parts = markdown.split(f"```{language}\n")[1:]
    return [part.split("```")[0] for part in parts]
