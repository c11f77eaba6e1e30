"""Teachers on disk come back whole, types included; damage is noticed; the cache goes by what programs compute."""

import numpy as np
import pytest
from tracr.compiler import lib
from tracr.rasp import rasp

from tests.helpers.teacher_programs import LIBRARY, circle
from tracr_jax.errors import UserError
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.teacher import cached_compile, compile_program, load_teacher, save_teacher, store


def dyck(length=6):
    return compile_program(
        lambda: Dyck().program(max_seq_len=length), vocab=Dyck().vocab(), max_seq_len=length, bos=0, pad=True
    )


def assert_same(a, b):
    for name in ("num_layers", "width", "num_heads", "key_size", "mlp_hidden_size", "max_seq_len", "result"):
        assert getattr(a, name) == getattr(b, name)
    assert a.mlp_exactness == b.mlp_exactness
    assert repr((a.directions, a.variables, a.bos, a.pad)) == repr((b.directions, b.variables, b.bos, b.pad))
    assert repr(dict(a.vocab)) == repr(dict(b.vocab))
    assert a.weights.keys() == b.weights.keys()
    for key, coo in a.weights.items():
        for x, y in zip(coo, b.weights[key], strict=True):
            np.testing.assert_array_equal(x, y)
    assert a.pairs.keys() == b.pairs.keys()
    assert a.grids.keys() == b.grids.keys()
    for layer, pairs in a.pairs.items():
        np.testing.assert_array_equal(pairs, b.pairs[layer])
    for layer, grids in a.grids.items():
        for g, h in zip(grids, b.grids[layer], strict=True):
            for x, y in zip(g, h, strict=True):
                np.testing.assert_array_equal(x, y)


def test_round_trip(tmp_path):
    teacher = dyck()
    assert teacher.pairs
    assert teacher.grids
    save_teacher(teacher, tmp_path / "new" / "teacher.npz")
    assert_same(load_teacher(tmp_path / "new" / "teacher.npz"), teacher)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["teacher.npz"]


@pytest.mark.parametrize("name", ["make_nary_sequencemap_1", "sort_1"])
def test_round_trip_of_tuples_and_fractions(name, tmp_path):
    case = LIBRARY[name]
    teacher = compile_program(case["program"], vocab=case["vocab"], max_seq_len=case["max_seq_len"])
    save_teacher(teacher, tmp_path / "t.npz")
    assert_same(load_teacher(tmp_path / "t.npz"), teacher)


@pytest.mark.parametrize("damage", ["half", "flip", "empty", "text", "other"])
def test_damage_is_one_clear_line(damage, tmp_path):
    path = tmp_path / "teacher.npz"
    save_teacher(dyck(), path)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 255
    contents = {"half": data[: len(data) // 2], "flip": data, "empty": b"", "text": b"no teacher"}
    if damage == "other":
        np.savez(path, header=np.zeros(3))
    else:
        path.write_bytes(contents[damage])
    with pytest.raises(UserError, match=r"teacher.npz: damaged") as error:
        load_teacher(path)
    assert "\n" not in str(error.value)


def test_missing_file_and_unknown_format(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file"):
        load_teacher(tmp_path / "none.npz")
    save_teacher(dyck(), tmp_path / "old.npz")
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    with pytest.raises(UserError, match="format 1, this version reads 2"):
        load_teacher(tmp_path / "old.npz")


def test_values_of_other_types_are_refused(tmp_path):
    teacher = compile_program(lambda: rasp.Map(lambda t: frozenset([t]), rasp.tokens), vocab="ab", max_seq_len=3)
    with pytest.raises(UserError, match="type frozenset"):
        save_teacher(teacher, tmp_path / "t.npz")
    assert not list(tmp_path.iterdir())


def test_cache_hits_by_what_the_program_computes(tmp_path, monkeypatch):
    def kept(limit, **options):
        def program():
            return rasp.Map(lambda x: x > limit, lib.make_count(rasp.tokens, "a")).named("final_result")

        return cached_compile(program, **({"vocab": "ab", "max_seq_len": 5} | options), folder=tmp_path)

    first = kept(1)
    assert len(list(tmp_path.iterdir())) == 1
    kept(2)
    kept(1, mlp_exactness=100)
    kept(1, max_seq_len=6)
    kept(1, vocab="abc")
    kept(1, pad="nothing")
    assert len(list(tmp_path.iterdir())) == 6

    def never(*args, **kwargs):
        raise AssertionError("compiled although cached")

    monkeypatch.setattr(store, "compile_program", never)
    assert_same(kept(1), first)
    kept(2.5)  # another text of the same function of whole numbers


def test_a_damaged_cache_file_is_compiled_again_with_a_warning(tmp_path):
    first = cached_compile(lib.make_hist, vocab="ab", max_seq_len=4, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    with pytest.warns(UserWarning, match="damaged.*compiling again"):
        again = cached_compile(lib.make_hist, vocab="ab", max_seq_len=4, folder=tmp_path)
    assert_same(again, first)
    assert_same(load_teacher(file), first)


def test_a_cache_that_cannot_be_written_only_warns(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written.*not kept"):
        teacher = cached_compile(lib.make_hist, vocab="ab", max_seq_len=4, folder=tmp_path / "file")
    assert teacher.width


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACR_JAX_CACHE", str(tmp_path))
    cached_compile(lib.make_hist, vocab="ab", max_seq_len=4)
    assert len(list((tmp_path / "teacher").glob("*.npz"))) == 1


def test_values_of_mixed_types_are_kept(tmp_path):
    first = cached_compile(circle, vocab="abc", max_seq_len=3, folder=tmp_path)
    assert_same(cached_compile(circle, vocab="abc", max_seq_len=3, folder=tmp_path), first)
