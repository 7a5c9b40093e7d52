"""Reports: safe for any name, closed to the network, within their bound, and complete."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from kinfold.gallery import write_report
from kinfold.language import ClusterName, ClusterNames, Name
from kinfold.levels import open_levels
from kinfold.run import Run, read_manifest, write_manifest, write_names
from kinfold.storage import hash_file
from support.galleries import ESTIMATE, make_level_run, set_estimate

NASTY = [
    "<script>alert(1)</script>.jpg",
    '"><img src=x onerror=alert(1)>.png',
    "it's & that.gif",
    "line\nbreak\r\ttab.png",
    "right\u202eto left.png",
    "</style></svg></title>.bmp",
    "{{ 7 * 7 }}{% raw %}.png",
    "zero\x00byte.png",
    "日本語 émoji 🦊.png",
    "x" * 5000,
]


class Reader(HTMLParser):
    """Collects tags, attributes, and the text of elements."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.raw: dict[str, list[str]] = {"style": [], "script": []}
        self._inside = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        self.raw.get(self._inside, self.text).append(data)

    def find(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def read(path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


@pytest.fixture
def page(make_run, make_images, tmp_path):
    def make(images=None, **options):
        run = make_run(**options)
        return read(write_report(run, make_images() if images is None else images, tmp_path / "page.html"))

    return make


def test_every_shown_image_has_a_name_a_confidence_and_its_size(page):
    images = page().find("img")
    assert len(images) >= 50
    for image in images:
        assert re.fullmatch(r"a/\d{3}\.jpg", image["alt"])
        assert re.search(r"confidence (0\.\d\d|1\.00)$", image["title"])
        assert image["src"].startswith("data:image/")
        assert image["loading"] == "lazy"
        assert (image["width"], image["height"]) == ("144", "108")


def test_only_the_rows_shown_are_read_and_each_once(make_run, make_images, tmp_path):
    images = make_images()
    write_report(make_run(n=900, k=3), images, tmp_path / "page.html")
    assert len(images.read_rows) == 180
    assert images.read_rows == sorted(set(images.read_rows))


def test_nasty_names_make_no_tags_and_no_attributes(page, make_images):
    nasty = page(keys=NASTY * 3, skipped=[(name, f"corrupt: {name}") for name in NASTY])
    plain = page(keys=["a.jpg"] * 30, skipped=[("b", "corrupt: c")] * 10, name="plain")
    assert [tag for tag, _ in nasty.tags] == [tag for tag, _ in plain.tags]
    assert [set(attributes) for _, attributes in nasty.tags] == [
        set(attributes) for _, attributes in plain.tags
    ]
    text = "".join(nasty.text)
    assert "<script>alert(1)</script>.jpg" in text
    assert "line\\nbreak\\r\\ttab.png" in text
    assert "right\\u202eto left.png" in text
    assert "\x00" not in text
    assert "{{ 7 * 7 }}" in text


def test_long_names_are_shortened(page):
    assert max(len(image["alt"]) for image in page(keys=NASTY).find("img")) <= 96


def test_manifest_entries_are_escaped_too(page):
    evil = "<b onclick=x>"
    found = page(
        source={"uri": evil, "images": evil, "n_rows": 60, evil: evil},
        parameters={"n_clusters": 3, "method": evil, "random_state": 0},
        diagnosis={"messages": [evil]},
        metrics={"accuracy": 0.5, "classes": {"0": evil, "1": evil, "2": evil}},
    )
    assert not found.find("b")
    assert "".join(found.text).count(evil) >= 7


def test_the_policy_allows_only_the_pages_own_style_and_script(page):
    found = page()
    (policy,) = [meta["content"] for meta in found.find("meta") if "http-equiv" in meta]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        digest = hashlib.sha256("".join(found.raw[kind]).encode()).digest()
        assert rules[f"{kind}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"
    names = {name for _, attributes in found.tags for name in attributes}
    assert "style" not in names
    assert not [name for name in names if name.startswith("on")]


def test_nothing_outside_is_referred_to(page):
    found = page()
    for _, attributes in found.tags:
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "url(" not in "".join(found.raw["style"])
    assert "@import" not in "".join(found.raw["style"])


def test_every_link_has_its_target_and_ids_are_unique(page):
    found = page()
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for link in found.find("a"):
        assert link["href"].removeprefix("#") in ids


def test_the_same_run_gives_the_same_bytes(make_run, make_images, tmp_path):
    run = make_run(n=200, k=5)
    first = write_report(run, make_images(), tmp_path / "a.html").read_bytes()
    assert write_report(run, make_images(), tmp_path / "b.html").read_bytes() == first


def test_an_image_that_is_gone_leaves_a_place_that_says_so(page, make_images):
    found = page(images=make_images(gone=frozenset(range(0, 60, 2))))
    text = "".join(found.text)
    assert text.count("missing: the file is gone") == 30
    assert len(found.find("img")) == 30


def test_without_the_originals_names_are_listed_and_the_page_says_why(make_run, tmp_path):
    found = read(write_report(make_run(), None, tmp_path / "page.html"))
    text = "".join(found.text)
    assert not found.find("img")
    assert "a/000.jpg" in text
    assert "images were not found" in text


def test_ready_features_are_samples_and_need_no_images(make_run, tmp_path):
    source = {"kind": "features", "uri": "/x.npy", "images": None, "n_rows": 60}
    text = "".join(read(write_report(make_run(source=source), None, tmp_path / "page.html")).text)
    assert "60 samples in 3 groups" in text
    assert "not found" not in text


def test_skipped_images_are_counted_by_reason_and_the_first_are_listed(page):
    skipped = [(f"bad{i}.jpg", "truncated: 12 bytes are missing") for i in range(70)] + [("e.jpg", "empty")]
    text = " ".join("".join(page(skipped=skipped).text).split())
    assert "70 truncated" in text
    assert "1 empty" in text
    assert "bad49.jpg" in text
    assert "bad50.jpg" not in text
    assert "and 21 more in skipped.parquet" in text


def test_metrics_and_classes_are_shown_where_the_run_was_evaluated(page):
    metrics = {"accuracy": 0.9123, "nmi": 0.8, "ari": 0.7, "classes": {"1": "tabby cat"}}
    text = "".join(page(metrics=metrics).text)
    assert "0.912" in text
    assert "tabby cat" in text
    assert "accuracy" not in "".join(page(name="plain").text)


def test_warnings_come_with_their_advice(page):
    advice = "2 of 3 clusters are empty. Ask for fewer clusters."
    assert advice in "".join(page(diagnosis={"messages": [advice]}).text)


def test_empty_groups_are_named(page):
    assert "Empty: groups" in "".join(page(n=2, k=9).text)


def test_more_groups_than_sheets_are_counted(make_run, tmp_path):
    path = write_report(
        make_run([f"{'<&>' * 60}{i}" for i in range(9000)], k=1100), None, tmp_path / "page.html"
    )
    assert path.stat().st_size < 10_000_000
    assert "more groups are not shown" in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_million_images_in_a_thousand_groups_stay_within_the_bound(make_run, make_images, tmp_path):
    keys = [f'some/folder/{i:07d} "<&>" name.jpg' for i in range(1_000_000)]
    path = write_report(make_run(keys, k=1000), make_images(noisy=True), tmp_path / "page.html")
    assert path.stat().st_size < 25_000_000
    assert len(read(path).find("img")) == 8000


def test_a_failed_report_leaves_the_old_page(make_run, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")

    class Broken:
        def read(self, row):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        write_report(make_run(), Broken(), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["page.html"]


def give_names(run, *clusters):
    """Name the groups of a run that was written by hand."""
    write_names(run.path / "names.parquet", ClusterNames(clusters))
    manifest = read_manifest(run.path)
    manifest["stages"]["name"] = {
        "inputs": "0",
        "outputs": {"names.parquet": hash_file(run.path / "names.parquet")},
        "seconds": 1.0,
    }
    manifest["naming"] = {"n_named": 2, "parameters": {"min_separation": 0.6}}
    write_manifest(run.path, manifest)
    return Run.open(run.path)


def word(noun, separation=0.9, **more):
    return Name(noun, -1.5, 0.31, separation, **more)


@pytest.fixture
def named(make_run):
    dog = word("dog", 0.97, synset="n02084071", path=("dog", "canine", "carnivore", "entity"))
    return give_names(
        make_run(k=3),
        ClusterName(0, (dog, word("puppy & co", 0.84))),
        ClusterName(1, (word("<b>bold</b>"), word("\u202ereversed"), word("x" * 300))),
        ClusterName(2, reason="no word tells it from the <i>groups</i> beside it"),
    )


@pytest.fixture
def named_page(named, tmp_path):
    return write_report(named, None, tmp_path / "page.html").read_text()


def test_a_named_group_has_its_name_for_a_heading_with_path_and_figures(named_page):
    assert '<h2 id="title-0">dog <span>group 0</span></h2>' in named_page
    assert "a kind of canine &gt; carnivore &gt; entity" in named_page
    assert "puppy &amp; co <span>0.84</span>" in named_page
    assert 'title="separation 0.970, similarity 0.310, score -1.50, n02084071"' in named_page
    assert '<span class="name">dog</span>' in named_page
    assert "2 of 3" in named_page


def test_a_group_without_a_name_says_so_and_why(named_page):
    assert '<h2 id="title-2">Group 2 <span>no name fits</span></h2>' in named_page
    assert "no word tells it from the &lt;i&gt;groups" in named_page


def test_words_are_escaped_shortened_and_never_hide_themselves(named_page):
    assert "<b>bold" not in named_page
    assert "&lt;b&gt;bold&lt;/b&gt; <span>group 1</span>" in named_page
    assert "\u202e" not in named_page
    assert "\\u202ereversed" in named_page
    assert "x" * 100 not in named_page


def test_a_run_without_names_has_the_page_it_had(make_run, tmp_path):
    page = write_report(make_run(k=3), None, tmp_path / "page.html").read_text()
    assert '<h2 id="title-0">Group 0</h2>' in page
    assert "no name fits" not in page
    assert 'class="naming"' not in page
    assert "named groups" not in page


def test_levels_are_told_and_the_estimate_is_drawn_as_text_and_lines(tmp_path, make_run):
    run = make_level_run(tmp_path / "levels")
    plain = read(write_report(run, None, tmp_path / "plain.html"))
    n_parts = open_levels(run).levels.n_parts
    assert f"from 1 to {n_parts} groups" in " ".join(plain.text)
    assert "kinfold level RUN -k 40" in " ".join(plain.text)
    assert not plain.find("polyline")
    drawn = read(write_report(set_estimate(run, ESTIMATE), None, tmp_path / "drawn.html"))
    assert len(drawn.find("polyline")) == 2
    assert [one["class"] for one in drawn.find("circle")] == ["candidate", "chosen", "candidate"]
    assert ESTIMATE["reason"] in drawn.text  # its brackets are text
    older = read(write_report(make_run(), None, tmp_path / "older.html"))
    assert "kinfold level" not in " ".join(older.text)
