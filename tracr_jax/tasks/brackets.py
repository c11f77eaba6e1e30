"""Strings of brackets of several types that may interleave: random, balanced, and balanced with one mistake.

Source: docs/method.md §7. Each `pairs` holds the types, opener and closer: `("()", "[]")`.
"""

import itertools

import numpy as np


def is_matched(text: str, pairs: tuple[str, ...]) -> bool:
    """Whether no prefix closes more of a type than it opened, and all types end balanced."""
    open_now = dict.fromkeys(pairs, 0)
    for c in text:
        for pair in pairs:
            if c in pair:
                open_now[pair] += 1 if c == pair[0] else -1
                if open_now[pair] < 0:
                    return False
    return not any(open_now.values())


def random_brackets(r: np.random.Generator, length: int, pairs: tuple[str, ...]) -> str:
    """Each bracket uniform over all."""
    brackets = "".join(pairs)
    return "".join(brackets[k] for k in r.integers(0, len(brackets), length))


def balanced_brackets(r: np.random.Generator, length: int, pairs: tuple[str, ...]) -> str:
    """Balanced string of even length: each step uniform over the closers of open types and, while there is room,
    all openers.
    """
    types = range(len(pairs))
    open_now, depth, out = [0] * len(pairs), 0, []
    # One draw for all steps: a generator call costs more than the rest of a step.
    for i, u in enumerate(r.random(length).tolist()):
        closable = [t for t in types if open_now[t]]
        k = int(u * (len(closable) + (len(types) if depth + i < length else 0)))
        closes = k < len(closable)
        t, change = (closable[k], -1) if closes else (k - len(closable), 1)
        open_now[t] += change
        depth += change
        out.append(pairs[t][int(closes)])
    return "".join(out)


def replace_one(r: np.random.Generator, text: str, pairs: tuple[str, ...]) -> str:
    """A balanced string with one bracket replaced by another: some count no longer matches."""
    at = int(r.integers(len(text)))
    others = [c for c in "".join(pairs) if c != text[at]]
    return text[:at] + others[int(r.integers(len(others)))] + text[at + 1 :]


def ends_fit(text: str, pairs: tuple[str, ...]) -> bool:
    """Whether an even number of brackets begins with an opening one and ends with a closing one; not of none."""
    fits = text[:1] in [p[0] for p in pairs] and text[-1:] in [p[1] for p in pairs]
    return fits and len(text) % 2 == 0


def exchange_two(r: np.random.Generator, text: str, pairs: tuple[str, ...]) -> str:
    """A balanced string with an opener and a later closer of its type exchanged, so that a prefix is overdrawn.

    All counts still match: who ignores order cannot tell.
    """
    wrong = []
    for opener, closer in pairs:
        for i, c in enumerate(text):
            if c != opener:
                continue
            for j in range(i + 1, len(text)):
                if text[j] == closer:
                    new = text[:i] + closer + text[i + 1 : j] + opener + text[j + 1 :]
                    wrong.append(new)
    for k in r.permutation(len(wrong)):
        if not is_matched(wrong[k], pairs):
            return wrong[k]
    # Unreachable: exchanging a type's first opener with any closer overdraws the type at once.
    raise AssertionError(text)


def nested_brackets(r: np.random.Generator, pairs: tuple[str, ...]) -> str:
    """Balanced, of one type, 20 to 30 brackets, somewhere at least eight deep."""
    pair = pairs[int(r.integers(len(pairs)))]
    while True:
        text = balanced_brackets(r, 2 * int(r.integers(10, 16)), (pair,))
        if max(itertools.accumulate(1 if c == pair[0] else -1 for c in text)) >= 8:
            return text


def bracket_runs(r: np.random.Generator, pairs: tuple[str, ...]) -> str:
    """Balanced, 14 to 22 brackets: a type is opened two to five times at once, and closed as often as open."""
    open_now, out = [0] * len(pairs), ""
    while len(out) + sum(open_now) < 14:
        t, count = int(r.integers(len(pairs))), int(r.integers(2, 6))
        if open_now[t] and r.integers(2):
            out, open_now[t] = out + pairs[t][1] * open_now[t], 0
        else:
            out, open_now[t] = out + pairs[t][0] * count, open_now[t] + count
    return out + "".join(pairs[t][1] * open_now[t] for t in r.permutation(len(pairs)))


def any_kind(r: np.random.Generator, kind: int, longest: int, pairs: tuple[str, ...]) -> str:
    """5 to `longest` brackets; an even kind: balanced, 1: random, 3: cut near its end, 5: one replaced, 7: two
    exchanged. Half of all have few types or brackets of uneven shares, so that high counts occur.
    """
    uneven = bool(r.integers(2))
    if uneven:
        pairs = tuple(pairs[k] for k in r.permutation(len(pairs))[: 1 + int(r.integers(len(pairs)))])
    n = 2 * int(r.integers(3, longest // 2 + 1))
    if kind == 1:
        brackets = "".join(pairs)
        shares = r.dirichlet([0.5 if uneven else 100.0] * len(brackets))
        return "".join(brackets[k] for k in r.choice(len(brackets), n, p=shares))
    text = balanced_brackets(r, n, pairs)
    if kind == 3:
        return text[: max(5, n - int(r.integers(1, 4)))]
    edit = {5: replace_one, 7: exchange_two}.get(kind)
    return edit(r, text, pairs) if edit else text
