"""Starts what fault_kill_test.py kills: imports once, then forks a child for each order on standard input.

An order is a line of JSON: what to do, and the moment of death: in PHASE, at its CALL-th beginning, DELAY seconds
later. The answer is the child's exit status, -9 where it was killed.
"""

import dataclasses
import hashlib
import json
import os
import signal
import sys
import threading
import time
import traceback

import jax
import numpy as np

import tracr_jax.export
from tests.helpers.export_parts import EVALUATION
from tests.helpers.small_runs import SMALL
from tracr_jax import injection as run
from tracr_jax.runs import program_files, training
from tracr_jax.runs.model import open
from tracr_jax.teacher import store
from tracr_jax.train.checkpoint import Checkpoints

jax.config.update("jax_compilation_cache_dir", os.environ["TRACR_JAX_TEST_XLA"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def digest(trained, **_):
    """In place of the evaluation: what was trained, to the bit."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path((trained.params, trained.adapter)):
        found.update(str(path).encode() + np.asarray(leaf).tobytes())
    return {"sets": {}, "sha256": found.hexdigest()}


def die_in(phase, *, call, delay):
    """Wrap the beginning of a phase so that the process is killed some time after its call-th beginning."""
    begun = 0

    def armed(function):
        def wrapped(*args, **kwargs):
            nonlocal begun
            begun += 1
            if begun == call:
                threading.Thread(target=lambda: (time.sleep(delay), os.kill(os.getpid(), signal.SIGKILL))).start()
            return function(*args, **kwargs)

        return wrapped

    if phase == "step":
        whole = training.fit
        training.fit = lambda step, *args, **kwargs: whole(armed(step), *args, **kwargs)
    elif phase == "checkpoint":
        Checkpoints.save = armed(Checkpoints.save)
    elif phase == "teacher":
        program_files.save_teacher = store.save_teacher = armed(store.save_teacher)
    elif phase == "export":
        tracr_jax.export.export_run = armed(tracr_jax.export.export_run)


def obey(order):
    if order.get("phase"):
        die_in(order["phase"], call=order["call"], delay=order["delay"])
    os.environ["TRACR_JAX_CACHE"] = order["cache"]
    if order["do"] == "export":
        tracr_jax.export.export_run(open(order["folder"]), order["out"], evaluation=EVALUATION)
        return
    run.evaluate_programs, run.score_once = (
        digest,
        lambda *_, **__: None,
    )  # what is trained is asked, not how well
    config = dataclasses.replace(SMALL, steps=24, data=dataclasses.replace(SMALL.data, text=order["text"]))
    folder = order["folder"]
    run.inject(order["task"], lm=order["lm"], config=config, folder=folder, resume=order["resume"], progress=False)


if __name__ == "__main__":
    assert not jax._src.xla_bridge._backends, "a backend that exists does not survive a fork"
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                obey(json.loads(line))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
