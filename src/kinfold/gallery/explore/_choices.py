"""Second choices: which group an image would be in, were it not in its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections import State
from kinfold.gallery.explore._columns import Columns

N_BORDERS = 8
N_SHOWN = 8
_SAMPLE = 200_000
_MOST_COLUMNS = 512
_SPREAD = 2_654_435_761  # Knuth's multiplicative hash


@dataclass(frozen=True)
class Border:
    """A group that another one borders on.

    Attributes
    ----------
    group : int
        The neighbour.
    n : int
        Images of the group whose second choice it is.
    share : float
        Their share of the group, in [0, 1].
    places : tuple of int
        The most doubtful of them, at most eight.
    """

    group: int
    n: int
    share: float
    places: tuple[int, ...]


class Choices:
    """The run's best groups of every image, as the corrections left them.

    Parameters
    ----------
    columns : Columns
        The run's images.
    labels : ndarray of int32, shape (n,)
        The run's own groups.
    """

    def __init__(self, columns: Columns, labels: NDArray[np.int32]) -> None:
        self._columns = columns
        self._labels = labels
        self._heirs: tuple[int, NDArray[np.int32]] | None = None

    def heirs(self, state: State) -> NDArray[np.int32]:
        """Return what became of the run's groups: one that was merged away is part of another now."""
        kept = self._heirs
        if kept is not None and kept[0] == state.version:
            return kept[1]
        n_groups = max(state.groups, default=-1) + 1
        heirs = np.arange(n_groups, dtype=np.int32)
        for group in state.groups.values():
            if not group.alive:
                members = state.labels[self._labels == group.id]
                heirs[group.id] = np.bincount(members).argmax() if len(members) else -1
        self._heirs = (state.version, heirs)
        return heirs

    def second(
        self, state: State, places: NDArray[np.integer]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the best group of some images besides their own, and its probability; −1 and 0 for none."""
        groups = self.heirs(state)[self._columns.top[places]]
        other = (groups != state.labels[places][:, None]) & (groups >= 0)
        first = other.argmax(axis=1)[:, None]
        found = np.take_along_axis(groups, first, 1)[:, 0]
        probabilities = np.take_along_axis(self._columns.probabilities[places], first, 1)[:, 0]
        none = ~other.any(axis=1)
        found[none], probabilities[none] = -1, 0
        return found, probabilities

    def borders(self, state: State, group: int) -> list[Border]:
        """Return the groups that most images of a group have as their second choice."""
        places = np.flatnonzero((state.labels == group) & (state.marks == 0))
        second, probabilities = self.second(state, places)
        counts = np.bincount(second[second >= 0])
        found = []
        for other in np.argsort(-counts, kind="stable")[:N_BORDERS]:
            if not counts[other]:
                break
            chosen = second == other
            closest = np.argsort(-probabilities[chosen], kind="stable")[:N_SHOWN]
            shown = tuple(places[chosen][closest].tolist())
            found.append(Border(int(other), int(counts[other]), float(counts[other] / len(places)), shown))
        return found

    def profiles(self, state: State, groups: list[int]) -> NDArray[np.float32]:
        """Return for each group how its images' probabilities lie among all groups, as unit rows.

        At most 200,000 images, evenly spread, are looked at; above 512 groups the groups are hashed into as
        many columns, which keeps alike rows alike.
        """
        n, width = len(self._columns), min(len(groups), _MOST_COLUMNS)
        places = np.arange(0, n, max(1, n // _SAMPLE))
        number = np.full(max(state.groups, default=-1) + 2, -1, np.int64)
        number[groups] = np.arange(len(groups))
        owners = number[state.labels[places]]
        heirs = number[self.heirs(state)[self._columns.top[places]]]
        profile = np.zeros((len(groups), max(1, width)), np.float32)
        for k in range(heirs.shape[1]):
            known = heirs[:, k] >= 0
            at = (owners[known], heirs[known, k] * _SPREAD % width)
            np.add.at(profile, at, self._columns.probabilities[places, k][known])
        norms = np.linalg.norm(profile, axis=1, keepdims=True)
        return np.asarray(profile / np.where(norms > 0, norms, 1), np.float32)
