"""A task of a program found in a file: its strings are prompts and its values answers, or one line says why not.

The prompt is the string alone (`tracr_jax.tasks.prompt`), the labels are the program's own values: of the last
letter where all letters of a string have one value, otherwise of each letter in turn. A value that is one sign is
written as it is, any other as a letter of its own, which `legend` says.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracr.rasp import rasp

from tracr_jax.errors import UserError, describe
from tracr_jax.tasks.answered import every, last, reading
from tracr_jax.tasks.apart import told_apart
from tracr_jax.tasks.base import EvalSet
from tracr_jax.tasks.found import Found
from tracr_jax.tasks.language import Language, Letters, random_string
from tracr_jax.tasks.prompt import ASK, OTHER
from tracr_jax.tasks.split import rng
from tracr_jax.tasks.strings import StringTask
from tracr_jax.teacher.graph import Trace, trace
from tracr_jax.teacher.model import without_counter
from tracr_jax.teacher.oracle import Oracle

# With a blank before it each is one token of GPT-2's, SmolLM2's and the bundled model's tokenizer.
_CAPITALS, _SMALL = "ABCDEFGHIJKLMNOPQRSTUVWYZ", "abcdefghjklmnoprstuvwxyz"
_SIGNS = frozenset("0123456789!\"#$%&'()*+,-./;<=>@[\\]^_`{|}~")
_UNSEEN = "unseen"  # a value that only strings that are longer than all items have
_STRINGS = 64
_MANY = 2000


@dataclass(frozen=True)
class FileTask(StringTask):
    """A `StringTask` whose letters and answers are written for values of the program."""

    says: Callable[[Sequence[Letters]], list[Any]] = field(kw_only=True)
    """The answers of strings, by the program on each string alone; the bridge proves that they are the same."""
    written: Mapping[Any, str] = field(kw_only=True, hash=False)
    """Of each value, its text."""
    apart: tuple[str, ...] = field(kw_only=True)
    """One letter for each kind of letters that the program tells apart."""
    result: str = field(kw_only=True)
    """The answer's name: "final_result", unless the program has a variable of that name."""
    where: str = field(kw_only=True)
    """The file, and the program's name in it."""

    @property
    def legend(self) -> str:
        """The values that are not written as they are."""
        return ", ".join(f"{t} = {v!r}" for v, t in self.written.items() if t != _plain(v))

    def _ask_all(self, strings: Sequence[Letters], before: int = 0, between: int = 0) -> list[Any]:
        return self.says(strings)

    def _explore(self, low: int, high: int, seeds: Sequence[Letters] = (), *, also=(), regular=False) -> Language:
        """With strings of few letters: among all, what the program looks for may be too rare to be met."""
        r = rng(19)
        few = [random_string(r, self.apart, low, high) for _ in range(_STRINGS if len(self.apart) > 1 else 0)]
        return super()._explore(low, high, seeds, also=[*also, *few], regular=regular)

    def _differs(self, letters: Letters, answer: Any, true: Any) -> str:
        """In the file's own words: values, and the function that it has."""
        values = {text: value for value, text in self.written.items()}

        def shown(said: Any) -> str:
            parts = [values.get(x, x) for x in (said if isinstance(said, tuple) else (said,))]
            return repr(parts if isinstance(said, tuple) else parts[0])

        inside, first = [values[x] for x in letters], f" from letter {self.skipped + 1} on" if self.skipped else ""
        return (
            f"of {inside} the program says {shown(answer)}{first}, get_correct_output_for_input "
            f"{shown(true)}; mend one of them in {self.where}"
        )

    def eval_sets(self) -> Mapping[str, EvalSet]:
        """As in `StringTask`; the first says what stands for what."""
        sets = dict(super().eval_sets())
        if self.legend:
            test = sets["test"]
            sets["test"] = EvalSet(test.name, test.size, test.item, f"{test.note} Written: {self.legend}.")
        return sets


def make_task(found: Found, *, name: str) -> FileTask:
    """The task of a program and its vocabulary.

    Raises:
      UserError: the program reads ahead, has no value somewhere, or too many different ones.
    """
    program = found.build()
    traced = _traced(found, program)
    possible = traced.sops[program.label]
    ours, whole = Oracle(program), Oracle(found.build(), causal=False)
    apart = told_apart(traced, found.values)
    one, skipped = _answer(found, ours, whole, apart=apart)
    texts = _texts(found, possible.values) or _texts(found, _seen(found, ours, one, skipped))
    if texts is None:
        raise UserError(
            f"{found.who}: the program's value can be any of {len(possible.values):,}, as "
            f"{_some(possible.values)}; each answer is one token, and {len(_CAPITALS + _SMALL)} can be chosen; "
            "bound them, as in min(x, 9)"
        )
    letters = tuple(texts[v] for v in found.values)
    values: dict[str, Hashable] = dict(zip(letters, found.values, strict=True))

    def build() -> rasp.SOp:
        program = reading(found.build(), values)
        fetched = last(program) if one else every(program, skipped=skipped)
        return rasp.Map(lambda v: texts.get(v, _UNSEEN), fetched)

    def says(strings: Sequence[Letters]) -> list[Any]:
        inside = [[values[x] for x in string] for string in strings]
        every = [one.values[ours.result] for one in ours.evaluate(inside, names=[ours.result])]
        return [said(*both) for both in zip(inside, every, strict=True)]

    def said(inside: list[Any], every: list[Any]) -> Any:
        out = _part(every, one, skipped)
        if None in out:
            raise _undefined(found, inside, len(inside) - len(out) + out.index(None))
        if not all(v in texts for v in out):
            raise UserError(
                f"{found.who}: for {inside} the program has the value {_some(set(out) - set(texts))}, which none "
                f"of {_MANY} other strings had and no text was chosen for; bound its values, as in min(x, 9)"
            )
        written = tuple(texts[v] for v in out)
        return written[0] if one else written

    def truth(string: Sequence[str]) -> Any:
        inside = [values[x] for x in string]
        try:
            out = list(found.truth(inside)) if found.truth else whole(inside).values[whole.result]
        except Exception as e:
            raise UserError(f"{found.who}: its own answers failed on {inside} ({describe(e)})") from e
        said = [texts.get(v, str(v)) for v in _part(out, one, skipped)]
        return said[0] if one else said

    return FileTask(
        name,
        build,
        letters,
        question="",
        min_length=max(found.shortest, skipped + 1),
        max_length=found.longest,
        answer="value" if one else "sequence",
        truth=None if found.causal else truth,
        skipped=skipped,
        says=says,
        written=texts,
        apart=tuple(texts[v] for v in apart),
        result=_free_name({without_counter(name) for name in traced.exprs}),
        where=found.who.removeprefix("task "),
    )


def _traced(found: Found, program: rasp.SOp) -> Trace:
    """The program's expressions and their values.

    Raises:
      UserError: it cannot be compiled, its value is a number or always the same, or its letters have no texts.
    """
    if _texts(found, ()) is None:
        raise UserError(
            f"{found.who}: the vocabulary has {len(found.values):,} values; each is one token, and beside single "
            f"signs {len(_CAPITALS + _SMALL)} can be chosen; give fewer"
        )
    try:
        traced = trace(program, vocab=set(found.values), max_seq_len=2 * found.longest)
    except UserError as e:
        raise UserError(f"{found.who}: {e}") from e
    if rasp.is_numerical(program):
        raise UserError(
            f"{found.who}: the program's value is a number (rasp.numerical), an answer is one of finitely many "
            "values; put rasp.Map(...) around it that names them, as in rasp.Map(lambda x: x > 0.5, program)"
        )
    if len(values := traced.sops[program.label].values) == 1:
        _check_defined(found, program)
        raise UserError(
            f"{found.who}: the program's value is {next(iter(values))!r} at every letter of all strings, a "
            "constant that is learned without the program; mend the program"
        )
    return traced


def _check_defined(found: Found, program: rasp.SOp) -> None:
    """Refuse a program that has a value at some letters only: it is no constant."""
    oracle = Oracle(program)
    for string in ([value] * found.longest for value in found.values):
        values = oracle(string).values[oracle.result]
        if None in values:
            raise _undefined(found, string, values.index(None))


def _free_name(taken: Collection[str]) -> str:
    """The answer's name, which no variable of the program has."""
    name = StringTask.result
    while name in taken:
        name += "_said"
    return name


def _part(values: list[Any], one: bool, skipped: int) -> list[Any]:
    """The values that are the answer."""
    return values[-1:] if one else values[skipped:]


def _answer(found: Found, ours: Oracle, whole: Oracle, *, apart: Sequence[Any]) -> tuple[bool, int]:
    """Whether the answer is one value, and how many letters have none.

    apart: letters that the program tells apart, one for each kind. Of them alone every other string is made: of
      26 letters the three that it looks for would hardly ever stand side by side.

    Raises:
      UserError: some string has no answer, or its letters another one where all are seen.
    """
    r = rng(17)
    lengths = (found.shortest, 2 * found.longest)
    strings = [random_string(r, values, *lengths) for values in (found.values, apart) for _ in range(_STRINGS)]
    strings.sort(key=len)
    try:
        causal = [ours(s).values[ours.result] for s in strings]
        second = Oracle(found.build())  # the first has tables of what its functions gave
        again = [second(s).values[second.result] for s in strings]
        meant = causal if found.causal else [whole(s).values[whole.result] for s in strings]
    except UserError as e:
        raise UserError(f"{found.who}: {e}") from e
    if unequal := [s for s, a, b in zip(strings, causal, again, strict=True) if a != b]:
        raise UserError(
            f"{found.who}: the program says two things of {list(unequal[0])}, asked twice; its functions must "
            "give one value for one input, without random numbers"
        )
    # One value for all letters is a value of the string.
    one = all(len(set(v)) == 1 for v in meant) and len({v[0] for v in meant}) > 1
    skipped = 0
    both = [*causal, *meant]
    while not one and all(v[skipped] is None for v in both if len(v) > skipped) and skipped < found.longest:
        skipped += 1
    if skipped >= found.longest:
        raise UserError(
            f"{found.who}: the first {skipped} letters have no value, and strings have no more; give a "
            "larger MAX_LENGTH, or let every letter have one"
        )
    for string, a, b in zip(strings, causal, meant, strict=True):
        for i in range(len(a) - 1 if one else skipped, len(a)):
            if a[i] != b[i]:
                raise UserError(
                    f"{found.who}: the program reads ahead: at letter {i + 1} of {list(string)} it says {b[i]!r} "
                    f"of the whole string, and {a[i]!r} where later letters are not seen, as in a language model; "
                    'write it after "?", where every letter is seen, as the built-in tasks reverse, sort and '
                    "histogram do (tracr-jax check reverse), or, if that is meant, add the line CAUSAL = True"
                )
            if a[i] is None:
                raise _undefined(found, string, i)
    return one, skipped


def _undefined(found: Found, string: Sequence[Any], at: int) -> UserError:
    return UserError(
        f"{found.who}: the program has no value at letter {at + 1} of {list(string)}: an Aggregate selects "
        "nothing there, or several different values, or a function returns None or fails, as 1 / 0; let it have "
        "one for every string"
    )


def _seen(found: Found, ours: Oracle, one: bool, skipped: int) -> set[Any]:
    """The answers of many strings: fewer than are possible by the values that each step can have."""
    r, seen = rng(18), set()
    for _ in range(_MANY):
        string = random_string(r, found.values, found.shortest, 2 * found.longest)
        seen.update(_part(ours(string).values[ours.result], one, skipped))
        if len(seen) > len(_CAPITALS + _SMALL) + len(_SIGNS):
            break
    return seen


def _plain(value: Any) -> str:
    """A value's own text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _texts(found: Found, answers: Iterable[Any]) -> dict[Any, str] | None:
    """One text for each value of letters and answers; None where these are more than there are letters."""
    every = [*found.values, *sorted(answers, key=lambda v: (type(v).__name__, _sort(v)))]
    # True is 1 to Python: where both occur, False is written as the number that it is, too.
    numbers = any(v in (0, 1) for v in every if not isinstance(v, bool))
    values = list(dict.fromkeys(int(v) if isinstance(v, bool) and numbers else v for v in every))
    pool = [*_CAPITALS, *_SMALL]
    good = {*_SIGNS, *pool, "yes", "no"} - {ASK, OTHER, ":"}
    shared = Counter(map(_plain, values))  # 1 and "1", True and "yes"
    out = {v: t for v in values if (t := _plain(v)) in good and shared[t] == 1}
    free = [x for x in pool if x not in out.values()]
    for v in values:
        if v in out:
            continue
        if not free:
            return None
        twin = _plain(v).swapcase()
        out[v] = free.pop(free.index(twin) if twin in free else 0)
    return {v: out[v] for v in values}


def _sort(value: Any) -> Any:
    return value if isinstance(value, int | float) else 0 if value is None else str(value)


def _some(values: Iterable[Any]) -> str:
    return ", ".join(sorted(map(repr, values))[:4])
