"""Nearest neighbours: one door, exact or approximate, and the graph it gives."""

from __future__ import annotations

from kinfold.neighbors.graph import NeighborGraph, same_label_graph
from kinfold.neighbors.search import closest_rows, knn_graph, nearest_rows

__all__ = ["NeighborGraph", "closest_rows", "knn_graph", "nearest_rows", "same_label_graph"]
