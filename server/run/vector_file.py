"""A vector on the disk, of which no more is in memory than is looked at.

A mapped file would be faster by a fifth, but counts as memory, and a read error would kill the process without a word.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np

from ...common.adapter.schema import Vector


class VectorFile:
    """Little-endian float32 in a file, read by slices."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)
        self.size = os.fstat(self._handle).st_size // 4

    def __getitem__(self, part: slice) -> Vector:
        """Some of the numbers.

        Raises:
            OSError: the file is shorter than it was.
        """
        start, stop, _ = part.indices(self.size)
        data = np.empty(max(0, stop - start), dtype="<f4")
        self.read_into(start, data)
        return data.astype(np.float32, copy=False)

    def read_into(self, start: int, out: Vector) -> None:
        """Fill `out`, little-endian float32, with the numbers from `start` on.

        Raises:
            OSError: the file is shorter than it was.
        """
        lost = out.nbytes - os.preadv(self._handle, [out.data], 4 * start)
        if lost:
            raise OSError(f"an update in the inbox has lost {lost} bytes")
