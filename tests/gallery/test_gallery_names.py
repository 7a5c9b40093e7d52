from __future__ import annotations

import pytest

from kinfold.gallery import write_report
from kinfold.language import ClusterName, ClusterNames, Name
from kinfold.run import Run, read_manifest, write_manifest, write_names


def give_names(run, *clusters):
    """Name the groups of a run that was written by hand."""
    write_names(run.path / "names.parquet", ClusterNames(clusters))
    manifest = read_manifest(run.path)
    manifest["stages"]["name"] = {"outputs": {"names.parquet": "0"}}
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
def page(named, tmp_path):
    return write_report(named, None, tmp_path / "page.html").read_text()


def test_a_named_group_has_its_name_for_a_heading_with_path_and_figures(page):
    assert '<h2 id="title-0">dog <span>group 0</span></h2>' in page
    assert "a kind of canine &gt; carnivore &gt; entity" in page
    assert "puppy &amp; co <span>0.84</span>" in page
    assert 'title="separation 0.970, similarity 0.310, score -1.50, n02084071"' in page
    assert '<span class="name">dog</span>' in page
    assert "2 of 3" in page


def test_a_group_without_a_name_says_so_and_why(page):
    assert '<h2 id="title-2">Group 2 <span>no name fits</span></h2>' in page
    assert "no word tells it from the &lt;i&gt;groups" in page


def test_words_are_escaped_shortened_and_never_hide_themselves(page):
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold&lt;/b&gt; <span>group 1</span>" in page
    assert "\u202e" not in page
    assert "\\u202ereversed" in page
    assert "x" * 100 not in page


def test_a_run_without_names_has_the_page_it_had(make_run, tmp_path):
    page = write_report(make_run(k=3), None, tmp_path / "page.html").read_text()
    assert '<h2 id="title-0">Group 0</h2>' in page
    assert "no name fits" not in page
    assert 'class="naming"' not in page
    assert "named groups" not in page
