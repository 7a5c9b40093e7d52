"""``python -m studies.naming``: names of true categories, and of random groups, in a real joint space.

The categories of :mod:`studies.glosses` are the groups: the right name of one is a lemma of its synset.
``kin`` counts names that mean the category's synset or one below it. The same glosses dealt out by lot, in
groups of the same sizes or all of one size, should get no names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.hierarchy import load_wordnet
from kinfold.language import ClusterNames, Name, name_clusters
from studies.glosses import DOMAINS, GlossSpace, find_categories, load_glosses

SEEDS = range(3)
SIZES = (5, 10, 20, 50, 100, 200)
RELATIONS = ("class", "hypernym", "hyponym", "other")


def main(say: Callable[[str], None] = print) -> None:
    """Entry point."""
    for domain in DOMAINS:
        space = load_glosses(domain)
        categories = list(find_categories(domain))
        for needed in (0.0, 0.6, 0.7, 0.8):
            names = _name(space, space.y, needed)
            right, kin = _judge(names, categories)
            named = sum(noun is not None for noun in names.nouns)
            say(f"{domain}: {len(categories)} categories, least separation {needed}: ")
            say(f"  named {named}, right {right}, kin {kin}, right among five {_among(names, categories)}")
        for row in zip(categories, _name(space, space.y, 0.6).values(), strict=True):
            words = ", ".join(f"{name.noun} {name.separation:.2f}" for name in row[1].names)
            say(f"    {load_wordnet().name(row[0])}: {words or row[1].reason}")
        say(f"{domain}, random groups of the true sizes: {_lot(space, None)}")
        for size in SIZES:
            say(f"{domain}, random groups of {size}: {_lot(space, size)}")


def judge_names(names: ClusterNames, synsets: Sequence[str]) -> dict[str, Any]:
    """Count what the first names of groups are to the synsets that the groups stand for.

    Returns
    -------
    dict
        ``named``: groups that have a name; ``class``, ``hypernym``, ``hyponym`` and ``other``: how many of
        these are which (:func:`relation`); ``names``: the name of each group, or None.
    """
    pairs = [(one.names[0], synset) for one, synset in zip(names.values(), synsets, strict=True) if one.names]
    counts = Counter(relation(name, synset) for name, synset in pairs)
    kinds = {kind: counts[kind] for kind in RELATIONS}
    return {"named": len(pairs), **kinds, "names": list(names.nouns)}


def relation(name: Name, synset: str) -> str:
    """Return what a name is to a synset: a word for it (``class``), or by its sense above or below it."""
    wordnet = load_wordnet()
    if name.synset == synset or name.noun in wordnet.lemmas(synset):
        return "class"
    if name.synset in wordnet.ancestors(synset):
        return "hypernym"
    if name.synset is not None and synset in wordnet.ancestors(name.synset):
        return "hyponym"
    return "other"


def _name(space: GlossSpace, groups: NDArray[np.int64], needed: float) -> ClusterNames:
    n_groups = int(groups.max()) + 1
    return name_clusters(
        space.X, groups, n_groups, space.noun_features, space.nouns, min_separation=needed, device="cpu"
    )


def _judge(names: ClusterNames, categories: list[str]) -> tuple[int, int]:
    """Return how many first names are lemmas of their category, and how many mean it or something below."""
    wordnet = load_wordnet()
    right = kin = 0
    for category, one in zip(categories, names.values(), strict=True):
        if one.names:
            right += one.noun in wordnet.lemmas(category)
            synset = one.names[0].synset
            kin += synset == category or (synset is not None and category in wordnet.ancestors(synset))
    return right, kin


def _among(names: ClusterNames, categories: list[str]) -> int:
    """Return for how many categories one of the words is a lemma."""
    pairs = zip(categories, names.values(), strict=True)
    return sum(any(word.noun in load_wordnet().lemmas(c) for word in one.names) for c, one in pairs)


def _lot(space: GlossSpace, size: int | None) -> str:
    """Deal glosses out by lot, at most 100 groups of a size, and return how many groups got a name."""
    named = total = 0
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(len(space.y))
        groups = np.full(len(space.y), -1)
        if size is None:
            groups[order] = np.sort(space.y)
        else:
            n_groups = min(100, len(order) // size)
            groups[order[: n_groups * size]] = np.arange(n_groups * size) % n_groups
        names = _name(space, groups, 0.6)
        named += sum(noun is not None for noun in names.nouns)
        total += len(names)
    return f"{named} of {total} named"


if __name__ == "__main__":
    main()
