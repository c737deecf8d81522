"""A vector on the disk, of which no more is in memory than is looked at. (A mapped file would count as memory.)"""

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
        data = os.pread(self._handle, 4 * (stop - start), 4 * start)
        if len(data) != 4 * (stop - start):
            raise OSError(f"an update in the inbox has lost {4 * (stop - start) - len(data)} bytes")
        return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)
