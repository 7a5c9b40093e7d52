"""Name each cluster by nouns that describe it and set it apart from its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kinfold.compute import resolve_device
from kinfold.errors import InputError
from kinfold.hierarchy import WordNet, load_wordnet
from kinfold.language._choice import check_labels, check_logit_scale, check_widths
from kinfold.language._words import (
    ClusterSamples,
    SenseChooser,
    Words,
    as_key,
    find_words,
    reached_by_chance,
    read_clusters,
)
from kinfold.language.space import unit_rows
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix, SelectedRows, as_row_matrix
from kinfold.validation import SEED, Constraint, Integer, Number, check

N_NAMES = 5  # the name and a few further words, which tell a reader how sure it is
# More candidates find a better word more often, but raise what chance reaches: its bound allows for each.
N_CANDIDATES = 64
# A name must set a cluster apart from its neighbours: from clusters far away nearly every word does.
N_RIVALS = 5
# An effect that a reader can see. Measured in docs/methods.md: higher bars lose good names and gain none.
MIN_SEPARATION = 0.6

# Images that separations are measured on. From 145 on it is MIN_SEPARATION that decides and not chance, so
# that more images would cost time and change few names.
_IMAGES_PER_CLUSTER = 256
_RULES: dict[str, Constraint] = {
    "n_clusters": Integer(),
    "n_names": Integer(),
    "n_candidates": Integer(),
    "n_rivals": Integer(),
    "min_separation": Number(least=0, most=1),
    "random_state": SEED,
}

# Reasons are written into runs and shown on the page, which says "group" for a cluster.
_EMPTY = "it has no images"
_NO_DIRECTION = "its images have no common direction"
_ALONE = "there is no other group to tell it from"
_TOO_FEW = "it or its neighbours have too few images to tell a fitting word from chance"
_TAKEN = "every word that fits it names another group better"


@dataclass(frozen=True)
class Name:
    """A noun that may name a cluster.

    Attributes
    ----------
    noun : str
        The word.
    score : float
        log p(noun | cluster) + log p(cluster | noun, among the cluster and its rivals); at most 0.
    similarity : float
        Cosine of the word and the cluster's centre.
    separation : float
        Probability that an image of the cluster lies closer to the word than one of its rivals; ½ is chance.
    synset : str or None
        WordNet's id of what is meant; None for words that WordNet doesn't have.
    path : tuple of str
        Names from this synset up to ``entity``.
    """

    noun: str
    score: float
    similarity: float
    separation: float
    synset: str | None = None
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClusterName:
    """The names of one cluster.

    Attributes
    ----------
    cluster : int
        Its number.
    names : tuple of Name
        The first one is the cluster's name, which no other cluster has; further words by falling score. Empty
        where no word fits.
    reason : str
        Why no word fits; empty where one does.
    """

    cluster: int
    names: tuple[Name, ...] = ()
    reason: str = ""

    @property
    def noun(self) -> str | None:
        """The name, or None."""
        return self.names[0].noun if self.names else None


@dataclass(frozen=True)
class ClusterNames(Mapping[int, ClusterName]):
    """The names of all clusters, by their numbers.

    Attributes
    ----------
    clusters : tuple of ClusterName
        Of cluster 0, 1, … K − 1.
    parameters : Mapping
        What they were found with, defaults too.
    """

    clusters: tuple[ClusterName, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, cluster: int) -> ClusterName:
        if not 0 <= cluster < len(self.clusters):
            raise KeyError(cluster)
        return self.clusters[cluster]

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.clusters)))

    def __len__(self) -> int:
        return len(self.clusters)

    @property
    def nouns(self) -> tuple[str | None, ...]:
        """The name of each cluster, None where no word fits."""
        return tuple(one.noun for one in self.clusters)


def choose_names(
    clusters: ClusterSamples, found: Words, chooser: SenseChooser, n_names: int, min_separation: float
) -> tuple[ClusterName, ...]:
    """Return the names of all clusters, or the reason why one has none."""
    place_of = {int(cluster): place for place, cluster in enumerate(found.clusters)}
    reasons: dict[int, str] = {}
    fitting: dict[int, list[int]] = {}  # place → which of its candidates fit, the best first
    for cluster, size in enumerate(clusters.sizes):
        if cluster not in place_of:
            reasons[cluster] = _NO_DIRECTION if size else _EMPTY
            continue
        place = place_of[cluster]
        fitting[place], reasons[cluster] = _fitting(clusters, found, place, chooser.nouns, min_separation)
    # First names are given to all clusters at once, so that none depends on the order of clusters.
    firsts = _give_away(found, fitting, chooser.nouns)
    named = []
    for cluster in range(len(clusters.sizes)):
        first = firsts.get(place_of.get(cluster, -1))
        if first is None:
            named.append(ClusterName(cluster, reason=reasons[cluster] or _TAKEN))
            continue
        place = place_of[cluster]
        order = [first, *(one for one in fitting[place] if one != first)][:n_names]
        senses = chooser.choose([int(found.nouns[place, one]) for one in order], clusters.centres[cluster])
        named.append(
            ClusterName(
                cluster,
                tuple(
                    Name(
                        sense.noun,
                        float(found.scores[place, one]),
                        float(found.similarities[place, one]),
                        float(found.separations[place, one]),
                        sense.synset,
                        sense.path,
                    )
                    for one, sense in zip(order, senses, strict=True)
                ),
            )
        )
    return tuple(named)


def _fitting(
    clusters: ClusterSamples, found: Words, place: int, nouns: Sequence[str], min_separation: float
) -> tuple[list[int], str]:
    """Return which candidates of a cluster fit, best first and each word once, or none and the reason."""
    scores, separations = found.scores[place], found.separations[place]
    needed = _needed(clusters, found, place, min_separation)
    order = np.lexsort((found.nouns[place], -found.similarities[place], -scores))
    # Best last, so that of two spellings of one word the better scored one stays in the mapping.
    fits = {
        as_key(nouns[found.nouns[place, one]]): int(one) for one in order[::-1] if separations[one] >= needed
    }
    kept = sorted(fits.values(), key=order.tolist().index)
    if kept:
        return kept, ""
    if not found.rivals.shape[1]:
        return [], _ALONE
    if needed > 1:
        return [], _TOO_FEW
    return [], (
        f"no word tells it from the groups beside it: the best reaches a separation of "
        f"{separations.max():.2f}, {needed:.2f} is needed"
    )


def _needed(clusters: ClusterSamples, found: Words, place: int, min_separation: float) -> float:
    """Return the separation that a word of a cluster needs."""
    if min_separation == 0:
        return 0.0
    sizes = [len(clusters.samples[cluster]) for cluster in (found.clusters[place], *found.rivals[place])]
    return max(min_separation, reached_by_chance(sizes[0], sizes[1:], found.nouns.shape[1]))


def _give_away(found: Words, fitting: Mapping[int, Sequence[int]], nouns: Sequence[str]) -> dict[int, int]:
    """Return the first name of each cluster, as one of its candidates, so that no two have the same.

    Every cluster asks for its best word. Of several that want one word the one with the highest score keeps
    it, and the others ask for their next. This is stable matching (Gale and Shapley) by one score.
    """
    holder: dict[str, int] = {}
    asked = dict.fromkeys(fitting, 0)
    waiting = sorted(fitting, reverse=True)
    while waiting:
        place = waiting.pop()
        if asked[place] == len(fitting[place]):
            continue
        one = fitting[place][asked[place]]
        word = as_key(nouns[found.nouns[place, one]])
        other = holder.get(word)
        if other is not None:
            held = fitting[other][asked[other]]
            # A tie keeps the holder; lower places ask first, so that ties go by the order of clusters.
            keeps = found.scores[other, held] >= found.scores[place, one]
            place, other = (other, place) if keeps else (place, other)
            asked[other] += 1
            waiting.append(other)
        holder[word] = place
    return {place: fitting[place][asked[place]] for place in holder.values()}


def name_clusters(
    X: ArrayLike | RowMatrix,
    labels: ArrayLike,
    n_clusters: int,
    noun_features: ArrayLike | RowMatrix,
    nouns: Sequence[str],
    *,
    n_names: int = N_NAMES,
    n_candidates: int = N_CANDIDATES,
    n_rivals: int = N_RIVALS,
    logit_scale: float | None = None,
    min_separation: float = MIN_SEPARATION,
    wordnet: WordNet | None = None,
    device: str = "auto",
    random_state: int = 0,
    progress: Progress = SILENT,
) -> ClusterNames:
    """Find the words that fit each cluster of images and tell it from the clusters beside it.

    The nouns closest to a cluster's centre are ranked by ``log p(noun | cluster) + log p(cluster | noun)``: a
    softmax of ``logit_scale`` times the cosine over all nouns, and one over the cluster and its rivals. Of
    these, words stay that separate images of the cluster from images of its rivals, better than
    ``min_separation`` and better than some word would separate a random cluster of this size (see
    docs/methods.md). A cluster where no word stays has no name.

    Parameters
    ----------
    X : array-like or row matrix (N, D)
        Image features in the joint space, of any length; read in blocks. Rows of zeros are left out.
    labels : array-like of int (N,)
        Group of each row, 0 … K − 1; −1 for none.
    n_clusters : int
        K. ClusterSamples may be empty.
    noun_features : array-like or row matrix (V, D)
        Features of the nouns in the same space; read in blocks.
    nouns : sequence of str (V,)
        The nouns. One that stands twice counts once, by its first features.
    n_names : int, default 5
        Words per cluster at most.
    n_candidates : int, default 64
        Words of highest cosine with the centre that are looked at.
    n_rivals : int, default 5
        Closest other clusters that a word must tell the cluster from.
    logit_scale : float, optional
        Factor of cosines in both softmaxes: the text encoder's. CLIP's, 100, if not given.
    min_separation : float, default 0.6
        The least that counts, in [0, 1]. 0 asks for nothing: the best words of every cluster that has images.
    wordnet : WordNet, optional
        Where senses and paths are from; the package's if not given.
    device : str, default "auto"
        Where to compute.
    random_state : int, default 0
        Seed of the choice of 256 images for each larger cluster, which separations are measured on.
    progress : Progress
        Receives progress.

    Returns
    -------
    ClusterNames
        A permutation of rows, or of the clusters' numbers, permutes it and changes nothing else.

    Raises
    ------
    InputError
        Shapes or widths don't fit, a noun has no direction, a row isn't finite, or a parameter is out of
        range.
    """
    check(
        _RULES,
        n_clusters=n_clusters,
        n_names=n_names,
        n_candidates=n_candidates,
        n_rivals=n_rivals,
        min_separation=min_separation,
        random_state=random_state,
    )
    scale = check_logit_scale(logit_scale)
    where = resolve_device(device)
    matrix = as_row_matrix(X)
    numbers = check_labels(labels, int(matrix.shape[0]), n_clusters).astype(np.int64)
    words, features = _distinct(nouns, as_row_matrix(noun_features))
    rows = unit_rows(features, where, name="nouns")
    check_widths(int(matrix.shape[1]), rows.dim, "the images", "the nouns")
    clusters = read_clusters(
        matrix,
        numbers,
        n_clusters,
        n_samples=_IMAGES_PER_CLUSTER,
        seed=random_state,
        device=where,
        progress=progress,
    )
    found = find_words(clusters, matrix, rows, n_candidates, n_rivals, scale, progress)
    chooser = SenseChooser(words, rows, wordnet or load_wordnet())
    parameters = {
        "n_names": n_names,
        "n_candidates": n_candidates,
        "n_rivals": n_rivals,
        "logit_scale": scale,
        "min_separation": float(min_separation),
        "random_state": random_state,
    }
    return ClusterNames(choose_names(clusters, found, chooser, n_names, min_separation), parameters)


def _distinct(nouns: Sequence[str], features: RowMatrix) -> tuple[tuple[str, ...], RowMatrix]:
    """Return the nouns, each once, with their features."""
    if isinstance(nouns, str) or not all(isinstance(noun, str) for noun in nouns):
        raise InputError("nouns must be a list of words")
    if len(nouns) != features.shape[0]:
        raise InputError(f"there are {len(nouns)} nouns and {features.shape[0]} features of nouns")
    first: dict[str, int] = {}
    for number, noun in enumerate(nouns):
        first.setdefault(noun, number)
    if len(first) == len(nouns):
        return tuple(nouns), features
    return tuple(first), SelectedRows(features, np.fromiter(first.values(), np.int64))
