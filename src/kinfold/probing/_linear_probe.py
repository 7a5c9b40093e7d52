"""The linear probe: multinomial logistic regression on frozen features, with the truth for labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kinfold.compute import resolve_device
from kinfold.errors import InputError
from kinfold.methods.linear import SoftmaxStack, StandardRows, agreements, deal_folds, train
from kinfold.probing._classes import LabeledRows
from kinfold.progress import SILENT, Progress

LEARNING_RATES = (0.3, 1.0, 3.0, 10.0, 30.0)
WEIGHT_DECAYS = (0.0, 1e-5, 1e-4, 1e-3)
HELD_OUT = 10  # one training row in so many
_STACK_BYTES = 1 << 30
_READ_BYTES = 8 << 20

Setting = tuple[float, float]


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """How well a linear classifier does, and how it was chosen.

    Attributes
    ----------
    accuracy : float
        Share of the test rows that get their label, 0 to 1.
    top5_accuracy : float
        Share whose label is among the five likeliest.
    predictions : ndarray (n_test,)
        Label of every test row.
    learning_rate, weight_decay : float
        The setting that won.
    validation_accuracy : float
        Of that setting on the held-out training rows.
    table : tuple of (float, float, float)
        Every setting tried: learning rate, weight decay, validation accuracy.
    n_epochs, batch_size : int
        Passes over the training rows, and rows per step.
    n_train, n_selection, n_validation, n_test, n_classes : int
        Rows of the final training, of the grid's training and of its validation, rows judged, and classes.
    weight, bias, mean, scale : ndarray
        The classifier (K, D) and (K,) float32 on columns standardised by mean and scale (D,).
    classes : ndarray (K,)
        Labels of the classifier's rows.
    labels_used : str
        What labels were used for, in words.
    """

    accuracy: float
    top5_accuracy: float
    predictions: NDArray[Any]
    learning_rate: float
    weight_decay: float
    validation_accuracy: float
    table: tuple[tuple[float, float, float], ...]
    n_epochs: int
    batch_size: int
    n_train: int
    n_selection: int
    n_validation: int
    n_test: int
    n_classes: int
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    classes: NDArray[Any]
    labels_used: str = (
        "all training labels train, those of held-out training rows choose the setting; "
        "test labels give the accuracy alone"
    )

    def as_dict(self) -> dict[str, Any]:
        """Return all but the arrays as JSON-ready data."""
        facts = {name: value for name, value in vars(self).items() if not isinstance(value, np.ndarray)}
        return {**facts, "table": [list(line) for line in self.table]}


def linear_probe(
    X: Any,
    y: ArrayLike,
    X_test: Any,
    y_test: ArrayLike,
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    n_epochs: int = 100,
    batch_size: int | None = None,
    max_selection_rows: int = 100_000,
    random_state: int = 0,
    device: str | torch.device = "auto",
    progress: Progress = SILENT,
) -> LinearProbe:
    """Train a linear classifier on labeled features and judge it on others.

    All labels of the training rows are used, so this is an upper bound for clustering, not a method of it.
    Stochastic gradient descent with momentum 0.9 on standardised columns, rates falling to zero on half a
    cosine. Every learning rate with every weight decay is trained on nine of ten training rows, all at once;
    what is right on most of the tenth (on ties the smaller decay, then the smaller rate) is trained again on
    all of them. The test labels choose nothing.

    Parameters
    ----------
    X, X_test : array or row matrix (n, D)
        Training and test features; memory maps and shards are read by batches.
    y, y_test : array-like (n,)
        Their labels, whole numbers or texts.
    learning_rates : sequence of float, default 0.3, 1, 3, 10, 30
        Meant for rows of squared length 1, as in :class:`kinfold.methods.linear.SoftmaxStack`.
    weight_decays : sequence of float, default 0, 1e-5, 1e-4, 1e-3
        Share of half the squared weights (those for rows of squared length 1) in the loss.
    n_epochs : int, default 100
        Passes over the rows, in the grid and in the final training.
    batch_size : int, optional
        Rows per step; by default a sixteenth of the rows, between 32 and 1,024.
    max_selection_rows : int, default 100000
        Where there are more training rows, the grid is trained and validated on so many drawn ones.
    random_state : int, default 0
        Seed of what is drawn, of what is held out and of the order.
    device : str or torch.device, default "auto"
        Where to train.
    progress : Progress
        Shows steps.

    Raises
    ------
    InputError
        Shapes don't fit, features aren't finite, there is one training row alone, or a parameter is out of
        range.

    References
    ----------
    Adaloglou et al., "Scaling Up Deep Clustering Methods Beyond ImageNet-1K" (100 epochs and a grid; its
    values aren't given, these are ours).
    """
    data = LabeledRows.read(X, y, X_test, y_test)
    settings = _read_settings(learning_rates, weight_decays)
    _check_whole(n_epochs=n_epochs, max_selection_rows=max_selection_rows)
    if batch_size is not None:
        _check_whole(batch_size=batch_size)
    if len(data.codes) < 2:
        raise InputError("there is one training row alone; a probe needs two, one to be validated on")
    fit = _Fit(data, resolve_device(device), int(n_epochs), batch_size, random_state, progress)
    members, held_out = fit.split(int(max_selection_rows))
    found = [
        share
        for group in fit.groups(settings)
        for share in agreements(
            fit.train(group, members, "Linear probe: grid"), fit.rows, fit.targets, held_out
        )[0].tolist()
    ]
    best = int(np.argmax(found))
    final = fit.train([settings[best]], torch.arange(len(data.codes)), "Linear probe")
    weight, bias = final.classifier(0, 0)
    top = _rank(final, fit.rows, data.X_test)
    return LinearProbe(
        accuracy=float((top[:, 0] == data.test_codes).mean()),
        top5_accuracy=float((top == data.test_codes[:, None]).any(axis=1).mean()),
        predictions=data.classes[top[:, 0]],
        learning_rate=settings[best][0],
        weight_decay=settings[best][1],
        validation_accuracy=found[best],
        table=tuple((*setting, share) for setting, share in zip(settings, found, strict=True)),
        n_epochs=int(n_epochs),
        batch_size=fit.batch_size(len(data.codes)),
        n_train=len(data.codes),
        n_selection=len(members),
        n_validation=len(held_out),
        n_test=len(data.test_codes),
        n_classes=len(data.classes),
        weight=weight,
        bias=bias,
        mean=fit.rows.mean,
        scale=fit.rows.scale,
        classes=data.classes,
    )


class _Fit:
    """Training of stacks of classifiers on the same rows."""

    def __init__(
        self,
        data: LabeledRows,
        device: torch.device,
        n_epochs: int,
        batch_size: int | None,
        seed: int,
        progress: Progress,
    ) -> None:
        self.rows = StandardRows(data.X, device)
        if not (np.isfinite(self.rows.mean).all() and np.isfinite(self.rows.scale).all()):
            raise InputError("features of X are not finite; leave such rows out")
        self._codes = torch.from_numpy(data.codes)
        self.targets = self._codes.to(device)
        self._n_classes, self._device = len(data.classes), device
        self._n_epochs, self._batch_size, self._seed, self._progress = n_epochs, batch_size, seed, progress

    def batch_size(self, n_rows: int) -> int:
        chosen = self._batch_size or 2 ** round(math.log2(min(max(n_rows / 16, 32), 1024)))
        return int(min(chosen, n_rows))

    def split(self, max_rows: int) -> tuple[Tensor, Tensor]:
        """Return the rows that the grid is trained on, and those it is validated on."""
        used = torch.arange(len(self._codes))
        if len(used) > max(2, max_rows):
            generator = torch.Generator().manual_seed(self._seed)
            used = torch.randperm(len(used), generator=generator)[: max(2, max_rows)].sort().values
        folds = deal_folds(self._codes[used], min(HELD_OUT, len(used)), self._seed)
        return used[folds != 0], used[folds == 0]

    def groups(self, settings: Sequence[Setting]) -> list[Sequence[Setting]]:
        """Divide the settings so that a stack's weights, speeds and logits stay within a gigabyte."""
        each = 4 * self._n_classes * (2 * self.rows.dim + 3 * self.batch_size(len(self._codes)))
        size = max(1, _STACK_BYTES // each)
        return [settings[start : start + size] for start in range(0, len(settings), size)]

    def train(self, settings: Sequence[Setting], members: Tensor, title: str) -> SoftmaxStack:
        filled = torch.bincount(self._codes[members], minlength=self._n_classes) > 0
        stack = SoftmaxStack(
            [self.rows.dim],
            [rate for rate, _ in settings],
            filled.expand(len(settings), -1),
            self._device,
            decays=[decay for _, decay in settings],
        )
        size = self.batch_size(len(members))
        train(
            stack,
            self.rows,
            self.targets,
            members,
            n_iterations=self._n_epochs * (len(members) // size),
            batch_size=size,
            seed=self._seed,
            progress=self._progress,
            title=title,
        )
        return stack


def _check_whole(**parameters: Any) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise InputError(f"{name} must be a positive whole number, not {value!r}")


def _read_settings(rates: Sequence[float], decays: Sequence[float]) -> list[Setting]:
    """Return the grid in the order in which ties are decided."""
    if not len(rates) or not len(decays):
        raise InputError("the grid is empty; give a learning rate and a weight decay at least")
    if not all(0 < rate < math.inf for rate in rates):
        raise InputError(f"learning_rates must be positive numbers, not {list(rates)!r}")
    if not all(0 <= decay < math.inf for decay in decays):
        raise InputError(f"weight_decays must be numbers of 0 or more, not {list(decays)!r}")
    return [(float(rate), float(decay)) for decay, rate in product(sorted(set(decays)), sorted(set(rates)))]


def _rank(stack: SoftmaxStack, rows: StandardRows, X: Any) -> NDArray[np.int64]:
    """Return the up to five likeliest classes of every row (n, 5), best first; −2 where there are fewer."""
    found = np.full((X.shape[0], 5), -2, dtype=np.int64)
    width = min(5, stack.n_classes)
    step = max(1, _READ_BYTES // (4 * (X.shape[1] + stack.n_classes)))
    for start in range(0, X.shape[0], step):
        block = np.asarray(X[start : start + step], dtype=np.float32)
        if not np.isfinite(block).all():
            row = start + int((~np.isfinite(block)).any(axis=1).argmax())
            raise InputError(f"row {row} of X_test is not finite; leave such rows out")
        logits = next(iter(stack.logits(rows.standardise(block))))[:, 0]
        found[start : start + step, :width] = logits.topk(width, dim=1).indices.cpu().numpy()
    return found
