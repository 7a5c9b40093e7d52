"""Text space of a set of images: select the nouns that tell them apart, and map images to these nouns.

Everything works on the vectors of a joint space and goes over them in blocks, so that memory is bounded by
the blocks and by what is returned.

References
----------
Li, Hu, Peng, Lv, Peng (2024), "Image Clustering with External Guidance" (TAC), section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from kinfold.compute import resolve_device
from kinfold.errors import InputError
from kinfold.language._choice import check_widths
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix, as_row_matrix
from kinfold.rows.readers import UnitRows
from kinfold.validation import Number, check, check_integer

# The paper's values: N / 300 centres, γ = 5, τ̃ = 0.005.
SAMPLES_PER_CENTRE = 300
NOUNS_PER_CENTRE = 5
RETRIEVAL_TEMPERATURE = 0.005

_FEW_PER_CLUSTER = 3  # centres per cluster where N / 300 would give too few to tell clusters apart
# Similarities that are computed at once: on a CPU what its caches hold, on a GPU what keeps it busy.
_CPU_BLOCK_BYTES = 32 << 20
_GPU_BLOCK_BYTES = 512 << 20
_CPU_COLUMNS = (
    512  # centres per product on a CPU: a piece of similarities stays in the cache until it is read
)
_MOST_ROWS = 8192  # few centres would make blocks of millions of rows, whose features alone are gigabytes


@dataclass(frozen=True)
class NounSelection:
    """The nouns that tell image centres apart best, by descending confidence.

    Attributes
    ----------
    indices : ndarray (M,) int64
        Which of the nouns, each once.
    centres : ndarray (M,) int64
        The centre that each was kept for.
    confidences : ndarray (M,) float32
        Probability of that centre, in (0, 1], descending.
    """

    indices: NDArray[np.int64]
    centres: NDArray[np.int64]
    confidences: NDArray[np.float32]


def count_centres(n_samples: int, n_clusters: int, *, samples_per_centre: float = SAMPLES_PER_CENTRE) -> int:
    """Return k̂, the number of image centres that nouns are selected for.

    N / 300 rounded to the nearest, or three per cluster where clusters have fewer than 300 samples on
    average; at least 1 and at most N.

    Parameters
    ----------
    n_samples, n_clusters : int
        N and K.
    samples_per_centre : float, default 300
        Samples that one centre, and so one set of nouns, should stand for.

    Examples
    --------
    >>> count_centres(50_000, 10), count_centres(9_537, 101), count_centres(1_281_167, 1000)
    (167, 303, 4271)
    """
    if n_samples < samples_per_centre * n_clusters:
        wanted = _FEW_PER_CLUSTER * n_clusters
    else:
        wanted = math.floor(n_samples / samples_per_centre + 0.5)
    return max(1, min(wanted, n_samples))


def select_nouns(
    nouns: ArrayLike | RowMatrix,
    centres: ArrayLike,
    *,
    per_centre: int = NOUNS_PER_CENTRE,
    device: str = "auto",
    progress: Progress = SILENT,
) -> NounSelection:
    """Return the nouns that stand for image centres best.

    Every noun is classified to the centres by a softmax over its cosines with them; it belongs to the most
    probable one, the first of equals. Every centre keeps the ``per_centre`` nouns of its own that are surest,
    the first of equals. A centre that no noun belongs to keeps none.

    Parameters
    ----------
    nouns : array-like or row matrix (V, D)
        Features of nouns in the joint space, of any length; read in blocks.
    centres : array-like (k, D)
        Centres of images.
    per_centre : int, default 5
        γ.
    device : str, default "auto"
        Where to compute.
    progress : Progress
        Shows nouns.

    Returns
    -------
    NounSelection

    Raises
    ------
    InputError
        Widths differ, a noun or a centre is zero or not finite, or ``per_centre`` is less than 1.
    """
    check_integer(per_centre=per_centre)
    where = resolve_device(device)
    rows = unit_rows(nouns, where, name="nouns")
    targets = _all_rows(unit_rows(centres, where, name="centres"))
    check_widths(rows.dim, targets.shape[1], "the nouns", "the centres")
    belongs = np.empty(rows.n_rows, np.int64)
    confidence = np.empty(rows.n_rows, np.float32)
    with progress.task("Selecting nouns", rows.n_rows, "nouns") as task:
        for start, block in _blocks(rows, len(targets), where):
            stop = start + len(block)
            best, sure = _classify(block, targets)
            belongs[start:stop] = best.cpu().numpy()
            confidence[start:stop] = sure.cpu().numpy()
            task.advance(stop - start)
    kept = _surest(belongs, confidence, per_centre)
    order = kept[np.argsort(-confidence[kept], kind="stable")]
    return NounSelection(order, belongs[order], confidence[order])


def text_counterparts(
    X: ArrayLike | RowMatrix,
    nouns: ArrayLike,
    *,
    temperature: float = RETRIEVAL_TEMPERATURE,
    out: NDArray[np.float32] | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> NDArray[np.float32]:
    """Return the text counterpart of every image: the mean of the nouns, weighted by how well they fit it.

    ``t̃ = normalise( Σ_j softmax_j( v · t_j / temperature ) t_j )``. A row of zeros, which has no direction,
    gets the mean of all nouns.

    Parameters
    ----------
    X : array-like or row matrix (N, D)
        Image features of any length; read in blocks.
    nouns : array-like (M, D)
        Features of the nouns that were kept.
    temperature : float, default 0.005
        Of the softmax over nouns.
    out : ndarray (N, D) float32, optional
        Where to write, a memory map for instance.
    device : str, default "auto"
        Where to compute, in float32 whatever the device has units for: a rounding of the cosines would be
        multiplied by 200.
    progress : Progress
        Shows rows.

    Returns
    -------
    ndarray (N, D) float32
        Rows of unit length; ``out`` where it was given.

    Raises
    ------
    InputError
        Widths differ, a noun is zero or not finite, an image is not finite, or ``out`` has another shape.
    """
    check({"temperature": Number(above=0)}, temperature=temperature)
    where = resolve_device(device)
    kept = _all_rows(unit_rows(nouns, where, name="nouns"))
    rows = UnitRows(as_row_matrix(X), where)
    check_widths(rows.dim, kept.shape[1], "the images", "the nouns")
    shape = (rows.n_rows, rows.dim)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32:
        raise InputError(f"out must be float32 of shape {shape}, not {out.dtype} of {out.shape}")
    with progress.task("Describing images by words", rows.n_rows, "images") as task:
        for start, block in _blocks(rows, len(kept), where):
            counterparts = retrieve(block, kept, temperature)
            if not bool(torch.isfinite(counterparts).all()):
                raise InputError(f"rows {start} to {start + len(block) - 1} hold values that are not finite")
            out[start : start + len(block)] = counterparts.cpu().numpy()
            task.advance(len(block))
    return out


def retrieve(unit: Tensor, nouns: Tensor, temperature: float = RETRIEVAL_TEMPERATURE) -> Tensor:
    """Return the text counterparts (n, D) of unit rows (n, D), from unit nouns (M, D)."""
    # A row per noun: on CPUs products with a short last axis are faster, and there are more nouns than rows.
    weights = torch.mm(nouns, (unit / temperature).T.contiguous())
    weights = torch.softmax(weights, dim=0, out=weights)
    return functional.normalize(weights.T @ nouns, dim=1)


def unit_rows(matrix: ArrayLike | RowMatrix, device: torch.device, *, name: str) -> UnitRows:
    """Return vectors to be read at unit length; :class:`InputError` where one has no direction."""
    try:
        rows = UnitRows(as_row_matrix(matrix), device)
        rows.check()
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return rows


def _all_rows(rows: UnitRows) -> Tensor:
    return rows.read(0, rows.n_rows)


def _blocks(rows: UnitRows, n_columns: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, unit rows) in blocks of which similarities to ``n_columns`` take some MiB."""
    budget = _CPU_BLOCK_BYTES if device.type == "cpu" else _GPU_BLOCK_BYTES
    size = max(1, min(_MOST_ROWS, budget // (4 * max(n_columns, rows.dim))))
    for start in range(0, rows.n_rows, size):
        yield start, rows.read(start, min(rows.n_rows, start + size))


def _classify(block: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most probable centre of unit rows, the first of equals, and its probability."""
    peaks, places = [], []
    total = torch.zeros(len(block), device=block.device)
    # In pieces that caches hold: on CPUs products with a short last axis are faster.
    width = _CPU_COLUMNS if block.device.type == "cpu" else len(centres)
    for start in range(0, len(centres), width):
        similarities = block @ centres[start : start + width].T
        peak, place = similarities.max(dim=1)
        peaks.append(peak)
        places.append(place + start)
        # Cosines are at most 1, so that their exponentials need no shift.
        total += similarities.exp_().sum(dim=1)
    peak, piece_of = torch.stack(peaks).max(dim=0)
    best = torch.stack(places).gather(0, piece_of.unsqueeze(0)).squeeze(0)
    return best, peak.exp_().div_(total)


def _surest(belongs: NDArray[np.int64], confidence: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """Return the ascending numbers of the ``n`` surest members of every centre."""
    order = np.lexsort((-confidence, belongs))  # stable: the first of equals stays first
    sorted_centres = belongs[order]
    first = np.flatnonzero(np.r_[True, sorted_centres[1:] != sorted_centres[:-1]])
    rank = np.arange(len(order)) - np.repeat(first, np.diff(np.r_[first, len(order)]))
    kept: NDArray[np.int64] = np.sort(order[rank < n])
    return kept
