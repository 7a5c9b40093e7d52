"""The contract of a clustering method: what the rest of the package may ask of it.

``kinfold cluster``, its estimate, ``auto`` and suites ask a method what it needs and what it costs through
these names alone. No other code recognises a method by its class or by the names of its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.compute import Runtime
from kinfold.features.matrix import RowMatrix
from kinfold.neighbors import NeighborGraph
from kinfold.progress import Progress
from kinfold.validation import Constraint

if TYPE_CHECKING:
    from typing_extensions import Self

    from kinfold.methods._criteria import Criteria

Rows: TypeAlias = "ArrayLike | RowMatrix"
Graphs: TypeAlias = "NeighborGraph | Mapping[str, NeighborGraph] | None"


@dataclass(frozen=True)
class Needs:
    """What a fit takes besides the rows.

    Attributes
    ----------
    graphs : mapping of str to mapping
        By the name of the method that learns from it, the options with which
        :func:`~kinfold.neighbors.knn_graph` makes each graph. Empty for a method without neighbours.
    """

    graphs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """Shape of the rows that a cost is asked for."""

    n_samples: int
    n_features: int


@dataclass(frozen=True)
class Machine:
    """How fast a machine is.

    Attributes
    ----------
    rate : float
        Floating-point operations per second of a large matrix product, in the precision of the method.
    bandwidth : float
        Bytes per second that are read and written when memory is copied.
    """

    rate: float
    bandwidth: float


@dataclass(frozen=True)
class Cost:
    """What a fit is expected to take: a rough guide, made from the plan that the fit itself will follow.

    Attributes
    ----------
    seconds : float
        Wall-clock time of the fit on the machine that was asked about.
    model_bytes : int
        float32 weights of everything that is trained at once: all heads, or all centroids.
    other_bytes : int
        The same of candidates that are trained at another time: they take room on disk, but no memory.
    n_fits : int
        Fits that are judged by :func:`~kinfold.methods.assess`, whose time isn't among the seconds.
    """

    seconds: float
    model_bytes: int
    other_bytes: int = 0
    n_fits: int = 1


@dataclass(frozen=True)
class Model:
    """A fitted method as ``model.json`` and ``model.safetensors`` hold it: enough to predict.

    Attributes
    ----------
    method : str
        Name as ``--method`` takes it; of ``auto`` the chosen candidate's.
    n_features : int
        D.
    config : mapping
        JSON-ready values.
    tensors : mapping of str to ndarray
        Arrays by name.
    extra : mapping
        JSON-ready facts beside the model, such as the table that ``auto`` chose by.
    """

    method: str
    n_features: int
    config: Mapping[str, Any]
    tensors: Mapping[str, NDArray[Any]]
    extra: Mapping[str, Any] = field(default_factory=dict)


class Clusterer(Protocol):
    """A method: a scikit-learn estimator with the answers that a run needs.

    Attributes
    ----------
    name : str
        As ``--method`` takes it.
    constraints : mapping of str to Constraint
        The rule of every parameter; see :mod:`kinfold.validation`.
    neighbors_parameter : str or None
        Parameter that holds the least number of neighbours in a graph, where the method has one.
    noun_parameters : tuple of str
        Parameters that take the features of nouns and the nouns themselves; empty where it reads none.
    criteria_ : Criteria or None
        What the fit itself measured to choose its result by; None where it compares nothing.
    labels_ : ndarray (N,) int32
        Cluster of every training sample, once fitted.
    n_clusters_ : int
        K as fitted.
    n_features_in_ : int
        D, once fitted.
    """

    name: ClassVar[str]
    constraints: ClassVar[Mapping[str, Constraint]]
    neighbors_parameter: ClassVar[str | None]
    noun_parameters: ClassVar[tuple[str, ...]]
    criteria_: Criteria | None
    n_clusters: int
    device: str
    precision: str
    labels_: NDArray[np.int32]
    n_clusters_: int
    n_features_in_: int

    def fit(
        self,
        X: Rows,
        y: object = None,
        *,
        graph: Graphs = None,
        progress: Progress = ...,
        checkpoint: Path | None = None,
        runtime: Runtime | None = None,
    ) -> Self:
        """Find the clusters of X (N, D).

        ``graph`` is one for the method, or a mapping by name of which each method takes its own. ``runtime``
        wins over the estimator's device and precision, and over ``progress``.
        """

    def predict(self, X: Rows) -> NDArray[np.int32]:
        """Return the most probable cluster of every row of X, (N,)."""

    def predict_proba(self, X: Rows) -> NDArray[np.float32]:
        """Return probabilities (N, K)."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""

    def check_parameters(self) -> None:
        """Raise :class:`~kinfold.errors.InputError` for a parameter that breaks its rule."""

    def describe_parameters(self, n_samples: int) -> dict[str, Any]:
        """Return the parameters that decide a fit of N samples, those of its graph filled in."""

    def needs(self, n_samples: int) -> Needs:
        """Return what a fit of N samples takes besides the rows."""

    def cost(self, shape: Shape, machine: Machine) -> Cost:
        """Return what a fit is expected to take."""

    def facts(self) -> dict[str, Any]:
        """Return what ``manifest.fit`` says of a fit: the tables by which it chose, JSON-ready."""

    def to_model(self) -> Model:
        """Return what is saved."""

    @classmethod
    def from_model(cls, model: Model, *, device: str = "auto") -> Self:
        """Return an estimator that predicts, from what was saved."""
