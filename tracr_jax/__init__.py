"""tracr_jax: inject a known algorithm, written in RASP, into a pretrained language model.

The public names, loaded when first used (importing the package starts neither JAX nor a compiler):

    run = tracr_jax.inject("dyck", lm="smollm2-135m-instruct")
    run = tracr_jax.resume("runs/…")    # go on with a run that was stopped
    run = tracr_jax.open("runs/…")      # the same again, from a run folder or an export
    tracr_jax.decode(run, "a text")     # the program's variables at each of its tokens; a table in a notebook
    step = tracr_jax.make_train_step(model, residuals, optimizer, config=…, shape=…, layout=…)
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tracr_jax.config import DataConfig, LossConfig, OptimConfig, RunConfig
    from tracr_jax.errors import UserError
    from tracr_jax.export import export_run
    from tracr_jax.export.program import apply_program, remove_program
    from tracr_jax.injection import inject, resume
    from tracr_jax.interpret.decode import decode, hidden_states
    from tracr_jax.interpret.display import Decoded
    from tracr_jax.interpret.write import write
    from tracr_jax.intervene import LayerEdit, ResidualEdit
    from tracr_jax.lm.load import load_lm
    from tracr_jax.measure.compare import compare
    from tracr_jax.presets import preset
    from tracr_jax.runs.model import Injected, open
    from tracr_jax.runs.program import Program
    from tracr_jax.tasks.base import EvalSet, Item, Task, TokenMap
    from tracr_jax.tasks.sampled import SampledTask
    from tracr_jax.tasks.split import available_set, distinct_set, draw, split_of
    from tracr_jax.tasks.strings import StringTask
    from tracr_jax.teacher import compile_program, make_forward
    from tracr_jax.train.step import make_train_step

_HOME = {
    "DataConfig": "config",
    "LossConfig": "config",
    "OptimConfig": "config",
    "RunConfig": "config",
    "UserError": "errors",
    "export_run": "export",
    "apply_program": "export.program",
    "remove_program": "export.program",
    "Injected": "runs.model",
    "open": "runs.model",
    "Program": "runs.program",
    "Decoded": "interpret.display",
    "compare": "measure.compare",
    "decode": "interpret.decode",
    "hidden_states": "interpret.decode",
    "inject": "injection",
    "resume": "injection",
    "write": "interpret.write",
    "LayerEdit": "intervene",
    "ResidualEdit": "intervene",
    "load_lm": "lm.load",
    "preset": "presets",
    "EvalSet": "tasks.base",
    "Item": "tasks.base",
    "Task": "tasks.base",
    "TokenMap": "tasks.base",
    "SampledTask": "tasks.sampled",
    "available_set": "tasks.split",
    "distinct_set": "tasks.split",
    "draw": "tasks.split",
    "split_of": "tasks.split",
    "StringTask": "tasks.strings",
    "compile_program": "teacher",
    "make_forward": "teacher",
    "make_train_step": "train.step",
}

# Names of the previous version, each what it is called now.
_RENAMED = {
    "Exported": "Injected",
    "OpenedRun": "Injected",
    "Run": "Injected",
    "open_export": "open",
    "open_run": "open",
}

__all__ = [
    "DataConfig",
    "Decoded",
    "EvalSet",
    "Injected",
    "Item",
    "LayerEdit",
    "LossConfig",
    "OptimConfig",
    "Program",
    "ResidualEdit",
    "RunConfig",
    "SampledTask",
    "StringTask",
    "Task",
    "TokenMap",
    "UserError",
    "apply_program",
    "available_set",
    "compare",
    "compile_program",
    "decode",
    "distinct_set",
    "draw",
    "export_run",
    "hidden_states",
    "inject",
    "load_lm",
    "make_forward",
    "make_train_step",
    "open",
    "preset",
    "remove_program",
    "resume",
    "split_of",
    "write",
]


def __getattr__(name: str) -> Any:
    name = _RENAMED.get(name, name)
    if name not in _HOME:
        raise AttributeError(f"module 'tracr_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tracr_jax.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
