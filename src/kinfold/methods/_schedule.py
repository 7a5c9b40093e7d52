"""How long and how fast to train heads on N samples, when the user doesn't say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinfold.heads import Schedule, count_head_weights

PAPER_MOMENTUM = 0.996
PAPER_WARMUP_EPOCHS = 20
MEMORIES = 60  # how many of its memories the teacher lives through
FEWEST_HEADS, MOST_HEADS = 12, 50  # where they are not given; the most are the papers'
_HEAD_WORK = 9e11  # samples × weights that all heads together may pass, while they are more than the fewest
_LEAST_BATCH = 128  # a step on fewer samples costs as much: it is spent on the weights themselves
_SAMPLES_PER_HEAD = 20
_ROUNDING = 0.1  # how much longer or shorter whole epochs may last


@dataclass(frozen=True)
class Plan:
    """Heads, batch size and schedule of one training.

    Attributes
    ----------
    n_heads : int
        H.
    batch_size : int
        B, at most N.
    steps_per_epoch : int
        Whole batches in N samples.
    schedule : Schedule
        What the trainer follows.
    """

    n_heads: int
    batch_size: int
    steps_per_epoch: int
    schedule: Schedule


def plan_training(
    n_samples: int,
    n_features: int,
    n_clusters: int,
    *,
    n_heads: int | None = None,
    n_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    momentum: float | None = None,
) -> Plan:
    """Choose what was left open.

    The papers train for a fixed number of epochs, which on a small folder is far too few steps for a
    teacher that follows with a memory of 250 of them. Here the number of *steps* is chosen: 500 up to
    5,000 samples, from there on growing with √N; and the teacher's memory is 1/60 of the training, never
    more than the papers' 250 steps.

    More heads leave more to choose from, and take their time: 12, or as many as fit in some minutes of a
    core where samples or features are few, up to the papers' 50 and to one per 20 samples.

    Parameters
    ----------
    n_samples, n_features, n_clusters : int
        N, D and K.
    n_heads, n_epochs, batch_size, learning_rate, momentum : optional
        What the user fixed.
    """
    if batch_size is None:
        batch_size = _default_batch_size(n_samples, n_clusters)
    batch_size = min(int(batch_size), n_samples)
    steps_per_epoch = n_samples // batch_size
    if n_epochs is None:
        n_epochs = _whole_epochs(_default_steps(n_samples) / steps_per_epoch)
    n_epochs = int(n_epochs)
    n_steps = n_epochs * steps_per_epoch
    if momentum is None:
        momentum = max(0.0, min(PAPER_MOMENTUM, 1 - MEMORIES / n_steps))
    schedule = Schedule(
        n_epochs=n_epochs,
        learning_rate=1e-3 if learning_rate is None else float(learning_rate),
        warmup_steps=min(PAPER_WARMUP_EPOCHS * steps_per_epoch, n_steps // 10),
        frozen_steps=min(steps_per_epoch, n_steps // 20),
        momentum=float(momentum),
    )
    if n_heads is None:
        seen = n_steps * max(batch_size, _LEAST_BATCH)
        n_heads = _default_n_heads(n_samples, seen * count_head_weights(n_features, n_clusters))
    return Plan(int(n_heads), batch_size, steps_per_epoch, schedule)


@dataclass(frozen=True)
class StopWhenLevel:
    """Rule that ends a training whose loss has levelled off; it reads no labels.

    After half of the planned epochs: stop when the mean loss of all heads, averaged over the last eighth of
    the plan, lies at most ``tol`` times the whole fall so far below its average over the eighth before.

    Parameters
    ----------
    tol : float
        Share of the fall, in (0, 1).
    n_epochs : int
        Planned epochs.
    """

    tol: float
    n_epochs: int

    def __call__(self, history: NDArray[np.float32]) -> bool:
        """Tell whether to stop after the epochs of ``history`` (epochs, H)."""
        window = max(1, self.n_epochs // 8)
        if len(history) < max(self.n_epochs // 2, 2 * window + 1):
            return False
        losses = history.mean(axis=1, dtype=np.float64)
        now, before = losses[-window:].mean(), losses[-2 * window : -window].mean()
        return bool(before - now <= self.tol * (losses[0] - now))


def default_n_neighbors(n_samples: int, n_clusters: int) -> int:
    """Return the papers' 50 neighbours, or fewer where half an average cluster is smaller."""
    return max(1, min(50, max(5, n_samples // (2 * n_clusters)), n_samples - 1))


def default_min_neighbors(n_samples: int, n_clusters: int) -> int:
    """Return the least neighbours of the adaptive rule: a 16th of an average cluster, in 5 … 50."""
    return max(1, min(50, max(5, n_samples // (16 * n_clusters)), n_samples - 1))


def _default_batch_size(n_samples: int, n_clusters: int) -> int:
    wanted = max(min(256, n_samples / 16), 2 * n_clusters, 128)
    return int(2 ** round(math.log2(min(wanted, 4096))))


def _default_n_heads(n_samples: int, work: int) -> int:
    """Return as many heads as do the work that is granted, each of which does ``work``."""
    most = max(FEWEST_HEADS, min(MOST_HEADS, n_samples // _SAMPLES_PER_HEAD))
    return max(FEWEST_HEADS, min(most, int(_HEAD_WORK // work)))


def _whole_epochs(wanted: float) -> int:
    """Round up, or down where up is a tenth too long and down isn't as much too short."""
    down, up = math.floor(wanted), math.ceil(wanted)
    return down if up > (1 + _ROUNDING) * wanted and down > (1 - _ROUNDING) * wanted else up


def _default_steps(n_samples: int) -> int:
    return math.ceil(500 * max(1.0, math.sqrt(n_samples / 5000)))
