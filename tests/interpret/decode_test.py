"""Decoding a text: hand-known values, what is not defined, texts beyond the teacher's table; how it is shown."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from rich.console import Console

from tests.helpers.bounds import FLOAT32, assert_same
from tests.helpers.interpret_parts import DYCK, known_run, small_run
from tracr_jax.config import LossConfig
from tracr_jax.errors import UserError
from tracr_jax.interpret.decode import decode, hidden_states
from tracr_jax.interpret.study import interpret
from tracr_jax.interpret.swap import swaps
from tracr_jax.interpret.write import write
from tracr_jax.runs.program import make_program


def printed(shown, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(shown)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def decoded():
    return decode(known_run(), DYCK.item("(]").prompt)


def test_values_margins_and_truth_by_hand(decoded):
    assert decoded.tokens[7:] == ("(", "]", "\n", "Answer", ":")
    assert decoded.layers == known_run().program.teacher.num_layers + 1
    assert decoded.values.shape == (decoded.layers, len(decoded.variables), 12)
    assert decoded.read("(_start_counts") == [0] * 7 + [1] * 5
    assert decoded.read("]_end_counts") == [0] * 8 + [1] * 4
    assert decoded.read("[]_diffs") == decoded.program("[]_diffs") == [0] * 8 + [-1] * 4
    assert decoded.read("final_result")[-1] is False
    i = decoded.index("(_start_counts")
    np.testing.assert_allclose(decoded.margins[-1, i], 1.0, rtol=FLOAT32)  # the states are one-hots
    assert repr(decoded).startswith("<Decoded: 12 tokens, 21 variables, layers 0..6; ")
    assert decoded.result == decoded.variables[decoded.index("final_result")].name


def test_what_the_program_has_not_computed_yet_is_not_defined(decoded):
    i = decoded.index("final_result")
    layer = decoded.variables[i].writer_layer - 1
    assert decoded.read("final_result", layer=layer) == [None] * 12
    assert set(decoded.truth[layer, i]) == {-1}
    assert decoded.show(layer=layer).cell(i, 11) == ("–", "nothing")


def test_numerical_variables_are_numbers(decoded):
    i = decoded.index("one")
    assert decoded.read("one") == pytest.approx([1.0] * 12)
    assert decoded.program("one") == pytest.approx([1.0] * 12)
    assert set(decoded.values[-1, i]) == {-1}
    assert decoded.show().cell(i, 0) == ("1.00 (1.00)", "number")


def test_a_text_longer_than_the_teachers_table_is_judged_by_the_oracle():
    run = small_run()
    text = DYCK.item("([" * 12).prompt
    d = decode(run, text)
    assert len(d.tokens) > run.program.length
    # Up to the largest count that the teacher knows.
    largest = run.program.teacher.variable("(_start_counts").values[-1]
    counts = [n for n in d.program("(_start_counts")[7:31] if n is not None]
    assert counts == [min(1 + k // 2, 12) for k in range(24)][: len(counts)]
    assert counts[-1] in (largest, 12)
    assert d.program("one") == [None] * len(d.tokens)


def test_texts_of_other_lengths_compile_nothing_anew(caplog):
    """Examples are decoded one by one: compiling for each length was most of their time."""
    run = small_run()
    short, longer = ("()", "([]"), ("([" * 9, "([" * 12)
    for text in (short[0], longer[0]):
        decode(run, DYCK.item(text).prompt)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for text in (short[1], longer[1]):
            decode(run, DYCK.item(text).prompt)
        assert [r.getMessage() for r in caplog.records if "ompil" in r.getMessage()] == []
        jax.jit(lambda x: x + len(caplog.text))(1.0)
    assert any("ompil" in r.getMessage() for r in caplog.records)  # it would have been seen


def test_texts_that_cannot_be_decoded():
    with pytest.raises(UserError, match="the text is empty"):
        decode(known_run(), "")
    with pytest.raises(UserError, match=r"200 tokens, the model 128 positions"):
        decode(known_run(), "(" * 200)
    with pytest.raises(UserError, match="of the program's variables none is named 'nothing'; it has"):
        decode(known_run(), "()").read("nothing")


def test_an_adapter_that_was_not_trained_reads_nothing():
    run = small_run()
    config = dataclasses.replace(run.program.config, losses=LossConfig(alignment="none"))
    run = dataclasses.replace(run, programs=(dataclasses.replace(run.program, config=config),))
    states = np.zeros((1, run.model.width))
    for read in (
        lambda: decode(run, "()"), lambda: interpret(run), lambda: swaps(run, pairs=2),
        lambda: write(run, states, run.program.result, True),
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"without alignment .*--train adapter"):
            read()


def test_what_was_not_aligned_is_not_written():
    run = small_run()
    config = dataclasses.replace(run.program.config, losses=LossConfig(variable_weights=(("tokens", 0.0),)))
    program = make_program(
        run.program.bridge, config, name="dyck", result=run.program.result, length=run.program.length,
        examples=run.program.examples, adapter=run.adapter,
    )  # fmt: skip
    run = dataclasses.replace(run, programs=(program,))
    with pytest.raises(UserError, match="write: tokens: it was not aligned, its weight is 0"):
        write(run, np.zeros((1, run.model.width)), "tokens", "(")


def test_hidden_states_by_name():
    run = small_run()
    states = hidden_states(run, "()")
    assert list(states) == [f"hidden_{i}" for i in range(run.model.num_blocks + 1)] + ["logits"]
    ids = np.array([run.program.tokenizer.encode("()")])
    out = jax.jit(run.model.apply)(run.original.params, ids)
    assert_same(states["hidden_3"], out.hidden[3, 0])
    np.testing.assert_allclose(states["logits"], out.logits[0], atol=1e-4)
    # What the adapter makes of them is what decode reports.
    d = decode(run, "()")
    i = d.index("(_start_counts")
    adapter, rows = run.adapter, np.array(d.variables[i].indices)
    reading = states["hidden_2"] @ np.asarray(adapter.weight)[rows].T + np.asarray(adapter.bias)[rows]
    assert reading.argmax(axis=1).tolist() == d.values[2, i].tolist()


@pytest.fixture(scope="module")
def wrong():
    """An untrained adapter: nearly all is wrong."""
    return decode(small_run(), DYCK.item("(]").prompt + "<script>alert(1)</script>\x1b[2J")


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_table_fits_and_marks_the_wrong_without_colour(wrong, width):
    text = printed(wrong, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text.split("token", 1)[1].split("\n", 1)[0]  # no heading is cut
    assert "≠" in text.split("3≠2")[0]  # before the legend
    assert "not shown for lack of room: " in text
    everything = printed(wrong.show(everything=True), width)
    assert max(map(len, everything.splitlines())) <= width
    assert "lack of room" not in everything
    squeezed = "".join(everything.split())
    for name in ("final_", "indices", "tokens", "one"):
        assert name in squeezed


def test_controls_and_tags_of_a_text_stay_text(wrong):
    text = printed(wrong, 100)
    assert "\x1b" not in text
    assert "\n ? " in text.replace("\N{REPLACEMENT CHARACTER}", "?")
    # This tokenizer spells unknown words: each angle bracket is a token of its own.
    html = wrong._repr_html_()
    assert html.count("<code>&lt;</code>") == 2
    assert "<code><" not in html
    assert "\x1b" not in html


def test_html_escapes_tokens_names_and_values(decoded):
    variables = tuple(
        dataclasses.replace(v, name=f"<b>{v.name}", values=tuple(f"<i>{x}" for x in v.values))
        for v in decoded.variables
    )
    html = dataclasses.replace(
        decoded, tokens=("<script>", *decoded.tokens[1:]), variables=variables, result="x"
    )._repr_html_()
    for tag in ("<script", "<b>", "<i>"):
        assert tag not in html
    for escaped in ("&lt;script&gt;", "&lt;b&gt;", "&lt;i&gt;"):
        assert escaped in html
    assert html.count("<tr>") == 13


def test_a_layer_that_there_is_not(decoded):
    name, layers = decoded.variables[0].name, decoded.layers
    for look in (decoded.read, decoded.program, lambda _, layer: decoded.show(layer=layer)):
        for layer in (layers, -layers - 1):
            with pytest.raises(UserError, match=f"no layer {layer}, this program is aligned on layers 0"):
                look(name, layer=layer)
    assert decoded.show(names=name).order == decoded.show(names=[name]).order


def test_chosen_variables_and_layers(decoded):
    text = printed(decoded.show(layer=2, names=["tokens", "(_start_counts"]), 80)
    assert "layer 2 of 0.." in text
    assert "final" not in text
    with pytest.raises(UserError, match=r"no layer 99, this program is aligned on layers 0\.\."):
        decoded.show(layer=99)
    # By default the result comes first.
    first = decoded.show().order[0]
    assert decoded.variables[first].name == decoded.result
