"""The multi-head network, its objectives and the one trainer."""

from kinfold.heads.network import MultiHeadNetwork
from kinfold.heads.objectives import TemiObjective, temi_loss, temi_weights
from kinfold.heads.sampling import PairSampler
from kinfold.heads.trainer import Objective, Schedule, Trainer, Training

__all__ = [
    "MultiHeadNetwork",
    "Objective",
    "PairSampler",
    "Schedule",
    "TemiObjective",
    "Trainer",
    "Training",
    "temi_loss",
    "temi_weights",
]
