"""Arrays of numbers in MATLAB's .mat files of versions 5 to 7.

scipy's reader crashes on one damaged file in a hundred, since it looks up the types that a file names unchecked; this
one makes nothing of a file but numbers. Source: MathWorks, MAT-file format.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADER_BYTES = 128
_HEADER_END = b"\x00\x01IM"  # version 5, whose format 6 and 7 kept, and little-endian
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_NUMERIC = range(6, 16)  # classes: what else there is are cells, structures, objects, text and sparse matrices
_COMPLEX = 0x800


def arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """The variables of a file that are dense arrays of real numbers, by name; of others nothing is read.

    Each has the type that it is stored in: MATLAB stores a double that is a small integer as one.
    Errors: ValueError for what is no such file, or is damaged.
    """
    if content[_HEADER_BYTES - len(_HEADER_END) : _HEADER_BYTES] != _HEADER_END:
        raise ValueError("no file of version 5 to 7, little-endian")
    found: dict[str, NDArray[Any]] = {}
    for kind, data in _elements(memoryview(content)[_HEADER_BYTES:]):
        if kind == _COMPRESSED:
            try:
                kind, data = next(_elements(memoryview(zlib.decompress(data))), (0, data))
            except zlib.error as error:
                raise ValueError(str(error)) from error
        if kind != _MATRIX:
            raise ValueError(f"a variable of type {kind}")
        found |= _variable(data)
    return found


def _variable(matrix: memoryview) -> dict[str, NDArray[Any]]:
    """A variable's numbers under its name; nothing where it has other content."""
    parts = list(_elements(matrix))
    flags = int.from_bytes(parts[0][1][:4], "little") if parts else 0
    if flags & 0xFF not in _NUMERIC or flags & _COMPLEX:
        return {}
    if len(parts) != 4 or parts[3][0] not in _STORED:
        raise ValueError("an array without numbers")
    (_, sides), (_, name), (kind, values) = parts[1:]
    shape = np.frombuffer(sides, "<i4").tolist()
    if min(shape, default=-1) < 0:
        raise ValueError(f"an array of shape {shape}")
    return {bytes(name).decode("ascii", "replace"): np.frombuffer(values, _STORED[kind]).reshape(shape, order="F")}


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Elements one after the other: type and content."""
    while len(data):
        kind, size, start = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little"), 8
        if kind >> 16:  # up to four bytes of content share the eight with a shorter tag
            kind, size, start = kind & 0xFFFF, kind >> 16, 4
        if start + size > (8 if start == 4 else len(data)):
            raise ValueError("it ends early")
        yield kind, data[start : start + size]
        end = start + size
        data = data[end if kind == _COMPRESSED else -(-end // 8) * 8 :]
