"""What linear classifiers hold images for that they haven't learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.compute import resolve_device
from kinfold.methods.linear import SoftmaxStack, StandardRows, deal_folds, train
from kinfold.progress import SILENT, Progress

N_FOLDS = 4
LEARNING_RATE = 0.3
_MOST_STEPS = 3000
_MOST_BATCH = 1024
_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class Lesson:
    """What is learned: classes 0 … K−1 of N images.

    Attributes
    ----------
    n_classes : int
        K.
    learned : ndarray (N,) bool
        Images that are learned from; there is one at least.
    certain : ndarray (N,) bool
        Those of them whose class is certain.
    barred : ndarray (N,) bool
        Images that are never held for their own class.
    """

    n_classes: int
    learned: NDArray[np.bool_]
    certain: NDArray[np.bool_]
    barred: NDArray[np.bool_]


class Jury:
    """Linear classifiers that each leave a fold of the images out.

    Parameters
    ----------
    X : row matrix (N, D)
        Features, read in batches.
    lesson : Lesson
        What is learned.
    device : str
        Where to train.
    progress : Progress
        Shows steps.
    """

    def __init__(self, X: Any, lesson: Lesson, *, device: str = "auto", progress: Progress = SILENT) -> None:
        self._device = resolve_device(device)
        self._rows = StandardRows(X, self._device)
        self._lesson = lesson
        self._progress = progress

    def opinions(
        self, classes: NDArray[np.int64], seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the class (N,) of every image as seen by a classifier that hasn't learned from it.

        Images whose class is certain are seen by all classifiers, which therefore agree with them. The only
        image of a class keeps it: the classifier that hasn't learned from it doesn't know that class.

        Parameters
        ----------
        classes : ndarray (N,) int64
            What to learn.
        seed : int
            Of folds and order.

        Returns
        -------
        classes : ndarray (N,) int64
            The most probable class, or the image's own where its classifier knows no other image of it.
        probabilities : ndarray (N,) float32
            Its probability.
        """
        targets, lesson = torch.from_numpy(classes), self._lesson
        n_folds = min(N_FOLDS, len(classes))
        folds = deal_folds(targets, n_folds, seed)
        folds[torch.from_numpy(lesson.certain)] = n_folds  # of no fold: all classifiers see them
        seen = torch.from_numpy(lesson.learned)
        counts = torch.zeros(n_folds + 1, lesson.n_classes, dtype=torch.int64)
        counts.index_put_((folds[seen], targets[seen]), torch.tensor(1), accumulate=True)
        filled = counts.sum(dim=0) > counts[:n_folds]
        stack = SoftmaxStack([self._rows.dim], [LEARNING_RATE] * n_folds, filled, self._device)
        members = torch.from_numpy(draw_members(lesson, classes))
        batch_size = min(_MOST_BATCH, max(32, len(classes) // 16), len(members))
        train(
            stack,
            self._rows,
            targets.to(self._device),
            members,
            n_iterations=min(_MOST_STEPS, 500 + 20 * (len(classes) // batch_size)),
            batch_size=batch_size,
            seed=seed,
            folds=folds.to(self._device),
            progress=self._progress,
            title="Learning the corrections",
        )
        return self._ask(stack, targets, folds.clamp_(max=n_folds - 1), filled)

    def _ask(
        self, stack: SoftmaxStack, targets: Tensor, folds: Tensor, filled: Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = np.empty(len(targets), np.int64)
        sure = np.empty(len(targets), np.float32)
        barred = torch.from_numpy(self._lesson.barred) & (targets < self._lesson.n_classes)
        listed = targets < self._lesson.n_classes
        known = filled[folds, targets.clamp(max=self._lesson.n_classes - 1)]
        unheard = listed & ~known & ~barred  # the last image of its class: who hasn't learned it knows none
        size = max(1, _BLOCK_BYTES // (4 * (self._rows.dim + stack.biases[0].numel())))
        for start in range(0, len(targets), size):
            block = torch.arange(start, min(len(targets), start + size))
            logits = next(iter(stack.logits(self._rows.take(block)))).cpu()
            own = logits[torch.arange(len(block)), folds[block]]
            shut = torch.nonzero(barred[block])[:, 0]
            own[shut, targets[block][shut]] = -torch.inf
            best = torch.softmax(own, dim=1).max(dim=1)
            own_class = torch.where(unheard[block], targets[block], best.indices)
            found[block.numpy()], sure[block.numpy()] = own_class.numpy(), best.values.numpy()
        return found, sure


def draw_members(lesson: Lesson, classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the images that batches are drawn from, certain ones several times.

    The certain images of a class together are there as often as a class has images on average, and each of
    them once at least; all others once.
    """
    times = lesson.learned.astype(np.int64)
    certain = np.flatnonzero(lesson.certain)
    counts = np.bincount(classes[certain], minlength=lesson.n_classes)
    average = lesson.learned.sum() / lesson.n_classes
    times[certain] = np.maximum(1, np.rint(average / np.maximum(counts, 1)))[classes[certain]]
    return np.repeat(np.arange(len(classes)), times)
