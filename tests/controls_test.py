"""Models that do not run the program, measured as the injected one is: fitted, measured once, refused, told."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from rich.console import Console

from tests.helpers.exchange_run import small_exchange_run
from tracr_jax import controls as C
from tracr_jax.config import RunConfig
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.presets import preset
from tracr_jax.report.controls import COLUMNS, cells, controls_table
from tracr_jax.report.terminal.controls import print_controls
from tracr_jax.types import Adapter

SIZES = {"steps": 2, "prompts": 4, "pairs": 4, "items": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with small_exchange_run(tmp_path_factory.mktemp("controls")) as made:
        yield made


def interpretation(decoded, *, faithful=None, right=3):
    """What `interpret` writes, as far as a row reads it; its own tests are in tests/interpret."""
    share = {"accuracy": right / 4 if right else 0.0, "total": 4 if right else 0}
    return {
        "scorecard": {"sets": {"test": {"classes": {"all": {
            "a": {"accuracy": [0.1, decoded], "probe": [0.2, 0.3]},
            "b": {"accuracy": [decoded, None], "probe": [0.3, 0.9]},  # handed on after the first layer
            "c": {"accuracy": [None, None], "probe": [None, None]},  # no layer encodes it
        }}}}},
        "noise": {"kinds": {
            k: [{"strength": 0, "accuracy": 0.9}, {"strength": 5, "accuracy": 0.25}]
            for k in ("result", "random")
        }},
        "swaps": {
            "used": ["a"],
            "swapped": ["a", "b"],
            "cells": [{"followed": {"answer": {"swap": share}}}],
            "causal_abstraction_error": {"mapped": 0.25, "faithful": faithful},
        },
    }  # fmt: skip


def test_an_affine_adapter_is_fitted_to_the_frozen_model_and_measured_once(run, monkeypatch):
    calls = []

    def interpret(of, *, say, folder=None, **sizes):
        calls.append((of, sizes))
        say("swaps")
        own = of.folder == run.folder
        found = interpretation(0.9 if own else 0.4, faithful=0.5 if own else None, right=3 if own else 0)
        found |= {"weights": of.digest, "about": {"asked": sizes | {"seeds": list(sizes["seeds"])}}}
        write_json((folder or of.folder) / "interpretation.json", found)
        return found

    monkeypatch.setattr(C, "interpret", interpret)
    said = []
    found = C.controls(run, kinds=("untouched",), say=said.append, **SIZES)
    assert read_json(run.folder / "controls.json") == found
    assert [of.folder for of, _ in calls] == [run.folder, run.folder / "controls" / "untouched"]
    assert calls[0][1] == calls[1][1] == {"prompts": 4, "pairs": 4, "items": 3, "seeds": (0,)}
    assert said == ["swaps", "untouched: fitting an adapter", "untouched: swaps"]
    fitted = calls[1][0]
    assert isinstance(fitted.trained_adapter, Adapter)
    assert fitted.program.reserved is None
    jax.tree.map(np.testing.assert_array_equal, fitted.params, run.original.params)
    config = read_json(fitted.folder / "config.json")
    assert (config["train"], config["steps"], config["layer_offset"]) == ("adapter", 2, 1)
    rows = found["rows"]
    assert rows["injected"] == {
        "decoded": 0.9, "probe": 0.3, "used": 1, "swapped": 2, "followed": 0.75, "answered": 0.9,
        "causal_abstraction_error": {"mapped": 0.25, "faithful": 0.5}, "noise": {"result": 0.25, "random": 0.25},
        "strength": 5,
    }  # fmt: skip
    assert rows["untouched"]["followed"] is None

    assert C.controls(run, kinds=("untouched",), **SIZES)["rows"] == rows
    assert len(calls) == 2
    # One of what the run was before it went on, or by other sizes, is no match: it stays, and the run is measured
    # again, once.
    own = read_json(run.folder / "interpretation.json")
    for other in (own | {"weights": "0" * 64}, own | {"about": {"asked": {"pairs": 100}}}):
        write_json(run.folder / "interpretation.json", other)
        assert C.controls(run, kinds=("untouched",), **SIZES)["rows"] == rows
        assert read_json(run.folder / "interpretation.json") == other
    assert [of.folder for of, _ in calls[2:]] == [run.folder]
    assert [found["about"][k] for k in ("pairs", "prompts", "items")] == [4, 4, 3]
    with pytest.raises(UserError, match="steps 2 -> 3"):
        C.controls(run, kinds=("untouched",), **SIZES | {"steps": 3})

    for width in (60, 120):
        console = Console(file=io.StringIO(), width=width)
        print_controls(console, found)
        text = console.file.getvalue()
        assert max(map(len, text.splitlines())) <= width
        for row in rows.values():
            assert all(part in text for cell in cells(row) for part in cell.split())
    page = controls_table(found)
    assert all(f"<th>{name}</th>" in page for name in (*COLUMNS, *rows))


def test_what_is_fitted_keeps_layers_and_items_and_no_more():
    for method in ("exchange", "variable", "cosine", "finetune"):
        config = preset(method)
        fitted = C.fitting(config)
        assert (fitted.train, fitted.losses.hook, fitted.losses.retention_weight) == ("adapter", False, 0)
        assert fitted.losses.alignment == ("cosine" if method == "cosine" else "variable")
        assert fitted.steps == 300
        for name in ("layer_offset", "layer_stride", "data", "seed"):
            assert getattr(fitted, name) == getattr(config, name)
        # Reserved directions have another rate and span; an affine adapter has its own.
        usual = preset("variable") if method == "exchange" else config
        assert fitted.optim == dataclasses.replace(
            config.optim, adapter_learning_rate=usual.optim.adapter_learning_rate
        )
        assert fitted.losses.result_span == usual.losses.result_span
    assert C.fitting(RunConfig(steps=20)).steps == 20


def test_refusals(run, tmp_path):
    with pytest.raises(UserError, match="unknown nothing; there are untouched, random, refitted"):
        C.controls(run, kinds=("nothing",))
    with pytest.raises(UserError, match="alignment exchange\\), no fine-tuning baseline; make one"):
        C.controls(run, kinds=(), finetuned=run)
    onto = dataclasses.replace(preset("finetune", task="dyck", lm=run.program.config.lm), onto="earlier")
    held = dataclasses.replace(run, programs=(dataclasses.replace(run.program, config=onto),))
    with pytest.raises(UserError, match="its onto is earlier, the run's none; compare runs of the same onto"):
        C.models(run, kinds=(), finetuned=held)
    with pytest.raises(UserError, match="the folder of a run"):
        C.controls(dataclasses.replace(run, folder=None))


def test_a_control_of_weights_that_have_changed_is_no_match(run, monkeypatch):
    """A run that went on since: what was fitted to the model that it was is refused by the name of its folder."""
    for name, scale in (("refitted", 1.0), ("refitted", 1.5)):
        lm = dataclasses.replace(run.lm, params=jax.tree.map(lambda x, s=scale: s * x, run.lm.params))
        monkeypatch.setattr(C, "models", lambda *_, lm=lm: {name: (str(run.folder), lambda: lm)})
        monkeypatch.setattr(C, "interpret", lambda of, **_: interpretation(0.5))
        if scale == 1:
            C.controls(run, kinds=(), **SIZES)
        else:
            with pytest.raises(UserError, match=r"controls/refitted: was fitted to other weights of .*; remove"):
                C.controls(run, kinds=(), **SIZES)
