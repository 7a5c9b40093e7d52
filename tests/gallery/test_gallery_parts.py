from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from kinfold.gallery._groups import draw_bars, draw_confidence, draw_sizes, trace
from kinfold.gallery._html import embed_images
from kinfold.gallery._text import collect_facts, collect_warnings, show_confidence, show_name, show_seconds


def test_names_show_what_is_invisible():
    assert show_name("a\nb\u202ec\ud800d") == "a\\nb\\u202ec\\ud800d"
    assert show_name("plain name (1).jpg") == "plain name (1).jpg"


def test_long_names_keep_both_ends():
    shown = show_name("begin" + "x" * 500 + "end.jpg", 40)
    assert len(shown) == 40
    assert shown.startswith("begin")
    assert shown.endswith("end.jpg")
    assert len(show_name("\u202e" * 500, 40)) == 40


@pytest.mark.parametrize(
    ("value", "shown"), [(1.0, "1.00"), (0.9996, "1.00"), (0.997, "0.99"), (0.5, "0.50"), (0.0, "0.00")]
)
def test_confidence_is_never_rounded_up_to_certainty(value, shown):
    assert show_confidence(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.42, "0.4 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_read_well(seconds, shown):
    assert show_seconds(seconds) == shown


def test_bars_scale_to_the_largest_and_nothing_vanishes():
    bars = draw_bars([1000, 500, 1, 0], "abcd")
    assert [bar.height for bar in bars] == [100, 50, 1.5, 0]


def test_very_many_groups_are_drawn_as_an_even_choice():
    bars = draw_sizes(np.arange(5000))
    assert len(bars) == 240
    assert bars[0].title == "Group 4999: 4,999"
    assert bars[-1].title == "Group 0: 0"


def test_confidence_bars_name_their_bins():
    bars = draw_confidence(np.array([1, 2, 0, 4]))
    assert bars[1].title == "0.25 to 0.50: 2"


def test_a_trace_has_one_bar_per_filled_bin():
    assert trace(np.array([0, 2, 1])).count("M") == 2
    assert trace(np.zeros(3, int)) == "M0 100"


def test_facts_leave_out_hashes_and_nested_tables():
    manifest = {
        "source": {"uri": "/p", "fingerprint": "abc", "n_rows": 12345},
        "backbone": {"card": {"name": "hog", "preprocessing": {"height": 1}}, "variants": {"cls": 9}},
        "parameters": {"random_state": 12345, "method_parameters": {"n_heads": 16, "beta": 0.6}},
        "timings": {"fit_seconds": 61.0},
    }
    facts = {(each.title, fact.name): fact.value for each in collect_facts(manifest) for fact in each.facts}
    assert facts == {
        ("Source", "where"): "/p",
        ("Source", "found"): "12,345",
        ("Backbone", "name"): "hog",
        ("Grouping", "seed"): "12345",
        ("Grouping", "heads"): "16",
        ("Grouping", "beta"): "0.6",
        ("Time", "fit"): "1 min 1 s",
    }


def test_a_strange_manifest_is_no_error():
    assert collect_facts({"source": None, "machine": [], "timings": {}}) == []
    assert collect_warnings({"diagnosis": {"messages": "no list"}}) == []


def test_thumbnails_keep_the_limit_even_for_noise(make_images):
    found = embed_images(make_images(noisy=True), [5, 1, 5], 144, 1200)
    assert sorted(found) == [1, 5]
    for thumbnail in found.values():
        data = base64.b64decode(thumbnail.uri.split(",", 1)[1])
        assert len(data) <= 1200
        image = Image.open(io.BytesIO(data))
        assert max(image.size) <= 144
        assert image.width / image.height == pytest.approx(4 / 3, rel=0.1)


def test_thumbnails_name_the_size_they_have(make_images):
    (thumbnail,) = embed_images(make_images(noisy=True), [0], 100, 700).values()
    image = Image.open(io.BytesIO(base64.b64decode(thumbnail.uri.split(",", 1)[1])))
    assert image.size == (thumbnail.width, thumbnail.height)


def test_panoramas_are_not_cropped(make_images):
    class Panorama:
        def read(self, row):
            stream = io.BytesIO()
            Image.new("RGB", (900, 100)).save(stream, format="PNG")
            return stream.getvalue()

    assert embed_images(Panorama(), [0], 96, 5000)[0].is_oblong
    assert not embed_images(make_images(), [0], 96, 5000)[0].is_oblong


def test_an_image_that_is_no_image_says_so():
    class Text:
        def read(self, row):
            return b"hello"

    thumbnail = embed_images(Text(), [0], 96, 5000)[0]
    assert thumbnail.uri == ""
    assert thumbnail.reason.startswith("not an image")
