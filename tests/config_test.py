"""Configurations refuse nonsense, survive the round trip through JSON, and the presets mean what they say."""

import dataclasses
import json

import pytest

from tracr_jax import config as C
from tracr_jax.config_file import RENAMED, from_dict, to_dict
from tracr_jax.errors import UserError
from tracr_jax.presets import METHODS, check_read, preset


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lm", [None, "smollm2-135m-instruct"])
def test_round_trip(method, lm):
    config = preset(method, task="count", lm=lm)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("layers", "states"),
    [
        (C.LayerMap(), (0, 1, 2, 3)),
        (C.LayerMap(2, 2), (2, 4, 6, 8)),
        (C.LayerMap(2, 1, (4,)), (2, 6, 7, 8)),
        (C.LayerMap(0, 2, (1, 3)), (0, 1, 4, 6)),
        (C.LayerMap(1, 1, (1, 2, 3, 4)), (1, 2, 4, 7)),  # of more layers than the program has
    ],
)
def test_states_of_the_programs_layers(layers, states):
    assert layers.states(3) == states
    assert layers.top(3) == states[-1]


def test_a_preset_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="unknown preset 'fine-tune'; presets: exchange, variable"):
        preset("fine-tune")


def test_tuples_round_trip():
    config = C.RunConfig(losses=C.LossConfig(variable_weights=(("final_result", 4.0),)), layer_blocks=(3, 1))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (C.RunConfig, {"steps": 0}, "steps must be at least 1, got 0"),
        (C.RunConfig, {"seed": -1}, "seed must be between 0 and"),
        (C.RunConfig, {"seed": 10**20}, "seed must be between 0 and"),
        (C.RunConfig, {"layer_blocks": (2, 0)}, "layer_blocks must be at least 1 each"),
        (C.DataConfig, {"batch": 0}, "batch must be at least 1"),
        (C.DataConfig, {"text_length": 1}, "text_length must be at least 2"),
        (C.OptimConfig, {"learning_rate": 0.0}, "learning_rate must be positive"),
        (C.OptimConfig, {"clip_norm": -1.0}, "clip_norm must not be negative"),
        (C.LossConfig, {"alignment_weight": -1.0}, "alignment_weight must not be negative"),
        (C.LossConfig, {"hook_offset": 3}, "hook_offset must be -1 or 0"),
        (C.DataConfig, {"domain_items": 4, "domain_supervised": 5}, "between 0 and domain_items = 4, got 5"),
        (C.LossConfig, {"alignment": "cosin"}, "alignment must be one of exchange, variable, cosine, none"),
        (C.LossConfig, {"result_span": "row"}, "result_span must be one of contrasts, rows, got 'row'"),
        (C.LossConfig, {"retention_reduction": "mean"}, "retention_reduction must be one of text, token"),
        (C.OptimConfig, {"kind": "adam"}, "kind must be one of adamw, muon, got 'adam'"),
        (C.OptimConfig, {"schedule": "linear"}, "schedule must be one of constant, cosine, got 'linear'"),
        (C.OptimConfig, {"b2": 1.0}, "b2 must be at least 0 and less than 1, got 1.0"),
        (
            C.LossConfig,
            {"variable_weights": (("x", -4.0),)},
            "variable_weights: x's must not be negative, got -4.0",
        ),
        (C.LossConfig, {"variable_weights": (("x", float("nan")),)}, "variable_weights must be a finite number"),
        (C.RunConfig, {"lm": ""}, "lm must be a name, got ''"),
        (C.RunConfig, {"dtype": "float16"}, "dtype must be one of float32, bfloat16, got 'float16'"),
        (C.ExchangeConfig, {"free_share": 0.0, "outside_share": 0.5}, "of the free rows, and free_share is 0"),
        (
            C.RunConfig,
            {"train": "embeddings", "optim": C.OptimConfig(embedding_rate=0.0)},
            "train 'embeddings': with embedding_rate 0 nothing is trained",
        ),
    ],
)
def test_nonsense_is_refused(kind, values, message):
    with pytest.raises(UserError, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 3}, "no field 'stepz'"),
        ({"steps": "many"}, "steps: expected int"),
        ({"steps": True}, "steps: expected int"),
        ({"layer_blocks": [2.0]}, "RunConfig.layer_blocks: expected whole numbers"),
        ({"layer_blocks": 2}, "RunConfig.layer_blocks: expected whole numbers"),
        ({"losses": 3}, "LossConfig must be an object"),
        ({"losses": {"hook": 1}}, "hook: expected bool"),
        ({"losses": {"roll_share": 0.5}}, "roll_share 0.5: this version no longer has that option"),
        ([], "RunConfig must be an object"),
    ],
)
def test_damaged_files_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        from_dict(values)


@pytest.mark.parametrize("method", ["paper", "variable"])
def test_the_form_of_the_version_before_is_read(method):
    config = preset(method)
    values = to_dict(config)
    switches = values.pop("fidelity")
    values["as_coded"] = switches.pop("as_coded")
    values["data"] |= switches
    values["losses"] |= {"roll_share": 1.0, "answer_gradient": 1.0, "clean_weight": 0.0}
    assert from_dict(json.loads(json.dumps(values))) == config


def test_names_of_the_version_before_are_read():
    config = C.RunConfig(data=C.DataConfig(domain_items=4, domain_supervised=3))
    values = to_dict(config)
    for old, new in RENAMED.items():
        values["data"][old] = values["data"].pop(new)
    assert from_dict(json.loads(json.dumps(values))) == config


def test_paper_is_as_coded_and_paper_fixed_is_not():
    paper, fixed = preset("paper"), preset("paper-fixed")
    assert paper.fidelity == C.Fidelity(as_coded=True, as_coded_mask=True, as_coded_length=True)
    assert fixed.fidelity == C.OURS
    for config in (paper, fixed):
        assert config.losses.alignment == "cosine"
        assert config.losses.align_padding
        assert config.lm.endswith("gpt2-large")
        assert (config.optim.learning_rate, config.optim.adapter_learning_rate) == (1e-6, 1e-4)
        assert config.optim.clip_norm == config.optim.warmup_steps == 0


@pytest.mark.parametrize("task", ["dyck", "int_sum", "count", "my_program.py:TASK"])
@pytest.mark.parametrize("full", [False, True])
def test_methods_of_a_task_differ_in_their_losses_only(task, full):
    ours, cosine, baseline = (preset(m, task=task, full=full) for m in ("variable", "cosine", "finetune"))
    assert cosine.losses.alignment == "cosine"
    assert ours.losses.retention_weight == cosine.losses.retention_weight == baseline.losses.retention_weight
    for other in (cosine, baseline):
        assert (other.steps, other.optim, other.eval_items) == (ours.steps, ours.optim, ours.eval_items)
        assert (other.data.batch, other.data.domain_items) == (ours.data.batch, ours.data.domain_items)
    assert baseline.data.domain_supervised == ours.data.domain_items  # never fewer labels than ours


def test_options_that_the_alignment_does_not_read_are_refused():
    """What the preset itself has of them stays: it is not what the user asked for."""

    def changed(method, **options):
        start = preset(method)
        losses = {n: v for n, v in options.items() if hasattr(start.losses, n)}
        own = {n: v for n, v in options.items() if n not in losses}
        return start, dataclasses.replace(
            start,
            losses=dataclasses.replace(start.losses, **losses),
            exchange=dataclasses.replace(start.exchange, **own),
        )

    for method, options, message in (
        ("variable", {"directions": 12}, "--directions: not read with alignment 'variable'; leave it out"),
        ("finetune", {"noise": 0.5, "result_weight": 3.0}, "--result-weight, --noise: not read .* leave them out"),
        (
            "exchange",
            {"variable_weights": (("x", 1.0),)},
            "--variable-weights: not read with alignment 'exchange'",
        ),
    ):
        start, config = changed(method, **options)
        with pytest.raises(UserError, match=message):
            check_read(config, start)
    for method in METHODS:
        check_read(preset(method), preset(method))
    check_read(*reversed(changed("variable", result_weight=3.0, answer_alignment=2.0)))
    check_read(*reversed(changed("exchange", directions=12, answer_alignment=2.0)))


def test_the_baseline_has_neither_alignment_nor_hook():
    config = preset("finetune")
    assert config.losses.alignment == "none"
    assert not config.losses.hook
    assert config.losses.retention_weight == preset("variable").losses.retention_weight
