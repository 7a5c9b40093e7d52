"""What is like an image: of the run, or one that was dropped on the page."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError, KinfoldError
from kinfold.features import let_go
from kinfold.gallery.explore._errors import UnavailableError
from kinfold.gallery.explore._graph import find_graph
from kinfold.gallery.explore._vectors import Vectors
from kinfold.images import UnusableImage, decode_image
from kinfold.run import Run

if TYPE_CHECKING:
    from kinfold.neighbors import NeighborGraph

N_TOP = 5


@dataclass(frozen=True, eq=False)
class Found:
    """Images like another one, nearest first.

    Attributes
    ----------
    places : ndarray of int64
        Where they are.
    similarities : ndarray of float32
        Their cosines.
    top : list of (int, float)
        Of a dropped image: the run's groups for it, with probabilities.
    """

    places: NDArray[np.int64]
    similarities: NDArray[np.float32]
    top: list[tuple[int, float]]


class Nearest:
    """Neighbours from the run's own graph, or by an exact search where it has none, or not enough of them.

    Parameters
    ----------
    run : Run
        The run.
    vectors : Vectors
        Its features.
    device : str
        Where dropped images are embedded.
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
        """Tell whether dropped images can be looked for, as far as the manifest tells."""
        return bool(self._run.manifest.backbone) and self._vectors.are_there

    def of_image(self, place: int, n: int) -> Found:
        """Return the neighbours of an image of the run.

        Raises
        ------
        UnavailableError
            The run has no graph, and its features aren't there.
        """
        graph = self._find_graph()
        if graph is not None:
            start, stop = int(graph.indptr[place]), int(graph.indptr[place + 1])
            if stop - start >= n or not self._vectors.are_there:
                stop = min(stop, start + n)
                return Found(
                    graph.indices[start:stop].astype(np.int64), np.array(graph.similarities[start:stop]), []
                )
        matrix = self._vectors.matrix()
        found = self._search(matrix, np.asarray(matrix[np.array([place])]), min(n + 1, int(matrix.shape[0])))
        other = found.places != place
        return Found(found.places[other][:n], found.similarities[other][:n], [])

    def of_file(self, data: bytes, n: int) -> Found:
        """Return what is like an image file, and the groups that the run's model puts it into.

        Raises
        ------
        InputError
            It is no image that can be decoded.
        UnavailableError
            The features or the backbone aren't there.
        """
        matrix = self._vectors.matrix()
        vector = self._embed(data)
        if vector.shape[1] != matrix.shape[1]:
            raise UnavailableError("the backbone gives vectors of another length than the run's")
        found = self._search(matrix, vector, min(n, int(matrix.shape[0])))
        return Found(found.places, found.similarities, self._predict(vector))

    def _search(self, matrix: Any, queries: NDArray[np.generic], n: int) -> Found:
        from kinfold.neighbors import nearest_rows  # brings PyTorch, which a gallery can begin without

        with self._guard:
            try:
                places, similarities = nearest_rows(matrix, queries, n, device=self._device)
            except InputError as error:
                raise UnavailableError(f"the nearest images can't be found: {error}") from error
            let_go(matrix)
        return Found(places[0], similarities[0], [])

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
                image = decode_image(data, min_side=self._backbone.min_side)
            except UnusableImage as error:
                raise InputError(f"this can't be looked for: {error}") from error
            variant = self._run.manifest.features["variant"]
            batch = self._backbone.transform(image)[None]
            vector: NDArray[np.float32] = self._backbone.embed(batch, (variant,))[variant]
            if not np.isfinite(vector).all() or not vector.any():
                raise InputError("this image gives no direction: it has no content that the backbone sees")
            return vector

    def _predict(self, vector: NDArray[np.float32]) -> list[tuple[int, float]]:
        from kinfold.methods import predict_top

        with self._guard:
            top = predict_top(self._run.model, vector, n_top=N_TOP)
        return [(int(g), float(p)) for g, p in zip(top.clusters[0], top.probabilities[0], strict=True)]
