"""An exported folder is whole or absent, comes back bit for bit, and its card's code decodes what we decode."""

import dataclasses
import errno
import json
import shutil

import chex
import jax
import numpy as np
import pytest
from tokenizers import models, normalizers, pre_tokenizers

import tracr_jax
from tests.helpers import export_parts as E
from tracr_jax import cli
from tracr_jax.config import LossConfig
from tracr_jax.errors import UserError
from tracr_jax.export import export_run
from tracr_jax.export import folder as F
from tracr_jax.export.tokenizer import is_vocab_and_merges
from tracr_jax.files import new_folder
from tracr_jax.lm.byte_level import byte_level
from tracr_jax.lm.load import load_lm
from tracr_jax.lm.tensors import open_safetensors, write_safetensors
from tracr_jax.lm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return E.exporter(tmp_path_factory)


@E.families
def test_the_same_run_comes_back_bit_for_bit(family, exported):
    run, folder = E.run_of(family), exported(family)
    lm = load_lm(str(folder))
    assert lm.model == run.model
    chex.assert_trees_all_equal(lm.params, run.params)
    back = tracr_jax.open(folder)
    chex.assert_trees_all_equal((back.params, back.adapter), (run.params, run.adapter))
    variables = back.program.teacher.variables
    assert variables == run.program.teacher.variables
    types = [[type(x) for x in v.values] for v in variables]
    assert types == [[type(x) for x in v.values] for v in run.program.teacher.variables]
    texts = [run.program.task.train_item(i, seed=5).prompt for i in range(50)]
    texts += ["", "Ünïcode 🙂 (([])", "a <|endoftext|> 12 b"]
    assert back.tokenizer.encode_batch(texts) == run.program.tokenizer.encode_batch(texts)
    for part in ("values", "truth", "margins", "numbers"):
        found = (getattr(tracr_jax.decode(r, texts[0]), part) for r in (back, run))
        np.testing.assert_array_equal(*found)


@E.families
def test_files(family, exported):
    there = {p.name for p in exported(family).iterdir()}
    assert there == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json", "adapter.safetensors", "program.json", "teacher.npz", "README.md",
    } | ({"vocab.json", "merges.txt"} if family == "gpt2" else set())  # fmt: skip
    config = json.loads((exported(family) / "tokenizer_config.json").read_text())
    # Else transformers 4 hands GPT-2 token types, and every logit is another.
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert config["add_bos_token"] is False


def test_vocabulary_and_merges_alone_give_the_same_ids(exported, tmp_path):
    run = E.run_of("gpt2")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(exported("gpt2") / name, tmp_path)
    alone = Tokenizer.load(tmp_path)
    texts = [run.program.task.train_item(i, seed=5).prompt for i in range(50)]
    assert alone.encode_batch(texts) == run.program.tokenizer.encode_batch(texts)
    assert alone.merges() == run.program.tokenizer.merges()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "pre_tokenizer", byte_level(models.BPE(), split_digits=True).pre_tokenizer),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda t: setattr(t, "normalizer", normalizers.NFC()),
        lambda t: t.add_tokens(["<|more|>"]),
    ],
)
def test_tokenizers_that_are_more_than_vocabulary_and_merges(change):
    backend = byte_level(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]), special=["a"])
    assert is_vocab_and_merges(backend)
    change(backend)
    assert not is_vocab_and_merges(backend)


@E.families
def test_the_cards_numpy_code_decodes_what_we_decode(family, exported, monkeypatch):
    run = E.run_of(family)
    hidden_code, decode_code = E.code_blocks((exported(family) / "README.md").read_text())
    prompt = run.program.task.eval_sets()["test"].item(0).prompt
    assert json.dumps(prompt, ensure_ascii=False) in hidden_code
    lm = load_lm(str(exported(family)))
    ids = np.asarray([lm.tokenizer.encode(prompt)])
    hidden = np.asarray(jax.jit(lm.model.apply)(lm.params, ids).hidden)[:, 0]
    monkeypatch.chdir(exported(family))
    names = {"hidden": hidden, "np": np, "print": lambda *_: None}
    exec(compile(decode_code, "README.md", "exec"), names)
    ours = tracr_jax.decode(run, prompt)
    assert set(names["decoded"]) == {v.name for v in ours.variables}
    different = 0
    for i, v in enumerate(ours.variables):
        want = [v.values[k] for k in ours.values[-1, i]] if v.values else ours.numbers[-1, i]
        if v.values:
            assert names["decoded"][v.name] == want
            different += len(set(want)) > 1
        else:
            np.testing.assert_allclose(names["decoded"][v.name], want, atol=1e-5)
    assert different > 2  # constant answers would prove nothing


def test_the_card_shows_the_runs_numbers(exported):
    card = (exported("gpt2") / "README.md").read_text()
    assert "| test | 40 | 87.5 (73.9–94.5) | 2.5 | 50.0 | Half \\| half. |" in card
    assert "original 37.12, this model 38.25" in card
    assert "| `final_result_1` | 2 values |" in card
    assert "| 62.5 | 97.5 |" in card
    assert "base_model" not in card  # a local folder is no hub id


def test_program_names_no_folder_of_this_machine(exported):
    text = (exported("gpt2") / "program.json").read_text()
    program = json.loads(text)
    assert program["run"]["data"]["text"] == "text.txt"
    assert "/tmp" not in text
    (bracket,) = (t for t in program["bridge"]["tokens"] if t["text"] == "(")
    run = E.run_of("gpt2")
    assert run.program.tokenizer.encode("(") == [bracket["id"]]
    assert bracket["value"] == "("
    example = program["bridge"]["examples"][0]
    prompt, answer = run.program.bridge.split(run.program.task.eval_sets()["test"].item(0))
    assert run.program.tokenizer.encode(example["text"]) == prompt + answer


def test_a_run_without_alignment_has_no_adapter(tmp_path):
    run = E.run_of("gpt2")
    config = dataclasses.replace(run.program.config, losses=LossConfig(alignment="none"))
    run = dataclasses.replace(run, programs=(dataclasses.replace(run.program, config=config),))
    folder = export_run(run, tmp_path / "out", evaluation=E.EVALUATION)
    assert not (folder / "adapter.safetensors").exists()
    assert len(E.code_blocks((folder / "README.md").read_text())) == 1
    back = tracr_jax.open(folder)
    assert back.program.adapter is None
    with pytest.raises(UserError, match="without alignment"):
        tracr_jax.decode(back, "()")


def test_the_card_of_an_adapter_alone_says_that_the_model_is_the_original(tmp_path):
    run = E.run_of("gpt2")
    config = dataclasses.replace(run.program.config, train="adapter")
    run = dataclasses.replace(run, programs=(dataclasses.replace(run.program, config=config),))
    card = (export_run(run, tmp_path / "out", evaluation=E.EVALUATION) / "README.md").read_text()
    assert "does not run the program" in card
    assert "injected" not in card
    assert "The weights are a copy" in card


def test_what_is_there_stays(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"out is not empty \(it holds mine.txt\)"):
        export_run(E.run_of("gpt2"), target, evaluation=E.EVALUATION)
    assert [p.name for p in target.iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="is a file"):
        export_run(E.run_of("gpt2"), target / "mine.txt", evaluation=E.EVALUATION)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_export_that_breaks_off_leaves_nothing(error, tmp_path, monkeypatch):
    def broken(*_):
        raise error

    monkeypatch.setattr(F, "write_tokenizer", broken)  # when most files are written
    expected = UserError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        export_run(E.run_of("gpt2"), tmp_path / "out", evaluation=E.EVALUATION)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_filled_meanwhile_is_not_overwritten(tmp_path):
    target = tmp_path / "out"

    def race():
        with new_folder(target) as inner:
            (inner / "a").write_text("ours")
            target.mkdir()
            (target / "b").write_text("theirs")

    with pytest.raises(UserError, match="cannot be written"):
        race()
    assert [p.name for p in target.iterdir()] == ["b"]
    (target / "b").unlink()
    with new_folder(target) as inner:  # an empty folder may be named
        (inner / "a").write_text("ours")
    assert (target / "a").read_text() == "ours"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.update(format=99), "format 99, this version reads 2"),
        (lambda p: p["variables"].pop(), "damaged .* do not cover the directions"),
        (lambda p: p["variables"][0]["values"].pop(), r"damaged .* values"),
        (lambda p: p.pop("bridge"), "damaged .*bridge"),
        (lambda p: p.update(variables=3), "damaged"),
        (lambda p: p.update(width=5), "of a model of width 5, the model beside it has 16"),
    ],
)
def test_a_damaged_program_is_one_line(damage, message, exported, tmp_path):
    folder = shutil.copytree(exported("gpt2"), tmp_path / "copy")
    program = json.loads((folder / "program.json").read_text())
    damage(program)
    (folder / "program.json").write_text(json.dumps(program))
    with pytest.raises(UserError, match=message) as e:
        tracr_jax.open(folder)
    assert "\n" not in str(e.value)


def test_an_adapter_of_another_run_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported("gpt2"), tmp_path / "copy")
    adapter = open_safetensors(folder, name="adapter")
    write_safetensors(folder / "adapter.safetensors", {k: adapter.get(k)[1:] for k in adapter.shapes})
    with pytest.raises(UserError, match="do not belong together"):
        tracr_jax.open(folder)
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(UserError, match=r"no adapter\.safetensors"):
        tracr_jax.open(folder)


def test_command_refuses_what_is_no_run_and_a_folder_that_is_filled(tmp_path, capsys):
    def fails(*argv):
        with pytest.raises(SystemExit):
            cli.main(["export", *map(str, argv)])
        return capsys.readouterr().err

    (tmp_path / "run").mkdir()
    assert "not a run folder" in fails(tmp_path / "run", tmp_path / "out")
    (tmp_path / "run" / "config.json").write_text("{}")
    assert "no checkpoints here; is this the folder of a run?" in fails(tmp_path / "run", tmp_path / "out")
    assert "is not empty" in fails(tmp_path / "run", tmp_path / "run")
    assert not (tmp_path / "out").exists()
