"""Text-aided clustering (TAC): nouns of a joint space of images and texts guide the clusters."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from kinfold.compute import Runtime, resolve_device
from kinfold.distributed import current_workers
from kinfold.errors import InputError
from kinfold.heads import DIRECTIONS, INITIALIZATIONS, DualSettings
from kinfold.language.space import count_centres, select_nouns, text_counterparts
from kinfold.methods._base import SHARED_CONSTRAINTS, BlockPredictor, own_graph, read_temperature
from kinfold.methods._criteria import warn_of_collapse
from kinfold.methods._heads import default_n_neighbors
from kinfold.methods._kmeans import SphericalKMeans
from kinfold.methods._rows import check_rows
from kinfold.methods._tac_model import (
    CENTRES,
    KMEANS_TEMPERATURE,
    JointMatrix,
    Neighbors,
    TacModel,
    TacPlan,
    find_centres,
    fit_quietly,
    import_networkx,
    name_head,
    plan_tac,
    train_dual,
    unit_matrix,
)
from kinfold.methods.protocol import Cost, Graphs, Machine, Model, Needs, Rows, Shape
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix, as_row_matrix
from kinfold.rows.readers import UnitRows
from kinfold.validation import Choice, Constraint, Either, Flag, Integer, Nothing, Number

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

_SHOWN_NOUNS = 30  # in the manifest: the surest, as many as the paper shows (appendix B)
_EXPECTED_NOUNS = 119_034  # WordNet's, for the cost: it is asked for before the nouns are read
_CENTRE_PASSES = 60  # of k-means at most, for the cost
_TRAINING_SHARE = 0.6  # of the matrix-product rate that training reaches beside its smaller operations


class TAC(BlockPredictor):
    """Text-aided clustering: nouns that tell the images apart guide the clusters, without class names.

    Images and nouns are vectors of one joint space, as CLIP or SigLIP make them. The nouns that stand for
    groups of images best are selected, and every image gets a text counterpart, the mean of the nouns that
    fit it. Then two heads, one for images and one for counterparts, teach each other what their neighbours
    are; or, without training, spherical k-means sees both side by side. New images need no nouns: the image
    head predicts alone, or, without training, the kept nouns are part of the model, and probabilities are
    softmax(cosine to the centroids / 0.1).

    Parameters
    ----------
    n_clusters : int or "auto", default 8
        K, at most the number of samples; "auto" estimates it (:func:`kinfold.levels.estimate_levels`).
    noun_features : array-like or row matrix (V, D)
        Features of nouns in the space of X, of any length: :func:`kinfold.language.embed_nouns` makes those
        of WordNet. There is no default: ``fit`` says so where they are missing.
    nouns : sequence of str, optional
        The nouns themselves, V different ones, for ``selected_nouns_``.
    train : bool, default True
        Train the heads; else k-means on images and counterparts, in seconds.
    centres : str, default "kmeans"
        How groups of images that nouns are selected for are found: "kmeans", "agglomerative", "spectral",
        "dbscan", "louvain", which needs networkx (``pip install 'kinfold[louvain]'``), or "none", which keeps
        all nouns.
    n_centres : int, optional
        k̂; by default N / ``samples_per_centre``, or 3 K where clusters are smaller than that.
    samples_per_centre : float, default 300
        The size that a cluster may have to be told by the same nouns.
    resolution : float, default 5.0
        Of ``centres="louvain"``, in place of k̂.
    nouns_per_centre : int, default 5
        γ, the nouns that each centre keeps.
    retrieval_temperature : float, default 0.005
        Of the softmax over the kept nouns that makes text counterparts.
    n_neighbors : int, optional
        Neighbours in each modality; by default the paper's 50, or fewer where half an average cluster is
        smaller.
    distillation : {"both", "text_to_image", "image_to_text", "none"}, default "both"
        Which modality's neighbours teach the other one.
    confidence : bool, default True
        Whether the confidence term counts.
    balance_weight : float, default 5.0
        α of the balance term, which keeps clusters in use; 0 leaves it out.
    temperature : float, optional
        τ of the distillation; by default the paper's 0.5, or 5 from 100 clusters on.
    n_epochs : int, optional
        Passes over the data; by default the paper's 20, or 100 from 100 clusters on, and more where that is
        fewer than 500 steps.
    batch_size : int, optional
        Samples per step, cut to N; by default the paper's 512, or 8,192 from 100 clusters on.
    learning_rate : float, default 1e-3
        Of Adam.
    separate_moments : bool, default False
        Whether batch normalisation sees a batch's samples and their neighbours apart, as in the authors'
        code; by default their moments are taken together.
    initialization : {"uniform", "truncated_normal"}, default "uniform"
        Of the heads' weights: PyTorch's default for linear layers, or the authors' truncated normal
        distribution of deviation 0.02.
    device : str, default "auto"
        "cpu", "cuda", "mps", or the best there is.
    precision : str, default "auto"
        Of the heads' matrix products: "float32", "bfloat16", or bfloat16 where the device has units for it.
    random_state : int, RandomState or None, default None
        Seed; the same integer gives the same labels on the same machine.

    Attributes
    ----------
    labels_ : ndarray (N,) int32
        Cluster of every training sample: the arg max of the image head, or the closest centroid.
    selected_nouns_ : ndarray (M,) of str or int64
        The nouns that were kept, the surest first; their numbers where ``nouns`` were not given.
    selected_features_ : ndarray (M, D) float32
        Their features at unit length.
    text_counterparts_ : ndarray (N, D) float32
        What every training sample is in these nouns, at unit length. Not of a loaded model.
    history_ : ndarray (epochs,) float32
        Mean loss of every epoch; where heads were trained.
    plan_ : TacPlan
        Batch size and length as used.
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
        From ``fit``: no ``noun_features``, or of another width than X; more clusters than samples, rows that
        are not finite, nouns without a direction.

    References
    ----------
    Li, Hu, Peng, Lv, Peng (2024), "Image Clustering with External Guidance", ICML. Differences: few samples
    get more epochs; batch normalisation's averages forget their start, so that they are right after a few
    steps. The paper's settings: ``preset_parameters("tac", "paper")``.

    Examples
    --------
    >>> import numpy as np
    >>> from kinfold import TAC
    >>> random = np.random.default_rng(0)
    >>> nouns, truth = random.normal(size=(30, 16)), np.arange(300) % 3
    >>> X = nouns[truth] + 0.5 * random.normal(size=(300, 16))
    >>> model = TAC(n_clusters=3, noun_features=nouns, random_state=0).fit(X)
    >>> len(set(zip(truth, model.labels_)))
    3
    """

    name: ClassVar[str] = "tac"
    constraints: ClassVar[Mapping[str, Constraint]] = {
        **SHARED_CONSTRAINTS,
        "train": Flag(),
        "centres": Choice(CENTRES),
        "n_centres": Either(Integer(), Nothing()),
        "samples_per_centre": Number(above=0),
        "resolution": Number(above=0),
        "nouns_per_centre": Integer(),
        "retrieval_temperature": Number(above=0),
        "n_neighbors": Either(Integer(), Nothing()),
        "distillation": Choice(DIRECTIONS),
        "confidence": Flag(),
        "balance_weight": Number(least=0),
        "temperature": Either(Number(above=0), Nothing()),
        "n_epochs": Either(Integer(), Nothing()),
        "batch_size": Either(Integer(), Nothing()),
        "learning_rate": Number(above=0),
        "separate_moments": Flag(),
        "initialization": Choice(INITIALIZATIONS),
    }
    neighbors_parameter: ClassVar[str | None] = "n_neighbors"
    noun_parameters: ClassVar[tuple[str, ...]] = ("noun_features", "nouns")
    _learned: ClassVar[str] = "_model"

    n_clusters_: int
    labels_: NDArray[np.int32]
    history_: NDArray[np.float32]

    def __init__(
        self,
        n_clusters: int | str = 8,
        *,
        noun_features: Rows | None = None,
        nouns: Sequence[str] | None = None,
        train: bool = True,
        centres: str = "kmeans",
        n_centres: int | None = None,
        samples_per_centre: float = 300,
        resolution: float = 5.0,
        nouns_per_centre: int = 5,
        retrieval_temperature: float = 0.005,
        n_neighbors: int | None = None,
        distillation: str = "both",
        confidence: bool = True,
        balance_weight: float = 5.0,
        temperature: float | None = None,
        n_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float = 1e-3,
        separate_moments: bool = False,
        initialization: str = "uniform",
        device: str = "auto",
        precision: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.noun_features = noun_features
        self.nouns = nouns
        self.train = train
        self.centres = centres
        self.n_centres = n_centres
        self.samples_per_centre = samples_per_centre
        self.resolution = resolution
        self.nouns_per_centre = nouns_per_centre
        self.retrieval_temperature = retrieval_temperature
        self.n_neighbors = n_neighbors
        self.distillation = distillation
        self.confidence = confidence
        self.balance_weight = balance_weight
        self.temperature = temperature
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.separate_moments = separate_moments
        self.initialization = initialization
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
        """Select nouns for X (N, D) and find its clusters; of several processes the first one trains for all.

        Parameters
        ----------
        X : array-like or row matrix (N, D)
            Image features of the joint space; memory maps and sharded matrices stay on disk, the text
            counterparts are in memory.
        y : ignored
            Labels never reach a fit.
        graph : NeighborGraph or mapping of str to NeighborGraph, optional
            Neighbours of the N images, or a mapping that holds them under "tac"; made here where they are
            missing. Those of texts are always made here.
        progress : Progress
            Shows what is done.
        checkpoint : Path, optional
            File to save training to, and to continue from: the result is the same as without a stop.
        runtime : Runtime, optional
            Wins over ``device``, ``precision`` and ``progress``.

        Returns
        -------
        self

        Raises
        ------
        InputError
            X, the nouns or a parameter can't be used.
        MissingExtraError
            ``centres="louvain"``, and networkx isn't installed.
        """
        self.check_parameters()
        if self.centres == "louvain":
            # Before the neighbours are searched, which may take minutes; and on every process of a job, since
            # the others would wait for the first one's centres.
            import_networkx()
        runtime = self._resolve_runtime(runtime, progress)
        rows = check_rows(self, X, fitting=True)
        n_samples = int(rows.shape[0])
        self._settle_n_clusters(rows, runtime)
        given = own_graph(self.name, graph, n_samples)
        features = check_nouns(self._read_nouns(), self.nouns, self.n_features_in_)
        # Less than 2³¹ − 1, since training derives seeds of its own by adding to it. Of several processes
        # without a seed each would draw another one.
        seed = int(current_workers().broadcast(int(check_random_state(self.random_state).randint(2**31 - 8))))
        neighbors = Neighbors(rows, given, self._graph_options(n_samples), runtime)
        self._select(rows, features, neighbors, seed, runtime)
        self.text_counterparts_ = text_counterparts(
            rows,
            self.selected_features_,
            temperature=self.retrieval_temperature,
            device=str(runtime.device),
            progress=runtime.progress,
        )
        if self.train:
            self._train(rows, neighbors, seed, runtime, checkpoint)
        else:
            self._join(rows, seed, runtime)
        self.labels_ = self._labels(rows)
        self._calibrate(rows, runtime)
        warn_of_collapse(self.labels_, self.n_clusters_)
        return self

    def to_model(self) -> Model:
        """Return what is saved: the kept nouns with their features, and the head or the centroids."""
        return Model(
            method=self.name,
            n_features=int(self.n_features_in_),
            config={
                "n_clusters": self.n_clusters_,
                "trained": self._model.head is not None,
                "retrieval_temperature": self._model.temperature,
                "temperature": self.temperature_,
                "nouns": self.selected_nouns_.tolist(),
            },
            tensors={"noun_features": self.selected_features_, **self._model.tensors()},
        )

    @classmethod
    def from_model(cls, model: Model, *, device: str = "auto") -> Self:
        """Return an estimator that predicts, from what was saved."""
        config, tensors = model.config, model.tensors
        loaded = cls(n_clusters=config["n_clusters"], train=config["trained"], device=device)
        loaded.n_clusters_ = int(config["n_clusters"])
        loaded.selected_nouns_ = np.array(config["nouns"])
        loaded.selected_features_ = tensors["noun_features"]
        loaded.n_features_in_ = int(loaded.selected_features_.shape[1])
        loaded._retrieval_temperature = float(config["retrieval_temperature"])
        loaded.temperature_ = read_temperature(config)
        learned = {name: value for name, value in tensors.items() if name != "noun_features"}
        loaded._adopt(learned, resolve_device(device))
        return loaded

    def needs(self, n_samples: int) -> Needs:
        """Return what a fit of N samples takes besides the rows: neighbours, where it goes by them."""
        # Heads learn from neighbours, and all other ways to find centres read the graph.
        if self.train or self.centres not in ("kmeans", "none"):
            return Needs({self.name: self._graph_options(n_samples)})
        return Needs()

    def cost(self, shape: Shape, machine: Machine) -> Cost:
        """Return what a fit is expected to take: centres, selection, counterparts, and training."""
        n_samples, n_features = shape.n_samples, shape.n_features
        n_centres = self.count_centres(n_samples)
        n_kept = n_centres * self.nouns_per_centre
        products = 2.0 * n_features * n_centres * (_CENTRE_PASSES * n_samples + _EXPECTED_NOUNS)
        products += 4.0 * n_features * n_kept * n_samples
        if self.train:
            plan = self.plan(n_samples)
            n_seen = plan.n_epochs * plan.steps_per_epoch * plan.batch_size
            # Two heads, two views of each sample, forward and twice backward.
            training = 2.0 * 2 * 2 * 3 * n_seen * (n_features + self._k) * n_features
            neighbors = 4.0 * n_samples * n_samples * n_features  # among texts, which fit finds itself
            seconds = float((products + training / _TRAINING_SHARE + neighbors) / machine.rate)
        else:
            joint = SphericalKMeans(n_clusters=self._k)
            seconds = float(products / machine.rate)
            seconds += joint.cost(Shape(n_samples, 2 * n_features), machine).seconds
        # Of either head a square hidden layer and the last one; and the kept nouns.
        n_weights = n_features * (2 * (n_features + self._k) + int(n_kept))
        return Cost(seconds, model_bytes=4 * n_weights)

    def facts(self) -> dict[str, Any]:
        """Return what ``manifest.fit`` says of a fit: the nouns that were kept."""
        shown = self.selected_nouns_[:_SHOWN_NOUNS].tolist()
        return {**super().facts(), "n_nouns": len(self.selected_nouns_), "nouns": shown}

    def _read_nouns(self) -> Rows | None:
        """Return the features of nouns; a subclass may make those that go with the width of X."""
        return self.noun_features

    def _graph_options(self, n_samples: int) -> dict[str, Any]:
        """Return how :func:`~kinfold.neighbors.knn_graph` should find the neighbours of N samples."""
        wanted = self.n_neighbors or default_n_neighbors(n_samples, self._k)
        # A single sample has no neighbour: knn_graph still takes 1, and makes a graph without edges.
        return {"n_neighbors": max(1, min(wanted, n_samples - 1))}

    def plan(self, n_samples: int) -> TacPlan:
        """Return batch size and length of training on N samples."""
        return plan_tac(
            n_samples,
            self._k,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            temperature=self.temperature,
        )

    def _select(
        self, X: RowMatrix, features: RowMatrix, neighbors: Neighbors, seed: int, runtime: Runtime
    ) -> None:
        """Learn which nouns are kept."""
        if self.centres == "none":
            kept: NDArray[np.int64] = np.arange(features.shape[0])
        else:
            centres = find_centres(
                X,
                self.centres,
                self.count_centres(int(X.shape[0])),
                neighbors,
                seed=seed,
                resolution=self.resolution,
                runtime=runtime,
            )
            kept = select_nouns(
                features,
                centres,
                per_centre=self.nouns_per_centre,
                device=str(runtime.device),
                progress=runtime.progress,
            ).indices
        logger.info("%d of %d nouns are kept", len(kept), features.shape[0])
        # Unit length, as counterparts are made of them: a noun's norm says nothing about images.
        self.selected_features_: NDArray[np.float32] = unit_matrix(np.asarray(features[kept]))[:]
        self.selected_nouns_ = (
            kept if self.nouns is None else np.array([self.nouns[j] for j in kept.tolist()])
        )
        # Kept apart from the parameter: a model predicts as it was fitted, whatever is set afterwards.
        self._retrieval_temperature = float(self.retrieval_temperature)

    def count_centres(self, n_samples: int) -> int:
        """Return k̂, how many groups of N images nouns are selected for."""
        if self.n_centres is not None:
            return min(int(self.n_centres), n_samples)
        return count_centres(n_samples, self._k, samples_per_centre=self.samples_per_centre)

    def _train(
        self, X: RowMatrix, neighbors: Neighbors, seed: int, runtime: Runtime, checkpoint: Path | None
    ) -> None:
        """Train the heads, and keep that of images."""
        self.plan_ = self.plan(int(X.shape[0]))
        logger.info("training plan: %s", self.plan_)
        workers, found = current_workers(), None
        if workers.is_first:  # the first one trains for all, so that all end with the same bytes
            training = train_dual(
                unit_matrix(X),
                self.text_counterparts_,
                (neighbors(), neighbors.of(self.text_counterparts_)),
                self.n_clusters_,
                self.plan_,
                DualSettings(
                    temperature=self.plan_.temperature,
                    balance_weight=float(self.balance_weight),
                    confidence=bool(self.confidence),
                    distillation=self.distillation,
                ),
                seed=seed,
                runtime=runtime,
                checkpoint=checkpoint,
                separate_moments=bool(self.separate_moments),
                initialization=self.initialization,
            )
            found = training.history, name_head(training.image)
        self.history_, tensors = workers.broadcast(found)
        self._adopt(tensors, runtime.device)

    def _join(self, X: RowMatrix, seed: int, runtime: Runtime) -> None:
        """Find centroids of images and their counterparts side by side."""
        # Only its centroids are wanted: a temperature that is given isn't looked for.
        model = SphericalKMeans(
            n_clusters=self.n_clusters_, temperature=KMEANS_TEMPERATURE, random_state=seed
        )
        joint = JointMatrix(unit_matrix(X), self.text_counterparts_)
        self._adopt({"centroids": fit_quietly(model, joint, runtime).cluster_centers_}, runtime.device)

    def _adopt(self, tensors: dict[str, NDArray[Any]], device: torch.device) -> None:
        """Become what was fitted elsewhere: an image head, or centroids."""
        self._model = TacModel.from_tensors(
            self.n_clusters_,
            self.selected_features_,
            self._retrieval_temperature,
            tensors,
            device,
        )

    def _probabilities(self, X: RowMatrix) -> Iterator[NDArray[np.float32]]:
        return self._model.probabilities(X)


def check_nouns(noun_features: Rows | None, nouns: Sequence[str] | None, n_features: int) -> RowMatrix:
    """Return the features of nouns as a row matrix, or say what is wrong with them.

    Raises
    ------
    InputError
        They are missing, of another width than the images, without a direction, or not as many as ``nouns``.
    """
    if noun_features is None:
        raise InputError(
            "TAC needs noun_features: the features of nouns in the space of X, made by the same "
            "vision-language model (kinfold.language.embed_nouns makes those of WordNet)"
        )
    try:
        features = as_row_matrix(noun_features)
        UnitRows(features, torch.device("cpu")).check()
    except InputError as error:
        raise InputError(f"noun_features: {error}") from error
    if features.shape[1] != n_features:
        raise InputError(
            f"noun_features have {features.shape[1]} dimensions, but X has {n_features}: both must come from "
            "the same vision-language model"
        )
    if nouns is not None:
        _check_names(nouns, int(features.shape[0]))
    return features


def _check_names(nouns: Sequence[str], n_features: int) -> None:
    listed = isinstance(nouns, Sequence | np.ndarray) and not isinstance(nouns, str)
    if not listed or not all(isinstance(noun, str) for noun in nouns):
        raise InputError(f"nouns must be a list of words, not {type(nouns).__name__}")
    if len(nouns) != n_features:
        raise InputError(
            f"nouns are {len(nouns)}, but noun_features have {n_features} rows; give one noun for each row"
        )
    if twice := len(nouns) - len(set(nouns)):
        logger.warning("%d nouns are given more than once: they take places of others", twice)
