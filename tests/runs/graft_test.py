"""A graft from a program's file to its answers: exact where the program is, silent elsewhere, read back."""

import dataclasses
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tracr_jax
from tests.helpers.programs_parts import SMALL
from tests.helpers.random_models import write_random_gpt2
from tracr_jax.config import RunConfig
from tracr_jax.errors import UserError
from tracr_jax.export.folder import export_run
from tracr_jax.interpret.study import interpret
from tracr_jax.lm.graft import KEY, MAP, Grafted
from tracr_jax.lm.load import load_lm
from tracr_jax.measure.language.suite import open_baseline
from tracr_jax.presets import graft_preset
from tracr_jax.report.page import write_report
from tracr_jax.runs.folder import default_folder
from tracr_jax.runs.graft import check_open, grafted
from tracr_jax.sweep import configured

TASKS = """
from tracr.rasp import rasp
from tracr_jax.tasks.strings import StringTask


def copy():
    "At ? the first letter, behind it the second, and so on: letters are found by number, not by place."

    def count(sop, wanted):
        return rasp.SelectorWidth(rasp.Select(sop, rasp.tokens, lambda key, query: key == wanted))

    after = count(rasp.tokens, "?").named("after")
    given = rasp.SequenceMap(lambda t, a: t in "xyz" and a == 0, rasp.tokens, after).named("given")
    number = rasp.SequenceMap(lambda n, g: n if g else 0, count(given, True), given).named("number")
    wanted = count(after, 1).named("wanted")
    same = rasp.Select(number, wanted, lambda key, query: key == query and query > 0)
    return rasp.Aggregate(same, rasp.tokens)


COPY = StringTask("copy", copy, letters=("x", "y", "z"), max_length=3, answer="sequence", truth=lambda s: s)
"""
# A random model's words lie close together: its map must grow further than a trained one's.
CONFIG = dataclasses.replace(graft_preset(SMALL), optim=dataclasses.replace(SMALL.optim, learning_rate=0.3))


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """(folder, a run of two blocks, which are too few for the program's own layers)."""
    folder = tmp_path_factory.mktemp("graft")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACR_JAX_CACHE", str(folder / "cache"))
        write_random_gpt2(folder / "lm", num_blocks=2, width=32, heads=2)
        (folder / "tasks.py").write_text(TASKS)
        (folder / "text.txt").write_text("the number of this text is here\n" * 900)
        run = graft(folder, "run", CONFIG)
        yield folder, run


def graft(folder, name, config, **options):
    where = {"lm": str(folder / "lm"), "folder": folder / name}
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, text=str(folder / "text.txt")))
    return tracr_jax.inject(f"{folder}/tasks.py:COPY", config=config, progress=False, **where, **options)


def logits(run, ids):
    return np.asarray(jax.jit(run.model.apply)(run.params, ids).logits)


def test_it_answers_what_the_program_does_and_longer_strings_too(room):
    sets = room[1].evaluation["sets"]
    assert {n: s["injected"]["accuracy"] for n, s in sets.items()} == {"test": 1.0, "longer": 1.0}
    assert sets["longer"]["original"]["accuracy"] < 1
    assert room[1].program.depth > room[1].model.num_blocks


def test_text_without_the_marker_is_to_the_model_what_it_was(room):
    """Of the same compiled function, with the map and with none; beyond the program's table too."""
    run = room[1]
    silent = dataclasses.replace(
        run, params=run.params | {KEY: {**run.params[KEY], MAP: 0 * run.params[KEY][MAP]}}
    )
    bridge = run.program.bridge
    (marker,) = (i for i in bridge.mapped if bridge.lookup[i] == bridge.marker)
    letters = [i for i in bridge.mapped if i != marker]
    (word,) = set(bridge.tokenizer.encode("What is the text")[:1])
    table = run.program.teacher.max_seq_len
    ids = np.random.default_rng(0).choice([word, *letters], (3, table + 8))
    np.testing.assert_array_equal(logits(run, jnp.asarray(ids)), logits(silent, jnp.asarray(ids)))
    # With it: the marker and the letters after it, until another word comes.
    ids[:, 4:9] = letters[0], marker, letters[1], word, letters[2]
    ids[1, 5] = letters[0]
    ids[2, table:] = marker
    changed = (logits(run, jnp.asarray(ids)) != logits(silent, jnp.asarray(ids))).any(axis=-1)
    np.testing.assert_array_equal(np.argwhere(changed), [[0, 5], [0, 6], [2, 5], [2, 6]])


def with_train(program, train):
    return dataclasses.replace(program, config=dataclasses.replace(program.config, train=train))


def test_both_forms_and_any_block(room):
    folder, run = room
    chex.assert_trees_all_equal(tracr_jax.open(folder / "run").params, run.params)
    found = {}
    for train in ("graft:result", "graft:variables", "graft:variables@0"):
        model = grafted(run.original.model, with_train(run.program, train))
        assert isinstance(model, Grafted)
        found[train] = (model.beside.size, model.beside.block)
    rows, directions = len(run.program.result_rows), run.program.teacher.width
    assert list(found.values()) == [(rows, 1), (directions, 1), (directions, 0)]
    assert grafted(run.original.model, with_train(run.program, "all")) is run.original.model


@pytest.mark.soak
def test_all_variables_are_a_second_form_and_a_run_goes_on_bit_for_bit(room):
    """As many rows as the program has directions, into an earlier block."""
    folder = room[0]
    config = dataclasses.replace(CONFIG, train="graft:variables@0", steps=4, checkpoint_every=2)
    run = graft(folder, "variables", config)
    assert run.params[KEY][MAP].shape == (run.program.teacher.width, 32)
    assert np.abs(run.params[KEY][MAP]).max() > 0
    shutil.rmtree(folder / "variables" / "checkpoints" / "4")
    (folder / "variables" / "evaluation.json").unlink()
    found = tracr_jax.resume(folder / "variables", progress=False)
    chex.assert_trees_all_equal(found.params, run.params)
    assert found.evaluation == run.evaluation
    assert set(tracr_jax.compare(folder / "run", folder / "variables").sets) == {"test", "longer"}


def test_an_export_holds_the_untouched_model_and_the_graft_beside_it(room, tmp_path):
    folder, run = room
    export = export_run(run, tmp_path / "export")
    chex.assert_trees_all_equal(load_lm(str(export)).params, load_lm(str(folder / "lm")).params)
    back = tracr_jax.open(export)
    chex.assert_trees_all_equal(back.params[KEY][MAP], run.params[KEY][MAP])
    ids = jnp.asarray([run.tokenizer.encode(run.program.examples[0].prompt)])
    np.testing.assert_array_equal(logits(back, ids), logits(run, ids))
    card = (export / "README.md").read_text()
    assert "only `tracr_jax.open` puts the program back" in card
    (code,) = (part.split("```")[0] for part in card.split("```python\n")[1:])
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(export)
        exec(compile(code, "README.md", "exec"), {"print": said.append})
    assert said == [run.program.bridge.separator + run.program.examples[0].label]
    (export / "graft.safetensors").unlink()
    with pytest.raises(UserError, match=r"graft\.safetensors"):
        tracr_jax.open(export)


def test_the_report_calls_it_a_graft(room, tmp_path):
    page = write_report([room[0] / "run"], out=tmp_path / "page.html").read_text()
    assert "graft: the compiled program beside the frozen model" in page
    assert "the variables are in the program beside the model" in page
    assert "fine-tuning" not in page.split("<script")[0]


@pytest.mark.parametrize(
    "what",
    [
        lambda folder, run: tracr_jax.decode(run, "x y :"),
        lambda folder, run: interpret(run),
        lambda folder, run: export_run(run, folder / "other", pairs=2),
        lambda folder, run: export_run(run, folder / "other", activations=2),
        lambda folder, run: open_baseline(folder / "run", run),
        lambda folder, run: graft(folder, "onto", SMALL, onto=folder / "run"),
        lambda folder, run: graft(folder, "onto", CONFIG, onto=folder / "run"),
        lambda folder, run: grafted(run.original.model, with_train(run.program, "graft:result@2")),
    ],
    ids=("decode", "interpret", "benchmark", "activations", "baseline", "onto it", "onto others", "block"),
)
def test_what_a_graft_cannot_do_is_one_line(what, room):
    with pytest.raises(UserError, match="graft") as e:
        what(*room)
    assert "\n" not in str(e.value)
    assert not (room[0] / "other").exists()


def test_an_answer_that_the_program_would_not_be_heard_for_is_refused(room):
    """A marker that no token stands for, as int_sum's as the original codes it."""
    folder, run = room
    bridge = dataclasses.replace(run.program.bridge, marker=-1)
    program = dataclasses.replace(run.program, bridge=bridge)
    with pytest.raises(UserError, match="never speaks"):
        grafted(load_lm(str(folder / "lm")).model, program)
    with pytest.raises(UserError, match="is not the program's marker"):
        check_open(program, run.program.examples)
    check_open(run.program, run.program.examples)
    known = run.program.bridge.mapped[:-1]
    fewer = dataclasses.replace(run.program, bridge=dataclasses.replace(run.program.bridge, mapped=known))
    items = [run.program.task.train_item(i, seed=0) for i in range(40)]
    with pytest.raises(UserError, match=r"is none of the program's|is not the program's marker"):
        check_open(fewer, items)


def test_names_and_methods():
    config = configured("graft", task="dyck")
    assert (config.train, config.losses.alignment, config.losses.hook) == ("graft:result", "none", False)
    assert configured("graft:variables@3", task="dyck").train == "graft:variables@3"
    assert default_folder(config).name == "dyck-tiny-graftresult-seed0"
    for method in ("variable+graft:result", "graft+adapter"):
        with pytest.raises(UserError, match=r"graft|alignment"):
            configured(method, task="dyck")
    with pytest.raises(UserError, match="give --preset graft"):
        RunConfig(train="graft:result")
    with pytest.raises(UserError, match="none of all"):
        RunConfig(train="graft")
