"""The files of one program, in a run folder as in an export.

    program.json                             what the adapter's rows mean, and how text becomes the program's input
    teacher.npz                              the compiled program
    tokenizer.json  tokenizer_config.json    the tokenizer, without the merges that the task refuses
    reserved.npz                             with a reserved adapter: each variable's directions
    task/                                    in a run folder: the task's own file, and what it imports beside it

JSON keeps True, 1, 1.0 and "1" apart, and a list stands for a tuple (RASP's values are hashable, so none is a
list): what is read back is what the compiler wrote.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from tracr_jax import __version__
from tracr_jax.config import LayerMap, RunConfig
from tracr_jax.config_file import from_dict, to_dict
from tracr_jax.data.bridge import Bridge
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.names import RANDOM
from tracr_jax.runs.adapters import load_reserved, save_reserved
from tracr_jax.runs.program import Program, make_program
from tracr_jax.tasks.base import Item
from tracr_jax.tasks.kept import FOLDER, keep_files
from tracr_jax.teacher import Variable, load_teacher, save_teacher

FILE, TEACHER, RESERVED = "program.json", "teacher.npz", "reserved.npz"
FORMAT = 2  # raise when the meaning of the files changes


def describe_program(program: Program, *, width: int, shareable: bool = True) -> dict[str, Any]:
    """The content of program.json.

    "variables": name, kind, "directions" (rows of the adapter), "values" beside them ([] for a numerical
    variable), "writer_layer" (the first hidden state that holds it), "layers" (those at which the adapter reads
    it: none of a variable without reserved directions). "layers" of the program is L; layer l is read from hidden
    state "states"[l]. "bridge": the form of a prompt with its answer, and which tokens of the language model the
    program knows; every other token is "fill" to it. "run": the configuration.

    Args:
      program: what is described.
      width: of the language model.
      shareable: cut the local paths of the configuration to their last part.

    Raises:
      UserError: a value of the program cannot be written as JSON.
    """
    teacher, losses, bridge = program.teacher, program.config.losses, program.bridge
    value_of = {i: v for v, i in teacher.vocab.items()}
    return {
        "format": FORMAT,
        "tracr_jax": __version__,
        "task": program.name,
        "result": program.result,
        "layers": teacher.num_layers,
        "states": list(program.states),
        "directions": teacher.width,
        "width": width,
        "aligned": program.aligned,
        "hook_block": losses.hook_block(program.top) if losses.hook else None,
        "variables": [
            {
                "name": v.name,
                "kind": v.kind,
                "directions": list(v.indices),
                "values": [_plain(x) for x in v.values],
                "writer_layer": v.writer_layer,
                "layers": program.layers_of(v),
                "alike": program.alike_by_key(v.name),
            }
            for v in teacher.variables
        ],
        "bridge": {
            "separator": bridge.separator,
            "examples": [
                {"prompt": i.prompt, "answer": i.label, "text": i.prompt + bridge.separator + i.label}
                for i in program.examples
            ],
            "position": "token s of a text is the program's position s + 1; position 0 is bos",
            "bos": _plain(teacher.bos),
            "fill": _plain(value_of[bridge.fill]),
            "marker": _plain(value_of.get(bridge.marker)),
            "tokens": [
                {"id": i, "text": bridge.tokenizer.token_text(i), "value": _plain(value_of[int(bridge.lookup[i])])}
                for i in bridge.mapped.tolist()
            ],
            "max_seq_len": teacher.max_seq_len,
            "longest_item": program.length,
        },
        "run": _shareable(program.config) if shareable else to_dict(program.config),
    }


def save_program(folder: Path, program: Program, *, width: int, shareable: bool = False) -> None:
    """Write a program's files, each in one step, program.json last; the adapter is where its weights are."""
    save_teacher(program.teacher, folder / TEACHER)
    if program.reserved is not None:
        save_reserved(program.reserved, folder / RESERVED)
    program.tokenizer.save(folder)
    if not shareable:
        keep_files(program.config.task, folder, kept=program.kept)
    write_json(folder / FILE, describe_program(program, width=width, shareable=shareable))


def load_program(folder: str | Path) -> Program:
    """Read a program's files, see `save_program`; it has no adapter yet.

    Raises:
      UserError: a file is missing or damaged, or the files do not belong together.
    """
    content, variables = read_program(folder)
    path = Path(folder) / FILE
    teacher, tokenizer = load_teacher(Path(folder) / TEACHER), Tokenizer.load(folder)
    if variables != teacher.variables:
        raise UserError(
            f"{path} and {TEACHER} do not belong together: their variables differ; export the run again"
        )
    try:
        form = content["bridge"]
        fill = teacher.vocab[_hashable(form["fill"])]
        lookup = np.full(tokenizer.vocab_size, fill, np.int32)
        mapped = [int(t["id"]) for t in form["tokens"]]
        lookup[mapped] = [teacher.vocab[_hashable(t["value"])] for t in form["tokens"]]
        separator, length = str(form["separator"]), int(form["longest_item"])
        examples = tuple(Item(str(e["prompt"]), str(e["answer"])) for e in form["examples"])
        if not 0 < length <= teacher.max_seq_len or not examples or min(mapped, default=0) < 0:
            raise ValueError(f"longest_item {length}, {len(examples)} examples, a token {min(mapped, default=0)}")
        config = from_dict(content["run"])
        states, said = config.layers.states(teacher.num_layers), content.get("states")
        if said is None:  # the previous version said offset and stride
            said = LayerMap(*content["layer_map"]).states(teacher.num_layers)
        if tuple(said) != states:
            raise ValueError(f"states {list(said)}, of its run {list(states)}")
        coded = config.losses.alignment == "exchange"
        reserved = load_reserved(Path(folder) / RESERVED, teacher) if coded else None
        marker = teacher.vocab.get(_hashable(form.get("marker")), -1)
        bridge = Bridge(tokenizer, teacher, lookup, separator, np.array(sorted(mapped), np.int64), fill, marker)
        program = make_program(
            bridge,
            config,
            name=str(content["task"]),
            result=str(content["result"]),
            length=length,
            examples=examples,
            reserved=reserved,
        )
        return dataclasses.replace(program, kept=Path(folder) if (Path(folder) / FOLDER).is_dir() else None)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, UserError) as e:
        raise UserError(f"{path}: damaged ({type(e).__name__}: {e}); export the run again") from e


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
    drawn, name = RANDOM * config.lm.startswith(RANDOM), config.lm.removeprefix(RANDOM)
    out["lm"] = drawn + (name if is_hub_id(name) else Path(name).name)
    out["onto"] = Path(config.onto).name
    out["task"] = config.task.replace("\\", "/").rstrip("/").rpartition("/")[2]
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
    raise UserError(f"{FILE}: a value of type {type(value).__name__} ({value!r}) cannot be written as JSON")


def _hashable(value: Any) -> Any:
    return tuple(_hashable(v) for v in value) if isinstance(value, list) else value
