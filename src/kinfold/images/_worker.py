"""What a worker process does: read, decode, transform, again and again; it never imports torch by itself."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image

from kinfold.images import _wire
from kinfold.images._decode import decode_image
from kinfold.images._reasons import SkipReason, UnusableImage
from kinfold.images._slots import Slots, SlotShape
from kinfold.images._source import Locator, Reader

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
    first = _wire.receive(inward)
    if first is None:
        return
    try:
        niceness, descriptor, packed = _wire.unpack(first)
        recipe: Recipe = _wire.unpack(packed)
    except Exception as error:
        _wire.send(outward, _wire.pack(_describe(error)))
        return
    _lower_priority(niceness)
    _use_one_thread()
    _wire.send(outward, _wire.pack(None))
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(inward, tasks), daemon=True).start()
    slots = Slots(descriptor) if descriptor is not None else None
    try:
        while True:
            task = tasks.get()
            outcomes = [_finish(item, task.spec, recipe, slots) for item in task.items]
            _wire.send(outward, _wire.pack(outcomes))
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
    while (data := _wire.receive(inward)) is not None:
        tasks.put(_wire.unpack(data))
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
