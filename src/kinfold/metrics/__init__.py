"""How well groups agree with known classes, and how sure with how right: pure functions on arrays.

Labels may be of any hashable type (integers, strings, booleans, tuples, a mix); only their equality counts.
Nothing here is seen by a method that learns: labels are read for evaluation alone.
"""

from __future__ import annotations

from kinfold.metrics._accuracy import ClusterMatch, clustering_accuracy, match_clusters
from kinfold.metrics._calibration import (
    CalibrationCurve,
    calibration_curve,
    expected_calibration_error,
)
from kinfold.metrics._information import normalized_mutual_info
from kinfold.metrics._pairs import adjusted_rand_index

__all__ = [
    "CalibrationCurve",
    "ClusterMatch",
    "adjusted_rand_index",
    "calibration_curve",
    "clustering_accuracy",
    "expected_calibration_error",
    "match_clusters",
    "normalized_mutual_info",
]
