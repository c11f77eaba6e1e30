"""config.json read strictly: every key is read, or may only have one value, or is known not to matter.

transformers ignores a key that it does not know; here such a key is refused, because a network that computes
something else under a familiar name would be wrong without a word. `SAFE` is the one list of what is ignored.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from tracr_jax.errors import UserError

# Far beyond any model: what is larger is damage.
_LARGEST, _DEEPEST, _NUMBER = 1 << 24, 10_000, 1e9

# Reason -> keys that cannot change hidden states or logits of a pass without dropout.
SAFE: Mapping[str, tuple[str, ...]] = {
    "names and versions: who made the file, which classes may read it": (
        *("_name_or_path", "name_or_path", "architectures", "model_type", "transformers_version", "_commit_hash"),
        *("tokenizer_class", "prefix", "task_specific_params", "is_llama_config", "transformers.js_config"),
        *("unsloth_version", "unsloth_fixed", "_from_auto", "_from_pipeline", "_num_labels"),
    ),
    "number format and implementation: the numbers computed are the same up to rounding": (
        *("dtype", "torch_dtype", "use_bfloat16", "pretraining_tp", "chunk_size_feed_forward", "torchscript"),
        *("_attn_implementation", "attn_implementation", "_attn_implementation_autoset", "_flash_attn_2_enabled"),
        *("_attn_implementation_internal", "_experts_implementation", "experts_implementation"),
        *("_experts_implementation_internal", "gradient_checkpointing", "use_cache", "cache_implementation"),
    ),
    "which outputs are returned, not what is in them": (
        *("output_hidden_states", "output_attentions", "_output_attentions", "output_scores"),
        *("return_dict", "use_return_dict", "return_dict_in_generate"),
    ),
    "dropout: this package trains and evaluates without": (
        *("attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_first_dropout", "summary_last_dropout"),
        *("attention_dropout", "hidden_dropout", "classifier_dropout"),
    ),
    "initial values of weights, which are read from the file": ("initializer_range",),
    "heads of other classes than the language model": (
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
    ),
    "losses of training with transformers": ("tf_legacy_loss", "neftune_noise_alpha"),
    "ids of special tokens: ids are the tokenizer's, and no id is treated differently in the forward pass": (
        *(
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "sep_token_id",
            "unk_token_id",
            "decoder_start_token_id",
        ),
        *("forced_bos_token_id", "forced_eos_token_id"),
    ),
    "settings of transformers' text generation": (
        *("do_sample", "temperature", "top_k", "top_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "max_length"),
        *(
            "min_length",
            "early_stopping",
            "num_beams",
            "num_beam_groups",
            "num_return_sequences",
            "length_penalty",
        ),
        *("diversity_penalty", "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size"),
        *("encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
        *("remove_invalid_values", "exponential_decay_length_penalty", "num_assistant_tokens"),
        *("num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind"),
        "target_lookbehind",
    ),
    "an older name of the longest text, which transformers does not read": ("n_ctx", "max_sequence_length"),
}
_SAFE = frozenset(key for keys in SAFE.values() for key in keys)

# Key -> the values that leave a model as the families here compute it; the first is transformers' default.
FIXED: Mapping[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "is_decoder": (False, True),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "tie_last_hidden_states": (None, True),
    "rope_interleaved": (False, None),
    "use_mrope": (False, None),
}


def check_keys(config: Mapping[str, Any], *, read: Collection[str], fixed: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse what this package would not take into account.

    Args:
      config: the content of config.json.
      read: keys that the family reads.
      fixed: keys whose value may only be one of those given, besides `FIXED`.

    Raises:
      UserError: the first key that has another value, or that nothing here knows.
    """
    fixed = {**FIXED, **fixed}
    for key, value in config.items():
        if key in fixed:
            # By type as well: 1 is not True in a config.json, and 0 is not False.
            if not any(type(value) is type(known) and value == known for known in fixed[key]):
                known = " or ".join(map(repr, fixed[key]))
                raise UserError(f"config.json: {key} = {value!r:.60} is not supported, only {known}")
        elif key not in read and key not in _SAFE and value is not None:
            raise UserError(
                f"config.json: {key} = {value!r:.60} is not read, and may change what the model computes; "
                "if it does not, remove it from the file"
            )


def check_sizes(config: Any, *, blocks: str) -> None:
    """Sizes are whole numbers from 1 on, other numbers finite and positive, switches true or false.

    Fields that hold something else check themselves.

    Raises:
      UserError: the first field that is not.
    """
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if isinstance(f.default, bool):
            if not isinstance(value, bool):
                raise UserError(f"{f.name} must be true or false, got {value!r:.60}")
        elif isinstance(f.default, float):
            check_number(f.name, value)
        elif isinstance(f.default, str) or dataclasses.is_dataclass(value):
            pass
        elif value is not None or f.default is not None:
            check_size(f.name, value, largest=_DEEPEST if f.name == blocks else _LARGEST)


def check_number(name: str, value: Any) -> None:
    """A positive finite number, see `check_sizes`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _NUMBER:
        raise UserError(f"{name} must be a number above 0 and at most {_NUMBER:g}, got {value!r:.60}")


def check_size(name: str, value: Any, *, largest: int = _LARGEST) -> None:
    """One size of a model, see `check_sizes`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise UserError(f"{name} must be a whole number from 1 to {largest}, got {value!r:.60}")
