"""Whether a file gives the same task each time it is imported, which a run that is read back rests on."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from tracr_jax.errors import UserError
from tracr_jax.tasks.base import Task
from tracr_jax.tasks.kept import file_of

_ITEMS = 64
_CODE = (
    "import sys; from tracr_jax.tasks.again import told; from tracr_jax.tasks.registry import get_task; "
    "print(told(get_task(sys.argv[1], contract=False)))"
)


def told(task: Task) -> str:
    """The first training items of a task, in one line of JSON."""
    items = [task.train_item(i, seed=0) for i in range(_ITEMS)]
    return json.dumps([(i.prompt, i.label) for i in items])


def check_again(spec: str, task: Task) -> None:
    """Import a file's task once more, in a process that orders sets otherwise, and compare items.

    A table of random numbers, or of the order of a set of texts, is another in every process: the program that was
    trained would be in no file.

    Raises:
      UserError: the import fails there, or an item differs.
    """
    if file_of(spec) is None or not sys.executable:
        return
    env = os.environ | {
        "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1",
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        "JAX_PLATFORMS": "cpu",  # of which nothing is used, and an accelerator may be this process's alone
    }
    done = subprocess.run(
        [sys.executable, "-c", _CODE, spec], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(
            f"task {spec}: imported a second time, in a new process, it fails ({why}); a run is read back by such "
            "an import"
        )
    first, second = json.loads(told(task)), json.loads(done.stdout.splitlines()[-1])
    for one, other in zip(first, second, strict=True):
        if one != other:
            raise UserError(
                f"task {spec}: imported a second time it is another one ({_shown(one)}, then {_shown(other)}); "
                "let nothing in the file depend on random numbers without a seed, or on the order of a set"
            )


def _shown(item: Sequence[str]) -> str:
    prompt, label = item
    return f"of {prompt!r} the answer is {label!r}"
