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

from tokenizers import models

from tracr_jax.errors import UserError
from tracr_jax.files import read_text, reading, write_json, write_text
from tracr_jax.lm.byte_level import BYTE_OF, END_OF_TEXT
from tracr_jax.lm.tokenizer_files import Backend, parsed, read_tokenizer

_MOST_IDS = 1 << 22  # the library's writer walks over every id from 0 on, and takes memory for the largest


class Tokenizer:
    """A tokenizer with its settings; never adds tokens of its own (no BOS, no EOS, no padding, no truncation).

    Its ids are those of transformers with `add_special_tokens=False`: `add_bos_token` and `add_eos_token` say what
    a caller may put around a text. `decode` gives the text exactly, without the clean-up of
    `clean_up_tokenization_spaces`.

    Args:
      backend: the library's object, as `byte_level` or `parsed` make it.
      config: the content of tokenizer_config.json; its `eos_token` ends a text (END_OF_TEXT if absent).

    Raises:
      UserError: its end of text is not in the vocabulary, or its merges are random (BPE dropout).
    """

    def __init__(self, backend: Backend, config: dict[str, Any] | None = None):
        self._inner = backend
        self._config = dict(config or {})
        if dropout := getattr(backend.model, "dropout", None):
            raise UserError(
                f"tokenizer: BPE dropout {dropout:.2g} gives one text other ids at every call; set model.dropout "
                "in tokenizer.json to null"
            )
        self.vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        """Ids are below this number, added tokens included; there may be gaps between them."""
        if self.vocab_size > _MOST_IDS:
            raise UserError(f"tokenizer: damaged, a token has the id {self.vocab_size - 1}")
        self._inner.no_truncation()
        self._inner.no_padding()
        self._inner.encode_special_tokens = bool(self._config.get("split_special_tokens"))
        eos = self._config.get("eos_token") or END_OF_TEXT
        self.eos_token: str = eos["content"] if isinstance(eos, dict) else eos
        self.eos_id: int = self._special_id(self.eos_token)

    @property
    def splits_special(self) -> bool:
        """Whether special tokens that are written out in a text are split like other words."""
        return bool(self._inner.encode_special_tokens)

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
    def from_json(cls, text: str, config: dict[str, Any] | None = None) -> "Tokenizer":
        """From the content of a tokenizer.json."""
        return cls(parsed(text), config)

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """From a folder with tokenizer.json, or with vocab.json and merges.txt; see `tokenizer_files`."""
        template = Path(folder) / "chat_template.jinja"  # as newer versions of transformers write it
        with reading(folder):
            backend, config = read_tokenizer(Path(folder))
            return cls(backend, config | ({"chat_template": read_text(template)} if template.is_file() else {}))

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
        return self._inner.to_str()

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
        if token in self._added or not self._is_bytes or not all(c in BYTE_OF for c in token):
            return token.replace("▁", " ")
        return bytes(BYTE_OF[c] for c in token).decode("utf-8", errors="replace")

    def vocabulary(self) -> list[tuple[int, str]]:
        """Every token as the vocabulary writes it, with its id, in order."""
        return sorted((i, token) for token, i in self._inner.get_vocab(with_added_tokens=True).items())

    def token_ids(self) -> list[int]:
        """All ids, in order; there may be gaps."""
        return [i for i, _ in self.vocabulary()]

    def single_id(self, text: str) -> int | None:
        """The id if the text is exactly one token, else None."""
        ids = self.encode(text)
        return ids[0] if len(ids) == 1 else None

    @functools.cached_property
    def _is_bytes(self) -> bool:
        """Whether a token's letters stand for bytes, as GPT-2's do."""
        return "ByteLevel(" in repr(self._inner.decoder)  # alone or in a sequence, whose parts have no names

    @functools.cached_property
    def _added(self) -> frozenset[str]:
        return frozenset(t.content for t in self._inner.get_added_tokens_decoder().values())

    def merges(self) -> list[tuple[str, str]]:
        """Merge rules in order of priority, as written in tokenizer.json."""
        if not isinstance(self._inner.model, models.BPE):
            raise UserError(f"tokenizer: merges belong to BPE, this one is {type(self._inner.model).__name__}")
        return [(left, right) for left, right in json.loads(self.to_json())["model"]["merges"]]

    def filtered(self, keep_merge: Callable[[str, str], bool], *, as_coded_order: bool = False) -> "Tokenizer":
        """The same vocabulary with fewer merges.

        Args:
          keep_merge: (left, right) -> keep it; both as text, Ġ turned into a space.
          as_coded_order: give merges that begin with `#` the highest priority, as the original does by accident.
        """
        kept = [m for m in self.merges() if keep_merge(_spaced(m[0]), _spaced(m[1]))]
        if as_coded_order:
            kept.sort(key=lambda m: not m[0].startswith("#"))  # stable
        backend, old = parsed(self.to_json()), self._inner.model
        # Without ignore_merges: where whole words bypass the merges, a filter would do nothing to them.
        names = ("unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback")
        options = {name: value for name in names if (value := getattr(old, name)) is not None}
        backend.model = models.BPE(vocab=backend.get_vocab(with_added_tokens=False), merges=kept, **options)
        return Tokenizer(backend, self._config)


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
