from __future__ import annotations

import csv
import logging
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from kinfold.cli import app


@pytest.fixture(autouse=True)
def _give_logging_back() -> Iterator[None]:
    """Undo what the command line does to the package's logger: later tests of this process read it too."""
    yield
    logger = logging.getLogger("kinfold")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Thirty images of three colours, one file that is none, and labels beside the folder."""
    home = tmp_path_factory.mktemp("photos")
    folder = home / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(30):
        colour = np.zeros(3)
        colour[i % 3] = 200
        pixels = np.clip(colour + rng.normal(0, 12, (24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        rows.append((f"{i:02d}.png", "rgb"[i % 3]))
    (folder / "broken.png").write_bytes(b"")
    with (home / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("key", "label"), *rows])
    return home


@pytest.fixture
def kinfold():
    """Run the command line in this process: ``kinfold("info").exit_code``."""
    runner = CliRunner()
    return lambda *words: runner.invoke(app, [str(word) for word in words])


@pytest.fixture(scope="session")
def run(photos):
    words = [
        "cluster",
        photos / "photos",
        "-k",
        3,
        "--method",
        "kmeans",
        "-b",
        "pixels",
        "-o",
        photos / "run",
    ]
    result = CliRunner().invoke(app, [str(word) for word in words] + ["--workers", "1"])
    assert result.exit_code == 0, result.output
    return photos / "run"
