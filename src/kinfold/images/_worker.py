"""What runs in a worker process, and its messages and shared memory; it never imports torch by itself."""

from __future__ import annotations

import mmap
import os
import queue
import signal
import struct
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import IO, Any

import numpy as np
from PIL import Image

from kinfold.images._decode import decode_image
from kinfold.images._source import Locator, Reader, SkipReason, UnusableImage

_LENGTH = struct.Struct("<Q")


def pack_message(message: Any) -> bytes:
    """Serialise a message."""
    return bytes(ForkingPickler.dumps(message, protocol=5))


def unpack_message(data: bytes) -> Any:
    """Return the message that :func:`pack_message` was given."""
    return ForkingPickler.loads(data)


def send_message(stream: IO[bytes], packed: bytes) -> None:
    """Write one packed message."""
    stream.write(_LENGTH.pack(len(packed)))
    stream.write(packed)
    stream.flush()


def receive_message(stream: IO[bytes]) -> bytes | None:
    """Read one packed message, or None when the other side is gone."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    return data if len(data) == length else None


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


Outcome = Any
"""Of one image: an array, a reason (str), or None where the array lies in the item's slot."""


@dataclass(frozen=True)
class Recipe:
    """How bytes become arrays.

    Attributes
    ----------
    reader : Reader
        Reads the bytes.
    transform : callable
        From a PIL image to an array.
    min_side : int or None
        For JPEG draft scaling.
    pixel_limit : int
        Larger images aren't decoded.
    """

    reader: Reader
    transform: Callable[[Image.Image], np.ndarray[Any, Any]]
    min_side: int | None
    pixel_limit: int

    def prepare(self, locator: Locator) -> np.ndarray[Any, Any] | str:
        """Return one image as an array, or the reason why it can't be used; raises nothing."""
        try:
            data = self.reader.read(locator)
            image = decode_image(data, min_side=self.min_side, pixel_limit=self.pixel_limit)
        except UnusableImage as found:
            return str(found)
        except MemoryError:
            return str(UnusableImage(SkipReason.UNREADABLE, "there isn't enough memory to read it"))
        except Exception as error:
            return str(UnusableImage(SkipReason.UNREADABLE, _describe(error)))
        try:
            return np.ascontiguousarray(self.transform(image))
        except MemoryError:
            return str(UnusableImage(SkipReason.UNREADABLE, "there isn't enough memory to prepare it"))
        except Exception as error:
            return str(UnusableImage(SkipReason.CORRUPT, f"it can't be prepared: {_describe(error)}"))


@dataclass(frozen=True)
class Item:
    """One image to prepare; ``slot`` says where to put it, if there is room in shared memory."""

    number: int
    locator: Locator
    slot: int | None


@dataclass(frozen=True)
class Task:
    """A few images for one worker, and what the slots look like."""

    items: tuple[Item, ...]
    spec: SlotShape | None


def main() -> None:
    """Serve until the loader's end of the pipe closes, which it does however the loader ends."""
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    inward, outward = _take_pipes()
    first = receive_message(inward)
    if first is None:
        return
    try:
        niceness, descriptor, packed = unpack_message(first)
        recipe: Recipe = unpack_message(packed)
    except Exception as error:
        send_message(outward, pack_message(_describe(error)))
        return
    _lower_priority(niceness)
    _use_one_thread()
    send_message(outward, pack_message(None))
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(inward, tasks), daemon=True).start()
    slots = Slots(descriptor) if descriptor is not None else None
    try:
        while True:
            task = tasks.get()
            outcomes = [_finish(item, task.spec, recipe, slots) for item in task.items]
            send_message(outward, pack_message(outcomes))
    except BrokenPipeError:
        os._exit(0)


def _finish(item: Item, spec: SlotShape | None, recipe: Recipe, slots: Slots | None) -> Outcome:
    outcome = recipe.prepare(item.locator)
    if isinstance(outcome, str) or item.slot is None or spec is None or slots is None:
        return outcome
    if outcome.shape != spec.shape or outcome.dtype.str != spec.dtype:
        return outcome
    np.copyto(slots(spec, item.slot), outcome)
    return None


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Keep the pipes for messages; what Python prints goes to standard error, what decoders print nowhere."""
    inward, outward = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    sys.stdout = sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    return inward, outward


def _listen(inward: IO[bytes], tasks: queue.SimpleQueue[Task]) -> None:
    while (data := receive_message(inward)) is not None:
        tasks.put(unpack_message(data))
    os._exit(0)


def _lower_priority(niceness: int) -> None:
    if niceness and hasattr(os, "nice"):
        os.nice(niceness)


def _use_one_thread() -> None:
    """Decode AVIF on this core alone: the other cores have their own workers."""
    try:
        from PIL import AvifImagePlugin
    except ImportError:
        return
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
