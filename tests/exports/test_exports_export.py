"""The page, read by the standard parser and opened by Chromium."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

import kinfold
from support.browsers import open_chromium
from support.export_runs import expected, group_names


class Reader(HTMLParser):
    """Collects headings by group, the images of each with their titles, scripts and outer addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[int, list[str]] = {}
        self.headings: dict[int, str] = {}
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.n_scripts = 0
        self._group, self._in_heading = -1, False

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.n_scripts += tag == "script"
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        if tag == "section" and found.get("class") == "group":
            self._group = int(found["data-group"])
            self.groups[self._group] = []
        elif tag == "section":
            self._group = -1
        elif tag == "h2" and self._group >= 0:
            self._in_heading = True
            self.headings[self._group] = ""
        elif tag == "img" and self._group >= 0:
            self.groups[self._group].append(found["title"])

    def handle_endtag(self, tag):
        self._in_heading &= tag != "h2"

    def handle_data(self, data):
        self.text.append(data)
        if self._in_heading:
            self.headings[self._group] += data


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    return kinfold.export(run, "html", tmp_path_factory.mktemp("html") / "groups.html").path


def test_the_page_shows_the_groups_as_corrected(run, page):
    from kinfold.gallery._text import show_confidence, show_name

    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    wanted: dict[int, list[str]] = {}
    for record in expected(run):
        title = f"{show_name(record['key'], 96)}, confidence {show_confidence(record['confidence'])}"
        wanted.setdefault(record["cluster"], []).append(title)
    unsorted = wanted.pop(-1)
    assert {group: sorted(titles) for group, titles in reader.groups.items()} == {
        group: sorted(titles) for group, titles in wanted.items()
    }
    for group, name in group_names(run).items():
        assert reader.headings[group].startswith(show_name(name, 60) or f"Group {group}")
    text = "".join(reader.text)
    assert f"{len(unsorted)} images marked as wrong or as noise: in no group." in text
    assert "40 images in 4 groups" in text
    assert "Empty:" not in text
    assert "or 3" not in text  # which was merged into another
    assert reader.n_scripts == 1
    assert all(address.startswith(("#", "data:")) for address in reader.addresses)


@pytest.mark.browser
def test_the_page_opens_from_disk(page):
    with open_chromium() as browser:
        view = browser.new_page(viewport={"width": 390, "height": 800})
        said, asked = [], []
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(page.as_uri())
        view.evaluate("Promise.all([...document.images].map(i => (i.loading = 'eager', i.decode())))")
        assert view.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
        assert view.evaluate("document.images.length") == 37
        assert view.evaluate("document.documentElement.scrollWidth") <= 390
        assert view.locator("h2 b").count() == 0
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]


def test_without_originals_the_page_lists_names(made_run, tmp_path):
    run = made_run([f"<b>{i}</b>" for i in range(9)], np.arange(9) % 2, 2)
    path = kinfold.export(run, "html", tmp_path / "groups.html").path
    text = path.read_text(encoding="utf-8")
    assert "&lt;b&gt;8" in text
    assert "<b>8" not in text
