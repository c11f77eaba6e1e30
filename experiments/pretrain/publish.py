"""The checkpoint as a Hugging Face folder, and the card that tells where it comes from."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import tokenizers

from experiments.pretrain.recipe import Recipe, grow
from tracr_jax.files import write_json, write_text
from tracr_jax.lm.convert import save_hf_folder
from tracr_jax.lm.tokenizer import END_OF_TEXT, Tokenizer
from tracr_jax.types import Params


def export(folder: Path, params: Params, recipe: Recipe, raw: tokenizers.Tokenizer) -> None:
    """Write the folder, weights in float16; a checkpoint of an earlier stage is grown to the last one's blocks."""
    blocks = recipe.stages[-1].blocks
    while params["blocks"]["ln_1"]["scale"].shape[0] < blocks:
        params = grow(params)
    ends = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
    config = ends | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": recipe.positions,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
    tokenizer = Tokenizer(raw, config)
    save_hf_folder(folder, recipe.model(blocks), params, tokenizer, dtype="float16")
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id, "do_sample": False},
    )


def write_card(folder: Path, result: dict[str, Any]) -> None:
    """README.md of the folder, its numbers from the result file."""
    write_text(folder / "README.md", _card(result))


def _card(result):
    recipe, training = result["recipe"], result["training"]
    names = list(next(iter(result["texts"].values())))
    head = _row(["text", *names]) + "\n" + "|---" * (1 + len(names)) + "|"
    rows = [
        _row([text, *(f"{s['perplexity']:.1f} ({s['bits_per_byte']:.3f})" for s in by.values())])
        for text, by in result["texts"].items()
    ]
    last = recipe["stages"][-1]
    stages = "; ".join(
        f"from {s['start']:.0%} of the pass {s['blocks']} blocks, sequences of {s['length']}"
        for s in recipe["stages"]
    )
    drawn = result["sample"]["texts"][0]
    return f"""---
language: en
library_name: transformers
pipeline_tag: text-generation
---
# tracr-jax tiny: a GPT-2 of {last["blocks"]} blocks x {recipe["width"]}

A small language model that comes with `tracr_jax`, so that its main job needs neither a download nor an
accelerator. {training["parameters"]:,} parameters, {recipe["positions"]} positions, float16, GPT-2's
architecture without a change: `AutoModelForCausalLM.from_pretrained` of this folder loads it. It is deep for its
width because it has to hold programs of up to 21 layers. It writes simple English and knows nothing.

## Text
{training["tokens_in_text"]:,} tokens, of which the training predicted {training["tokens_seen"]:,}
({training["passes"]:.3f} passes).
* 79 English novels of Project Gutenberg, public domain in the USA (elsewhere some can still be in copyright),
  taken from LitBank: D. Bamman, S. Popat, S. Shen, "An Annotated Dataset of Literary Entities", NAACL 2019,
  <https://github.com/dbamman/litbank>. The books are of their time; some hold offensive words and views.
* 3,669 stories of TinyStories: R. Eldan, Y. Li, "TinyStories: How Small Can Language Models Be and Still Speak
  Coherent English?", 2023, Hugging Face `roneneldan/TinyStories`, CDLA-Sharing-1.0
  (<https://cdla.dev/sharing-1-0/>); a changed excerpt, the stories were written by GPT-3.5 and GPT-4. It was
  taken from the GitHub repositories `gusjengis/toy-RNN` and `mines-opt-ml/decoding-gpt`.

The text keeps its own licences; it is not in this folder. The weights, a result of computation on it, are given
under the package's licence (Apache-2.0), as far as there are rights in them.

## Tokenizer
Byte-level BPE with GPT-2's pre-tokenisation, {recipe["vocabulary"]:,} tokens, trained on the same text. Digits
(with or without a space in front) and brackets are always tokens of their own, as GPT-2's become under the tasks'
filters.

## Recipe
`python -m experiments.pretrain` in the checkout (`tokenize`, `train`, `export`, `evaluate`): {training["steps"]:,}
of {training["steps_planned"]:,} steps of {recipe["windows"] * 256:,} tokens, Muon on matrices (weight decay
{recipe["decay"]}) and Adam on the rest (beta2 {recipe["beta2"]}), warm-up of {recipe["warmup"]} steps to
{recipe["peak"]}, cosine to {recipe["floor"]:.0%} of it, gradients clipped at {recipe["clip"]}.
The network grew: {stages}.
To grow, each block was split into two half steps. {training["note"]}

## Measured
Perplexity per token (bits per byte). Each token once, from at most {result["evaluation"]["length"]} tokens before
it, with the float16 weights of this folder.

{head}
{chr(10).join(rows)}

The n-gram models are trained on the same tokens, with interpolated modified Kneser-Ney smoothing; "untrained" is
the same network with random weights. Code: experiments/pretrain/. Numbers: experiments/pretrain_tiny.json.

## Sample
Temperature {result["sample"]["temperature"]}, from the {result["sample"]["top"]} likeliest tokens, first draw,
not chosen:

> **{drawn["prompt"]}**{drawn["text"].rstrip().replace(chr(10), chr(10) + "> ")}
"""


def _row(cells):
    return "| " + " | ".join(cells) + " |"


def recipe_as_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values."""
    return asdict(recipe) | {"stages": [asdict(s) for s in recipe.stages]}
