"""The header of a GGUF file walked once, so that every count in it is known to fit into the file.

The `gguf` package believes the counts: an array said to have 2⁶⁰ members has it loop over nothing for ever.
"""

import struct
from pathlib import Path
from typing import BinaryIO

# Bytes of a value by its type (uint8, int8, uint16, …); strings and arrays say their own length.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_AXES = 8  # of a tensor: GGML has four


def check_header(path: Path) -> None:
    """Walk over all entries and tensor descriptions of a file.

    Raises:
      ValueError: a count, a length or a type does not fit.
      OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version, tensors, entries = _numbers(file, "<IQQ")
        if version not in (2, 3):
            raise ValueError(f"version {version}, known are 2 and 3, little-endian")
        # Each takes some bytes, so that a count that passes is one that can be walked.
        if tensors > size // 24 or entries > size // 13:
            raise ValueError(f"{entries} entries and {tensors} tensors cannot stand in {size} bytes")
        for _ in range(entries):
            _skip_string(file, size)
            _skip_value(file, _numbers(file, "<I")[0], size)
        for _ in range(tensors):
            _skip_string(file, size)
            (axes,) = _numbers(file, "<I")
            if axes > _AXES:
                raise ValueError(f"a tensor of {axes} axes")
            _skip(file, 8 * axes + 12, size)  # sizes of the axes, type, offset


def _numbers(file: BinaryIO, form: str) -> tuple[int, ...]:
    data = file.read(struct.calcsize(form))
    if len(data) < struct.calcsize(form):
        raise ValueError("it ends within the header")
    return struct.unpack(form, data)


def _skip(file: BinaryIO, count: int, size: int) -> None:
    if count > size - file.tell():
        raise ValueError(f"{count} bytes at {file.tell()} of {size}")
    file.seek(count, 1)


def _skip_string(file: BinaryIO, size: int) -> None:
    _skip(file, _numbers(file, "<Q")[0], size)


def _skip_value(file: BinaryIO, kind: int, size: int) -> None:
    if kind == _STRING:
        _skip_string(file, size)
    elif kind == _ARRAY:
        inner, count = _numbers(file, "<IQ")
        if inner == _STRING:
            if count > size // 8:
                raise ValueError(f"{count} strings at {file.tell()} of {size} bytes")
            for _ in range(count):
                _skip_string(file, size)
        elif inner in _SIZES:
            _skip(file, count * _SIZES[inner], size)
        else:
            raise ValueError(f"an array of values of type {inner}")
    elif kind in _SIZES:
        _skip(file, _SIZES[kind], size)
    else:
        raise ValueError(f"a value of type {kind}")
