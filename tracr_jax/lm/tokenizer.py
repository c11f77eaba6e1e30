"""Byte-level BPE tokenizers whose merge list a task may filter. Source: docs/method.md §2,
docs/differences.md D30.

The vocabulary never changes, only the merges do, so token ids keep their meaning for the pretrained model.
The original takes merges that begin with `#` for comments and so moves them to the front of the list; here they
stay in place, and `as_coded_order=True` restores the original's order.
"""

import copy
import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from tracr_jax.errors import UserError
from tracr_jax.files import read_json, read_text, reading, write_json, write_text

END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """A tokenizer.json with its settings; never adds tokens of its own (no BOS, no padding).

    Args:
      text: the content of a tokenizer.json.
      config: the content of tokenizer_config.json; its `eos_token` ends a text (END_OF_TEXT if absent).
    """

    def __init__(self, text: str, config: dict[str, Any] | None = None):
        self._spec: dict[str, Any] = json.loads(text)
        self._config = dict(config or {})
        try:
            self._inner = tokenizers.Tokenizer.from_str(text)
        except BaseException as e:  # the library raises nothing more specific; its panics are no Exceptions
            if isinstance(e, KeyboardInterrupt | SystemExit):
                raise
            raise UserError(f"tokenizer.json: the tokenizers library refuses it ({e})") from e
        self._inner.no_truncation()
        self._inner.no_padding()
        eos = self._config.get("eos_token") or END_OF_TEXT
        self.eos_token: str = eos["content"] if isinstance(eos, dict) else eos
        self.eos_id: int = self._special_id(self.eos_token)

    @property
    def config(self) -> dict[str, Any]:
        """A copy of the settings, as in tokenizer_config.json."""
        return copy.deepcopy(self._config)

    @property
    def bos_id(self) -> int:
        """Id that begins a text for models that want one; the end-of-text id where nothing else is said."""
        bos = self._config.get("bos_token") or self.eos_token
        return self._special_id(bos["content"] if isinstance(bos, dict) else bos)

    def _special_id(self, token: str) -> int:
        token_id = self._inner.token_to_id(token)
        if token_id is None:
            raise UserError(f"tokenizer: the special token {token!r} is not in the vocabulary")
        return token_id

    @classmethod
    def from_spec(cls, spec: dict[str, Any], config: dict[str, Any] | None = None) -> "Tokenizer":
        """From the content of a tokenizer.json as a dict, see `byte_level_spec`."""
        return cls(json.dumps(spec), config)

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """From a folder with tokenizer.json, or with vocab.json and merges.txt."""
        folder = Path(folder)
        with reading(folder):
            return cls._load(folder)

    @classmethod
    def _load(cls, folder: Path) -> "Tokenizer":
        config = folder / "tokenizer_config.json"
        config = read_json(config) if config.exists() else {}
        if (folder / "tokenizer.json").exists():
            return cls.from_spec(read_json(folder / "tokenizer.json"), config)
        if not ((folder / "vocab.json").exists() and (folder / "merges.txt").exists()):
            raise UserError(f"{folder}: no tokenizer.json, and no vocab.json with merges.txt")
        lines = read_text(folder / "merges.txt").splitlines()
        # Only the version line is a comment: "# #" and its like are merges.
        merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        vocab = read_json(folder / "vocab.json")
        return cls.from_spec(byte_level_spec(vocab, merges, special=[END_OF_TEXT]), config)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, each in one step."""
        write_text(Path(folder) / "tokenizer.json", self.to_json())
        # The generic class reads tokenizer.json as it is; family classes rebuild parts of it from code.
        config = {**self._config, "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": self.eos_token}
        # transformers 4's generic class also makes token types, for which GPT-2 would add an embedding.
        config["model_input_names"] = ["input_ids", "attention_mask"]
        write_json(Path(folder) / "tokenizer_config.json", config)

    def to_json(self) -> str:
        """The tokenizer.json."""
        return json.dumps(self._spec, ensure_ascii=False)

    @property
    def vocab_size(self) -> int:
        """Ids are below this number, added tokens included; there may be gaps between them."""
        return 1 + max(self._inner.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; a special token written out becomes its id.

        Raises:
          UserError: half of a surrogate pair is in it, which is how Python shows bytes that are not UTF-8.
        """
        _refuse_halves(text)
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, in parallel."""
        for text in texts:
            _refuse_halves(text)
        return [e.ids for e in self._inner.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids, special tokens included."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=False)

    def token_text(self, token_id: int) -> str:
        """Text of one token; bytes that are not whole characters become U+FFFD."""
        token = self._inner.id_to_token(token_id)
        if token is None:
            raise UserError(f"tokenizer: no token has the id {token_id}; there are {self.vocab_size}")
        if token in self._added or not all(c in _BYTE_OF for c in token):
            return token.replace("▁", " ")
        return bytes(_BYTE_OF[c] for c in token).decode("utf-8", errors="replace")

    def single_id(self, text: str) -> int | None:
        """The id if the text is exactly one token, else None."""
        ids = self.encode(text)
        return ids[0] if len(ids) == 1 else None

    @functools.cached_property
    def _added(self) -> frozenset[str]:
        return frozenset(t["content"] for t in self._spec.get("added_tokens", []))

    def merges(self) -> list[tuple[str, str]]:
        """Merge rules in order of priority, as written in tokenizer.json."""
        model = self._spec["model"]
        if model.get("type", "BPE") != "BPE":
            raise UserError(f"tokenizer: merges belong to BPE, this one is {model['type']}")
        pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
        return [(left, right) for left, right in pairs]

    def filtered(self, keep_merge: Callable[[str, str], bool], *, as_coded_order: bool = False) -> "Tokenizer":
        """The same vocabulary with fewer merges.

        Args:
          keep_merge: (left, right) -> keep it; both as text, Ġ turned into a space.
          as_coded_order: give merges that begin with `#` the highest priority, as the original does by accident.
        """
        kept = [m for m in self.merges() if keep_merge(_spaced(m[0]), _spaced(m[1]))]
        if as_coded_order:
            kept.sort(key=lambda m: not m[0].startswith("#"))  # stable
        spec = copy.deepcopy(self._spec)
        spec["model"]["merges"] = [list(m) for m in kept]
        # Where whole words of the vocabulary bypass the merges, a filter would do nothing to them.
        spec["model"]["ignore_merges"] = False
        return Tokenizer.from_spec(spec, self._config)


def byte_level_spec(
    vocab: dict[str, int],
    merges: Sequence[Sequence[str]],
    *,
    special: Sequence[str],
    split_digits: bool = False,
) -> dict[str, Any]:
    """A tokenizer.json like GPT-2's; `split_digits` cuts every digit off first, as SmolLM2 does."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocab[s], "content": s, **flags} for s in special if s in vocab],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]}
        if split_digits
        else byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(m) for m in merges],
        },
    }


def word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """A small GPT-2-like tokenizer for tests and toy models: all bytes, end-of-text, and each word as one token.

    Raises: UserError if the words' merges get into each other's way.
    """
    # Words behind a space come first: their merges all begin at the space and cannot meet one another's.
    words = sorted(words, key=lambda w: not w.startswith(" "))
    vocab = {c: i for i, c in enumerate(_BYTE_OF)}
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        letters = [_CHAR_OF[b] for b in word.encode()]
        for i in range(1, len(letters)):
            merges["".join(letters[:i]), letters[i]] = None
            vocab.setdefault("".join(letters[: i + 1]), len(vocab))
    vocab[END_OF_TEXT] = len(vocab)
    tokenizer = Tokenizer.from_spec(byte_level_spec(vocab, list(merges), special=[END_OF_TEXT]))
    broken = [w for w in words if tokenizer.single_id(w) is None]
    if broken:
        raise UserError(f"word_tokenizer: {broken} cannot be single tokens together with the other words")
    return tokenizer


def _refuse_halves(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise UserError(
            f"tokenizer: character {e.start} of the text, {text[e.start]!r}, is half of a pair (or a byte that is "
            "not UTF-8); take it out"
        ) from e


def _spaced(piece: str) -> str:
    return piece.replace("Ġ", " ").replace("▁", " ")


def _byte_chars() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: itself where Latin-1 prints it, else 256, 257, … in order."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in prints]
    return {b: chr(b) for b in prints} | {b: chr(256 + i) for i, b in enumerate(rest)}


_CHAR_OF = _byte_chars()
_BYTE_OF = {c: b for b, c in _CHAR_OF.items()}
