"""Memory that the loader and its workers share, so that decoded images need no pipe."""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SlotShape:
    """What lies in every slot.

    Attributes
    ----------
    shape : tuple of int
        Shape of one decoded image.
    dtype : str
        Its dtype, as ``numpy.dtype.str``.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def stride(self) -> int:
        """Bytes from one slot to the next, a multiple of 64."""
        size = int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize
        return max(64, -(-size // 64) * 64)


def create_shared_file() -> int | None:
    """Return the descriptor of a nameless file in memory for workers to inherit, or None on Windows.

    It has no name, so nothing is left behind however the process ends.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("kinfold-images")
    if os.name != "posix":
        return None
    descriptor, path = tempfile.mkstemp(prefix="kinfold-")
    os.unlink(path)
    return descriptor


class Slots:
    """A view of the shared file as a row of slots.

    Parameters
    ----------
    descriptor : int
        The shared file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def reserve(self, spec: SlotShape, count: int) -> None:
        """Make the file large enough for ``count`` slots; it never shrinks."""
        size = spec.stride * count
        if os.fstat(self._descriptor).st_size < size:
            os.ftruncate(self._descriptor, size)

    def __call__(self, spec: SlotShape, slot: int) -> np.ndarray[Any, Any]:
        """Return slot number ``slot`` as an array on the shared memory."""
        end = spec.stride * (slot + 1)
        if self._map is None or len(self._map) < end:
            self._map = mmap.mmap(self._descriptor, 0)  # views of the old map keep it alive
        return np.ndarray(spec.shape, spec.dtype, self._map, spec.stride * slot)
