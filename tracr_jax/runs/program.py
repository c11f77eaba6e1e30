"""program.json: what the directions of an exported adapter mean, and how text becomes the program's input.

JSON keeps True, 1, 1.0 and "1" apart, and a list stands for a tuple (RASP's values are hashable, so none is a
list): what is read back is what the compiler wrote.
"""

import re
from pathlib import Path
from typing import Any

from tracr_jax import __version__
from tracr_jax.config import RunConfig, to_dict
from tracr_jax.errors import UserError
from tracr_jax.files import read_json
from tracr_jax.runs.build import Setup
from tracr_jax.tasks.base import Item
from tracr_jax.teacher import Variable

FILE = "program.json"
FORMAT = 1  # raise when the meaning of the file changes
_EXAMPLES = 3


def describe_program(setup: Setup) -> dict[str, Any]:
    """The content of program.json.

    "variables": name, kind, "directions" (rows of the adapter), "values" beside them ([] for a numerical
    variable), "writer_layer" (the first hidden state that holds it). "layers" is L: the adapter was trained to
    read hidden states 0..L. "bridge": the form of a prompt with its answer, and which tokens of the language model
    the program knows; every other token is "fill" to it. "run": the run's configuration, local paths cut to their
    last part.

    Raises:
      UserError: a value of the program has no form in JSON.
    """
    teacher, losses, bridge = setup.teacher, setup.config.losses, setup.bridge
    value_of = {i: v for v, i in teacher.vocab.items()}
    return {
        "format": FORMAT,
        "tracr_jax": __version__,
        "task": setup.task.name,
        "result": teacher.variable(setup.task.result).name,
        "layers": teacher.num_layers,
        "directions": teacher.width,
        "width": setup.lm.model.width,
        "aligned": losses.alignment != "none",
        "hook_block": losses.hook_block(teacher.num_layers) if losses.hook else None,
        "variables": [
            {
                "name": v.name,
                "kind": v.kind,
                "directions": list(v.indices),
                "values": [_plain(x) for x in v.values],
                "writer_layer": v.writer_layer,
            }
            for v in teacher.variables
        ],
        "bridge": {
            "separator": bridge.separator,
            "examples": [
                {"prompt": i.prompt, "answer": i.label, "text": i.prompt + bridge.separator + i.label}
                for i in example_items(setup, _EXAMPLES)
            ],
            "position": "token s of a text is the program's position s + 1; position 0 is bos",
            "bos": _plain(teacher.bos),
            "fill": _plain(setup.task.token_map().fill),
            "tokens": [
                {
                    "id": i,
                    "text": setup.tokenizer.token_text(i),
                    "value": _plain(value_of[int(bridge.lookup[i])]),
                }
                for i in bridge.mapped.tolist()
            ],
            "max_seq_len": teacher.max_seq_len,
        },
        "run": _shareable(setup.config),
    }


def example_items(setup: Setup, count: int) -> list[Item]:
    """The first items of the test set."""
    test = setup.task.eval_sets()["test"]
    return [test.item(i) for i in range(min(count, test.size))]


def read_program(folder: str | Path) -> tuple[dict[str, Any], tuple[Variable, ...]]:
    """program.json and its variables, as the compiler made them.

    Raises:
      UserError: the file is missing, damaged or of another format.
    """
    path = Path(folder) / FILE
    content = read_json(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: format {found!r}, this version reads {FORMAT}; export the run again")
    try:
        variables = tuple(
            Variable(
                v["name"],
                v["kind"],
                tuple(map(int, v["directions"])),
                _hashable(v["values"]),
                int(v["writer_layer"]),
            )
            for v in content["variables"]
        )
        seen = sorted(i for v in variables for i in v.indices)
        if seen != list(range(content["directions"])):
            raise ValueError("its variables do not cover the directions, each once")
        for v in variables:
            if len(v.values) != (len(v.indices) if v.kind == "categorical" else 0):
                raise ValueError(f"{v.name} has {len(v.indices)} directions and {len(v.values)} values")
        [content[key] for key in ("task", "result", "layers", "width", "aligned", "bridge", "run")]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
        raise UserError(f"{path}: damaged ({type(e).__name__}: {e}); export the run again") from e
    return content, variables


def is_hub_id(name: str) -> bool:
    """Whether a model's name is owner/name and no local folder."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and name[0] not in ".~" and not Path(name).is_dir()


def _shareable(config: RunConfig) -> dict[str, Any]:
    """The configuration without the folders of the machine it ran on."""
    out = to_dict(config)
    out["lm"] = config.lm if is_hub_id(config.lm) else Path(config.lm).name
    out["onto"] = Path(config.onto).name
    out["task"] = config.task.replace("\\", "/").rpartition("/")[2]
    out["data"]["text"] = Path(config.data.text).name
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    for kind in (int, float, str):  # NumPy's numbers, and other subclasses
        if isinstance(value, kind):
            return kind(value)
    raise UserError(f"{FILE}: a value of type {type(value).__name__} ({value!r}) has no form in JSON")


def _hashable(value: Any) -> Any:
    return tuple(_hashable(v) for v in value) if isinstance(value, list) else value
