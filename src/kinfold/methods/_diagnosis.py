"""Signs of a collapsed clustering: empty clusters, or one that holds most samples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

# A cluster is a giant when it holds more than this share of all samples and so many times its equal share:
# real kinds may be uneven, and of two or three clusters one may well hold more than half.
GIANT_SHARE = 0.5
_GIANT_TIMES = 3


@dataclass(frozen=True)
class Diagnosis:
    """Empty clusters and the largest one of a clustering.

    Attributes
    ----------
    n_clusters : int
        K that was asked for.
    dead : tuple of int
        Clusters without a member.
    largest : int
        The largest cluster.
    largest_share : float
        Its share of all samples, in [0, 1].
    messages : tuple of str
        What is wrong and what to try; empty when nothing is wrong.
    """

    n_clusters: int
    dead: tuple[int, ...]
    largest: int
    largest_share: float
    messages: tuple[str, ...]


def warn_of_collapse(labels: NDArray[np.integer], n_clusters: int) -> None:
    """Warn (:class:`~sklearn.exceptions.ConvergenceWarning`) of dead clusters and of a giant one."""
    for message in diagnose(labels, n_clusters).messages:
        # Level 3 is the caller of fit: the line that a person can change.
        warnings.warn(message, ConvergenceWarning, stacklevel=3)


def is_giant(share: float, n_clusters: int) -> bool:
    """Tell whether a cluster of this share of all samples is a giant, see :func:`diagnose`."""
    return n_clusters > 1 and share > GIANT_SHARE and share > _GIANT_TIMES / n_clusters


def diagnose(labels: NDArray[np.integer], n_clusters: int) -> Diagnosis:
    """Look for dead clusters and for one giant cluster.

    A cluster is a giant when it holds more than half of all samples and more than three times its equal
    share.

    Parameters
    ----------
    labels : ndarray (N,)
        Clusters in 0 … K−1.
    n_clusters : int
        K.
    """
    sizes = np.bincount(np.asarray(labels, dtype=np.int64), minlength=n_clusters)
    dead = tuple(np.flatnonzero(sizes == 0).tolist())
    largest = int(sizes.argmax())
    share = float(sizes[largest] / max(1, sizes.sum()))
    messages = []
    if dead:
        messages.append(
            f"{len(dead)} of {n_clusters} clusters are empty. Ask for fewer clusters, or try another method "
            "or backbone: the features may not hold that many kinds."
        )
    if is_giant(share, n_clusters):
        messages.append(
            f"Cluster {largest} holds {share:.0%} of all samples. If the kinds are not that uneven, try a "
            "stronger backbone, more clusters, or another seed."
        )
    return Diagnosis(n_clusters, dead, largest, share, tuple(messages))
