"""The three programs: the original's sizes and labels; values against brute force on any token string."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.int_sum import IntSum
from tracr_jax.teacher import compile_program
from tracr_jax.teacher.oracle import Oracle

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/teacher.json").read_text())


def compiled(task, length):
    return compile_program(
        lambda: task.program(max_seq_len=length),
        vocab=task.vocab(),
        max_seq_len=length,
        mlp_exactness=task.mlp_exactness(length),
    )


# docs/method.md §1.1: layers, width, heads, key size, MLP width.
@pytest.mark.parametrize(
    ("task", "length", "sizes"),
    [
        (Dyck(), 12, (7, 236, 6, 26, 701)),
        (Dyck(), 40, (7, 684, 6, 82, 6805)),
        (IntSum(), 16, (21, 660, 6, 18, 768)),
        (Count(numbers=16), 16, (13, 197, 2, 20, 752)),
    ],
)
def test_sizes_are_the_originals(task, length, sizes):
    t = compiled(task, length)
    assert (t.num_layers, t.width, t.num_heads, t.key_size, t.mlp_hidden_size) == sizes


def test_dyck_labels_are_the_originals():
    t = compiled(Dyck(as_coded_exactness=True), 12)
    assert t.residual_labels == GOLDEN["residual_labels"]
    assert list(t.result_indices("final_result")) == GOLDEN["final_result_dims"]


@pytest.mark.parametrize(("task", "results"), [(Dyck(), 2), (IntSum(), 10), (Count(), 10)])
def test_result_has_one_direction_per_value(task, results):
    assert len(compiled(task, 16).result_indices(task.result)) == results


@pytest.mark.parametrize("pairs", [("()",), ("()", "{}"), ("()", "{}", "[]", "<>")])
def test_dyck_takes_any_number_of_pairs(pairs):
    task = Dyck(pairs=pairs)
    oracle = Oracle(task.program(max_seq_len=16))
    for text in ("()", "({)}", ")(", "(", "<(>)", "<)>("):
        if set(text) <= set("".join(pairs)):
            got = oracle([*text, "compute"]).values[oracle.result][-1]
            assert got == matched_by_deletion(text, pairs), text


def matched_by_deletion(text, pairs):
    """Independent of counters: what is left of each type when matching neighbours vanish."""
    for pair in pairs:
        own = "".join(c for c in text if c in pair)
        while pair in own:
            own = own.replace(pair, "")
        if own:
            return False
    return True


DYCK = Oracle(Dyck().program(max_seq_len=24))
SUM = Oracle(IntSum().program(max_seq_len=20))
COUNT = Oracle(Count().program(max_seq_len=40))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([*"()[]{} ", "compute"]), min_size=1, max_size=20))
def test_dyck_on_any_token_string(tokens):
    got = DYCK(tokens).values[DYCK.result]
    pairs = ("()", "{}", "[]")
    expected = [
        t == "compute" and matched_by_deletion("".join(c for c in tokens[:i] if len(c) == 1), pairs)
        for i, t in enumerate(tokens)
    ]
    assert got == expected


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 999), st.integers(0, 999), st.booleans(), st.booleans())
def test_int_sum_writes_the_sum_modulo_a_thousand(a, b, spaced, zeros):
    left, right = (f"{a:03}", f"{b:03}") if zeros else (str(a), str(b))
    text = f"{left} + {right} =" if spaced else f"{left}+{right}="
    answer = str((a + b) % 1000)
    got = SUM([*text, *answer]).values[SUM.result][len(text) - 1 : -1]
    assert "".join(map(str, got)) == answer
    carries = [(a % 10**k + b % 10**k) // 10**k for k in (1, 2)]
    values = SUM([*text]).values
    found = [next(v[-1] for n, v in values.items() if n.startswith(f"carry_{k}")) for k in (1, 2)]
    assert found == carries


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["yes", "no"]), max_size=35))
def test_count_writes_how_many(words):
    answer = str(sum(w == "yes" for w in words))
    tokens = [*words, "count", *answer]
    got = COUNT(tokens).values[COUNT.result][len(words) : -1]
    assert "".join(map(str, got)) == answer
