"""What labels get out of the same features: the upper bounds that clustering is measured against.

A linear probe and a classifier by nearest neighbours. Both learn from labels, so nothing that groups images
may ever import this room.
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
