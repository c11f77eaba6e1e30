"""What the harness and its users may ask of our adapter: honoured with HFLM's meaning, or refused in one line.

`generation` reads a task's generation_kwargs, which HFLM hands to Hugging Face's `generate`; `specials` is the
tokens that a tokenizer puts around a text. Neither drops an option: greedy decoding with stop strings is what
there is, so an option passes only where that decoding does what `generate` would do with it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from lm_eval.models.utils import normalize_gen_kwargs  # pyright: ignore[reportMissingImports]
from transformers import GenerationConfig

from tracr_jax.errors import UserError
from tracr_jax.files import read_json
from tracr_jax.lm.load import is_model
from tracr_jax.lm.tokenizer import Tokenizer

# They shape the distribution that samples are drawn from; `generate` reads them only where it draws.
_OF_SAMPLES = frozenset(
    ["temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"]
)
# The values with which an option changes no greedy text.
_NEUTRAL: dict[str, tuple[float, ...]] = {
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "early_stopping": (False,),
    "length_penalty": (1,),
    "repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "guidance_scale": (1,),
    "renormalize_logits": (False, True),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "output_scores": (False,),
    "output_logits": (False,),
    "return_dict_in_generate": (False,),
}
# Keys of generation_config.json that say nothing about which token is taken, or that HFLM always overrides.
_FOLDER_FACTS = frozenset(
    {
        *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"),
        *("do_sample", "max_length", "use_cache"),
    }
)
_INSTEAD = {"max_length": "max_gen_toks", "stop_strings": "until", "stop": "until"}


class Generation(NamedTuple):
    """A greedy continuation: at most `limit` new tokens, up to the first of the texts `until`."""

    limit: int
    until: tuple[str, ...]


def generation(options: Mapping[str, Any], *, default_limit: int) -> Generation:
    """What a task's generation_kwargs ask for; an option whose value is None is not set, as for `generate`.

    Args:
      options: the task's; the limit is max_gen_toks or one of its aliases max_new_tokens, max_tokens,
        max_completion_tokens, the first of them where there are several.
      default_limit: new tokens where none of them is given.

    Raises:
      UserError: samples are asked for, or an option that greedy decoding with stop strings does not honour.
    """
    given = {name: value for name, value in options.items() if value is not None}
    until = given.pop("until", [])
    until = [until] if isinstance(until, str) else until
    if not isinstance(until, list | tuple) or not all(isinstance(text, str) and text for text in until):
        raise UserError(f"generate_until: until must be a text or a list of texts, none empty, got {until!r}")
    normal: dict[str, Any] = dict(normalize_gen_kwargs(given, default_limit))
    if normal.pop("do_sample"):
        cause = next(f"{name}={given[name]!r}" for name in ("do_sample", "temperature") if name in given)
        raise UserError(
            f"generate_until: {cause} asks for samples, this model answers greedily only; set do_sample=False in "
            "the task's generation_kwargs"
        )
    limit = normal.pop("max_gen_toks")
    del normal["until"]
    refuse(normal, "the task's generation_kwargs")
    return Generation(limit, tuple(dict.fromkeys(until)))


def refuse(options: Mapping[str, Any], where: str) -> None:
    """Raises: UserError with the options under which `generate` would not decode greedily as we do."""
    other = {n: v for n, v in options.items() if n not in _OF_SAMPLES and v not in _NEUTRAL.get(n, ())}
    if other:
        hints = "".join(f" ({name} is {_INSTEAD[name]} here)" for name in other if name in _INSTEAD)
        raise UserError(
            f"generate_until: {where} ask for {', '.join(f'{n}={v!r}' for n, v in other.items())}; this model "
            f"decodes greedily with until and max_gen_toks, remove the others{hints}"
        )


def folder_options(folder: Path) -> dict[str, Any]:
    """A folder's settings of generation, where HFLM finds them: generation_config.json, or else config.json.

    Args:
      folder: in Hugging Face's format; anything else, say a run's, has none.

    Raises:
      UserError: a file is damaged.
    """
    path = folder / "generation_config.json"
    if path.is_file():
        return read_json(path)
    if not is_model(folder):
        return {}
    known = GenerationConfig().to_dict()
    return {name: value for name, value in read_json(folder / "config.json").items() if name in known}


def folder_ends(config: Mapping[str, Any], eos_id: int) -> frozenset[int]:
    """Ids that end a text: the tokenizer's, and those of `folder_options`, which HFLM follows.

    Raises:
      UserError: the folder sets an option that is not implemented, say a repetition penalty.
    """
    refuse(
        {n: v for n, v in config.items() if v is not None and n not in _FOLDER_FACTS},
        "the settings in generation_config.json (without one, config.json)",
    )
    ends = config.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return frozenset([eos_id, *ends])


def specials(tokenizer: Tokenizer, add_bos_token: bool | None) -> list[int]:
    """The ids in front of each text, as transformers' tokenizer of the same folder puts them there.

    Args:
      tokenizer: whose tokenizer.json may have a post-processor.
      add_bos_token: a BOS or none; None is what the post-processor says. Where there is a tokenizer.json,
        transformers does not read `add_bos_token` in tokenizer_config.json.

    Raises:
      UserError: a BOS is asked for and there is none, or the post-processor puts tokens after each text.
    """
    if add_bos_token is False:
        return []
    if add_bos_token:
        if not tokenizer.config.get("bos_token"):
            raise UserError("add_bos_token: the tokenizer has no bos_token; leave the option out, or set it False")
        return [tokenizer.bos_id]
    encoded = tokenizers.Tokenizer.from_str(tokenizer.to_json()).encode("x")
    own = [mark == 0 for mark in encoded.special_tokens_mask].index(True)
    if any(encoded.special_tokens_mask[own:]):
        raise UserError(
            "the post-processor in tokenizer.json puts tokens after each text, so that nothing could follow a "
            "context; set add_bos_token, True or False, which both replace it"
        )
    return encoded.ids[:own]
