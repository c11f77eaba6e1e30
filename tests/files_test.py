"""Files that are replaced in one step: what was there stays until the new one is whole."""

import threading

import numpy as np
import pytest

from tracr_jax.errors import UserError
from tracr_jax.files import read_json, replacing, write_json


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "new" / "a.bin"
    with replacing(path) as f:
        f.write(b"one")
        assert not path.exists()
    with replacing(path) as f:
        f.write(b"two")
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_what_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def broken():
        with replacing(path) as f:
            f.write(b"half")
            raise error

    with pytest.raises(error):
        broken()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(.+\); what was there before is intact") as e:
        write_json(tmp_path / "file" / "a.json", 1)
    assert "\n" not in str(e.value)
    # A full disk, as seen from the block.
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match="No space left"), replacing(path):
        raise OSError(28, "No space left on device")
    assert not path.exists()


def test_json_refuses_what_json_does_not_have(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1.5})
    with pytest.raises(UserError, match=r"a\.json: not written, a number is not finite"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json") == {"x": 1.5}


def test_threads_that_write_the_same_file_leave_one_of_theirs_whole(tmp_path):
    path = tmp_path / "a.npy"
    both = threading.Barrier(2)

    def write(value):
        with replacing(path) as f:
            both.wait()
            np.save(f, np.full(10_000, value))

    threads = [threading.Thread(target=write, args=(v,)) for v in (1, 2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(np.load(path).tolist())) == 1
    assert list(tmp_path.iterdir()) == [path]
