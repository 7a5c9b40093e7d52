"""The contract of a clustering method: what the rest of the package may ask of it.

``kinfold cluster``, its estimate, ``auto`` and suites ask a method what it needs and what it costs through
these names alone. No other code recognises a method by its class or by the names of its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.compute import Runtime
from kinfold.neighbors import NeighborGraph
from kinfold.progress import Progress
from kinfold.rows import RowMatrix
from kinfold.validation import Constraint

if TYPE_CHECKING:
    from typing_extensions import Self


# A cluster is a giant when it holds more than this share of all samples and so many times its equal share:
# real kinds may be uneven, and of two or three clusters one may well hold more than half.
GIANT_SHARE = 0.5
_GIANT_TIMES = 3
MOST_DEAD = 0.1  # share of dead clusters beyond which a fit counts as collapsed

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


@dataclass(frozen=True)
class Criteria:
    """How good a fit looks, without labels.

    Attributes
    ----------
    n_clusters : int
        K that was asked for.
    live_clusters : int
        Clusters with a member.
    largest_share : float
        Share of all samples in the largest cluster, in [0, 1].
    neighbor_agreement : float
        Share a of the 10 closest neighbours (of all neighbours, where a sample has fewer) that have their
        sample's label, less what chance would give: (a − Σ p²) / (1 − Σ p²), where p are the clusters' shares
        of all samples. At most 1; 0 is chance, a single cluster, or no neighbours at all.
    cross_validated_accuracy : float
        Share of the labels that a linear classifier finds again on samples that it has not seen, in [0, 1].
        Read it beside ``live_clusters``: a single cluster scores 1.
    best_head_loss, mean_head_loss : float or None
        Of the training losses of all heads; None where a method has no heads. Only losses of the same
        objective on the same data compare.
    head_nmi : float or None
        Mean geometric NMI of every two heads, in [0, 1]; None where there are no two heads.
    consensus_nmi : float or None
        Mean geometric NMI of the consensus to all heads, or of ``labels_`` where a method makes no consensus,
        in [0, 1]; None where a method has no heads.
    """

    n_clusters: int
    live_clusters: int
    largest_share: float
    neighbor_agreement: float
    cross_validated_accuracy: float
    best_head_loss: float | None = None
    mean_head_loss: float | None = None
    head_nmi: float | None = None
    consensus_nmi: float | None = None

    @property
    def collapsed(self) -> bool:
        """Whether more than a tenth of all clusters are dead, or one holds far too much of all samples."""
        dead = self.n_clusters - self.live_clusters
        return dead / self.n_clusters > MOST_DEAD or is_giant(self.largest_share, self.n_clusters)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return asdict(self)


def is_giant(share: float, n_clusters: int) -> bool:
    """Tell whether a cluster of this share is a giant, see :func:`~kinfold.methods.diagnose`."""
    return n_clusters > 1 and share > GIANT_SHARE and share > _GIANT_TIMES / n_clusters


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
    n_clusters: int | str
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
