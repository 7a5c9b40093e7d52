"""Kinfold sorts unlabeled images into their kinds.

>>> import kinfold
>>> run = kinfold.cluster("photos/", n_clusters=10)  # doctest: +SKIP
>>> run.labels  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kinfold._version import __version__

if TYPE_CHECKING:
    from kinfold import consensus, metrics, neighbors
    from kinfold.features import FeatureStore
    from kinfold.methods import ICCE, SCAN, TAC, TEMI, TURTLE, GraphClustering, SphericalKMeans
    from kinfold.pipeline import (
        check,
        cluster,
        embed,
        estimate,
        evaluate,
        export,
        level,
        name,
        predict,
        refine,
        relabel,
        report,
        undo_update,
        update,
        zero_shot,
    )
    from kinfold.run import Run

__all__ = [
    "ICCE",
    "SCAN",
    "TAC",
    "TEMI",
    "TURTLE",
    "FeatureStore",
    "GraphClustering",
    "Run",
    "SphericalKMeans",
    "__version__",
    "check",
    "cluster",
    "consensus",
    "embed",
    "estimate",
    "evaluate",
    "export",
    "level",
    "metrics",
    "name",
    "neighbors",
    "predict",
    "refine",
    "relabel",
    "report",
    "undo_update",
    "update",
    "zero_shot",
]

_HOME = {
    "FeatureStore": "kinfold.features",
    "Run": "kinfold.run",
    "GraphClustering": "kinfold.methods",
    "ICCE": "kinfold.methods",
    "SCAN": "kinfold.methods",
    "SphericalKMeans": "kinfold.methods",
    "TAC": "kinfold.methods",
    "TEMI": "kinfold.methods",
    "TURTLE": "kinfold.methods",
    "check": "kinfold.pipeline",
    "cluster": "kinfold.pipeline",
    "export": "kinfold.pipeline",
    "level": "kinfold.pipeline",
    "name": "kinfold.pipeline",
    "refine": "kinfold.pipeline",
    "relabel": "kinfold.pipeline",
    "zero_shot": "kinfold.pipeline",
    "update": "kinfold.pipeline",
    "undo_update": "kinfold.pipeline",
    "report": "kinfold.pipeline",
    "predict": "kinfold.pipeline",
    "evaluate": "kinfold.pipeline",
    "estimate": "kinfold.pipeline",
    "embed": "kinfold.pipeline",
    "view_run": "kinfold.pipeline",  # what Run shows in a notebook; not for calling
}
_ROOMS = ("consensus", "metrics", "neighbors")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"kinfold.{name}")
    raise AttributeError(f"module 'kinfold' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
