"""Files and tables: round trips, shards, half precision, and every way a file can be wrong."""

import dataclasses
import json
import re

import chex
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers import lm_models as M
from tests.helpers.random_models import word_tokenizer
from tracr_jax.errors import UserError
from tracr_jax.lm.blocks import unstack_blocks
from tracr_jax.lm.convert import expected_shapes, from_tensors, save_hf_folder, to_tensors
from tracr_jax.lm.llama import Llama
from tracr_jax.lm.load import read_model
from tracr_jax.lm.tensors import open_safetensors, write_safetensors
from tracr_jax.lm.tokenizer import Tokenizer

families = pytest.mark.parametrize("family", ["gpt2", "llama"])


@families
def test_folder_round_trip(family, tmp_path):
    model, params = M.make(family)
    save_hf_folder(tmp_path, model, params, word_tokenizer([" yes"]))
    assert read_model(tmp_path).config == model.config
    chex.assert_trees_all_equal(from_tensors(model, open_safetensors(tmp_path)), params)
    looped = read_model(tmp_path, scan_layers=False)
    chex.assert_trees_all_equal(from_tensors(looped, open_safetensors(tmp_path)), unstack_blocks(params))
    assert Tokenizer.load(tmp_path).single_id(" yes") is not None
    assert not list(tmp_path.glob(".*"))


@families
def test_looped_parameters_are_saved_as_stacked_ones(family):
    model, params = M.make(family)
    loop, looped = M.make(family, scan_layers=False)
    chex.assert_trees_all_equal(to_tensors(loop, looped), to_tensors(model, params))
    assert expected_shapes(loop) == expected_shapes(model)


def test_untied_head_and_biases_round_trip(tmp_path):
    config = dataclasses.replace(M.LLAMA_TINY, tie_word_embeddings=False, attention_bias=True, mlp_bias=True)
    model = Llama(config)
    params = jax.jit(model.init)(jax.random.key(3))
    save_hf_folder(tmp_path, model, params)
    assert {"lm_head.weight", "model.layers.2.mlp.up_proj.bias"} < set(load_file(tmp_path / "model.safetensors"))
    assert read_model(tmp_path).config == config
    chex.assert_trees_all_equal(from_tensors(model, open_safetensors(tmp_path)), params)


def test_our_writer_writes_what_the_safetensors_library_reads(tmp_path):
    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.float32([0.1])}
    for dtype, kind in (("float32", np.float32), ("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
        write_safetensors(tmp_path / "model.safetensors", values, dtype=dtype)
        got = load_file(tmp_path / "model.safetensors")
        ours = open_safetensors(tmp_path)
        for name, value in values.items():
            np.testing.assert_array_equal(got[name], value.astype(kind))
            np.testing.assert_array_equal(ours.get(name), value.astype(kind).astype(np.float32))


def _saved(tmp_path, family, *, prefix=True):
    model, params = M.make(family)
    tensors = to_tensors(model, params)
    if not prefix:
        tensors = {k.removeprefix("transformer.").removeprefix("model."): v for k, v in tensors.items()}
    tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    return model, params, tensors, tmp_path / "model.safetensors"


@families
def test_names_without_prefix_buffers_and_equal_tied_head_are_accepted(family, tmp_path):
    model, params, tensors, path = _saved(tmp_path, family, prefix=False)
    embedding = "wte.weight" if family == "gpt2" else "embed_tokens.weight"
    buffers = {
        "gpt2": {
            "h.1.attn.bias": np.ones((1, 1, 4, 4), np.float32),
            "h.0.attn.masked_bias": np.array(-1e4, np.float32),
        },
        "llama": {
            "layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
            "rotary_emb.inv_freq": np.ones(4, np.float32),
        },
    }
    save_file(tensors | buffers[family] | {"lm_head.weight": tensors[embedding].copy()}, path)
    chex.assert_trees_all_equal(from_tensors(model, open_safetensors(tmp_path)), params)


@families
def test_two_names_of_one_weight(family, tmp_path):
    model, params, tensors, path = _saved(tmp_path, family)
    for name in [k for k in tensors if ".1." in k or not re.search(r"\d", k)]:  # a block has every kind of name
        plain = name.removeprefix("transformer.").removeprefix("model.")
        save_file(tensors | {plain: tensors[name].copy()}, path)
        chex.assert_trees_all_equal(from_tensors(model, open_safetensors(tmp_path)), params)
        save_file(tensors | {plain: tensors[name] + 1}, path)
        with pytest.raises(UserError, match=f"{re.escape(plain)} .*one weight and have different values") as e:
            from_tensors(model, open_safetensors(tmp_path))
        assert name in str(e.value)


def test_one_name_in_two_shards(tmp_path):
    model, params, tensors, _ = _saved(tmp_path, "gpt2")
    name = "transformer.h.1.ln_1.bias"
    save_file(tensors, tmp_path / "a.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "a.safetensors") | {"transformer.ln_f.bias": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    again = {k: tensors[k] for k in (name, "transformer.ln_f.bias")}
    save_file(again, tmp_path / "b.safetensors")
    chex.assert_trees_all_equal(from_tensors(model, open_safetensors(tmp_path)), params)
    save_file(again | {name: again[name] * 2}, tmp_path / "b.safetensors")
    where = f"{name} stands in a.safetensors and b.safetensors with different values"
    with pytest.raises(UserError, match=re.escape(where)):
        open_safetensors(tmp_path)


def test_one_name_twice_in_a_header(tmp_path):
    _, _, tensors, path = _saved(tmp_path, "gpt2")
    save_file(tensors, path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"transformer.h.0.ln_1.bias", b"transformer.h.1.ln_1.bias"))
    with pytest.raises(UserError, match=r"transformer\.h\.1\.ln_1\.bias stands there twice"):
        open_safetensors(tmp_path)


@pytest.mark.parametrize("prefix", [True, False])
def test_a_missing_tensor_is_named_in_the_style_of_the_file(prefix, tmp_path):
    config = dataclasses.replace(M.LLAMA_TINY, tie_word_embeddings=False)
    _, _, tensors, path = _saved(tmp_path, "llama", prefix=prefix)
    save_file(tensors, path)
    with pytest.raises(UserError, match=r": tensor lm_head\.weight \[61, 32\] is missing; is tie_word_embeddings"):
        from_tensors(Llama(config), open_safetensors(tmp_path))
    full = "model.norm.weight" if prefix else "norm.weight"
    del tensors[full]
    save_file(tensors | {"lm_head.weight": np.zeros((61, 32), np.float32)}, path)
    with pytest.raises(UserError, match=f": tensor {re.escape(full)} "):
        from_tensors(Llama(config), open_safetensors(tmp_path))


def test_boolean_masks_of_old_gpt2_files_are_accepted(tmp_path):
    model, params, tensors, path = _saved(tmp_path, "gpt2")
    save_file(tensors | {"transformer.h.0.attn.bias": np.ones((1, 1, 4, 4), bool)}, path)
    chex.assert_trees_all_equal(from_tensors(model, open_safetensors(tmp_path)), params)


def test_shards(tmp_path):
    model, params, tensors, _ = _saved(tmp_path, "llama")
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({k: tensors[k] for k in part}, tmp_path / file)
    index = {"weight_map": {k: file for file, part in shards.items() for k in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    chex.assert_trees_all_equal(from_tensors(model, open_safetensors(tmp_path)), params)
    index["weight_map"]["model.extra"] = "model-2.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"disagree about model\.extra"):
        open_safetensors(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-2\.safetensors: no such file"):
        open_safetensors(tmp_path)


@families
@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "head"])
def test_a_wrong_tensor_is_named(family, fault, tmp_path):
    model, _, tensors, path = _saved(tmp_path, family)
    block = "transformer.h.2.mlp.c_fc.weight" if family == "gpt2" else "model.layers.2.mlp.up_proj.weight"
    if fault == "missing":
        del tensors[block]
    elif fault == "unknown":
        tensors[block.replace(".2.", ".7.")] = tensors[block]
        block = block.replace(".2.", ".7.")
    elif fault == "shape":
        tensors[block] = np.ascontiguousarray(tensors[block].T)
    else:
        block = "lm_head.weight"
        tensors[block] = np.zeros((61, 32), np.float32)
    save_file(tensors, path)
    with pytest.raises(UserError) as e:
        from_tensors(model, open_safetensors(tmp_path))
    assert block in str(e.value)
    assert "\n" not in str(e.value)


def test_damaged_files_are_one_line(tmp_path):
    _, _, tensors, path = _saved(tmp_path, "gpt2")
    save_file(tensors, path)
    whole = path.read_bytes()
    for damage in (whole[:-1], whole[:100], b"", b"\xff" * 64, whole[:8] + b"[" + whole[9:]):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=r"model\.safetensors: damaged"):
            open_safetensors(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        open_safetensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="convert it to safetensors"):
        open_safetensors(tmp_path)
