"""What the methods are compared with: Ward's tree, and k-means in UMAP's space, by their own libraries."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.preprocessing import normalize

from kinfold.errors import InputError
from kinfold.methods.protocol import Needs

if TYPE_CHECKING:
    from typing_extensions import Self


class Baseline(ClusterMixin, BaseEstimator):
    """Base of the baselines: they label what they are fitted on, and nothing else.

    Parameters
    ----------
    n_clusters : int, default 8
        K.
    random_state : int, optional
        Seed.
    """

    def __init__(self, n_clusters: int = 8, *, random_state: int | None = None) -> None:
        self.n_clusters = n_clusters
        self.random_state = random_state

    def needs(self, n_samples: int) -> Needs:
        """Return nothing: a baseline finds neighbours by its own library."""
        return Needs()

    def fit(self, X: NDArray[np.float32], y: object = None) -> Self:
        """Label the rows of X (N, D), scaled to unit length."""
        self.labels_ = self._label(normalize(X)).astype(np.int32)
        self.n_clusters_ = int(self.n_clusters)
        return self

    def _label(self, X: NDArray[np.float32]) -> NDArray[Any]:
        raise NotImplementedError


class Ward(Baseline):
    """Ward's method by scikit-learn, on unit-length rows; it has no random part."""

    name = "ward"

    def _label(self, X: NDArray[np.float32]) -> NDArray[Any]:
        labels: NDArray[Any] = AgglomerativeClustering(self.n_clusters).fit_predict(X)
        return labels


class UmapKMeans(Baseline):
    """K-means of scikit-learn (10 starts) in 10 dimensions of umap-learn: 15 neighbours, min_dist 0, cosine.

    A widespread way to cluster embeddings; McInnes, Healy & Melville (2018), "UMAP".
    """

    name = "umap-kmeans"

    def _label(self, X: NDArray[np.float32]) -> NDArray[Any]:
        if find_spec("umap") is None:
            raise InputError("UMAP is not installed (pip install umap-learn)")
        from umap import UMAP

        reducer = UMAP(
            n_components=10, n_neighbors=15, min_dist=0.0, metric="cosine", random_state=self.random_state
        )
        places = reducer.fit_transform(X)
        labels: NDArray[Any] = KMeans(self.n_clusters, n_init=10, random_state=self.random_state).fit_predict(
            places
        )
        return labels


BASELINES: dict[str, type[Baseline]] = {one.name: one for one in (Ward, UmapKMeans)}
