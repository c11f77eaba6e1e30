"""Teachers that are damaged on disk, and programs drawn at random, most of which tracr cannot compile."""

import io
import json
import warnings
import zipfile

import numpy as np
import pytest
from tracr.compiler import lib
from tracr.rasp import rasp

from tests.helpers import fault_parts as F
from tracr_jax.errors import UserError
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.teacher import compile_program, load_teacher, save_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A file that holds every kind of array: matrices, step pairs and grids."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.npz"
    save_teacher(compile_program(Dyck(pairs=("()",)).program(max_seq_len=3), vocab="()c", max_seq_len=3), path)
    return path


def parts(path):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(bytes(arrays.pop("header"))), arrays


def lies(header, arrays, number):
    """A file whose checksums are right and whose contents are not."""
    rng = np.random.default_rng((31, number))
    arrays = dict(arrays)
    if number % 2:
        header = F.odd_json(header, number)
    for _ in range(1 + number % 2):
        name = sorted(arrays)[int(rng.integers(len(arrays)))]
        a = arrays[name].copy()
        match int(rng.integers(7)):
            case 0:
                del arrays[name]
                continue
            case 1:
                a = a.astype([np.float32, np.complex64, np.int64, np.bool_, "U3"][int(rng.integers(5))])
            case 2:
                a = a[..., None]
            case 3:
                a = np.append(a.reshape(-1), a.reshape(-1)[:1])
            case 4 if a.size:
                a.reshape(-1)[int(rng.integers(a.size))] = [-1, 10**6][int(rng.integers(2))]
            case 5 if a.size and a.dtype.kind == "f":
                a.reshape(-1)[int(rng.integers(a.size))] = np.nan
            case _:
                a = a[:0]
        arrays[name] = a
    out = io.BytesIO()
    np.savez(out, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    return out.getvalue()


def test_teacher_files(teacher, tmp_path):
    path = tmp_path / "teacher.npz"
    header, arrays = parts(teacher)
    cases = [(f"bytes {i}", F.damaged(teacher.read_bytes(), i)) for i in range(60)]
    cases += [(f"lie {i}", lies(header, arrays, i)) for i in range(150)]

    def read(content):
        path.write_bytes(content)
        load_teacher(path).densify()  # every index is used once

    F.survives("teacher", read, cases, says=str(path), refused=150)


def test_an_array_that_claims_the_whole_memory(teacher, tmp_path):
    path = tmp_path / "teacher.npz"
    header, arrays = parts(teacher)
    np.savez(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    claim = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }"
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bomb, "w") as new:
        for name in old.namelist():
            new.writestr(name, claim.ljust(127) + b"\n" if name == "token_embed/value.npy" else old.read(name))
    F.survives("teacher of 800 GB", load_teacher, [("", bomb)], says=str(bomb), count=1, refused=1)


FUNCTIONS = (
    lambda x: x, lambda x: 1 / x, lambda x: 1 // (x - 1), lambda x: x + 1, lambda x: {}[x], lambda x: x.missing,
    lambda x: None, lambda x: float("nan"), lambda x: float("inf"), lambda x: [x], lambda x: (x, x),
    lambda x: x == "a", lambda x: str(x) * 3, lambda x: next(iter(())), lambda x: np.float32(1), lambda x, y: x,
    lambda x: FUNCTIONS[-1](x),
)  # fmt: skip
PAIRS = (
    lambda a, b: a, lambda a, b: a / b, lambda a, b: (a, b), lambda a, b: a + b, lambda a, b: a > b,
    lambda a, b: 1, lambda a, b: a * b, lambda a, b: None, lambda a: a, lambda a, b: a[b],
)  # fmt: skip
PREDICATES = (
    rasp.Comparison.EQ, rasp.Comparison.TRUE, rasp.Comparison.LT, rasp.Comparison.GEQ, lambda k, q: k < q,
    lambda k, q: 1 / 0, lambda k, q: None, lambda k: True, lambda k, q: k == q + 1,
)  # fmt: skip


def drawn(number):
    """A program of a few random operations: causal or not, with functions that fail, grow or return nonsense."""
    rng = np.random.default_rng((37, number))

    def among(options):
        return options[int(rng.integers(len(options)))]

    def sop(depth):
        if depth == 0:
            return among((rasp.tokens, rasp.tokens, rasp.indices, rasp.indices, rasp.length, rasp.Full(1)))
        inner = sop(depth - 1)
        kind = int(rng.integers(8))
        if kind < 2:
            out = rasp.Map(among(FUNCTIONS), inner)
        elif kind < 4:
            out = rasp.SequenceMap(among(PAIRS), inner, sop(int(rng.integers(depth))))
        elif kind < 6:
            out = rasp.SelectorWidth(selector(inner, depth))
        elif kind < 7:
            moved = sop(int(rng.integers(depth)))
            out = rasp.Aggregate(selector(inner, depth), moved, default=among((None, 0, "a")))
        else:
            out = rasp.LinearSequenceMap(inner, sop(int(rng.integers(depth))), 1, among((1, -1, 0.5, 1e300)))
        return among((lambda x: x, lambda x: x, rasp.numerical, rasp.categorical))(out)

    def selector(inner, depth):
        out = rasp.Select(inner, sop(int(rng.integers(depth))), among(PREDICATES))
        return among((out, out, out, out & out, ~out, out | out))

    return sop(1 + number % 4)


def test_programs_drawn_at_random():
    def compile_it(number):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracr's, and that the slow path is taken
            compile_program(lambda: drawn(number), vocab="ab", max_seq_len=3)

    cases = [(str(i), i) for i in range(2 * F.CASES)]
    F.survives("programs", compile_it, cases, says="program", count=2 * F.CASES)


def test_values_that_nothing_bounds_are_refused_before_they_are_listed():
    def grows(steps):
        out = rasp.SequenceMap(lambda t, i: i, rasp.tokens, rasp.indices)
        for k in range(steps):
            out = rasp.SequenceMap(lambda a, b: (a, b), out, rasp.Map(lambda x, k=k: (x, k), out))
        return out

    with F.limited(), pytest.raises(UserError, match=r"at most 1,000,000 pairs can be listed: bound them"):
        compile_program(lambda: grows(9), vocab="ab", max_seq_len=10)
    with F.limited(), pytest.raises(UserError, match=r"has 22,500 possible values, at most 20,000"):
        compile_program(lambda: grows(3), vocab="ab", max_seq_len=150)


def test_a_selector_of_pairs_of_positions_compiles_for_fifty_and_not_for_a_hundred():
    """Its pairs are entries of a matrix, so that more are listed than rows of a table."""

    def paired():
        pair = rasp.SequenceMap(lambda i, j: (i, j), rasp.indices, rasp.Map(lambda i: i, rasp.indices))
        width = rasp.SelectorWidth(rasp.Select(pair, pair, rasp.Comparison.EQ))
        return rasp.SequenceMap(lambda n, token: n, width, rasp.tokens)

    with F.limited(), pytest.raises(UserError, match=r"\(10,000\), at most 10,000,000 pairs can be listed: bound"):
        compile_program(paired, vocab="ab", max_seq_len=100)
    assert compile_program(paired, vocab="ab", max_seq_len=50).width > 2500


def test_a_function_that_fails_to_build_its_program():
    with pytest.raises(UserError, match=r"building it failed \(ZeroDivisionError"):
        compile_program(lambda: 1 / 0, vocab="ab", max_seq_len=3)
    compile_program(lib.make_hist, vocab="ab", max_seq_len=3)  # and the next one compiles
