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
    asked = Asked(spec)
    for name in ("name", "result"):
        value = getattr(task, name)
        asked.need(name, isinstance(value, str) and value, "a text", value)
    asked.need("marker", isinstance(task.marker, Hashable), "a value of the vocabulary", task.marker)
    _check_program(task, asked)
    _check_tokens(task, asked)
    _check_items(task, asked)
    prompt = _check_sets(task, asked)
    _check_baselines(task, asked, prompt)


class Asked:
    """What every question to a task shares: the error that names the task and what it gave."""

    def __init__(self, spec: str):
        self.spec = spec

    def need(self, name: str, ok: Any, wanted: str, value: Any) -> None:
        """Refuse a value that is not what is wanted."""
        if not ok:
            raise UserError(
                f"task {self.spec}: {name} must be {wanted}, got {short(value)}; see tracr_jax/tasks/base.py"
            )

    def ask(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function of the user's returns; that it fails is a UserError that says where."""
        try:
            return function(*args, **kwargs)
        except UserError:
            raise
        except (Exception, SystemExit) as e:
            raise UserError(f"task {self.spec}: {name} failed ({type(e).__name__}: {short(e)}{place(e)})") from e

    def item(self, name: str, value: Any) -> Item:
        """An item, or a UserError."""
        self.need(name, isinstance(value, Item), "an Item(prompt, label)", value)
        for part in (value.prompt, value.label):
            self.need(name, isinstance(part, str) and part, "an Item of two texts that are not empty", value)
        return value


def _check_program(task: Task, asked: Asked) -> None:
    vocab = asked.ask("vocab()", task.vocab)
    ok = isinstance(vocab, Collection) and not isinstance(vocab, str | bytes) and len(vocab) > 0
    asked.need("vocab()", ok and all(isinstance(v, Hashable) for v in vocab), "a set of values", vocab)
    program = asked.ask("program()", task.program, max_seq_len=_LENGTH)
    asked.need("program()", isinstance(program, rasp.RASPExpr), "a rasp.SOp", program)
    try:
        always = only_answer(build_program(program), vocab=vocab, max_seq_len=_LENGTH)
    except UserError as e:
        raise UserError(f"task {asked.spec}: {e}") from e
    if always:
        raise UserError(
            f"task {asked.spec}: the program's answer is {short(always[0])} whatever it reads; mend the program"
        )
    exactness = asked.ask("mlp_exactness(16)", task.mlp_exactness, 16)
    ok = isinstance(exactness, int | float) and 0 < exactness < math.inf
    asked.need("mlp_exactness(16)", ok, "a positive number", exactness)


def _check_tokens(task: Task, asked: Asked) -> None:
    name = "token_map()"
    tokens = asked.ask(name, task.token_map)
    ok = isinstance(tokens, TokenMap) and isinstance(tokens.pieces, Mapping)
    asked.need(name, ok, "a TokenMap(pieces, fill)", tokens)
    for piece, value in tokens.pieces.items():
        asked.need(name, isinstance(piece, str) and piece, "a TokenMap of texts that are not empty", piece)
        asked.need(name, isinstance(value, Hashable), "a TokenMap to values of the vocabulary", value)
    asked.need(name, isinstance(tokens.fill, Hashable), "a TokenMap whose fill is of the vocabulary", tokens.fill)
    asked.ask("keep_merge('a', 'b')", task.keep_merge, "a", "b")


def _check_items(task: Task, asked: Asked) -> None:
    for i in range(_ASKED):
        name, free = f"train_item({i}, seed=0)", f"free_item({i}, seed=0)"
        one = asked.item(name, asked.ask(name, task.train_item, i, seed=0))
        asked.item(free, asked.ask(free, task.free_item, i, seed=0))
        label = asked.ask(f"teacher_label({one!r})", task.teacher_label, one)
        asked.need(f"teacher_label({one!r})", isinstance(label, tuple), "a tuple of values of the result", label)
        asked.ask("in_training(prompt)", task.in_training, one.prompt)
    longest = asked.ask("longest_items()", task.longest_items)
    ok = isinstance(longest, Sequence) and not isinstance(longest, str) and len(longest) > 0
    asked.need("longest_items()", ok, "a tuple of items that is not empty", longest)
    for one in longest:
        asked.item("longest_items()", one)


def _check_sets(task: Task, asked: Asked) -> str:
    """A prompt of the last set."""
    sets = asked.ask("eval_sets()", task.eval_sets)
    ok = isinstance(sets, Mapping) and "test" in sets
    asked.need("eval_sets()", ok, 'a dictionary that holds "test"', sets)
    prompt = ""
    for name, one in sets.items():
        where = f"eval_sets()[{name!r}]"
        asked.need(where, isinstance(one, EvalSet), "an EvalSet(name, size, item, note)", one)
        asked.need(f"{where}.size", type(one.size) is int and one.size > 0, "a whole number from 1 on", one.size)
        asked.need(f"{where}.note", isinstance(one.note, str) and isinstance(name, str), "a text", one.note)
        asked.need(f"{where}.item", callable(one.item), "a function of an index", one.item)
        prompt = asked.item(f"{where}.item(0)", asked.ask(f"{where}.item(0)", one.item, 0)).prompt
    return prompt


def _check_baselines(task: Task, asked: Asked, prompt: str) -> None:
    rules = asked.ask("baselines()", task.baselines)
    asked.need("baselines()", isinstance(rules, Mapping), "a dictionary of functions", rules)
    for name, rule in rules.items():
        where = f"baselines()[{name!r}]"
        asked.need(where, callable(rule) and isinstance(name, str), "a function of a prompt", rule)
        guess = asked.ask(f"{where}(prompt)", rule, prompt)
        asked.need(f"{where}(prompt)", isinstance(guess, str), "a text", guess)


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
