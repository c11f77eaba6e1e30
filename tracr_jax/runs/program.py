"""One program in a model, and its files, in a run folder as in an export.

    program.json                             what the adapter's rows mean, and how text becomes the program's input
    teacher.npz                              the compiled program
    tokenizer.json  tokenizer_config.json    the tokenizer, without the merges that the task refuses
    reserved.npz                             with a reserved adapter: each variable's directions
    task/                                    in a run folder: the task's own file, and what it imports beside it

JSON keeps True, 1, 1.0 and "1" apart, and a list stands for a tuple (RASP's values are hashable, so none is a
list): what is read back is what the compiler wrote.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tracr_jax import __version__
from tracr_jax.config import LayerMap, RunConfig
from tracr_jax.config_file import from_dict, to_dict
from tracr_jax.data.bridge import Bridge
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.runs.adapters import load_reserved, save_reserved
from tracr_jax.tasks.base import Item, Task
from tracr_jax.tasks.kept import FOLDER, keep_files, own_spec
from tracr_jax.tasks.registry import get_task
from tracr_jax.teacher import Teacher, Variable, load_teacher, make_forward, save_teacher
from tracr_jax.teacher.forward import all_states
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.variables import VariableLayout, variable_layout
from tracr_jax.train.reserved import Reserved
from tracr_jax.train.step import ResidualsFn
from tracr_jax.types import Adapter, Codes

FILE, TEACHER, RESERVED = "program.json", "teacher.npz", "reserved.npz"
FORMAT = 2  # raise when the meaning of the files changes
EXAMPLES = 3  # of the test set, kept with the program


@dataclass(frozen=True, eq=False)
class Program:
    """One program in a model: everything that decoding or scoring it needs."""

    name: str
    """Name of its task."""
    config: RunConfig
    """Of the run that injected it."""
    teacher: Teacher
    bridge: Bridge
    layout: VariableLayout
    """The teacher directions of its variables."""
    result: str
    """Full name of the result variable."""
    length: int
    """S: tokens of the longest training item, answer included. Longer texts have no row in the teacher's table."""
    examples: tuple[Item, ...]
    """The first items of the test set."""
    forward: Callable[[], tuple[Any, ResidualsFn]]
    """Makes `phi` and `residuals`, once: not every reader needs them."""
    adapter: Adapter | None = None
    """None in the export of a run without alignment, in which it was not trained."""
    layers: LayerMap = field(default_factory=LayerMap)
    reserved: Reserved | None = None
    """Which variables have reserved directions; `codes` holds the trained codes. None for an affine adapter."""
    codes: Codes | None = None
    given: Task | None = None
    """The task object, if it was given; see `task`."""
    kept: Path | None = None
    """The folder with the run's copy of the task's files, see `tracr_jax.tasks.kept`."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, without the merges that this program's task refuses."""
        return self.bridge.tokenizer

    @property
    def phi(self) -> Any:
        """The teacher's weights."""
        return self.forward()[0]

    @property
    def residuals(self) -> ResidualsFn:
        """The function (φ, teacher ids [B, T]) -> r_0..r_L."""
        return self.forward()[1]

    @functools.cached_property
    def teacher_states(self) -> Callable[[Int[np.ndarray, "B T"]], Float[np.ndarray, "L1 B T D"]]:
        """The function teacher ids -> r_0..r_L in NumPy; for a few texts sooner than `residuals`."""
        return all_states(self.teacher)

    @property
    def depth(self) -> int:
        """L, the layers of the teacher."""
        return self.teacher.num_layers

    @property
    def states(self) -> tuple[int, ...]:
        """The hidden states of the model that are aligned with the teacher's layers 0..L."""
        return self.layers.states(self.depth)

    @property
    def top(self) -> int:
        """The last of `states`: the block that reads it is the first that may compute the answer."""
        return self.layers.top(self.depth)

    @property
    def trainable(self) -> Adapter | Codes | None:
        """The trained parameters of the adapter."""
        return self.adapter if self.codes is None else self.codes

    @property
    def result_rows(self) -> tuple[int, ...]:
        """Rows of the adapter that read the result."""
        return self.teacher.variable(self.result).indices

    @property
    def grafted(self) -> bool:
        """Whether it stands beside the model, see `tracr_jax.runs.graft`."""
        return self.config.part.kind == "graft"

    @property
    def aligned(self) -> bool:
        """Whether the run that injected it trained the adapter."""
        return self.config.losses.alignment != "none"

    def token_count(self, item: Item) -> int:
        """Tokens of an item with its answer."""
        return sum(map(len, self.bridge.split(item)))

    @functools.cached_property
    def task(self) -> Task:
        """The task object: the one given, a built-in task, or the run's copy of the one its configuration names.

        Raises:
          UserError: it is not at hand.
        """
        if self.given is not None:
            return self.given
        try:
            spec = own_spec(self.config.task, self.kept)
            task = get_task(spec, as_coded=self.config.fidelity.as_coded)
        except UserError as e:
            raise UserError(f"the task's own code is needed and not at hand ({e}); give it with task=") from e
        if task.name != self.name:
            raise UserError(f"{self.name}: {self.config.task} is now the task {task.name}; give task=")
        return task

    @functools.cached_property
    def oracle(self) -> Oracle:
        """The program's own evaluator, for texts of any length; needs `task`."""
        return Oracle(self.task.program(max_seq_len=self.teacher.max_seq_len))

    def trained(self, adapter: Adapter | Codes | None) -> "Program":
        """The same program with another adapter; given codes, the affine map is computed from them."""
        if not isinstance(adapter, Codes):
            return dataclasses.replace(self, adapter=adapter)
        assert self.reserved is not None
        return dataclasses.replace(self, adapter=self.reserved.adapter(adapter), codes=adapter)

    def why_unread(self, variable: Variable, layer: int) -> str:
        """Why the adapter reads nothing of a variable at a teacher layer; empty where it does."""
        if layer < variable.writer_layer and (self.reserved is None or variable.name in self.reserved.names):
            return f"the program writes it at layer {variable.writer_layer}"
        return "" if self.reserved is None else self.reserved.why_unread(variable.name, layer)

    def layers_of(self, variable: Variable) -> list[int]:
        """The teacher layers at which the adapter reads a variable."""
        return [layer for layer in range(self.depth + 1) if not self.why_unread(variable, layer)]

    def readable(self, truth: Int[np.ndarray, "L1 *B n"]) -> Int[np.ndarray, "L1 *B n"]:
        """The program's values (in layout order) as far as the adapter can represent them, see `Reserved`."""
        if self.reserved is None:
            return truth
        return self.reserved.readable(self.teacher, truth, names=self.layout.names)


def make_program(
    bridge: Bridge,
    config: RunConfig,
    *,
    name: str,
    result: str,
    length: int,
    examples: tuple[Item, ...],
    adapter: Adapter | None = None,
    reserved: Reserved | None = None,
    task: Task | None = None,
) -> Program:
    """A program from its parts, with everything derived from them.

    Raises:
      UserError: a weight of the variables names none, or there is no result.
    """
    teacher, losses = bridge.teacher, config.losses
    result = teacher.variable(result).name
    weights, times = dict(losses.variable_weights), {result: losses.result_weight}
    return Program(
        name=name,
        config=config,
        teacher=teacher,
        bridge=bridge,
        layout=variable_layout(teacher.variables, weights=weights, times=times),
        result=result,
        length=length,
        examples=examples,
        forward=functools.cache(functools.partial(make_forward, teacher)),
        adapter=adapter,
        layers=config.layers,
        reserved=reserved,
        given=task,
    )


def describe_program(program: Program, *, width: int, shareable: bool = True) -> dict[str, Any]:
    """The content of program.json.

    "variables": name, kind, "directions" (rows of the adapter), "values" beside them ([] for a numerical
    variable), "writer_layer" (the first hidden state that holds it), "layers" (those at which the adapter reads
    it: none of a variable without reserved directions). "layers" of the program is L; layer l is read from hidden
    state offset + stride * l of "layer_map". "bridge": the form of a prompt with its answer, and which
    tokens of the language model the program knows; every other token is "fill" to it. "run": the configuration.

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
        "layer_map": list(program.layers),
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
        if list(config.layers) != content["layer_map"]:
            raise ValueError(f"layer_map {content['layer_map']}, of its run {list(config.layers)}")
        at = Path(folder) / RESERVED
        reserved = load_reserved(at, teacher) if at.exists() else None
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
    raise UserError(f"{FILE}: a value of type {type(value).__name__} ({value!r}) cannot be written as JSON")


def _hashable(value: Any) -> Any:
    return tuple(_hashable(v) for v in value) if isinstance(value, list) else value
