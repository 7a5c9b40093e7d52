"""The gallery's page in a browser: looking, searching, correcting, taking back, taking away."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kinfold
from kinfold.corrections import Corrections, Rename, corrected_table
from kinfold.corrections._refine import LEAST_AGREEMENT
from kinfold.run import Run
from support.browsers import open_chromium
from support.pages import go, open_tabs, serve, settle

pytestmark = pytest.mark.browser

N_IMAGES, N_GROUPS = 120, 6
HOSTILE_KEY = "<img src=x onerror=window.broken=1>.png"
HOSTILE_NAME = "\"><script>window.broken=2</script><b onmouseover='window.broken=3'>"
VIEWS = ("", "group/{group}", "compare/{group}/{other}", "search?q=1", "similar/3", "history", "refine")


@dataclass
class Gallery:
    url: str
    path: Path
    photos: Path

    @property
    def state(self):
        with Corrections.open(Run.open(self.path), write=False) as corrections:
            return corrections.state

    def groups(self, least: int = 8) -> list[int]:
        """The living groups of some size, the largest first."""
        state = self.state
        sizes = {one.id: int((state.labels == one.id).sum()) for one in state.groups.values() if one.alive}
        found = [group for group, size in sorted(sizes.items(), key=lambda item: -item[1]) if size >= least]
        return [group for group in found if not state.groups[group].locked]

    def table(self):
        with Corrections.open(Run.open(self.path), write=False) as corrections:
            return corrected_table(corrections.run, corrections.state)


def write_images(folder: Path) -> None:
    """Images of six colours, one with a hostile name, and a file that is none."""
    rng = np.random.default_rng(0)
    colours = rng.integers(30, 220, (N_GROUPS, 3))
    for number in range(N_IMAGES):
        pixels = rng.normal(colours[number % N_GROUPS], 25, (24, 24, 3)).clip(0, 255).astype(np.uint8)
        name = HOSTILE_KEY if number == 0 else f"{number:03d}.png"
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.png").write_text("<script>no image</script>")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Iterator[Gallery]:
    from kinfold.gallery.explore import create_app

    folder = tmp_path_factory.mktemp("photos")
    write_images(folder)
    path = folder.parent / "photos.kinfold"
    shutil.rmtree(path, ignore_errors=True)
    kinfold.cluster(
        folder,
        N_GROUPS,
        method="kmeans",
        backbone="pixels",
        out=path,
        random_state=0,
        n_workers=0,
        report=False,
    )
    with serve(create_app(Run.open(path), n_workers=1)) as address:
        yield Gallery(f"{address}/", path, folder)


@pytest.fixture(scope="module")
def browser():
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser, gallery):
    with open_tabs(browser, gallery.url) as make:
        yield make


def select(page, n: int) -> list[int]:
    """Select the first images of the grid with the mouse, and return their rows."""
    tiles = page.locator(".tile[data-row]")
    tiles.first.hover()
    tiles.first.locator(".check").click()
    if n > 1:
        tiles.nth(n - 1).click(modifiers=["Shift"])
    page.wait_for_selector(f".dock-size:has-text('{n} image')")
    return [int(tiles.nth(k).get_attribute("data-row")) for k in range(n)]


def wait_said(page, text: str) -> None:
    """Wait until a toast says it."""
    page.locator(".toast", has_text=re.compile(text, re.I)).last.wait_for()


def labels_of(gallery: Gallery, rows: list[int]) -> list[int]:
    table = gallery.table()
    found = dict(zip(table["row"].to_pylist(), table["cluster"].to_pylist(), strict=True))
    return [found[row] for row in rows]


def test_the_page_names_every_module_that_it_begins_with():
    web = Path(kinfold.__file__).parent / "gallery" / "explore" / "web"
    named = set(re.findall(r'modulepreload" href="web/([^"]+)"', (web / "index.html").read_text()))
    wanted, seen = ["app.js"], set()
    while wanted:  # what is imported in a chain would be asked for link by link
        name = wanted.pop()
        if name not in seen:
            seen.add(name)
            wanted += re.findall(r'^import .* from "\./([^"]+)"', (web / name).read_text(), re.MULTILINE)
    assert seen <= named
    assert all((web / name).is_file() for name in named)


def test_groups_are_shown_sorted_searched_and_opened(open_page, gallery):
    page = open_page()
    assert re.match(rf"{N_IMAGES} images in \d+ groups", page.locator("h1").inner_text())
    sizes = [int(text.split()[0]) for text in page.locator(".card-line .soft").all_inner_texts()]
    assert len(sizes) == N_GROUPS
    assert sizes == sorted(sizes, reverse=True)
    page.select_option("select", "number")
    page.wait_for_function("() => document.querySelector('.card').dataset.group === '0'")
    page.keyboard.press("/")
    page.keyboard.type("01")
    page.keyboard.press("Enter")
    page.wait_for_selector(".tile[data-row]")
    found = set(page.locator(".tile .caption span:first-child").all_inner_texts())
    assert found == {f"{n:03d}.png" for n in range(N_IMAGES) if "01" in f"{n:03d}"}
    page.get_by_role("link", name="Groups", exact=True).first.click()
    page.wait_for_selector(".card[href]")
    group = page.locator(".card").first.get_attribute("data-group")
    page.locator(".card").first.click()
    page.wait_for_selector(".tile[data-row]")
    assert page.url.endswith(f"#/group/{group}")


def test_a_group_sorts_and_its_images_open_one_after_the_other(open_page, gallery):
    group = gallery.groups()[0]
    page = open_page(f"group/{group}")
    sure = [float(text) for text in page.locator(".tile .caption b").all_inner_texts()]
    assert sure == sorted(sure, reverse=True)
    page.get_by_label("Sort by").select_option("doubt")
    page.wait_for_selector(".tile .caption .soft")
    page.get_by_label("Sort by").select_option("key")
    page.wait_for_function(
        "() => document.querySelector('.tile[data-row]') && !document.querySelector('.tile .caption b')"
    )
    names = page.locator(".tile .caption").all_inner_texts()
    assert names == sorted(names)
    page.locator(".tile img").nth(1).click()
    title = page.locator(".image-dialog h2")
    title.wait_for()
    page.wait_for_function("() => document.querySelector('.image-dialog h2').textContent !== ''")
    assert title.inner_text() == names[1]
    shares = [float(text) for text in page.locator(".probabilities .number").all_inner_texts()]
    assert 0 < len(shares) <= 5
    assert shares == sorted(shares, reverse=True)
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "name => document.querySelector('.image-dialog h2').textContent === name", arg=names[2]
    )
    page.wait_for_selector(".near-list img")
    page.locator(".near-list button").first.click()
    page.get_by_role("button", name="Back").wait_for()
    page.keyboard.press("s")
    page.wait_for_selector(".similar-head h1")
    assert page.locator("dialog[open]").count() == 0


def test_a_name_that_arrives_while_another_is_written_shows_once_that_is_left(open_page, gallery):
    group = gallery.groups()[0]
    page = open_page(f"group/{group}")
    before = page.locator("h1").inner_text()
    held = []
    page.route(f"**/api/groups/{group}", lambda route: held.append(route))
    page.keyboard.press("r")
    page.keyboard.type("Whales")
    with page.expect_request(f"**/api/groups/{group}"):
        page.keyboard.press("Enter")
    page.keyboard.press("r")
    page.keyboard.type("not this")
    with page.expect_response(f"**/api/groups/{group}"):
        held.pop().continue_()
    wait_said(page, "Whales")
    assert page.locator(".name-field").input_value().endswith("not this")
    page.unroute(f"**/api/groups/{group}")
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.querySelector('h1')?.textContent === 'Whales'")
    page.keyboard.press("Control+z")
    page.wait_for_function("name => document.querySelector('h1')?.textContent === name", arg=before)


def test_corrections_are_made_undone_redone_and_there_after_a_reload(open_page, gallery):
    group, other = gallery.groups()[:2]
    page = open_page(f"group/{group}")
    page.keyboard.press("r")
    page.keyboard.type("Kittens")
    page.keyboard.press("Enter")
    wait_said(page, "Kittens")
    page.keyboard.press("r")
    page.keyboard.type("not this")
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.querySelector('h1')?.textContent === 'Kittens'")
    assert gallery.state.groups[group].name == "Kittens"

    rows = select(page, 3)
    page.keyboard.press("m")
    page.get_by_role("combobox", name="Search groups").fill("Strays")
    page.get_by_role("option", name="New group “Strays”").click()
    wait_said(page, "moved 3 images")
    fresh = labels_of(gallery, rows)
    assert len(set(fresh)) == 1
    assert fresh[0] >= N_GROUPS
    assert gallery.state.groups[fresh[0]].name == "Strays"
    page.wait_for_function("row => !document.querySelector(`.tile[data-row='${row}']`)", arg=rows[0])

    page.keyboard.press("Control+z")
    page.wait_for_selector(f".tile[data-row='{rows[0]}']")
    assert labels_of(gallery, rows) == [group] * 3
    page.get_by_role("button", name="Redo").click()
    page.wait_for_function("row => !document.querySelector(`.tile[data-row='${row}']`)", arg=rows[0])
    assert labels_of(gallery, rows) == fresh

    marked = select(page, 2)
    page.keyboard.press("w")
    page.wait_for_selector(".tile.wrong >> nth=1")
    assert labels_of(gallery, marked) == [-1, -1]

    go(page, f"group/{fresh[0]}")
    page.get_by_role("button", name="Merge into").click()
    page.get_by_role("combobox", name="Search groups").fill(str(other))
    page.keyboard.press("Enter")
    page.wait_for_function("id => location.hash === `#/group/${id}`", arg=other)
    assert labels_of(gallery, rows) == [other] * 3
    settle(page)
    before = len(gallery.groups(1))
    page.get_by_role("button", name="Split").click()
    page.locator("dialog input").fill("3")
    page.keyboard.press("Enter")
    wait_said(page, "split")
    assert len(gallery.groups(1)) == before + 2

    state = gallery.state
    page.reload()
    settle(page)
    go(page, f"group/{group}")
    assert page.locator("h1").inner_text() == "Kittens"
    assert page.locator(".tile.wrong").count() == 2
    assert gallery.state.version == state.version
    go(page, "history")
    texts = " ".join(page.locator(".entry .words").all_inner_texts())
    assert all(word in texts for word in ("Called", "Moved", "Merged", "Split"))


def test_only_the_last_toast_offers_undo_and_a_group_that_is_not_there_is_said(open_page, gallery):
    group = gallery.groups()[0]
    page = open_page(f"group/{group}")
    for name in ("First", "Second"):
        page.keyboard.press("r")
        page.keyboard.press("Control+a")
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        wait_said(page, name)
    assert page.locator(".toast button:has-text('Undo')").count() == 1
    page.locator(".toast").get_by_role("button", name="Undo").click()
    wait_said(page, "undid")
    assert page.locator(".toast button:has-text('Undo')").count() == 0
    assert gallery.state.groups[group].name == "First"
    page.keyboard.press("Control+z")
    page.get_by_role("button", name="Merge into").click()
    page.get_by_role("combobox", name="Search groups").fill("999")
    page.get_by_text("No group is called that").wait_for()
    page.keyboard.press("Enter")
    page.get_by_role("combobox", name="Search groups").fill("")
    page.locator("dialog [role=option]").first.wait_for()
    assert page.get_by_text("No group is called that").count() == 0


def test_an_image_is_marked_and_confirmed_where_it_is_large(open_page, gallery):
    group = gallery.groups()[0]
    page = open_page(f"group/{group}")
    row = int(page.locator(".tile[data-row]").first.get_attribute("data-row"))
    page.locator(".tile img").first.click()
    page.wait_for_selector(".probabilities")
    page.keyboard.press("n")
    page.wait_for_selector(".verdict.noise")
    assert labels_of(gallery, [row]) == [-1]
    page.locator(".toast").get_by_role("button", name="Undo").click()
    page.wait_for_selector(".verdict:not(.noise)")
    page.keyboard.press("c")
    page.get_by_role("button", name="Confirm", pressed=True).wait_for()
    page.get_by_role("button", name="Copy the path").click()
    wait_said(page, "copied")
    page.keyboard.press("Escape")
    page.wait_for_selector(f".tile[data-row='{row}'] .by-hand")
    assert labels_of(gallery, [row]) == [group]


def test_the_keyboard_alone_selects(open_page, gallery):
    group = gallery.groups()[0]
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Shift+?")
    page.get_by_role("heading", name="Keys").wait_for()
    page.keyboard.press("Escape")
    go(page, f"group/{group}")
    page.get_by_role("listbox").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_selector(".dock-size:has-text('3 images')")
    chosen = page.locator(".tile[aria-selected=true]").evaluate_all(
        "all => all.map(one => +one.dataset.index)"
    )
    assert chosen == [1, 2, 3]
    assert page.get_by_role("listbox").get_attribute("aria-activedescendant").endswith("-3")
    page.keyboard.press("Control+a")
    size = int((gallery.state.labels == group).sum())
    page.wait_for_selector(f".dock-size:has-text('{size} images')")
    page.keyboard.press("Escape")
    page.wait_for_selector(".dock", state="hidden")
    page.keyboard.press("Enter")
    page.wait_for_selector(".image-dialog[open]")


def test_a_box_drawn_with_the_mouse_selects_what_it_touches(open_page, gallery):
    page = open_page(f"group/{gallery.groups()[0]}")
    first, third = (page.locator(".tile[data-row]").nth(k).bounding_box() for k in (0, 2))
    page.mouse.move(first["x"] + 40, first["y"] + 60)
    page.mouse.down()
    page.mouse.move(third["x"] + 30, third["y"] + 80, steps=5)
    page.mouse.up()
    page.wait_for_selector(".dock-size:has-text('3 images')")
    assert page.locator("dialog[open]").count() == 0


def test_the_table_is_downloaded_as_corrected(open_page, gallery):
    page = open_page()
    page.keyboard.press("e")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download CSV").click()
    with open(waiting.value.path(), newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    table = gallery.table()
    assert [row["key"] for row in rows] == table["key"].to_pylist()
    assert [int(row["cluster"]) for row in rows] == table["cluster"].to_pylist()
    commands = page.locator(".command code").all_inner_texts()
    assert any(
        command.startswith("kinfold export ") and command.endswith("--to coco") for command in commands
    )


def test_hostile_names_are_words_and_nothing_else(open_page, gallery):
    table = gallery.table()
    group = table["cluster"][table["key"].to_pylist().index(HOSTILE_KEY)].as_py()
    page = open_page(f"group/{group}")
    page.keyboard.press("r")
    page.keyboard.type(HOSTILE_NAME)
    page.keyboard.press("Enter")
    page.wait_for_function("name => document.querySelector('h1')?.textContent === name", arg=HOSTILE_NAME)
    page.get_by_label("Sort by").select_option("key")
    page.locator(".caption", has_text=HOSTILE_KEY).wait_for()
    page.locator(".tile", has_text=HOSTILE_KEY).locator("img").click()
    page.wait_for_function(
        "name => document.querySelector('.image-dialog h2').textContent === name", arg=HOSTILE_KEY
    )
    page.wait_for_selector(".near-list")
    page.keyboard.press("m")
    page.locator("dialog [role=option]").first.wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    for place in ("", "history", "search?q=onerror", "skipped"):
        go(page, place)
        assert page.evaluate("window.broken") is None
        assert page.locator("main script, main [onmouseover], img[src='x']").count() == 0
    assert "broken.png" in page.locator(".lines").inner_text()


def test_two_tabs_see_each_others_edits_and_lose_none(open_page, gallery):
    group, other, third = gallery.groups()[:3]
    first, second = open_page(f"group/{group}"), open_page(f"group/{group}")
    rows = select(first, 1)
    stale = select(second, 2)
    before = labels_of(gallery, stale[1:])
    first.keyboard.press("w")
    first.wait_for_selector(".tile.wrong")
    second.wait_for_selector(f".tile.wrong[data-row='{rows[0]}']")
    second.get_by_role("button", name="Lock", exact=True).click()
    second.wait_for_selector("button:has-text('Unlock')")
    second.keyboard.press("m")
    second.get_by_role("combobox", name="Search groups").fill(str(other))
    second.keyboard.press("Enter")
    second.locator("#alerts .toast", has_text="locked").wait_for()
    assert labels_of(gallery, stale[1:]) == before
    second.keyboard.press("Control+z")
    second.wait_for_selector("button:has-text('Lock'):not(:has-text('Unlock'))")
    assert labels_of(gallery, rows) == [-1]  # undo is a tab's own
    go(second, f"group/{third}")
    go(first, f"group/{third}")
    first.get_by_role("button", name="Merge into").click()
    first.get_by_role("combobox", name="Search groups").fill(str(other))
    first.keyboard.press("Enter")
    second.wait_for_function("() => location.hash === '#/'")
    refused = [text for text in open_page.said if "Failed to load resource" in text]
    assert len(refused) == len(open_page.said) >= 1  # the conflict and the group that is gone
    open_page.said.clear()


def test_refinement_is_started_watched_and_accepted(open_page, gallery):
    group, other = gallery.groups()[:2]
    page = open_page(f"group/{group}")
    select(page, 5)
    page.keyboard.press("m")
    page.get_by_role("combobox", name="Search groups").fill(str(other))
    page.keyboard.press("Enter")
    wait_said(page, "moved 5 images")
    go(page, "refine")
    page.get_by_role("button", name="Learn from corrections").click()
    page.get_by_role("button", name="Learn again").wait_for(timeout=30_000)
    total = page.locator(".refine h2")
    total.wait_for()
    n = int(total.inner_text().split()[0])
    agreement = page.evaluate("fetch('/api/refine').then((one) => one.json())")["proposals"]["facts"][
        "agreement"
    ]
    assert page.locator(".refine .notice").count() == (agreement < LEAST_AGREEMENT)
    version = gallery.state.version
    page.get_by_role("button", name=re.compile("^Accept all")).click()
    wait_said(page, "accepted")
    assert gallery.state.version == version + 1
    assert n >= 1


def test_a_chosen_file_finds_similar_images(open_page, gallery, tmp_path):
    path = tmp_path / "<b>asked<b>.png"
    shutil.copy(gallery.photos / "005.png", path)
    page = open_page()
    page.set_input_files("input[type=file]", path)
    page.wait_for_selector(".similar-head .probabilities")
    assert page.locator("h1").inner_text() == path.name
    page.wait_for_selector(".tile[data-row]")
    assert page.locator(".tile[data-row]").first.get_attribute("title") == "005.png"
    assert page.locator(".asked img").evaluate("one => one.naturalWidth") == 24


LONG_LIST = """async () => {
  const { ImageGrid } = await import("/web/imagegrid.js");
  const { store } = await import("/web/store.js");
  store.run.has_images = false; // words instead of pictures: there are no such rows
  const asked = [];
  const load = async (offset, limit) => {
    asked.push(offset);
    await new Promise((done) => setTimeout(done, 5));
    const length = Math.min(limit, 100000 - offset);
    const items = Array.from({ length }, (_, k) => ({ row: offset + k, key: `${k}.png`, confidence: 0.5 }));
    return { total: 100000, items };
  };
  const grid = new ImageGrid({ label: "many", load, rows: async () => [...Array(100000).keys()], open() {} });
  document.querySelector(".view").replaceChildren(grid.element);
  await grid.start();
  const counts = [];
  for (const share of [0.1, 0.5, 0.9, 1]) {
    window.scrollTo(0, share * document.documentElement.scrollHeight);
    let shown, seen, view;
    for (let turn = 0; turn < 400; turn += 1) {
      await new Promise((done) => setTimeout(done, 20));
      view = grid.grid.inView();
      shown = [...document.querySelectorAll(".tile")];
      seen = shown.filter((one) => one.dataset.index >= view.first && one.dataset.index <= view.last);
      if (turn && seen.length === view.last - view.first + 1) break;
    }
    counts.push([shown.length, seen.length, view.last - view.first + 1, view.last]);
  }
  await grid.selectRange(99990, 10);
  return { counts, pages: new Set(asked).size, selected: grid.selection.size };
}"""


def test_of_a_hundred_thousand_images_only_those_near_the_view_are_in_the_page(open_page):
    page = open_page()
    found = page.evaluate(LONG_LIST)
    for in_page, seen, in_view, _ in found["counts"]:
        assert in_page < 400
        assert seen == in_view  # nothing in view is blank
    assert found["counts"][-1][3] == 99_999
    assert found["selected"] == 99_981
    assert found["pages"] < 30  # of 500


def test_the_theme_is_kept(open_page):
    page = open_page()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Dark theme").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    settle(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    page.get_by_role("button", name="Light theme").wait_for()


def places(gallery: Gallery) -> list[str]:
    group, other = gallery.groups()[:2]
    return [place.format(group=group, other=other) for place in (*VIEWS, "skipped")]


def test_no_view_scrolls_sideways_on_a_phone(open_page, gallery):
    with Corrections.open(Run.open(gallery.path)) as corrections:
        corrections.apply(Rename(gallery.groups()[0], HOSTILE_NAME + "W" * 80))
    page = open_page(width=390, scheme="dark")
    for place in places(gallery):
        go(page, place)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, place
    go(page, places(gallery)[1])
    page.locator(".tile img").first.click()
    page.wait_for_selector(".near-list")
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= 390


def test_axe_finds_nothing_serious_and_nothing_scrolls_sideways_in_either_theme(open_page, gallery):
    axe = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed")
    source = Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    page = open_page()
    page.set_viewport_size({"width": 1280, "height": 520})
    page.evaluate(source)
    check = """async (colours) => {
      const options = { resultTypes: ["violations"], ...(colours && { runOnly: ["color-contrast"] }) };
      const found = await axe.run(document, options);
      return found.violations.filter((one) => ["serious", "critical"].includes(one.impact))
        .map((one) => `${one.id}: ${one.nodes.map((node) => node.target.join(" ")).slice(0, 3).join(", ")}`);
    }"""
    openings = {
        "a list of keys": lambda: page.keyboard.press("Shift+?"),
        "export": lambda: page.keyboard.press("e"),
        "an image": lambda: (
            go(page, places(gallery)[1]),
            page.locator(".tile img").first.click(),
            page.wait_for_selector(".near-list"),
        ),
        "a picker": lambda: (
            select(page, 2),
            page.keyboard.press("m"),
            page.locator("dialog [role=option]").first.wait_for(),
        ),
    }
    wrong = {}

    def look(place: str) -> None:
        for only_colours in (False, True):  # a theme changes nothing else
            found = page.evaluate(check, only_colours)
            if found:
                wrong[f"{place} {page.evaluate('document.documentElement.dataset.theme')}"] = found
            page.evaluate("document.querySelector('.theme').click()")

    for place in places(gallery):
        go(page, place)
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280, place
        look(place or "all groups")
    for name, work in openings.items():
        work()
        look(name)
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
    assert wrong == {}, json.dumps(wrong, indent=1)
