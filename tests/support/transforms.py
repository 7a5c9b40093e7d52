"""Transforms that worker processes can import, well-behaved and not."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


def shrink(image: Image.Image) -> np.ndarray:
    """Return 16 × 12 pixels, uint8."""
    return np.asarray(image.resize((16, 12)))


def standardize(image: Image.Image) -> np.ndarray:
    """Return 3 × 12 × 16 floats, not contiguous before the loader makes them so."""
    return (shrink(image).transpose(2, 0, 1) / np.float32(255)).astype(np.float32)


def is_red(image: Image.Image) -> bool:
    """Tell whether the image is the marked one."""
    return image.getpixel((0, 0)) == (255, 0, 0)


def die_on_red(image: Image.Image) -> np.ndarray:
    """End the process without a word, as a crashing decoder would."""
    if is_red(image):
        os.kill(os.getpid(), signal.SIGKILL)
    return shrink(image)


def always_die(image: Image.Image) -> np.ndarray:
    """End the process on every image."""
    os.kill(os.getpid(), signal.SIGKILL)
    return shrink(image)


def hang_on_red(image: Image.Image) -> np.ndarray:
    """Never come back from the marked image."""
    while is_red(image):
        time.sleep(1)
    return shrink(image)


def fail_on_red(image: Image.Image) -> np.ndarray:
    """Raise on the marked image."""
    if is_red(image):
        raise ZeroDivisionError("the image is red")
    return shrink(image)


def run_out_of_memory_on_red(image: Image.Image) -> np.ndarray:
    """Raise MemoryError on the marked image."""
    if is_red(image):
        raise MemoryError
    return shrink(image)


def keep_shape(image: Image.Image) -> np.ndarray:
    """Return images as large as they are."""
    return np.asarray(image)


def list_loaded(image: Image.Image) -> np.ndarray:
    """Return whether torch, transformers, pyarrow are loaded in this process."""
    return np.array([name in sys.modules for name in ("torch", "transformers", "pyarrow")])


@dataclass(frozen=True)
class ThenListLoaded:
    """Do as another transform, then return what is loaded in this process."""

    transform: Callable[[Image.Image], np.ndarray]

    def __call__(self, image: Image.Image) -> np.ndarray:
        self.transform(image)
        return list_loaded(image)


def tell_process(image: Image.Image) -> np.ndarray:
    """Return this process's id and niceness."""
    return np.array([os.getpid(), os.nice(0)])


@dataclass(frozen=True)
class DieOnce:
    """End the process at the first image of all, then behave."""

    mark: Path

    def __call__(self, image: Image.Image) -> np.ndarray:
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return shrink(image)
        os.kill(os.getpid(), signal.SIGKILL)
        return shrink(image)
