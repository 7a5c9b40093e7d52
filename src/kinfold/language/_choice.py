"""Zero-shot choices of many rows, each among its own set of candidate classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kinfold.errors import InputError
from kinfold.hierarchy import Links
from kinfold.progress import Progress
from kinfold.rows import RowMatrix, as_row_matrix
from kinfold.rows.readers import UnitRows
from kinfold.validation import Either, Nothing, Number, check

CLIP_LOGIT_SCALE = 100.0
"""What CLIP's logit scale is held at by the end of its training: the default where a model doesn't say."""

_LOGIT_SCALE = Either(Number(above=0), Nothing())
# Rows that are sorted by their candidates together: the more rows, the fewer and larger the products.
_BLOCK_BYTES = 128 << 20
# Rows, or their cosines, that are worked on at once: what caches and a few temporary copies hold.
_PIECE_BYTES = 16 << 20


class Chooser:
    """The candidate that lies closest to each row, and how sure that is.

    Rows that choose among the same candidates are compared in one product, and those that choose among as
    many are ranked together. Of candidates with equal text features the first one is chosen,
    whatever the rounding of their products.

    Parameters
    ----------
    texts : Tensor (K, D) float32
        Features of the classes, at unit length.
    sets : Links
        The candidates of every set, in the order in which equal ones are preferred.
    logit_scale : float
        Factor of the cosines in the softmax.
    """

    def __init__(self, texts: Tensor, sets: Links, logit_scale: float) -> None:
        self._sets = sets
        self._counts = sets.counts
        self._texts = texts[torch.from_numpy(sets.indices.astype(np.int64)).to(texts.device)]
        self._first = _first_alike(texts, sets)
        self._scale = logit_scale

    def choose(
        self, rows: Tensor, members: NDArray[np.int64], chosen_sets: NDArray[Any]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Choose for some of the rows.

        Parameters
        ----------
        rows : Tensor (n, D) float32
            Images, at unit length.
        members : ndarray (m,) int64
            Which of the rows choose.
        chosen_sets : ndarray (m,) of int
            The set that each of them chooses from; none is empty.

        Returns
        -------
        classes : ndarray (m,) int32
        probabilities : ndarray (m,) float32
            Of the chosen class, by the softmax over the set.
        """
        # By size and set: rows of one set share a product, and sets of one size one ranking.
        counts = self._counts[chosen_sets]
        order = np.lexsort((chosen_sets, counts))
        places = np.empty(len(order), np.int64)
        probabilities = np.empty(len(order), np.float32)
        for start, stop in _pieces(counts[order], rows.shape[1]):
            piece = order[start:stop]
            block = rows[torch.from_numpy(members[piece]).to(rows.device)]
            places[piece], probabilities[piece] = self._among(
                block, chosen_sets[piece], int(counts[piece[0]])
            )
        return self._sets.indices[self._first[places]], probabilities

    def _among(
        self, rows: Tensor, chosen_sets: NDArray[Any], n: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return places in ``sets.indices`` and probabilities of rows sorted by sets of ``n`` candidates."""
        links = self._sets.indptr[chosen_sets]
        starts = np.flatnonzero(np.r_[True, links[1:] != links[:-1]])
        ends = np.r_[starts[1:], len(links)]
        cosines = torch.empty((len(rows), n), dtype=rows.dtype, device=rows.device)
        for start, end, link in zip(starts.tolist(), ends.tolist(), links[starts].tolist(), strict=True):
            torch.mm(rows[start:end], self._texts[link : link + n].T, out=cosines[start:end])
        peak, best = cosines.max(dim=1, keepdim=True)
        total = cosines.sub_(peak).mul_(self._scale).exp_().sum(dim=1)
        return links + best[:, 0].cpu().numpy(), total.reciprocal_().cpu().numpy()


def check_logit_scale(logit_scale: float | None) -> float:
    """Return the factor of cosines, CLIP's for None; :class:`InputError` unless it is positive."""
    check({"logit_scale": _LOGIT_SCALE}, logit_scale=logit_scale)
    return CLIP_LOGIT_SCALE if logit_scale is None else float(logit_scale)


def check_labels(labels: ArrayLike, n_rows: int, n_classes: int) -> NDArray[Any]:
    """Return labels as an array, checked to be ``n_rows`` integers from −1 to ``n_classes`` − 1."""
    array = np.asarray(labels)
    if array.shape != (n_rows,) or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"labels must be {n_rows} integers, got {array.dtype} {array.shape}")
    if n_rows and not -1 <= array.min() <= array.max() < n_classes:
        raise InputError(f"labels must lie in -1 … {n_classes - 1}, got {array.min()} … {array.max()}")
    return array


def unit_texts(class_features: ArrayLike | RowMatrix, n_classes: int | None, device: torch.device) -> Tensor:
    """Return one feature per class at unit length, (K, D) float32, checked; ``n_classes`` if it is known."""
    matrix = as_row_matrix(class_features)
    n_texts = int(matrix.shape[0])
    if n_classes is not None and n_texts != n_classes:
        raise InputError(f"there are {n_classes} classes, but features of {n_texts}")
    texts = UnitRows(matrix, device).read(0, n_texts)
    check_directions(texts, range(n_texts), "class")
    return texts


def unit_images(X: ArrayLike | RowMatrix, dim: int, device: torch.device) -> UnitRows:
    """Return image features to be read at unit length; :class:`InputError` for another width than ``dim``."""
    matrix = as_row_matrix(X)
    check_widths(int(matrix.shape[1]), dim, "the features", "the texts")
    return UnitRows(matrix, device)


def check_widths(first: int, second: int, first_name: str, second_name: str) -> None:
    """Raise :class:`InputError` unless two kinds of features have the same number of dimensions."""
    if first != second:
        raise InputError(
            f"{first_name} have {first} dimensions, {second_name} {second}: "
            "both must come from the same vision-language model"
        )


def read_blocks(
    images: UnitRows, wanted: NDArray[np.int64], title: str, progress: Progress
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield ascending rows in large blocks: their numbers, and what they hold at unit length.

    Raises
    ------
    InputError
        A row is zero or not finite; the message has its index.
    """
    size = max(1, _BLOCK_BYTES // (4 * images.dim))
    step = max(1, _PIECE_BYTES // (4 * images.dim))
    with progress.task(title, len(wanted), "images") as task:
        for start in range(0, len(wanted), size):
            numbers = wanted[start : start + size]
            block = torch.empty((len(numbers), images.dim), dtype=torch.float32, device=images.device)
            for first in range(0, len(numbers), step):
                block[first : first + step] = images.take(numbers[first : first + step])
            check_directions(block, numbers, "row")
            yield numbers, block
            task.advance(len(numbers))


def check_directions(rows: Tensor, numbers: Sequence[int] | NDArray[Any], what: str) -> None:
    """Raise :class:`InputError` with the index of the first row that is zero or not finite."""
    # Scaled rows have length 1, rows of zeros 0, and rows that aren't finite NaN: 0.5 tells them apart.
    wrong = ~(torch.linalg.vector_norm(rows, dim=1) > 0.5)
    if bool(wrong.any()):
        number = int(numbers[int(wrong.nonzero()[0])])
        raise InputError(f"{what} {number} has no direction: it is zero or not finite")


def _pieces(counts: NDArray[np.int64], dim: int) -> Iterator[tuple[int, int]]:
    """Yield slices of ascending counts in which all are alike, of bounded size."""
    edges = np.r_[np.flatnonzero(np.r_[True, counts[1:] != counts[:-1]]), len(counts)]
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        size = max(1, _PIECE_BYTES // (4 * max(dim, int(counts[start]))))
        for first in range(start, stop, size):
            yield first, min(stop, first + size)


def _first_alike(texts: Tensor, sets: Links) -> NDArray[np.int64]:
    """Return for every place in ``sets.indices`` the first in the same set with an equal text feature."""
    seen: dict[bytes, int] = {}
    # By bytes: features of equal texts are equal to the bit, while their products may differ in rounding.
    alike = np.array([seen.setdefault(text.tobytes(), i) for i, text in enumerate(texts.cpu().numpy())])
    keys = sets.owners * len(alike) + alike[sets.indices]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    places: NDArray[np.int64] = first[inverse]
    return places
