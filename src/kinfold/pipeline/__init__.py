"""What the commands do, a function each: cluster, embed, predict, update, evaluate, name, export and more."""

from __future__ import annotations

from kinfold.corrections import LevelChange, tell_counts
from kinfold.pipeline._check import Checked, CheckedFile, check
from kinfold.pipeline._cluster import cluster
from kinfold.pipeline._corrected import CorrectedGroups
from kinfold.pipeline._embed import embed
from kinfold.pipeline._estimate import Estimate, StageEstimate, estimate
from kinfold.pipeline._evaluate import DepthAccuracy, Evaluation, SeveralLabels, evaluate
from kinfold.pipeline._language import name
from kinfold.pipeline._level import level
from kinfold.pipeline._predict import PREDICTED_FORMS, find_predictions_place, predict
from kinfold.pipeline._refine import Refinement, refine
from kinfold.pipeline._relabel import RelabelResult, relabel
from kinfold.pipeline._report import export, report, view_run
from kinfold.pipeline._update import Updated, undo_update, update
from kinfold.pipeline._zero_shot import ZeroShot, zero_shot
from kinfold.pipeline.demo import Demo, DemoRow, run_demo

__all__ = [
    "PREDICTED_FORMS",
    "Checked",
    "CheckedFile",
    "CorrectedGroups",
    "Demo",
    "DemoRow",
    "DepthAccuracy",
    "Estimate",
    "Evaluation",
    "LevelChange",
    "Refinement",
    "RelabelResult",
    "SeveralLabels",
    "StageEstimate",
    "Updated",
    "ZeroShot",
    "check",
    "cluster",
    "embed",
    "estimate",
    "evaluate",
    "export",
    "find_predictions_place",
    "level",
    "name",
    "predict",
    "refine",
    "relabel",
    "report",
    "run_demo",
    "tell_counts",
    "undo_update",
    "update",
    "view_run",
    "zero_shot",
]
