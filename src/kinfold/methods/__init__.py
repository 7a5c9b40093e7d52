"""The clustering methods as estimators, the criteria of a fit without labels, and the table of names."""

from kinfold.methods._auto import Auto, choose
from kinfold.methods._criteria import (
    ASSESS_SECONDS,
    Diagnosis,
    assess,
    diagnose,
    neighbor_agreement,
)
from kinfold.methods._graph import GraphClustering
from kinfold.methods._graph_labelings import spread_along_graph
from kinfold.methods._heads import Plan, default_n_neighbors, plan_training
from kinfold.methods._icce import ICCE
from kinfold.methods._kmeans import SphericalKMeans
from kinfold.methods._kmeans_starts import small_clusters
from kinfold.methods._merging import MergeTree, join_by_variance
from kinfold.methods._model import (
    METHODS,
    PRESETS,
    TopClusters,
    configure,
    get_method,
    load_model,
    predict_top,
    preset_parameters,
    save_model,
)
from kinfold.methods._number import LevelEstimate, count_estimate_operations, estimate_levels
from kinfold.methods._tac import TAC
from kinfold.methods._temi_scan import SCAN, TEMI
from kinfold.methods._turtle import TURTLE
from kinfold.methods._turtle_training import turtle_batch_size
from kinfold.methods.protocol import Criteria

__all__ = [
    "ASSESS_SECONDS",
    "ICCE",
    "METHODS",
    "PRESETS",
    "SCAN",
    "TAC",
    "TEMI",
    "TURTLE",
    "Auto",
    "Criteria",
    "Diagnosis",
    "GraphClustering",
    "LevelEstimate",
    "MergeTree",
    "Plan",
    "SphericalKMeans",
    "TopClusters",
    "assess",
    "choose",
    "configure",
    "count_estimate_operations",
    "default_n_neighbors",
    "diagnose",
    "estimate_levels",
    "get_method",
    "join_by_variance",
    "load_model",
    "neighbor_agreement",
    "plan_training",
    "predict_top",
    "preset_parameters",
    "save_model",
    "small_clusters",
    "spread_along_graph",
    "turtle_batch_size",
]
