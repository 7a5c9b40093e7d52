"""The control from coarse to fine in a browser: previews, taking a level and going back, tree and curve."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from kinfold.corrections import Corrections
from kinfold.run import Run
from support.browsers import open_chromium
from support.galleries import ESTIMATE, make_gallery_run, make_level_run, set_estimate
from support.pages import go, open_tabs, serve, settle

pytestmark = pytest.mark.browser

LEVEL = "[aria-label='From coarse to fine']"


@dataclass
class Gallery:
    url: str
    path: Path

    def names(self) -> set[str]:
        run = Run.open(self.path)
        with Corrections.open(run, write=False) as corrections:
            return {one.name for one in corrections.state.groups.values() if one.alive and one.name}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return set_estimate(make_level_run(tmp_path_factory.mktemp("photos")), ESTIMATE)


@pytest.fixture(scope="module")
def browser():
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def gallery(made, tmp_path):
    from kinfold.gallery.explore import create_app

    shutil.copytree(made.path, tmp_path / "run")
    with serve(create_app(Run.open(tmp_path / "run"), n_workers=1)) as address:
        yield Gallery(f"{address}/", tmp_path / "run")


@pytest.fixture
def open_page(browser, gallery):
    with open_tabs(browser, gallery.url) as make:
        yield make


def look_at(page, n: int) -> None:
    """Wait until a level is previewed, with all of its cards that fit into the view."""
    page.locator(".level-said", has_text=f"Preview of {n} group").wait_for()
    page.wait_for_selector(".level-card")


def rename(page, group: int, name: str) -> None:
    go(page, f"group/{group}")
    page.keyboard.press("r")
    page.keyboard.press("Control+a")
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    page.wait_for_function("name => document.querySelector('h1')?.textContent === name", arg=name)


def test_from_coarse_to_fine_and_back_and_a_name_of_one_level_stays(open_page, gallery):
    page = open_page()
    slider = page.get_by_role("slider", name="How fine the groups are")
    assert slider.get_attribute("aria-valuetext") == "6 groups"
    page.get_by_role("button", name="Finer").click()
    look_at(page, 8)
    assert page.locator(".level-card").count() == 8
    split = page.locator(".level-card.part b").all_inner_texts()
    assert len(split) >= 2
    assert all(re.fullmatch(r"from \d", text) for text in split)
    assert page.locator(".cards:not(.level-cards)").is_hidden()
    page.get_by_role("button", name="Back to 6 groups").click()
    page.locator(".cards:not(.level-cards)").wait_for()
    assert page.locator(".level-card").first.is_hidden()
    assert Run.open(gallery.path).level is None

    field = page.get_by_role("spinbutton", name="groups")
    field.fill("4")
    field.press("Enter")
    look_at(page, 4)
    joined = page.locator(".level-card.join b").all_inner_texts()
    assert joined
    assert all(re.fullmatch(r"joins \d(, \d)+", text) for text in joined)
    stays = page.locator(".level-card.same a").first.get_attribute("href").split("/")[-1]
    rename(page, int(stays), "lasting")
    go(page, "")
    field.fill("4")
    field.press("Enter")
    look_at(page, 4)
    page.locator(".level-card.same", has_text="lasting").wait_for()

    page.get_by_role("button", name="Use this level").click()
    page.locator(".toast", has_text="The run has 4 groups now, not 6. Carried over: 1 name.").wait_for()
    settle(page)
    assert page.locator("h1").inner_text() == "160 images in 4 groups"
    page.locator(".card", has_text="lasting").wait_for()
    assert Run.open(gallery.path).level == 4
    assert gallery.names() == {"lasting"}
    page.get_by_role("button", name="Back to 6 groups").click()
    page.wait_for_function("() => document.querySelector('h1')?.textContent === '160 images in 6 groups'")
    assert Run.open(gallery.path).level is None
    page.locator(f".card[data-group='{stays}']", has_text="lasting").wait_for()
    assert gallery.names() == {"lasting"}


def test_on_a_phone_the_keyboard_alone_takes_a_level(open_page, gallery):
    page = open_page(width=390)
    slider = page.get_by_role("slider", name="How fine the groups are")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    look_at(page, 5)
    assert slider.get_attribute("aria-valuetext") == "5 groups"
    page.keyboard.press("Home")
    look_at(page, 2)
    assert page.get_by_role("button", name="Coarser").get_attribute("aria-disabled") == "true"
    page.get_by_role("button", name="Finer, 3 groups").focus()
    page.keyboard.press("Enter")
    look_at(page, 3)
    assert page.evaluate("document.activeElement.textContent") == "Finer"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Use this level").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('h1')?.textContent === '160 images in 3 groups'")
    page.wait_for_function("() => document.activeElement.type === 'range'")  # one goes on from here
    go(page, "tree")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_another_tab_follows_and_leaves_a_group_that_means_another_now(open_page, gallery):
    first, second = open_page(), open_page("group/5")
    first.get_by_role("button", name="Coarser").click()
    look_at(first, 5)
    first.get_by_role("button", name="Use this level").click()
    second.wait_for_function("() => location.hash === '#/'")
    second.locator(".toolbar h2", has_text="5 groups").wait_for()


def test_the_tree_is_walked_by_keyboard(open_page, gallery):
    rename(open_page(), 3, "greens")
    page = open_page("tree")
    items = page.get_by_role("treeitem")
    items.first.focus()
    focused = "document.activeElement.getAttribute('aria-level')"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == "2"
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == "1"
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("[role=treeitem][aria-expanded=false]:focus")
    page.keyboard.press("Home")
    seen = set()
    here = "document.activeElement.dataset.node"
    while (node := page.evaluate(here)) not in seen:  # open everything on the way down
        seen.add(node)
        if page.evaluate("document.activeElement.getAttribute('aria-expanded') === 'false'"):
            page.keyboard.press("ArrowRight")
            page.wait_for_selector("[role=treeitem][aria-expanded=true]:focus > [role=group] > li")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    assert page.evaluate(here) == node  # there is nothing below
    texts = page.locator(".tree .same > .tree-row a").all_inner_texts()
    assert sorted(texts) == ["3: greens", *(f"Group {k}" for k in (0, 1, 2, 4, 5))]
    page.locator(".tree .same > .tree-row", has_text="greens").locator("a").click()
    page.wait_for_function("() => document.querySelector('h1')?.textContent === 'greens'")


def test_the_curve_is_shown_and_a_candidate_is_previewed(open_page):
    page = open_page()
    page.get_by_text("Why 6 groups").click()
    page.get_by_text(ESTIMATE["reason"]).wait_for()
    plot = page.get_by_role("img", name="Separation by number of groups; marked: 3, 6 (chosen), 12")
    assert plot.locator("circle").count() == 3
    page.get_by_role("button", name="12", exact=True).click()
    look_at(page, 12)


def test_cards_move_where_motion_is_welcome_and_leave_nothing_behind(open_page, browser, gallery):
    context = browser.new_context(reduced_motion="no-preference")
    page = context.new_page()
    page.goto(gallery.url)
    settle(page)
    page.evaluate(
        """() => {
          const plain = Element.prototype.animate;
          window.moved = 0;
          Element.prototype.animate = function (...all) { window.moved += 1; return plain.apply(this, all); };
        }"""
    )
    page.get_by_role("button", name="Coarser").click()
    look_at(page, 5)
    page.wait_for_function("() => window.moved >= 6")  # five cards, and the one that joins another
    page.wait_for_function("() => document.querySelectorAll('.level-cards > li').length === 5")
    context.close()
    still = open_page()
    still.evaluate("() => { Element.prototype.animate = () => { throw new Error('it moved'); }; }")
    still.get_by_role("button", name="Coarser").click()
    look_at(still, 5)


def test_axe_finds_nothing_serious(open_page):
    axe = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed")
    source = Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    page = open_page()
    page.evaluate(source)
    check = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations
      .filter((one) => ["serious", "critical"].includes(one.impact))
      .map((one) => `${one.id}: ${one.nodes.map((node) => node.target.join(" ")).join(", ")}`)"""
    page.get_by_text("Why 6 groups").click()
    for theme in ("light", "dark"):
        for step in ("Finer", "Coarser", "Coarser"):
            page.get_by_role("button", name=step).click()
            page.wait_for_timeout(300)
            assert page.evaluate(check) == [], (theme, step)
        go(page, "tree")
        page.wait_for_selector("[role=treeitem]")
        assert page.evaluate(check) == [], theme
        go(page, "")
        page.evaluate("document.querySelector('.theme').click()")
        page.get_by_text("Why 6 groups").click()


def test_a_read_only_run_and_one_without_levels(browser, made, tmp_path):
    from kinfold.gallery.explore import create_app

    with (
        serve(create_app(made, n_workers=1, read_only=True)) as address,
        open_tabs(browser, f"{address}/") as make,
    ):
        page = make()
        page.get_by_role("button", name="Finer").click()
        page.locator(".level-said", has_text="It can't be taken: this run was opened read-only").wait_for()
        assert page.get_by_role("button", name="Use this level").count() == 0
    plain = make_gallery_run(tmp_path, n=30, graph=False)
    with serve(create_app(plain, n_workers=1)) as address, open_tabs(browser, f"{address}/") as make:
        page = make()
        page.wait_for_selector(".card[href]")
        assert page.locator(LEVEL).count() == 0


def test_the_least_typical_images_come_first_and_alone_where_asked(open_page, gallery):
    page = open_page()
    go(page, "group/0")
    page.get_by_label("Sort by").select_option("typicality")
    settle(page)
    run = Run.open(gallery.path)
    own = run.typicality[run.labels == 0]
    shown = page.locator(".tile .caption b").all_inner_texts()
    assert shown[0] == f"{own.min():.2f}"
    assert [float(one) for one in shown] == sorted(float(one) for one in shown)
    page.get_by_label("Show").select_option("stray")
    page.wait_for_function(
        "n => document.querySelectorAll('.tile').length === n", arg=int((own < 0.01).sum())
    )
