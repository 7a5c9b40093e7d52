"""A real joint space of photographs and words, without a hub: words are put where a classifier has its rows.

EfficientNet-Lite0 keeps one row for each of ImageNet's 1,000 classes: the direction, among its pooled
vectors, that photographs of the class lie in. Ridge regression from a sentence encoder's embedding of what a
class is called to the class's row puts every other word among the photographs too. No row or image of a
judged class has a part in how it is made:

- Judged are the 100 classes of ``tiny_imagenet_100.tar``, in the order of their WordNet ids, on its 3,000
  validation images: all of them, or those of every second class (half B: the second, the fourth …). The
  other half (A) chooses what only images can choose.
- The regression is fitted on the other 900 classes. Rows less their mean, at unit length, are what it
  predicts; of its penalties the one is taken that gives the right row the highest mean reciprocal rank among
  the rows left out with it, in ten folds of these 900 classes.
- Photographs are the network's vectors less their mean over the images at hand, which needs no labels, and
  along the 256 directions in which these vary most: five times less work, and neighbours and zero-shot
  classification are as good (docs/studies.md). Rows and words follow them there, and meet them by cosines.
- ``nouns``: all 119,034 nouns of WordNet, each read as it is; a class is read as all lemmas of its synset,
  the mean of their features. ``definitions``: a synset is read as its lemmas and its definition, one text;
  words are the kinds of physical entities, those that can be photographed, each called by its first lemma, of
  several with the same one that of the most frequent sense. ``rows``: no regression, the classifier's own
  rows of all 1,000 classes, the judged ones too: what perfect words would give.

References
----------
Frome et al. (2013), "DeViSE: A Deep Visual-Semantic Embedding Model", NIPS. Shigeto et al. (2015), "Ridge
Regression, Hubness, and Zero-Shot Learning", ECML: why words go to images and not the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.backbones._efficientnet_lite import is_installed, load_efficientnet_lite
from kinfold.benchmark import class_list
from kinfold.errors import InputError
from kinfold.hierarchy import ClassTree, load_wordnet
from kinfold.language import PLAIN, TextEncoder, embed_nouns, load_text_encoder
from kinfold.language.nouns import mean_direction
from studies import glosses, photographs
from studies.words import Words

READINGS = ("nouns", "definitions", "rows")
HALVES = {"A": 0, "B": 1}  # every second class, from this one on
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
N_FOLDS = 10
ENTITY = "n00001930"  # physical entity
N_DIRECTIONS = 256

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class WordMap:
    """Ridge regression from texts to rows.

    Attributes
    ----------
    coefficients : ndarray (d, D) float64
        From centred text features to centred rows.
    text_mean, row_mean : ndarray (d,), (D,) float64
        What both are centred by.
    """

    coefficients: NDArray[np.float64]
    text_mean: NDArray[np.float64]
    row_mean: NDArray[np.float64]

    def place(self, texts: Vectors, directions: Vectors | None = None) -> Vectors:
        """Return where texts (n, d) lie among the rows, or along directions (D, m), at unit length."""
        coefficients, row_mean = self.coefficients, self.row_mean
        if directions is not None:  # first: the texts are many
            coefficients, row_mean = coefficients @ directions, row_mean @ directions
        placed = (texts - self.text_mean.astype(np.float32)) @ coefficients.astype(np.float32)
        placed += row_mean.astype(np.float32)
        placed /= np.linalg.norm(placed, axis=1, keepdims=True)
        return placed


class Ridge:
    """Least squares of rows by texts, made ready for any penalty of the squared coefficients.

    Parameters
    ----------
    texts : ndarray (n, d)
        Features of texts.
    rows : ndarray (n, D)
        Where each belongs.
    """

    def __init__(self, texts: Vectors, rows: NDArray[np.floating[Any]]) -> None:
        T, Y = np.asarray(texts, np.float64), np.asarray(rows, np.float64)
        self._text_mean, self._row_mean = T.mean(axis=0), Y.mean(axis=0)
        T = T - self._text_mean
        self._values, self._vectors = np.linalg.eigh(T.T @ T)
        self._products = self._vectors.T @ (T.T @ (Y - self._row_mean))

    def map(self, penalty: float) -> WordMap:
        """Return the solution of ``min ‖Y − T B‖² + penalty ‖B‖²``, both centred."""
        shrunk = self._products / (self._values + penalty)[:, None]
        return WordMap(self._vectors @ shrunk, self._text_mean, self._row_mean)


def rank_left_out(texts: Vectors, rows: NDArray[np.floating[Any]]) -> dict[float, NDArray[np.int64]]:
    """Return for every penalty the rank of the right row among those left out with it, 1 for the closest."""
    folds = np.random.default_rng(0).permutation(len(texts)) % min(N_FOLDS, len(texts))
    ranks = {penalty: np.empty(len(texts), np.int64) for penalty in PENALTIES}
    for fold in np.unique(folds):
        out = folds == fold
        ridge, targets = Ridge(texts[~out], rows[~out]), _unit(rows[out])
        for penalty, ranks_ in ranks.items():
            cosines = ridge.map(penalty).place(texts[out]) @ targets.T
            ranks_[out] = 1 + (cosines > np.diag(cosines)[:, None]).sum(axis=1)
    return ranks


def choose_penalty(ranks: dict[float, NDArray[np.int64]]) -> float:
    """Return the penalty of the highest mean reciprocal rank, the larger one of equals."""
    return max(ranks, key=lambda penalty: (float((1 / ranks[penalty]).mean()), penalty))


@dataclass(frozen=True)
class WordSpace:
    """Photographs and words in one space.

    Attributes
    ----------
    X : ndarray (N, 256) float32
        Photographs, along their leading directions.
    y : ndarray (N,) int64
        Number of the class.
    words : Words
        In the same space.
    """

    X: Vectors
    y: NDArray[np.int64]
    words: Words


def what_is_missing(folder: Path | None) -> str | None:
    """Return why the space can't be made here, None where it can."""
    if not is_installed():
        return "the network is not installed (pip install 'kinfold[small]')"
    return photographs.what_is_missing(folder) or glosses.what_is_missing()


def load_word_space(
    folder: Path | None,
    reading: str = "nouns",
    *,
    half: str | None = None,
    own_words: bool = True,
    centred: bool = True,
) -> WordSpace:
    """Return photographs of Tiny-ImageNet with words among them.

    Parameters
    ----------
    folder : Path
        Of ``tiny_imagenet_100.tar``.
    reading : {"nouns", "definitions", "rows"}, default "nouns"
        What words are, and how they are read.
    half : {"A", "B"}, optional
        Photographs of every second class alone; of all 100 where it isn't given.
    own_words : bool, default True
        Whether the lemmas of the photographs' classes are among the nouns.
    centred : bool, default True
        Whether the photographs' mean is taken off them.

    Raises
    ------
    InputError
        Something is missing; the error says what.
    """
    missing = what_is_missing(folder)
    if folder is None or missing:
        raise InputError(f"the space of words and photographs can't be made: {missing}")
    judged = judged_classes(folder)
    _, (X, y) = photographs.load_photographs(folder)
    if half:
        kept = np.arange(HALVES[half], len(judged), 2)
        rows = np.isin(y, kept)
        X, y = X[rows], np.searchsorted(kept, y[rows])
        classes = tuple(judged[number] for number in kept)
    else:
        classes = judged
    if centred:
        X = X - X.mean(axis=0)
    directions = photographs.leading_directions(X, N_DIRECTIONS)
    nouns, features = _vocabulary(reading, judged, directions)
    if not own_words:
        kept = glosses.keep_nouns(nouns, [load_wordnet().lemmas(synset) for synset in classes])
        nouns, features = tuple(nouns[number] for number in kept), features[kept]
    tree = make_tree(classes)
    placed = _place_synsets(reading, judged, tree.ids, directions)
    by_id = dict(zip(tree.ids, placed, strict=True))
    of_classes = np.stack([by_id[synset] for synset in classes])
    return WordSpace(X @ directions, y, Words(features, nouns, of_classes, classes, tree, placed))


def judged_classes(folder: Path) -> tuple[str, ...]:
    """Return the synsets of the photographs, in the order that their classes are numbered in."""
    return tuple(sorted({*photographs.read_annotations(folder / photographs.ARCHIVE).values()}))


def make_tree(classes: Sequence[str]) -> ClassTree:
    """Return the tree of synsets and of what lies above several of them.

    Of synsets above the same classes the lowest stands for all, so that every inner class is a choice.
    """
    wordnet = load_wordnet()
    below: dict[str, set[str]] = {}
    for synset in classes:
        for above in (synset, *wordnet.ancestors(synset)):
            below.setdefault(above, set()).add(synset)
    lowest: dict[frozenset[str], str] = {}
    for synset in sorted(below, key=lambda one: (wordnet.depth(one, longest=True), one)):
        if len(below[synset]) > 1:
            lowest[frozenset(below[synset])] = synset
    inner = sorted({*lowest.values()}.difference(classes))
    return ClassTree.from_wordnet([*classes, *inner])


@cache
def list_kinds() -> tuple[str, ...]:
    """Return the kinds of physical entities, by their ids."""
    return tuple(sorted((ENTITY, *load_wordnet().descendants(ENTITY, instances=False))))


def call_kinds() -> dict[str, str]:
    """Return kinds by their first lemmas, of several with the same one that of the most frequent sense."""
    wordnet = load_wordnet()
    called: dict[str, list[str]] = {}
    for synset in list_kinds():
        called.setdefault(wordnet.name(synset), []).append(synset)
    return {
        name: synsets[0] if len(synsets) == 1 else min(synsets, key=wordnet.synsets(name).index)
        for name, synsets in called.items()
    }


def define(synsets: Sequence[str]) -> list[str]:
    """Return what synsets are read as: their lemmas, and their definitions."""
    found = glosses.read_glosses(glosses.find_database())
    return [f"{', '.join(load_wordnet().lemmas(synset))}: {found[synset]}" for synset in synsets]


@cache
def fit_words(reading: str, judged: tuple[str, ...]) -> WordMap:
    """Return the map of a reading, fitted on ImageNet's classes without the judged ones."""
    fitted = [synset for synset in class_list("imagenet1k") if synset not in judged]
    texts, rows = read_synsets(reading, fitted), classifier_rows(fitted, judged)
    return Ridge(texts, rows).map(choose_penalty(rank_left_out(texts, rows)))


def read_synsets(reading: str, synsets: Sequence[str]) -> Vectors:
    """Return the text features of synsets by a reading, at unit length; kept in the cache of nouns."""
    if reading == "definitions":
        kinds = list_kinds()  # one list of texts, so that they are read once for all
        known = {*kinds}
        others = [synset for synset in synsets if synset not in known]
        features = _read(define(kinds))
        if others:
            features = np.concatenate([features, _read(define(others))])
        number_of = {synset: number for number, synset in enumerate([*kinds, *others])}
        return features[[number_of[synset] for synset in synsets]]
    names = [load_wordnet().lemmas(synset) for synset in synsets]
    features = _read([name for several in names for name in several])
    parts = np.split(features, np.cumsum([len(several) for several in names])[:-1])
    return np.concatenate([mean_direction(part[None]) for part in parts])


def classifier_rows(synsets: Sequence[str], judged: Sequence[str]) -> NDArray[np.float64]:
    """Return the classifier's rows of synsets at unit length, less the mean of those that aren't judged."""
    order = class_list("imagenet1k")
    weight = load_efficientnet_lite().model.classifier.weight.detach().numpy().astype(np.float64)
    mean = weight[[number for number, synset in enumerate(order) if synset not in judged]].mean(axis=0)
    return _unit(weight[[order.index(synset) for synset in synsets]] - mean)


def _vocabulary(
    reading: str, judged: tuple[str, ...], directions: Vectors
) -> tuple[tuple[str, ...], Vectors]:
    """Return nouns and where they lie."""
    if reading == "nouns":
        found = embed_nouns(_encoder(), prompts=PLAIN)
        return found.nouns, fit_words(reading, judged).place(found.features, directions)
    if reading == "definitions":
        kinds = call_kinds()
        return tuple(kinds), _place_synsets(reading, judged, tuple(kinds.values()), directions)
    of_classes: dict[str, str] = {}
    for synset in class_list("imagenet1k"):
        of_classes.setdefault(load_wordnet().name(synset), synset)
    rows = classifier_rows(list(of_classes.values()), judged)
    return tuple(of_classes), rows.astype(np.float32) @ directions


def _place_synsets(
    reading: str, judged: tuple[str, ...], synsets: Sequence[str], directions: Vectors
) -> Vectors:
    """Return where synsets lie; of ``rows`` an inner class is the mean of those below it."""
    if reading != "rows":
        return fit_words(reading, judged).place(read_synsets(reading, synsets), directions)
    order = class_list("imagenet1k")
    known = classifier_rows(order, judged)
    wordnet = load_wordnet()
    members = [{synset, *wordnet.descendants(synset)} for synset in synsets]
    means = [
        known[[number for number, one in enumerate(order) if one in own]].mean(axis=0) for own in members
    ]
    return np.stack(means).astype(np.float32) @ directions


def _read(texts: Sequence[str]) -> Vectors:
    """Return the features of texts, which may be equal, by way of the cache."""
    return glosses.embed_texts(_encoder(), list(texts))


@cache
def _encoder() -> TextEncoder:
    folder = glosses.find_model()
    assert folder is not None, "what_is_missing() comes first"
    return load_text_encoder(folder, precision="float32")


def _unit(rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    found = np.asarray(rows, np.float64)
    unit: NDArray[np.float64] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit
