"""Consensus clustering: several consensus functions propose labels, the mean NMI to the heads chooses.

CSPA, HGPA and MCLA (Strehl and Ghosh 2002) partition graphs, alignment lets heads vote. Graphs are cut by
METIS (Karypis and Kumar 1998) through pymetis; hypergraphs, and graphs where pymetis has no package
(Windows), by Mt-KaHyPar (Gottesbüren et al. 2022). Both in settings that give the same parts for the same
seed.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.utils import check_random_state

from kinfold.consensus.alignment import (
    N_REFERENCES,
    Ballot,
    SoftHeads,
    iterate_alignment,
    read_probabilities,
    vote,
)
from kinfold.consensus.labelings import Labeling, compare_heads, read_heads, read_labeling, score
from kinfold.errors import InputError, count_of
from kinfold.metrics.contingency import Cells
from kinfold.progress import SILENT, Progress
from kinfold.validation import check_choice, check_n_clusters

logger = logging.getLogger(__name__)

_AUTO = ("cspa", "hgpa", "mcla", "alignment")
METHODS = ("auto", *_AUTO, "weighted-mcla")
BEST_HEAD = "best head"
IMBALANCE = 0.05  # parts may be 5 % above the even size, as Strehl and Ghosh allow METIS
MAX_CSPA_SAMPLES = 5_000  # all pairs are compared: 25 million co-associations
_MAX_SAMPLE_EDGES = 8_000_000  # what METIS cuts in seconds
_ROWS = 512  # samples compared with all others at once: 10 MiB at 5,000
# Pins are memberships of samples in hyperedges. The deterministic hypergraph partitioner slows down with the
# pins, and with the pins times the parts; beyond either bound it takes longer than a few seconds.
MAX_PINS = 100_000
MAX_PINS_BY_PARTS = 1_000_000
_RESOLUTION = 100  # edge weights are whole percents of Jaccard similarity
_MAX_CLUSTER_EDGES = 40_000_000  # of the meta-graph: 12 bytes each, twice while it is built


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

    def facts(self) -> dict[str, Any]:
        """Return how it was found, as ``manifest.fit`` holds it."""
        return {"consensus": self.method, "candidates": [asdict(candidate) for candidate in self.candidates]}


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
    method : {"auto", "cspa", "hgpa", "mcla", "alignment", "weighted-mcla"}, default "auto"
        "auto" tries every function that is feasible at this size, and the best head itself. "cspa" cuts
        the graph of samples that share clusters, and takes 5,000 samples at most; "hgpa" cuts the
        hypergraph of clusters, which takes minutes from a million labels on; "mcla" clusters the clusters,
        and "weighted-mcla", which "auto" leaves out, does so by their sizes; "alignment" numbers the heads
        alike and lets them vote. The best head agrees with itself, so that among two or three heads it often
        wins; name a function where you want one. A single head of at most ``n_clusters`` clusters is returned
        at once.
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
    names = (BEST_HEAD, *_AUTO) if method == "auto" else (method,)
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
        if name == "cspa" and n_samples > MAX_CSPA_SAMPLES:
            return f"left out: quadratic in the samples, at most {MAX_CSPA_SAMPLES:,}"
        if name == "hgpa" and not is_hgpa_feasible(self.informative, self.n_clusters):
            return (
                f"left out: too slow above {MAX_PINS:,} labels in all heads, "
                f"or above {MAX_PINS_BY_PARTS:,} labels times clusters"
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
            return cspa(self.informative, self.n_clusters, self.seed), ""
        if name == "hgpa":
            return hgpa(self.informative, self.n_clusters, self.seed), ""
        if name in ("mcla", "weighted-mcla"):
            graph, weighted = self.compared[1], name == "weighted-mcla"
            return mcla(self.informative, graph, self.n_clusters, self.seed, weighted=weighted), ""
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
    if method == "cspa" and n_samples > MAX_CSPA_SAMPLES:
        raise InputError(
            f"method 'cspa' compares all pairs of samples and takes at most {MAX_CSPA_SAMPLES:,}, "
            f"not {n_samples:,}; use 'mcla' or 'alignment'"
        )


def partition_graph(
    graph: sparse.csr_matrix, n_parts: int, seed: int, node_weights: NDArray[np.integer] | None = None
) -> NDArray[np.int32]:
    """Cut a graph into parts of about equal size along its weakest edges.

    Parameters
    ----------
    graph : csr_matrix of int32, shape (n_nodes, n_nodes)
        Symmetric weights of 1 or more, nothing on the diagonal.
    n_parts : int
        Number of parts, 1 or more; a graph of no more nodes than that gets one part per node.
    seed : int
        0 to 2^31 − 1.
    node_weights : ndarray of int, shape (n_nodes,), optional
        What nodes count in the size of a part, 1 or more; by default 1.

    Returns
    -------
    ndarray of int32, shape (n_nodes,)
        Part of every node, 0 to n_parts − 1.
    """
    n_nodes = graph.shape[0]
    # Where nothing is to be cut the answer doesn't depend on what a partitioner makes of such a graph.
    if n_nodes <= n_parts:
        return np.arange(n_nodes, dtype=np.int32)
    if n_parts == 1 or not graph.nnz:
        return (np.arange(n_nodes) % n_parts).astype(np.int32)
    try:
        pymetis = importlib.import_module("pymetis")
    except ImportError:
        return _partition_graph_mtkahypar(graph, n_parts, seed, node_weights)
    options = pymetis.Options(seed=seed, ufactor=round(1000 * IMBALANCE))
    arrays = (graph.indptr.astype(np.int32), graph.indices.astype(np.int32))
    structure: dict[str, Any] = (
        {"adjacency": pymetis.CSRAdjacency(*arrays)}
        if hasattr(pymetis, "CSRAdjacency")  # from 2025 on
        else {"xadj": arrays[0], "adjncy": arrays[1]}
    )
    weights = graph.data.astype(np.int32)
    nodes = None if node_weights is None else node_weights.astype(np.int32)
    _, parts = pymetis.part_graph(
        n_parts, **structure, eweights=weights, vweights=nodes, options=options, recursive=False
    )
    return np.asarray(parts, dtype=np.int32)


def partition_hypergraph(
    hyperedges: Sequence[NDArray[np.integer]], n_nodes: int, n_parts: int, seed: int
) -> NDArray[np.int32]:
    """Cut a hypergraph into parts of about equal size so that its hyperedges are spread over few parts each.

    Parameters
    ----------
    hyperedges : sequence of integer arrays
        Nodes of each hyperedge.
    n_nodes, n_parts, seed : int
        As in `partition_graph`. The objective is km1: over hyperedges, the number of parts touched less one.

    Returns
    -------
    ndarray of int32, shape (n_nodes,)
        Part of every node, 0 to n_parts − 1.
    """
    if n_nodes <= n_parts:
        return np.arange(n_nodes, dtype=np.int32)
    if n_parts == 1 or not len(hyperedges):
        return (np.arange(n_nodes) % n_parts).astype(np.int32)
    mtkahypar, library, context = _deterministic(seed)
    context.set_partitioning_parameters(n_parts, IMBALANCE, mtkahypar.Objective.KM1)
    hypergraph = library.create_hypergraph(context, n_nodes, len(hyperedges), list(hyperedges))
    return np.asarray(hypergraph.partition(context).get_partition(), dtype=np.int32)


def _partition_graph_mtkahypar(
    graph: sparse.csr_matrix, n_parts: int, seed: int, node_weights: NDArray[np.integer] | None
) -> NDArray[np.int32]:
    upper = sparse.triu(graph, k=1).tocoo()
    edges = list(zip(upper.row.tolist(), upper.col.tolist(), strict=True))
    n_nodes = graph.shape[0]
    mtkahypar, library, context = _deterministic(seed)
    context.set_partitioning_parameters(n_parts, IMBALANCE, mtkahypar.Objective.CUT)
    nodes = [1] * n_nodes if node_weights is None else node_weights.tolist()
    parts = library.create_graph(context, n_nodes, len(edges), edges, nodes, upper.data.tolist())
    return np.asarray(parts.partition(context).get_partition(), dtype=np.int32)


def _deterministic(seed: int) -> tuple[Any, Any, Any]:
    """Return Mt-KaHyPar, its library object and a silent context that gives the same for any thread count."""
    from kinfold.compute import cpu_count

    mtkahypar = importlib.import_module("mtkahypar")
    # Its deterministic preset gives the same parts with any number of threads.
    library = mtkahypar.initialize(cpu_count(), False)
    context = library.context_from_preset(mtkahypar.PresetType.DETERMINISTIC)
    context.logging = False
    mtkahypar.set_seed(seed)
    return mtkahypar, library, context


def cspa(heads: Sequence[Labeling], n_clusters: int, seed: int) -> NDArray[np.int32]:
    """Partition the co-association graph (Strehl and Ghosh 2002, section 3.2).

    The weight of two samples is the number of heads that put them together. Where that makes more edges than
    the partitioner takes in seconds, the weakest are left out. Cost is quadratic in the number of samples.
    """
    return partition_graph(thin(co_association(heads), _MAX_SAMPLE_EDGES), n_clusters, seed)


def co_association(heads: Sequence[Labeling]) -> sparse.csr_matrix:
    """Return the number of heads that put two samples together (N, N), int32, without the diagonal."""
    n_samples = heads[0].n_samples
    blocks = []
    for start in range(0, n_samples, _ROWS):
        rows = slice(start, min(start + _ROWS, n_samples))
        shared = np.zeros((rows.stop - start, n_samples), dtype=np.int32)
        for head in heads:
            shared += head.codes[rows, None] == head.codes
        shared[np.arange(rows.stop - start), np.arange(start, rows.stop)] = 0
        blocks.append(sparse.csr_matrix(shared))  # with good heads most pairs share nothing
    return sparse.vstack(blocks, format="csr")


def thin(graph: sparse.csr_matrix, max_edges: int) -> sparse.csr_matrix:
    """Drop the lightest edges until at most ``max_edges`` are stored; the heaviest always stay.

    All edges of one weight stay or go together, so the graph stays symmetric and no order matters.
    """
    if graph.nnz <= max_edges:
        return graph
    heaviest = int(graph.data.max())
    kept_from = np.cumsum(np.bincount(graph.data, minlength=heaviest + 1)[::-1])[::-1]
    allowed = np.flatnonzero(kept_from <= max_edges)
    floor = min(int(allowed[0]) if len(allowed) else heaviest, heaviest)
    thinned = graph.copy()
    thinned.data[thinned.data < floor] = 0
    thinned.eliminate_zeros()
    return thinned


def hgpa(heads: Sequence[Labeling], n_clusters: int, seed: int) -> NDArray[np.int32]:
    """Partition the hypergraph of all clusters (Strehl and Ghosh 2002, section 3.3)."""
    return partition_hypergraph(clusters_of(heads), heads[0].n_samples, n_clusters, seed)


def is_hgpa_feasible(heads: Sequence[Labeling], n_clusters: int) -> bool:
    """Tell whether the partitioner ends within a few seconds of one core's time."""
    pins = sum(head.n_samples for head in heads)
    return pins <= MAX_PINS and pins * n_clusters <= MAX_PINS_BY_PARTS


def clusters_of(heads: Sequence[Labeling]) -> list[NDArray[np.int64]]:
    """Return the samples of every cluster of two samples or more: a single one can't be cut."""
    hyperedges: list[NDArray[np.int64]] = []
    for head in heads:
        order = np.argsort(head.codes, kind="stable")
        members = np.split(order, np.cumsum(head.sizes)[:-1])
        hyperedges += [samples for samples in members if len(samples) > 1]
    return hyperedges


class MetaGraph:
    """The graph over the clusters of all heads, weighted by Jaccard similarity, gathered pair by pair.

    Weights are rounded to whole percents and what rounds to nothing is no edge: random overlap, which
    would make the graph dense, goes, and the partitioner gets the integers it needs.

    Parameters
    ----------
    heads : sequence of Labeling
        The heads whose clusters are the nodes, numbered one head after the other.
    """

    def __init__(self, heads: Sequence[Labeling]) -> None:
        self._heads = heads
        self._first = np.concatenate([[0], np.cumsum([head.n_clusters for head in heads])])
        self._parts: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]] = []

    def add(self, a: int, b: int, table: Cells) -> None:
        """Take in the overlaps of the clusters of two heads."""
        sizes = self._heads[a].sizes[table.rows] + self._heads[b].sizes[table.columns]
        jaccard = table.counts / (sizes - table.counts)
        weights = np.rint(jaccard * _RESOLUTION).astype(np.int32)
        kept = np.flatnonzero(weights)
        rows, columns = self._first[a] + table.rows[kept], self._first[b] + table.columns[kept]
        self._parts.append((rows.astype(np.int32), columns.astype(np.int32), weights[kept]))

    def adjacency(self) -> sparse.csr_matrix:
        """Return the symmetric weights (n_clusters of all heads) squared, int32, 1 to 100."""
        n_nodes = int(self._first[-1])
        if not self._parts:
            return sparse.csr_matrix((n_nodes, n_nodes), dtype=np.int32)
        rows, columns, weights = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        upper = sparse.csr_matrix((weights, (rows, columns)), shape=(n_nodes, n_nodes))
        return thin((upper + upper.T).tocsr(), _MAX_CLUSTER_EDGES)

    def sizes(self) -> NDArray[np.int64]:
        """Return the samples of every cluster, in the order of the nodes."""
        return np.concatenate([head.sizes for head in self._heads])

    def parts_of(self, parts: NDArray[np.int32]) -> list[NDArray[np.int64]]:
        """Split an array over all nodes into one array per head."""
        return [part.astype(np.int64) for part in np.split(parts, self._first[1:-1])]


def mcla(
    heads: Sequence[Labeling], graph: MetaGraph, n_clusters: int, seed: int, *, weighted: bool = False
) -> NDArray[np.int32]:
    """Partition the meta-graph and let every sample join a meta-cluster (Strehl and Ghosh 2002, section 3.4).

    A sample's association with a meta-cluster is the share of the meta-cluster's members that it belongs to;
    the highest wins, the lower number among equals. A meta-cluster that wins no sample stays empty.

    Meta-clusters hold about as many clusters each; ``weighted``, as in the authors' program, about as many
    samples, which suits kinds of one size.
    """
    parts = partition_graph(graph.adjacency(), n_clusters, seed, graph.sizes() if weighted else None)
    members = np.bincount(parts, minlength=n_clusters)
    # One vote of each of a sample's clusters, shared among the members of its meta-cluster.
    ballots = [Ballot(meta[None], 1.0 / members[meta][None]) for meta in graph.parts_of(parts)]
    return vote(heads, ballots, n_clusters)
