"""Items as ids, lengths and batches: masks, purity, domain items, what is refused."""

import json
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from tracr.rasp import rasp

from tests.data.bridge_test import bridge_of, teacher_of
from tests.helpers.encoded import encode_item
from tests.helpers.tasks_tokenizers import filtered
from tracr_jax.config import DataConfig, Fidelity
from tracr_jax.data.batches import Batches
from tracr_jax.data.bridge import make_bridge
from tracr_jax.data.encode import sequence_length
from tracr_jax.data.text import TextIds
from tracr_jax.errors import UserError
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import WORDINGS, Dyck
from tracr_jax.tasks.int_sum import IntSum
from tracr_jax.tasks.split import split_of
from tracr_jax.tasks.strings import StringTask

STORY = "Once upon a time there was a girl. She had a red ball and a small dog.\n<|endoftext|>\n" * 20


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    def make(task, **options):
        tokenizer = filtered(task)
        text = TextIds.build(STORY, tokenizer, cache=tmp_path_factory.mktemp("text"))
        sizes = {"batch": 6, "text_batch": 3, "text_length": 16, "seed": 7}
        options = {**sizes, **options}
        more = {k: options.pop(k) for k in ("seed", "fidelity", "answers") if k in options}
        return Batches(task, bridge_of(task, tokenizer), text, DataConfig(**options), **more)

    return make


@pytest.mark.parametrize(
    ("task", "length"),
    # n + 12 tokens at n = 30; 8 + 3 at 449 + 449; 15 + 40 and two digits; each with one end-of-text.
    [(Dyck(), 43), (IntSum(), 12), (Count(), 58)],
    ids=["dyck", "int_sum", "count"],
)
def test_lengths_are_derived_and_sufficient(made, task, length):
    tokenizer = filtered(task)
    assert sequence_length(task, tokenizer) == length
    assert sequence_length(task, tokenizer, answer_end=False) == length - 1
    bridge = bridge_of(task, tokenizer)
    sizes = [
        sum(map(len, bridge.split(i)))
        for make in (task.train_item, task.free_item)
        for i in (make(k, seed=2) for k in range(300))
    ]
    assert max(sizes) == length - 1 or task.name == "count"  # the longest count texts are rare
    assert max(sizes) < length
    batches = made(task)
    assert length == batches.S


def test_varied_items_ask_in_several_wordings_and_are_no_longer(made):
    task = Dyck()
    bridge = bridge_of(task, filtered(task))
    items = made(task, domain_items=400, domain_supervised=400, varied=True).items_at(3)[0]
    heads = {w for w in WORDINGS for i in items if i.prompt.startswith(w)}
    assert heads == set(WORDINGS)
    assert max(sum(map(len, bridge.split(i))) for i in items) < sequence_length(task, bridge.tokenizer)
    assert 0.35 < np.mean([i.label == "yes" for i in items]) < 0.65
    brackets = ["".join(c for c in i.prompt if c in "(){}[]") for i in items]
    assert max(text.count(c) for text in brackets for c in "({[") >= 13
    plain = [task.item(text) for text in brackets]
    assert {split_of(i.prompt) for i in plain} == {"train"}
    assert all(task.in_training(i.prompt) for i in plain)
    assert [i.label for i in plain] == [i.label for i in items]
    with pytest.raises(UserError, match="task int_sum has no varied_item"):
        made(IntSum(), varied=True)
    with pytest.raises(UserError, match="domain items are varied, and --domain-items is 0"):
        made(task, varied=True)


def test_other_words_change_what_the_program_does_not_read_and_nothing_else(made):
    task = Dyck()
    bridge = bridge_of(task, filtered(task))
    plain, half = made(task, batch=40), made(task, batch=40, other_words=0.5)
    (a, b), again = (x.batch_at(2) for x in (plain, half)), half.batch_at(2)
    np.testing.assert_array_equal(b.ids, again.ids)
    changed = np.flatnonzero((a.ids != b.ids).any(axis=1)).tolist()
    assert 10 <= len(changed) <= 30
    lengths, words = set(), []
    for row in range(40):
        (x, at), (y, to) = ((batch.ids[row], int(np.argmax(batch.answer_mask[row]))) for batch in (a, b))
        # From the last two words on: the colon, which emits the answer, the answer and what fills the row.
        np.testing.assert_array_equal(x[at - 2 : len(x) - max(0, to - at)], y[to - 2 : len(y) - max(0, at - to)])
        read = [ids[np.isin(ids, bridge.mapped)].tolist() for ids in (x[:at], y[:to])]
        assert read[0] == read[1]
        assert np.sum(a.answer_mask[row]) == np.sum(b.answer_mask[row])
        if row in changed:
            lengths.add(to - at)
            words += y[: to - 2][~np.isin(y[: to - 2], bridge.mapped)].tolist()
        else:
            assert at == to
    assert len(lengths) > 5
    assert len(set(words)) > 0.8 * len(words) > 80
    np.testing.assert_array_equal(b.teacher_ids, bridge.to_teacher(b.ids))
    part = half.part([3, *changed[:2]], [0]).batch_at(2)
    np.testing.assert_array_equal(part.ids, b.ids[[3, *changed[:2]]])


def test_other_words_are_refused_where_their_number_counts(tmp_path):
    class Even(Dyck):
        def program(self, *, max_seq_len):
            return rasp.Map(lambda i: i % 2 == 0, rasp.indices).named("even")

    tokenizer = filtered(Dyck())
    text = TextIds.build(STORY, tokenizer, cache=tmp_path)
    with pytest.raises(UserError, match="it counts words that it does not read; leave the option out"):
        Batches(Even(), bridge_of(Dyck(), tokenizer), text, DataConfig(other_words=0.5), seed=0)


def test_other_words_are_refused_where_there_is_none_to_replace(made):
    with pytest.raises(UserError, match="int_sum reads every token of its prompts"):
        made(IntSum(), other_words=0.5)


def test_mask_is_where_the_answer_is_emitted():
    task = IntSum()
    tokenizer = filtered(task)
    bridge = bridge_of(task, tokenizer)
    for answer_end in (True, False):
        ids, mask = encode_item(task.item(12, 345), bridge, length=14, answer_end=answer_end)
        emitted = [tokenizer.token_text(int(ids[s + 1])) for s in np.flatnonzero(mask)]
        assert emitted == [" 3", "5", "7"] + ["<|endoftext|>"] * answer_end
    assert ids[-1] == tokenizer.eos_id


def test_as_coded_mask_counts_characters():
    """docs/differences.md B11: "yes" supervises two end-of-texts after the answer, "no" one."""
    task = Dyck()
    tokenizer = filtered(task)
    bridge = bridge_of(task, tokenizer)
    for text, coded in (("()", 3), ("((", 2)):
        _, mask = encode_item(task.item(text), bridge, length=43, fidelity=Fidelity(as_coded_mask=True))
        assert mask.sum() == coded
        assert encode_item(task.item(text), bridge, length=43)[1].sum() == 2


def test_items_are_not_cut_unless_asked():
    task = Dyck()
    tokenizer = filtered(task)
    bridge = bridge_of(task, tokenizer)
    long = task.item("()" * 15)
    with pytest.raises(UserError, match="takes 43 tokens, S is 37"):
        encode_item(long, bridge, length=37)
    ids, mask = encode_item(long, bridge, length=37, fidelity=Fidelity(as_coded_length=True))
    assert len(ids) == 37
    assert mask.sum() == 0  # docs/differences.md A1: the answer is lost


@pytest.mark.parametrize("task", [Dyck(), IntSum(), Count()], ids=["dyck", "int_sum", "count"])
def test_a_batch_is_its_items(made, task):
    batches = made(task, domain_items=4)
    tokenizer = filtered(task)
    bridge = bridge_of(task, tokenizer)
    batch = batches.batch_at(5)
    supervised, free = batches.items_at(5)
    made_for_it = [task.train_item(30 + k, seed=7) for k in range(6)]
    assert sorted(supervised, key=str) == sorted(made_for_it, key=str)
    for row, item in enumerate(supervised + free):
        ids, mask = encode_item(item, bridge, length=batches.S)
        assert batch.ids[row].tolist() == ids.tolist()
        assert batch.answer_mask[row].tolist() == mask.tolist()
    assert (batch.teacher_ids == bridge.to_teacher(batch.ids)).all()
    assert batch.ids.shape == (10, batches.S)
    assert batch.teacher_ids.shape == (10, batches.S + 1)
    assert batch.text_ids.shape == (3, 16)
    assert {a.dtype.name for a in jax.tree.leaves(batch)} == {"int32", "float32"}


def test_some_domain_items_are_asked_among_the_others(made):
    task = Dyck()
    asked, aligned = made(task, domain_items=5, domain_supervised=3).items_at(2)
    free = [task.free_item(10 + k, seed=7) for k in range(5)]
    plain = [task.train_item(12 + k, seed=7) for k in range(6)]
    assert aligned == free[3:]
    assert sorted(asked, key=str) == sorted(plain + free[:3], key=str)
    batches = made(task, domain_items=5, domain_supervised=3)
    orders = {tuple(len(i.prompt) for i in batches.items_at(step)[0]) for step in range(20)}
    assert len(orders) == 20
    last = [batches.items_at(step)[0][-1] for step in range(20)]
    drawn = [task.free_item(5 * step + k, seed=7) for step in range(20) for k in range(3)]
    assert 2 < sum(i in drawn for i in last) < 18  # not always in the same rows


def test_order_within_a_batch_does_not_tell_the_answer(made):
    """The hook rolls by one row: neither a row's place nor its neighbour may say what its label is."""
    batches = made(Dyck())
    labels = np.array([[i.label == "yes" for i in batches.items_at(step)[0]] for step in range(400)])
    assert abs(labels[:, ::2].mean() - labels[:, 1::2].mean()) < 0.08
    same_as_neighbour = (labels == np.roll(labels, 1, axis=1)).mean()
    assert abs(same_as_neighbour - 2 / 5) < 0.05  # three of each: a neighbour is one of the five others, two alike


def test_steps_and_seeds_differ_and_repeat(made):
    one, two = made(Dyck()), made(Dyck())
    chex.assert_trees_all_equal(one.batch_at(3), two.batch_at(3))
    assert (one.batch_at(3).ids != one.batch_at(4).ids).any()
    assert (one.batch_at(3).text_ids != one.batch_at(4).text_ids).any()
    assert (one.batch_at(3).ids != made(Dyck(), seed=8).batch_at(3).ids).any()


def test_rows_begin_at_random_positions_of_the_model(made):
    plain, shifted = made(Dyck(), domain_items=4), made(Dyck(), domain_items=4, shift=5)
    assert plain.batch_at(0).starts is None
    for step in range(3):
        a, b = plain.batch_at(step), shifted.batch_at(step)
        for x, y in zip(a[:4], b[:4], strict=True):
            np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(b.starts, made(Dyck(), domain_items=4, shift=5).batch_at(step).starts)
        np.testing.assert_array_equal(b.starts[[1, 8]], shifted.part([1, 8], [0]).batch_at(step).starts)
    starts = np.stack([shifted.batch_at(step).starts for step in range(60)])
    assert starts.shape == (60, 10)
    assert set(starts.ravel()) == set(range(6))
    assert min((starts == start).mean() for start in range(6)) > 0.1
    assert plain.digest != shifted.digest


def test_another_process_makes_the_same_items():
    code = (
        "import json; from tracr_jax.tasks.registry import get_task\n"
        "t = [get_task(n) for n in ('dyck', 'int_sum', 'count')]\n"
        "print(json.dumps([[x.train_item(9, seed=1).prompt, x.eval_sets()['test'].item(3).prompt] for x in t]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    tasks = [Dyck(), IntSum(), Count()]
    assert json.loads(out) == [
        [t.train_item(9, seed=1).prompt, t.eval_sets()["test"].item(3).prompt] for t in tasks
    ]


def test_an_answer_with_more_tokens_than_the_step_computes_is_refused(made):
    """An item in a thousand may have one; what lies behind K would not be trained."""
    assert made(Dyck(), answers=2).batch_at(0).answer_mask.sum(axis=1).max() == 2  # with the end of text
    with pytest.raises(
        UserError, match=r"the answer '\w+' takes 2 tokens, those of the task's longest_items at most 1"
    ):
        made(Dyck(), answers=1).batch_at(0)
    # Rows that are only aligned answer nothing.
    aligned = made(Dyck(), answers=2, domain_items=4, domain_supervised=0)
    assert aligned.batch_at(0).ids.shape[0] == 10


def test_answers_are_encoded_behind_their_prompts(tmp_path):
    """A normalizer may put a blank in front of every text: an answer alone then has other tokens."""
    task = StringTask("odd", odd, letters=("x", "y"), question="")
    said = json.loads(filtered(task).to_json())
    said["normalizer"] = {"type": "Prepend", "prepend": " "}
    tokenizer = Tokenizer.from_json(json.dumps(said), filtered(task).config)
    bridge = bridge_of(task, tokenizer)
    text = TextIds.build(STORY, tokenizer, cache=tmp_path)
    data = DataConfig(batch=4, text_batch=2, text_length=8, answer_end=False)
    batches = Batches(task, bridge, text, data, seed=0)
    batch = batches.batch_at(0)
    for item, ids, mask in zip(batches.items_at(0)[0], batch.ids, batch.answer_mask, strict=True):
        asked = bridge.split(item)[1]
        assert tokenizer.encode(bridge.separator + item.label) != asked
        assert ids[np.flatnonzero(mask) + 1].tolist() == asked


def odd():
    is_x = rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == "x")
    return rasp.Map(lambda n: n % 2 == 1, rasp.SelectorWidth(is_x)).named("found")


def test_as_coded_length(made):
    batches = made(Dyck(), fidelity=Fidelity(as_coded_length=True, as_coded_mask=True))
    assert (batches.S, batches.batch_at(0).ids.shape) == (37, (6, 37))


def test_a_short_teacher_is_refused(tmp_path):
    task = Dyck()
    tokenizer = filtered(task)
    text = TextIds.build(STORY, tokenizer, cache=tmp_path)
    bridge = make_bridge(task, tokenizer, teacher_of(task, 40))
    with pytest.raises(UserError, match="S = 43 positions, the teacher's table holds 40"):
        Batches(task, bridge, text, DataConfig(batch=2, text_batch=2, text_length=8), seed=0)
