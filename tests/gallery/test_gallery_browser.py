from __future__ import annotations

import pytest

from kinfold.gallery import write_report
from support.browsers import open_chromium

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def report(make_run, make_images, tmp_path):
    keys = ["<script>document.title='broken'</script>.jpg", "x" * 300, *(f"{i}.jpg" for i in range(400))]
    metrics = {"accuracy": 0.91, "nmi": 0.8, "ari": 0.7, "classes": {"0": "a class with a long long name"}}
    diagnosis = {"messages": ["w" * 200]}
    skipped = [("y" * 300, "truncated: " + "z" * 300)] * 3
    run = make_run(keys, k=5, metrics=metrics, diagnosis=diagnosis, skipped=skipped)
    images = make_images(gone=frozenset(range(0, 400, 7)))
    return write_report(run, images, tmp_path / "report page.html")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_opens_clean_and_asks_nothing(browser, report, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert page.evaluate("document.images.length") > 100
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert page.title().startswith("402 images in 5 groups")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_wide_content_does_not_scroll_sideways_without_images(browser, make_run, tmp_path):
    path = write_report(make_run(["n" * 400] * 80, k=3), None, tmp_path / "keys.html")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_groups_can_be_ordered_and_walked_with_the_keyboard(browser, report):
    page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page.goto(report.as_uri())
    page.select_option("#sort", "group")
    numbers = page.eval_on_selector_all(".group", "all => all.map(one => one.dataset.group)")
    assert numbers == ["0", "1", "2", "3", "4"]
    listed = page.eval_on_selector_all("#index li", "all => all.map(one => one.dataset.group)")
    assert listed == numbers
    page.select_option("#sort", "size")
    sizes = page.eval_on_selector_all(".group", "all => all.map(one => -one.dataset.size)")
    assert sizes == sorted(sizes, reverse=True)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    first = page.evaluate("document.activeElement.id")
    assert first == page.eval_on_selector(".group", "one => one.id")
    assert abs(page.evaluate("document.activeElement.getBoundingClientRect().top")) < 60
    page.keyboard.press("j")
    second = page.evaluate("document.activeElement.id")
    assert second != first
    assert abs(page.evaluate("document.activeElement.getBoundingClientRect().top")) < 60
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.id") == first
    page.close()


def test_the_skip_link_is_the_first_stop(browser, report):
    page = browser.new_page()
    page.goto(report.as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.close()
