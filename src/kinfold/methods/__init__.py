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
from kinfold.methods._graph_labelings import N_NEIGHBORS, local_weights
from kinfold.methods._heads import Plan, default_n_neighbors, plan_training
from kinfold.methods._icce import ICCE
from kinfold.methods._kmeans import SphericalKMeans
from kinfold.methods._merging import MergeTree, contract, join_clusters
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
from kinfold.methods._number import LevelEstimate, estimate_levels
from kinfold.methods._rows import draw_rows
from kinfold.methods._tac import TAC
from kinfold.methods._temi_scan import SCAN, TEMI
from kinfold.methods._turtle import TURTLE
from kinfold.methods._turtle_training import turtle_batch_size
from kinfold.methods.protocol import Criteria

__all__ = [
    "ASSESS_SECONDS",
    "ICCE",
    "METHODS",
    "N_NEIGHBORS",
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
    "contract",
    "default_n_neighbors",
    "diagnose",
    "draw_rows",
    "estimate_levels",
    "get_method",
    "join_clusters",
    "load_model",
    "local_weights",
    "neighbor_agreement",
    "plan_training",
    "predict_top",
    "preset_parameters",
    "save_model",
    "turtle_batch_size",
]
