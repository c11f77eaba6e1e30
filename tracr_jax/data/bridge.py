"""Where the language model and the teacher meet: LM token ids become teacher token ids, one by one.

Source: docs/method.md §3. Position s of the LM is the teacher's s + 1, which has a BOS in front
(docs/differences.md B20). Tokenizers differ: GPT-2 has " 7" as one token, SmolLM2 makes a space and a digit of it,
which would move every digit of an answer one position away from where the teacher writes it. So the text between
prompt and answer is chosen by evidence, and before a run every item is proved: at each position that must emit an
answer token, the program's own evaluator gives the value of that token.
Differs from the original: it checks nothing (docs/differences.md A3, B15); under an as-coded switch the proof only
counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from tracr_jax.errors import UserError
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.tasks.base import Item, Task
from tracr_jax.teacher import Teacher
from tracr_jax.teacher.oracle import Oracle

_SEPARATORS = (" ", "")  # the original's first
_EVIDENCE = 16  # training items that decide the separator, beside the longest


@dataclass(frozen=True)
class BridgeReport:
    """What the bridge covers."""

    mapped_tokens: int
    """LM tokens that have a teacher token of their own."""
    items: int
    """Items checked."""
    positions: int
    """Token positions of these items."""
    fill_share: float
    """Share of these positions that the teacher reads as the fill token."""
    answer_positions: int
    """Positions that must emit an answer token."""
    matched: int
    """Of these, the positions where the program's answer is that token."""
    first_mismatch: str = ""
    """The first item, position, expected and found value that differ; empty if none."""

    def __str__(self) -> str:
        """One line."""
        line = (
            f"bridge: {self.mapped_tokens} LM tokens mapped, {self.fill_share:.0%} of {self.positions} positions "
            f"are fill; answers matched {self.matched} of {self.answer_positions} on {self.items} items"
        )
        return f"{line}; first mismatch: {self.first_mismatch}" if self.first_mismatch else line


@dataclass(frozen=True, eq=False)
class Bridge:
    """The lookup from LM tokens to teacher tokens, and the form of a prompt with its answer."""

    tokenizer: Tokenizer
    teacher: Teacher
    lookup: Int[np.ndarray, " V"]
    separator: str
    mapped: Int[np.ndarray, " M"]  # LM token ids with a teacher token of their own
    fill: int  # teacher id of all other tokens
    marker: int = -1  # teacher id of the token at which an answer begins; -1: it was not written down

    def to_teacher(self, ids: Int[np.ndarray, "B S"]) -> Int[np.ndarray, "B T"]:
        """Teacher token ids of LM token ids, BOS in front: T = S + 1."""
        body = self.lookup[ids]
        bos = np.full((*body.shape[:-1], 1), self.teacher.bos_id, np.int32)
        return np.concatenate([bos, body], axis=-1)

    def teacher_values(self, ids: Sequence[int] | Int[np.ndarray, " S"]) -> list[Any]:
        """Teacher tokens of LM token ids as vocabulary values, without BOS."""
        value_of = {i: v for v, i in self.teacher.vocab.items()}
        return [value_of[int(t)] for t in self.lookup[np.asarray(ids, np.int64)]]

    def split(self, item: Item) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of the answer that follows it, see `split_item`."""
        return split_item(item, self.tokenizer, separator=self.separator)

    def program_answers(self, rows: Iterable[Sequence[list[int]]], oracle: Oracle) -> list[Sequence[Any]]:
        """What the program writes where each answer is emitted; rows: (prompt, answer), token ids."""
        rows = list(rows)
        inputs = [self.teacher_values(prompt + answer) for prompt, answer in rows]
        found = [one.values[oracle.result] for one in oracle.evaluate(inputs, names=[oracle.result])]
        return [v[len(p) - 1 : len(p) + len(a) - 1] for (p, a), v in zip(rows, found, strict=True)]

    def check(
        self, task: Task, items: Iterable[Item], *, strict: bool = True, oracle: Oracle | None = None
    ) -> BridgeReport:
        """Prove on every item that the program answers with the answer's tokens, position by position.

        Args:
          task: whose bridge this is.
          items: items whose answers the program can express.
          strict: raise at the first mismatch; False (as-coded switches) only counts.
          oracle: of the task's program, where the caller already has it.

        Raises:
          UserError: a mismatch: the item, the position, the expected and the found value.
        """
        oracle = oracle or Oracle(task.program(max_seq_len=self.teacher.max_seq_len))
        token_value: dict[int, Any] = {}
        words = task.token_map().words
        count = positions = filled = wanted = matched = 0
        mapped = set(self.mapped.tolist())
        first = ""
        chosen = []
        for item in items:
            prompt, label = self.split(item)
            if strict and not words and (other := [i for i in prompt if i not in mapped]):
                shown = self.tokenizer.token_text(other[0])
                raise UserError(
                    f"bridge: the prompt {item.prompt!r} has the token {shown!r}, which is none of the program's: "
                    "this tokenizer does not write each letter as one token; choose other letters or another --lm"
                )
            chosen.append((item, prompt, label))
        answers = self.program_answers([rest for _, *rest in chosen], oracle)
        for (item, prompt, label), found in zip(chosen, answers, strict=True):
            ids = prompt + label
            expected = task.teacher_label(item)
            count, positions, wanted = count + 1, positions + len(ids), wanted + len(label)
            filled += sum(i not in mapped for i in ids)
            problem = ""
            for j, token in enumerate(label):
                value = expected[j] if j < len(expected) else None
                # One token must always stand for one value: then the value determines the token.
                same = value is not None and token_value.setdefault(token, value) == value
                ends = token == self.tokenizer.eos_id
                if same and not ends and len(label) == len(expected) and found[j] == value:
                    matched += 1
                elif not problem:
                    what = self._problem(token, value, expected, found=found[j], other=token_value.get(token))
                    at = f"position {len(prompt) - 1 + j}"
                    problem = f"item {item.prompt!r} -> {item.label!r}, {at}: the answer's token {what}"
            if problem and strict and (read := self._read_in_question(task, prompt)):
                raise UserError(
                    f"bridge: {task.name}: the question's token {read!r} is read as a letter; word it otherwise, "
                    "or choose other letters"
                )
            if problem and strict:
                raise UserError(f"bridge: {problem}; {_advice(task, 'check its token_map, keep_merge and label')}")
            first = first or problem
        return BridgeReport(len(mapped), count, positions, filled / max(positions, 1), wanted, matched, first)

    def _read_in_question(self, task: Task, prompt: Sequence[int]) -> str:
        """The first token of a task's question that has a value of its own; empty where there is none."""
        read, question, mapped = 0, getattr(task, "question", ""), set(self.mapped.tolist())
        for token in prompt:
            if read >= len(question):
                break
            text = self.tokenizer.token_text(token)
            if token in mapped:
                return text
            read += len(text)
        return ""

    def _problem(self, token: int, value: Any, expected: Sequence[Any], *, found: Any, other: Any) -> str:
        """What is wrong with an answer's token; `other`: the value that it first stood for."""
        shown = self.tokenizer.token_text(token)
        if token == self.tokenizer.eos_id:
            return f"is {shown!r}, which ends every text"
        if found == value and other != value:
            return f"{shown!r} stands for {value!r} here and for {other!r} elsewhere"
        return f"is {shown!r} (value {value!r} of {expected}), the program writes {found!r}"


def make_bridge(
    task: Task, tokenizer: Tokenizer, teacher: Teacher, *, strict: bool = True, separator: str | None = None
) -> Bridge:
    """The bridge of a task for a tokenizer (already filtered) and a compiled teacher.

    Args:
      task: its token_map says what is mapped.
      tokenizer: the LM's.
      teacher: gives the ids of the teacher's tokens.
      strict: False (as-coded switches) keeps the original's form, prompt + " " + label, whatever it aligns.
      separator: that of `find_separator`, where the caller already has it.

    Raises:
      UserError: a value is not in the teacher's vocabulary, a piece has no single token, two pieces share one, or
        no form of the prompt gives as many answer tokens as the teacher writes values.
    """
    mapping = task.token_map()
    unknown = [v for v in (*mapping.pieces.values(), mapping.fill) if v not in teacher.vocab]
    if unknown:
        raise UserError(f"bridge: {task.name} maps to {unknown[0]!r}; the teacher knows {list(teacher.vocab)}")
    fill = teacher.vocab[mapping.fill]
    lookup = np.full(tokenizer.vocab_size, fill, np.int32)
    origin: dict[int, str] = {}
    for piece, value in mapping.pieces.items():
        ids = [tokenizer.single_id(form) for form in (piece, f" {piece}", f"{piece} ")]
        forms = {i for i in ids if i is not None}
        if not forms:
            parts = [tokenizer.token_text(i) for i in tokenizer.encode(f" {piece}")]
            raise UserError(
                f"bridge: {piece!r} is not one token of this tokenizer, which splits it into {parts}; use a "
                "letter or word that is one token (tracr-jax check FILE:TASK --lm NAME tries it), or another --lm"
            )
        for token in forms:
            if token == tokenizer.eos_id:
                raise UserError(f"bridge: {piece!r} is the token that ends every text; choose another letter")
            other = origin.setdefault(token, piece)
            if other != piece:
                raise UserError(f"bridge: {piece!r} and {other!r} are the same LM token {token}")
            lookup[token] = teacher.vocab[value]
    if separator is None:
        separator = find_separator(task, tokenizer) if strict else _SEPARATORS[0]
    mapped, marker = np.array(sorted(origin), np.int64), teacher.vocab.get(task.marker, -1)
    return Bridge(tokenizer, teacher, lookup, separator, mapped, fill, marker)


def split_item(item: Item, tokenizer: Tokenizer, *, separator: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the answer that follows it (separator included).

    Raises:
      UserError: prompt and answer are not whole tokens when written together.
    """
    prompt = tokenizer.encode(item.prompt)
    whole = tokenizer.encode(item.prompt + separator + item.label)
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise UserError(
            f"bridge: the tokenizer merges the end of the prompt {item.prompt!r} with the answer {item.label!r}"
        )
    return prompt, whole[len(prompt) :]


def find_separator(task: Task, tokenizer: Tokenizer) -> str:
    """The text between prompt and answer with which every answer has as many tokens as the teacher writes values.

    Raises:
      UserError: none does.
    """
    items = [*task.longest_items(), *(task.train_item(i, seed=0) for i in range(_EVIDENCE))]
    found: list[tuple[str, int, int]] = []  # (answer, its tokens, values of the program), with each separator
    for separator in _SEPARATORS:
        wrong = None
        for item in items:
            label = split_item(item, tokenizer, separator=separator)[1]
            values = task.teacher_label(item)
            if len(label) != len(values):
                wrong = separator + item.label, len(label), len(values)
                break
        if not wrong:
            return separator
        found.append(wrong)
    advice = _advice(task, "split the answer's tokens with keep_merge")
    first = found[0]
    if all((text.strip(), count, values) == (first[0].strip(), *first[1:]) for text, count, values in found):
        found = [(first[0].strip(), *first[1:])]  # with and without the space: said once
    said = [f"{text!r} is {count} tokens, the teacher writes {values}" for text, count, values in found]
    raise UserError(f"bridge: {task.name}: the answer {'; '.join(said)}; {advice}")


def _advice(task: Task, usual: str) -> str:
    """What to change, in the words of who wrote the task: a program in a `StringTask` has no token map."""
    return getattr(task, "advice", usual)
