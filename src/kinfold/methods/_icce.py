"""ICCE: heads on adaptive neighbours, one consensus of them, and a classifier trained on the consensus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kinfold.compute import Runtime
from kinfold.consensus import METHODS as CONSENSUS_METHODS
from kinfold.consensus import Consensus, consensus
from kinfold.distributed import current_workers
from kinfold.errors import InputError
from kinfold.heads import Objective, TemiObjective
from kinfold.methods._graph_labelings import N_LABELINGS, graph_labelings
from kinfold.methods._graph_labelings import count_operations as count_labeling_operations
from kinfold.methods._heads import HEAD_CONSTRAINTS, HeadMethod, Plan, agreements, default_min_neighbors
from kinfold.methods._self_training import (
    BLOCKS,
    RATES,
    WIDTHS,
    SelfTraining,
    count_operations,
    fit_self_training,
    read_variants,
)
from kinfold.methods.protocol import Cost, Machine, Model, Needs, Shape
from kinfold.neighbors import NeighborGraph
from kinfold.rows import RowMatrix
from kinfold.validation import Choice, Constraint, Either, Flag, Integer, Listed, Nothing, Number

# Heads beside labelings of the graph: with four the consensus is as good as with twelve (docs/choices.md).
_HEADS_BESIDE_GRAPH = 8

# Most neighbours of a sample, in times of the least, where max_neighbors is open: the paper's 50 and 2,000.
_NEIGHBORS_CAP = 40

# Expected seconds of a consensus, on one core: per sample and pair of heads for their NMI, and per sample and
# head for the consensus functions themselves.
_NMI_SECONDS = 5e-9
_VOTE_SECONDS = 1e-6


class ICCE(HeadMethod):
    """Unsupervised classification in three stages: heads, their consensus, a classifier trained on it.

    Stage 1 trains heads as :class:`~kinfold.TEMI` does, with more neighbours where samples lie densely,
    against a teacher that is balanced over clusters. Stage 2 finds the labeling that shares most information
    with all heads. Stage 3 trains a linear classifier on that labeling; it is what predicts, the training
    samples included. Every part can be switched off on its own.

    Parameters
    ----------
    n_clusters : int or "auto", default 8
        K, at most the number of samples; "auto" estimates it (:func:`kinfold.levels.estimate_levels`).
    n_heads : int, optional
        H; the paper trains 50. By default 8 beside ``graph_labelings``; without these 12, or up to 50 where
        that takes only minutes, see :func:`~kinfold.methods.plan_training`.
    similarity_threshold : float, "auto" or None, default "auto"
        Cosine similarity from which on samples are neighbours. The paper's 0.3 suits DINOv2; "auto" takes
        the one that yields a mean number of neighbours of 2 × ``min_neighbors``. None keeps exactly
        ``min_neighbors``.
    min_neighbors : int, optional
        Least number of neighbours; by default the paper's 50, or fewer in data where a 16th of an average
        cluster is smaller, and at most ``max_neighbors``.
    max_neighbors : int, optional
        Most neighbours of a sample, where there is a threshold; by default 40 × ``min_neighbors``, and no
        more than an average cluster.
    beta : float, default 0.6
        Exponent in (0, 1] of the pointwise mutual information.
    weighted : bool, default True
        Weigh pairs by the teachers' agreement; else all pairs count the same.
    sinkhorn : bool or "joint", default False
        Balance the teacher's outputs over the clusters of a batch by Sinkhorn–Knopp: True takes samples and
        neighbours one after the other, "joint" takes them together, as DINOv2 does.
    teacher_temperature : float, default 0.1
        Softmax temperature of the teacher in training; the student's is 0.1.
    cross_entropy_weight : float, default 0.0
        λ of the cross-entropy towards the teacher's choice, reached on a half cosine at the end of training.
    batch_norm : bool, default False
        Normalise features by the batch in training; else by the mean and deviation of the training set.
    smoothing_neighbors : int, default 2
        m: a target is the mean of the teacher's outputs on so many random neighbours.
    head_choice : {"agreement", "loss"}, default "agreement"
        Which head is the best one: that with the highest neighbour label agreement, or that with the lowest
        training loss, as in the paper.
    consensus : bool or str, default True
        Stage 2: False for none (the best head's labels go on), True or "auto" for the best of all functions,
        or the name of one: "cspa", "hgpa", "mcla", "alignment".
    consensus_shares : sequence of float, default (1.0, 0.5, 0.25, 0.0)
        Shares of the heads, in [0, 1], of which a consensus is made, those with the highest neighbour label
        agreement first (0 is no head, or the best one alone without ``graph_labelings``). The consensus with
        the highest agreement goes on. The paper's is that of all heads, (1.0,).
    graph_labelings : bool, default True
        Let k-means and Ward's method on features that diffused along the graph join every consensus, as in
        :class:`~kinfold.GraphClustering`: heads even out kinds, these don't. The paper's consensus is of
        heads alone.
    self_training : bool, default True
        Stage 3. Without it, the best head predicts.
    self_training_dims : sequence of int, optional
        Widths of blocks of columns of X. Stage 3 tries the first block, the first two, and so on, and keeps
        what predicts held-out pseudo-labels best. By default all columns.
    self_training_blocks : sequence of sequence of int, optional
        The feature variants to try instead, each the numbers of its blocks: DINOv2's four are
        ``[[0], [0, 1], [2], [1, 2]]`` where X is the class token, the mean of the patch tokens and the class
        tokens of the last four blocks side by side.
    self_training_rates : sequence of float or "dinov2", optional
        Learning rates to try; by default 0.3 to 30 for rows of squared length 1. "dinov2" is the grid of its
        linear evaluation, which the paper follows: 13 rates of 1e-5 to 0.1, times the batch / 256.
    self_training_iterations : int, optional
        Steps of stage 3; by default up to the paper's 12,500, fewer for few samples.
    n_epochs : int, optional
        Passes over the data; by default as many as make a fixed number of steps.
    batch_size : int, optional
        Pairs per step, cut to N; by default 128 to 256 with growing N, more for many clusters.
    learning_rate : float, optional
        Of AdamW after the warm-up; by default 1e-3.
    momentum : float, optional
        Of the teacher, in [0, 1); by default the paper's 0.996 in long trainings, less in short ones.
    tol : float, default 0.01
        Training ends early when the mean loss has levelled off, see :class:`~kinfold.TEMI`; 0 never ends
        early, and neither does a ``cross_entropy_weight`` above 0, which lifts the loss as it comes in.
    device : str, default "auto"
        "cpu", "cuda", "mps", or the best there is.
    precision : str, default "auto"
        Of matrix products: "float32", "bfloat16", or bfloat16 where the device has units for it.
    random_state : int, RandomState or None, default None
        Seed; the same integer gives the same labels on the same machine.

    Attributes
    ----------
    labels_ : ndarray (N,) int32
        Cluster of every training sample, by the final classifier.
    consensus_labels_ : ndarray (N,) int32
        Cluster of every training sample in the consensus (stage 2); only with ``consensus``.
    consensus_ : Consensus
        The consensus with its table of candidates; only with ``consensus``.
    self_training_ : SelfTraining
        The classifier with its table of settings; only with ``self_training``.
    head_labels_ : ndarray (H, N) int32
        Cluster of every training sample by every head (stage 1).
    head_losses_ : ndarray (H,) float32
        Training loss of every head over the last epoch.
    head_agreements_ : ndarray (H,) float64
        How much more often than by chance each head gives close neighbours one cluster, see
        :class:`~kinfold.methods.Criteria`, times the share of clusters that are alive in it.
    best_head_ : int
        The head chosen by ``head_choice``.
    history_ : ndarray (epochs, H) float32
        Loss of every head in every epoch.
    plan_ : Plan
        Heads, batch size and schedule as used.
    temperature_ : float
        Of :meth:`predict_proba`, in times of the training's; found by the fit, without labels, so that the
        mean confidence is the share of samples expected to be right. 1 gives the probabilities as trained.
    n_clusters_ : int
        K as fitted.
    n_features_in_ : int
        D.

    Raises
    ------
    InputError
        From ``fit``: more clusters than samples, rows that are not finite, a graph of another size, column
        blocks that don't add up to D.

    References
    ----------
    "ICCE", sections 3.1 (stage 1, Equations 1 to 3), 3.2 (stage 2, Equations 4 to 7) and 3.3 (stage 3).
    Differences: threshold, length, rate, batch and momentum adapt to the data; docs/choices.md lists them.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from kinfold import ICCE
    >>> X, _ = make_blobs(300, centers=3, n_features=16, random_state=0)
    >>> ICCE(n_clusters=3, n_heads=4, n_epochs=20, random_state=0).fit(X).predict_proba(X[:5]).shape
    (5, 3)
    """

    name: ClassVar[str] = "icce"
    neighbors_parameter: ClassVar[str | None] = "min_neighbors"
    constraints: ClassVar[Mapping[str, Constraint]] = {
        **HEAD_CONSTRAINTS,
        "similarity_threshold": Either(Number(least=-1, most=1), Choice(("auto",)), Nothing()),
        "min_neighbors": Either(Integer(), Nothing()),
        "max_neighbors": Either(Integer(), Nothing()),
        "beta": Number(above=0, most=1),
        "weighted": Flag(),
        "sinkhorn": Either(Flag(), Choice(("joint",))),
        "teacher_temperature": Number(above=0),
        "cross_entropy_weight": Number(least=0),
        "batch_norm": Flag(),
        "smoothing_neighbors": Integer(),
        "consensus": Either(Flag(), Choice(CONSENSUS_METHODS)),
        "consensus_shares": Listed(Number(least=0, most=1), example="[1.0, 0.5]"),
        "graph_labelings": Flag(),
        "self_training": Flag(),
        "self_training_dims": WIDTHS,
        "self_training_blocks": BLOCKS,
        "self_training_rates": RATES,
        "self_training_iterations": Either(Integer(), Nothing()),
    }

    def __init__(
        self,
        n_clusters: int | str = 8,
        *,
        n_heads: int | None = None,
        similarity_threshold: float | str | None = "auto",
        min_neighbors: int | None = None,
        max_neighbors: int | None = None,
        beta: float = 0.6,
        weighted: bool = True,
        sinkhorn: bool | str = False,
        teacher_temperature: float = 0.1,
        cross_entropy_weight: float = 0.0,
        batch_norm: bool = False,
        smoothing_neighbors: int = 2,
        head_choice: str = "agreement",
        consensus: bool | str = True,
        consensus_shares: Sequence[float] = (1.0, 0.5, 0.25, 0.0),
        graph_labelings: bool = True,
        self_training: bool = True,
        self_training_dims: Sequence[int] | None = None,
        self_training_blocks: Sequence[Sequence[int]] | None = None,
        self_training_rates: Sequence[float] | str | None = None,
        self_training_iterations: int | None = None,
        n_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        momentum: float | None = None,
        tol: float = 0.01,
        device: str = "auto",
        precision: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_heads = n_heads
        self.similarity_threshold = similarity_threshold
        self.min_neighbors = min_neighbors
        self.max_neighbors = max_neighbors
        self.beta = beta
        self.weighted = weighted
        self.sinkhorn = sinkhorn
        self.teacher_temperature = teacher_temperature
        self.cross_entropy_weight = cross_entropy_weight
        self.batch_norm = batch_norm
        self.smoothing_neighbors = smoothing_neighbors
        self.head_choice = head_choice
        self.consensus = consensus
        self.consensus_shares = consensus_shares
        self.graph_labelings = graph_labelings
        self.self_training = self_training
        self.self_training_dims = self_training_dims
        self.self_training_blocks = self_training_blocks
        self.self_training_rates = self_training_rates
        self.self_training_iterations = self_training_iterations
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.tol = tol
        self.device = device
        self.precision = precision
        self.random_state = random_state

    def check_parameters(self) -> None:
        """Raise :class:`InputError` for a parameter that is impossible whatever the data."""
        super().check_parameters()
        if self.min_neighbors and self.max_neighbors and self.max_neighbors < self.min_neighbors:
            raise InputError(
                f"max_neighbors ({self.max_neighbors}) is below min_neighbors ({self.min_neighbors}); "
                "raise it or lower the other"
            )

    def needs(self, n_samples: int) -> Needs:
        """Return what a fit of N samples takes besides the rows: a graph of their neighbours."""
        least = self.min_neighbors or default_min_neighbors(n_samples, self._k)
        if self.similarity_threshold is None:
            return Needs({self.name: {"n_neighbors": least, "threshold": None}})
        # Beyond an average cluster, neighbours would have to be of several kinds.
        most = self.max_neighbors or max(least, min(_NEIGHBORS_CAP * least, n_samples // self._k))
        options = {
            "n_neighbors": min(least, most),
            "threshold": self.similarity_threshold,
            "max_neighbors": most,
        }
        return Needs({self.name: options})

    def cost(self, shape: Shape, machine: Machine) -> Cost:
        """Return what a fit is expected to take: heads, one consensus for each share of them, classifier."""
        heads, n_samples = super().cost(shape, machine), shape.n_samples
        seconds = heads.seconds
        if self.consensus:
            n_heads = self._plan(n_samples, shape.n_features).n_heads
            sizes = {round(share * n_heads) for share in self.consensus_shares}
            if self._joins_graph:
                sizes = {size + N_LABELINGS for size in sizes}
                n_clusters = self._k
                seconds += count_labeling_operations(n_samples, n_clusters, shape.n_features) / machine.rate
            # A head alone is its own consensus.
            seconds += n_samples * sum(
                size**2 / 2 * _NMI_SECONDS + size * _VOTE_SECONDS for size in sizes if size > 1
            )
        if self.self_training:
            iterations, rates = self.self_training_iterations, self.self_training_rates
            seconds += count_operations(shape, self._k, iterations, rates) / machine.rate
        return replace(heads, seconds=seconds)

    def facts(self) -> dict[str, Any]:
        """Return what ``manifest.fit`` says of a fit: rounds, consensus candidates, settings tried."""
        content = super().facts()
        if (found := getattr(self, "consensus_", None)) is not None:
            content |= found.facts()
        if self._classifier is not None:
            content |= self._classifier.facts()
        return content

    def _model_config(self) -> dict[str, Any]:
        content = super()._model_config()
        if self._agreed:
            content["consensus"] = self._agreed
        if found := self._classifier:
            content["self_training"] = found.config()
        return content

    def _model_tensors(self) -> dict[str, NDArray[Any]]:
        if self._classifier is None:
            return super()._model_tensors()
        return self._classifier.tensors()

    def _load(self, model: Model) -> None:
        self._agreed = model.config.get("consensus")
        self.self_training = "self_training" in model.config
        if not self.self_training:
            super()._load(model)
            return
        self.self_training_ = SelfTraining.read(model.config["self_training"], model.tensors)

    def _check_fit(self, X: RowMatrix) -> None:
        dims, blocks = self.self_training_dims, self.self_training_blocks
        read_variants(dims, blocks, int(X.shape[1]), prefix="self_training_")

    def _may_stop(self) -> bool:
        # The cross-entropy's rising weight lifts the loss: a level loss then doesn't mean a trained one.
        return super()._may_stop() and not self.cross_entropy_weight

    def _count_targets(self) -> int:
        return int(self.smoothing_neighbors)

    def _make_objective(self, n_heads: int) -> Objective:
        return TemiObjective(
            n_heads,
            self._k,
            beta=self.beta,
            weighted=bool(self.weighted),
            cross_entropy_weight=float(self.cross_entropy_weight),
            teacher_temperature=self.teacher_temperature,
            balanced=self._balanced,
        )

    def _describe_objective(self) -> list[Any]:
        return [
            self.beta,
            bool(self.weighted),
            float(self.cross_entropy_weight),
            self.teacher_temperature,
            self._balanced,
        ]

    @property
    def _balanced(self) -> bool | str:
        return self.sinkhorn if isinstance(self.sinkhorn, str) else bool(self.sinkhorn)

    def _conclude(self, X: RowMatrix, graph: NeighborGraph, seed: int, runtime: Runtime) -> None:
        """Stages 2 and 3, by the first process for all."""
        for name in ("consensus_", "consensus_labels_", "self_training_"):
            if hasattr(self, name):  # left by an earlier fit
                delattr(self, name)
        # One process, so that consensus and classifier are the same whatever their number.
        workers = current_workers()
        found = None
        if workers.is_first:
            agreed = self._find_consensus(X, graph, seed, runtime)
            labels = agreed.labels if agreed else self.head_labels_[self.best_head_]
            found = agreed, self._train_classifier(X, labels, seed, runtime)
        agreed, classifier = workers.broadcast(found)
        self._agreed = {"method": agreed.method, "mean_nmi": agreed.mean_nmi} if agreed else None
        if agreed:
            self.consensus_, self.consensus_labels_ = agreed, agreed.labels
        if classifier:
            self.self_training_ = classifier
        super()._conclude(X, graph, seed, runtime)

    def _find_consensus(
        self, X: RowMatrix, graph: NeighborGraph, seed: int, runtime: Runtime
    ) -> Consensus | None:
        """Return of the consensuses of each share of the heads the one with the best neighbour agreement."""
        if not self.consensus:
            return None
        joining: NDArray[np.int32] = np.empty((0, graph.n_samples), dtype=np.int32)
        if self._joins_graph:
            joining = graph_labelings(X, graph, self.n_clusters_, seed=seed, progress=runtime.progress)
        # Stable, so that equal heads keep their order on every machine.
        order = np.argsort(-self.head_agreements_, kind="stable")
        fewest = 0 if len(joining) else 1
        sizes = {max(fewest, round(share * len(order))) for share in self.consensus_shares}
        found = [
            consensus(
                np.concatenate([self.head_labels_[np.sort(order[:size])], joining]),
                n_clusters=self._k,
                method=self.consensus if isinstance(self.consensus, str) else "auto",
                random_state=seed,
                progress=runtime.progress,
            )
            for size in sorted(sizes, reverse=True)
        ]
        judged = agreements(graph, [candidate.labels for candidate in found], self._k)
        return found[int(judged.argmax())]  # the first on ties: the larger share

    @property
    def _joins_graph(self) -> bool:
        """Whether labelings of the graph join the heads in the consensus."""
        return bool(self.consensus) and bool(self.graph_labelings)

    def _plan(self, n_samples: int, n_features: int) -> Plan:
        if self.n_heads is None and self._joins_graph:
            return replace(super()._plan(n_samples, n_features), n_heads=_HEADS_BESIDE_GRAPH)
        return super()._plan(n_samples, n_features)

    def _train_classifier(
        self, X: RowMatrix, labels: NDArray[np.int32], seed: int, runtime: Runtime
    ) -> SelfTraining | None:
        if not self.self_training:
            return None
        return fit_self_training(
            X,
            labels,
            self._k,
            dims=self.self_training_dims,
            blocks=self.self_training_blocks,
            learning_rates=self.self_training_rates,
            n_iterations=self.self_training_iterations,
            seed=seed,
            device=runtime.device,
            progress=runtime.progress,
        )

    @property
    def _classifier(self) -> SelfTraining | None:
        """Classifier of the last fit, whatever the parameters say by now; None if the best head predicts."""
        return getattr(self, "self_training_", None)

    def _logits(self, rows: Tensor) -> Tensor:
        if self._classifier is None:
            return super()._logits(rows)
        return self._classifier.logits(rows)
