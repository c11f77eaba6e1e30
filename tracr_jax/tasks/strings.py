"""A task from nothing but a program on letters: its answer is yes or no, a value, or one value for each letter.

The letters stand in the prompt one by one, and the labels are the program's own answers. Serves to try out a
program in ten lines; for real text subclass `SampledTask`, `tasks/dyck.py` is the example. The paper has none.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.tasks import mistakes
from tracr_jax.tasks.base import EvalSet, Item, TokenMap
from tracr_jax.tasks.language import (
    AskedOnce,
    Language,
    Letters,
    explore,
    random_string,
    regular_strings,
    written_or_refused,
)
from tracr_jax.tasks.prompt import ASK, OTHER, Prompt, as_text, is_word, joined
from tracr_jax.tasks.sampled import SampledTask
from tracr_jax.tasks.split import EVALUATION, Split, rng, shrunk, split_of
from tracr_jax.tasks.string_rules import trivial_rules
from tracr_jax.tasks.string_sets import FEWEST_MADE, chosen_strings, in_turn, shares, without
from tracr_jax.teacher.compile import build_program
from tracr_jax.teacher.oracle import Oracle

_WORK = 1_000_000  # variables x letters² that the search may evaluate: half a second
_CLASSES = 20  # more different answers than this are not balanced
_COMPARED = 32  # strings whose answers are compared with and without words around them, and with `truth`
_CANDIDATES = 50  # random strings looked at for each item of a set


@dataclass(frozen=True)
class StringTask(SampledTask):
    """What a RASP program says of the letters before the question mark of the teacher's input."""

    name: str
    build: Callable[[], rasp.SOp]
    """Makes the program. It reads `rasp.tokens`: the letters, "other" for the words of the prompt, and "?" where
    the answer is asked. Its value there is the answer; a position sees itself and what stands before it."""
    letters: tuple[str, ...]
    """Two or more pieces of text, each one token of the language model."""
    advice = "its functions must give one value for one input, written as one token; or another --lm"
    question: str = "What is the text"
    """Stands before the letters; contains no colon, and none of them as a word of its own. "" for a program that
    reads every position: the prompt is then the letters and " :" alone."""
    min_length: int = 2
    """Fewest letters in training."""
    max_length: int = 10
    """Most letters in training; the set "longer" goes to twice as many."""
    answer: Literal["yes/no", "value", "sequence"] = "yes/no"
    """"yes/no": the value at "?" is True or False, or 1 or 0. "value": that value's text. "sequence": one value
    for each letter, from "?" on; the values that were written stand in the input of those that follow."""
    generate: Callable[..., Sequence[str]] | None = None
    """Makes strings that random drawing misses, for a program whose answer is nearly always the same, of a numpy
    generator r: generate(r), or generate(r, low, high) with the fewest and most letters that are wanted. Of the
    usual answer half of the items are strings that it made."""
    truth: Callable[[Sequence[str]], Any] | None = None
    """The answer by other means than the program (a bool, a value, or a sequence), to be compared with it."""
    skipped: int = 0
    """Of a sequence: so many of the first letters have no value, as where they look back at nothing."""
    set_size: int = 200
    """Items of each evaluation set; a set holds fewer where fewer exist."""
    rules: Mapping[str, Callable[[Sequence[str]], Any]] = field(default_factory=dict, hash=False)
    """Trivial baselines of your own, by name: what is answered without the program."""

    result = "final_result"
    marker = ASK

    mistake: ClassVar[str] = ""
    """What is wrong with the fields, where that is said when the task is used; see `mistakes_said_later`."""

    def __post_init__(self):
        object.__setattr__(self, "mistake", mistakes.mistake_of(self._check_fields))  # frozen

    def _check_fields(self) -> None:
        if problem := mistakes.wrong_fields(self) or mistakes.wrong_letters(self):
            raise UserError(f"task {self.name}: {problem}")
        self._form.check(self.letters, f"task {self.name}")

    # ---- the program and its tokens

    def program(self, *, max_seq_len: int) -> rasp.SOp:
        """The program's answer: for yes or no, at the question mark only and False elsewhere."""
        sop = self._built()
        if self.answer != "yes/no":
            return sop.named(self.result)
        answer = rasp.SequenceMap(lambda m, t: bool(m) if t == ASK else False, sop, rasp.tokens)
        return answer.named(self.result)

    def _built(self) -> rasp.SOp:
        try:
            sop = build_program(self.build)
        except UserError as e:
            raise UserError(f"task {self.name}: {e}") from e
        if self.answer != "yes/no" and rasp.is_numerical(sop):
            raise UserError(
                f"task {self.name}: the program's value is numerical, an answer is one of finitely many values; "
                "put rasp.Map(...) around it that names them"
            )
        return sop

    def vocab(self) -> frozenset:
        """The letters, the rest and the question mark; values that are written as a sequence."""
        return frozenset({*self.letters, *self._written.values(), OTHER, ASK})

    def token_map(self) -> TokenMap:
        """Letters and written values stand for themselves, the colon of "Answer:" asks."""
        pieces = {**{c: c for c in self.letters}, **self._written, ":": ASK}
        return TokenMap(pieces, fill=OTHER, words=not self._form.bare)

    def keep_merge(self, left: str, right: str) -> bool:
        """All merges; where digits (and without a question, signs) are written one by one, no token holds two."""
        if self._form.bare:
            return not {left.strip(), right.strip()} <= self._signs
        digits = self.answer == "sequence" and self._joint == ""
        return not (digits and (left.strip().isdigit() or right.strip().isdigit()))

    @functools.cached_property
    def _signs(self) -> frozenset[str]:
        return frozenset(c for c in (*self.letters, *self._written) if not is_word(c))

    @functools.cached_property
    def _written(self) -> dict[str, Any]:
        """Text and teacher token of each value that the answer may put into the input."""
        if self.answer != "sequence":
            return {}
        values = {v for a in self._language.found for v in a}
        return {as_text(v): as_text(v) if as_text(v) in self.letters else v for v in sorted(values, key=str)}

    @property
    def _joint(self) -> str:
        # Digits are joined without spaces: in some tokenizers a space is a token of its own before a digit.
        return "" if all(t.isdigit() and len(t) == 1 for t in self._written) else " "

    # ---- answers

    def item(self, letters: Sequence[str]) -> Item:
        """The question about some letters, with the program's answer."""
        return Item(self._prompt(letters), self._label(self._answer(tuple(letters))))

    @property
    def _form(self) -> Prompt:
        return Prompt(self.question)

    def _prompt(self, letters: Sequence[str]) -> str:
        return self._form.text(letters)

    def _letters(self, prompt: str) -> Letters:
        return self._form.letters(prompt)

    def _label(self, answer: Any) -> str:
        if self.answer == "yes/no":
            return "yes" if answer else "no"
        return self._join(map(as_text, answer)) if self.answer == "sequence" else as_text(answer)

    def _join(self, texts: Iterable[str]) -> str:
        return joined(texts) if self._form.bare else self._joint.join(texts)

    def _answer(self, letters: Letters) -> Any:
        return self._answers([letters])[0]

    @functools.cached_property
    def _answers(self) -> AskedOnce:
        # What is drawn by its answer is labelled by it too.
        return AskedOnce(self._ask_all)

    def _ask_all(self, strings: Sequence[Letters], before: int = 0, between: int = 0) -> list[Any]:
        """The program's answers, with so many words of the prompt before and after the letters of each string."""
        sequence, words, behind = self.answer == "sequence", [OTHER] * before, [OTHER] * between
        prompts = [[*words, *s, *behind, ASK] for s in strings]
        counts = [len(s) - self.skipped if sequence else 1 for s in strings]
        check = mistakes.no_truth_value if self.answer == "yes/no" else None
        values = written_or_refused(
            self._asked, prompts, counts, strings, letters=self.letters, who=f"task {self.name}", check=check
        )
        if check:
            return [bool(value) for (value,) in values]
        return [tuple(found) if sequence else found[0] for found in values]

    @functools.cached_property
    def _oracle(self) -> Oracle:
        return Oracle(self.program(max_seq_len=self.max_length))

    @functools.cached_property
    def _asked(self) -> Oracle:
        # For yes or no the value itself: as a truth value a 2 would be a yes.
        return Oracle(self._built()) if self.answer == "yes/no" else self._oracle

    def teacher_label(self, item: Item) -> tuple[Any, ...]:
        """The program's values at the answer's positions."""
        if self.answer == "yes/no":
            return (item.label == "yes",)
        answer = self._answer(self._letters(item.prompt))
        return answer if self.answer == "sequence" else (answer,)

    # ---- strings by answer

    @functools.cached_property
    def _language(self) -> Language:
        """The strings of training's lengths by answer, once the program is known to look at the letters alone."""
        r = rng(EVALUATION + 8)
        some = [random_string(r, self.letters, self.min_length, self.max_length) for _ in range(_COMPARED)]
        self._answers(some)  # first what is no answer at all
        vocab = {*self.letters, OTHER, ASK}
        always = self.answer == "yes/no" and mistakes.always(self._built(), vocab=vocab, length=self.max_length)
        if always:
            raise UserError(f"task {self.name}: the program says {always} of all strings; mend the program")
        self._compare(some)
        found = self._explore(self.min_length, self.max_length)
        if self.answer == "yes/no" and len(found.found) == 1 and not found.complete:
            found = self._explore(self.min_length, self.max_length, regular=True)
        if self.answer == "yes/no" and len(found.found) == 1:
            ahead = mistakes.looks_ahead(self._oracle, length=self.max_length)
            raise UserError(
                f"task {self.name}: the program says {mistakes.shown(next(iter(found.found)))} of all "
                f"{found.asked} strings asked, of {self.min_length} to {self.max_length} letters; give generate=, "
                f"which makes strings of the other answer, or mend the program{ahead}"
            )
        return found

    def _compare(self, strings: Sequence[Letters]) -> None:
        alone = self._answers(strings)
        words = len(self.question.split())
        for before in () if self._form.bare else (words, words + 1):
            if problem := mistakes.words_count(strings, alone, self._answers(strings, before, 2), before=before):
                raise UserError(f"task {self.name}: {problem}")
        form = {"sequence": tuple, "yes/no": mistakes.yes_or_no, "value": lambda value: value}[self.answer]
        if not (truth := self.truth):
            return
        for letters, answer in zip(strings, alone, strict=True):
            true = mistakes.true_answer(truth, letters, form=form, who=f"task {self.name}")
            if true != answer:
                raise UserError(f"task {self.name}: {self._differs(letters, answer, true)}")

    def _differs(self, letters: Letters, answer: Any, true: Any) -> str:
        return mistakes.differs(letters, answer, true)

    def _explore(self, low: int, high: int, seeds: Sequence[Letters] = (), *, also=(), regular=False) -> Language:
        generate, about = self.generate, {"letters": self.letters, "who": f"task {self.name}"}
        sized = mistakes.takes_lengths(generate)
        lengths = (low, high) if sized else (self.min_length, self.max_length)
        each = len(self._oracle.names) * (high + 1) ** 2 * (high if self.answer == "sequence" else 1)
        budget = max(200, min(20_000, _WORK // each))
        return explore(
            self._answers,
            self.letters,
            low=low,
            high=high,
            budget=budget + budget // 2 if generate else budget,
            seeds=() if sized else seeds,  # what it makes is of all lengths alike, what the search makes is not
            also=[*also, *(regular_strings(self.letters, low, high, most=budget // 4) if regular else ())],
            generate=generate and mistakes.maker(generate, *lengths, sized=sized, **about),
        )

    @functools.cached_property
    def _classes(self) -> tuple[Any, ...]:
        """The answers that items are balanced over; (None,) where there are too many."""
        found = self._language.found
        if self.answer == "yes/no":
            return (True, False)
        return tuple(found) if self.answer == "value" and len(found) <= _CLASSES else (None,)

    @functools.cached_property
    def _rare(self) -> dict[Any, list[Letters]]:
        """Training's strings of each answer that random drawing seldom meets."""
        language = self._language
        rare = {c: language.found[c] for c in self._classes if c is not None and not language.common(c)}
        kept = {c: [s for s in of if self._split(s) == "train"] for c, of in rare.items()}
        # An answer must be trained: where none of its strings is left, all are for training.
        return {c: of or list(rare[c]) for c, of in kept.items()}

    @functools.cached_property
    def _made(self) -> dict[Any, list[Letters]]:
        """Training's strings that `generate` made of each answer that random drawing meets."""
        of = {c: self._language.made.get(c, ()) for c in self._classes if c is not None and c not in self._rare}
        kept = {c: [s for s in made if self._split(s) == "train"] for c, made in of.items()}
        return {c: made for c, made in kept.items() if len(made) >= FEWEST_MADE}

    def _split(self, letters: Letters) -> Split:
        return split_of(self._prompt(letters), **self._shares)

    @functools.cached_property
    def _shares(self) -> dict[str, float]:
        """More than the usual shares for testing, where an answer has few strings."""
        return shares(self._language, self._classes, self.set_size)

    # ---- items

    def sample(self, r: np.random.Generator) -> Item:
        """Any string of training's lengths."""
        return self.item(random_string(r, self.letters, self.min_length, self.max_length))

    def train_item(self, index: int, *, seed: int) -> Item:
        """As many of each answer, in turn: a rare one of those found, every other usual one of those made."""
        r, wanted = rng(seed, index, 1), self._classes[index % len(self._classes)]
        found = self._rare.get(wanted, ()) or self._made.get(wanted, ())
        if found and (wanted in self._rare or r.integers(2)):
            return self.item(found[int(r.integers(len(found)))])
        return self.item(self._draw(r, wanted))

    def free_item(self, index: int, *, seed: int) -> Item:
        """Any string of training's lengths; where some were found or made, every other item is of these."""
        r, known = rng(seed, index, 2), [*self._rare.values(), *self._made.values()]
        if known and index % 2:
            of = known[index // 2 % len(known)]
            return self.item(of[int(r.integers(len(of)))])
        return self.item(self._draw(r, None))

    def _draw(self, r: np.random.Generator, wanted: Any) -> Letters:
        for _ in range(10_000):
            letters = random_string(r, self.letters, self.min_length, self.max_length)
            # The split first: a hash is cheaper than the program.
            if self._split(letters) == "train" and (wanted is None or self._answer(letters) == wanted):
                return letters
        which = "" if wanted is None else f" with the answer {mistakes.shown(wanted)}"
        raise UserError(f"task {self.name}: all strings{which} are in the test split; raise max_length")

    def in_training(self, prompt: str) -> bool:
        """Whether training may draw this prompt: its form, its letters, its length and its split."""
        letters = self._letters(prompt)
        inside = self.min_length <= len(letters) <= self.max_length and set(letters) <= set(self.letters)
        if not inside or prompt != self._prompt(letters):
            return False
        return self._split(letters) == "train" or any(letters in of for of in self._rare.values())

    def eval_sets(self) -> Mapping[str, EvalSet]:
        """Every answer of training in turn: as long as there, and up to twice as long."""
        return self._sets

    @functools.cached_property
    def _sets(self) -> dict[str, EvalSet]:
        low, high = self.min_length, self.max_length
        seeds = [s for c, of in self._language.found.items() if not self._language.common(c) for s in of]
        longer = None if self._classes == (None,) else self._explore(high + 1, 2 * high, seeds)  # else as drawn
        how = "every answer of training in turn" if len(self._classes) > 1 else "answers as they come"
        return {
            "test": self._set("test", 0, low, high, f"In distribution, {how}."),
            "valid": self._set("valid", 2, low, high, "In distribution, for choosing settings."),
            "longer": self._set("longer", 4, high + 1, 2 * high, f"Longer than in training, {how}.", among=longer),
        }

    def _set(
        self, name: str, stream: int, low: int, high: int, note: str, *, among: Language | None = None
    ) -> EvalSet:
        split: Split | None = None if name == "longer" else "valid" if name == "valid" else "test"
        classes, r = self._classes, rng(EVALUATION + stream)

        @functools.cache  # a small language is drawn many times over
        def fits(letters: Letters) -> bool:
            return split is None or (self._split(letters) == split and not self.in_training(self._prompt(letters)))

        chosen = chosen_strings(
            classes,
            -(-self.set_size // len(classes)),
            language=among or self._language,
            stream=stream,
            offered=(random_string(r, self.letters, low, high) for _ in range(_CANDIDATES * self.set_size)),
            fits=fits,
            answers=self._answers,
        )
        if not any(chosen.values()):
            where = f"no string of {low} to {high} letters is in the {split} split"
            raise UserError(f"task {self.name}: {where}; raise max_length")
        order = in_turn(chosen, self.set_size)
        told = shrunk(note, len(order), self.set_size) + without(chosen)
        return EvalSet(name, len(order), lambda i: self.item(order[i]), told)

    def longest_items(self) -> tuple[Item, ...]:
        """Each letter as often as there is room."""
        return tuple(self.item((c,) * self.max_length) for c in self.letters)

    def baselines(self) -> Mapping[str, Callable[[str], str]]:
        """Trivial baselines, those of the task itself last."""
        return self._baselines

    @functools.cached_property
    def _baselines(self) -> dict[str, Callable[[str], str]]:
        usual = super().baselines() if self.answer == "value" else {}
        known = self._language.found if self.answer == "yes/no" else {}
        rules = trivial_rules(
            self.answer,
            letters=self.letters,
            shortest=self.min_length,
            labels=lambda strings: [*map(self._label, self._answers(strings))],
            copied=lambda letters: self._join(letters[self.skipped :]),
            trained={a: [s for s in of if self._split(s) == "train"] for a, of in known.items()},
        )
        own = {name: lambda letters, rule=rule: self._label(rule(letters)) for name, rule in self.rules.items()}
        of_prompt = {n: lambda prompt, rule=r: rule(self._letters(prompt)) for n, r in (rules | own).items()}
        return {**usual, **of_prompt}
