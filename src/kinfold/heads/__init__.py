"""The multi-head network, its objectives and the one trainer."""

from kinfold.heads.losses import pair_agreement, pseudo_label_loss, scan_loss, sinkhorn, temi_loss
from kinfold.heads.network import MultiHeadNetwork, count_head_weights
from kinfold.heads.objectives import Objective, ScanObjective, TemiObjective
from kinfold.heads.sampling import PairSampler
from kinfold.heads.student_teacher import Schedule, StudentTeacher
from kinfold.heads.trainer import Learner, Trainer
from kinfold.heads.training import Training

__all__ = [
    "Learner",
    "MultiHeadNetwork",
    "Objective",
    "PairSampler",
    "ScanObjective",
    "Schedule",
    "StudentTeacher",
    "TemiObjective",
    "Trainer",
    "Training",
    "count_head_weights",
    "pair_agreement",
    "pseudo_label_loss",
    "scan_loss",
    "sinkhorn",
    "temi_loss",
]
