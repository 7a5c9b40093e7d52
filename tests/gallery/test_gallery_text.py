"""Names, numbers and facts as text."""

from __future__ import annotations

import pytest

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
