"""Damage that is drawn at random but the same in every session, and the judge of what reads it."""

import contextlib
import copy
import json
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tracr_jax.errors import UserError

CASES = 200  # of each kind of input
SECONDS = 20.0  # of wall clock for one case: it takes milliseconds, but machines are shared
MEMORY = 1 << 30  # bytes that one case may reserve beside what the process already has
LONGEST = 1000  # characters of a line that is still clear

# What a field may hold that is of the wrong type, size or kind.
ODD = (
    None, True, False, -1, 0, 1, 1.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30, "", "x",
    "\x00\n\x1b[2J", "😀" * 300, [], {}, [None], [[[[]]]], {"a": 1}, ["a", "b"], [0, 1], "../../etc/passwd", "1",
)  # fmt: skip


class HungError(BaseException):
    """A case ran out of its time; no `except Exception` of the product takes it for an error of its own."""


@contextlib.contextmanager
def limited(seconds: float = SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """A block that may neither take long nor much memory."""

    def stop(*_):
        raise HungError(f"no end after {seconds} s")

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (size + memory, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        signal.signal(signal.SIGALRM, before)


def survives(
    kind: str,
    read: Callable[[Any], Any],
    cases: list[tuple[str, Any]],
    *,
    says: str = "",
    refused: int = CASES // 2,
    count: int = CASES,
    memory: int = MEMORY,
) -> None:
    """Read every case within its limits: it loads, or it is refused with one clear line that holds `says`.

    Args:
      kind: for the printed count, from which experiments/faults.md is written.
      read: takes the second part of a case.
      cases: (description, what to read); anything raised but a UserError fails, with its description.
      says: what every line must name: the file.
      refused: at least so many must be refused, or the damage was none.
      count: at least so many cases there must be.
      memory: for readers whose threads reserve address space.
    """
    found = {"refused": 0, "loaded": 0}
    wrong = []
    for name, case in cases:
        try:
            with limited(memory=memory):
                read(case)
            found["loaded"] += 1
        except UserError as e:
            line = str(e)
            found["refused"] += 1
            if "\n" in line or says not in line or not 10 < len(line) < LONGEST:
                wrong.append(f"{name}: not one clear line that says {says!r}: {line[:300]!r}")
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # a panic of Rust is no Exception
            wrong.append(f"{name}: {type(e).__name__}: {str(e)[:200]}")
    counts = f"{found['refused']} refused, {found['loaded']} loaded, {len(wrong)} lost"
    print(f"fault: {kind}: {len(cases)} cases, {counts}")
    assert not wrong, f"{len(wrong)} of {len(cases)}: " + "\n".join(wrong[:12])
    assert len(cases) >= count
    assert found["refused"] >= refused, found


def damaged(whole: bytes, number: int, *, head: int | None = None) -> bytes:
    """The bytes with one of eight kinds of damage; all but cuts fall into the first `head` bytes where given."""
    rng = np.random.default_rng((17, number))
    data = bytearray(whole)
    span = min(head or len(data), len(data))
    a, b = sorted(int(i) for i in rng.integers(0, max(span, 1), 2))
    match number % 8:
        case 0:
            return bytes(data[: int(rng.integers(0, len(data)))])
        case 1:
            data[a] ^= int(rng.integers(1, 256))
        case 2:
            for i in rng.integers(0, span, 8):
                data[i] = int(rng.integers(0, 256))
        case 3:
            data[a:b] = bytes(b - a)
        case 4:
            del data[a : a + int(rng.integers(1, 9))]
        case 5:
            data[a:a] = rng.bytes(int(rng.integers(1, 9)))
        case 6:
            data[a : a + 8] = int(rng.integers(0, 2**63)).to_bytes(8, "little")
        case 7:
            data[a:b] = data[a:b][::-1]
    return bytes(data)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, x in inner for p in ((*path, key), *places(x, (*path, key)))]


def odd_json(whole: Any, number: int, *, within: Callable[[tuple], bool] = lambda _: True) -> Any:
    """The JSON value with one to three of its fields lost, doubled or replaced by something odd.

    within: which paths may be touched.
    """
    rng = np.random.default_rng((23, number))
    value = copy.deepcopy(whole)
    for _ in range(int(rng.integers(1, 4))):
        # All depths alike: else the many numbers of long lists would take every turn.
        by_depth: dict[int, list[tuple]] = {}
        for path in filter(within, places(value)):
            by_depth.setdefault(len(path), []).append(path)
        if not by_depth:
            break
        among = by_depth[int(rng.choice(sorted(by_depth)))]
        *way, last = among[int(rng.integers(len(among)))]
        at = value
        for key in way:
            at = at[key]
        kind = int(rng.integers(8))
        if kind == 0:
            del at[last]
        elif kind == 1 and isinstance(at, list):
            at.insert(last, copy.deepcopy(at[last]))
        elif kind == 2 and isinstance(at, dict):
            at[f"{last}_"] = at.pop(last)
        else:
            at[last] = copy.deepcopy(ODD[int(rng.integers(len(ODD)))])
    return value


def odd_texts(whole: Any, number: int) -> bytes:
    """A JSON file: half of them well formed with odd contents, the others damaged as text."""
    if number % 50 == 0:
        return (b"[" * 200_000, b"9" * 5000, b'"\xff\xfe"', b"\xef\xbb\xbf{}", b"")[number // 50 % 5]
    if number % 2:
        return json.dumps(odd_json(whole, number)).encode()
    return damaged(json.dumps(whole).encode(), number // 2)
