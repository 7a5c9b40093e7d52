"""Self-training: a linear classifier learns the labels that a clustering found, and then predicts.

Also a measure of labels that needs no known classes: how well a linear classifier predicts them for samples
that it has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.compute import resolve_device
from kinfold.errors import InputError
from kinfold.methods.linear import SoftmaxStack, StandardRows, agreements, deal_folds, train
from kinfold.methods.protocol import Shape
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix
from kinfold.validation import Choice, Either, Integer, Listed, Nothing, Number, check, check_integer

# For rows of squared length 1. Below 0.3 held-out accuracy falls on every set of pseudo-labels that
# docs/methods.md shows, and from 30 on it hardly rises.
LEARNING_RATES = (0.3, 1.0, 3.0, 10.0, 30.0)

# DINOv2's linear evaluation: for batches of 256, and for columns of deviation 1, as its normalised tokens
# have.
DINOV2_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
_DINOV2_BATCH = 256

PAPER_ITERATIONS = 12_500  # ICCE, section 4.2

# Steps by default: a start that few samples need as well, and so many passes over the data.
_LEAST_ITERATIONS, _PASSES = 500, 20

# Batches by default are a 16th of the samples between these: larger ones make too few steps, smaller ones
# cost as much time per step.
_SMALLEST_BATCH, _LARGEST_BATCH = 128, 1024

HELD_OUT = 10  # one sample in ten tells settings apart, and nine tenths are nearly all to learn from

# Cross-validation compares labelings and not classifiers: one rate in the middle of the grid, shorter
# training.
_CHECK_RATE = 10.0
_CHECK_BATCH = 512
_CHECK_PASSES = 10
_CHECK_LEAST_ITERATIONS = 200

WIDTHS = Either(Nothing(), Integer(), Listed(Integer(), example="[8, 8]"))
"""Rule for widths of blocks of columns: one, several, or None for all columns as one block."""

BLOCKS = Either(Nothing(), Listed(Listed(Integer(least=0)), example="[[0], [0, 1]]"))
"""Rule for feature variants, each a list of numbers of blocks."""

RATES = Either(Nothing(), Choice(("dinov2",)), Listed(Number(above=0)))
"""Rule for the learning rates of a grid."""


_TENSORS = ("weight", "bias", "mean", "scale")  # of a classifier, by the names of its attributes


@dataclass(frozen=True)
class SelfTraining:
    """A linear classifier, and how it was chosen.

    Attributes
    ----------
    weight : ndarray (K, D) float32
        On standardised columns; zero outside the chosen feature variant.
    bias : ndarray (K,) float32
        −10,000 for a class without members, which therefore never wins.
    mean, scale : ndarray (D,) float32
        Of the columns.
    learning_rate : float
        Chosen; of DINOv2's grid that of the batch that was used.
    dims : tuple of int
        Widths of the column blocks that the chosen variant uses.
    agreement : float
        Share of held-out pseudo-labels that the chosen setting gave, in [0, 1].
    table : tuple of (float, tuple of int, float)
        Every setting tried: learning rate, widths of the column blocks used, held-out agreement.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    learning_rate: float
    dims: tuple[int, ...]
    agreement: float
    table: tuple[tuple[float, tuple[int, ...], float], ...]

    def logits(self, X: Tensor) -> Tensor:
        """Return the logits (B, K), float32, of features as embedded (B, D), on their device."""
        mean, scale, weight, bias = (
            torch.from_numpy(part).to(X.device) for part in (self.mean, self.scale, self.weight, self.bias)
        )
        return torch.addmm(bias, (X.float() - mean) / scale, weight.T)

    def facts(self) -> dict[str, Any]:
        """Return the settings that were tried, as ``manifest.fit`` holds them."""
        tried = [
            {"learning_rate": rate, "dims": list(dims), "agreement": agreement}
            for rate, dims, agreement in self.table
        ]
        return {"self_training": tried}

    def config(self) -> dict[str, Any]:
        """Return the chosen setting, as ``model.json`` holds it."""
        return {
            "learning_rate": self.learning_rate,
            "dims": list(self.dims),
            "agreement": self.agreement,
        }

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays, as ``model.safetensors`` holds them."""
        return {name: getattr(self, name) for name in _TENSORS}

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> SelfTraining:
        """Return the classifier that :meth:`config` and :meth:`tensors` describe; its table is not saved."""
        return cls(
            **{name: tensors[name] for name in _TENSORS},
            learning_rate=config["learning_rate"],
            dims=tuple(config["dims"]),
            agreement=config["agreement"],
            table=(),
        )


def fit_self_training(
    X: RowMatrix,
    labels: NDArray[np.integer],
    n_clusters: int,
    *,
    dims: int | Sequence[int] | None = None,
    blocks: Sequence[Sequence[int]] | None = None,
    learning_rates: Sequence[float] | str | None = None,
    n_iterations: int | None = None,
    batch_size: int | None = None,
    seed: int,
    device: str | torch.device = "auto",
    progress: Progress = SILENT,
) -> SelfTraining:
    """Train a linear classifier on pseudo-labels, at the best of several settings.

    Multinomial logistic regression on frozen features with standardised columns, by stochastic gradient
    descent with momentum 0.9 and rates that fall on half a cosine. Every learning rate on every feature
    variant is trained on 9 of 10 samples, all at once; the setting that gives most of the held-out samples
    their pseudo-label (on ties the narrower, then the slower one) is trained again on all of them.

    Parameters
    ----------
    X : array or row matrix (N, D)
        Checked features, read by rows.
    labels : ndarray (N,)
        Pseudo-labels in 0 … K−1. Classes may be empty: such a class never wins.
    n_clusters : int
        K.
    dims : int or sequence of int, optional
        Widths of blocks of columns, D together. By default all columns are one block.
    blocks : sequence of sequence of int, optional
        The feature variants, each the numbers of the blocks that it sees, from 0 on. By default the leading
        blocks: the first alone, the first two, and so on. DINOv2's variants of X = [class token | mean of the
        patch tokens | class tokens of the last four blocks] are ``[[0], [0, 1], [2], [1, 2]]``.
    learning_rates : sequence of float or "dinov2", optional
        By default 0.3, 1, 3, 10 and 30. They are meant for rows of squared length 1: on the standardised
        columns, which have squared length D on average, the rate is divided by the variant's width. "dinov2"
        stands for the 13 rates of its linear evaluation, 1e-5 to 0.1, times ``batch_size`` / 256 and not
        divided by anything: as for columns of deviation 1.
    n_iterations : int, optional
        Steps. By default 500 and 20 passes over the data, at most the paper's 12,500.
    batch_size : int, optional
        Samples per step, cut to N; by default N/16 between 128 and 1,024.
    seed : int
        Of the samples held out and of the order.
    device : str or torch.device, default "auto"
        Where to train.
    progress : Progress
        Shows steps.

    Raises
    ------
    InputError
        ``dims`` don't add up to D, ``blocks`` name one that isn't there, or a parameter breaks its rule.

    References
    ----------
    "ICCE", section 3.3 and "self-training" of 4.2, which follows the linear evaluation of DINOv2 (Oquab et
    al., 2023, appendix B.3): its grid is ``learning_rates="dinov2"``, ours holds for features of any scale.
    """
    variants = read_variants(dims, blocks, int(X.shape[1]))
    check({"learning_rates": RATES}, learning_rates=learning_rates)
    place = resolve_device(device)
    rows, targets = StandardRows(X, place), torch.from_numpy(np.array(labels, dtype=np.int64))
    held_out, members = _hold_out(targets, seed)
    batch_size, n_iterations = _plan(rows.n_rows, batch_size, n_iterations)
    # In ascending order, so that ties go to the slower rate.
    rates = tuple(sorted(_read_rates(learning_rates, batch_size)))
    there = targets.to(place)

    def fit(tried: Sequence[Variant], settings: Sequence[float], used: Tensor, title: str) -> SoftmaxStack:
        filled = torch.bincount(targets[used], minlength=n_clusters) > 0
        stack = SoftmaxStack(
            [variant.part for variant in tried],
            settings,
            filled.expand(len(settings), -1),
            place,
            per_column=isinstance(learning_rates, str),
        )
        train(
            stack,
            rows,
            there,
            used,
            n_iterations=n_iterations,
            batch_size=min(batch_size, len(used)),
            seed=seed,
            progress=progress,
            title=title,
        )
        return stack

    found = agreements(fit(variants, rates, members, "Choosing how fast to learn"), rows, there, held_out)
    part, setting = divmod(int(found.argmax()), len(rates))  # the first: narrower, then slower
    best = variants[part]
    chosen = fit([best], [rates[setting]], torch.arange(rows.n_rows), "Learning from the groups")
    seen, bias = chosen.classifier(0, 0)
    weight = np.zeros((n_clusters, rows.dim), np.float32)
    weight[:, best.columns] = seen
    return SelfTraining(
        weight=weight,
        bias=bias,
        mean=rows.mean,
        scale=rows.scale,
        learning_rate=rates[setting],
        dims=best.dims,
        agreement=float(found[part, setting]),
        table=tuple(
            (rate, variant.dims, float(found[number, index]))
            for number, variant in enumerate(variants)
            for index, rate in enumerate(rates)
        ),
    )


def cross_validated_agreement(
    X: RowMatrix,
    labels: NDArray[np.integer],
    n_clusters: int,
    *,
    n_folds: int = 10,
    seed: int,
    device: str | torch.device = "auto",
    max_rows: int = 20_000,
) -> float:
    """Return the held-out accuracy of a linear classifier that is trained on the labels.

    A measure of labels that needs no known classes: kinds that lie apart in the features score high. Read it
    beside the number of live clusters, since a single cluster scores 1. The classifiers of all folds are
    trained at once.

    Parameters
    ----------
    X : array or row matrix (N, D)
        Checked features.
    labels : ndarray (N,)
        Labels in 0 … K−1.
    n_clusters : int
        K.
    n_folds : int, default 10
        Folds, stratified; cut to N.
    seed : int
        Of rows, folds and order.
    device : str or torch.device, default "auto"
        Where to train.
    max_rows : int, default 20000
        Where N is larger, so many rows are drawn.

    Returns
    -------
    float
        Mean accuracy over the folds, in [0, 1]; 1.0 for a single sample, on which nothing can be tested.
    """
    check_integer(n_folds=n_folds, max_rows=max_rows)
    place = resolve_device(device)
    targets = torch.from_numpy(np.array(labels, dtype=np.int64))
    if len(targets) > max_rows:
        drawn = np.sort(np.random.default_rng(seed).choice(len(targets), max_rows, replace=False))
        X, targets = np.asarray(X[drawn]), targets[torch.from_numpy(drawn)]
    n_rows, n_folds = len(targets), min(n_folds, len(targets))
    if n_folds < 2:
        return 1.0
    rows, folds = StandardRows(X, place), deal_folds(targets, n_folds, seed)
    counts = torch.zeros(n_folds, n_clusters, dtype=torch.int64)
    counts.index_put_((folds, targets), torch.ones(n_rows, dtype=torch.int64), accumulate=True)
    stack = SoftmaxStack([rows.dim], [_CHECK_RATE] * n_folds, counts.sum(dim=0) > counts, place)
    batch_size = min(_CHECK_BATCH, max(32, n_rows // 16), n_rows)
    train(
        stack,
        rows,
        targets.to(place),
        torch.arange(n_rows),
        n_iterations=max(_CHECK_LEAST_ITERATIONS, _CHECK_PASSES * (n_rows // batch_size)),
        batch_size=batch_size,
        seed=seed,
        folds=folds.to(place),
    )
    shares = [
        float(agreements(stack, rows, targets.to(place), torch.nonzero(folds == fold)[:, 0])[0, fold])
        for fold in range(n_folds)
    ]
    return float(np.mean(shares))


def check_dims(dims: int | Sequence[int] | None, dim: int, *, name: str = "dims") -> tuple[int, ...]:
    """Return the widths of column blocks, one of all columns by default; InputError unless they make D."""
    check({name: WIDTHS}, **{name: dims})
    if dims is None:
        return (dim,)
    blocks = tuple(int(width) for width in np.atleast_1d(dims))
    if sum(blocks) != dim:
        raise InputError(f"{name} {blocks} add up to {sum(blocks)}, but X has {dim} features")
    return blocks


@dataclass(frozen=True)
class Variant:
    """A feature variant of stage 3: the widths of its blocks, and the numbers of its columns."""

    dims: tuple[int, ...]
    columns: NDArray[np.int64]

    @property
    def part(self) -> int | Tensor:
        """What a stack of classifiers sees: leading columns as their number, which needs no copy of rows."""
        width = len(self.columns)
        is_leading = np.array_equal(self.columns, np.arange(width))
        return width if is_leading else torch.from_numpy(self.columns)


def read_variants(
    dims: int | Sequence[int] | None, blocks: Sequence[Sequence[int]] | None, dim: int, *, prefix: str = ""
) -> list[Variant]:
    """Return the feature variants that blocks of columns make, the narrowest first.

    Raises
    ------
    InputError
        The widths don't make D, or a variant names a block that isn't there or one twice; parameters are
        called by their names behind ``prefix``.
    """
    widths = check_dims(dims, dim, name=f"{prefix}dims")
    name = f"{prefix}blocks"
    check({name: BLOCKS}, **{name: blocks})
    if blocks is None:
        blocks = [range(number + 1) for number in range(len(widths))]
    ends = np.cumsum(widths)
    variants = []
    for chosen in ([int(number) for number in variant] for variant in blocks):
        if max(chosen) >= len(widths) or len(set(chosen)) < len(chosen):
            raise InputError(
                f"{name} has the variant {chosen}, but there are {len(widths)} blocks of columns, numbered "
                f"from 0; name each at most once, or set {prefix}dims"
            )
        columns = [np.arange(ends[number] - widths[number], ends[number]) for number in sorted(chosen)]
        variants.append(Variant(tuple(widths[number] for number in sorted(chosen)), np.concatenate(columns)))
    return sorted(variants, key=lambda variant: len(variant.columns))


def _read_rates(learning_rates: Sequence[float] | str | None, batch_size: int) -> list[float]:
    """Return the rates of a grid, those of DINOv2 as they are for this batch."""
    if isinstance(learning_rates, str):
        return [rate * batch_size / _DINOV2_BATCH for rate in DINOV2_RATES]
    return [float(rate) for rate in (LEARNING_RATES if learning_rates is None else learning_rates)]


def _plan(n_samples: int, batch_size: int | None, n_iterations: int | None) -> tuple[int, int]:
    """Return batch size and number of steps, chosen where they are open."""
    if batch_size is None:
        batch_size = 2 ** round(math.log2(min(max(n_samples / 16, _SMALLEST_BATCH), _LARGEST_BATCH)))
    check_integer(batch_size=batch_size)
    batch_size = min(batch_size, n_samples)
    if n_iterations is None:
        n_iterations = min(PAPER_ITERATIONS, _LEAST_ITERATIONS + _PASSES * (n_samples // batch_size))
    check_integer(n_iterations=n_iterations)
    return batch_size, n_iterations


def count_operations(
    shape: Shape,
    n_clusters: int,
    n_iterations: int | None = None,
    learning_rates: Sequence[float] | str | None = None,
) -> int:
    """Return the floating-point operations that :func:`fit_self_training` is expected to make.

    By the batches and steps of its plan, but for the rounding of a batch to a power of two, and as if there
    were one feature variant.
    """
    batch = min(shape.n_samples, max(_SMALLEST_BATCH, min(_LARGEST_BATCH, shape.n_samples // 16)))
    steps = n_iterations or min(PAPER_ITERATIONS, _LEAST_ITERATIONS + _PASSES * (shape.n_samples // batch))
    # Every rate of the grid and the chosen one again, each a product forward and one backward.
    n_rates = len(_read_rates(learning_rates, batch))
    return (n_rates + 1) * 2 * 2 * steps * batch * shape.n_features * n_clusters


def _hold_out(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the held-out samples and of the others; a single sample is both."""
    if len(labels) < 2:
        return torch.arange(len(labels)), torch.arange(len(labels))
    held = deal_folds(labels, min(HELD_OUT, len(labels)), seed) == 0
    return torch.nonzero(held)[:, 0], torch.nonzero(~held)[:, 0]
