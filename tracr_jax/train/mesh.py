"""Where a run's arrays lie, on one device, several, or several hosts: the mesh, and starting JAX's processes.

A run on one device is a mesh of one. Batch rows lie over both axes of the mesh, "data" and "fsdp"; the model, the
adapter and the optimiser's state are cut over "fsdp", so that a device holds about 1/fsdp of them; everything else
is whole on every device. The step is that of `tracr_jax.train.step`, written on whole arrays: `jax.jit` adds the
messages, also for the roll over the batch.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tracr_jax.config import DataConfig
from tracr_jax.data.batches import Batches
from tracr_jax.errors import UserError
from tracr_jax.train.step import RowsFn, TrainParams, TrainState, init_state
from tracr_jax.types import Batch

AXES = ("data", "fsdp")
_STACKED = "blocks"  # parameters below a key that begins so have the scan's axis in front

Tree = TypeVar("Tree")


def make_mesh(text: str = "") -> Mesh:
    """The mesh of "data=4,fsdp=2" over all devices of all processes; an axis that is left out is 1.

    Args:
      text: the mesh; "" is JAX's default device alone, of however many.

    Raises:
      UserError: not of that form, or not as many devices as there are; or "" of several processes.
    """
    sizes: dict[str, int] = dict.fromkeys(AXES, 1)
    if not text:
        if jax.process_count() > 1:
            raise UserError(
                f"{jax.process_count()} processes with {jax.device_count()} devices, but no mesh: add e.g. "
                f"--mesh data={jax.device_count()}"
            )
        return _mesh(sizes, [own_device()])
    parts = text.split(",")
    for part in parts:
        found = re.fullmatch(r"\s*(\w+)\s*=\s*([1-9]\d*)\s*", part)
        if not found or found[1] not in AXES:
            raise UserError(f"mesh {text!r}: {part!r} is not one of data=NUMBER, fsdp=NUMBER")
        sizes[found[1]] = int(found[2])
    if len({p.split("=")[0].strip() for p in parts}) < len(parts):
        raise UserError(f"mesh {text!r}: an axis appears twice")
    needed, there = math.prod(sizes.values()), jax.device_count()
    if needed != there:
        factors, kind = " x ".join(str(sizes[a]) for a in AXES), jax.devices()[0].device_kind
        raise UserError(
            f"mesh {text!r} needs {factors} = {needed} devices, there are {there} ({kind}); "
            f"choose data and fsdp so that their product is {there}"
        )
    return _mesh(sizes)


def own_device() -> Any:
    """JAX's default device of this process, which `jax.default_device` changes."""
    return jnp.zeros(()).device


def _mesh(sizes: dict[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    # Auto: the compiler spreads the work; our arrays' types say nothing of the mesh.
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def check_rows(mesh: Mesh, data: DataConfig, *, parts: int = 1) -> None:
    """Every device has as many rows of each kind in each part of the step, or a UserError says what to change."""
    count = mesh.size * (parts if mesh.size > 1 else 1)
    each = f"{mesh.size} devices" + (f" in {parts} parts of a step (--accumulate)" if count > mesh.size else "")
    for options, rows in data.rows.items():
        if rows % count:
            up = -(-rows // count) * count
            raise UserError(
                f"{options} is {rows}, which {each} cannot share evenly; make it {up}, or choose another --mesh"
            )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """Rows of a batch, on axis `axis`, over all devices."""
    return NamedSharding(mesh, P(*[None] * axis, AXES))


def keep_rows(mesh: Mesh) -> RowsFn:
    """For `make_train_step`: a function (x, axis=0) that keeps x's rows sharded over all devices, inside jit."""
    return lambda x, axis=0: jax.lax.with_sharding_constraint(x, batch_sharding(mesh, axis=axis))


def param_spec(shape: Sequence[int], *, stacked: bool, fsdp: int) -> P:
    """Where one tensor is cut over "fsdp": at its largest axis that divides, the last such if several.

    Vectors (norms, biases) stay whole: fetching them would cost a message each, and they are few bytes. The axis
    of the scan is cut only where no other divides: each step of the scan would fetch its block from one device.
    """
    inside = range(int(stacked), len(shape))
    if len(inside) < 2 or fsdp == 1:
        return P()
    fits = [a for a in inside if shape[a] % fsdp == 0]
    if not fits and stacked and shape[0] % fsdp == 0:
        fits = [0]
    if not fits:
        return P()
    cut = max(fits, key=lambda a: (shape[a], a))
    return P(*[None] * cut, "fsdp")


def param_shardings(mesh: Mesh, params: Any) -> Any:
    """A NamedSharding for every tensor of a tree of parameters (arrays, or their shapes)."""

    def one(path, x):
        stacked = any(str(getattr(k, "key", "")).startswith(_STACKED) for k in path)
        return NamedSharding(mesh, param_spec(x.shape, stacked=stacked, fsdp=mesh.shape["fsdp"]))

    return jax.tree_util.tree_map_with_path(one, params)


def state_shardings(mesh: Mesh, state: TrainState) -> TrainState:
    """Shardings of a state: the optimiser's moments lie as their parameters do, its counters are whole."""
    params = param_shardings(mesh, state.params)
    with_path = jax.tree_util.tree_leaves_with_path
    known = {
        path: (x.shape, sharding)
        for (path, x), (_, sharding) in zip(with_path(state.params), with_path(params), strict=True)
    }

    def moment(path, x):
        # An optimiser keeps copies of the parameters' tree: a moment's path ends with that of its parameter.
        for end in (path[i:] for i in range(len(path))):
            if end in known and known[end][0] == x.shape:
                return known[end][1]
        return replicated(mesh)

    opt_state = jax.tree_util.tree_map_with_path(moment, state.opt_state)
    return TrainState(replicated(mesh), params, opt_state)  # pyright: ignore[reportArgumentType]


def put(tree: Tree, shardings: Any) -> Tree:
    """Place what every process holds alike; each device receives its piece only. `shardings`: a tree, or one.

    What lies there already is not copied.
    """
    if isinstance(shardings, NamedSharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)

    def place(x, sharding):
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree, shardings)


def put_params(tree: Tree, mesh: Mesh) -> Tree:
    """Place parameters of a model or of adapters, cut over "fsdp"."""
    return put(tree, param_shardings(mesh, tree))


def init_sharded_state(
    mesh: Mesh, params: TrainParams, optimizer: optax.GradientTransformation
) -> tuple[TrainState, TrainState]:
    """(initial state, its shardings). Jitted, so that no device ever holds the whole of the optimiser's state."""
    start = functools.partial(init_state, optimizer=optimizer)
    places = state_shardings(mesh, jax.eval_shape(start, params))
    return jax.jit(start, out_shardings=places)(params), places


def gather(tree: Tree, mesh: Mesh) -> Tree:
    """The whole tree on this process's first device, tensor by tensor; every process must call it."""
    join = jax.jit(lambda x: x, out_shardings=replicated(mesh))

    def one(x):
        return (x if x.is_fully_replicated else join(x)).addressable_data(0)

    return jax.tree.map(one, tree)


def sharded_batches(batches: Batches, mesh: Mesh, data: DataConfig) -> Callable[[int], Batch]:
    """`Batches.batch_at` as arrays over the mesh; each process makes the rows of its own devices only."""
    where = batch_sharding(mesh)
    counts = (data.batch + data.domain_items, data.text_batch)
    own, own_text = (_own_rows(where, n) for n in counts)
    part = batches.part(own, own_text)

    def spread(x: np.ndarray, mine: list[int], count: int) -> jax.Array:
        def piece(index):
            start, stop, _ = index[0].indices(count)
            first = mine.index(start)
            return x[first : first + stop - start]

        return jax.make_array_from_callback((count, *x.shape[1:]), where, piece)

    def batch_at(step: int) -> Batch:
        batch = part.batch_at(step)
        text = spread(np.asarray(batch.text_ids), own_text, counts[1])
        rows = batch._replace(text_ids=None)
        rows = jax.tree.map(lambda x: spread(np.asarray(x), own, counts[0]), rows)
        return rows._replace(text_ids=text)

    return batch_at


def _own_rows(sharding: NamedSharding, count: int) -> list[int]:
    """The rows that lie on this process's devices, in order."""
    pieces = sharding.addressable_devices_indices_map((count,)).values()
    return sorted({r for (piece,) in pieces for r in range(*piece.indices(count))})  # pyright: ignore


def start_processes(cluster: str) -> None:
    """Join the processes of a run over several hosts; before anything else is asked of JAX.

    Args:
      cluster: "auto" where JAX finds the others by itself (TPU slices, Slurm, Open MPI), or
        "HOST:PORT,COUNT,INDEX": where process 0 listens, how many there are, which this one is.

    Raises:
      UserError: not of that form, or the others did not come.
    """
    given = {}
    if cluster != "auto":
        found = re.fullmatch(r"([^,]+:\d+),(\d+),(\d+)", cluster.replace(" ", ""))
        if not found or int(found[3]) >= int(found[2]):
            raise UserError(f"cluster {cluster!r}: give auto, or HOST:PORT,COUNT,INDEX with INDEX below COUNT")
        given = {
            "coordinator_address": found[1],
            "num_processes": int(found[2]),
            "process_id": int(found[3]),
        }
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as e:
        reason = str(e).strip().splitlines()[0]
        raise UserError(f"cluster {cluster!r}: the processes did not find each other ({reason})") from e
