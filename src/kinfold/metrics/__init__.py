"""Metrics: agreement of clusters with known classes, geometry of clusters, calibration; functions on arrays.

Labels may be of any hashable type (integers, strings, booleans, tuples, a mix); only their equality counts.
Measures of agreement are computed from a sparse contingency table, so that ten million samples of ten
thousand classes need no dense matrix. No clustering method uses them: labels are read for evaluation alone.
"""

from __future__ import annotations

from kinfold.metrics.accuracy import (
    Agreement,
    ClassScores,
    ClusterMatch,
    HeadAgreement,
    clustering_accuracy,
    compare,
    head_agreement,
    match_clusters,
    per_class_accuracy,
    purity,
)
from kinfold.metrics.calibration import (
    CalibrationCurve,
    ConfidenceHistogram,
    GroupRanks,
    calibration_curve,
    confidence_histogram,
    expected_calibration_error,
)
from kinfold.metrics.geometry import Silhouette, davies_bouldin, silhouette
from kinfold.metrics.information import adjusted_mutual_info, adjusted_rand_index, normalized_mutual_info
from kinfold.metrics.multi_label import (
    DrawnAccuracy,
    LabelSets,
    drawn_label_accuracy,
    multi_label_accuracy,
    top_k_accuracy,
)
from kinfold.metrics.neighbors import (
    NeighborPurity,
    alignment,
    neighbor_purity,
    neighbor_purity_by_threshold,
)

__all__ = [
    "Agreement",
    "CalibrationCurve",
    "ClassScores",
    "ClusterMatch",
    "ConfidenceHistogram",
    "DrawnAccuracy",
    "GroupRanks",
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
