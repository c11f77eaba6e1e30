"""A program as a file of its own: from a run with --train lora to a model with it, and back to the bit."""

import dataclasses
import json
import shutil

import chex
import jax
import ml_dtypes
import numpy as np
import pytest

import tracr_jax
from tests.helpers.bounds import assert_same
from tests.helpers.programs_parts import SMALL, model_and_tasks
from tests.helpers.random_models import write_random_gpt2
from tracr_jax import cli
from tracr_jax.errors import UserError
from tracr_jax.export.program import FILE, read_pairs
from tracr_jax.files import read_json
from tracr_jax.lm.blocks import unstack_blocks
from tracr_jax.lm.convert import save_hf_folder, to_tensors
from tracr_jax.lm.load import load_lm
from tracr_jax.lm.lora import added, lost_bits, unmerged
from tracr_jax.lm.tensors import open_safetensors, read_metadata, write_safetensors

PROMPT = "What is the text x y x x\nAnswer:"


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """(folder, the run as `inject` returned it): 3 steps of lora:2, and its export."""
    folder = tmp_path_factory.mktemp("program")
    with model_and_tasks(folder):
        config = dataclasses.replace(SMALL, steps=3, eval_items=2, train="lora:2", checkpoint_every=1)
        where = {"lm": str(folder / "lm"), "folder": folder / "run"}
        run = tracr_jax.inject(f"{folder}/tasks.py:ODD", config=config, progress=False, **where)
        tracr_jax.export_run(run, folder / "export")
        yield folder, run


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "model.safetensors"}


def tensors(folder):
    found = open_safetensors(folder)
    return {name: found.get(name) for name in found.shapes}


def same_bits(a, b):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name].view(np.uint32), b[name].view(np.uint32), err_msg=name)


def test_a_run_is_read_back_and_decoded_from_its_folder_alone(room):
    folder, run = room
    again = tracr_jax.open(folder / "run")
    chex.assert_trees_all_equal(again.params, run.params)
    a, b = (tracr_jax.decode(x, PROMPT) for x in (run, again))
    np.testing.assert_array_equal(a.margins, b.margins)
    lm = load_lm(str(folder / "lm"))
    changed = to_tensors(run.model, run.params)
    before = to_tensors(lm.model, lm.params)
    assert {k.split(".")[-2] for k in before if not np.array_equal(changed[k], before[k])} == {
        "c_attn", "c_proj", "c_fc"
    }  # fmt: skip


def test_an_export_is_merged_and_computes_the_same(room):
    folder, run = room
    merged = tracr_jax.open(folder / "export")
    ids = np.arange(12, dtype=np.int32)[None]
    apply = jax.jit(run.model.apply)
    assert_same(apply(merged.params, ids).hidden, apply(run.params, ids).hidden)
    assert apply(merged.params, ids).hidden.shape == (7, 1, 12, 32)


def test_a_program_is_put_on_and_taken_off_to_the_bit(room, tmp_path, capsys):
    folder, _ = room
    cli.main(["apply", str(folder / "export"), str(folder / "lm"), str(tmp_path / "with")])
    same_bits(tensors(tmp_path / "with"), tensors(folder / "export"))
    assert tracr_jax.decode(tracr_jax.open(tmp_path / "with"), PROMPT).tokens
    cli.main(["remove", str(tmp_path / "with"), str(tmp_path / "without")])
    same_bits(tensors(tmp_path / "without"), tensors(folder / "lm"))
    assert files(tmp_path / "without") == files(folder / "lm")
    # An export can do the same; and the file alone makes a model without the program's own files.
    tracr_jax.remove_program(folder / "export", tmp_path / "again")
    same_bits(tensors(tmp_path / "again"), tensors(folder / "lm"))
    assert files(tmp_path / "again") == files(folder / "lm")
    shutil.copy(folder / "export" / FILE, tmp_path / "odd.safetensors")
    tracr_jax.apply_program(tmp_path / "odd.safetensors", str(folder / "run" / "model"), tmp_path / "plain")
    same_bits(tensors(tmp_path / "plain"), tensors(folder / "export"))
    assert not (tmp_path / "plain" / "program.json").exists()


def test_the_file_says_what_it_belongs_to(room):
    folder, _ = room
    program = read_pairs(folder / "export" / FILE)
    assert (program.scale, program.lm) == (2.0, "lm")
    assert len(program.pairs) == 6 * 4
    assert program.pairs["transformer.h.0.attn.c_attn.weight"][0].shape == (32, 2)
    size = (folder / "export" / FILE).stat().st_size
    assert size < (folder / "export" / "model.safetensors").stat().st_size / 3


def test_another_model_or_a_changed_one_is_refused(room, tmp_path):
    folder, _ = room
    write_random_gpt2(tmp_path / "other", num_blocks=6, width=32, heads=2, seed=1)
    with pytest.raises(UserError, match=r"its weights are .* was trained on .*give that model"):
        tracr_jax.apply_program(folder / "export", str(tmp_path / "other"), tmp_path / "out")
    changed = shutil.copytree(folder / "export", tmp_path / "changed")
    values = tensors(changed)
    values["transformer.wte.weight"][0, 0] += 1
    write_safetensors(changed / "model.safetensors", values)
    with pytest.raises(UserError, match="they have changed since"):
        tracr_jax.remove_program(changed, tmp_path / "out")
    with pytest.raises(UserError, match="no program to remove"):
        tracr_jax.remove_program(folder / "lm", tmp_path / "out")
    with pytest.raises(UserError, match="not a program of tracr_jax"):
        tracr_jax.apply_program(folder / "lm" / "model.safetensors", str(folder / "lm"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_goes_on_to_the_bit(room, tmp_path):
    folder, run = room
    copy = shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "3")
    resumed = tracr_jax.resume(copy, progress=False)
    chex.assert_trees_all_equal(resumed.params, run.params)
    chex.assert_trees_all_equal(resumed.adapter, run.adapter)


def test_a_run_of_the_adapter_alone_leaves_the_model_and_is_read_back(room, tmp_path):
    folder, _ = room
    config = dataclasses.replace(SMALL, steps=2, eval_items=2, train="adapter")
    run = tracr_jax.inject(
        f"{folder}/tasks.py:ODD", lm=str(folder / "lm"), config=config, folder=tmp_path / "run", progress=False
    )
    again = tracr_jax.open(tmp_path / "run")
    chex.assert_trees_all_equal(run.params, load_lm(str(folder / "lm")).params)
    chex.assert_trees_all_equal(again.params, run.params)
    chex.assert_trees_all_equal(again.adapter, run.adapter)
    assert "retention" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_run_of_the_programs_part_leaves_the_rest_and_is_read_back(room, tmp_path):
    """ODD needs the first of six blocks, and three above it answer."""
    folder, _ = room
    config = dataclasses.replace(SMALL, steps=2, eval_items=2, train="program")
    run = tracr_jax.inject(
        f"{folder}/tasks.py:ODD", lm=str(folder / "lm"), config=config, folder=tmp_path / "run", progress=False
    )
    before, trained = unstack_blocks(load_lm(str(folder / "lm")).params), unstack_blocks(run.params)
    moved = {k for k in before if not all(jax.tree.leaves(jax.tree.map(np.array_equal, before[k], trained[k])))}
    assert moved == {"wte", *(f"block_{i}" for i in range(run.program.top + 2 + 1))} < set(before)
    again = tracr_jax.open(tmp_path / "run")
    chex.assert_trees_all_equal(again.params, run.params)
    chex.assert_trees_all_equal(again.adapter, run.adapter)


def test_a_run_does_not_go_on_with_another_model(room, tmp_path):
    folder, _ = room
    write_random_gpt2(tmp_path / "lm", num_blocks=6, width=32, heads=2, seed=1)
    copy = shutil.copytree(folder / "run", tmp_path / "run")
    with pytest.raises(UserError, match="has changed since the run began"):
        tracr_jax.resume(copy, lm=load_lm(str(tmp_path / "lm")), progress=False)


@pytest.mark.soak
def test_weights_in_a_coarser_type_come_back_in_it(room, tmp_path):
    folder, _ = room
    lm = load_lm(str(folder / "lm"))
    coarse = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), lm.params)
    save_hf_folder(tmp_path / "lm", lm.model, coarse, lm.tokenizer, dtype="bfloat16")
    config = dataclasses.replace(SMALL, steps=1, eval_items=2, train="lora:1")
    run = tracr_jax.inject(
        f"{folder}/tasks.py:ODD", lm=str(tmp_path / "lm"), config=config, folder=tmp_path / "run", progress=False
    )
    tracr_jax.export_run(run, tmp_path / "export")
    tracr_jax.remove_program(tmp_path / "export", tmp_path / "without")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "without" / name).read_bytes() == (tmp_path / "lm" / name).read_bytes()


def test_bits_come_back_whatever_the_sizes():
    """Zeros of both signs, subnormals, and pairs a thousand times larger or smaller than the weights."""
    rng = np.random.default_rng(0)
    lost = []
    for size in (1e-6, 1e-3, 1.0, 1e3):
        w = rng.standard_normal((40, 30)).astype(np.float32)
        w[:4] *= [[0.0], [-0.0], [1e-42], [1e30]]
        a, b = (size**0.5 * rng.standard_normal(s).astype(np.float32) for s in ((40, 3), (3, 30)))
        a, b = a.astype(np.float32), b.astype(np.float32)
        bits = lost_bits(w, a, b)
        back = unmerged(added(w, a, b), a, b, bits)
        np.testing.assert_array_equal(back.view(np.uint32), w.view(np.uint32))
        lost.append(np.count_nonzero(bits))
    assert lost[0] < lost[-1]  # subtraction alone would not do
    assert lost[-1] > 0


@pytest.mark.parametrize("train", ["all", "adapter", "lora:3"])
def test_a_run_begins_with_a_run_with_pairs(room, tmp_path, train):
    """What is handed on is the merged model: a run that begins with it is read back."""
    folder, run = room
    ids = np.arange(12, dtype=np.int32)[None]
    apply = jax.jit(run.model.apply)
    chex.assert_trees_all_close(
        apply(run.lm.params, ids).logits, apply(run.params, ids).logits, rtol=1e-5, atol=1e-5
    )
    config = dataclasses.replace(SMALL, steps=1, eval_items=2, train=train, losses=run.program.config.losses)
    if train == "adapter":
        config = dataclasses.replace(config, losses=dataclasses.replace(config.losses, hook=False))
    second = tracr_jax.inject(
        f"{folder}/tasks.py:ODD", lm=run.lm, config=config, folder=tmp_path / "run", progress=False
    )
    again = tracr_jax.open(tmp_path / "run", lm=run.lm)
    chex.assert_trees_all_equal(again.params, second.params)
    chex.assert_trees_all_equal(again.original.params, run.lm.params)


def test_of_an_earlier_program_no_other_is_taken_off(tmp_path):
    """The pairs of a run onto another are its own program's, and the export of the earlier one holds none."""
    with model_and_tasks(tmp_path):
        config = dataclasses.replace(SMALL, steps=1, eval_items=2, train="lora:2")
        onto = None
        for name in ("ODD", "MORE"):
            where = {"lm": str(tmp_path / "lm")} if onto is None else {"onto": onto}
            onto = tmp_path / name.lower()
            tracr_jax.inject(f"{tmp_path}/tasks.py:{name}", config=config, folder=onto, progress=False, **where)
        for name, holds in (("odd", False), ("more", True)):
            run = tracr_jax.open(tmp_path / "more", program=name)
            evaluation = read_json(tmp_path / name / "evaluation.json")
            export = tracr_jax.export_run(run, tmp_path / f"export-{name}", evaluation=evaluation)
            assert (export / FILE).exists() == holds


def damaged(folder, to, **change):
    """A copy of a program's file with another "scale", or of its first pair another array (None: gone)."""
    found, said = open_safetensors(folder, name=FILE.removesuffix(".safetensors")), read_metadata(folder / FILE)
    pairs = {name: found.get(name) for name in found.shapes}
    name = next(iter(pairs))
    for key, value in change.items():
        if key in said:
            said[key] = value
        elif value is None:
            pairs = {n: x for n, x in pairs.items() if n.rpartition(".lora_")[0] != name.rpartition(".lora_")[0]}
        else:
            pairs[name] = value(pairs[name])
    write_safetensors(to, pairs, metadata=said)
    return to


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": "nan"}, "its scale is nan"),
        ({"pair": lambda x: np.full_like(x, np.nan)}, "not finite"),
        ({"pair": lambda x: x[:1]}, "are no pair of rank 2"),
        ({"pair": lambda x: x[0]}, "are no pair of rank 2"),
        ({"pair": None}, "has no pair of transformer.*, and 24 are needed"),
        ({"scale": "1e60"}, "is not finite; the file is damaged"),
    ],
    ids=["scale", "nan", "rank", "dimensions", "missing", "overflow"],
)
def test_a_damaged_program_is_refused_and_nothing_is_written(room, tmp_path, change, message):
    folder, _ = room
    path = damaged(folder / "export", tmp_path / "odd.safetensors", **change)
    with pytest.raises(UserError, match=message) as e:
        tracr_jax.apply_program(path, str(folder / "lm"), tmp_path / "out")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "out").exists()


def test_with_a_program_a_folder_has_its_tokenizer_alone_and_knows_its_original(room, tmp_path):
    folder, _ = room
    base = shutil.copytree(folder / "lm", tmp_path / "base")
    (base / "added_tokens.json").write_text("{}")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    tracr_jax.apply_program(folder / "export", str(base), tmp_path / "with")
    there = {p.name for p in (folder / "export").iterdir()}
    assert {p.name for p in (tmp_path / "with").iterdir()} == there | {"chat_template.jinja"}
    # Of a program of which only these files were kept, all others are the model's.
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in (FILE, "program.json"):
        shutil.copy(folder / "export" / name, bare / name)
    tracr_jax.apply_program(bare, str(base), tmp_path / "own")
    assert {"added_tokens.json", "tokenizer.json", "config.json"} <= {p.name for p in (tmp_path / "own").iterdir()}
    write_random_gpt2(tmp_path / "other", num_blocks=6, width=32, heads=2, seed=1)
    with pytest.raises(UserError, match="or is not the model that it began with"):
        tracr_jax.open(tmp_path / "with", lm=load_lm(str(tmp_path / "other")))


def test_the_type_comes_back_that_the_weights_had_whatever_config_said(room, tmp_path):
    """Weights in bfloat16 beside a config.json that names no type, and a chat template."""
    folder, _ = room
    base = shutil.copytree(folder / "lm", tmp_path / "base")
    coarse = {k: x.astype(ml_dtypes.bfloat16).astype(np.float32) for k, x in tensors(base).items()}
    write_safetensors(base / "model.safetensors", coarse, dtype="bfloat16")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "dtype" not in k}))
    (base / "chat_template.jinja").write_text("{{ messages }}")
    config = dataclasses.replace(SMALL, steps=1, eval_items=2, train="lora:2")
    run = tracr_jax.inject(
        f"{folder}/tasks.py:ODD", lm=str(base), config=config, folder=tmp_path / "run", progress=False
    )
    tracr_jax.export_run(run, tmp_path / "export")
    tracr_jax.remove_program(tmp_path / "export", tmp_path / "out")
    assert open_safetensors(tmp_path / "out").dtype == open_safetensors(base).dtype == "bfloat16"
    same_bits(tensors(tmp_path / "out"), coarse)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
