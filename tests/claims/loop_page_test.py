"""Every block of docs/loop.md is run, in order, on a small random model and for two steps."""

from pathlib import Path

import jax
import numpy as np

import tracr_jax
from experiments.make_tutorial import blocks
from tests.helpers.random_models import write_random_gpt2
from tracr_jax.train.losses import apply_adapter

PAGE = Path(tracr_jax.__file__).parent / "docs" / "loop.md"
PRESET = 'config = tracr_jax.preset("variable", task="dyck", lm="tiny")\n'


def test_the_page_of_the_loop(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_random_gpt2("lm", num_blocks=12, width=32, heads=2)
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(PRESET) == 1
    small = f'{PRESET}config = dataclasses.replace(config, lm="lm", steps=2)\n'
    names = {}
    for language, _, content in blocks(text.replace(PRESET, small)):
        assert language == "python"
        exec(compile(content, f"{PAGE.name}: {content[:40]!r}", "exec"), names)
        if "optimizer" not in names:  # of the first loop
            first, base = names["state"], names["frozen"].base
    out = capsys.readouterr().out
    assert "step 2: alignment " in out
    assert "grad_norm" in out
    assert "'size'" in out
    assert int(first.step) == 2
    assert base is not None  # the preset trains a part of the model, which the page puts together again
    run, lm = names["run"], names["setup"].lm
    assert jax.tree.structure(run.params) == jax.tree.structure(lm.params)
    moved = [
        np.abs(np.asarray(a) - b).max()
        for a, b in zip(*map(jax.tree.leaves, (run.params, lm.params)), strict=True)
    ]
    assert max(moved) > 0
    states = run.model.apply(run.params, names["ids"]).hidden[run.program.top]
    written = tracr_jax.write(run, states, "final_result", True)
    rows = list(run.program.teacher.variable("final_result").indices)  # False, True
    assert (np.asarray(apply_adapter(run.adapter, written))[..., rows].argmax(-1) == 1).all()
