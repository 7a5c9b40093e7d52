"""The multi-head network, its objectives and the one trainer."""

from kinfold.heads.distillation import (
    DIRECTIONS,
    DualSettings,
    balance_loss,
    confidence_loss,
    distillation_loss,
    dual_loss,
)
from kinfold.heads.dual import DualHeads, DualTraining, PlainHead
from kinfold.heads.losses import pair_agreement, pseudo_label_loss, scan_loss, sinkhorn, temi_loss
from kinfold.heads.network import MultiHeadNetwork, count_head_weights
from kinfold.heads.objectives import Objective, ScanObjective, TemiObjective
from kinfold.heads.sampling import DualBatches, PairSampler
from kinfold.heads.student_teacher import Schedule, StudentTeacher
from kinfold.heads.trainer import Learner, Trainer
from kinfold.heads.training import Training

__all__ = [
    "DIRECTIONS",
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
