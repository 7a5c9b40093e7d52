"""Claims about the categories of glosses: the rule, against a plain walk; definitions without examples."""

from __future__ import annotations

import numpy as np
import pytest

from kinfold.hierarchy import load_wordnet
from studies.glosses import (
    DOMAINS,
    LEAST,
    MOST,
    define,
    find_categories,
    find_database,
    keep_nouns,
    read_glosses,
)


def below(synset: str) -> set[str]:
    """Return the synset and all kinds of it, by recursion."""
    return {synset}.union(*(below(one) for one in load_wordnet().hyponyms(synset)))


def tops_of(synset: str) -> set[str]:
    """Return the highest synsets of the right size below one, by recursion."""
    found = set()
    for one in load_wordnet().hyponyms(synset):
        size = len(below(one))
        found |= tops_of(one) if size > MOST else {one} if size >= LEAST else set()
    return found


@pytest.mark.parametrize("domain", DOMAINS)
def test_categories_are_the_highest_synsets_of_the_right_size_less_what_they_share(domain):
    members = {top: below(top) for top in tops_of(DOMAINS[domain])}
    members = {
        top: own for top, own in members.items() if not any(top in members[o] for o in members if o != top)
    }
    alone = {
        top: own.difference(*(other for name, other in members.items() if name != top))
        for top, own in members.items()
    }
    assert {name: set(own) for name, own in find_categories(domain).items()} == {
        top: own for top, own in alone.items() if len(own) >= LEAST
    }


@pytest.mark.parametrize(
    ("domain", "n_categories", "n_samples"), [("artifact", 24, 7902), ("organism", 36, 12940)]
)
def test_the_domains_are_those_that_were_fixed_before_the_first_fit(domain, n_categories, n_samples):
    found = find_categories(domain)
    assert len(found) == n_categories
    assert sum(len(own) for own in found.values()) == n_samples
    assert list(found) == sorted(found)


@pytest.mark.parametrize(
    ("gloss", "definition"),
    [
        ('a domestic animal; "he kept one"; "so did she"', "a domestic animal"),
        ("an entity; one that casts a shadow", "an entity; one that casts a shadow"),
        ('the "north" of a compass', 'the "north" of a compass'),
    ],
)
def test_a_definition_ends_before_the_first_example(gloss, definition):
    assert define(f"{gloss}  \n") == definition


def test_every_synset_has_a_definition():
    if not find_database().is_file():
        pytest.skip(f"{find_database()} is missing: apt-get install wordnet-base, or KINFOLD_WORDNET")
    glosses = read_glosses(find_database())
    assert list(glosses) == list(load_wordnet().ids)
    assert all(glosses.values())
    assert glosses["n02084071"].startswith("a member of the genus Canis")
    assert not any('; "' in gloss for gloss in glosses.values())


def test_own_words_are_left_out_whatever_their_case():
    nouns = ("Bird", "bird", "birdcage", "dog")
    assert keep_nouns(nouns, [("bird",), ("cat", "true cat")]).tolist() == [2, 3]
    np.testing.assert_array_equal(keep_nouns(nouns, []), range(4))
