"""Reading and setting: a model that is its program follows every change; what cannot be done is one line."""

import dataclasses
import json

import numpy as np
import pytest

from tests.helpers.interpret_parts import DYCK, small_run
from tests.helpers.interpret_perfect import perfect_of, with_random_adapter
from tracr_jax.config import LossConfig
from tracr_jax.errors import UserError
from tracr_jax.explore.answers import compare
from tracr_jax.explore.session import CHANGES, TOKENS, Change, Explorer
from tracr_jax.interpret.decode import padded_row
from tracr_jax.measure.variables.labelled import oracle_values
from tracr_jax.measure.variables.reading import held_values

PROMPT = DYCK.item("([)]").prompt


@pytest.fixture(scope="module")
def run():
    """The program itself as a model, for texts of its own table."""
    small = small_run()
    return perfect_of(small, max_positions=small.program.length)


@pytest.fixture(scope="module")
def explorer(run):
    explorer = Explorer(run)
    explorer.warm()
    return explorer


def place(explorer, name):
    variable = explorer.program.teacher.variable(name)
    return explorer.program.teacher.variables.index(variable)


def test_a_prompt_as_it_is(explorer):
    found = explorer.read(PROMPT)
    assert found["after"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    before, program = found["before"], explorer.program
    assert "".join(before["tokens"]) == f"{PROMPT} yes"
    ids = program.tokenizer.encode(f"{PROMPT} yes")
    held, names = oracle_values(program, np.array([ids]), [len(ids)])[0][:, 0], program.layout.names
    for i, v in enumerate(program.teacher.variables):
        if v.kind == "categorical":
            right = held[..., names.index(v.name)].tolist()
            assert [[-1 if x is None else x for x in layer[i]] for layer in before["truth"]] == right, v.name
    assert before["answer_positions"] == [len(before["tokens"]) - 2]
    assert before["answer"] == {
        "model": "yes", "ends": False, "program": "yes", "values": ["True"], "agree": True, "unknown": "",
    }  # fmt: skip


def test_every_change_of_a_model_that_is_its_program_is_followed(explorer):
    """Any variable, layer, token and value: the answer is the program's, and so is everything that is read."""
    variables, depth = explorer.program.teacher.variables, explorer.program.depth
    tokens = explorer.read(PROMPT)["before"]["tokens"]
    possible = [
        Change(i, layer, token, value)
        for i in range(len(variables))
        for layer in range(depth + 1)
        if not explorer.why_fixed(i, layer)
        for token in range(len(tokens) - 1)
        for value in explorer.sources.values(i)
    ]
    rng = np.random.default_rng(0)
    answers, moved = set(), 0
    for size in [1] * 40 + [3] * 10:
        changes = [possible[k] for k in rng.choice(len(possible), size)]
        after = explorer.read(PROMPT, changes)["after"]
        if not after["answer"]["values"]:
            continue  # a mixture: the program has no answer then
        assert after["answer"]["agree"] is True, changes
        answers.add(after["answer"]["model"])
        for layer, truth in zip(after["layers"], after["truth"], strict=True):
            for read, right in zip(layer["value"], truth, strict=True):
                assert all(r == t for r, t in zip(read, right, strict=True) if t is not None), changes
        moved += after["truth"] != explorer.read(PROMPT)["before"]["truth"]
    assert answers == {"yes", "no"}
    assert moved > 25


def test_a_model_that_is_not_its_program_does_not_follow(run):
    explorer = Explorer(with_random_adapter(run))
    for text in "()", "(]":  # where the values come from
        explorer.read(DYCK.item(text).prompt)
    result, depth = place(explorer, "final_result"), explorer.program.depth
    at = explorer.read(PROMPT)["before"]["answer_positions"][0]
    after = explorer.read(PROMPT, [Change(result, depth, at, 0)])["after"]
    assert after["answer"]["values"] == ["False"]
    assert after["answer"]["agree"] is False


def test_the_oracle_says_what_the_compiled_program_does(explorer):
    """It judges texts beyond the program's table; on shorter ones both are there."""
    program, ids = explorer.program, explorer.program.tokenizer.encode(PROMPT)
    row = padded_row(explorer.run, ids)
    for name, layer, token in (
        ("[]_diffs", 3, 9),
        ("tokens", 0, 8),
        ("final_result", program.depth, len(ids) - 1),
    ):
        for value in explorer.sources.values(place(explorer, name)):
            changes = [Change(place(explorer, name), layer, token, value)]
            states, _ = explorer._held(ids, changes)
            compiled = held_values(states[..., program.layout.order], layout=program.layout)
            found = explorer._by_oracle(row, len(ids), changes)
            np.testing.assert_array_equal(found[:, : len(ids)], np.asarray(compiled)[:, : len(ids)])
    changes.append(Change(place(explorer, "tokens"), 0, 3, 0))
    with pytest.raises(UserError, match="known for changes at one layer, not at 2"):
        explorer._by_oracle(row, len(ids), changes)


def test_what_cannot_be_asked_is_one_line(explorer):
    result, depth = place(explorer, "final_result"), explorer.program.depth
    for prompt, message in (
        ("", "the prompt is empty"),
        ("(" * 400, r"has 400 tokens, at most 19 can be shown"),
        ("\ud800", "is half of a pair"),
    ):
        with pytest.raises(UserError, match=message):
            explorer.read(prompt)
    assert TOKENS > 19  # the model's positions are fewer
    for change, message in (
        (Change(99, 0, 0, 0), "no variable 99"),
        (Change(result, depth, 500, 0), "or token 500"),
        (Change(result, depth, -1, 0), "or token -1"),
        (Change(result, 0, 0, 0), f"cannot be set at layer 0: the program writes it at layer {depth}"),
        (Change(place(explorer, "one"), depth, 0, 0), "a number on one direction"),
        (Change(result, depth, 0, 7), "none has the number 7"),
        (Change(place(explorer, "indices"), 0, 0, len(explorer.program.teacher.variable("indices").values) - 1),
         "no prompt read so far holds this value"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as e:
            explorer.read(PROMPT, [change])
        assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="at most 32 values"):
        explorer.read(PROMPT, [Change(result, depth, 0, 0)] * (CHANGES + 1))


def test_a_run_without_alignment_has_nothing_to_explore():
    run = small_run()
    config = dataclasses.replace(run.program.config, losses=LossConfig(alignment="none"))
    run = dataclasses.replace(run, programs=(dataclasses.replace(run.program, config=config),))
    with pytest.raises(UserError, match="without alignment"):
        Explorer(run)


@pytest.mark.parametrize(
    ("answer", "values", "written", "agree"),
    [
        ("yes", [True], "yes", True),
        ("no", [True], "yes", False),
        ("()", [True], "yes", False),
        ("", [True], "yes", False),
        ("yes", [], "", None),
        ("yes", [3], "", False),  # no item spells 3, but every one spells yes
        ("()", [3], "", None),
    ],
)
def test_how_answers_are_compared(explorer, answer, values, written, agree):
    encode = explorer.program.tokenizer.encode
    spelling = {(0, True): encode(" yes")[0], (0, False): encode(" no")[0]}
    tokens, own = (encode(f" {x}")[:1] if x else [] for x in (answer, written))
    found = compare(explorer.program, tokens, True, values, own, spelling=spelling, unknown="")
    assert found.agree is agree


def test_a_model_that_stops_early_does_not_agree(explorer):
    """The program would write two words: the first alone is not its answer."""
    encode = explorer.program.tokenizer.encode
    yes, no = encode(" yes")[0], encode(" no")[0]
    prompt = encode(PROMPT)
    whole = [*prompt, yes]
    read = explorer._decoded(whole, explorer._forward(whole, ())[0], ())
    spelled = {(0, True): yes, (1, False): no}
    for endings, text, agree in ((frozenset(), "yes no", False), (frozenset({(1, False)}), "yes", True)):
        values = iter([True, False])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(explorer, "_spelling", spelled)
            patch.setattr(explorer, "_endings", endings)
            patch.setattr(explorer, "_result", lambda *_, values=values: next(values))
            found = explorer._compare(prompt, [yes], True, (), read)
        assert (found.program, found.agree) == (text, agree)
