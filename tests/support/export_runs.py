"""A run of images with names full of trouble, corrected by hand, and what an export of it must say."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import kinfold
from kinfold.corrections import Corrections, Mark, Merge, Move, Rename, corrected_table, names_of
from kinfold.run import Run

HOSTILE = (
    "<img src=x onerror=alert(1)>.png",
    "line\nbreak.png",
    "a%20b%2e%2e.png",
    "=cmd|' \u202ecalc'!A0.png",
    "Same.png",
    "same.png",
    "sub/Same.png",
    "sub/same.PNG",
    "CON.png",
    "nul",
    "dots...png",
    "trailing. ",
    '"quoted", and ; more.png',
    "back\\slash.png",
    "test/train/val.png",
    "ü" * 120 + ".png",
    "no ending",
    "-rf.png",
    "a..b/…x.png",
    "emoji 👩‍👩‍👧.png",
)
IN_ARCHIVES = (
    "../../up.png",
    "/absolute.png",
    "n" * 300 + ".png",
    "C:/windows.png",
    "both",
    "both/inside.png",
)


def draw(number: int, kind: str = "PNG") -> bytes:
    """Return an image whose pixels and size tell its number."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 60, (8 + number % 5, 9 + number % 7, 3))
    pixels[..., number % 4 % 3] += 60 * (1 + number % 4 // 3 * 2)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, kind)
    return stream.getvalue()


def correct(run: Run) -> Run:
    """Rename, merge, move and mark, with names full of trouble."""
    with Corrections.open(run) as corrections:
        rows = run.assignments["row"].to_pylist()
        corrections.apply(Rename(0, "cats/dogs: <b>&amp;</b>\n"))
        corrections.apply(Rename(1, "NUL"))
        corrections.apply(Merge([3], 2))
        corrections.apply(Move(rows[:2], None, name="nul"))
        corrections.apply(Mark(rows[2:4], "wrong"))
        corrections.apply(Mark(rows[4:5], "noise"))
    return run


def expected(run: Run) -> list[dict[str, Any]]:
    """Return the corrected table line by line."""
    return corrected_table(run, Corrections.open(run, write=False).state).to_pylist()


def group_names(run: Run) -> dict[int, str]:
    """Return the groups that there are, with their names."""
    state = Corrections.open(run, write=False).state
    return {group: name for group, name in names_of(run, state).items() if state.groups[group].alive}


def make_clustered(home: Path, source: Path) -> Run:
    run = kinfold.cluster(
        source, 4, method="kmeans", backbone="pixels", out=home / "run", report=False, n_workers=1
    )
    return correct(run)


class Top:
    """Assignments of given labels, of any confidence."""

    def __init__(self, labels):
        self.clusters = np.asarray(labels, np.int32)[:, None]
        self.probabilities = np.random.default_rng(0).uniform(0.2, 1, self.clusters.shape).astype(np.float32)
