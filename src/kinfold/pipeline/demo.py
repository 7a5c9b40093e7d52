"""The demo: cluster scikit-learn's handwritten digits, which need no download, by several methods."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinfold.locks import lock_directory
from kinfold.pipeline._cluster import cluster
from kinfold.pipeline._embed import embed
from kinfold.pipeline._evaluate import evaluate
from kinfold.pipeline._method import prepare_method
from kinfold.pipeline._report import report
from kinfold.progress import SILENT, Progress
from kinfold.run import Run
from kinfold.storage import atomic_directory, atomic_file, check_folder, check_own, remove_partials

METHODS = ("kmeans", "temi", "icce")
N_DIGITS = 10
# Fewer heads than by default, so that all of it takes minutes on two cores.
PARAMETERS: Mapping[str, Mapping[str, Any]] = {"temi": {"n_heads": 6}, "icce": {"n_heads": 8}}

_BACKBONE = "pixels"
_SIDE = 64  # pixels; on the page digits of 8 × 8 would be specks
_INK = 16.0  # the darkest value in the data
_OURS = ("images", "labels.csv", "features", *METHODS)


@dataclass(frozen=True)
class DemoRow:
    """One method on the digits.

    Attributes
    ----------
    method : str
        As ``--method`` takes it.
    accuracy, nmi, ari : float
        Against the true digits, which the method never saw.
    seconds : float
        Neighbours, training and assignment; the embedding is shared and not counted.
    run, report : Path
        The run directory and its page.
    """

    method: str
    accuracy: float
    nmi: float
    ari: float
    seconds: float
    run: Path
    report: Path


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Attributes
    ----------
    path : Path
        The folder with everything.
    n_images : int
        Digits.
    rows : tuple of DemoRow
        One per method.
    """

    path: Path
    n_images: int
    rows: tuple[DemoRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        rows = [
            {name: str(value) if isinstance(value, Path) else value for name, value in asdict(row).items()}
            for row in self.rows
        ]
        return {"path": str(self.path), "n_images": self.n_images, "methods": rows}


def run_demo(
    out: str | Path,
    *,
    methods: Sequence[str] = METHODS,
    random_state: int = 0,
    device: str = "auto",
    n_workers: int | None = None,
    progress: Progress = SILENT,
) -> Demo:
    """Write 1,797 digits as images, embed them, group them by every method, and compare with the truth.

    Everything is the public way: a folder of PNG files, a feature store of a weight-free descriptor that
    all methods share, a run directory per method, labels in a CSV file that only the evaluation reads.
    Nothing is asked of the network. What is done already is not done again.

    Parameters
    ----------
    out : path
        The folder to write: new, empty, or an earlier demo's.
    methods : sequence of str, default ("kmeans", "temi", "icce")
        What to compare; TEMI trains 6 heads and ICCE 8, other parameters are the defaults.
    random_state : int, default 0
        Seed of all methods.
    device : str, default "auto"
        Where to compute.
    n_workers : int, optional
        Processes that decode; by default as many as there are cores.
    progress : Progress
        Shows every stage.

    Returns
    -------
    Demo

    Raises
    ------
    InputError
        An argument is impossible, or ``out`` holds something else; as far as that can be known, before
        anything is written.
    """
    out = Path(out)
    for method in methods:
        prepare_method(method, N_DIGITS, random_state, device, "auto", None, PARAMETERS.get(method))
    check_folder(out, "the demo", lambda name: name in _OURS or name.startswith("."))
    with lock_directory(out, create=True):
        check_own(out)
        n_images = write_digits(out)
        embed(
            out / "images",
            out / "features",
            backbone=_BACKBONE,
            device=device,
            n_workers=n_workers,
            progress=progress,
        )
        rows = []
        for method in methods:
            run = cluster(
                out / "features",
                N_DIGITS,
                method=method,
                out=out / method,
                random_state=random_state,
                device=device,
                method_parameters=PARAMETERS.get(method),
                report=False,  # it is written once, with the evaluation
                progress=progress,
            )
            rows.append(_judge(method, run, out / "labels.csv", progress))
    return Demo(out, n_images, tuple(rows))


def write_digits(out: Path) -> int:
    """Write ``images/0000.png`` … and ``labels.csv`` (columns key, label) into ``out``; return how many.

    The digits of 8 × 8 pixels are scaled to 64 × 64. Complete images are left as they are.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    names = [f"{number:04d}.png" for number in range(len(digits.images))]
    out.mkdir(parents=True, exist_ok=True)
    remove_partials(out)
    if not (out / "images").exists():
        with atomic_directory(out / "images") as folder:
            for name, digit in zip(names, digits.images, strict=True):
                (folder / name).write_bytes(_draw(digit))
    with (
        atomic_file(out / "labels.csv") as partial,
        partial.open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["key", "label"])
        writer.writerows(zip(names, digits.target.tolist(), strict=True))
    return len(names)


def _draw(digit: NDArray[np.float64]) -> bytes:
    pixels = np.round(digit * (255 / _INK)).astype(np.uint8)
    image = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def _judge(method: str, run: Run, labels: Path, progress: Progress) -> DemoRow:
    """Evaluate a run, and write its page unless it is there with these figures."""
    seconds = float(run.manifest.timings["total_seconds"])
    known = run.metrics
    found = evaluate(run, labels)
    if known != found.as_dict() or not run.report_path.exists():
        report(run, progress=progress)
    accuracy, nmi, ari = (float(value or 0) for value in (found.accuracy, found.nmi, found.ari))
    return DemoRow(method, accuracy, nmi, ari, seconds, run.path, run.report_path)
