"""The bridge: every token of every label and marker, on tokenizers that differ; what it must refuse; coverage."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.helpers.encoded import encode_item
from tests.helpers.random_models import word_tokenizer
from tests.helpers.tasks_tokenizers import filtered, gpt2_tokenizer
from tracr_jax.data.bridge import find_separator, make_bridge
from tracr_jax.data.encode import sequence_length
from tracr_jax.errors import UserError
from tracr_jax.presets import preset
from tracr_jax.tasks.base import Item, TokenMap
from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.int_sum import IntSum
from tracr_jax.tasks.registry import as_coded_task
from tracr_jax.teacher import compile_program, make_forward

EXAMPLES = json.loads((Path(__file__).parents[1] / "golden/data_examples.json").read_text())
TASKS = [Dyck(), IntSum(), Count()]
IDS = [t.name for t in TASKS]


def teacher_of(task, length):
    return compile_program(
        lambda: task.program(max_seq_len=length),
        vocab=task.vocab(),
        max_seq_len=length,
        mlp_exactness=task.mlp_exactness(length),
    )


def bridge_of(task, tokenizer, *, strict=True, length=None):
    return make_bridge(
        task, tokenizer, teacher_of(task, length or sequence_length(task, tokenizer)), strict=strict
    )


@pytest.mark.parametrize("split_digits", [False, True], ids=["gpt2", "digits split off"])
@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_every_answer_is_proved(task, split_digits):
    tokenizer = filtered(task, split_digits=split_digits)
    bridge = bridge_of(task, tokenizer)
    # Where a digit stands alone, a space before the answer would be a token of its own.
    assert bridge.separator == ("" if split_digits and task.name != "dyck" else " ")
    items = [*task.longest_items()]
    items += [make(i, seed=5) for make in (task.train_item, task.free_item) for i in range(40)]
    report = bridge.check(task, items)
    assert report.matched == report.answer_positions > 0
    assert report.items == len(items)
    assert report.first_mismatch == ""


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_the_network_itself_writes_the_answers(task):
    """The bridge proves with the program's evaluator; the compiled residual stream says the same, and clearly."""
    tokenizer = filtered(task)
    bridge = bridge_of(task, tokenizer)
    phi, residuals = make_forward(bridge.teacher)
    length = sequence_length(task, tokenizer)
    items = [*task.longest_items(), *(task.train_item(i, seed=11) for i in range(24))]
    rows = [encode_item(i, bridge, length=length, answer_end=False) for i in items]
    ids = bridge.to_teacher(np.stack([r[0] for r in rows]))
    result = bridge.teacher.variable(task.result)
    last = np.asarray(jax.jit(residuals)(phi, ids))[-1][:, 1:, list(result.indices)]
    for row, item in enumerate(items):
        at = np.flatnonzero(rows[row][1])
        assert tuple(result.values[k] for k in last[row, at].argmax(-1)) == task.teacher_label(item)
        assert (last[row, at].max(-1) > 0.9).all()


@pytest.mark.parametrize("name", ["dyck", "int-sum", "count"])
def test_originals_items_come_out_as_coded(name):
    """Prompt and padded ids, mask and translated tokens of golden/data_examples.json."""
    task = as_coded_task(name.replace("-", "_"))
    tokenizer = filtered(task, as_coded_order=True)
    length = EXAMPLES[name]["max_length"]
    assert task.as_coded_length == length
    bridge = bridge_of(task, tokenizer, strict=False, length=length)
    for example in EXAMPLES[name]["examples"]:
        item = Item(example["prompt"], str(example["label"]))
        assert bridge.split(item) == (example["prompt_ids"], example["target_ids"])
        ids, mask = encode_item(item, bridge, length=length, fidelity=preset("paper").fidelity)
        assert ids.tolist() == example["input_ids"]
        assert mask.tolist() == example["loss_mask"]
        assert ["bos", *bridge.teacher_values(ids)] == example["teacher_tokens"]
        names = {i: v for v, i in bridge.teacher.vocab.items()}
        assert [names[t] for t in bridge.to_teacher(ids[None])[0]] == example["teacher_tokens"]


def test_listed_ids_are_the_originals():
    lookup = bridge_of(Dyck(), filtered(Dyck())).lookup
    vocab = bridge_of(Dyck(), filtered(Dyck())).teacher.vocab
    assert {i: lookup[i] for i in (25, 1058)} == {25: vocab["compute"], 1058: vocab["compute"]}
    assert (lookup != vocab[" "]).sum() == 8  # six brackets, two colons


def test_equals_unmapped_is_counted_and_refused():
    """docs/differences.md A3: without `=` the teacher never writes an answer."""
    task = IntSum(as_coded_equals=True)
    tokenizer = filtered(task)
    bridge = bridge_of(task, tokenizer)
    items = [task.train_item(i, seed=0) for i in range(20)]
    report = bridge.check(task, items, strict=False)
    assert report.matched == 0
    assert report.answer_positions == sum(len(i.label) for i in items)
    assert "the program writes None" in str(report)
    with pytest.raises(UserError, match=r"bridge: item '\d+ \+ \d+ =' -> '\d+', position \d+") as e:
        bridge.check(task, items)
    assert "\n" not in str(e.value)


def test_numbers_of_one_token_are_refused():
    """docs/differences.md B15: the teacher writes digit by digit, GPT-2 whole numbers."""
    task = Count(as_coded_merges=True)
    with pytest.raises(UserError, match="the answer '20' is 1 tokens, the teacher writes 2"):
        find_separator(task, filtered(task))
    report = bridge_of(task, filtered(task), strict=False, length=60).check(
        task, [task.item(["x"] * n + ["y"]) for n in (3, 12)], strict=False
    )
    assert (report.matched, report.answer_positions) == (1, 2)


def test_a_wrong_label_is_found():
    task = IntSum()
    bridge = bridge_of(task, filtered(task))
    bridge.check(task, [Item("12 + 345 =", "357")])
    with pytest.raises(UserError, match=r"position 8: .*'8' \(value 8 of \(3, 5, 8\)\), the program writes 7"):
        bridge.check(task, [Item("12 + 345 =", "358")])


class Upside(Dyck):
    """Says yes where the program says True, but calls it False."""

    def teacher_label(self, item):
        return (item.label == "no",)


def test_swapped_values_are_found():
    with pytest.raises(UserError, match="the program writes"):
        bridge_of(Upside(), filtered(Dyck())).check(Upside(), [Dyck().item("()")])


class TwoNames(Dyck):
    """One label text for both answers: a value must determine the token and the other way round."""

    def teacher_label(self, item):
        return (item.prompt.count("(") == item.prompt.count(")"),)


def test_one_token_for_two_values_is_found():
    task = TwoNames()
    items = [Item(Dyck().item("()").prompt, "yes"), Item(Dyck().item("((").prompt, "yes")]
    with pytest.raises(UserError, match=r"the answer's token ' yes' stands for False here and for True elsewhere"):
        bridge_of(task, filtered(Dyck())).check(task, items)


def test_the_token_that_ends_every_text_is_no_letter_and_no_answer():
    task, end = Dyck(), "<|endoftext|>"
    bridge = bridge_of(task, filtered(task), length=40)
    with pytest.raises(UserError, match=r"the answer's token is '<\|endoftext\|>', which ends every text"):
        dataclasses.replace(bridge, separator="").check(task, [Item(task.item("()").prompt, end)])


class Mapped(Dyck):
    """A task with its token map given."""

    def token_map(self):
        return _MAP[0]


_MAP = [TokenMap({}, fill=" ")]


@pytest.mark.parametrize(
    ("pieces", "fill", "message"),
    [
        ({"(": "("}, "nothing", "maps to 'nothing'; the teacher knows"),
        ({"x": "x"}, " ", "maps to 'x'; the teacher knows"),
        ({"unheard-of": "compute"}, " ", "'unheard-of' is not one token"),
        ({":": "compute", " :": "("}, " ", "are the same LM token"),
        ({"<|endoftext|>": "compute"}, " ", "is the token that ends every text"),
    ],
)
def test_maps_that_cannot_be(pieces, fill, message):
    _MAP[0] = TokenMap(pieces, fill)
    task, teacher = Mapped(), teacher_of(Dyck(), 12)
    with pytest.raises(UserError, match=message):
        make_bridge(task, filtered(Dyck()), teacher)


def test_prompt_and_answer_that_merge_are_refused():
    task = dataclasses.replace(Dyck())
    bridge = bridge_of(task, filtered(task))
    with pytest.raises(UserError, match="merges the end of the prompt"):
        dataclasses.replace(bridge, separator="").split(Item("Is it th", "ere"))


def test_a_small_tokenizer_will_do():
    """The tokenizer of the bundled model need only hold the task's words."""
    words = [" yes", " no", *(f" {d}" for d in range(10)), " text"]
    for task in TASKS:
        tokenizer = word_tokenizer(words).filtered(task.keep_merge)
        bridge = bridge_of(task, tokenizer)
        report = bridge.check(task, [task.train_item(i, seed=1) for i in range(10)])
        assert report.matched == report.answer_positions


def test_a_word_that_falls_into_mapped_letters_is_found():
    """Without " text" as a token its x would be counted as well."""
    task = Count()
    tokenizer = word_tokenizer([f" {d}" for d in range(10)]).filtered(task.keep_merge)
    with pytest.raises(UserError, match=r"-> '3', .* the program writes 4"):
        bridge_of(task, tokenizer).check(task, [task.item(["x", "y", "x", "x"])])


def test_coverage_counts_positions():
    task = Dyck()
    tokenizer = filtered(task)
    bridge = bridge_of(task, tokenizer)
    report = bridge.check(task, [task.item("()")])
    # 13 prompt tokens and " yes": two brackets and the colon are not fill.
    assert (report.positions, report.mapped_tokens) == (14, 8)
    assert report.fill_share == pytest.approx(11 / 14)


def test_teacher_ids_have_the_shape_of_a_batch():
    bridge = bridge_of(Dyck(), filtered(Dyck()))
    ids = np.array([gpt2_tokenizer().encode("a b c"), gpt2_tokenizer().encode("x y z")])
    out = bridge.to_teacher(ids)
    assert out.shape == (2, 4)
    assert out.dtype == np.int32
    assert set(out[:, 0]) == {bridge.teacher.bos_id}
