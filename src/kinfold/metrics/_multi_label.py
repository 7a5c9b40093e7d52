"""Accuracy where several labels are right: top-1L and top-kL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError
from kinfold.metrics._accuracy import classes_of_clusters
from kinfold.metrics._contingency import Contingency, encode, table_of_codes
from kinfold.metrics._label_sets import LabelSets
from kinfold.metrics._ranked import check_length, check_rank, distinct_clusters, map_top, read_top

_BLOCK = 1 << 18  # rows
_DRAWS = 50


@dataclass(frozen=True)
class DrawnAccuracy:
    """Accuracy over several maps, each from one drawn label per sample.

    Attributes
    ----------
    means : Mapping of int to float
        For every k, the mean over draws of the share of samples with a hit among the k best clusters.
    deviations : Mapping of int to float
        For every k, the standard deviation over draws (with n − 1; 0 of one draw).
    n_draws : int
        Maps that were made.
    n_samples : int
        Samples with a label: what the figures are about.
    n_without_label : int
        Samples without any, which are left out.
    """

    means: Mapping[int, float]
    deviations: Mapping[int, float]
    n_draws: int
    n_samples: int
    n_without_label: int


def multi_label_accuracy(
    y_match: ArrayLike, right: LabelSets, top_clusters: ArrayLike, *, ks: Sequence[int] = (1,)
) -> dict[int, float]:
    """Return, for every k, the share of samples that one of their k best clusters is right for.

    The map between clusters and classes comes from one label per sample and the best clusters alone; a
    cluster is then right if its class is *any* of the sample's labels. With the labels of a tree and
    ``LabelSets.of_classes(y, ancestors)`` these are top-1L and top-kL by semantic ancestors.

    Parameters
    ----------
    y_match : array-like, shape (n_samples,)
        The label of every sample that the map goes by.
    right : LabelSets
        All labels that are right, of the same samples. Every sample needs one.
    top_clusters : array-like of int, shape (n_samples, n_top)
        Clusters of every sample, the best first; −1 for none.
    ks : sequence of int, default (1,)
        How many clusters are looked at, each from 1 to n_top.

    Raises
    ------
    InputError
        Shapes or types don't fit, or a sample has no label.

    References
    ----------
    Adaloglou et al., "Scaling Up Deep Clustering Methods Beyond ImageNet-1K": top-1L and top-5L.

    Examples
    --------
    >>> y = ["dog", "animal", "dog"]
    >>> right = LabelSets.of_classes(y, {"dog": ("dog", "animal"), "animal": ("animal",)})
    >>> multi_label_accuracy(y, right, [[0], [1], [1]])
    {1: 1.0}
    """
    ranked = _Ranked.read(right, top_clusters, ks)
    classes, codes = encode(y_match, "y_match")
    check_length(len(codes), ranked.top)
    if not ranked.labeled.all():
        first = int((~ranked.labeled).argmax())
        raise InputError(f"sample {first} has no right label; leave such samples out")
    number_of = {label: code for code, label in enumerate(right.labels)}
    # A label that no set has can still be drawn to a cluster; it has a number that is never a hit.
    known = np.array([number_of.get(label, _Ranked.FOREIGN) for label in classes], dtype=np.int64)
    class_of = classes_of_clusters(ranked.table(codes, len(classes)))
    mapped = np.where(class_of >= 0, known[class_of], _Ranked.FOREIGN)
    return ranked.accuracies(mapped, ks)


def drawn_label_accuracy(
    right: LabelSets,
    top_clusters: ArrayLike,
    *,
    ks: Sequence[int] = (1,),
    n_draws: int = _DRAWS,
    random_state: int = 0,
) -> DrawnAccuracy:
    """Return the same where no label of a sample is the first: the map comes from labels drawn at random.

    For ReaL and its like. In every draw each sample gets one of its labels with equal chances, the map is
    made from these, and a hit is any of the sample's labels. Samples without labels are left out.

    Parameters
    ----------
    right : LabelSets
        All labels that are right.
    top_clusters : array-like of int, shape (n_samples, n_top)
        Clusters of every sample, the best first; −1 for none.
    ks : sequence of int, default (1,)
        How many clusters are looked at, each from 1 to n_top.
    n_draws : int, default 50
        Draws, 1 or more.
    random_state : int, default 0
        Seed of the draws.

    Raises
    ------
    InputError
        Shapes or types don't fit, or no sample has a label.

    References
    ----------
    Beyer et al., "Are we done with ImageNet?", 2020 (the labels); Adaloglou et al., "Scaling Up Deep
    Clustering Methods Beyond ImageNet-1K" (the 50 draws).

    Examples
    --------
    >>> right = LabelSets.from_lists([["cup"], ["cup"], ["cup", "mug"], [], ["desk"]])
    >>> drawn_label_accuracy(right, [[0], [0], [0], [1], [1]], n_draws=5).means
    {1: 1.0}
    """
    if isinstance(n_draws, bool) or not isinstance(n_draws, (int, np.integer)) or n_draws < 1:
        raise InputError(f"n_draws must be a whole number of 1 or more, not {n_draws!r}")
    ranked = _Ranked.read(right, top_clusters, ks)
    ranked = ranked.keep(np.flatnonzero(ranked.labeled))
    if not len(ranked.samples):
        raise InputError("no sample has a label; there is nothing to compare")
    generator = np.random.default_rng(random_state)
    found = {k: np.empty(n_draws) for k in ks}
    for draw in range(n_draws):
        codes = right.draw(ranked.samples, generator)
        class_of = classes_of_clusters(ranked.table(codes, len(right.labels)))
        for k, accuracy in ranked.accuracies(class_of, ks).items():
            found[k][draw] = accuracy
    return DrawnAccuracy(
        means={k: float(values.mean()) for k, values in found.items()},
        deviations={k: float(values.std(ddof=1)) if n_draws > 1 else 0.0 for k, values in found.items()},
        n_draws=int(n_draws),
        n_samples=len(ranked.samples),
        n_without_label=len(right) - len(ranked.samples),
    )


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Ranked clusters of samples with several labels, encoded once for many maps."""

    FOREIGN = -1

    right: LabelSets
    top: NDArray[Any]
    samples: NDArray[np.int64]
    clusters: NDArray[Any]

    @classmethod
    def read(cls, right: LabelSets, top_clusters: ArrayLike, ks: Sequence[int]) -> _Ranked:
        top = read_top(top_clusters)
        check_length(len(right), top)
        if not len(ks):
            raise InputError("ks is empty; name one k or more")
        for k in ks:
            check_rank(k, top)
        top = top[:, : max(ks)]
        return cls(right, top, np.arange(len(top)), distinct_clusters(top))

    @property
    def labeled(self) -> NDArray[np.bool_]:
        return self.right.counts > 0

    def keep(self, rows: NDArray[np.int64]) -> _Ranked:
        return _Ranked(self.right, self.top[rows], self.samples[rows], self.clusters)

    def table(self, codes: NDArray[np.int64], n_classes: int) -> Contingency:
        """Count class codes against the best clusters; samples without a cluster are in none."""
        has = self.top[:, 0] >= 0
        columns = np.searchsorted(self.clusters, self.top[has, 0])
        return table_of_codes(list(range(n_classes)), codes[has], self.clusters.tolist(), columns)

    def accuracies(self, mapped: NDArray[np.int64], ks: Sequence[int]) -> dict[int, float]:
        """Return the accuracy at every k when the clusters stand for the given label codes."""
        width = self.top.shape[1]
        first_hits = np.zeros(width + 1, dtype=np.int64)
        for start in range(0, len(self.top), _BLOCK):
            rows = slice(start, start + _BLOCK)
            found = map_top(self.top[rows], self.clusters, mapped)
            owners, codes = self.right.take(self.samples[rows])
            hits = np.zeros(found.shape, dtype=bool)
            pairs, ranks = np.nonzero(found[owners] == codes[:, None])
            hits[owners[pairs], ranks] = True
            first = np.where(hits.any(axis=1), hits.argmax(axis=1), width)
            first_hits += np.bincount(first, minlength=width + 1)
        right = np.cumsum(first_hits)
        return {int(k): int(right[k - 1]) / len(self.top) for k in ks}
