"""config.json: what is read, what is refused, what is ignored and why; the rotary base in its three places."""

import dataclasses
import itertools

import pytest

from tests.helpers import lm_models as M
from tracr_jax.errors import UserError
from tracr_jax.lm.config_json import FIXED, SAFE
from tracr_jax.lm.gpt2 import GPT2Config
from tracr_jax.lm.llama import MEMBERS, LlamaConfig
from tracr_jax.lm.rotary import RotaryScaling

CONFIGS = {"gpt2": M.GPT2_TINY} | {
    kind: dataclasses.replace(M.LLAMA_TINY, model_type=kind, rope_theta=7.0) for kind in MEMBERS
}
families = pytest.mark.parametrize("family", CONFIGS)


def read(family, change):
    config = CONFIGS[family]
    return type(config).from_hf(config.to_hf() | change)


@families
def test_a_key_is_read_or_safe_or_refused(family):
    config = CONFIGS[family]
    assert read(family, {}) == config
    with pytest.raises(UserError, match=r"surprise = \[1\] is not read"):
        read(family, {"surprise": [1]})
    assert read(family, {"surprise": None}) == config
    for reason, keys in SAFE.items():
        assert len(reason) > 20
        for key in set(keys) - set(config.__dataclass_fields__):
            assert read(family, {key: "anything"}) == config, key
    for key, values in FIXED.items():
        for value in values:
            assert read(family, {key: value}) == config
        with pytest.raises(UserError, match=f"{key} = 7 is not supported, only"):
            read(family, {key: 7})


def test_safe_keys_stand_once_and_are_read_by_nobody():
    keys = [key for keys in SAFE.values() for key in keys]
    assert len(keys) == len(set(keys))
    own = {f.name for c in (GPT2Config, LlamaConfig) for f in dataclasses.fields(c)}
    assert set(keys) & own == {"initializer_range", "model_type"}  # the Llama family's
    assert not set(keys) & set(FIXED)


@families
def test_every_field_of_ours_is_read(family):
    config = CONFIGS[family]
    written = config.to_hf()
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.name not in written or isinstance(value, str) or value is None:
            continue
        if f.name == "rope_theta":  # what stands in rope_parameters wins
            assert read(family, {"rope_theta": 3.0}) == config
            written = {k: v for k, v in written.items() if k != "rope_parameters"}
            assert type(config).from_hf(written | {"rope_theta": 3.0}).rope_theta == 3.0
            continue
        other = (not value) if isinstance(value, bool) else 2 * value
        try:
            changed = read(family, {f.name: other})
        except UserError as e:
            assert f.name in str(e)  # noqa: PT017  (either way of taking it into account is right)
        else:
            assert getattr(changed, f.name) == other


def test_aliases_of_gpt2_win_as_in_transformers():
    written = M.GPT2_TINY.to_hf()
    names = {"n_head": "num_attention_heads", "n_embd": "hidden_size", "n_layer": "num_hidden_layers"}
    names["n_positions"] = "max_position_embeddings"
    for count in range(1, 5):
        for chosen in itertools.combinations(names, count):
            moved = {names[k] if k in chosen else k: v for k, v in written.items()}
            assert GPT2Config.from_hf(moved) == M.GPT2_TINY
    assert GPT2Config.from_hf(written | {"num_attention_heads": 2}).n_head == 2


@pytest.mark.parametrize(
    ("given", "base", "kind"),
    [
        ({}, 10000.0, None),
        ({"rope_theta": 5.0}, 5.0, None),
        ({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 6.0}}, 6.0, None),
        ({"rope_theta": 5.0, "rope_scaling": None}, 5.0, None),
        ({"rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2.0}}, 5.0, "linear"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 6.0}}, 6.0, "linear"),
        ({"rope_scaling": {"rope_theta": 6.0}, "rope_parameters": {"rope_theta": 7.0}}, 6.0, None),
        ({"rope_scaling": {}, "rope_parameters": {"rope_theta": 7.0}}, 7.0, None),
        ({"rope_scaling": {"rope_type": "dynamic", "type": "linear", "factor": 2}}, 10000.0, "dynamic"),
        ({"rope_scaling": {"rope_type": "default", "factor": 2}}, 10000.0, None),
    ],
)
def test_the_rotary_base_stands_in_three_places(given, base, kind):
    written = {k: v for k, v in M.LLAMA_TINY.to_hf().items() if not k.startswith("rope")}
    config = LlamaConfig.from_hf(written | given)
    assert config.rope_theta == base
    assert (config.rope_scaling and config.rope_scaling.rope_type) == kind


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor of rotary scaling 'llama3' is missing"),
        ({"rope_type": "linear"}, "factor of rotary scaling 'linear' is missing"),
        ({"rope_type": "linear", "factor": "2"}, "factor of rotary scaling 'linear' must be a number"),
        ({"rope_type": "longrope", "factor": 2.0}, "'longrope' is not supported; supported are default, linear"),
        ({"rope_type": "default", "mrope_section": [1, 2]}, "mrope_section = .* is not supported"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_type": None}, "rotary scaling None is not supported"),
        ({"full_attention": {"rope_theta": 2.0}}, "full_attention = .* is not supported"),
        ({"rope_theta": None}, "rope_theta must be a number"),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0},
            "high_freq_factor 4.0 of rotary scaling must be above low_freq_factor 4.0",
        ),
        ("linear", "must be objects"),
    ],
)
def test_rotary_parameters_that_are_refused(rope, message):
    for place in ("rope_scaling", "rope_parameters"):
        with pytest.raises(UserError, match=message):
            LlamaConfig.from_hf(M.LLAMA_TINY.to_hf() | {place: rope})


SCALINGS = (
    RotaryScaling("linear", 2.0),
    RotaryScaling("dynamic", 4),
    RotaryScaling("llama3", 8.0, 16, 1.0, 4.0),
    RotaryScaling("yarn", 4.0, 16),
    RotaryScaling("yarn", 4.0, 16, attention_factor=0.5, beta_fast=20.0, mscale=1.0, truncate=False),
)


@pytest.mark.parametrize("kind", MEMBERS)
@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s.rope_type)
def test_every_member_survives_hf_form(kind, scaling):
    config = dataclasses.replace(CONFIGS[kind], rope_scaling=scaling)
    written = config.to_hf()
    assert LlamaConfig.from_hf(written) == config
    # Each version of transformers reads one of the two forms.
    assert LlamaConfig.from_hf({k: v for k, v in written.items() if k != "rope_parameters"}) == config
    assert (
        LlamaConfig.from_hf({k: v for k, v in written.items() if k not in ("rope_scaling", "rope_theta")})
        == config
    )


def test_windows():
    mistral = dataclasses.replace(CONFIGS["mistral"], sliding_window=5)
    assert LlamaConfig.from_hf(mistral.to_hf()) == mistral
    silent = {k: v for k, v in mistral.to_hf().items() if k != "sliding_window"}
    assert LlamaConfig.from_hf(silent).sliding_window == 4096
    window = {"use_sliding_window": True, "sliding_window": 5}
    assert read("qwen2", {"sliding_window": 5}) == CONFIGS["qwen2"]
    assert read("qwen2", window) == CONFIGS["qwen2"]  # of blocks from 28 on
    assert read("qwen2", window | {"sliding_window": 24, "max_window_layers": 0}) == CONFIGS["qwen2"]
    for change in (
        window | {"max_window_layers": 3},
        window | {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]},
        {"layer_types": ["sliding_attention"] * 4},
        window | {"sliding_window": 24, "max_window_layers": 0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ):
        with pytest.raises(UserError, match=r"a sliding window of .* in some blocks is not supported"):
            read("qwen2", change)
    with pytest.raises(UserError, match="layer_types"):
        read("qwen2", {"layer_types": ["full_attention"] * 3})
