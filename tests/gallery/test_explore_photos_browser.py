"""The gallery's page with pictures of every shape: nothing is cut, cards merge, whole pictures are shown."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import kinfold
from kinfold.corrections import Corrections, Rename
from kinfold.gallery.explore import _explorer, create_app
from kinfold.run import Run
from support.browsers import open_chromium
from support.pages import go, open_tabs, serve, settle
from support.scenes import write_scenes

pytestmark = pytest.mark.browser

N_GROUPS = 8
LONG = "Sunsets over the northern harbour with fishing boats, and a very long name besides"
ROOT = "/user/ann/proxy/8000"


class Gallery:
    def __init__(self, url: str, path: Path) -> None:
        self.url, self.path = url, path

    @property
    def state(self):
        with Corrections.open(Run.open(self.path), write=False) as corrections:
            return corrections.state

    def sizes(self) -> dict[int, int]:
        state = self.state
        return {one.id: int((state.labels == one.id).sum()) for one in state.groups.values() if one.alive}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Iterator[Gallery]:
    home = tmp_path_factory.mktemp("photos")
    write_scenes(home / "photos")
    (home / "photos" / "broken.jpg").write_text("this is no image")
    path = home / "photos.kinfold"
    kinfold.cluster(
        home / "photos",
        N_GROUPS,
        method="kmeans",
        backbone="pixels",
        out=path,
        random_state=0,
        n_workers=0,
        report=False,
    )
    with Corrections.open(Run.open(path)) as corrections:
        corrections.apply(Rename(1, LONG))
        corrections.apply(Rename(2, "Dunes"))
    app = create_app(Run.open(path), n_workers=1, root_path=ROOT)
    with serve(app) as address:
        yield Gallery(f"{address}{ROOT}/", path)


@pytest.fixture(scope="module")
def browser():
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser, gallery):
    with open_tabs(browser, gallery.url, height=900) as make:
        yield make


def wait_for_pictures(page) -> None:
    page.wait_for_function(
        """() => [...document.images].filter((one) => one.getBoundingClientRect().top < innerHeight)
          .every((one) => one.complete && one.naturalWidth)"""
    )


CUT = (Path(__file__).parent.parent / "support" / "cut_text.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_no_text_is_cut_and_nothing_leaves_its_card_in_any_view(open_page, gallery, width):
    page = open_page(width=width)
    largest = sorted(gallery.sizes().items(), key=lambda item: -item[1])
    group, other = largest[0][0], largest[1][0]
    places = ("", f"group/{group}", "group/1", f"compare/{group}/{other}", "search?q=IMG", "search?q=sun")
    cut = {}
    for place in (*places, "similar/3", "history", "refine", "skipped", "map", "nowhere"):
        go(page, place)
        wait_for_pictures(page)
        cut[place] = page.evaluate(CUT)
    go(page, "")
    page.locator(".fit").click()
    wait_for_pictures(page)
    cut["whole pictures"] = page.evaluate(CUT)
    page.locator(".card-place .pick").first.click()
    page.wait_for_selector(".dock:not([hidden])")
    cut["selected"] = page.evaluate(CUT)
    page.keyboard.press("m")
    page.wait_for_selector("dialog [role=option]")
    cut["picker"] = page.evaluate(CUT)
    page.keyboard.press("Escape")
    go(page, f"group/{group}")
    page.locator(".tile img").first.click()
    page.wait_for_selector(".near-list img")
    cut["image"] = page.evaluate(CUT)
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    page.wait_for_selector(".downloads")
    cut["export"] = page.evaluate(CUT)
    assert {place: found for place, found in cut.items() if found} == {}


def test_the_check_itself_sees_what_is_cut(open_page):
    page = open_page()
    page.evaluate(
        """() => {
          const sheet = [...document.styleSheets].find((one) => one.href?.includes("views.css"));
          sheet.insertRule(".mosaic { min-height: 12rem !important; }", sheet.cssRules.length);
          sheet.insertRule("h1 { overflow: hidden; height: 8px; }", sheet.cssRules.length);
        }"""
    )
    found = " ".join(page.evaluate(CUT))
    assert "leaves the card" in found
    assert "images in" in found


def test_a_panorama_is_sharp_where_it_is_cropped(open_page, gallery):
    page = open_page()
    wait_for_pictures(page)
    page.wait_for_function(
        """() => [...document.querySelectorAll('.cell img')]
          .filter((one) => one.naturalWidth > 3 * one.naturalHeight)
          .every((one) => one.src.endsWith('side=256'))"""
    )


def test_whole_pictures_are_remembered(open_page):
    page = open_page()
    fit = "() => getComputedStyle(document.querySelector('.cell img, .frame img')).objectFit"
    assert page.evaluate(fit) == "cover"
    page.get_by_role("button", name="Whole").click()
    assert page.evaluate(fit) == "contain"
    page.reload()
    settle(page)
    assert page.evaluate(fit) == "contain"
    go(page, "group/1")
    assert page.evaluate(fit) == "contain"
    button = page.get_by_role("button", name="Whole", pressed=True)
    button.click()
    assert page.evaluate(fit) == "cover"


def test_several_cards_are_merged_as_one_edit_that_undo_takes_back(open_page, gallery):
    before = gallery.sizes()
    page = open_page()
    cards = page.locator(".card-place")
    ids = [int(cards.nth(k).locator(".card").get_attribute("data-group")) for k in range(4)]
    cards.nth(0).hover()
    cards.nth(0).locator(".pick").click()
    cards.nth(2).locator(".pick").click(modifiers=["Shift"])
    page.wait_for_selector(".dock-size:has-text('3 groups selected')")
    assert page.locator(".pick input:checked").count() == 3
    assert page.url.endswith("#/")
    cards.nth(1).locator(".card").click()  # once some are selected, a click selects
    page.wait_for_selector(".dock-size:has-text('2 groups selected')")
    cards.nth(1).locator(".card").click()
    version = gallery.state.version
    page.get_by_role("button", name="Merge…").click()
    page.get_by_role("heading", name="Merge 3 groups into").wait_for()
    assert page.locator("dialog [role=option][aria-selected=true]").count() == 1
    page.get_by_role("combobox", name="Search groups").fill(str(ids[1]))
    page.keyboard.press("Enter")
    page.locator(".toast", has_text="erged").wait_for()
    assert gallery.state.version == version + 1
    merged = {key: size for key, size in before.items() if key not in ids[:3]}
    assert gallery.sizes() == {**merged, ids[1]: sum(before[one] for one in ids[:3])}
    page.wait_for_function("n => document.querySelectorAll('.card[href]').length === n", arg=len(before) - 2)
    assert page.locator(".dock").is_hidden()
    page.locator(".toast").get_by_role("button", name="Undo").click()
    page.wait_for_function("n => document.querySelectorAll('.card[href]').length === n", arg=len(before))
    assert gallery.sizes() == before


def test_cards_are_selected_by_the_keyboard_alone_and_opened_by_enter(open_page, gallery):
    page = open_page()
    page.locator(".card").first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_selector(".dock-size:has-text('3 groups selected')")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.wait_for_selector(".dock-size:has-text('4 groups selected')")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "checkbox"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Select ")
    page.keyboard.press("Space")
    page.wait_for_selector(".dock-size:has-text('3 groups selected')")
    page.keyboard.press("Control+a")
    page.wait_for_selector(f".dock-size:has-text('{len(gallery.sizes())} groups selected')")
    page.keyboard.press("Escape")
    page.wait_for_selector(".dock", state="hidden")
    page.locator(".card").nth(1).focus()
    group = page.locator(".card").nth(1).get_attribute("data-group")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.wait_for_function("id => location.hash === `#/group/${id}`", arg=group)


def test_a_selection_on_the_cards_is_lost_with_its_groups_and_locks_them_together(open_page, gallery):
    page = open_page()
    first = page.locator(".card-place").first
    group = int(first.locator(".card").get_attribute("data-group"))
    first.locator(".pick").click()
    page.keyboard.press("l")
    page.wait_for_selector(f".card[data-group='{group}'] .flag")
    assert gallery.state.groups[group].locked
    first.locator(".pick").click()
    page.keyboard.press("u")
    page.wait_for_selector(f".card[data-group='{group}'] .flag", state="detached")
    assert not gallery.state.groups[group].locked


def test_a_split_says_that_it_works_and_is_not_started_twice(open_page, gallery, monkeypatch):
    free = threading.Event()
    started = []
    real = _explorer.Explorer.edit

    def slow(self, content, client):
        started.append(content["kind"])
        assert free.wait(60)
        return real(self, content, client)

    monkeypatch.setattr(_explorer.Explorer, "edit", slow)
    group = max(gallery.sizes().items(), key=lambda item: item[1])[0]
    page = open_page(f"group/{group}")
    page.get_by_role("button", name="Split…").click()
    page.keyboard.press("Enter")
    page.locator(".toast.working", has_text="Sorting the").wait_for()
    button = page.get_by_role("button", name="Splitting…")
    assert button.is_disabled()
    go(page, "")
    go(page, f"group/{group}")
    assert page.get_by_role("button", name="Splitting…").is_disabled()
    free.set()
    page.locator(".toast:not(.working)", has_text="plit").wait_for()
    page.get_by_role("button", name="Split…").wait_for()
    assert page.locator(".toast.working").count() == 0
    assert started == ["split"]
    page.keyboard.press("Control+z")
    page.locator(".toast", has_text="ndid").wait_for()


def test_move_takes_no_group_before_one_is_named_or_pointed_at(open_page, gallery):
    group = max(gallery.sizes().items(), key=lambda item: item[1])[0]
    version = gallery.state.version
    page = open_page(f"group/{group}")
    page.locator(".tile .check").first.click(force=True)
    page.keyboard.press("m")
    page.locator("dialog [role=option]").first.wait_for()
    assert page.locator("dialog [role=option][aria-selected=true]").count() == 0
    page.keyboard.press("Enter")
    assert page.locator("dialog[open]").count() == 1
    assert gallery.state.version == version
    page.keyboard.press("ArrowDown")
    assert page.locator("dialog [role=option][aria-selected=true]").count() == 1
    page.keyboard.press("Escape")


def test_an_open_image_shows_its_folder_and_its_whole_key(open_page, gallery):
    page = open_page("search?q=IMG_4007")
    page.locator(".tile img").first.click()
    page.wait_for_selector(".known code")
    folder = "Holidays 2025/2025-07-01 at the coast"
    assert page.locator(".image-dialog .folder").inner_text() == folder
    known = page.locator(".known").inner_text()
    assert f"{folder}/IMG_4007.jpg" in known


def test_refining_with_nothing_placed_by_hand_proposes_nothing_and_says_so(open_page):
    page = open_page("refine")
    page.get_by_role("button", name="Learn from corrections").click()
    page.locator(".refine .notice", has_text="you placed no image by hand").wait_for()
    assert page.get_by_role("button", name="Accept").count() == 0


def test_the_page_works_below_the_path_of_a_proxy(open_page, gallery):
    page = open_page("group/1")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    settle(page)
    wait_for_pictures(page)
    assert asked
    assert [url for url in asked if not url.startswith(gallery.url)] == []
