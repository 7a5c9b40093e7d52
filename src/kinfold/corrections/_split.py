"""Clustering one group of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections._changes import SplitParts
from kinfold.corrections._edits import Split
from kinfold.corrections._state import State
from kinfold.errors import InputError

if TYPE_CHECKING:
    from kinfold.features import RowMatrix
    from kinfold.run import Run

MOST_PARTS = 1000
_SEED = 0
_FIT_ROWS = 50_000  # of a larger group, so many are clustered and the others follow


def split_group(run: Run, state: State, edit: Split, *, source: str | Path | None = None) -> SplitParts:
    """Cluster the unmarked images of a group by spherical k-means into ``edit.n_clusters`` parts.

    The same state gives the same parts: the seed is fixed. The largest part is part 0, which keeps the
    group's number; the others follow by size. Of groups above 50,000 images so many are drawn for the
    centres, and the others go to the closest one.

    Parameters
    ----------
    run : Run
        The run, whose features are read for the group's images alone.
    state : State
        Which images the group has.
    edit : Split
        Group and number of parts.
    source : path, optional
        Where the features are now, if they were moved.

    Raises
    ------
    InputError
        The group is locked or gone, has fewer images than parts, its images don't differ, or the features
        aren't there.
    """
    n_parts = edit.n_clusters
    if isinstance(n_parts, bool) or not isinstance(n_parts, int) or not 2 <= n_parts <= MOST_PARTS:
        raise InputError(f"a group is split into 2 to {MOST_PARTS} parts, not {n_parts!r}")
    group = state.group(edit.group)
    if group.locked:
        raise InputError(f"group {group.id} is locked; unlock it first")
    places = np.flatnonzero((state.labels == group.id) & (state.marks == 0))
    if len(places) < n_parts:
        raise InputError(f"group {group.id} has {len(places)} images; it can't become {n_parts} groups")
    matrix = run.features(source).matrix(run.manifest.features["variant"])
    parts = _cluster(matrix, places, n_parts)
    if parts.max() == 0:
        raise InputError(f"the images of group {group.id} are too much alike to be split")
    rows = run.assignments["row"].to_numpy()
    return SplitParts(group.id, rows[places], parts)


def _cluster(matrix: RowMatrix, places: NDArray[np.int64], n_parts: int) -> NDArray[np.int32]:
    """Return the part of every place, parts ordered by size, none empty."""
    from kinfold.methods import SphericalKMeans

    drawn = places
    if len(places) > _FIT_ROWS:
        random = np.random.default_rng(_SEED)
        drawn = np.sort(random.choice(places, max(_FIT_ROWS, n_parts), replace=False))
    model = SphericalKMeans(n_clusters=n_parts, random_state=_SEED).fit(np.asarray(matrix[drawn]))
    labels = model.labels_
    if drawn is not places:
        pieces = np.array_split(places, -(-len(places) // _FIT_ROWS))
        labels = np.concatenate([model.predict(np.asarray(matrix[piece])) for piece in pieces])
    sizes = np.bincount(labels, minlength=n_parts)
    rank = np.empty(n_parts, np.int32)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(n_parts)
    parts: NDArray[np.int32] = rank[labels]
    return parts
