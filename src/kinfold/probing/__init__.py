"""Supervised upper bounds on the same features: a linear probe, and classification by nearest neighbours.

Both learn from labels, so no clustering method may import this package.
"""

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
from kinfold.neighbors import nearest_rows
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix, as_row_matrix
from kinfold.validation import Constraint, Either, Integer, Listed, Nothing, Number, check

__all__ = [
    "LEARNING_RATES",
    "WEIGHT_DECAYS",
    "LinearProbe",
    "NearestNeighbors",
    "knn_classify",
    "linear_probe",
]

# The grid: rates by half powers of ten, from what is too slow at 100 epochs to what overshoots, and decays
# from none to what costs accuracy. Adaloglou et al. search a grid as well but don't give its values.
LEARNING_RATES = (0.3, 1.0, 3.0, 10.0, 30.0)
WEIGHT_DECAYS = (0.0, 1e-5, 1e-4, 1e-3)
HELD_OUT = 10  # one training row in so many chooses the setting: enough to rank, few to lose
DEFAULT_NEIGHBORS, DEFAULT_TEMPERATURE = 20, 0.07  # those of DINO's evaluation (Caron et al. 2021)
UNSEEN = -1  # code of a test label that no training row has
_STACK_BYTES = 1 << 30  # of classifiers that are trained at once; more of them read the rows fewer times
_READ_BYTES = 8 << 20  # of test rows and their logits at once
_CELLS = 1 << 23  # of summed votes at once: 64 MiB
_PROBE_CONSTRAINTS: dict[str, Constraint] = {
    "learning_rates": Listed(Number(above=0)),
    "weight_decays": Listed(Number(least=0)),
    "n_epochs": Integer(),
    "batch_size": Either(Integer(), Nothing()),
    "max_selection_rows": Integer(),
}

Setting = tuple[float, float]
"""Learning rate and weight decay."""


@dataclass(frozen=True, eq=False)
class LabeledRows:
    """What a probe learns from and what it is judged on.

    Attributes
    ----------
    X, X_test : RowMatrix
        Features, of one width.
    classes : ndarray (K,)
        The classes of the training rows, ascending.
    codes : ndarray (N,) int64
        Class of every training row.
    test_codes : ndarray (M,) int64
        Class of every test row; −1 for one that no training row has, which can't be right.
    """

    X: RowMatrix
    X_test: RowMatrix
    classes: NDArray[Any]
    codes: NDArray[np.int64]
    test_codes: NDArray[np.int64]

    @classmethod
    def read(
        cls, X: ArrayLike | RowMatrix, y: ArrayLike, X_test: ArrayLike | RowMatrix, y_test: ArrayLike
    ) -> LabeledRows:
        """Check and encode.

        Raises
        ------
        InputError
            Shapes don't fit, or labels can't be sorted.
        """
        rows, test_rows = as_row_matrix(X), as_row_matrix(X_test)
        labels, test_labels = _labels(y, rows, "y"), _labels(y_test, test_rows, "y_test")
        if rows.shape[1] != test_rows.shape[1]:
            raise InputError(f"X has {rows.shape[1]} features and X_test {test_rows.shape[1]}; give the same")
        if (labels.dtype.kind in "US") != (test_labels.dtype.kind in "US"):
            raise InputError("y and y_test must be of one type, numbers or strings")
        classes, codes = np.unique(labels, return_inverse=True)
        places = np.searchsorted(classes, test_labels).clip(max=len(classes) - 1)
        test_codes = np.where(classes[places] == test_labels, places, UNSEEN)
        return cls(rows, test_rows, classes, codes.reshape(-1).astype(np.int64), test_codes.astype(np.int64))


def _labels(y: ArrayLike, rows: RowMatrix, name: str) -> NDArray[Any]:
    labels = np.asarray(y)
    if labels.dtype == object and all(isinstance(label, str) for label in labels.flat):
        labels = labels.astype(str)
    if labels.dtype.kind not in "iubUS":
        raise InputError(f"{name} must hold integers or strings, but the type is {labels.dtype}")
    if labels.shape != (rows.shape[0],):
        raise InputError(f"{name} has the shape {labels.shape}, but there are {rows.shape[0]} rows")
    return labels


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
    X: ArrayLike | RowMatrix,
    y: ArrayLike,
    X_test: ArrayLike | RowMatrix,
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
        Their labels, integers or strings.
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
    check(
        _PROBE_CONSTRAINTS,
        learning_rates=learning_rates,
        weight_decays=weight_decays,
        n_epochs=n_epochs,
        batch_size=batch_size,
        max_selection_rows=max_selection_rows,
    )
    data = LabeledRows.read(X, y, X_test, y_test)
    settings = _read_settings(learning_rates, weight_decays)
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
    top = _rank_classes(final, fit.rows, data.X_test)
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
        # A class whose rows are all held out must not win: it has nothing to learn from.
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


def _read_settings(rates: Sequence[float], decays: Sequence[float]) -> list[Setting]:
    """Return the grid in the order in which ties are decided."""
    return [(float(rate), float(decay)) for decay, rate in product(sorted(set(decays)), sorted(set(rates)))]


def _rank_classes(stack: SoftmaxStack, rows: StandardRows, X: RowMatrix) -> NDArray[np.int64]:
    """Return the up to five likeliest classes of every row (n, 5), best first; −2 where there are fewer."""
    found = np.full((X.shape[0], 5), -2, dtype=np.int64)
    width = min(5, stack.n_classes)
    step = max(1, _READ_BYTES // (4 * (X.shape[1] + stack.n_classes)))
    for start in range(0, X.shape[0], step):
        block = np.asarray(X[start : start + step], dtype=np.float32)
        if not np.isfinite(block).all():
            row = start + int((~np.isfinite(block)).any(axis=1).argmax())
            raise InputError(f"row {row} of X_test is not finite; leave such rows out")
        logits = next(iter(stack.logits(rows.standardize(block))))[:, 0]
        found[start : start + step, :width] = logits.topk(width, dim=1).indices.cpu().numpy()
    return found


@dataclass(frozen=True, eq=False)
class NearestNeighbors:
    """How well labeled neighbours classify.

    Attributes
    ----------
    accuracy : float
        Share of the test rows that get their label, 0 to 1.
    top5_accuracy : float
        Share whose label is among the five with most votes.
    predictions : ndarray (n_test,)
        Label of every test row.
    n_neighbors : int
        Neighbours that vote.
    temperature : float or None
        Of the votes; None where all count the same.
    n_train, n_test, n_classes : int
        Labeled rows that vote, rows judged, and classes of the former.
    labels_used : str
        What labels were used for, in words.
    """

    accuracy: float
    top5_accuracy: float
    predictions: NDArray[Any]
    n_neighbors: int
    temperature: float | None
    n_train: int
    n_test: int
    n_classes: int
    labels_used: str = "all training labels vote; test labels give the accuracy alone"

    def as_dict(self) -> dict[str, Any]:
        """Return all but the predictions as JSON-ready data."""
        return {name: value for name, value in vars(self).items() if name != "predictions"}


def knn_classify(
    X: ArrayLike | RowMatrix,
    y: ArrayLike,
    X_test: ArrayLike | RowMatrix,
    y_test: ArrayLike,
    *,
    n_neighbors: int = DEFAULT_NEIGHBORS,
    temperature: float | None = DEFAULT_TEMPERATURE,
    device: str | torch.device = "auto",
    memory_budget: int | None = None,
) -> NearestNeighbors:
    """Classify rows by the labels of their nearest training rows.

    All labels of the training rows are used, so this is an upper bound for clustering, not a method of it.
    Neighbours are exact, by cosine. Each votes for its label with ``exp(similarity / temperature)``; equal
    sums go to the label that sorts first.

    Parameters
    ----------
    X, X_test : array or row matrix (n, D)
        Training and test features, read in blocks.
    y, y_test : array-like (n,)
        Their labels, integers or strings. ``y_test`` gives the accuracy and nothing else.
    n_neighbors : int, default 20
        Neighbours that vote, or all training rows where there are fewer.
    temperature : float or None, default 0.07
        None lets every neighbour count the same.
    device : str or torch.device, default "auto"
        Where to search.
    memory_budget : int, optional
        Bytes of the search, as :func:`kinfold.neighbors.knn_graph` takes them.

    Raises
    ------
    InputError
        Shapes don't fit, rows are zero or not finite, or a parameter is out of range.

    References
    ----------
    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018,
    equation 7, with DINO's 20 neighbours (Caron et al., 2021).

    Examples
    --------
    >>> X = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]
    >>> knn_classify(X, ["a", "a", "b"], [[1.0, 0.1], [0.1, 1.0]], ["a", "b"], n_neighbors=1).accuracy
    1.0
    """
    check({"temperature": Either(Number(above=0), Nothing())}, temperature=temperature)
    data = LabeledRows.read(X, y, X_test, y_test)
    found, similarities = nearest_rows(
        data.X, data.X_test, n_neighbors, device=device, memory_budget=memory_budget
    )
    # Less the row's largest similarity, so that the exponential can't overflow; it scales all votes alike.
    votes = np.ones(found.shape)
    if temperature is not None:
        votes = np.exp((similarities.astype(np.float64) - similarities[:, :1]) / temperature)
    best = _count_votes(data.codes[found], votes, len(data.classes))
    return NearestNeighbors(
        accuracy=float((best[:, 0] == data.test_codes).mean()),
        top5_accuracy=float((best == data.test_codes[:, None]).any(axis=1).mean()),
        predictions=data.classes[best[:, 0]],
        n_neighbors=found.shape[1],
        temperature=temperature,
        n_train=len(data.codes),
        n_test=len(data.test_codes),
        n_classes=len(data.classes),
    )


def _count_votes(codes: NDArray[np.int64], votes: NDArray[np.float64], n_classes: int) -> NDArray[np.int64]:
    """Return, per row, the up to five classes with most votes (n, 5), best first; −2 where none has any."""
    best = np.full((len(codes), 5), -2, dtype=np.int64)
    width, step = min(5, n_classes), max(1, _CELLS // n_classes)
    for start in range(0, len(codes), step):
        part = slice(start, start + step)
        lines = np.arange(len(codes[part]))
        keys = lines[:, None] * n_classes + codes[part]
        sums = np.bincount(keys.ravel(), votes[part].ravel(), minlength=len(lines) * n_classes)
        sums = sums.reshape(-1, n_classes)
        for rank in range(width):
            top = sums.argmax(axis=1)
            best[part, rank] = np.where(sums[lines, top] > 0, top, -2)
            sums[lines, top] = -1
    return best
