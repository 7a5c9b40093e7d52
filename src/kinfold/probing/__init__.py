"""Supervised upper bounds on the same features: a linear probe, and classification by nearest neighbours.

Both learn from labels, so no clustering method may import this package.
"""

from __future__ import annotations

from kinfold.probing.probes import (
    LEARNING_RATES,
    WEIGHT_DECAYS,
    LinearProbe,
    NearestNeighbors,
    knn_classify,
    linear_probe,
)

__all__ = [
    "LEARNING_RATES",
    "WEIGHT_DECAYS",
    "LinearProbe",
    "NearestNeighbors",
    "knn_classify",
    "linear_probe",
]
