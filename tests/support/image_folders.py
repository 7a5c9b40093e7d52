"""Folders of small drawn images whose kinds are folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

KINDS = ("blue", "green", "red")


def write_images(folder: Path, n: int = 45, seed: int = 0) -> list[str]:
    """Write small PNG files of three kinds, told apart by colour; the keys come back in natural order."""
    rng = np.random.default_rng(seed)
    keys = []
    for number in range(n):
        kind = number % len(KINDS)
        pixels = rng.integers(0, 60, (12, 12, 3))
        pixels[..., 2 - kind] += 150
        path = folder / KINDS[kind] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        keys.append(f"{KINDS[kind]}/{number}.png")
    return sorted(keys, key=lambda key: (key.split("/")[0], int(key.split("/")[1][:-4])))
