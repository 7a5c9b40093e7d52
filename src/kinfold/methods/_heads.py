"""What all methods that train heads on neighbours share: one fit, one prediction, one saved form."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from torch import Tensor

from kinfold.compute import Runtime, resolve_device, resolve_precision
from kinfold.distributed import current_workers
from kinfold.errors import InputError, nearest_name
from kinfold.heads import (
    MultiHeadNetwork,
    Objective,
    PairSampler,
    StudentTeacher,
    Trainer,
    Training,
    count_head_weights,
)
from kinfold.methods._base import BlockPredictor, check_positive, check_whole, own_graph
from kinfold.methods._criteria import draw_rows, neighbor_agreement, weigh_agreement
from kinfold.methods._diagnosis import warn_of_collapse
from kinfold.methods._rows import check_rows, column_moments, refuse_beyond_float32
from kinfold.methods._schedule import Plan, StopWhenLevel, default_n_neighbors, plan_training
from kinfold.methods.protocol import Cost, Graphs, Machine, Model, Needs, Shape
from kinfold.neighbors import NeighborGraph, knn_graph
from kinfold.progress import SILENT, Progress
from kinfold.storage import hash_json
from kinfold.validation import check_n_clusters

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

HEAD_CHOICES = ("agreement", "loss")
_JUDGED_ROWS = 20_000
TEMPERATURE = 0.1
PREDICT_BYTES = 8 << 20
_NORM = ("mean", "scale")


class HeadMethod(BlockPredictor):
    """Base of the methods that train heads; a method brings its parameters and its objective.

    A subclass has the parameters ``n_clusters``, ``n_heads``, ``n_epochs``, ``batch_size``,
    ``learning_rate``, ``momentum``, ``tol``, ``head_choice``, ``device``, ``precision`` and
    ``random_state``, and ``n_neighbors`` unless it has a :meth:`needs` of its own; what it calls
    ``batch_norm`` makes its networks normalise by the batch. It overrides
    :meth:`check_parameters`, ``_make_objective`` and ``_describe_objective``.
    """

    _learned: ClassVar[str] = "best_head_"
    batch_norm: Any = False

    n_clusters: int
    n_heads: int | None
    n_neighbors: int | None
    n_epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    momentum: float | None
    tol: float
    head_choice: str
    device: str
    precision: str
    random_state: Any

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        graph: Graphs = None,
        progress: Progress = SILENT,
        checkpoint: Path | None = None,
        runtime: Runtime | None = None,
    ) -> Self:
        """Train the heads on X (N, D).

        Parameters
        ----------
        X : array-like or row matrix (N, D)
            Features; memory maps and sharded matrices stay on disk.
        y : ignored
            Labels never reach a fit.
        graph : NeighborGraph, optional
            Neighbours of the N samples, or pairs of one's own; made here where it is missing.
        progress : Progress
            Shows epochs and loss.
        checkpoint : Path, optional
            File to save training to, and to continue from: the result is the same as without a stop.

        Returns
        -------
        self
        """
        self.check_parameters()
        X = check_rows(self, X, fitting=True)
        n_samples = int(X.shape[0])
        check_n_clusters(self.n_clusters, n_samples)
        graph = own_graph(self.name, graph, n_samples)
        self._check_fit(X, graph)
        self.n_clusters_ = int(self.n_clusters)
        if graph is None:
            options = self._graph_options(n_samples)
            graph = knn_graph(X, **options, zero_rows="isolate", device=self.device, progress=progress)
        drawn = int(check_random_state(self.random_state).randint(2**31 - 1))
        seed = int(current_workers().broadcast(drawn))  # without a seed every process draws another
        self.plan_ = self._plan(n_samples, self.n_features_in_)
        training = self._train(X, graph, seed, progress, checkpoint)
        self.history_, self.head_losses_ = training.history, training.head_losses
        self.head_labels_ = training.predict_labels(_blocks(X, self.n_clusters_))
        self.head_agreements_ = agreements(graph, self.head_labels_, self.n_clusters)
        self.best_head_ = self._choose_head()
        self._network = self._one_head(training.head_tensors(self.best_head_))
        self._conclude(X, graph, seed, progress)
        warn_of_collapse(self.labels_, self.n_clusters_)
        return self

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__.lower()
        super().__init_subclass__()

    neighbors_parameter: ClassVar[str | None] = "n_neighbors"

    def needs(self, n_samples: int) -> Needs:
        return Needs({self.name: self._graph_options(n_samples)})

    def cost(self, shape: Shape, machine: Machine) -> Cost:
        n, dim = shape.n_samples, shape.n_features
        plan = self._plan(n, dim)
        n_seen = plan.schedule.n_epochs * plan.steps_per_epoch * plan.batch_size
        weights = plan.n_heads * count_head_weights(dim, self.n_clusters)
        seconds = 2 * 2 * (3 + self._count_targets()) * n_seen * weights / (0.6 * machine.rate)
        return Cost(seconds, 4 * plan.n_heads * count_head_weights(dim, int(self.n_clusters)))

    def to_model(self) -> Model:
        return Model(self.name, int(self.n_features_in_), self._config(), self._tensors())

    @classmethod
    def from_model(cls, model: Model, *, device: str = "auto") -> Self:
        config, tensors = dict(model.config), dict(model.tensors)
        loaded = cls(n_clusters=config["n_clusters"], device=device)
        loaded.head_losses_ = np.array(config["head_losses"], dtype=np.float32)
        loaded.best_head_ = config["best_head"]
        loaded.n_clusters_ = int(config["n_clusters"])
        loaded.n_features_in_ = int(tensors["mean"].shape[0])
        loaded._load(config, tensors)
        return loaded

    def _config(self) -> dict[str, Any]:
        return {
            "n_clusters": self.n_clusters_,
            "best_head": self.best_head_,
            "head_losses": [float(loss) for loss in self.head_losses_],
        }

    def _tensors(self) -> dict[str, NDArray[Any]]:
        state = self._network.state_dict()
        return {name.removeprefix("norm."): value.cpu().numpy() for name, value in state.items()}

    def check_parameters(self) -> None:
        """Raise :class:`InputError` for a parameter that is impossible whatever the data."""
        for name in ("n_heads", "n_neighbors", "n_epochs", "batch_size"):
            if (value := getattr(self, name, None)) is not None:
                check_whole(**{name: value})
        if self.learning_rate is not None:
            check_positive(learning_rate=self.learning_rate)
        if self.momentum is not None and not (isinstance(self.momentum, Real) and 0 <= self.momentum < 1):
            raise InputError(f"momentum must be in [0, 1); got {self.momentum!r}")
        if not (isinstance(self.tol, Real) and 0 <= self.tol < 1):
            raise InputError(f"tol must be in [0, 1); got {self.tol!r}")
        if self.head_choice not in HEAD_CHOICES:
            raise InputError(
                f"head_choice must be one of {', '.join(HEAD_CHOICES)}, not {self.head_choice!r}"
                f"{nearest_name(str(self.head_choice), list(HEAD_CHOICES))}"
            )
        resolve_precision(self.precision, resolve_device(self.device))

    def _graph_options(self, n_samples: int) -> dict[str, Any]:
        """Return how :func:`~kinfold.neighbors.knn_graph` should find the neighbours of N samples."""
        k = self.n_neighbors or default_n_neighbors(n_samples, self.n_clusters)
        return {"n_neighbors": k}

    def _check_fit(self, X: Any, graph: NeighborGraph | None) -> None:
        """Raise :class:`InputError` where checked rows don't go with the graph or the parameters."""
        refuse_beyond_float32(X)

    def _may_stop(self) -> bool:
        """Tell whether a levelled loss may end training early."""
        return self.tol > 0

    def _count_targets(self) -> int:
        """Return how many neighbours' teacher outputs make one target."""
        return 1

    def _make_objective(self, n_heads: int) -> Objective:
        raise AssertionError("every method has its own objective")

    def _describe_objective(self) -> list[Any]:
        """Return the parameters, JSON-ready, that decide the training besides those of the plan."""
        return []

    def _choose_head(self) -> int:
        """Return the head that predicts."""
        if self.head_choice == "loss":
            return int(self.head_losses_.argmin())
        return int(self.head_agreements_.argmax())

    def _conclude(self, X: Any, graph: NeighborGraph, seed: int, progress: Progress) -> None:
        """Learn ``labels_`` from the trained heads."""
        self.labels_ = self._labels(X)

    def _probabilities(self, X: Any) -> Iterator[NDArray[np.float32]]:
        for block in _blocks(X, self.n_clusters_):
            with torch.inference_mode():
                yield torch.softmax(self._logits(self._to_device(block)), dim=1).cpu().numpy()

    def _logits(self, rows: Tensor) -> Tensor:
        """Return the logits (n, K) of what predicts; probabilities are their plain softmax."""
        logits: Tensor = self._network(rows)[0] / TEMPERATURE
        return logits

    def _plan(self, n_samples: int, n_features: int) -> Plan:
        plan = plan_training(
            n_samples,
            n_features,
            self.n_clusters,
            n_heads=self.n_heads,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
        )
        logger.info("training plan: %s", plan)
        return plan

    def _train(
        self, X: Any, graph: NeighborGraph, seed: int, progress: Progress, checkpoint: Path | None
    ) -> Training:
        device = resolve_device(self.device)
        network = MultiHeadNetwork(
            self.n_features_in_,
            self.n_clusters_,
            self.plan_.n_heads,
            generator=torch.Generator().manual_seed(seed),
            batch_norm=bool(self.batch_norm),
        )
        mean, deviation = column_moments(X)
        network.norm.set(torch.from_numpy(mean).float(), torch.from_numpy(deviation).float())
        identity = {
            "method": type(self).__name__,
            "parameters": [*self._describe_objective(), bool(self.batch_norm), self._count_targets()],
            "draws": [seed, self.plan_.batch_size],
            "rows": [list(X.shape), float(mean.sum()), float(deviation.sum())],
            "graph": [graph.n_samples, len(graph.indices), int(graph.indices.sum(dtype=np.int64))],
        }
        learner = StudentTeacher(
            network,
            self._make_objective(self.plan_.n_heads),
            self.plan_.schedule,
            device=device,
            dtype=resolve_precision(self.precision, device),
        )
        trainer = Trainer(learner, identity=hash_json(identity))
        batches = PairSampler(
            X,
            graph,
            batch_size=self.plan_.batch_size,
            seed=seed,
            device=device,
            n_targets=self._count_targets(),
        )
        stop = StopWhenLevel(self.tol, self.plan_.schedule.n_epochs) if self._may_stop() else None
        return trainer.fit(batches, progress=progress, checkpoint=checkpoint, stop=stop)

    def _load(self, config: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        """Become what a saved model describes."""
        named = {f"norm.{name}" if name in _NORM else name: value for name, value in tensors.items()}
        self._network = self._one_head({name: torch.from_numpy(value) for name, value in named.items()})

    def _one_head(self, tensors: dict[str, Tensor]) -> MultiHeadNetwork:
        network = MultiHeadNetwork(self.n_features_in_, self.n_clusters_, 1, generator=torch.Generator())
        network.load_state_dict(tensors)
        return network.to(resolve_device(self.device)).requires_grad_(False).eval()

    def _to_device(self, block: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(block, dtype=np.float32)).to(resolve_device(self.device))


def agreements(
    graph: NeighborGraph, labelings: Iterable[NDArray[np.int32]], n_clusters: int
) -> NDArray[np.float64]:
    """Return how each labeling holds close neighbours together, a dead cluster counted by its share.

    Where N is large, all are judged on the same rows.
    """
    rows = draw_rows(graph.n_samples, _JUDGED_ROWS, seed=0)
    return np.array(
        [
            weigh_agreement(neighbor_agreement(graph, labels, rows), len(np.unique(labels)), n_clusters)
            for labels in labelings
        ]
    )


def _blocks(X: Any, n_clusters: int) -> Iterator[NDArray[Any]]:
    """Yield blocks of rows of which neither values nor logits take more than some MiB."""
    size = max(1, PREDICT_BYTES // (4 * max(n_clusters, int(X.shape[1]))))
    return (np.asarray(X[start : start + size]) for start in range(0, X.shape[0], size))
