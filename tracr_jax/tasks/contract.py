"""Whether a user's task keeps the contract of base.py, found out by asking it, before a run is built on it.

A mistake is one line that names the task, the attribute, what it gave, and the line of the user's file.
"""

import math
import traceback
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.tasks.base import EvalSet, Item, Task, TokenMap
from tracr_jax.teacher.compile import build_program
from tracr_jax.teacher.undefined import only_answer

_ASKED = 3  # items of each kind
_LENGTH = 16  # positions of the program that is looked at


def check_contract(task: Task, spec: str) -> None:
    """Ask a task for one thing of each kind.

    Raises:
      UserError: the first attribute that is of the wrong type, or fails.
    """

    def need(name: str, ok: Any, wanted: str, value: Any) -> None:
        if not ok:
            raise UserError(
                f"task {spec}: {name} must be {wanted}, got {short(value)}; see tracr_jax/tasks/base.py"
            )

    def ask(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError:
            raise
        except (Exception, SystemExit) as e:
            raise UserError(f"task {spec}: {name} failed ({type(e).__name__}: {short(e)}{place(e)})") from e

    def item(name: str, value: Any) -> Item:
        need(name, isinstance(value, Item), "an Item(prompt, label)", value)
        for part in (value.prompt, value.label):
            need(name, isinstance(part, str) and part, "an Item of two texts that are not empty", value)
        return value

    for name in ("name", "result"):
        need(name, isinstance(getattr(task, name), str) and getattr(task, name), "a text", getattr(task, name))
    need("marker", isinstance(task.marker, Hashable), "a value of the vocabulary", task.marker)
    vocab = ask("vocab()", task.vocab)
    ok = isinstance(vocab, Collection) and not isinstance(vocab, str | bytes) and len(vocab) > 0
    need("vocab()", ok and all(isinstance(v, Hashable) for v in vocab), "a set of values", vocab)
    program = ask("program()", task.program, max_seq_len=_LENGTH)
    need("program()", isinstance(program, rasp.RASPExpr), "a rasp.SOp", program)
    try:
        always = only_answer(build_program(program), vocab=vocab, max_seq_len=_LENGTH)
    except UserError as e:
        raise UserError(f"task {spec}: {e}") from e
    if always:
        raise UserError(
            f"task {spec}: the program's answer is {short(always[0])} whatever it reads; mend the program"
        )
    exactness = ask("mlp_exactness(16)", task.mlp_exactness, 16)
    ok = isinstance(exactness, int | float) and 0 < exactness < math.inf
    need("mlp_exactness(16)", ok, "a positive number", exactness)
    tokens = ask("token_map()", task.token_map)
    ok = isinstance(tokens, TokenMap) and isinstance(tokens.pieces, Mapping)
    need("token_map()", ok, "a TokenMap(pieces, fill)", tokens)
    for piece, value in tokens.pieces.items():
        need("token_map()", isinstance(piece, str) and piece, "a TokenMap of texts that are not empty", piece)
        need("token_map()", isinstance(value, Hashable), "a TokenMap to values of the vocabulary", value)
    need(
        "token_map()", isinstance(tokens.fill, Hashable), "a TokenMap whose fill is of the vocabulary", tokens.fill
    )
    ask("keep_merge('a', 'b')", task.keep_merge, "a", "b")

    for i in range(_ASKED):
        one = item(f"train_item({i}, seed=0)", ask(f"train_item({i}, seed=0)", task.train_item, i, seed=0))
        item(f"free_item({i}, seed=0)", ask(f"free_item({i}, seed=0)", task.free_item, i, seed=0))
        label = ask(f"teacher_label({one!r})", task.teacher_label, one)
        need(f"teacher_label({one!r})", isinstance(label, tuple), "a tuple of values of the result", label)
        ask("in_training(prompt)", task.in_training, one.prompt)
    longest = ask("longest_items()", task.longest_items)
    ok = isinstance(longest, Sequence) and not isinstance(longest, str) and len(longest) > 0
    need("longest_items()", ok, "a tuple of items that is not empty", longest)
    for one in longest:
        item("longest_items()", one)

    sets = ask("eval_sets()", task.eval_sets)
    need("eval_sets()", isinstance(sets, Mapping) and "test" in sets, 'a dictionary that holds "test"', sets)
    for name, one in sets.items():
        where = f"eval_sets()[{name!r}]"
        need(where, isinstance(one, EvalSet), "an EvalSet(name, size, item, note)", one)
        need(f"{where}.size", type(one.size) is int and one.size > 0, "a whole number from 1 on", one.size)
        need(f"{where}.note", isinstance(one.note, str) and isinstance(name, str), "a text", one.note)
        need(f"{where}.item", callable(one.item), "a function of an index", one.item)
        prompt = item(f"{where}.item(0)", ask(f"{where}.item(0)", one.item, 0)).prompt
    rules = ask("baselines()", task.baselines)
    need("baselines()", isinstance(rules, Mapping), "a dictionary of functions", rules)
    for name, rule in rules.items():
        need(f"baselines()[{name!r}]", callable(rule) and isinstance(name, str), "a function of a prompt", rule)
        guess = ask(f"baselines()[{name!r}](prompt)", rule, prompt)
        need(f"baselines()[{name!r}](prompt)", isinstance(guess, str), "a text", guess)


def short(value: Any) -> str:
    """What was given, on one line; a user's own repr may fail or be endless."""
    try:
        text = str(value) if isinstance(value, BaseException) else repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:80]}…"


def place(error: BaseException) -> str:
    """Where a user's code failed: the innermost line that is not in a library."""
    others = ("site-packages", "tracr_jax/tasks/", "<frozen")
    own = [f for f in traceback.extract_tb(error.__traceback__) if not any(x in f.filename for x in others)]
    return f"; {own[-1].filename}, line {own[-1].lineno}" if own else ""
