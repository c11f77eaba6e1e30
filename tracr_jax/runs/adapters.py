"""The files of an adapter in a run folder or an export: which variables stand where, and what reads them.

    adapter.safetensors  in an export: the affine map, weight [D, d] and bias [D], that reads all variables
    reserved.npz         with a reserved adapter: which variables have which directions, see `Reserved`
    codes.safetensors    in an export with a reserved adapter: its directions and centroids, see `Codes`

A run folder has the trained arrays in its checkpoints.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tracr_jax.errors import UserError
from tracr_jax.files import reading, replacing
from tracr_jax.lm.tensors import open_safetensors, write_safetensors
from tracr_jax.teacher.model import Teacher
from tracr_jax.train.reserved import Group, Reserved
from tracr_jax.types import Adapter, Codes


def write_adapter(folder: Path, adapter: Adapter, codes: Codes | None) -> None:
    """Write a trained adapter's arrays, in float32."""
    write_safetensors(folder / "adapter.safetensors", _as_numpy(adapter._asdict()))
    if codes is not None:
        write_safetensors(folder / "codes.safetensors", _as_numpy(_named(codes)))


def read_adapter(
    folder: Path, *, directions: int, width: int, reserved: Reserved | None = None
) -> Adapter | Codes:
    """Read `write_adapter`'s files: the codes where the adapter is a reserved one, else the affine map.

    Args:
      folder: of an export.
      directions: D, of the program.
      width: d, of the model.
      reserved: of the program.

    Raises:
      UserError: a file is missing or damaged, or belongs to another program or model.
    """
    affine = {"weight": (directions, width), "bias": (directions,)}
    read = read_arrays(folder, "adapter", affine)
    if reserved is None:
        return Adapter(**read)
    like = jax.eval_shape(reserved.init, np.zeros((width, reserved.total)))
    own = read_arrays(folder, "codes", {name: x.shape for name, x in _named(like).items()})
    centroids = tuple(own[f"centroids.{i}"] for i in range(len(like.centroids)))
    return Codes(own["basis"], centroids, own["sharpness"])


def _named(codes: Codes) -> dict[str, jax.Array]:
    centroids = {f"centroids.{i}": c for i, c in enumerate(codes.centroids)}
    return {"basis": codes.basis, **centroids, "sharpness": codes.sharpness}


def _as_numpy(tensors: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}


def read_arrays(folder: Path, name: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, jax.Array]:
    """Read the arrays of an export's NAME.safetensors.

    Raises:
      UserError: it is missing or damaged, or its arrays have other names or shapes.
    """
    tensors = open_safetensors(folder, name=name)
    if dict(tensors.shapes) != dict(shapes):
        raise UserError(
            f"{folder}: {name}.safetensors holds {dict(tensors.shapes)}, its program and its model need "
            f"{dict(shapes)}; they do not belong together: export the run again"
        )
    return {n: jnp.asarray(tensors.get(n)) for n in shapes}


def save_reserved(reserved: Reserved, path: Path) -> None:
    """Write `reserved.npz`, in one step."""
    arrays = {f"{kind}_{i}": x for kind in ("start", "usual") for i, x in enumerate(getattr(reserved, kind))}
    row, column = np.nonzero(reserved.select)
    with replacing(path) as file:
        np.savez_compressed(
            file,
            names=np.array(reserved.names),
            left_out=np.array(reserved.left_out).reshape(-1, 2),
            groups=np.array(reserved.groups),
            alive=reserved.alive,
            place=reserved.place,
            stands=reserved.stands,
            row=row,
            column=column,
            sigma=np.float64(reserved.sigma),
            **arrays,
        )


def load_reserved(path: Path, teacher: Teacher) -> Reserved:
    """Read `save_reserved`'s file.

    Raises:
      UserError: it is damaged, or belongs to another program.
    """
    with reading(path), np.load(path, allow_pickle=False) as file:
        groups = tuple(Group(*map(int, g)) for g in file["groups"])
        select = np.zeros((teacher.width, sum(g.n * g.m for g in groups)), np.float32)
        select[file["row"], file["column"]] = 1
        names = tuple(map(str, file["names"]))
        known = {v.name for v in teacher.variables}
        alive = file["alive"]
        if not known.issuperset(names) or alive.shape != (teacher.num_layers + 1, len(names)):
            raise UserError(f"{path}: does not belong to the program beside it; begin the run again")
        return Reserved(
            names=names,
            left_out=tuple((str(name), str(why)) for name, why in file["left_out"]),
            groups=groups,
            alive=alive,
            place=file["place"],
            select=select,
            stands=file["stands"] if "stands" in file else select.argmax(axis=0),  # earlier versions: the first
            start=tuple(file[f"start_{i}"] for i in range(len(groups))),
            usual=tuple(file[f"usual_{i}"] for i in range(len(groups))),
            sigma=float(file["sigma"]),
        )
