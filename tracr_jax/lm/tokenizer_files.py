"""The files of a tokenizer's folder as one `tokenizers` object: what they say about ids is kept, or refused.

The splitting is tokenizer.json's, or GPT-2's for vocab.json with merges.txt. Around it stand, in the order in
which transformers lets one win over the other: `added_tokens_decoder` and the special tokens in
tokenizer_config.json; where there is no `added_tokens_decoder`, special_tokens_map.json and added_tokens.json.

Why not `transformers.AutoTokenizer`: from version 5 on it builds the splitting of some classes from code and
passes over tokenizer.json, which gave other ids than the models were trained with (its issues 45812, 45920), and
importing it imports torch. Where the two would disagree for GPT-2 itself, the folder is refused.
"""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers

from tracr_jax.errors import UserError
from tracr_jax.files import read_json, read_text
from tracr_jax.lm.byte_level import END_OF_TEXT, byte_level

Backend = tokenizers.Tokenizer

# The roles of special tokens, in the order in which transformers gives ids to those that have none.
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")  # the second is the older name
# What else can change ids, and what to do about it; none of the classes that are read here knows these keys.
_REFUSED = {
    "auto_map": "the tokenizer has code of its own, which is not run",
    "do_lower_case": "lower case belongs into tokenizer.json, as a normalizer",
    "dropout": "random merges would give one text other ids at every call",
    "fix_mistral_regex": "the mended splitting belongs into tokenizer.json",
}


def read_tokenizer(folder: Path) -> tuple[Backend, dict[str, Any]]:
    """The tokenizer of a folder, and the settings of its tokenizer_config.json and special_tokens_map.json.

    Raises:
      UserError: files are missing or disagree, or say something about ids that is not read.
    """
    config = _json(folder, "tokenizer_config.json")
    for key, reason in _REFUSED.items():
        if config.get(key):
            raise UserError(f"{folder}: tokenizer_config.json says {key}={config[key]!r}: {reason}")
    added: dict[str, int] = {}
    if "added_tokens_decoder" not in config:
        named = _json(folder, "special_tokens_map.json")
        config |= {k: v for k, v in named.items() if not (k in _EXTRA and config.get(k))}
        added = _json(folder, "added_tokens.json")
    gpt2 = _is_gpt2(folder, config)
    if gpt2:  # what its class takes for granted
        config = {role: END_OF_TEXT for role in ("bos_token", "eos_token", "unk_token")} | config
    if (folder / "tokenizer.json").exists():
        backend, known = _from_json(folder, config, gpt2)
        if backend.padding and not gpt2:  # names a special token, too
            config.setdefault("pad_token", backend.padding["pad_token"])
    elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        backend, known = _from_merges(folder, config, gpt2), {}
    else:
        raise UserError(f"{folder}: no tokenizer.json, and no vocab.json with merges.txt")
    _add(folder, backend, config, known, added)
    return backend, config


def parsed(text: str) -> Backend:
    """A tokenizer.json.

    Raises:
      UserError: the library refuses it, or gives one of its tokens another id than the file.
    """
    try:
        return tokenizers.Tokenizer.from_str(text)
    except BaseException as e:  # the library raises nothing more specific; its panics are no Exceptions
        if isinstance(e, KeyboardInterrupt | SystemExit):
            raise
        raise UserError(f"tokenizer.json: the tokenizers library refuses it ({e})") from e


def is_gpt2_like(backend: Backend) -> bool:
    """Whether GPT-2's class, which builds the rest from code, splits text alike with vocabulary and merges."""
    pre, model = backend.pre_tokenizer, backend.model
    return (
        isinstance(pre, pre_tokenizers.ByteLevel)
        and pre.use_regex
        and backend.normalizer is None
        and isinstance(model, models.BPE)
        and not (model.byte_fallback or model.ignore_merges)
        and not (model.continuing_subword_prefix or model.end_of_word_suffix)
    )


def _json(folder: Path, name: str) -> dict[str, Any]:
    """A file's object; empty where there is no such file."""
    value = read_json(folder / name) if (folder / name).exists() else {}
    if not isinstance(value, dict):
        raise UserError(f"{folder / name}: damaged, a {type(value).__name__} instead of an object")
    return value


def _is_gpt2(folder: Path, config: dict[str, Any]) -> bool:
    """Whether transformers takes GPT-2's class: named by its folder or by default, for a model of its family."""
    model = _json(folder, "config.json")
    family = model.get("model_type")
    named = config.get("tokenizer_class") or model.get("tokenizer_class")
    if named:
        return family in ("gpt2", None) and str(named).removesuffix("Fast") == "GPT2Tokenizer"
    return family == "gpt2" or (family is None and not (folder / "tokenizer.json").exists())


def _from_json(folder: Path, config: dict[str, Any], gpt2: bool) -> tuple[Backend, dict[str, AddedToken]]:
    """The tokenizer, and its added tokens by text."""
    path = folder / "tokenizer.json"
    listed = _json(folder, path.name).get("added_tokens") or []
    backend = parsed(read_text(path))
    for token in listed:
        _same_id(folder, backend, token["content"], token["id"], "tokenizer.json")
    pre = backend.pre_tokenizer
    if isinstance(pre, pre_tokenizers.ByteLevel):
        stated = config.get("add_prefix_space", False if gpt2 else None)
        if stated not in (pre.add_prefix_space, None):
            raise UserError(
                f"{folder}: add_prefix_space is {pre.add_prefix_space} in tokenizer.json and {stated} in "
                "tokenizer_config.json (or by GPT-2's default); make them the same"
            )
    if gpt2 and not is_gpt2_like(backend):
        raise UserError(
            f"{folder}: tokenizer.json splits text otherwise than GPT2Tokenizer, from which transformers 5 takes "
            'the splitting; if tokenizer.json is right, write "tokenizer_class": "PreTrainedTokenizerFast" into '
            "tokenizer_config.json"
        )
    known = {t.content: t for t in backend.get_added_tokens_decoder().values()}
    if gpt2 and "added_tokens_decoder" in config:
        lost = known.keys() - {t["content"] for t in config["added_tokens_decoder"].values()}
        if lost:
            raise UserError(
                f"{folder}: tokenizer.json has the added token {min(lost)!r}, which added_tokens_decoder in "
                "tokenizer_config.json does not list; make them the same"
            )
    return backend, known


def _from_merges(folder: Path, config: dict[str, Any], gpt2: bool) -> Backend:
    if not gpt2:
        raise UserError(
            f"{folder}: vocab.json and merges.txt do not say how text is split, and the class of this folder is "
            f"not GPT2Tokenizer (tokenizer_class {config.get('tokenizer_class')!r}); a tokenizer.json is needed"
        )
    for name in ("vocab.json", "merges.txt"):
        read_text(folder / name)  # size and encoding, with the file's name
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return byte_level(model, add_prefix_space=bool(config.get("add_prefix_space")))


def _add(
    folder: Path, backend: Backend, config: dict[str, Any], known: dict[str, AddedToken], added: dict[str, int]
) -> None:
    """Add the tokens that stand beside the vocabulary, those with an id first, in the order of their ids."""
    roles = [*_ROLES, *(k for k in config if k.endswith("_token") and k not in _ROLES)]
    wanted = [config.get(role) for role in roles]
    lists = [config[k] for k in _EXTRA if config.get(k)]
    # A list of the new name takes the place of the old one's; a dictionary stands beside it.
    for extra in lists[:1] if lists and isinstance(lists[0], list) else lists:
        if isinstance(extra, str):
            raise TypeError("extra_special_tokens is a text, not a list")
        wanted += extra.values() if isinstance(extra, dict) else extra
    special = [_token(value) for value in wanted if isinstance(value, str | dict) and value]
    stated = {int(i): _decoded(token) for i, token in config.get("added_tokens_decoder", {}).items()}
    for token in stated.values():
        if token.content in known and _flags(token) != _flags(known[token.content]):
            raise UserError(
                f"{folder}: the added token {token.content!r} is {_flags(known[token.content])} in tokenizer.json "
                f"and {_flags(token)} in tokenizer_config.json; make them the same"
            )
    named = {t.content for t in special}
    stated |= {
        i: AddedToken(t, special=t in named, normalized=t not in named) for t, i in added.items() if t not in known
    }
    backend.add_tokens([stated[i] for i in sorted(stated)])
    known |= {t.content: t for t in stated.values()}
    for token, i in added.items():
        _same_id(folder, backend, token, i, "added_tokens.json")
    for i, token in stated.items():
        _same_id(folder, backend, token.content, i, "tokenizer_config.json")
    backend.add_tokens([t for t in special if t.content not in known])


def _decoded(token: dict[str, Any]) -> AddedToken:
    return AddedToken(**{k: v for k, v in token.items() if k != "__type"})


def _token(value: str | dict[str, Any]) -> AddedToken:
    if isinstance(value, str):
        return AddedToken(value, special=True, normalized=False)
    flags = {k: v for k, v in value.items() if k not in ("__type", "special")}
    return AddedToken(**flags, special=True)


def _flags(token: AddedToken) -> str:
    flags = ("lstrip", "rstrip", "single_word", "normalized")
    return ", ".join(f for f in flags if getattr(token, f)) or "plain"


def _same_id(folder: Path, backend: Backend, token: str, stated: int, where: str) -> None:
    given = backend.token_to_id(token)
    if given != stated:
        raise UserError(
            f"{folder}: {token!r} has the id {stated} in {where} and {given} in the vocabulary with added tokens; "
            "an added token is in the vocabulary already, or its id is the next one"
        )
