"""The features and the neighbour graph of a run: distances to centers, similar images, similar groups."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections import State
from kinfold.errors import FormatError, InputError, KinfoldError
from kinfold.features import Features, RowMatrix, let_go
from kinfold.gallery.explore._errors import UnavailableError
from kinfold.images import UnusableImage, decode_image
from kinfold.run import Run

if TYPE_CHECKING:
    from kinfold.neighbors import NeighborGraph

logger = logging.getLogger(__name__)

_GRAPH_FOLDER = "neighbors"

_BLOCK_BYTES = 32 << 20  # of features at a time, so that they may be larger than memory
_KEPT = 4  # arrays of distances; each is 4 bytes for every image of the run

DROPPED_PIXELS = 64_000_000  # of a dropped image, 192 MB when it is decoded; cameras mostly have fewer

N_TOP = 5  # groups that are shown for a dropped image

_MOST_AT_ONCE = 2_000  # groups: their distances and the linkage take memory and time in their square
_OPTIMAL = 150  # groups; finding the optimal order of leaves takes time in their cube


def find_graph(run: Run, features: Features | None = None) -> NeighborGraph | None:
    """Return the neighbour graph of a run, memory-mapped; None if it has none, or it was removed.

    Graphs are kept beside the features or in the run, under names made from their options. The run's own is
    the one whose description equals that in the manifest; of several (``auto``) the first that exists.

    Parameters
    ----------
    run : Run
        The run.
    features : Features, optional
        Features of the run; without them only the run's own folder is searched.
    """
    from kinfold.neighbors import NeighborGraph  # imports PyTorch, which isn't needed to start the server

    wanted = _descriptions(run)
    if not wanted:
        return None
    for path in _graph_folders(run, features):
        try:
            graph = NeighborGraph.open(path)
        except FormatError as error:
            logger.warning("a neighbour graph is ignored: %s", error)
            continue
        if graph.n_samples == len(run.labels) and graph.describe() in wanted:
            return graph
    return None


def _descriptions(run: Run) -> list[dict[str, Any]]:
    """Return the description of the graph in the manifest, or of each where there are several."""
    described = run.manifest.neighbors or {}
    if "n_samples" in described:
        return [described]
    return [one for one in described.values() if isinstance(one, dict)]


def _graph_folders(run: Run, features: Features | None) -> Iterator[Path]:
    homes = [run.path / _GRAPH_FOLDER]
    if features is not None and features.neighbors_path is not None:
        homes.insert(0, features.neighbors_path)
    for home in homes:
        yield from sorted(
            path.parent for path in home.glob("*/graph.json") if not path.parent.name.startswith(".")
        )


class Vectors:
    """Features by position, opened on first use; methods raise the reason where they can't be opened.

    Parameters
    ----------
    run : Run
        The run.
    features : Features or path, optional
        The features, or where they are now, if they were moved.
    """

    def __init__(self, run: Run, features: Features | str | Path | None = None) -> None:
        self._run = run
        self._given = features
        self._guard = threading.Lock()
        self._opened: Features | None = None
        self._trouble = ""
        self._is_other = False  # unusable features stay so; missing ones may come back
        self._distances: OrderedDict[tuple[int, int | None], NDArray[np.float32]] = OrderedDict()

    @property
    def are_there(self) -> bool:
        """Tell whether the features exist, without opening them."""
        if self._opened is not None or isinstance(self._given, Features):
            return True
        if self._is_other:
            return False
        recorded = self._run.manifest.features.get("path")
        if self._given is None and not recorded:
            return False
        where = Path(self._given) if self._given is not None else self._run.path / str(recorded)
        return where.exists()

    def open(self) -> Features:
        """Return the features.

        Raises
        ------
        UnavailableError
            They are missing, or not those of the run.
        """
        with self._guard:
            if self._opened is None and not self._is_other:
                there = self.are_there
                try:
                    self._opened = self._find()
                except (KinfoldError, OSError, KeyError) as error:
                    self._trouble, self._is_other = str(error), there
            if self._opened is None:
                raise UnavailableError(self._trouble)
            return self._opened

    def matrix(self) -> RowMatrix:
        """Return the features, one row for each position; raises as :meth:`open` does."""
        return self.open().matrix(self._run.manifest.features["variant"])

    def distances(self, state: State, group: int | None) -> NDArray[np.float32]:
        """Return the distance (1 − cosine) of images from the center of their group.

        The center is the mean direction of the unmarked images. With ``group`` None all images are measured;
        otherwise those of the group, and all others are NaN.
        """
        name = (state.version, group)
        with self._guard:
            if name in self._distances:
                self._distances.move_to_end(name)
                return self._distances[name]
        found = self._compute_distances(state, group)
        with self._guard:
            self._distances[name] = found
            while len(self._distances) > _KEPT:
                self._distances.popitem(last=False)
        return found

    def means(self, places: list[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the mean direction of each set of images, one row each; zeros for an empty set."""
        matrix = self.matrix()
        found = np.zeros((len(places), int(matrix.shape[1])), np.float32)
        for number, some in enumerate(places):
            if len(some):
                found[number] = _unit(np.asarray(matrix[np.sort(some)])).sum(axis=0)
        let_go(matrix)
        return _unit(found)

    def _find(self) -> Features:
        opened = self._given if isinstance(self._given, Features) else self._run.features(self._given)
        if not np.array_equal(opened.rows, self._run.assignments["row"].to_numpy()):
            raise UnavailableError(f"the features at {opened.path} have other rows than the run")
        return opened

    def _compute_distances(self, state: State, group: int | None) -> NDArray[np.float32]:
        matrix = self.matrix()
        n, dim = len(state.labels), int(matrix.shape[1])
        places = np.arange(n) if group is None else np.flatnonzero(state.labels == group)
        labels = state.labels if group is None else np.zeros(n, np.int32)
        n_groups = int(labels.max(initial=0)) + 1
        sums = np.zeros((n_groups, dim), np.float32)
        for some, rows in _blocks(matrix, places):
            plain = state.marks[some] == 0
            _add_by_label(sums, labels[some][plain], rows[plain])
        centers = _unit(sums)
        found = np.full(n, np.nan, np.float32)
        for some, rows in _blocks(matrix, places):
            found[some] = 1 - np.einsum("ij,ij->i", rows, centers[labels[some]])
        let_go(matrix)
        return found


def _blocks(
    matrix: RowMatrix, places: NDArray[np.integer]
) -> Iterator[tuple[NDArray[np.integer], NDArray[np.float32]]]:
    """Yield positions with their features at unit length, a block at a time."""
    step = max(1, _BLOCK_BYTES // (4 * int(matrix.shape[1])))
    for start in range(0, len(places), step):
        some = places[start : start + step]
        # a slice of a memory-mapped array is read without a copy
        whole = len(some) and int(some[-1]) - int(some[0]) + 1 == len(some)
        taken = matrix[int(some[0]) : int(some[-1]) + 1] if whole else matrix[some]
        yield some, _unit(np.asarray(taken))


def _add_by_label(sums: NDArray[np.float32], labels: NDArray[np.int32], rows: NDArray[np.float32]) -> None:
    order = np.argsort(labels, kind="stable")
    if not len(order):
        return
    groups, starts = np.unique(labels[order], return_index=True)
    sums[groups] += np.add.reduceat(rows[order], starts, axis=0)


def _unit(rows: NDArray[np.generic]) -> NDArray[np.float32]:
    rows = np.asarray(rows, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float32] = rows / np.where(norms > 0, norms, 1)
    return units


@dataclass(frozen=True, eq=False)
class SimilarImages:
    """Images similar to another one, the most similar first.

    Attributes
    ----------
    places : ndarray of int64
        Positions of the images.
    similarities : ndarray of float32
        Cosine similarities.
    top : list of (int, float)
        For a dropped image, its most probable clusters with probabilities.
    """

    places: NDArray[np.int64]
    similarities: NDArray[np.float32]
    top: list[tuple[int, float]]


class Nearest:
    """Similar images from the run's own graph, or by exact search where that has too few neighbours.

    Parameters
    ----------
    run : Run
        The run.
    vectors : Vectors
        Features of the run.
    device : str
        Device that embeds dropped images.
    """

    def __init__(self, run: Run, vectors: Vectors, *, device: str = "auto") -> None:
        self._run = run
        self._vectors = vectors
        self._device = device
        self._guard = threading.Lock()  # one search and one embedding at a time: each uses all cores
        self._graph: NeighborGraph | None = None
        self._looked = False
        self._backbone: Any = None

    @property
    def can_embed(self) -> bool:
        """Tell whether dropped images can be searched for, by the manifest."""
        return bool(self._run.manifest.backbone) and self._vectors.are_there

    def of_image(self, place: int, n: int) -> SimilarImages:
        """Return the most similar images to an image of the run.

        Raises
        ------
        UnavailableError
            The run has no graph, and its features are missing.
        """
        graph = self._find_graph()
        if graph is not None:
            start, stop = int(graph.indptr[place]), int(graph.indptr[place + 1])
            if stop - start >= n or not self._vectors.are_there:
                stop = min(stop, start + n)
                return SimilarImages(
                    graph.indices[start:stop].astype(np.int64), np.array(graph.similarities[start:stop]), []
                )
        matrix = self._vectors.matrix()
        found = self._search(matrix, np.asarray(matrix[np.array([place])]), min(n + 1, int(matrix.shape[0])))
        other = found.places != place
        return SimilarImages(found.places[other][:n], found.similarities[other][:n], [])

    def of_file(self, data: bytes, n: int) -> SimilarImages:
        """Return the most similar images to an image file, and its clusters by the run's model.

        Raises
        ------
        InputError
            The file can't be decoded as an image.
        UnavailableError
            The features or the backbone are missing.
        """
        matrix = self._vectors.matrix()
        vector = self._embed(data)
        if vector.shape[1] != matrix.shape[1]:
            raise UnavailableError(
                f"the backbone gives {vector.shape[1]} dimensions, but the features of the run have "
                f"{matrix.shape[1]}"
            )
        found = self._search(matrix, vector, min(n, int(matrix.shape[0])))
        return SimilarImages(found.places, found.similarities, self._predict(vector))

    def _search(self, matrix: RowMatrix, queries: NDArray[np.generic], n: int) -> SimilarImages:
        from kinfold.neighbors import nearest_rows  # imports PyTorch, which isn't needed to start the server

        with self._guard:
            try:
                places, similarities = nearest_rows(matrix, queries, n, device=self._device)
            except InputError as error:
                raise UnavailableError(f"similar images can't be found: {error}") from error
            let_go(matrix)
        return SimilarImages(places[0], similarities[0], [])

    def _find_graph(self) -> NeighborGraph | None:
        with self._guard:
            if not self._looked:
                try:
                    features = self._vectors.open() if self._vectors.are_there else None
                except UnavailableError:
                    features = None
                self._graph = find_graph(self._run, features)
                self._looked = True
            return self._graph

    def _embed(self, data: bytes) -> NDArray[np.float32]:
        with self._guard:
            if self._backbone is None:
                try:
                    self._backbone = self._run.backbone(device=self._device)
                except (KinfoldError, OSError) as error:
                    raise UnavailableError(str(error)) from error
            try:
                image = decode_image(data, min_side=self._backbone.min_side, pixel_limit=DROPPED_PIXELS)
            except UnusableImage as error:
                raise InputError(f"this file can't be searched for: {error}") from error
            variant = self._run.manifest.features["variant"]
            batch = self._backbone.transform(image)[None]
            vector: NDArray[np.float32] = self._backbone.embed(batch, (variant,))[variant]
            if not np.isfinite(vector).all() or not vector.any():
                raise InputError(
                    "this image has no features: the backbone returned zeros or values that aren't finite"
                )
            return vector

    def _predict(self, vector: NDArray[np.float32]) -> list[tuple[int, float]]:
        from kinfold.methods import predict_top

        with self._guard:
            if self._run.level is None:
                top = predict_top(self._run.model, vector, n_top=N_TOP)
            else:
                from kinfold.levels import open_levels

                levels = open_levels(self._run).levels
                top = levels.top(self._run.model, vector, self._run.level, n_top=N_TOP)
        return [(int(g), float(p)) for g, p in zip(top.clusters[0], top.probabilities[0], strict=True)]


def order_by_similarity(centers: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return an order of rows in which similar ones are next to each other.

    This is the order of leaves of average linkage by cosine distance, optimal for up to 150 rows. More than
    2,000 rows are first split at the median of their principal direction, recursively.

    Parameters
    ----------
    centers : ndarray of float32, shape (n, d)
        Rows of unit length; rows of zeros, of which nothing is known, come last.
    """
    known = np.flatnonzero(np.linalg.norm(centers, axis=1) > 0)
    unknown = np.setdiff1d(np.arange(len(centers)), known)
    pieces = [known[piece] for piece in _halve(centers[known], np.arange(len(known)))]
    ordered = [piece[_order_few(centers[piece])] for piece in pieces]
    order: NDArray[np.int64] = np.concatenate([*ordered, unknown]).astype(np.int64)
    return order


def _halve(centers: NDArray[np.float32], places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    if len(places) <= _MOST_AT_ONCE:
        return [places]
    some = centers[places] - centers[places].mean(axis=0)
    direction = np.ones(some.shape[1], np.float32)
    for _ in range(20):  # power iteration; an approximate direction is enough for a split
        direction = some.T @ (some @ direction)
        direction /= max(float(np.linalg.norm(direction)), 1e-12)
    ordered = places[np.argsort(some @ direction, kind="stable")]
    middle = len(ordered) // 2
    return [*_halve(centers, ordered[:middle]), *_halve(centers, ordered[middle:])]


def _order_few(centers: NDArray[np.float32]) -> NDArray[np.int64]:
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(centers) < 3:
        return np.arange(len(centers))
    distances = np.clip(1 - centers @ centers.T, 0, 2)
    condensed = distances[np.triu_indices(len(centers), 1)].astype(np.float64)
    tree = linkage(condensed, "average", optimal_ordering=len(centers) <= _OPTIMAL)
    leaves: NDArray[np.int64] = leaves_list(tree).astype(np.int64)
    return leaves
