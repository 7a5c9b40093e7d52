"""The map of a million images: laid out, and drawn in a browser whose WebGL is software.

The run is that of ``perf.explore``. Its map is made (every group a normal cloud), so that drawing can be
measured without laying out a million rows; ``--layout N`` instead measures the layout itself, on N made rows
or on N of ``KINFOLD_DATA``'s CIFAR-10 features where there are as many. Chromium is driven by Playwright;
frames are those of the page's own animation clock while the mouse drags, and memory is of the tab's script,
of the tab's process and of the process that draws.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from kinfold.compute import cpu_count
from kinfold.gallery.explore._layout import choose_n_epochs, lay_out, start_positions
from kinfold.gallery.explore._map import MAP_NAME, map_inputs, write_map
from kinfold.neighbors import knn_graph
from kinfold.run import Run
from kinfold.storage import hash_json
from perf.explore import N_GROUPS, N_IMAGES, make_run, serving
from perf.table import Table

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--enable-precise-memory-info",
)
_SCALE = 0.0235  # of the eight-bit features in KINFOLD_DATA
_RECORD = """() => {
  window.frames_seen = [];
  let last = performance.now();
  const tick = (now) => {
    window.frames_seen.push(now - last);
    last = now;
    window.ticking = requestAnimationFrame(tick);
  };
  window.ticking = requestAnimationFrame(tick);
}"""
_STOP = "() => { cancelAnimationFrame(window.ticking); return window.frames_seen.slice(2); }"


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    options = _parse(arguments)
    return measure_layout(options.layout) if options.layout else measure_drawing(options)


def measure_drawing(options: argparse.Namespace) -> Table:
    """Draw a ready map in a tab."""
    from playwright.sync_api import sync_playwright

    table = Table(
        f"The map in a tab, software WebGL: {options.n_images:,} images, {options.n_groups:,} groups, "
        f"{cpu_count()} cores, window of 1,280 × 800",
        ("", "value"),
    )
    with tempfile.TemporaryDirectory(prefix="kinfold-perf-") as folder:
        path = Path(folder) / "run"
        make_run(path, options.n_images, options.n_groups)
        make_map(Run.open(path))
        with serving(path) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
            _draw(table, browser, server)
            resident, own = server.memory()
            table.add("server, resident (own), MiB", f"{resident:,.0f} ({own:,.0f})")
            browser.close()
    return table


def make_map(run: Run) -> None:
    """Give a run a map: every group a normal cloud of its own somewhere on a disc."""
    rng = np.random.default_rng(0)
    labels = run.labels
    k = run.n_clusters
    angle, radius = rng.uniform(0, 2 * np.pi, k), 20 * np.sqrt(rng.uniform(0, 1, k))
    middles = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    widths = 8 * np.sqrt(np.bincount(labels, minlength=k) / len(labels))
    points = middles[labels] + widths[labels][:, None] * rng.standard_normal((len(labels), 2))
    inputs = map_inputs(run)
    rows = run.assignments["row"].to_numpy()
    facts = {**inputs, "inputs": hash_json(inputs)}
    write_map(run.path / MAP_NAME, rows, points.astype(np.float32), facts)


def _draw(table: Table, browser: Any, server: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(120_000)
    begun = time.perf_counter()
    page.goto(f"{server.address}/#/map")
    page.wait_for_selector("canvas[data-drawn]")
    table.add("from opening the address to the first points, s", f"{time.perf_counter() - begun:.1f}")
    page.wait_for_selector("canvas[data-drawn=all]")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    table.add("… to all points drawn, s", f"{time.perf_counter() - begun:.1f}")
    for title, work in (("panning", _pan), ("zooming by the wheel", _zoom)):
        page.evaluate(_RECORD)
        work(page)
        frames = sorted(page.evaluate(_STOP))
        text = f"{median(frames):.0f} / {frames[int(0.95 * len(frames))]:.0f} / {frames[-1]:.0f}"
        table.add(f"{title}: time between frames, median / 95 % / longest, ms", text)
        page.wait_for_selector("canvas[data-drawn=all]")
    page.locator(".map-canvas").press("0")
    page.wait_for_selector("canvas[data-drawn=all]")
    selected, seconds = _lasso(page)
    table.add(f"a lasso around {selected:,} images, s", f"{seconds:.2f}")
    _add_memory(table, page)
    page.close()


def _pan(page: Any) -> None:
    page.mouse.move(600, 400)
    page.mouse.down()
    for step in range(120):
        angle = 2 * np.pi * step / 60
        page.mouse.move(600 + 120 * float(np.sin(angle)), 400 + 80 * float(np.cos(angle)))
        page.wait_for_timeout(8)
    page.mouse.up()


def _zoom(page: Any) -> None:
    page.mouse.move(500, 380)
    for step in range(60):
        page.mouse.wheel(0, -60 if step < 40 else 90)
        page.wait_for_timeout(8)


def _lasso(page: Any) -> tuple[int, float]:
    page.get_by_role("button", name="Select with a lasso", exact=True).click()
    corners = [(400, 250), (700, 220), (760, 450), (560, 600), (380, 480)]
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*corner, steps=20)
    begun = time.perf_counter()
    page.mouse.up()
    page.wait_for_function("() => !document.querySelector('.dock').hidden")
    seconds = time.perf_counter() - begun
    text = page.locator(".dock-size").text_content()
    return int(text.split()[0].replace(",", "")), seconds


def _add_memory(table: Table, page: Any) -> None:
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
    table.add("script memory of the tab, MiB", f"{heap:,.0f}")
    kinds = {"renderer": "process of the tab", "gpu-process": "process that draws"}
    sizes = dict.fromkeys(kinds, 0.0)
    for process in psutil.Process().children(recursive=True):
        try:
            command, size = process.cmdline(), process.memory_info().rss / 2**20
        except psutil.Error:
            continue
        for kind in kinds:
            if f"--type={kind}" in command:
                sizes[kind] = max(sizes[kind], size)
    for kind, title in kinds.items():
        table.add(f"{title}, resident, MiB", f"{sizes[kind]:,.0f}")


def measure_layout(n: int) -> Table:
    """Lay out ``n`` rows, and say what every step takes."""
    X, kind = _rows(n)
    epochs = choose_n_epochs(n)
    table = Table(
        f"Laying out {n:,} {kind} rows of {X.shape[1]} numbers, {epochs} epochs", ("", "s", "CPU s")
    )
    graph = _timed(table, "neighbours (of runs that have none)", lambda: knn_graph(X, 15))
    small = graph_of_first(graph)
    _timed(
        table, "import and compilation of umap-learn", lambda: lay_out(small, np.eye(5, 2, dtype=np.float32))
    )
    start = _timed(table, "start along two directions", lambda: start_positions(X))
    _timed(table, "UMAP", lambda: lay_out(graph, start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    table.notes.append(
        f"Peak memory of the process: {peak:.2f} GiB, of which the rows {X.nbytes / 2**30:.2f}.\n"
    )
    return table


def graph_of_first(graph: Any) -> Any:
    """Return a ring of five, of the type of ``graph``, to compile with."""
    return type(graph).from_lists(np.arange(6), np.array([1, 2, 3, 4, 0]))


def _rows(n: int) -> tuple[NDArray[np.float32], str]:
    data = os.environ.get("KINFOLD_DATA")
    if data and n <= 50_000:
        with np.load(Path(data) / "cifar10_mobilenetv2_train.npz") as files:
            rows = np.random.default_rng(0).choice(50_000, n, replace=False)
            return files["features"][np.sort(rows)].astype(np.float32) * np.float32(_SCALE), "CIFAR-10"
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, 32), np.float32)
    labels = rng.integers(0, len(centres), n)
    return centres[labels] + 0.7 * rng.standard_normal((n, 32), np.float32), "made"


def _timed(table: Table, title: str, work: Any) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    table.add(title, f"{time.perf_counter() - wall:.1f}", f"{time.process_time() - cpu:.1f}")
    return result


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-images", type=int, default=N_IMAGES)
    parser.add_argument("--n-groups", type=int, default=N_GROUPS)
    parser.add_argument("--layout", type=int, metavar="N", help="lay out N rows instead of drawing")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(main().markdown())
