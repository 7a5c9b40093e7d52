"""The multi-head network, the losses and objectives, and the one trainer."""

from kinfold.heads.dual import (
    DIRECTIONS,
    INITIALIZATIONS,
    DualHeads,
    DualSettings,
    DualTraining,
    PlainHead,
    balance_loss,
    confidence_loss,
    distillation_loss,
    dual_loss,
)
from kinfold.heads.learner import Schedule, StudentTeacher, Training
from kinfold.heads.network import MultiHeadNetwork, count_head_weights
from kinfold.heads.objectives import (
    Objective,
    ScanObjective,
    TemiObjective,
    pair_agreement,
    pseudo_label_loss,
    scan_loss,
    sinkhorn,
    temi_loss,
)
from kinfold.heads.sampling import DualBatches, PairSampler
from kinfold.heads.trainer import Checkpoint, Learner, Trainer

__all__ = [
    "DIRECTIONS",
    "INITIALIZATIONS",
    "Checkpoint",
    "DualBatches",
    "DualHeads",
    "DualSettings",
    "DualTraining",
    "Learner",
    "MultiHeadNetwork",
    "Objective",
    "PairSampler",
    "PlainHead",
    "ScanObjective",
    "Schedule",
    "StudentTeacher",
    "TemiObjective",
    "Trainer",
    "Training",
    "balance_loss",
    "confidence_loss",
    "count_head_weights",
    "distillation_loss",
    "dual_loss",
    "pair_agreement",
    "pseudo_label_loss",
    "scan_loss",
    "sinkhorn",
    "temi_loss",
]
