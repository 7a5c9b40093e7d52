"""TEMI and SCANv2: heads trained to give neighbours the same cluster, each method by its own loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from kinfold.heads import Objective, ScanObjective, TemiObjective
from kinfold.methods._heads import HEAD_CONSTRAINTS, HeadMethod
from kinfold.validation import Constraint, Either, Flag, Integer, Nothing, Number


class TEMI(HeadMethod):
    """Teacher-weighted pointwise mutual information between neighbours, maximised by many heads.

    A sample and a random one of its nearest neighbours should get the same cluster. H independent heads learn
    this together, each from a teacher that is its own moving average; the head with the highest neighbour
    label agreement, a choice without known classes, gives the clusters.

    Parameters
    ----------
    n_clusters : int or "auto", default 8
        K, at most the number of samples; "auto" estimates it (:func:`kinfold.levels.estimate_levels`).
    n_heads : int, optional
        H; the paper trains 50. By default 12, or up to 50 where that takes only minutes, see
        :func:`~kinfold.methods.plan_training`.
    n_neighbors : int, optional
        Neighbours per sample where ``fit`` makes the graph itself; by default the paper's 50, or fewer in
        data where half an average cluster is smaller.
    beta : float, default 0.6
        Exponent in (0, 1] of the pointwise mutual information; 1 is plain PMI.
    weighted : bool, default True
        Weigh pairs by the teachers' agreement; else all pairs count the same.
    n_epochs : int, optional
        Passes over the data; by default as many as make a fixed number of steps.
    batch_size : int, optional
        Pairs per step, cut to N; by default 128 to 256 with growing N, more for many clusters.
    learning_rate : float, optional
        Of AdamW after the warm-up; by default 1e-3.
    momentum : float, optional
        Of the teacher, in [0, 1); by default the paper's 0.996 in long trainings, less in short ones.
    tol : float, default 0.01
        Training ends early when the mean loss has levelled off: when over the last eighth of the planned
        epochs it fell by less than this share of its whole fall; 0 never ends early.
    head_choice : {"agreement", "loss"}, default "agreement"
        Which head is the best one: that with the highest neighbour label agreement, or that with the lowest
        training loss, as in the paper.
    device : str, default "auto"
        "cpu", "cuda", "mps", or the best there is.
    precision : str, default "auto"
        Of matrix products: "float32", "bfloat16", or bfloat16 where the device has units for it.
    random_state : int, RandomState or None, default None
        Seed; the same integer gives the same labels on the same machine.

    Attributes
    ----------
    labels_ : ndarray (N,) int32
        Cluster of every training sample: the arg max of the best head's teacher.
    head_losses_ : ndarray (H,) float32
        Training loss of every head over the last epoch.
    head_agreements_ : ndarray (H,) float64
        How much more often than by chance each head gives close neighbours one cluster, see
        :class:`~kinfold.methods.Criteria`, times the share of clusters that are alive in it.
    best_head_ : int
        The head chosen by ``head_choice``.
    head_labels_ : ndarray (H, N) int32
        Cluster of every training sample by every head.
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
        From ``fit``: more clusters than samples, rows that are not finite, a graph of
        another size.

    References
    ----------
    Adaloglou, Michels, Kalisch & Kollmann (2023), "Exploring the Limits of Deep Image Clustering using
    Pretrained Models", sections 3.2 and 3.3. Differences: length, rate and momentum adapt to N.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from kinfold import TEMI
    >>> X, _ = make_blobs(300, centers=3, n_features=16, random_state=0)
    >>> TEMI(n_clusters=3, n_heads=2, n_epochs=20, random_state=0).fit(X).predict_proba(X[:5]).shape
    (5, 3)
    """

    name: ClassVar[str] = "temi"
    constraints: ClassVar[Mapping[str, Constraint]] = {
        **HEAD_CONSTRAINTS,
        "n_neighbors": Either(Integer(), Nothing()),
        "beta": Number(above=0, most=1),
        "weighted": Flag(),
    }

    def __init__(
        self,
        n_clusters: int | str = 8,
        *,
        n_heads: int | None = None,
        n_neighbors: int | None = None,
        beta: float = 0.6,
        weighted: bool = True,
        n_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        momentum: float | None = None,
        tol: float = 0.01,
        head_choice: str = "agreement",
        device: str = "auto",
        precision: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_heads = n_heads
        self.n_neighbors = n_neighbors
        self.beta = beta
        self.weighted = weighted
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.tol = tol
        self.head_choice = head_choice
        self.device = device
        self.precision = precision
        self.random_state = random_state

    def _make_objective(self, n_heads: int) -> Objective:
        return TemiObjective(n_heads, self._k, beta=self.beta, weighted=bool(self.weighted))

    def _describe_objective(self) -> list[Any]:
        # A checkpoint of other values must not be resumed from.
        return [self.beta, bool(self.weighted)]


class SCAN(HeadMethod):
    """SCANv2: neighbours get one cluster, and the entropy of the clusters' use stays high.

    The network, the slowly following teacher and the choice of the best head are those of
    :class:`~kinfold.TEMI`; the loss is SCAN's consistency of neighbours with an entropy term over the batch,
    for which batches must be large beside the number of clusters.

    Parameters
    ----------
    n_clusters : int or "auto", default 8
        K, at most the number of samples; "auto" estimates it (:func:`kinfold.levels.estimate_levels`).
    n_heads : int, optional
        H; the paper trains 32. By default 12, or up to 50 where that takes only minutes, see
        :func:`~kinfold.methods.plan_training`.
    n_neighbors : int, optional
        Neighbours per sample where ``fit`` makes the graph itself; by default the paper's 50, or fewer in
        data where half an average cluster is smaller.
    entropy_weight : float, default 5.0
        α, the weight of the entropy of the clusters' use, which keeps clusters from dying.
    n_epochs : int, optional
        Passes over the data; by default as many as make a fixed number of steps.
    batch_size : int, optional
        Pairs per step, cut to N; by default 128 to 256 with growing N, more for many clusters. The paper
        takes 4,096 on ImageNet-1K.
    learning_rate : float, optional
        Of AdamW after the warm-up; by default 1e-3.
    momentum : float, optional
        Of the teacher, in [0, 1); by default the paper's 0.996 in long trainings, less in short ones.
    tol : float, default 0.01
        Training ends early when the mean loss has levelled off, see :class:`~kinfold.TEMI`; 0 never ends
        early.
    head_choice : {"agreement", "loss"}, default "agreement"
        Which head is the best one: that with the highest neighbour label agreement, or that with the lowest
        training loss, as in the paper.
    device : str, default "auto"
        "cpu", "cuda", "mps", or the best there is.
    precision : str, default "auto"
        Of matrix products: "float32", "bfloat16", or bfloat16 where the device has units for it.
    random_state : int, RandomState or None, default None
        Seed; the same integer gives the same labels on the same machine.

    Attributes
    ----------
    labels_ : ndarray (N,) int32
        Cluster of every training sample: the arg max of the best head's teacher.
    head_labels_ : ndarray (H, N) int32
        Cluster of every training sample by every head.
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
        From ``fit``: more clusters than samples, rows that are not finite, a graph of another size.

    References
    ----------
    "Scaling Up Deep Clustering Methods Beyond ImageNet-1K", Equation 2 and section 5; after Van Gansbeke et
    al. (2020), "SCAN". Differences: length, rate, batch and momentum adapt to N.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from kinfold import SCAN
    >>> X, _ = make_blobs(300, centers=3, n_features=16, random_state=0)
    >>> SCAN(n_clusters=3, n_heads=2, n_epochs=20, random_state=0).fit(X).predict_proba(X[:5]).shape
    (5, 3)
    """

    name: ClassVar[str] = "scan"
    constraints: ClassVar[Mapping[str, Constraint]] = {
        **HEAD_CONSTRAINTS,
        "n_neighbors": Either(Integer(), Nothing()),
        "entropy_weight": Number(above=0),
    }

    def __init__(
        self,
        n_clusters: int | str = 8,
        *,
        n_heads: int | None = None,
        n_neighbors: int | None = None,
        entropy_weight: float = 5.0,
        n_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        momentum: float | None = None,
        tol: float = 0.01,
        head_choice: str = "agreement",
        device: str = "auto",
        precision: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_heads = n_heads
        self.n_neighbors = n_neighbors
        self.entropy_weight = entropy_weight
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.tol = tol
        self.head_choice = head_choice
        self.device = device
        self.precision = precision
        self.random_state = random_state

    def _make_objective(self, n_heads: int) -> Objective:
        return ScanObjective(entropy_weight=self.entropy_weight)

    def _describe_objective(self) -> list[Any]:
        return [self.entropy_weight]
