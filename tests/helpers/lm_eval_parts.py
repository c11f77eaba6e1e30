"""Small random models for the lm-evaluation-harness, opened by our adapter and by its own Hugging Face adapter."""

import json
import shutil

import jax
import numpy as np

from tests.helpers.random_models import TASK_WORDS, random_lm, word_tokenizer
from tracr_jax.lm.convert import save_hf_folder
from tracr_jax.lm.gpt2 import GPT2Config
from tracr_jax.lm.llama import LlamaConfig

POSITIONS = 64
LONG = " ".join(f"{k} is the number of words in this text;" for k in range(12))
PROMPTS = [" ".join(TASK_WORDS[k : k + n]) for k, n in ((0, 3), (4, 9), (9, 1), (11, 14), (2, 7), (6, 5))]


def opened(folder, **options):
    from tracr_jax.export.lm_eval import TracrLM

    return TracrLM(folder, **options)


def theirs(folder, *, batch_size=4, **options):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=batch_size, **options)


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


def copied(folder, to, *, config, post_processor=None):
    """The model's folder with other settings of the tokenizer."""
    shutil.copytree(folder, to)
    for name, change in (
        ("tokenizer_config.json", config),
        ("tokenizer.json", {"post_processor": post_processor}),
    ):
        path = to / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return to


def write_lm(folder, kind):
    """Write a model that tells tokens clearly apart and often ends a text."""
    tokenizer = word_tokenizer(TASK_WORDS)
    size = tokenizer.vocab_size
    if kind == "gpt2":
        config = GPT2Config(vocab_size=size, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=2)
    else:
        config = LlamaConfig(
            vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, max_position_embeddings=POSITIONS, rope_theta=10000.0,
        )  # fmt: skip
    model, params = random_lm(config)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.3 * rng.standard_normal(x.shape).astype(np.float32), params)
    # The tied embedding's row of the end of text is longer than the others: some texts end, and others do not.
    longer = {"gpt2": 3, "llama": 2}[kind]
    params = jax.tree.map(lambda x: x.at[tokenizer.eos_id].multiply(longer) if x.shape[0] == size else x, params)
    save_hf_folder(folder, model, params, tokenizer)
