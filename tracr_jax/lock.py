"""One writer at a time: a run folder is held by the process that fills it; readers are never stopped."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tracr_jax.errors import UserError

NAME = ".lock"


@contextlib.contextmanager
def only_writer(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder, made where it is not there yet; the system lets go when the process ends, killed or not.

    What is left of a killed process is a lock file that nobody holds.

    Raises:
      UserError: another process holds the folder; or the folder cannot be written, at the start or in the block.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(folder)
        try:
            yield
        finally:
            # Before letting go: whoever comes next finds no file, or sees that his is not the one that is there.
            with contextlib.suppress(OSError):
                (folder / NAME).unlink()
            file.close()
    except OSError as e:
        room = "make room or " if e.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise UserError(
            f"{folder}: cannot be written ({e.strerror or e}); what was there before is intact: {room}choose "
            "another --folder; tracr-jax resume goes on with what is there"
        ) from e


def _locked(folder: Path) -> IO[bytes]:
    while True:
        file = open(folder / NAME, "a+b")  # noqa: SIM115 - held until the block ends
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            file.seek(0)
            owner = file.read(20).decode("ascii", "replace")
            file.close()
            raise UserError(
                f"{folder}: process {owner or '?'} is writing this run; wait for it, or choose another --folder"
            ) from e
        except OSError:
            return file  # a file system without locks: better unguarded than not at all
        if is_at(file, folder / NAME):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
            return file
        file.close()  # its last owner took it away between our opening and locking it


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one of this name: another process may have removed or replaced it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
