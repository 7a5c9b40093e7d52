"""Base of TEMI, SCANv2 and ICCE: plan of a training, fit, prediction, and the saved form."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from torch import Tensor

from kinfold.compute import Runtime, resolve_device
from kinfold.distributed import current_workers
from kinfold.heads import (
    MultiHeadNetwork,
    Objective,
    PairSampler,
    Schedule,
    StudentTeacher,
    Trainer,
    Training,
    count_head_weights,
)
from kinfold.heads.objectives import TEMPERATURE
from kinfold.methods._base import SHARED_CONSTRAINTS, LogitPredictor, make_graph, own_graph, read_temperature
from kinfold.methods._criteria import neighbor_agreement, warn_of_collapse, weigh_agreement
from kinfold.methods._rows import check_rows, column_moments, draw_rows, predict_blocks
from kinfold.methods.protocol import Cost, Graphs, Machine, Model, Needs, Rows, Shape
from kinfold.neighbors import NeighborGraph
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix
from kinfold.storage import hash_array, hash_json
from kinfold.validation import Choice, Constraint, Either, Integer, Nothing, Number

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

# The papers' own settings: momentum of the teacher, neighbours per sample, epochs of warm-up out of 200
# (shorter trainings warm up for a tenth of their steps).
PAPER_MOMENTUM = 0.996
_PAPER_NEIGHBORS = 50
PAPER_WARMUP_EPOCHS = 20

# Length of a training in time constants of the teacher's moving average, 1 / (1 − momentum) steps each. With
# fewer, the teacher still holds much of its random start at the end (docs/choices.md: a loss of −0.41 against
# −1.95); with many more it follows the student so closely that it averages nothing.
EMA_TIME_CONSTANTS = 60

# Steps of a training of up to _FEW_SAMPLES samples. Beyond, they grow with the square root of N: samples of
# one cluster repeat each other, so that not every one needs as many.
_STEPS = 500
_FEW_SAMPLES = 5000

# Heads where their number is not given: 50 are the papers'. docs/choices.md shows what more than twelve are
# worth: a little, for many times the work.
FEWEST_HEADS, MOST_HEADS = 12, 50

# Products of samples and weights that all heads together may make while there are more than the fewest: some
# three minutes of one core.
_HEAD_WORK = 9e11

# Few samples feed few heads: more would only choose between the same solutions.
_SAMPLES_PER_HEAD = 20

# No batch is planned smaller: a step on fewer samples takes as long, since it still reads all weights.
_LEAST_BATCH = 128

# Larger batches make fewer steps of the same work; up to 256 the steps are worth more, and beyond it are only
# what many clusters need: two samples each, up to the scaling paper's 4,096.
_USUAL_BATCH, _MOST_BATCH = 256, 4096

# The papers' rate is 1e-4 · B / 256; with far fewer steps than theirs this one ends at a lower loss.
_LEARNING_RATE = 1e-3

# Share by which a plan in whole epochs may be longer, or shorter, than the steps that are wanted.
_ROUNDING = 0.1

HEAD_CHOICES = ("agreement", "loss")

# Samples on whose neighbours heads are compared: the error of a share of 200,000 pairs is about 0.001.
_JUDGED_ROWS = 20_000

# Expected share of the rate of a large matrix product at which heads train: less than a machine at rest
# reaches (docs/performance.md), since estimates are made on busy ones too.
_TRAINING_SHARE = 0.6

_NORM = ("mean", "scale")  # saved without the prefix that they have in the network

HEAD_CONSTRAINTS: Mapping[str, Constraint] = {
    **SHARED_CONSTRAINTS,
    "n_heads": Either(Integer(), Nothing()),
    "n_epochs": Either(Integer(), Nothing()),
    "batch_size": Either(Integer(), Nothing()),
    "learning_rate": Either(Number(above=0), Nothing()),
    "momentum": Either(Number(least=0, below=1), Nothing()),
    "tol": Number(least=0, below=1),
    "head_choice": Choice(HEAD_CHOICES),
}
"""Rules of the parameters that all methods with heads share."""


@dataclass(frozen=True)
class Plan:
    """Heads, batch size and schedule of one training.

    Attributes
    ----------
    n_heads : int
        H.
    batch_size : int
        B, at most N.
    steps_per_epoch : int
        Whole batches in N samples.
    schedule : Schedule
        What the trainer follows.
    """

    n_heads: int
    batch_size: int
    steps_per_epoch: int
    schedule: Schedule


def plan_training(
    n_samples: int,
    n_features: int,
    n_clusters: int,
    *,
    n_heads: int | None = None,
    n_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    momentum: float | None = None,
) -> Plan:
    """Choose the length, rates and number of heads that were left open.

    The papers train for a fixed number of epochs, which on a small folder is far too few steps for a teacher
    that averages over 250 of them. Here the number of *steps* is chosen: 500 up to 5,000 samples, from there
    on growing with √N; and the teacher averages over 1/60 of the training, never over more than the papers'
    250 steps.

    More heads leave more to choose from, and take longer: 12, or as many as fit in some minutes of a core
    where samples or features are few, up to the papers' 50 and to one per 20 samples.

    Parameters
    ----------
    n_samples, n_features, n_clusters : int
        N, D and K.
    n_heads, n_epochs, batch_size, learning_rate, momentum : optional
        What the user fixed.
    """
    if batch_size is None:
        wanted = max(min(_USUAL_BATCH, n_samples / 16), 2 * n_clusters, _LEAST_BATCH)
        batch_size = 2 ** round(math.log2(min(wanted, _MOST_BATCH)))
    batch_size = min(int(batch_size), n_samples)
    steps_per_epoch = n_samples // batch_size
    if n_epochs is None:
        n_steps = math.ceil(_STEPS * max(1.0, math.sqrt(n_samples / _FEW_SAMPLES)))
        n_epochs = _whole_epochs(n_steps / steps_per_epoch)
    n_epochs = int(n_epochs)
    n_steps = n_epochs * steps_per_epoch
    if momentum is None:
        momentum = max(0.0, min(PAPER_MOMENTUM, 1 - EMA_TIME_CONSTANTS / n_steps))
    schedule = Schedule(
        n_epochs=n_epochs,
        learning_rate=_LEARNING_RATE if learning_rate is None else float(learning_rate),
        # An epoch of frozen last layers is the papers'; a training of few epochs can't spare a whole one.
        warmup_steps=min(PAPER_WARMUP_EPOCHS * steps_per_epoch, n_steps // 10),
        frozen_steps=min(steps_per_epoch, n_steps // 20),
        momentum=float(momentum),
    )
    if n_heads is None:
        seen = n_steps * max(batch_size, _LEAST_BATCH)
        affordable = int(_HEAD_WORK // (seen * count_head_weights(n_features, n_clusters)))
        most = max(FEWEST_HEADS, min(MOST_HEADS, n_samples // _SAMPLES_PER_HEAD))
        n_heads = max(FEWEST_HEADS, min(most, affordable))
    return Plan(int(n_heads), batch_size, steps_per_epoch, schedule)


@dataclass(frozen=True)
class StopWhenLevel:
    """Rule that ends a training whose loss has levelled off, without looking at labels.

    After half of the planned epochs: stop when the mean loss of all heads, averaged over the last eighth of
    the plan, lies at most ``tol`` times the whole fall so far below its average over the eighth before.

    Parameters
    ----------
    tol : float
        Share of the fall, in (0, 1).
    n_epochs : int
        Planned epochs.
    """

    tol: float
    n_epochs: int

    def __call__(self, history: NDArray[np.float32]) -> bool:
        """Tell whether to stop after the epochs of ``history`` (epochs, H)."""
        # An eighth of the plan averages out the noise of single epochs; two of them are compared. Before half
        # of the plan a plateau may still be the one at the start, while the teacher is slow.
        window = max(1, self.n_epochs // 8)
        if len(history) < max(self.n_epochs // 2, 2 * window + 1):
            return False
        losses = history.mean(axis=1, dtype=np.float64)
        now, before = losses[-window:].mean(), losses[-2 * window : -window].mean()
        return bool(before - now <= self.tol * (losses[0] - now))


def default_n_neighbors(n_samples: int, n_clusters: int) -> int:
    """Return the papers' 50 neighbours, or fewer where half an average cluster is smaller."""
    # Neighbours must be able to be of one kind, which a whole cluster of another size might not allow; but
    # not below 5, however small clusters are: fewer pairs are hardly a graph.
    return max(1, min(_PAPER_NEIGHBORS, max(5, n_samples // (2 * n_clusters)), n_samples - 1))


def default_min_neighbors(n_samples: int, n_clusters: int) -> int:
    """Return the least neighbours of the adaptive rule: a 16th of an average cluster, in 5 … 50."""
    # Less than half a cluster, since the threshold adds neighbours where samples lie densely.
    return max(1, min(_PAPER_NEIGHBORS, max(5, n_samples // (16 * n_clusters)), n_samples - 1))


def _whole_epochs(wanted: float) -> int:
    """Round up, or down where up is a tenth too long and down isn't as much too short."""
    down, up = math.floor(wanted), math.ceil(wanted)
    return down if up > (1 + _ROUNDING) * wanted and down > (1 - _ROUNDING) * wanted else up


class HeadMethod(LogitPredictor):
    """Base of the methods that train heads; a method brings its parameters and its objective.

    A subclass has the parameters of :data:`HEAD_CONSTRAINTS`, and ``n_neighbors`` unless it has a
    :meth:`needs` of its own; with a true parameter ``batch_norm`` its networks normalise by the batch. It
    sets ``name`` and ``constraints``, and overrides ``_make_objective`` and ``_describe_objective``.
    """

    constraints: ClassVar[Mapping[str, Constraint]] = HEAD_CONSTRAINTS
    neighbors_parameter: ClassVar[str | None] = "n_neighbors"
    _learned: ClassVar[str] = "best_head_"
    batch_norm: bool = False

    n_clusters: int | str
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
    random_state: int | np.random.RandomState | None

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
        """Train the heads on X (N, D).

        Parameters
        ----------
        X : array-like or row matrix (N, D)
            Features; memory maps and sharded matrices stay on disk.
        y : ignored
            Labels never reach a fit.
        graph : NeighborGraph or mapping of str to NeighborGraph, optional
            Neighbours of the N samples, or pairs of one's own; of a mapping the one of this method's name.
            Made here where it is missing.
        progress : Progress
            Shows epochs and loss.
        checkpoint : Path, optional
            File to save training to, and to resume from: the result is the same as without a stop.
        runtime : Runtime, optional
            Wins over ``device``, ``precision`` and ``progress``.

        Returns
        -------
        self
        """
        self.check_parameters()
        runtime = self._resolve_runtime(runtime, progress)
        self._device = runtime.device
        rows = check_rows(self, X, fitting=True)
        n_samples = int(rows.shape[0])
        self._settle_n_clusters(rows, runtime)
        neighbors = own_graph(self.name, graph, n_samples)
        self._check_fit(rows)
        if neighbors is None:
            neighbors = make_graph(rows, self.needs(n_samples).graphs[self.name], runtime)
        drawn = int(check_random_state(self.random_state).randint(2**31 - 1))
        # Without a seed every process draws another: the first one's counts.
        seed = int(current_workers().broadcast(drawn))
        self.plan_ = self._plan(n_samples, self.n_features_in_)
        logger.info("training plan: %s", self.plan_)
        training = self._train(rows, neighbors, seed, runtime, checkpoint)
        self.history_, self.head_losses_ = training.history, training.head_losses
        self.head_labels_ = training.predict_labels(predict_blocks(rows, self.n_clusters_))
        self.head_agreements_ = agreements(neighbors, self.head_labels_, self._k)
        self.best_head_ = self._choose_head()
        self._network = self._one_head(training.head_tensors(self.best_head_))
        self._conclude(rows, neighbors, seed, runtime)
        self._calibrate(rows, runtime)
        warn_of_collapse(self.labels_, self.n_clusters_)
        return self

    def needs(self, n_samples: int) -> Needs:
        """Return what a fit of N samples takes besides the rows: a graph of their neighbours."""
        k = self.n_neighbors or default_n_neighbors(n_samples, self._k)
        return Needs({self.name: {"n_neighbors": k}})

    def cost(self, shape: Shape, machine: Machine) -> Cost:
        """Return what a fit is expected to take, by the plan that it will follow to its end."""
        plan = self._plan(shape.n_samples, shape.n_features)
        weights = plan.n_heads * count_head_weights(shape.n_features, self._k)
        n_seen = plan.schedule.n_epochs * plan.steps_per_epoch * plan.batch_size
        # Two views of each sample, two operations for each weight. The student's forward and backward are
        # three products, the teacher's one for every neighbour that a target is the mean of.
        operations = 2 * 2 * (3 + self._count_targets()) * n_seen * weights
        return Cost(seconds=operations / (_TRAINING_SHARE * machine.rate), model_bytes=4 * weights)

    def to_model(self) -> Model:
        """Return what is saved: what predicts, by default the best head alone."""
        return Model(self.name, int(self.n_features_in_), self._model_config(), self._model_tensors())

    @classmethod
    def from_model(cls, model: Model, *, device: str = "auto") -> Self:
        """Return an estimator that predicts, from what was saved."""
        config = model.config
        loaded = cls(n_clusters=config["n_clusters"], device=device)
        loaded.head_losses_ = np.array(config["head_losses"], dtype=np.float32)
        loaded.best_head_ = config["best_head"]
        loaded.n_clusters_ = int(config["n_clusters"])
        loaded.n_features_in_ = int(model.tensors["mean"].shape[0])
        loaded._device = resolve_device(device)
        loaded.temperature_ = read_temperature(config)
        loaded._load(model)
        return loaded

    def _model_config(self) -> dict[str, Any]:
        """Return what ``model.json`` holds."""
        return {
            "n_clusters": self.n_clusters_,
            "best_head": self.best_head_,
            "head_losses": [float(loss) for loss in self.head_losses_],
            "temperature": self.temperature_,
        }

    def _model_tensors(self) -> dict[str, NDArray[Any]]:
        """Return what ``model.safetensors`` holds."""
        state = self._network.state_dict()
        return {name.removeprefix("norm."): value.cpu().numpy() for name, value in state.items()}

    def _check_fit(self, X: RowMatrix) -> None:
        """Raise :class:`InputError` where checked rows don't go with the parameters; by default they do."""

    def _may_stop(self) -> bool:
        """Tell whether a levelled loss may end training early."""
        return self.tol > 0

    def _count_targets(self) -> int:
        """Return how many neighbours' teacher outputs make one target."""
        return 1

    @abstractmethod
    def _make_objective(self, n_heads: int) -> Objective:
        """Return the loss of so many heads."""

    def _describe_objective(self) -> list[Any]:
        """Return the parameters, JSON-ready, that decide the training besides those of the plan."""
        return []

    def _choose_head(self) -> int:
        """Return the head that predicts."""
        if self.head_choice == "loss":
            return int(self.head_losses_.argmin())
        return int(self.head_agreements_.argmax())

    def _conclude(self, X: RowMatrix, graph: NeighborGraph, seed: int, runtime: Runtime) -> None:
        """Set ``labels_``, from the trained heads."""
        self.labels_ = self._labels(X)

    def _logits(self, rows: Tensor) -> Tensor:
        """Return the logits (n, K) of what predicts, at the temperature of training."""
        logits: Tensor = self._network(rows)[0] / TEMPERATURE
        return logits

    def _plan(self, n_samples: int, n_features: int) -> Plan:
        return plan_training(
            n_samples,
            n_features,
            self._k,
            n_heads=self.n_heads,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
        )

    def _train(
        self, X: RowMatrix, graph: NeighborGraph, seed: int, runtime: Runtime, checkpoint: Path | None
    ) -> Training:
        network = MultiHeadNetwork(
            self.n_features_in_,
            self.n_clusters_,
            self.plan_.n_heads,
            generator=torch.Generator().manual_seed(seed),
            batch_norm=bool(self.batch_norm),
        )
        mean, deviation = column_moments(X)
        network.norm.set(torch.from_numpy(mean).float(), torch.from_numpy(deviation).float())
        # What a checkpoint must agree with besides the plan; a change of this list makes old ones useless.
        identity = {
            "method": type(self).__name__,
            "parameters": [*self._describe_objective(), bool(self.batch_norm), self._count_targets()],
            "draws": [seed, self.plan_.batch_size],
            "rows": [list(X.shape), hash_array(mean), hash_array(deviation)],
            # Hashing reads the whole graph, which only a checkpoint is worth.
            "graph": graph.fingerprint() if checkpoint else None,
        }
        learner = StudentTeacher(
            network,
            self._make_objective(self.plan_.n_heads),
            self.plan_.schedule,
            device=runtime.device,
            dtype=runtime.dtype,
        )
        trainer = Trainer(learner, identity=hash_json(identity))
        batches = PairSampler(
            X,
            graph,
            batch_size=self.plan_.batch_size,
            seed=seed,
            device=runtime.device,
            n_targets=self._count_targets(),
        )
        stop = StopWhenLevel(self.tol, self.plan_.schedule.n_epochs) if self._may_stop() else None
        return trainer.fit(batches, progress=runtime.progress, checkpoint=checkpoint, stop=stop)

    def _load(self, model: Model) -> None:
        """Become what a saved model describes."""
        named = {f"norm.{name}" if name in _NORM else name: value for name, value in model.tensors.items()}
        self._network = self._one_head({name: torch.from_numpy(value) for name, value in named.items()})

    def _one_head(self, tensors: dict[str, Tensor]) -> MultiHeadNetwork:
        network = MultiHeadNetwork(self.n_features_in_, self.n_clusters_, 1, generator=torch.Generator())
        network.load_state_dict(tensors)
        return network.to(self._device).requires_grad_(False).eval()


def agreements(
    graph: NeighborGraph, labelings: Iterable[NDArray[np.int32]], n_clusters: int
) -> NDArray[np.float64]:
    """Return the neighbour label agreement beyond chance of each labeling, by which heads are chosen.

    It is :func:`~kinfold.methods._criteria.neighbor_agreement`: the share a of close neighbours of the same
    label, corrected for chance, (a − Σ p²) / (1 − Σ p²), with p the shares of the clusters; 1 is full
    agreement, 0 that of random labels of the same sizes. Where it is above 0 it counts times the share of
    clusters that have a member. Where N is large, all labelings are compared on the same rows.
    """
    rows = draw_rows(graph.n_samples, _JUDGED_ROWS, seed=0)
    return np.array(
        [
            weigh_agreement(neighbor_agreement(graph, labels, rows), len(np.unique(labels)), n_clusters)
            for labels in labelings
        ]
    )
