"""Held-out predictions of linear classifiers that are trained on folds of the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.compute import resolve_device
from kinfold.methods.linear import SoftmaxStack, StandardRows, deal_folds, train
from kinfold.progress import SILENT, Progress

if TYPE_CHECKING:
    from kinfold.features import RowMatrix

N_FOLDS = 4  # each classifier sees 3/4 of the images; more folds cost more and change little
LEARNING_RATE = 0.3  # of standardized columns; it is the same for all folds, which share one training loop
_MOST_STEPS = 3000  # a person waits for the proposals
_MOST_BATCH = 1024  # larger batches mean fewer steps in the same time
_BLOCK_BYTES = 32 << 20  # of logits and rows at a time, so that features may be larger than memory


@dataclass(frozen=True)
class TrainingSet:
    """What is trained on: classes 0 … K−1 of N images.

    Attributes
    ----------
    n_classes : int
        K.
    learned : ndarray (N,) bool
        Images that are trained on; at least one.
    certain : ndarray (N,) bool
        Those of them whose class is certain.
    barred : ndarray (N,) bool
        Images whose own class is never predicted, because they are marked "wrong".
    """

    n_classes: int
    learned: NDArray[np.bool_]
    certain: NDArray[np.bool_]
    barred: NDArray[np.bool_]


class FoldClassifiers:
    """Linear classifiers that each leave out one fold of the images.

    Parameters
    ----------
    X : row matrix (N, D)
        Features, read in batches.
    training_set : TrainingSet
        What is learned.
    device : str
        Where to train.
    progress : Progress
        Shows steps.
    """

    def __init__(
        self, X: RowMatrix, training_set: TrainingSet, *, device: str = "auto", progress: Progress = SILENT
    ) -> None:
        self._device = resolve_device(device)
        self._rows = StandardRows(X, self._device)
        self._lesson = training_set
        self._progress = progress

    def predict(self, classes: NDArray[np.int64], seed: int, *, spare_certain: bool = True) -> HeldOut:
        """Train, and return the held-out predictions of every image.

        Images whose class is certain are in the training set of all classifiers, which therefore agree with
        them. An image that is the only one of its class keeps it: the classifier that leaves it out doesn't
        know that class.

        Parameters
        ----------
        classes : ndarray (N,) int64
            Labels to train on.
        seed : int
            Seed of folds and order.
        spare_certain : bool, default True
            Train all classifiers on images whose class is certain. False leaves these out in turn too, to
            measure the held-out accuracy on them.
        """
        targets, training_set = torch.from_numpy(classes), self._lesson
        n_folds = min(N_FOLDS, len(classes))
        folds = deal_folds(targets, n_folds, seed)
        if spare_certain:
            folds[torch.from_numpy(training_set.certain)] = (
                n_folds  # of no fold: all classifiers are trained on them
            )
        seen = torch.from_numpy(training_set.learned)
        counts = torch.zeros(n_folds + 1, training_set.n_classes, dtype=torch.int64)
        counts.index_put_((folds[seen], targets[seen]), torch.tensor(1), accumulate=True)
        filled = counts.sum(dim=0) > counts[:n_folds]
        stack = SoftmaxStack([self._rows.dim], [LEARNING_RATE] * n_folds, filled, self._device)
        members = torch.from_numpy(draw_members(training_set, classes))
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
        listed = targets < training_set.n_classes
        barred = torch.from_numpy(training_set.barred) & listed
        folds.clamp_(max=n_folds - 1)
        known = filled[folds, targets.clamp(max=training_set.n_classes - 1)]
        only_one = (
            listed & ~known & ~barred
        )  # the only image of its class: its held-out classifier doesn't know the class
        return HeldOut(stack, self._rows, targets, folds, barred, only_one)


class HeldOut:
    """Held-out predictions of the classifiers of one training.

    Attributes
    ----------
    classes : ndarray (N,) int64
        Most probable class of every image, or its own where its classifier has seen no other image of it.
    """

    def __init__(
        self,
        stack: SoftmaxStack,
        rows: StandardRows,
        targets: Tensor,
        folds: Tensor,
        barred: Tensor,
        only_one: Tensor,
    ) -> None:
        self._stack, self._rows, self._folds = stack, rows, folds
        self._targets, self._barred = targets, barred
        best = [
            self._probabilities(block).argmax(dim=1) for block in self._blocks(torch.arange(len(targets)))
        ]
        self.classes: NDArray[np.int64] = torch.where(only_one, targets, torch.cat(best)).numpy()

    def probabilities(self, images: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the probability (n,) of one class for each of some images."""
        found = [torch.empty(0)]
        asked = self._blocks(torch.from_numpy(classes))
        for block, of in zip(self._blocks(torch.from_numpy(images)), asked, strict=True):
            found.append(self._probabilities(block).gather(1, of[:, None])[:, 0])
        return torch.cat(found).numpy()

    def _blocks(self, values: Tensor) -> Iterator[Tensor]:
        size = max(1, _BLOCK_BYTES // (4 * (self._rows.dim + self._stack.biases[0].numel())))
        return (values[start : start + size] for start in range(0, len(values), size))

    def _probabilities(self, block: Tensor) -> Tensor:
        logits = next(iter(self._stack.logits(self._rows.take(block)))).cpu()
        own = logits[torch.arange(len(block)), self._folds[block]]
        shut = torch.nonzero(self._barred[block])[:, 0]
        own[shut, self._targets[block][shut]] = -torch.inf
        return torch.softmax(own, dim=1)


def draw_members(training_set: TrainingSet, classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices that batches are drawn from, those of certain images repeated.

    The certain images of a class together appear as often as an average class has images, and each at least
    once; all others appear once.
    """
    times = training_set.learned.astype(np.int64)
    certain = np.flatnonzero(training_set.certain)
    counts = np.bincount(classes[certain], minlength=training_set.n_classes)
    average = training_set.learned.sum() / training_set.n_classes
    times[certain] = np.maximum(1, np.rint(average / np.maximum(counts, 1)))[classes[certain]]
    return np.repeat(np.arange(len(classes)), times)
