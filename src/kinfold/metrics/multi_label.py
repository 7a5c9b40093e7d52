"""Accuracy of ranked clusters (top-k), and where several labels are right per sample."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError
from kinfold.metrics.accuracy import ClusterMatch, classes_of_clusters
from kinfold.metrics.contingency import Contingency, count_pairs, encode, table_of_codes
from kinfold.rows.ragged import blocks_of, entries_of, starts_of
from kinfold.validation import check_integer

NO_CLASS = -1  # code of a cluster without a class
_LABELS_AT_ONCE = 1 << 20  # checked for repetitions at once: about 50 MiB with the sort
_RANKED_ROWS = 1 << 19  # mapped to classes at once, 8 bytes for each of their ranks
_PAIRED_ROWS = 1 << 18  # compared at once, each with all its labels at all ranks
_DRAWS = 50  # as Adaloglou et al. draw


@dataclass(frozen=True, eq=False)
class LabelSets:
    """The labels that are right for each sample: none, one or several.

    Make them with :meth:`from_lists`, :meth:`from_codes` or :meth:`of_classes`.

    Attributes
    ----------
    labels : tuple
        The different labels; codes are places in it.
    indptr : ndarray (n_sets + 1,) int64
        Set s has the codes ``codes[indptr[s]:indptr[s + 1]]``, each once.
    codes : ndarray of int64 or int32
        The sets one after the other.
    sets : ndarray (n_samples,) int64
        Set of every sample; samples of one class can share theirs.
    """

    labels: tuple[Any, ...]
    indptr: NDArray[np.int64]
    codes: NDArray[Any]
    sets: NDArray[Any]

    @classmethod
    def from_lists(cls, lists: Iterable[Iterable[Hashable]]) -> LabelSets:
        """Make sets of one list of labels per sample; a label named twice counts once.

        Raises
        ------
        InputError
            A list is a string, or a label can't be compared.

        Examples
        --------
        >>> LabelSets.from_lists([["cat", "pet"], [], ["dog"]]).counts
        array([2, 0, 1])
        """
        kept = [cls._distinct(number, labels) for number, labels in enumerate(lists)]
        counts = np.array([len(labels) for labels in kept], dtype=np.int64)
        every: list[Any] = [label for some in kept for label in some]
        labels, codes = encode(every, "the labels")
        return cls(tuple(labels), starts_of(counts), codes, np.arange(len(kept)))

    @classmethod
    def from_codes(
        cls, labels: Sequence[Hashable], counts: ArrayLike, codes: ArrayLike, sets: ArrayLike | None = None
    ) -> LabelSets:
        """Make sets of labels that are numbers already; what is named twice in a set counts once.

        Parameters
        ----------
        labels : sequence
            The different labels.
        counts : array-like of int, shape (n_sets,)
            Labels of each set.
        codes : array-like of int32 or int64
            The sets one after the other, each label as its place in ``labels``. Not copied where no label is
            twice in a set.
        sets : array-like of int, shape (n_samples,), optional
            Set of every sample; by default there is one of each.

        Raises
        ------
        InputError
            Counts and codes don't fit together, or a code is no place in ``labels``.

        Examples
        --------
        >>> LabelSets.from_codes(["cat", "dog", "pet"], [2, 0, 3], [0, 2, 1, 2, 1]).counts
        array([2, 0, 2])
        """
        counts, codes = np.asarray(counts), np.asarray(codes)
        if counts.min(initial=0) < 0 or counts.sum() != len(codes):
            raise InputError(f"counts must be 0 or more and add up to the {len(codes)} codes")
        if len(codes) and not 0 <= codes.min() <= codes.max() < len(labels):
            raise InputError(f"codes must be places in the {len(labels)} labels")
        indptr = starts_of(counts)
        kept = _first_of_each(indptr, codes, len(labels))
        if kept is not None:
            codes = codes[kept]
            indptr = starts_of(kept)[indptr]
        own = np.arange(len(counts)) if sets is None else np.asarray(sets)
        return cls(tuple(labels), indptr, codes, own)

    @classmethod
    def of_classes(cls, y_true: ArrayLike, right: Mapping[Any, Iterable[Hashable]]) -> LabelSets:
        """Make the sets of samples of the same classes, such as a class and everything above it in a tree.

        Parameters
        ----------
        y_true : array-like, shape (n_samples,)
            Class of every sample.
        right : mapping
            Class to the labels that are right for its samples. A class that isn't in it is right alone.

        Raises
        ------
        InputError
            ``y_true`` is empty, or a label can't be compared.
        """
        classes, sets = encode(y_true, "y_true")
        if not classes:
            raise InputError("y_true is empty; there is nothing to compare")
        found = cls.from_lists(right.get(name, (name,)) for name in classes)
        return cls(found.labels, found.indptr, found.codes, sets)

    @staticmethod
    def _distinct(number: int, labels: Iterable[Hashable]) -> list[Hashable]:
        if isinstance(labels, (str, bytes)):
            raise InputError(
                f"the labels of sample {number} are the string {labels!r}; give a list of labels"
            )
        try:
            return list(dict.fromkeys(labels))
        except TypeError as error:
            raise InputError(f"the labels of sample {number} can't be compared: {error}") from error

    def __len__(self) -> int:
        return len(self.sets)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of labels of every sample, int64 (n_samples,)."""
        counts: NDArray[np.int64] = np.diff(self.indptr)[self.sets]
        return counts

    def take(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return positions in ``samples`` and the codes of their labels, pair by pair."""
        owners, places = entries_of(self.indptr, self.sets[samples])
        codes: NDArray[np.int64] = self.codes[places].astype(np.int64, copy=False)
        return owners, codes

    def draw(self, samples: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Return one label's code for each of the samples, all with labels, drawn with equal chances."""
        chosen = self.sets[samples]
        counts = np.diff(self.indptr)[chosen]
        drawn = self.codes[self.indptr[chosen] + generator.integers(0, counts)]
        found: NDArray[np.int64] = drawn.astype(np.int64, copy=False)
        return found


def _first_of_each(starts: NDArray[np.int64], codes: NDArray[Any], n_labels: int) -> NDArray[np.bool_] | None:
    """Tell which labels of each set weren't there before; None where all are new, found in blocks of sets."""
    kept: NDArray[np.bool_] | None = None
    for low, high in blocks_of(starts, _LABELS_AT_ONCE):
        begin, end = starts[low], starts[high]
        owners = np.repeat(np.arange(high - low), np.diff(starts[low : high + 1]))
        pairs = owners * n_labels + codes[begin:end]
        first = np.unique(pairs, return_index=True)[1]
        if len(first) < len(pairs):
            kept = np.ones(len(codes), dtype=bool) if kept is None else kept
            kept[begin:end] = False
            kept[begin + first] = True
    return kept


def top_k_accuracy(
    y_true: ArrayLike, top_clusters: ArrayLike, k: int = 5, *, match: ClusterMatch | None = None
) -> float:
    """Return the share of samples of which one of the k best clusters stands for their class.

    All clusters are mapped by the best one-to-one map between classes and best clusters (the first column);
    then the k best of every sample are looked at. A cluster without a class is never right.

    Parameters
    ----------
    y_true : array-like, shape (n_samples,)
        Known classes, of any hashable type.
    top_clusters : array-like of int, shape (n_samples, n_top)
        Clusters of every sample, the best first; −1 for none.
    k : int, default 5
        How many are looked at, 1 to n_top.
    match : ClusterMatch, optional
        The map, by default :func:`match_clusters` of the classes and the first column.

    Raises
    ------
    InputError
        Shapes or types don't fit, or labels are NaN or unhashable.

    Examples
    --------
    >>> top_k_accuracy(["a", "a", "b"], [[0, 1], [1, 0], [1, 0]], k=1)
    0.6666666666666666
    >>> top_k_accuracy(["a", "a", "b"], [[0, 1], [1, 0], [1, 0]], k=2)
    1.0
    """
    top = read_top(top_clusters)
    check_rank(k, top)
    classes, codes = encode(y_true, "y_true")
    check_length(len(codes), top)
    clusters, has = distinct_clusters(top), top[:, 0] >= 0
    if match is None and not has.any():
        return 0.0  # nothing is best anywhere, so nothing can be mapped
    if match is None:
        table = count_pairs(codes[has], top[has, 0])
        class_of = classes_of_clusters(table)
        code_of = dict(zip(table.clusters, class_of.tolist(), strict=True))
    else:
        numbers = {label: code for code, label in enumerate(classes)}
        code_of = {cluster: numbers.get(label, NO_CLASS) for cluster, label in match.mapping.items()}
    mapped = np.array([code_of.get(cluster, NO_CLASS) for cluster in clusters.tolist()], dtype=np.int64)
    hits = 0
    for start in range(0, len(codes), _RANKED_ROWS):
        rows = slice(start, start + _RANKED_ROWS)
        found = map_top(top[rows, :k], clusters, mapped)
        hits += int((found == codes[rows, None]).any(axis=1).sum())
    return hits / len(codes)


def read_top(top_clusters: ArrayLike) -> NDArray[Any]:
    """Return ranked clusters as a matrix of integers."""
    top = np.asarray(top_clusters)
    if top.ndim != 2 or top.dtype.kind not in "iu" or not top.size:
        raise InputError(
            "top_clusters must be a matrix of integers, a row per sample and the best cluster first, "
            f"but has the shape {top.shape} and the type {top.dtype}"
        )
    return top


def check_length(n_samples: int, top: NDArray[Any]) -> None:
    """Refuse classes and clusters of different lengths."""
    if n_samples != len(top):
        raise InputError(
            f"there are {n_samples} samples with classes and {len(top)} with clusters; "
            "give one of each per sample, in the same order"
        )


def check_rank(k: int, top: NDArray[Any]) -> None:
    """Refuse a k that the matrix of ranked clusters can't serve."""
    check_integer(1, top.shape[1], k=k)  # ranked clusters are the columns


def distinct_clusters(top: NDArray[Any]) -> NDArray[Any]:
    """Return the clusters that occur at any rank, ascending, without the −1 of none."""
    ranks = (encode(top[:, rank], "top_clusters")[0] for rank in range(top.shape[1]))
    found = np.array(sorted(set().union(*ranks)), dtype=top.dtype)
    return found[found >= 0]


def map_top(top: NDArray[Any], clusters: NDArray[Any], mapped: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class codes of ranked clusters; −1 where there is no cluster or it has no class."""
    if not len(clusters):
        return np.full(top.shape, NO_CLASS, dtype=np.int64)
    if clusters[-1] <= top.size + len(clusters):  # a table of all numbers is quicker than a search
        table = np.full(int(clusters[-1]) + 1, NO_CLASS, dtype=np.int64)
        table[clusters] = mapped
        found: NDArray[np.int64] = table[top.clip(min=0)]
    else:
        found = mapped[np.searchsorted(clusters, top.clip(min=0))]
    found[top < 0] = NO_CLASS
    return found


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
    """Return the share of samples that one of their k best clusters is right for, by maps of drawn labels.

    For labels like ReaL's, of which none is the first. In every draw each sample gets one of its labels with
    equal chances, the map is made from these, and a hit is any of the sample's labels. Samples without labels
    are left out.

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
    check_integer(n_draws=n_draws)
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
        for start in range(0, len(self.top), _PAIRED_ROWS):
            rows = slice(start, start + _PAIRED_ROWS)
            found = map_top(self.top[rows], self.clusters, mapped)
            owners, codes = self.right.take(self.samples[rows])
            hits = np.zeros(found.shape, dtype=bool)
            pairs, ranks = np.nonzero(found[owners] == codes[:, None])
            hits[owners[pairs], ranks] = True
            first = np.where(hits.any(axis=1), hits.argmax(axis=1), width)
            first_hits += np.bincount(first, minlength=width + 1)
        right = np.cumsum(first_hits)
        return {int(k): int(right[k - 1]) / len(self.top) for k in ks}
