"""The groups of images at the level that a run shows, and at further ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinfold.levels._files import RunLevels, open_levels
from kinfold.levels._levels import Levels
from kinfold.methods import TopClusters, predict_top
from kinfold.methods.protocol import Clusterer
from kinfold.rows import RowMatrix
from kinfold.run import Run
from kinfold.validation import check_integer


def check_levels(levels: Sequence[int]) -> tuple[int, ...]:
    """Return numbers of groups from coarse to fine, each once; a run may have none of them.

    Raises
    ------
    InputError
        One isn't a number of groups.
    """
    for n_groups in levels:
        check_integer(1, levels=n_groups)
    return tuple(sorted({int(n_groups) for n_groups in levels}))


def open_tree(run: Run, levels: Sequence[int]) -> RunLevels | None:
    """Open the levels of a run where they are needed: it shows another than the fit's, or some are asked for.

    Raises
    ------
    InputError
        There is none of a number of groups that is asked for.
    """
    wanted = check_levels(levels)
    if run.level is None and not wanted:
        return None
    tree = open_levels(run)
    for n_groups in wanted:
        tree.levels.check(n_groups)
    return tree


def label_levels(run: Run, levels: Sequence[int]) -> dict[int, NDArray[np.int32]]:
    """Return the group of every usable image (N,) by level, from coarse to fine."""
    tree = open_tree(run, levels)
    return {} if tree is None else {n_groups: tree.labels(n_groups) for n_groups in check_levels(levels)}


@dataclass(frozen=True)
class Placing:
    """How new images get their groups, before any correction.

    Attributes
    ----------
    level : int or None
        The level that the run shows; None is that of the fit.
    tree : Levels or None
        Its levels, where they are needed.
    levels : tuple of int
        Further levels, from coarse to fine.
    """

    level: int | None
    tree: Levels | None
    levels: tuple[int, ...] = ()

    @classmethod
    def of(cls, run: Run, levels: Sequence[int] = ()) -> Placing:
        """Read what is needed of a run; :class:`InputError` if it has no level of ``levels``."""
        tree = open_tree(run, levels)
        return cls(run.level, None if tree is None else tree.levels, check_levels(levels))

    def place(self, model: Clusterer, matrix: RowMatrix, n_top: int = 1) -> TopClusters:
        """Return the best groups of every row at the level that the run shows, with their probabilities."""
        if self.level is None or self.tree is None:
            return predict_top(model, matrix, n_top=n_top)
        return self.tree.top(model, matrix, self.level, n_top=n_top)

    def columns(self, model: Clusterer, matrix: RowMatrix) -> dict[int, NDArray[np.int32]]:
        """Return the group of every row at each of the further levels, by their numbers of groups."""
        if self.tree is None or not self.levels:
            return {}
        parts = self.tree.predict_parts(model, matrix)
        return {n_groups: self.tree.groups(n_groups)[parts] for n_groups in self.levels}
