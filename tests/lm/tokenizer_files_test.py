"""Every form of a tokenizer's folder: its ids are those of transformers on 1,000 texts, or one line refuses it."""

import itertools
import json

import numpy as np
import pytest

from tests.helpers.random_models import word_tokenizer, write_random_gpt2
from tracr_jax.errors import UserError
from tracr_jax.lm.load import load_lm
from tracr_jax.lm.tokenizer import Tokenizer

WORDS = [" yes", " no", " x", " the", " is", " 12", "Answer", " état", "##", " #"]
TOK = word_tokenizer(WORDS)
SPEC = json.loads(TOK.to_json())
N = TOK.vocab_size
EOS = TOK.eos_token
ADDED = ("<|user|>", "[PAD]", "<x>", "<xy>", "ëß", "yes", " the")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


def token(content, *on):
    return {"content": content} | {flag: flag in on for flag in FLAGS}


def spec(*added, **parts):
    """The content of a tokenizer.json with more added tokens, from the id N on, and other parts."""
    listed = [*SPEC["added_tokens"], *({"id": N + i} | t for i, t in enumerate(added))]
    return SPEC | {"added_tokens": listed} | parts


def decoder(*added, first=N, eos=True):
    """added_tokens_decoder of tokenizer_config.json."""
    ids = {str(first + i): t for i, t in enumerate(added)}
    return {"added_tokens_decoder": ({str(TOK.eos_id): token(EOS, "special")} if eos else {}) | ids}


GPT2 = {"tokenizer_class": "GPT2Tokenizer"}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
THREE = [token(t) for t in ADDED[:3]]
SEVEN = [
    token(t, *on) for t, on in zip(ADDED, itertools.cycle([[], ["lstrip"], ["rstrip"], ["special"]]), strict=False)
]
NORMALISED = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
DIGITS = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, SPEC["pre_tokenizer"]],
}
SPACED = SPEC["pre_tokenizer"] | {"add_prefix_space": True}
BOS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": EOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {EOS: {"id": EOS, "ids": [TOK.eos_id], "tokens": [EOS]}},
}
PADDED = {
    "truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "x"},
}  # fmt: skip

# name -> what is in the folder: "json" (tokenizer.json) or "merges" (line end of merges.txt), "config" and so on.
EQUAL = {
    "merges": {"merges": "\n", "config": GPT2},
    "merges, no configuration": {"merges": "\n"},
    "merges, fast class": {"merges": "\n", "config": {"tokenizer_class": "GPT2TokenizerFast"}},
    "merges with carriage returns": {"merges": "\r\n", "config": GPT2},
    "merges, prefix space": {"merges": "\n", "config": GPT2 | {"add_prefix_space": True}},
    "merges, begin and end": {"merges": "\n", "config": GPT2 | {"add_bos_token": True, "add_eos_token": True}},
    "merges, added_tokens.json": {
        "merges": "\n",
        "config": GPT2,
        "added": {t: N + i for i, t in enumerate(ADDED[:5])},
    },
    "merges, added_tokens.json and map": {
        "merges": "\n",
        "config": GPT2,
        "added": {t: N + i for i, t in enumerate(ADDED[:4])},
        "map": {"eos_token": "<x>", "pad_token": token("[PAD]", "lstrip"), "additional_special_tokens": ["<xy>"]},
    },
    "merges, map alone": {"merges": "\n", "config": GPT2, "map": {"pad_token": "[PAD]", "mask_token": "<x>"}},
    "merges, decoder": {"merges": "\n", "config": GPT2 | decoder(*SEVEN)},
    "merges, decoder wins over older files": {
        "merges": "\n",
        "config": GPT2 | decoder(*SEVEN),
        "map": {"eos_token": "<x>"},
        "added": {ADDED[0]: N},
    },
    "merges, special tokens": {
        "merges": "\n",
        "config": GPT2 | {"pad_token": "[PAD]", "extra_special_tokens": ["<x>"], "image_token": "<|user|>"},
    },
    "merges, named extra tokens": {"merges": "\n", "config": GPT2 | {"extra_special_tokens": {"a_token": "<x>"}}},
    "json, extra tokens by name and in a list": {
        "json": spec(),
        "config": FAST | {"extra_special_tokens": {"a_token": "<x>"}, "additional_special_tokens": ["<xy>"]},
    },
    "json, extra tokens in both files": {
        "json": spec(),
        "config": FAST | {"additional_special_tokens": ["<x>"]},
        "map": {"additional_special_tokens": ["<xy>"]},
    },
    "json": {"json": spec(), "config": GPT2},
    "json, no configuration": {"json": spec()},
    "json, generic class": {"json": spec(), "config": FAST},
    "json, added tokens": {"json": spec(*SEVEN), "config": GPT2},
    "json, added tokens, generic class": {"json": spec(*SEVEN), "config": FAST},
    "json, its tokens in the decoder": {"json": spec(*SEVEN), "config": FAST | decoder(*SEVEN)},
    "json, more tokens in the decoder": {"json": spec(*SEVEN[:2]), "config": FAST | decoder(*SEVEN)},
    "json, added_tokens.json": {"json": spec(*THREE), "config": FAST, "added": {"<x>": N + 2, "<xy>": N + 3}},
    "json, map": {"json": spec(*THREE), "config": FAST, "map": {"eos_token": "<x>", "bos_token": "[PAD]"}},
    "json, special tokens": {"json": spec(*THREE), "config": FAST | {"pad_token": "<xy>", "sep_token": "<x>"}},
    "json, split special tokens": {"json": spec(*SEVEN), "config": FAST | {"split_special_tokens": True}},
    "json, normalised": {"json": spec(*SEVEN, normalizer=NORMALISED), "config": FAST},
    "json, normalised tokens": {
        "json": spec(*(token(t, "normalized") for t in ADDED), normalizer=NORMALISED),
        "config": FAST,
    },
    "json, whole words": {"json": spec(*(token(t, "single_word") for t in ADDED)), "config": FAST},
    "json, digits": {"json": spec(*SEVEN, pre_tokenizer=DIGITS), "config": FAST},
    "json, digits, Llama": {"json": spec(*SEVEN, pre_tokenizer=DIGITS), "config": FAST, "family": "llama"},
    "json, digits, Llama's class": {
        "json": spec(pre_tokenizer=DIGITS, post_processor=BOS),
        "config": {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True},
        "family": "llama",
    },
    "json, prefix space": {"json": spec(pre_tokenizer=SPACED), "config": FAST | {"add_prefix_space": True}},
    "json, prefix space, GPT-2's class": {
        "json": spec(pre_tokenizer=SPACED),
        "config": GPT2 | {"add_prefix_space": True},
    },
    "json, begin": {"json": spec(post_processor=BOS), "config": FAST | {"add_bos_token": True}},
    "json, truncated and padded": {"json": spec(**PADDED), "config": FAST},
    "json, whole words of the vocabulary": {
        "json": spec(model=SPEC["model"] | {"ignore_merges": True}),
        "config": FAST,
    },
}  # fmt: skip

REFUSED = {
    "dropout": ({"json": spec(model=SPEC["model"] | {"dropout": 0.3}), "config": FAST}, "dropout 0.3"),
    "dropout, GPT-2's class": ({"json": spec(model=SPEC["model"] | {"dropout": 0.1}), "config": GPT2}, "dropout"),
    "id of the file": ({"json": SPEC | {"added_tokens": [{"id": N + 9} | THREE[0]]}}, f"id {N + 9}"),
    "id of the decoder": ({"merges": "\n", "config": GPT2 | decoder(*THREE, first=N + 2)}, f"id {N + 2}"),
    "id of added_tokens.json": ({"merges": "\n", "config": GPT2, "added": {"<x>": N + 1}}, f"{N + 1} in added_"),
    "flags": ({"json": spec(*THREE), "config": FAST | decoder(token(ADDED[0], "lstrip"))}, "plain in .*lstrip"),
    "decoder without a token": ({"json": spec(*THREE), "config": GPT2 | decoder(*THREE[:1])}, "does not list"),
    "prefix space": ({"json": spec(), "config": FAST | {"add_prefix_space": True}}, "add_prefix_space is False"),
    "prefix space by default": ({"json": spec(pre_tokenizer=SPACED), "config": GPT2}, "add_prefix_space is True"),
    "digits, GPT-2's class": ({"json": spec(pre_tokenizer=DIGITS), "config": GPT2}, "splits text otherwise"),
    "digits, GPT-2's family": ({"json": spec(pre_tokenizer=DIGITS)}, "splits text otherwise"),
    "normalised, GPT-2's class": ({"json": spec(normalizer=NORMALISED), "config": GPT2}, "splits text otherwise"),
    "whole words, GPT-2's class": (
        {"json": spec(model=SPEC["model"] | {"ignore_merges": True}), "config": GPT2},
        "splits text otherwise",
    ),
    "merges of another family": ({"merges": "\n", "family": "llama"}, "a tokenizer.json is needed"),
    "merges of another class": ({"merges": "\n", "config": {"tokenizer_class": "Qwen2Tokenizer"}}, "is needed"),
    "code": ({"json": spec(), "config": {"auto_map": {"AutoTokenizer": ["x.Y", None]}}}, "code of its own"),
    "lower case": ({"json": spec(), "config": GPT2 | {"do_lower_case": True}}, "do_lower_case"),
    "extra tokens as text": ({"json": spec(), "config": FAST | {"extra_special_tokens": "<x>"}}, "not a list"),
}  # fmt: skip


def write(folder, *, json_=None, merges=None, config=None, family="gpt2", added=None, mapped=None):
    files = {"config": {"model_type": family}, "tokenizer_config": config, "tokenizer": json_}
    files |= {"added_tokens": added, "special_tokens_map": mapped}
    if merges:
        files["vocab"] = SPEC["model"]["vocab"]
        lines = ["#version: 0.2", *(" ".join(m) for m in SPEC["model"]["merges"]), ""]
        (folder / "merges.txt").write_bytes(merges.join(lines).encode())
    for name, value in files.items():
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def written(folder, form):
    names = {"json": "json_", "map": "mapped"}
    return write(folder, **{names.get(k, k): v for k, v in form.items()})


def texts(count=1000):
    """Words, digits, spaces of many kinds, other scripts, and added tokens alone, in words, and side by side."""
    pieces = [*WORDS, *ADDED, *ADDED, EOS, " ", "  ", "\n", "\t", "\u00a0", "\u3000", "0", "123", " 4 5", "'s",
              "!?", "a", "Yes", "é", "e\u0301", "İ", "ß", "中文", "🙂", "\u200d", "\x00", "<", "|", ">",
              "\u202e", "NO", "_"]  # fmt: skip
    rng = np.random.default_rng(17)
    drawn = ["".join(rng.choice(pieces, rng.integers(1, 12))) for _ in range(count - 1)]
    return ["", *drawn]


@pytest.mark.parity
@pytest.mark.parametrize("name", EQUAL)
def test_ids_of_transformers(name, tmp_path):
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(written(tmp_path, EQUAL[name]))
    ours = Tokenizer.load(tmp_path)
    drawn = texts()
    theirs.backend_tokenizer.no_padding()
    theirs.backend_tokenizer.no_truncation()
    want = theirs(drawn, add_special_tokens=False).input_ids
    assert ours.encode_batch(drawn) == want
    assert [ours.encode(t) for t in drawn[:50]] == want[:50]
    assert ours.vocab_size == len(theirs)
    if theirs.eos_token is not None:
        assert ours.eos_id == theirs.eos_token_id
    if theirs.bos_token is not None:
        assert ours.bos_id == theirs.bos_token_id
    exact = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    assert [ours.decode(i) for i in want] == theirs.batch_decode(want, **exact)
    ours.save(tmp_path / "again")  # what a run folder holds
    assert Tokenizer.load(tmp_path / "again").encode_batch(drawn) == want


@pytest.mark.parity
def test_tokenizer_json_wins_where_transformers_builds_another_splitting(tmp_path):
    """SmolLM2's folder: a Llama whose tokenizer_class is GPT-2's (transformers' issues 45812 and 45920)."""
    import transformers

    written(tmp_path, {"json": spec(pre_tokenizer=DIGITS), "config": GPT2, "family": "llama"})
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert Tokenizer.load(tmp_path).encode_batch(texts()) == theirs(texts(), add_special_tokens=False).input_ids


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why_in_one_line(name, tmp_path):
    form, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        Tokenizer.load(written(tmp_path, form))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", EQUAL)
def test_every_form_loads_and_comes_back(name, tmp_path):
    """Without transformers: the folder that a run writes gives the same ids, also with fewer merges."""
    ours = Tokenizer.load(written(tmp_path, EQUAL[name]))
    drawn = texts(60)
    want = ours.encode_batch(drawn)
    fewer = ours.filtered(lambda left, right: left != "#")
    for i, tokenizer in enumerate((ours, fewer)):
        tokenizer.save(tmp_path / str(i))
        assert Tokenizer.load(tmp_path / str(i)).encode_batch(drawn) == tokenizer.encode_batch(drawn)
    assert ours.encode_batch(drawn) == want
    assert len(fewer.merges()) < len(ours.merges())


def test_ids_beyond_the_embedding_are_refused(tmp_path):
    """Also where their number fits, and only their ids do not."""
    write_random_gpt2(tmp_path, num_blocks=1)
    path = tmp_path / "tokenizer.json"
    changed = json.loads(path.read_text())
    size = len(changed["model"]["vocab"])
    moved = next(t for t, i in changed["model"]["vocab"].items() if i == size - 2)
    changed["model"]["vocab"][moved] = size + 40
    path.write_text(json.dumps(changed))
    with pytest.raises(UserError, match=f"ids go up to {size + 40}, the model has embeddings for {size}"):
        load_lm(str(tmp_path))
