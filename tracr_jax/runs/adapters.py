"""The files of an adapter in a run folder or an export: which variables stand where, and what reads them."""

from pathlib import Path

import numpy as np

from tracr_jax.errors import UserError
from tracr_jax.files import reading, replacing
from tracr_jax.teacher.model import Teacher
from tracr_jax.train.reserved import Group, Reserved


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
            start=tuple(file[f"start_{i}"] for i in range(len(groups))),
            usual=tuple(file[f"usual_{i}"] for i in range(len(groups))),
            sigma=float(file["sigma"]),
        )
