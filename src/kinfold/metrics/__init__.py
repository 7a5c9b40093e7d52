"""How well groups agree with known classes, and how they lie: pure functions on arrays.

Labels may be of any hashable type (integers, strings, booleans, tuples, a mix); only their equality counts.
Everything goes by the sparse table of pairs of class and cluster that occur, so that ten million samples
of ten thousand classes need no dense matrix. Nothing here is seen by a method that learns: labels are read
for evaluation alone.
"""

from __future__ import annotations

from kinfold.metrics._accuracy import ClusterMatch, clustering_accuracy, match_clusters
from kinfold.metrics._calibration import (
    CalibrationCurve,
    ConfidenceHistogram,
    calibration_curve,
    confidence_histogram,
    expected_calibration_error,
)
from kinfold.metrics._classes import ClassScores, per_class_accuracy, purity
from kinfold.metrics._comparison import Agreement, HeadAgreement, compare, head_agreement
from kinfold.metrics._geometry import Silhouette, davies_bouldin, silhouette
from kinfold.metrics._information import adjusted_mutual_info, normalized_mutual_info
from kinfold.metrics._label_sets import LabelSets
from kinfold.metrics._multi_label import DrawnAccuracy, drawn_label_accuracy, multi_label_accuracy
from kinfold.metrics._neighbors import (
    NeighborPurity,
    alignment,
    neighbor_purity,
    neighbor_purity_by_threshold,
)
from kinfold.metrics._pairs import adjusted_rand_index
from kinfold.metrics._ranked import top_k_accuracy

__all__ = [
    "Agreement",
    "CalibrationCurve",
    "ClassScores",
    "ClusterMatch",
    "ConfidenceHistogram",
    "DrawnAccuracy",
    "HeadAgreement",
    "LabelSets",
    "NeighborPurity",
    "Silhouette",
    "adjusted_mutual_info",
    "adjusted_rand_index",
    "alignment",
    "calibration_curve",
    "clustering_accuracy",
    "compare",
    "confidence_histogram",
    "davies_bouldin",
    "drawn_label_accuracy",
    "expected_calibration_error",
    "head_agreement",
    "match_clusters",
    "multi_label_accuracy",
    "neighbor_purity",
    "neighbor_purity_by_threshold",
    "normalized_mutual_info",
    "per_class_accuracy",
    "purity",
    "silhouette",
    "top_k_accuracy",
]
