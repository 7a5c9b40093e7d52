"""Names of groups: the words that a group says, and that say the group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.compute import resolve_device
from kinfold.errors import InputError
from kinfold.hierarchy import WordNet, load_wordnet
from kinfold.language._choice import CLIP_LOGIT_SCALE
from kinfold.language._groups import read_groups
from kinfold.language._names import ClusterName, ClusterNames, Name, choose_names
from kinfold.language._senses import SenseChooser
from kinfold.language._words import find_words
from kinfold.language.space import unit_rows
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix, SelectedRows, as_row_matrix

__all__ = ["ClusterName", "ClusterNames", "Name", "name_clusters"]

N_NAMES = 5
N_CANDIDATES = 64
N_RIVALS = 5
MIN_SEPARATION = 0.6

_IMAGES_PER_GROUP = 256  # that separations are measured on


def name_clusters(
    X: ArrayLike | RowMatrix,
    labels: ArrayLike,
    n_clusters: int,
    noun_features: ArrayLike | RowMatrix,
    nouns: Sequence[str],
    *,
    n_names: int = N_NAMES,
    n_candidates: int = N_CANDIDATES,
    n_rivals: int = N_RIVALS,
    logit_scale: float | None = None,
    min_separation: float = MIN_SEPARATION,
    wordnet: WordNet | None = None,
    device: str = "auto",
    random_state: int = 0,
    progress: Progress = SILENT,
) -> ClusterNames:
    """Find the words that fit each group of images and tell it from the groups beside it.

    The nouns closest to a group's centre are ranked by ``log p(noun | group) + log p(group | noun)``: a
    softmax of ``logit_scale`` times the cosine over all nouns, and one over the group and its rivals. Of
    these, words stay that separate images of the group from images of its rivals, better than
    ``min_separation`` and better than some word would separate a random group of this size (see
    docs/methods.md). A group where no word stays has no name.

    Parameters
    ----------
    X : array-like or row matrix (N, D)
        Image features in the joint space, of any length; read in blocks. Rows of zeros are left out.
    labels : array-like of int (N,)
        Group of each row, 0 … K − 1; −1 for none.
    n_clusters : int
        K. Groups may be empty.
    noun_features : array-like or row matrix (V, D)
        Features of the nouns in the same space; read in blocks.
    nouns : sequence of str (V,)
        The nouns. One that stands twice counts once, by its first features.
    n_names : int, default 5
        Words per group at most.
    n_candidates : int, default 64
        Words of highest cosine with the centre that are looked at.
    n_rivals : int, default 5
        Closest other groups that a word must tell the group from.
    logit_scale : float, optional
        Factor of cosines in both softmaxes: the text encoder's. CLIP's, 100, if not given.
    min_separation : float, default 0.6
        The least that counts, in [0, 1]. 0 asks for nothing: the best words of every group that has images.
    wordnet : WordNet, optional
        Where senses and paths are from; the package's if not given.
    device : str, default "auto"
        Where to compute.
    random_state : int, default 0
        Seed of the choice of 256 images for each larger group, which separations are measured on.
    progress : Progress
        Shows the work.

    Returns
    -------
    ClusterNames
        A permutation of rows, or of the groups' numbers, permutes it and changes nothing else.

    Raises
    ------
    InputError
        Shapes or widths don't fit, a noun has no direction, a row isn't finite, or a parameter is out of
        range.
    """
    scale = CLIP_LOGIT_SCALE if logit_scale is None else logit_scale
    _check_parameters(n_clusters, n_names, n_candidates, n_rivals, scale, min_separation)
    if isinstance(random_state, bool) or not isinstance(random_state, int | np.integer) or random_state < 0:
        raise InputError(f"random_state must be a whole number of at least 0, not {random_state!r}")
    where = resolve_device(device)
    matrix = as_row_matrix(X)
    numbers = _check_labels(labels, int(matrix.shape[0]), n_clusters)
    words, features = _distinct(nouns, as_row_matrix(noun_features))
    rows = unit_rows(features, where, name="nouns")
    if rows.dim != matrix.shape[1]:
        raise InputError(
            f"the images have {matrix.shape[1]} dimensions, the nouns {rows.dim}: both must come from the "
            "same vision-language model"
        )
    groups = read_groups(
        matrix,
        numbers,
        n_clusters,
        n_samples=_IMAGES_PER_GROUP,
        seed=random_state,
        device=where,
        progress=progress,
    )
    found = find_words(groups, matrix, rows, n_candidates, n_rivals, float(scale), progress)
    chooser = SenseChooser(words, rows, wordnet or load_wordnet())
    parameters = {
        "n_names": n_names,
        "n_candidates": n_candidates,
        "n_rivals": n_rivals,
        "logit_scale": float(scale),
        "min_separation": float(min_separation),
        "random_state": random_state,
    }
    return ClusterNames(choose_names(groups, found, chooser, n_names, min_separation), parameters)


def _distinct(nouns: Sequence[str], features: RowMatrix) -> tuple[tuple[str, ...], RowMatrix]:
    """Return the nouns, each once, with their features."""
    if isinstance(nouns, str) or not all(isinstance(noun, str) for noun in nouns):
        raise InputError("nouns must be a list of words")
    if len(nouns) != features.shape[0]:
        raise InputError(f"there are {len(nouns)} nouns and {features.shape[0]} features of nouns")
    first: dict[str, int] = {}
    for number, noun in enumerate(nouns):
        first.setdefault(noun, number)
    if len(first) == len(nouns):
        return tuple(nouns), features
    return tuple(first), SelectedRows(features, np.fromiter(first.values(), np.int64))


def _check_labels(labels: ArrayLike, n_rows: int, n_clusters: int) -> NDArray[np.int64]:
    array = np.asarray(labels)
    if array.shape != (n_rows,) or array.dtype.kind not in "iu":
        raise InputError(f"labels must be {n_rows} integers, got {array.dtype} {array.shape}")
    if not -1 <= array.min() <= array.max() < n_clusters:
        raise InputError(f"labels must lie in -1 … {n_clusters - 1}, got {array.min()} … {array.max()}")
    return array.astype(np.int64)


def _check_parameters(
    n_clusters: int, n_names: int, n_candidates: int, n_rivals: int, scale: Any, min_separation: Any
) -> None:
    counts = {
        "n_clusters": n_clusters,
        "n_names": n_names,
        "n_candidates": n_candidates,
        "n_rivals": n_rivals,
    }
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    if isinstance(scale, bool) or not isinstance(scale, Real) or not 0 < float(scale) < math.inf:
        raise InputError(f"logit_scale must be a positive number, not {scale!r}")
    if not isinstance(min_separation, Real) or not 0 <= float(min_separation) <= 1:
        raise InputError(f"min_separation must lie between 0 and 1, not {min_separation!r}")
