"""TURTLE: the labels that linear classifiers learn best."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from kinfold.compute import Runtime, resolve_device
from kinfold.distributed import current_workers
from kinfold.methods._base import SHARED_CONSTRAINTS, BlockPredictor, read_temperature
from kinfold.methods._criteria import warn_of_collapse
from kinfold.methods._rows import check_rows, fingerprint_columns, numpy_blocks
from kinfold.methods._self_training import check_dims, cross_validated_agreement
from kinfold.methods._turtle_training import (
    TaskEncoder,
    TurtlePlan,
    TurtleTraining,
    column_factors,
    plan_turtle,
    space_sizes,
)
from kinfold.methods.protocol import Cost, Graphs, Machine, Model, Rows, Shape
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix
from kinfold.storage import hash_json
from kinfold.validation import (
    Choice,
    Constraint,
    Either,
    Integer,
    Listed,
    Nothing,
    Number,
)

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

_PREDICT_BYTES = 8 << 20  # of rows at once: small blocks stay in cache between their few products
# For the cost, where training ends by its own rule: 850 to 1,150 steps on the data sets of docs/methods.md,
# and more where clusters are many.
_EXPECTED_STEPS = 1500


class TURTLE(BlockPredictor):
    """Labels that linear classifiers in one or several feature spaces learn best.

    A task encoder proposes soft labels. Linear classifiers, one per feature space, try to learn them in a few
    steps; the encoder is then changed so that they would have succeeded better, while all labels stay in use.

    Parameters
    ----------
    n_clusters : int or "auto", default 8
        K, at most the number of samples; "auto" estimates it (:func:`kinfold.levels.estimate_levels`).
    space_dims : sequence of int, optional
        Widths of the feature spaces that stand side by side in X, D together: ``(1024, 768)``. By default X
        is one space.
    inner_start : {"cold", "warm"}, default "cold"
        Whether inner classifiers start afresh in every outer step, or go on from the last one.
    n_inner_steps : int, default 10
        Steps of the inner classifiers per outer step.
    n_steps : int, optional
        Outer steps. By default training ends when the objective has levelled off, at the paper's 6,000 at the
        latest.
    batch_size : int, optional
        Samples per outer step, cut to N; by default 2,500, more for many clusters. The paper takes 10,000.
    gamma : float, default 10.0
        Weight of the entropy that keeps all clusters in use.
    learning_rate, inner_learning_rate : float, optional
        Of Adam, for the encoder and for the inner classifiers; by default the paper's 1e-3, and more in
        proportion in spaces of less than 1,280 columns, which move logits by less in a step.
    feature_scale : float or "rms", default "rms"
        What features are multiplied by: a number for all of them, or "rms", which divides every space by the
        root of the mean square of its entries. The authors change nothing (``1.0``), and the method depends
        on it: with entries around 1 or below it works as they report; 8-bit features (entries around 40) or
        larger ones saturate every softmax at once, and the labels stay where they started.
    device : str, default "auto"
        "cpu", "cuda", "mps", or the best there is.
    precision : str, default "auto"
        Of matrix products: "float32", "bfloat16", or bfloat16 where the device has units for it.
    random_state : int, RandomState or None, default None
        Seed; the same integer gives the same labels on the same machine.

    Attributes
    ----------
    labels_ : ndarray (N,) int32
        Cluster of every training sample: the arg max of the task encoder.
    generalization_score_ : float
        10-fold cross-validated accuracy of a linear classifier on ``labels_``, in [0, 1]: the authors'
        choice among several fits, without labels. Read it beside the number of live clusters.
    history_ : ndarray (rounds,) float32
        Mean objective of every 50 outer steps.
    plan_ : TurtlePlan
        Batch size, length and rates as used.
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
        From ``fit``: more clusters than samples, rows that are not finite, ``space_dims`` that don't fit.

    References
    ----------
    Gadetsky, Jiang & Brbić (2024), "Let Go of Your Labels with Unsupervised Transfer", ICML. The authors'
    settings: ``TURTLE(n_steps=6000, batch_size=10000, learning_rate=1e-3, inner_learning_rate=1e-3,
    feature_scale=1.0)``.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from kinfold import TURTLE
    >>> X, _ = make_blobs(300, centers=3, n_features=16, random_state=0)
    >>> TURTLE(n_clusters=3, space_dims=(8, 8), random_state=0).fit(X).predict_proba(X[:5]).shape
    (5, 3)
    """

    name: ClassVar[str] = "turtle"
    constraints: ClassVar[Mapping[str, Constraint]] = {
        **SHARED_CONSTRAINTS,
        "space_dims": Either(Nothing(), Integer(), Listed(Integer(), example="[8, 8]")),
        "inner_start": Choice(("cold", "warm")),
        "n_inner_steps": Integer(),
        "n_steps": Either(Integer(), Nothing()),
        "batch_size": Either(Integer(), Nothing()),
        "gamma": Number(above=0),
        "learning_rate": Either(Number(above=0), Nothing()),
        "inner_learning_rate": Either(Number(above=0), Nothing()),
        "feature_scale": Either(Number(above=0), Choice(("rms",))),
    }
    _learned: ClassVar[str] = "_encoder"

    history_: NDArray[np.float32]
    labels_: NDArray[np.int32]

    def __init__(
        self,
        n_clusters: int | str = 8,
        *,
        space_dims: Sequence[int] | None = None,
        inner_start: str = "cold",
        n_inner_steps: int = 10,
        n_steps: int | None = None,
        batch_size: int | None = None,
        gamma: float = 10.0,
        learning_rate: float | None = None,
        inner_learning_rate: float | None = None,
        feature_scale: float | str = "rms",
        device: str = "auto",
        precision: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.space_dims = space_dims
        self.inner_start = inner_start
        self.n_inner_steps = n_inner_steps
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.gamma = gamma
        self.learning_rate = learning_rate
        self.inner_learning_rate = inner_learning_rate
        self.feature_scale = feature_scale
        self.device = device
        self.precision = precision
        self.random_state = random_state

    def fit(
        self,
        X: Rows,
        y: object = None,
        *,
        graph: Graphs = None,
        progress: Progress = SILENT,
        checkpoint: Path | None = None,
        runtime: Runtime | None = None,
    ) -> Self:
        """Find labels for X (N, D); of several processes the first one trains for all.

        Parameters
        ----------
        X : array-like or row matrix (N, D)
            Features; memory maps and sharded matrices stay on disk.
        y, graph : ignored
            Present for a common interface; labels never reach a fit.
        progress : Progress
            Shows rounds of steps and the objective.
        checkpoint : Path, optional
            File to save training to, and to continue from: the result is the same as without a stop.
        runtime : Runtime, optional
            Wins over ``device``, ``precision`` and ``progress``.

        Returns
        -------
        self
        """
        self.check_parameters()
        runtime = self._resolve_runtime(runtime, progress)
        rows = check_rows(self, X, fitting=True)
        self._settle_n_clusters(rows, runtime)
        widths = check_dims(self.space_dims, self.n_features_in_, name="space_dims")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.plan_ = self._plan(int(rows.shape[0]), widths)
        logger.info("training plan: %s", self.plan_)
        workers, found = current_workers(), None
        if workers.is_first:
            self._train(rows, widths, seed, runtime, checkpoint)
            found = self.history_, self.labels_, self.to_model()
        self.history_, self.labels_, model = workers.broadcast(found)
        if not workers.is_first:  # so that predictions of all processes come from the same bytes
            self._adopt(model, runtime.device)
        self._calibrate(rows, runtime)
        warn_of_collapse(self.labels_, self.n_clusters_)
        return self

    def _train(
        self, X: RowMatrix, widths: Sequence[int], seed: int, runtime: Runtime, checkpoint: Path | None
    ) -> None:
        """Learn everything that is fitted."""
        self._factors = self._make_factors(X, widths)  # part of the model: new rows are scaled as these
        training = TurtleTraining(
            X,
            widths,
            self._factors,
            self.n_clusters_,
            self.plan_,
            seed=seed,
            device=runtime.device,
            dtype=runtime.dtype,
        )
        self.history_ = training.run(
            self._identity(X, widths), progress=runtime.progress, checkpoint=checkpoint
        )
        self._encoder = training.encoder
        self.labels_ = self._labels(X)
        self.generalization_score_ = cross_validated_agreement(
            X, self.labels_, self.n_clusters_, seed=seed, device=runtime.device
        )

    def _probabilities(self, X: RowMatrix) -> Iterator[NDArray[np.float32]]:
        device = self._encoder.device
        factors = column_factors(self._factors, self._encoder.widths).to(device)
        for _, block in numpy_blocks(X, _PREDICT_BYTES):
            with torch.inference_mode():
                rows = torch.from_numpy(np.array(block, dtype=np.float32)).to(device).mul_(factors)
                yield torch.stack(self._encoder(rows)).mean(dim=0).cpu().numpy()

    def to_model(self) -> Model:
        """Return what is saved: the task encoder and what features are multiplied by."""
        tensors = {name: value.detach().cpu().numpy() for name, value in self._encoder.tensors().items()}
        return Model(
            method=self.name,
            n_features=int(self.n_features_in_),
            config={
                "n_clusters": self.n_clusters_,
                "space_dims": list(self._encoder.widths),
                "generalization_score": self.generalization_score_,
                "temperature": self.temperature_,
            },
            tensors={**tensors, "factors": self._factors},
        )

    @classmethod
    def from_model(cls, model: Model, *, device: str = "auto") -> Self:
        """Return an estimator that predicts, from what was saved."""
        widths = tuple(model.config["space_dims"])
        loaded = cls(n_clusters=model.config["n_clusters"], space_dims=widths, device=device)
        loaded.n_features_in_ = sum(widths)
        loaded._adopt(model, resolve_device(device))
        return loaded

    def cost(self, shape: Shape, machine: Machine) -> Cost:
        """Return what a fit is expected to take."""
        plan, n_features = self._plan(shape.n_samples, (shape.n_features,)), shape.n_features
        steps = _EXPECTED_STEPS if self.n_steps is None else plan.n_steps
        # An inner step multiplies the batch forward and backward, an outer one by encoder and classifiers.
        products = 2 * plan.n_inner_steps + 4
        product = 2 * plan.batch_size * n_features * self._k / machine.rate
        reading = 4 * plan.batch_size * n_features / machine.bandwidth
        return Cost(
            seconds=float(steps * products * (product + reading)),
            model_bytes=4 * n_features * self._k,
        )

    def _adopt(self, model: Model, device: torch.device) -> None:
        """Become what was fitted elsewhere."""
        self.n_clusters_ = int(model.config["n_clusters"])
        self.generalization_score_ = model.config["generalization_score"]
        self.temperature_ = read_temperature(model.config)
        self._factors = model.tensors["factors"]
        self._encoder = TaskEncoder(model.config["space_dims"], self.n_clusters_, torch.Generator(), device)
        self._encoder.load({name: torch.from_numpy(value) for name, value in model.tensors.items()})

    def _plan(self, n_samples: int, widths: Sequence[int]) -> TurtlePlan:
        return plan_turtle(
            n_samples,
            self._k,
            widths,
            n_steps=self.n_steps,
            batch_size=self.batch_size,
            n_inner_steps=self.n_inner_steps,
            warm=self.inner_start == "warm",
            gamma=self.gamma,
            learning_rate=self.learning_rate,
            inner_learning_rate=self.inner_learning_rate,
        )

    def _make_factors(self, X: RowMatrix, widths: Sequence[int]) -> NDArray[np.float32]:
        if self.feature_scale != "rms":
            return np.full(len(widths), self.feature_scale, dtype=np.float32)
        sizes = space_sizes(X, widths)
        # A space of zeros stays as it is: there is nothing to scale, and no size to divide by.
        return (1 / np.where(sizes > 0, sizes, 1.0)).astype(np.float32)

    def _identity(self, X: RowMatrix, widths: Sequence[int]) -> str:
        # What a checkpoint must share beside plan, seed and precision to be resumed from.
        parameters = [self.n_clusters_, list(widths), [float(f) for f in self._factors]]
        return hash_json({"parameters": parameters, "columns": fingerprint_columns(X)})
