"""Consensus clustering: several consensus functions propose labels, the mean NMI to the heads chooses."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from kinfold.consensus import graphs
from kinfold.consensus.alignment import N_REFERENCES, SoftHeads, iterate_alignment, read_probabilities
from kinfold.consensus.graphs import MetaGraph, mcla
from kinfold.consensus.labelings import Labeling, compare_heads, read_heads, read_labeling, score
from kinfold.errors import InputError, count_of
from kinfold.progress import SILENT, Progress
from kinfold.validation import check_choice, check_n_clusters

logger = logging.getLogger(__name__)

METHODS = ("auto", "cspa", "hgpa", "mcla", "alignment")
BEST_HEAD = "best head"


@dataclass(frozen=True)
class Candidate:
    """What one consensus function proposed.

    Attributes
    ----------
    name : str
        ``"best head"``, ``"cspa"``, ``"hgpa"``, ``"mcla"`` or ``"alignment"``.
    mean_nmi : float or None
        Mean geometric NMI to the heads, 0 to 1; None if the function was left out.
    n_clusters : int or None
        Live clusters; None if the function was left out.
    seconds : float
        Time taken.
    note : str
        Why it was left out, or what is worth knowing; may be empty.
    """

    name: str
    mean_nmi: float | None
    n_clusters: int | None
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Consensus:
    """One labeling out of many.

    Attributes
    ----------
    labels : ndarray of int32, shape (n_samples,)
        Cluster of every sample, 0 to n_clusters − 1; some clusters may be empty.
    mean_nmi : float
        Mean geometric NMI to the heads, 0 to 1.
    method : str
        Name of the candidate that won.
    candidates : tuple of Candidate
        Everything that was tried or left out.
    """

    labels: NDArray[np.int32]
    mean_nmi: float
    method: str
    candidates: tuple[Candidate, ...]


def consensus(
    labels: ArrayLike,
    *,
    n_clusters: int,
    probabilities: Sequence[NDArray[np.floating]] | None = None,
    method: str = "auto",
    random_state: int | np.random.RandomState | None = None,
    progress: Progress = SILENT,
) -> Consensus:
    """Find the labeling that agrees best with many: the highest mean geometric NMI to the heads.

    Strehl and Ghosh, "Cluster Ensembles", JMLR 2002. Heads need no common numbering and no common number of
    clusters. A head with one cluster holds no information: it has no vote, and counts in the mean alone,
    where it is the same for every candidate.

    Parameters
    ----------
    labels : array-like of int, shape (n_heads, n_samples)
        The heads; any labels of 0 or more, every sample labeled by every head.
    n_clusters : int
        Number of clusters asked for, at most the number of samples.
    probabilities : sequence of n_heads arrays (n_samples, width), optional
        Finite and 0 or more; column j of a head belongs to its label j, so a head's labels must be below its
        width. Alignment then votes with them too. Anything that gives rows for a slice will do, so they may
        stay on disk.
    method : {"auto", "cspa", "hgpa", "mcla", "alignment"}, default "auto"
        "auto" tries every function that is feasible at this size, and the best head itself. "cspa" cuts
        the graph of samples that share clusters, and takes 5,000 samples at most; "hgpa" cuts the
        hypergraph of clusters, which takes minutes from a million labels on; "mcla" clusters the clusters;
        "alignment" numbers the heads alike and lets them vote. The best head agrees with itself, so that
        among two or three heads it often wins; name a function where you want one. A single head of at most
        ``n_clusters`` clusters is returned at once.
    random_state : int, RandomState or None, default None
        Seed of the partitioners. The same seed gives the same labels, with any number of threads.
    progress : Progress
        Advanced at every candidate.

    Returns
    -------
    Consensus

    Raises
    ------
    InputError
        Shapes, types or values don't fit, more clusters than samples are asked for, or the method is unknown
        or can't take this many samples.

    Examples
    --------
    >>> heads = [[0, 0, 1, 1, 2, 2], [2, 2, 0, 0, 1, 1], [1, 1, 2, 2, 2, 0]]
    >>> consensus(heads, n_clusters=3, method="mcla", random_state=0).candidates[0].n_clusters
    3
    """
    heads = read_heads(labels)
    _check(method, n_clusters, heads[0].n_samples)
    soft = read_probabilities(probabilities, heads)
    # The partitioners take seeds of 31 bits.
    seed = int(check_random_state(random_state).randint(2**31 - 1))
    trial = _Trial(heads, soft, int(n_clusters), seed)
    names = (BEST_HEAD, *METHODS[1:]) if method == "auto" else (method,)
    if not trial.informative or (method == "auto" and trial.is_settled):
        names = names[:1]  # all would say the same, or nothing can agree better
    with progress.task("combining the heads", len(names), "ways") as task:
        for name in names:
            trial.run(name, forced=method != "auto")
            task.advance(way=name)
    return trial.result()


class _Trial:
    """The heads, what several functions need of them, and the candidates so far."""

    def __init__(self, heads: list[Labeling], soft: SoftHeads | None, n_clusters: int, seed: int) -> None:
        self.heads, self.n_clusters, self.seed = heads, n_clusters, seed
        informative = [number for number, head in enumerate(heads) if head.n_clusters > 1]
        self.informative = [heads[number] for number in informative]
        self.soft = soft.take(informative) if soft is not None else None
        self.candidates: list[Candidate] = []
        self.labels: NDArray[np.int32] | None = None
        self.best = -1.0
        self.winner = ""

    @cached_property
    def compared(self) -> tuple[NDArray[np.float64], MetaGraph]:
        """Pairwise NMI of the informative heads, and the meta-graph: one pass over all pairs."""
        graph = MetaGraph(self.informative)
        return compare_heads(self.informative, graph.add), graph

    @property
    def is_settled(self) -> bool:
        """Whether just one head is informative and has few enough clusters."""
        return len(self.informative) == 1 and self.informative[0].n_clusters <= self.n_clusters

    def run(self, name: str, *, forced: bool) -> None:
        """Try one function, unless it isn't feasible here and the caller hasn't named it."""
        started = time.perf_counter()
        reason = "" if forced else self._infeasible(name)
        if reason:
            self.candidates.append(Candidate(name, None, None, 0.0, reason))
            return
        labels, note = (
            self._propose(name) if self.informative else (self._constant(), "no head has two clusters")
        )
        # Read anew, since a function may leave clusters empty: only live ones count.
        labeling = read_labeling(labels, name)
        value = score(self.heads, labeling)
        if labeling.n_clusters < self.n_clusters:
            empty = count_of(self.n_clusters - labeling.n_clusters, "cluster")
            note = "; ".join(filter(None, [note, f"{empty} left empty"]))
        seconds = time.perf_counter() - started
        self.candidates.append(Candidate(name, value, labeling.n_clusters, seconds, note))
        logger.info("%s: mean NMI %.4f after %.1f s. %s", name, value, seconds, note)
        # Earlier candidates win ties: the order of METHODS is part of the result.
        if value > self.best:
            self.labels, self.best, self.winner = labels, value, name

    def result(self) -> Consensus:
        """Return the candidate of the highest mean NMI, the earlier one of equals."""
        assert self.labels is not None
        return Consensus(self.labels, self.best, self.winner, tuple(self.candidates))

    def _infeasible(self, name: str) -> str:
        n_samples = self.heads[0].n_samples
        if name == "cspa" and n_samples > graphs.MAX_SAMPLES:
            return f"left out: quadratic in the samples, at most {graphs.MAX_SAMPLES:,}"
        if name == "hgpa" and not graphs.is_feasible(self.informative, self.n_clusters):
            return (
                f"left out: too slow above {graphs.MAX_PINS:,} labels in all heads, "
                f"or above {graphs.MAX_PINS_BY_PARTS:,} labels times clusters"
            )
        if name == BEST_HEAD and self.informative and not self._heads_in_reach():
            return f"left out: every head has more than {count_of(self.n_clusters, 'cluster')}"
        return ""

    def _propose(self, name: str) -> tuple[NDArray[np.int32], str]:
        if name == BEST_HEAD:
            number = self._heads_in_reach()[0]
            original = next(n for n, head in enumerate(self.heads) if head is self.informative[number])
            alone = ", the only one that tells something" if len(self.informative) == 1 else ""
            return self.informative[number].codes, f"head {original}{alone}"
        if name == "cspa":
            return graphs.cspa(self.informative, self.n_clusters, self.seed), ""
        if name == "hgpa":
            return graphs.hgpa(self.informative, self.n_clusters, self.seed), ""
        if name == "mcla":
            return mcla(self.informative, self.compared[1], self.n_clusters, self.seed), ""
        starts = list(self._references())
        return iterate_alignment(self.informative, starts, self.n_clusters, self.soft)

    def _heads_in_reach(self) -> list[int]:
        """Return the informative heads of at most ``n_clusters`` clusters, the most agreeing first."""
        # The mean includes a head's agreement with itself, 1 for all of them, so the order is the same.
        order = np.argsort(-self.compared[0].mean(axis=0), kind="stable")
        return [int(n) for n in order if self.informative[n].n_clusters <= self.n_clusters]

    def _references(self) -> Iterator[tuple[str, NDArray[np.int32]]]:
        """Yield what alignment starts from: the most agreeing heads, and the best candidate so far."""
        for number in self._heads_in_reach()[:N_REFERENCES]:
            yield "a head", self.informative[number].codes
        if self.labels is not None and self.winner != BEST_HEAD:
            yield self.winner, self.labels
        if not self._heads_in_reach():  # alignment needs a start of few enough clusters
            yield "mcla", mcla(self.informative, self.compared[1], self.n_clusters, self.seed)

    def _constant(self) -> NDArray[np.int32]:
        return np.zeros(self.heads[0].n_samples, dtype=np.int32)


def _check(method: str, n_clusters: int, n_samples: int) -> None:
    """Refuse what can't be done, before any work."""
    check_choice(METHODS, method=method)
    check_n_clusters(n_clusters, n_samples)
    if method == "cspa" and n_samples > graphs.MAX_SAMPLES:
        raise InputError(
            f"method 'cspa' compares all pairs of samples and takes at most {graphs.MAX_SAMPLES:,}, "
            f"not {n_samples:,}; use 'mcla' or 'alignment'"
        )
