"""No room, no right to write, a second writer, numbers that are none: one clear line, and what was there stays."""

import contextlib
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.checkpoint_test import state
from tracr_jax import injection as run
from tracr_jax.config import RunConfig
from tracr_jax.config_file import RUN_FORMAT, to_dict
from tracr_jax.errors import TrainingDivergedError, UserError
from tracr_jax.files import new_folder, read_json, write_json
from tracr_jax.lock import NAME, only_writer
from tracr_jax.report.load import load_runs
from tracr_jax.runs.folder import check_folder
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.loop import fit
from tracr_jax.train.metrics import JsonLines, Several, read_lines
from tracr_jax.train.step import TrainParams, TrainState
from tracr_jax.types import Adapter

SIZE = 1 << 20  # bytes of the small disk


@pytest.fixture
def disk(tmp_path):
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = os.geteuid() == 0 and mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder)
    if not made:
        pytest.skip("a file system can only be mounted by root, where mounting is allowed")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def mount(*options):
    return subprocess.run(["mount", *options], capture_output=True).returncode == 0


def fill(disk, leave):
    """Take all room but `leave` bytes."""
    with open(disk / "filler", "wb", buffering=0) as f, contextlib.suppress(OSError):
        while True:
            f.write(bytes(4096))
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - leave)


def large(step):
    """A state of 200 kB that does not compress."""
    noise = np.random.default_rng(step).standard_normal((100, 500)).astype(np.float32)
    params = TrainParams({"w": jnp.asarray(noise)}, (Adapter(jnp.ones((4, 3)), jnp.zeros(4)),))
    return TrainState(jnp.int32(step), params, {"mean": jnp.zeros(3)})


@contextlib.contextmanager
def refused(message):
    with pytest.raises(UserError, match=message) as e:
        yield
    assert "\n" not in str(e.value)


def test_a_full_disk_leaves_the_files_that_were_there(disk):
    write_json(disk / "evaluation.json", {"x": 1})
    lines = JsonLines(disk / "metrics.jsonl")
    lines.write(0, {"loss": 1.0})
    lines.flush()
    fill(disk, 8192)
    with refused(r"evaluation\.json: cannot be written \(No space left.*\); what was there before is intact"):
        write_json(disk / "evaluation.json", {"x": list(range(9999))})
    with refused(r"cannot be written \(No space left"), new_folder(disk / "export") as folder:
        (folder / "model").write_bytes(bytes(99_999))
    with refused("cannot be written .No space left.* make room"), only_writer(disk):
        for step in range(1, 9999):
            lines.write(step, {"loss": 1.0})
            lines.flush()
    (disk / "filler").unlink()  # or closing the file would fail as well
    lines.close()
    assert read_json(disk / "evaluation.json") == {"x": 1}
    found = read_lines(disk / "metrics.jsonl")
    assert [line["step"] for line in found] == list(range(len(found)))
    assert len(found) > 1
    assert sorted(p.name for p in disk.iterdir()) == ["evaluation.json", "metrics.jsonl"]


# A call to orbax's closed event loop would be a warning here, and a traceback in the terminal.
def test_a_full_disk_leaves_the_checkpoint_before(disk, caplog):
    checkpoints = Checkpoints(disk / "checkpoints")
    checkpoints.save(large(1))
    checkpoints.wait()
    fill(disk, 60_000)
    with refused("a checkpoint cannot be written .No space left.* the one after 1 steps is intact: make room"):
        checkpoints.save(large(2))
        checkpoints.wait()
    assert [r.getMessage() for r in caplog.records if r.exc_info] == []  # one line, and no traceback beside it
    (disk / "filler").unlink()
    with contextlib.suppress(UserError):
        checkpoints.close()
    checkpoints = Checkpoints(disk / "checkpoints")
    assert checkpoints.latest() == 1
    np.testing.assert_array_equal(checkpoints.restore(large(0)).params.lm["w"], large(1).params.lm["w"])
    checkpoints.save(large(2))
    checkpoints.close()
    assert sorted(p.name for p in (disk / "checkpoints").iterdir()) == ["1", "2"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_built(disk, resume, monkeypatch):
    monkeypatch.setattr(run, "build", lambda *_, **__: pytest.fail("built"))
    (disk / "file").write_text("mine")
    (disk / "run").mkdir()
    write_json(disk / "run" / "config.json", to_dict(RunConfig()) | {"format": RUN_FORMAT})
    with refused(r"file is a file; name a folder"):
        run.inject("dyck", folder=disk / "file", resume=resume, progress=False)
    assert mount("-o", "remount,ro", disk)
    for folder in [disk / "run"] if resume else [disk / "new", disk / "deep" / "er"]:
        with refused(rf"{folder.name}: cannot be written \(Read-only file system\); choose another --folder$"):
            run.inject("dyck", config=RunConfig(), folder=folder, resume=resume, progress=False)


def test_a_read_only_folder_is_read_and_not_written(disk):
    folder = disk / "run"
    write_json(folder / "config.json", {"task": "dyck"})
    write_json(folder / "evaluation.json", {"sets": {}})
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(state(1))
    checkpoints.close()
    assert mount("-o", "remount,ro", disk)
    with refused("run: cannot be written .Read-only file system"), only_writer(folder):
        raise AssertionError("entered")
    with refused("new: cannot be written .Read-only file system"), only_writer(disk / "new"):
        raise AssertionError("entered")
    with refused(r"evaluation\.json: cannot be written .Read-only"):
        write_json(folder / "evaluation.json", {})
    with refused("Read-only file system"), only_writer(folder):
        JsonLines(folder / "metrics.jsonl")
    with refused("checkpoints"):
        writer = Checkpoints(folder / "checkpoints")
        writer.save(state(2))
        writer.close()
    (found,) = load_runs([folder])
    assert found.evaluation == {"sets": {}}
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    assert int(checkpoints.restore(state(0)).step) == 1
    checkpoints.close()


HOLD = """
import sys, time
from tracr_jax.lock import only_writer
with only_writer(sys.argv[1]):
    print(1, flush=True)
    time.sleep(99)
"""


def test_a_second_writer_is_refused_and_a_killed_one_lets_go(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    first = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE)
    assert first.stdout
    assert first.stdout.readline() == b"1\n"
    # The folder is asked for before a part of the run is used.
    monkeypatch.setattr(run, "build", lambda *_, **__: SimpleNamespace(program=SimpleNamespace(task=None)))
    monkeypatch.setattr(run, "untouched", lambda *_, **__: None)
    try:
        with refused(rf"run: process {first.pid} is writing this run; wait for it, or choose another --folder"):
            run.inject("dyck", config=RunConfig(), folder=folder, progress=False)
        assert [p.name for p in folder.iterdir()] == [NAME]
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
        first.stdout.close()
    assert (folder / NAME).exists()
    check_folder(folder, RunConfig(), resume=False)  # what is left of it does not make it a run
    with only_writer(folder), refused(f"process {os.getpid()} is writing"), only_writer(folder):
        raise AssertionError("entered")
    assert list(folder.iterdir()) == []


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    """The loss of a step is finite, and its update is not: the next loss would be the first to show it."""

    def step(state, frozen, batch):
        w = state.params.lm["w"] + jnp.where(state.step == 3, jnp.inf, 1.0)
        params = state.params._replace(lm={"w": w})
        return state._replace(step=state.step + 1, params=params), {"loss": jnp.float32(1)}

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    where = r"step 3: parameters not finite; stopped, the checkpoint after 2 steps is kept in .*/checkpoints; try"
    with pytest.raises(TrainingDivergedError, match=where):
        fit(jax.jit(step), state(0), None, lambda _: None, steps=8, writer=Several(()), checkpoints=checkpoints,  # pyright: ignore
            checkpoint_every=2, progress=False)  # fmt: skip
    checkpoints.close()
    kept = Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert kept.latest() == 2
    assert np.isfinite(kept.restore(state(0)).params.lm["w"]).all()
    kept.close()
