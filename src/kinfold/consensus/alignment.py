"""Consensus by alignment: number every head's clusters alike, let the heads vote, repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from kinfold.consensus.labelings import Labeling, count_pairs, geometric_nmi, read_labeling
from kinfold.errors import InputError
from kinfold.metrics.contingency import best_pairs

_VOTES_PER_BLOCK = 1 << 20  # what fits the processor's cache: 8 MiB
_MIN_ROWS = 256  # however many labels: below, the overhead of a block of NumPy calls is the larger part
_UNIT = 1 << 20  # votes are whole numbers of 2^-20: sums are exact, so ties are ties in any order
# Heads to start from: the iteration only finds a local optimum, so more starts find a better one, and each
# costs its rounds.
N_REFERENCES = 3
_TRIAL_ROUNDS = 2  # of plain votes, to rank the starts before the costlier votes
_MAX_ROUNDS = 20  # a bound on time; iterations mostly stand still, or stop rising, long before
_ALL_STARTS = 5_000_000  # labels in all heads, up to which every start goes on after its trial
_PATIENCE = 2  # rounds without a better mean NMI until an iteration ends: votes can go in a circle
_CHOICES = 3  # labels that a cluster may vote for by likelihood: a merged cluster has two parts, or three
# Clusters above which the one-to-one map is found on the sparse table: the dense one takes 32 MiB there,
# and the dense solver's time grows with the cube of the clusters.
_MAX_DENSE = 2_048


@dataclass(frozen=True)
class Ballot:
    """What one head's clusters vote for.

    Attributes
    ----------
    targets : ndarray of int64, shape (n_choices, n_clusters)
        Labels that each cluster votes for; all choices of a cluster differ.
    weights : ndarray of float64, shape (n_choices, n_clusters)
        Weight of each vote, 0 or more and below 2^30; 0 is no vote.
    """

    targets: NDArray[np.int64]
    weights: NDArray[np.float64]


def vote(heads: Sequence[Labeling], ballots: Sequence[Ballot], n_labels: int) -> NDArray[np.int32]:
    """Return the label of the most weighted votes for every sample, the lower one of equals.

    Time grows with samples × heads and not with the number of labels.
    """
    n_samples = heads[0].n_samples
    labels = np.zeros(n_samples, dtype=np.int32)
    rounded = [np.rint(ballot.weights * _UNIT).astype(np.int64) for ballot in ballots]
    urn = np.zeros(_rows_per_block(n_labels, n_samples) * n_labels, dtype=np.int64)
    for block in row_blocks(n_samples, n_labels):
        base = np.arange(block.stop - block.start) * n_labels
        most = np.zeros(len(base), dtype=np.int64)
        winner = np.zeros(len(base), dtype=np.int64)
        used: list[NDArray[np.int64]] = []
        for head, ballot, weights in zip(heads, ballots, rounded, strict=True):
            codes = head.codes[block]
            for targets, weight in zip(ballot.targets, weights, strict=True):
                target = targets[codes]
                places = base + target
                votes = urn[places] + weight[codes]
                urn[places] = votes
                ahead = (votes > most) | ((votes == most) & (target < winner))
                np.copyto(most, votes, where=ahead)
                np.copyto(winner, target, where=ahead)
                used.append(places)
        labels[block] = winner
        for places in used:
            urn[places] = 0
    return labels


def _rows_per_block(n_labels: int, n_samples: int) -> int:
    return min(n_samples, max(_MIN_ROWS, _VOTES_PER_BLOCK // n_labels))


def row_blocks(n_samples: int, n_labels: int) -> Iterator[slice]:
    """Yield ranges of samples whose votes on all labels fit the processor's cache."""
    step = _rows_per_block(n_labels, n_samples)
    return (slice(start, min(start + step, n_samples)) for start in range(0, n_samples, step))


@dataclass(frozen=True)
class SoftHeads:
    """The heads' probabilities.

    Attributes
    ----------
    matrices : sequence of n_heads arrays, shape (n_samples, width)
        Anything that gives rows for a slice.
    columns : sequence of n_heads ndarrays of int64
        The column of every live cluster of a head; other columns are no sample's first choice.

    n_samples : int
        Rows of every matrix.
    """

    matrices: Sequence[NDArray[np.floating]]
    columns: Sequence[NDArray[np.int64]]
    n_samples: int

    def take(self, numbers: Sequence[int]) -> SoftHeads:
        """Return some of the heads."""
        return SoftHeads(
            [self.matrices[number] for number in numbers],
            [self.columns[number] for number in numbers],
            self.n_samples,
        )

    def vote(self, targets: Sequence[NDArray[np.int64]], n_labels: int) -> NDArray[np.int32]:
        """Return the label of the highest summed probability for every sample, the lower one of equals.

        Parameters
        ----------
        targets : sequence of n_heads ndarrays of int64
            Label that each live cluster of a head stands for.
        n_labels : int
            Number of labels.
        """
        labels = np.empty(self.n_samples, dtype=np.int32)
        for block in row_blocks(self.n_samples, n_labels):
            votes = np.zeros((n_labels, block.stop - block.start))
            for matrix, columns, target in zip(self.matrices, self.columns, targets, strict=True):
                part = np.asarray(matrix[block], dtype=np.float64)[:, columns]
                np.add.at(votes, target, part.T)
            labels[block] = votes.argmax(axis=0)
        return labels


def read_probabilities(
    probabilities: Sequence[NDArray[np.floating]] | None, heads: Sequence[Labeling]
) -> SoftHeads | None:
    """Check that probabilities fit the labels; every matrix is read once, in blocks.

    Raises
    ------
    InputError
        There is not one matrix per head, one has the wrong number of rows or too few columns, or a value is
        negative or not finite.
    """
    if probabilities is None:
        return None
    if len(probabilities) != len(heads):
        raise InputError(f"probabilities hold {len(probabilities)} heads, but labels hold {len(heads)}")
    n_samples = heads[0].n_samples
    for number, (matrix, head) in enumerate(zip(probabilities, heads, strict=True)):
        shape, needed = _shape_of(matrix), int(head.ids[-1]) + 1
        if len(shape) != 2 or shape[0] != n_samples or shape[1] < needed:
            raise InputError(
                f"probabilities of head {number} have the shape {shape}; its labels need ({n_samples}, "
                f"{needed}) or more columns, column j for label j"
            )
        _check_values(matrix, number, shape)
    return SoftHeads(list(probabilities), [head.ids for head in heads], n_samples)


def _shape_of(matrix: Any) -> tuple[int, ...]:
    """Return the shape, of no axes where rows are of several lengths."""
    try:
        return tuple(np.shape(matrix))
    except ValueError:
        return ()


def _check_values(matrix: NDArray[np.floating], number: int, shape: tuple[int, ...]) -> None:
    """Raise :class:`InputError` for the first row that holds no probabilities."""
    for block in row_blocks(*shape):
        part = np.asarray(matrix[block])
        if part.dtype.kind not in "fiub":
            raise InputError(f"probabilities of head {number} must be real numbers, but are {part.dtype}")
        wrong = ~(np.isfinite(part) & (part >= 0))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InputError(
                f"probabilities of head {number} hold {part[row, column]} for sample {block.start + row}; "
                "they must be finite and 0 or more"
            )


@dataclass(frozen=True)
class Aligned:
    """One head's clusters against a labeling.

    Attributes
    ----------
    counts : csr_matrix of int64, shape (n_clusters, n_labels)
        Samples of each cluster that have each label.
    targets : ndarray of int64, shape (n_clusters,)
        Label that each cluster stands for.
    matched : ndarray of bool, shape (n_clusters,)
        Whether that comes from the one-to-one map; other clusters stand for their majority label.
    nmi : float
        Geometric NMI of the head and the labeling.
    """

    counts: sparse.csr_matrix
    targets: NDArray[np.int64]
    matched: NDArray[np.bool_]
    nmi: float


Election = Callable[[Sequence[Aligned]], NDArray[np.int32]]


def align(head: Labeling, labels: Labeling, n_labels: int) -> Aligned:
    """Find the one-to-one map of a head's clusters to labels that most samples agree with."""
    table = count_pairs(head, labels)
    columns = labels.ids[table.columns]
    counts = sparse.csr_matrix((table.counts, (table.rows, columns)), shape=(head.n_clusters, n_labels))
    targets = np.asarray(counts.argmax(axis=1)).reshape(-1).astype(np.int64)
    matched = np.zeros(head.n_clusters, dtype=bool)
    rows, columns = _best_map(counts)
    matched[rows] = True
    targets[rows] = columns
    return Aligned(counts, targets, matched, geometric_nmi(head, labels, table))


def _best_map(counts: sparse.csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the heaviest one-to-one map; pairs that never meet are left out."""
    if max(counts.shape) <= _MAX_DENSE:
        dense = counts.toarray()
        rows, columns = linear_sum_assignment(dense, maximize=True)
        met = dense[rows, columns] > 0
        return rows[met].astype(np.int64), columns[met].astype(np.int64)
    return best_pairs(counts)


def equal_ballot(aligned: Aligned) -> Ballot:
    """Give each cluster one vote, for the label it stands for: the plurality of heads wins."""
    return Ballot(aligned.targets[None], np.ones((1, len(aligned.targets))))


def likelihood_ballot(aligned: Aligned) -> Ballot:
    """Let each cluster vote for the labels it is evidence for, by the strength of that evidence.

    A vote weighs log P(cluster | label) − log P(cluster | any other label), both read from the table, so that
    the label with the most votes is the one under which the sample's clusters are likeliest, heads taken as
    independent given the label (Dawid and Skene 1979). A cluster votes for its three largest labels: a merged
    one for its parts, a collapsed head's for hardly anything.
    """
    label_sizes = np.asarray(aligned.counts.sum(axis=0), dtype=np.float64).reshape(-1)
    sizes = np.asarray(aligned.counts.sum(axis=1), dtype=np.float64).reshape(-1)
    targets, overlaps = _largest_labels(aligned.counts, _CHOICES)
    named = np.where(overlaps > 0, label_sizes[targets], 0.0)
    # One sample is added where nothing may be left, so that no label is ruled out by a single cluster.
    elsewhere = (sizes - overlaps.sum(axis=0) + 1) / (sizes.sum() - named.sum(axis=0) + 1)
    within = np.divide(overlaps, named, out=np.zeros_like(overlaps), where=overlaps > 0)
    weights = np.log(np.maximum(within / elsewhere, 1.0))
    return Ballot(targets, weights)


def _largest_labels(
    counts: sparse.csr_matrix, n_choices: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the labels that most samples of each cluster have, and how many: (n_choices, n_clusters) each.

    The lower label comes first among equals. A cluster of fewer labels has zeros at the end.
    """
    n_rows, degrees = counts.shape[0], np.diff(counts.indptr)
    order = np.lexsort((counts.indices, -counts.data, np.repeat(np.arange(n_rows), degrees)))
    targets = np.zeros((n_choices, n_rows), dtype=np.int64)
    overlaps = np.zeros((n_choices, n_rows))
    for choice in range(n_choices):
        has = degrees > choice
        places = order[counts.indptr[:-1][has] + choice]
        targets[choice, has] = counts.indices[places]
        overlaps[choice, has] = counts.data[places]
    return targets, overlaps


@dataclass(frozen=True)
class _Settled:
    """The best labeling of an iteration, and the mean NMI of the heads to it."""

    labels: NDArray[np.int32]
    mean_nmi: float


class Alignment:
    """Heads that are aligned to labelings of ``n_labels`` labels.

    Parameters
    ----------
    heads : sequence of Labeling
        Heads of two clusters or more.
    n_labels : int
        Number of labels.
    """

    def __init__(self, heads: Sequence[Labeling], n_labels: int) -> None:
        self.heads, self.n_labels = heads, n_labels

    def plurality(self, aligned: Sequence[Aligned]) -> NDArray[np.int32]:
        """Vote with one vote per head."""
        return vote(self.heads, [equal_ballot(each) for each in aligned], self.n_labels)

    def likelihood(self, aligned: Sequence[Aligned]) -> NDArray[np.int32]:
        """Vote with the evidence that each cluster gives, see :func:`likelihood_ballot`."""
        return vote(self.heads, [likelihood_ballot(each) for each in aligned], self.n_labels)

    def iterate(
        self, start: NDArray[np.int32], election: Election, max_rounds: int = _MAX_ROUNDS
    ) -> _Settled:
        """Align and vote until the labels no longer change; return those of the highest mean NMI.

        The start itself is not a result: a head agrees with itself. The iteration also ends when the mean NMI
        has not risen for two rounds.
        """
        labels, aligned = start, self._align(start)
        best, idle = _Settled(start, -1.0), 0
        for _ in range(max_rounds):
            elected = self._revive(election(aligned), aligned)
            stands = np.array_equal(elected, labels)
            if not stands:
                labels, aligned = elected, self._align(elected)
            value = float(np.mean([each.nmi for each in aligned]))
            idle = 0 if value > best.mean_nmi else idle + 1
            if value > best.mean_nmi:
                best = _Settled(labels, value)
            if stands or idle == _PATIENCE:
                break
        return best

    def _align(self, labels: NDArray[np.int32]) -> list[Aligned]:
        reference = read_labeling(labels, "reference")
        return [align(head, reference, self.n_labels) for head in self.heads]

    def _revive(self, labels: NDArray[np.int32], aligned: Sequence[Aligned]) -> NDArray[np.int32]:
        """Give labels without samples to clusters that stand for no label of their own.

        They come from one head, the one that agrees best among those that have any, the largest first. In the
        next round other heads' clusters join the label, or it is left empty again.
        """
        empty = np.flatnonzero(np.bincount(labels, minlength=self.n_labels) == 0)
        spare = [number for number, each in enumerate(aligned) if not each.matched.all()]
        if not len(empty) or not spare:
            return labels
        donor = max(spare, key=lambda number: aligned[number].nmi)
        head, free = self.heads[donor], np.flatnonzero(~aligned[donor].matched)
        chosen = free[np.argsort(-head.sizes[free], kind="stable")][: len(empty)]
        renamed = np.full(head.n_clusters, -1, dtype=np.int32)
        renamed[chosen] = empty[: len(chosen)]
        moved = renamed[head.codes]
        return np.where(moved >= 0, moved, labels)


def iterate_alignment(
    heads: Sequence[Labeling],
    starts: Sequence[tuple[str, NDArray[np.int32]]],
    n_labels: int,
    soft: SoftHeads | None = None,
) -> tuple[NDArray[np.int32], str]:
    """Try several references and ways of voting; the highest mean NMI of all wins.

    Every start gets two rounds of plain votes. All of them, or with more than five million labels in all
    heads the best alone, go on by plain votes, by likelihood, and by summed probabilities if there are any.

    Parameters
    ----------
    heads : sequence of Labeling
        Heads of two clusters or more.
    starts : sequence of (name, labels)
        What to begin from, each with labels of 0 to n_labels − 1.
    n_labels : int
        Number of labels.
    soft : SoftHeads, optional
        The heads' probabilities.

    Returns
    -------
    labels : ndarray of int32, shape (n_samples,)
    note : str
        Which start and which vote won.
    """
    alignment = Alignment(heads, n_labels)
    elections: dict[str, Election] = {"votes": alignment.plurality, "likelihood": alignment.likelihood}
    if soft is not None:
        elections["probabilities"] = lambda aligned: soft.vote([each.targets for each in aligned], n_labels)
    trials = [alignment.iterate(start, alignment.plurality, _TRIAL_ROUNDS) for _, start in starts]
    going_on = sorted(range(len(trials)), key=lambda number: -trials[number].mean_nmi)
    if sum(head.n_samples for head in heads) > _ALL_STARTS:
        going_on = going_on[:1]
    best, note = trials[going_on[0]], f"from {starts[going_on[0]][0]}, by votes"
    for number in going_on:
        for name, election in elections.items():
            found = alignment.iterate(trials[number].labels, election)
            if found.mean_nmi > best.mean_nmi:
                best, note = found, f"from {starts[number][0]}, by {name}"
    return best.labels, note
