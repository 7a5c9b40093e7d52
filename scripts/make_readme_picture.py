"""Make ``docs/images/gallery-scenes.png``, the picture of the gallery in the README.

    python scripts/make_readme_picture.py

The pictures are drawn by ``tests/support/scenes.py``, so they are this project's own and under its license.
Needs Chromium, and the packages ``playwright`` and ``uvicorn``.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from PIL import Image

import kinfold
from kinfold.corrections import Corrections, Rename
from kinfold.gallery.explore import create_app
from kinfold.run import Run

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME / "tests"))

from support.browsers import open_chromium  # noqa: E402
from support.scenes import SCENES, write_scenes  # noqa: E402

OUT = HOME / "docs" / "images" / "gallery-scenes.png"
N_IMAGES = 240
SIZE = {"width": 1280, "height": 800}
N_COLORS = 256  # of the file; drawn skies show no bands with these
NAMES = {
    "sea": "Sea",
    "meadow": "Meadows",
    "city": "Night",
    "dunes": "Dunes",
    "forest": "Woods",
    "snow": "Snow",
}


def main() -> None:
    """Cluster drawn scenes, name the groups by their scene, and photograph the page."""
    with TemporaryDirectory() as home:
        photos, path = Path(home, "photos"), Path(home, "photos.kinfold")
        write_scenes(photos, N_IMAGES)
        kinfold.cluster(
            photos, len(SCENES), method="kmeans", backbone="pixels", out=path, random_state=0, report=False
        )
        name_groups(Run.open(path))
        with serving(path) as url, open_chromium() as browser:
            page = browser.new_page(viewport=SIZE, reduced_motion="reduce", color_scheme="light")
            page.goto(url)
            page.wait_for_selector(".card[href]")
            page.wait_for_function("() => [...document.images].every((one) => one.complete)")
            page.wait_for_timeout(1000)  # sharper thumbnails follow
            page.evaluate("document.querySelector('.lede .key').textContent = 'photos.kinfold'")
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(N_COLORS).save(OUT, optimize=True)


def name_groups(run: Run) -> None:
    """Give every group the name of the scene that most of its images show."""
    numbers = [int(Path(key).stem.removeprefix("IMG_")) - 4000 for key in run.assignments["key"].to_pylist()]
    with Corrections.open(run) as corrections:
        for group in range(run.n_clusters):
            mine = [n % len(SCENES) for n, label in zip(numbers, run.labels, strict=True) if label == group]
            if mine:
                corrections.apply(Rename(group, NAMES[SCENES[max(set(mine), key=mine.count)]]))


@contextmanager
def serving(path: Path) -> Iterator[str]:
    """Serve a run while the page is photographed."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(Run.open(path), n_workers=1), port=0, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


if __name__ == "__main__":
    main()
