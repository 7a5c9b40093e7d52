from __future__ import annotations

import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from kinfold.gallery.explore import create_app
from kinfold.gallery.explore._map import MAP_NAME, map_inputs, write_map
from kinfold.run import Run, write_assignments, write_manifest, write_skipped
from kinfold.storage import hash_json
from support.browsers import open_chromium
from support.pages import serve

pytestmark = pytest.mark.browser

FEATURES = {"path": "gone", "column": None, "variant": "cls", "fingerprint": "0" * 64}
COLORS = {0: (124, 79, 216), 1: (4, 163, 34), 2: (86, 48, 0)}  # of light pages, by group
N = 1500


@pytest.fixture(scope="module")
def browser():
    with open_chromium(webgl=True) as browser:
        yield browser


@pytest.fixture(scope="module")
def points():
    """All over a square, but for its lower left, where the first three lie alone, one of each group."""
    points = np.random.default_rng(1).uniform(0, 10, (N, 2)).astype(np.float32)
    points[(points < [4, 3]).all(axis=1)] += np.float32([4, 3])
    points[:3] = [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]]
    return points


@pytest.fixture(scope="module")
def labels():
    labels = np.random.default_rng(2).integers(0, 3, N).astype(np.int32)
    labels[:3] = [0, 1, 2]
    return labels


@pytest.fixture(scope="module")
def run(tmp_path_factory, points, labels) -> Run:
    path = tmp_path_factory.mktemp("map") / "run"
    path.mkdir()
    rows, keys = np.arange(N), pa.array([f"{row:04d}.jpg" for row in range(N)])
    sure = np.full(N, 0.9, np.float32)
    top = SimpleNamespace(
        clusters=np.stack([labels, (labels + 1) % 3], 1), probabilities=np.stack([sure, 1 - sure], 1)
    )
    write_assignments(path / "assignments.parquet", rows, keys, top)
    empty = {"row": pa.array([], pa.int64()), "key": pa.array([], pa.string())}
    write_skipped(path / "skipped.parquet", pa.table({**empty, "reason": pa.array([], pa.string())}))
    manifest = {
        "source": {"kind": "features", "uri": "gone", "images": None, "n_rows": N},
        "backbone": None,
        "features": FEATURES,
        "parameters": {"n_clusters": 3, "method": "temi", "random_state": 3},
        "stages": {"fit": {}, "assign": {}},
        "timings": {},
    }
    write_manifest(path, manifest)
    run = Run.open(path)
    inputs = map_inputs(run)
    rows = run.assignments["row"].to_numpy()
    write_map(run.path / MAP_NAME, rows, points, {**inputs, "inputs": hash_json(inputs)})
    return run


@pytest.fixture(scope="module")
def address(run):
    with serve(create_app(run)) as address:
        yield address


class Tab:
    """A page with the map, and what the test asks of it."""

    def __init__(self, page, address):
        self.page, self.address, self.said = page, address, []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))

    def open(self) -> Tab:
        self.page.goto(f"{self.address}/#/map")
        self.wait()
        return self

    def wait(self) -> None:
        """Wait until all points are drawn."""
        self.page.wait_for_selector("canvas[data-drawn=all]")
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def box(self):
        return self.page.locator(".map-canvas").bounding_box()

    def view(self):
        return json.loads(self.page.locator(".map-canvas").get_attribute("data-view"))

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Return where points of the map are on the page."""
        box, (x, y, scale) = self.box(), self.view()
        middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
        return (np.asarray(points, float) - [x, y]) * [scale, -scale] + middle

    def colors_at(self, points: np.ndarray) -> list[tuple[int, ...]]:
        image = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        return [image.getpixel((int(x), int(y))) for x, y in self.to_pixels(points)]

    def draw(self, corners: np.ndarray) -> None:
        """Draw along corners on the page by mouse."""
        mouse = self.page.mouse
        mouse.move(*map(float, corners[0]))
        mouse.down()
        for corner in corners[1:]:
            mouse.move(*map(float, corner), steps=4)
        mouse.up()

    def selected(self) -> int:
        text = self.page.locator(".dock-size").text_content()
        return int(text.replace(",", "").split()[0])

    def groups(self) -> np.ndarray:
        answer = self.page.request.get(f"{self.address}/api/map/groups")
        assert answer.headers["x-dtype"] == "int32"
        return np.frombuffer(answer.body(), "<i4")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()


@pytest.fixture
def tab(browser, address):
    context = browser.new_context(viewport={"width": 1024, "height": 640}, color_scheme="light")
    context.set_default_timeout(20_000)
    tab = Tab(context.new_page(), address)
    yield tab
    context.close()
    assert tab.said == []


def blend(color: tuple[int, ...], alpha: float = 217 / 255) -> np.ndarray:
    """Return a colour on the white of the stage."""
    return np.array(color) * alpha + 255 * (1 - alpha)


def inside(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Tell which points a polygon holds: seen from those, its corners go all the way round."""
    sides = polygon[None] - points[:, None]
    after = np.roll(sides, -1, axis=1)
    cross = sides[..., 0] * after[..., 1] - sides[..., 1] * after[..., 0]
    angles = np.arctan2(cross, (sides * after).sum(axis=2))
    return np.abs(angles.sum(axis=1)) > np.pi


def test_points_are_drawn_where_they_belong_in_the_colours_of_their_groups(tab, points):
    tab.open()
    for group, color in enumerate(tab.colors_at(points[:3])):
        np.testing.assert_allclose(color, blend(COLORS[group]), atol=6)
    assert tab.colors_at(np.array([[1, 2], [2, 2]])) == [(255, 255, 255)] * 2
    assert tab.page.title().startswith("Map")


def test_a_lasso_takes_exactly_what_is_inside_and_moves_it_and_undo_brings_it_back(tab, points, labels):
    tab.open()
    box = tab.box()
    shape = np.array([[0.35, 0.3], [0.8, 0.2], [0.6, 0.45], [0.85, 0.8], [0.5, 0.6], [0.3, 0.75]])
    corners = np.round(shape * [box["width"], box["height"]] + [box["x"], box["y"]])
    expected = inside(corners, tab.to_pixels(points))
    assert 100 < expected.sum() < N / 2
    tab.press("Select with a lasso")
    tab.draw(corners)
    assert tab.selected() == expected.sum()
    tab.page.get_by_role("button", name="Move to…").click()
    tab.page.get_by_role("combobox", name="Search groups").fill("2")
    with tab.page.expect_response("**/api/map/groups*"):
        tab.page.keyboard.press("Enter")
    tab.page.get_by_role("button", name="Undo", exact=True).wait_for()
    after = tab.groups()
    assert (after[expected] == 2).all()
    assert (after[~expected] == labels[~expected]).all()
    tab.page.wait_for_function("() => document.querySelector('.dock').hidden")
    tab.wait()
    moved = points[np.flatnonzero(expected & (labels != 2))]
    lone = moved[np.argmax(np.sort(np.linalg.norm(moved[:, None] - points[None], axis=2), axis=1)[:, 1])]
    np.testing.assert_allclose(tab.colors_at(lone[None])[0], blend(COLORS[2]), atol=6)
    tab.page.keyboard.press("Control+z")
    tab.page.locator(".toast", has_text=re.compile("undid", re.IGNORECASE)).last.wait_for()
    assert (tab.groups() == labels).all()


def test_a_rectangle_and_the_whole_view_select(tab, points):
    tab.open()
    box = tab.box()
    tab.press("Select with a rectangle")
    low = np.round([box["x"] + 0.4 * box["width"], box["y"] + 0.3 * box["height"]])
    high = low + np.array([160, 120])
    pixels = tab.to_pixels(points)
    tab.draw(np.array([low, high]))
    expected = ((pixels > low) & (pixels < high)).all(axis=1)
    assert tab.selected() == expected.sum() > 10
    tab.page.keyboard.press("Escape")
    assert tab.page.locator(".dock").is_hidden()
    tab.press("Select all in view")
    assert tab.selected() == N


def test_keys_and_wheel_change_the_view_and_0_brings_it_back(tab):
    tab.open()
    x, y, scale = tab.view()
    tab.page.locator(".map-canvas").focus()
    for key in ("+", "ArrowRight", "ArrowUp"):
        tab.page.keyboard.press(key)
    tab.wait()
    right, up, closer = tab.view()
    assert right > x
    assert up > y
    assert closer > scale
    box = tab.box()
    tab.page.mouse.move(box["x"] + 300, box["y"] + 200)
    tab.page.mouse.wheel(0, -400)
    tab.wait()
    assert tab.view()[2] > closer
    tab.page.keyboard.press("0")
    tab.wait()
    np.testing.assert_allclose(tab.view(), [x, y, scale])


def test_dragging_moves_the_points_with_the_pointer(tab, points):
    tab.open()
    before = tab.to_pixels(points[:1])[0]
    tab.draw(np.array([[500, 400], [560, 340]]))
    tab.wait()
    np.testing.assert_allclose(tab.to_pixels(points[:1])[0] - before, [60, -60], atol=1.5)
    assert tab.page.locator(".dock").is_hidden()


def test_a_group_is_brought_out_and_only_it_is_selected(tab, points, labels):
    tab.open()
    legend = tab.page.locator(".map-legend")
    legend.get_by_role("button", name="Group 1").click()
    legend.get_by_label("Hide the others").check()
    tab.wait()
    shown = tab.colors_at(points[:3])
    assert shown[0] == shown[2] == (255, 255, 255)
    np.testing.assert_allclose(shown[1], blend(COLORS[1]), atol=6)
    legend.get_by_role("button", name="Select their images").click()
    assert tab.selected() == (labels == 1).sum()


def test_the_image_under_the_pointer_is_named_and_opens(tab, points):
    nothing = {"images": []}  # the run's features are gone, and the browser would tell of the refusal
    tab.page.route("**/neighbors?*", lambda route: route.fulfill(json=nothing))
    tab.open()
    x, y = tab.to_pixels(points[1:2])[0]
    tab.page.mouse.move(x + 1, y + 1)
    tab.page.locator(".map-hover", has_text="Group 1").wait_for()
    tab.page.mouse.click(x + 1, y + 1)
    tab.page.get_by_role("dialog").get_by_text("Row", exact=True).wait_for()
    assert "0001.jpg" in tab.page.get_by_role("dialog").text_content()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"state": "none", "progress": 0, "text": ""}, "Lay out the map"),
        ({"state": "none", "progress": 0, "text": "it is <b>damaged</b>"}, "it is <b>damaged</b>"),
        ({"state": "running", "progress": 0.4, "text": "Laying the images out"}, "Laying the images out"),
        (
            {
                "state": "unavailable",
                "progress": 0,
                "text": "The map needs umap-learn: pip install 'kinfold[map]'",
            },
            "pip install 'kinfold[map]'",
        ),
    ],
)
def test_without_a_map_the_page_says_what_to_do(tab, answer, words):
    tab.page.route("**/api/map", lambda route: route.fulfill(json=answer))
    tab.page.goto(f"{tab.address}/#/map")
    tab.page.get_by_text(words, exact=True).wait_for()
    if answer["state"] == "running":
        assert float(tab.page.locator("progress").get_attribute("value")) == 0.4


def test_without_webgl_words_stand_in(tab):
    tab.page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    tab.page.goto(f"{tab.address}/#/map")
    tab.page.get_by_role("heading", name="This browser can't draw the map").wait_for()


def test_a_narrow_page_in_the_dark_has_room_for_the_map(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark", has_touch=True)
    tab = Tab(context.new_page(), address).open()
    box = tab.box()
    assert box["width"] > 330
    assert box["height"] > 400
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert len(set(tab.colors_at(np.random.default_rng(0).uniform(4, 9, (200, 2))))) > 3
    assert tab.said == []
    context.close()
