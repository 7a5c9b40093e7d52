"""The levels of a run for the page: previews of other numbers of groups, and the tree, with some pictures."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections import MARKS, State, reshaped
from kinfold.errors import InputError
from kinfold.gallery._curve import Curve, read_curve
from kinfold.gallery.explore._columns import Columns
from kinfold.gallery.explore._errors import NotFoundError
from kinfold.run import Run

if TYPE_CHECKING:
    from kinfold.levels import Levels

N_PICTURES = 8  # of a group at a level, as on the card of a group
N_TREE_PICTURES = 5
SUGGESTED_FACTOR = 1.6  # between one suggested number of groups and the next
TREE_FACTOR = 2.0  # between one layer of the tree and the next
_N_STEPS = 160  # positions of the slider, about: the width of a phone
_MOST_NAMED = 6  # groups that a preview or a node names, of those it comes from
_KEPT = 48  # levels whose parts are kept: 16 kB each at most

SAME, PART, JOIN = "same", "part", "join"

_WRONG, _NOISE = (1 + MARKS.index(mark) for mark in ("wrong", "noise"))  # codes of State.marks


@dataclass(frozen=True, eq=False)
class _Parts:
    """What is read of a run's levels once: the tree, the part of every image, and each part's best images."""

    levels: Levels
    of_image: NDArray[np.int32]
    best: NDArray[np.int32]
    curve: Curve | None


@dataclass(frozen=True, eq=False)
class _Edited:
    """Images of every part (M,) but noise, and some of them apart: columns of part, group of now, and number.

    ``moved`` are in another group than that of their part, ``wrong`` are marked so. Groups whose images are
    other ones since they were merged, split or made by hand are left out: no level has them.
    """

    sizes: NDArray[np.int64]
    moved: NDArray[np.int64]
    wrong: NDArray[np.int64]

    @classmethod
    def of(cls, state: State, of_image: NDArray[np.int32], now: NDArray[np.int32]) -> _Edited:
        counts = np.isin(np.arange(max(state.groups) + 1), now)
        counts[sorted(reshaped(state))] = False
        known = counts[state.labels]

        def table(which: NDArray[np.bool_]) -> NDArray[np.int64]:
            pairs = np.stack([of_image[which], state.labels[which]]).astype(np.int64)
            unique, n = np.unique(pairs, axis=1, return_counts=True)
            return np.vstack([unique, n[None]])

        return cls(
            np.bincount(of_image[state.marks != _NOISE], minlength=len(now)),
            table(known & (state.marks == 0) & (state.labels != now[of_image])),
            table(known & (state.marks == _WRONG)),
        )


@dataclass(frozen=True, eq=False)
class _Level:
    """The groups of a level as sets of parts, beside the groups that the run has now.

    Groups stand in the order of the first group that they share images with, then by size, the largest
    first, so that the parts of a group are neighbours.
    """

    ids: NDArray[np.int32]
    members: Mapping[int, NDArray[np.int64]]

    def place_of(self, group: int) -> NDArray[np.int64]:
        found = self.members.get(group)
        if found is None:
            raise NotFoundError(f"there is no group {group} at this level")
        return found


class LevelViews:
    """Levels of a run. All threads may share one.

    Nothing of a level is as long as the images, except their parts, which are read once: previews and nodes
    of the tree are made of at most 4,096 parts.

    Parameters
    ----------
    run : Run
        The run.
    columns : Columns
        Its images.
    """

    def __init__(self, run: Run, columns: Columns) -> None:
        self._run = run
        self._columns = columns
        self._guard = threading.Lock()
        self._kept: OrderedDict[int, NDArray[np.int32]] = OrderedDict()
        self._edited: tuple[int, _Edited] | None = None

    @property
    def are_there(self) -> bool:
        """Tell whether the run has levels; those of older versions of Kinfold have none."""
        return "levels" in self._run.manifest.stages

    @property
    def shown(self) -> int:
        """Number of groups with images of the level that the run shows."""
        return self._run.level or self._parts.levels.n_live

    @property
    def fitted(self) -> int:
        """Number of groups with images of the fit."""
        return self._parts.levels.n_live

    @property
    def n_parts(self) -> int:
        """Number of groups of the finest level."""
        return self._parts.levels.n_parts

    @property
    def curve(self) -> Curve | None:
        """How the number of groups was estimated; None where it wasn't."""
        return self._parts.curve

    def suggested(self) -> list[int]:
        """Return the numbers of groups that the buttons go to, ascending."""
        curve = self.curve
        found = {*space_numbers(2, self.n_parts, SUGGESTED_FACTOR), self.fitted, self.shown}
        if curve is not None:
            found.update((*curve.candidates, *(n for n in (curve.chosen, curve.recommended) if n)))
        return sorted(n for n in found if self._has(n))

    def steps(self) -> list[int]:
        """Return the numbers of groups that the slider goes through, ascending, about evenly by ratio."""
        factor = self.n_parts ** (1 / _N_STEPS)
        return sorted(n for n in {*space_numbers(2, self.n_parts, factor), *self.suggested()} if self._has(n))

    def _has(self, n_groups: int) -> bool:
        """Tell whether there is a level of so many groups with images; the fit's may have empty ones."""
        levels = self._parts.levels
        return 1 <= n_groups <= levels.n_parts and n_groups not in {levels.n_clusters} - {levels.n_live}

    def preview(self, state: State, n_groups: int, was: int | None = None) -> LevelPreview:
        """Return the groups of a level, beside those of now.

        Parameters
        ----------
        state : State
            The groups as corrected: names and marks are taken from it.
        n_groups : int
            The level.
        was : int, optional
            Another level, of which each group's own are given too: the page moves cards from there.

        Raises
        ------
        InputError
            There is no such level.
        """
        return LevelPreview(self, state, n_groups, was)

    def groups(self, n_groups: int) -> NDArray[np.int32]:
        """Return the group of every part at a level, kept for the next request."""
        with self._guard:
            if n_groups in self._kept:
                self._kept.move_to_end(n_groups)
                return self._kept[n_groups]
        levels = self._parts.levels
        if not self._has(n_groups):
            raise InputError(f"this run has levels of 1 to {levels.n_parts} groups, none of {n_groups}")
        found = levels.part_clusters if n_groups == levels.n_live else levels.groups(n_groups)
        with self._guard:
            self._kept[n_groups] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def sizes(self, state: State, n_groups: int) -> NDArray[np.int64]:
        """Return how many images of every part count at a level: in sums over its groups.

        Images that were put into a group of now count with the first part of that group, where one group of
        the level holds all of it; a level that divides it takes no notice of them, as ``kinfold level`` does.
        Images that are of no group count nowhere, those that aren't of their group count where it isn't that.
        """
        edited, now, groups = self._count(state), self.groups(self.shown), self.groups(n_groups)
        pairs = np.unique(np.stack([now, groups]), axis=1)
        first = np.full(int(now.max()) + 1, -1)
        parts = np.arange(len(now))[::-1]
        first[now[parts]] = parts  # the last assignment stays: the lowest part
        whole = np.bincount(pairs[0], minlength=len(first)) == 1
        alone = np.bincount(pairs[1])[groups] == 1
        found = edited.sizes.copy()
        part, group, count = edited.moved[:, whole[edited.moved[1]]]
        np.subtract.at(found, part, count)
        np.add.at(found, first[group], count)
        part, group, count = edited.wrong
        out = whole[group] & alone[first[group]] & (groups[part] == groups[first[group]])
        np.subtract.at(found, part[out], count[out])
        return found

    def _count(self, state: State) -> _Edited:
        with self._guard:
            if self._edited is not None and self._edited[0] == state.version:
                return self._edited[1]
        found = _Edited.of(state, self._parts.of_image, self.groups(self.shown))
        with self._guard:
            self._edited = state.version, found
        return found

    def pictures(self, parts: NDArray[np.integer], groups: NDArray[np.int32], n: int) -> list[int]:
        """Return the rows of the most confident images of some parts, of each of their groups in turn."""
        places = self._parts.best[parts].ravel()
        owners = np.repeat(groups, N_PICTURES)[places >= 0]
        places = places[places >= 0]
        order = np.lexsort((places, -self._columns.confidence[places], owners))
        starts = np.searchsorted(owners[order], owners[order])
        turns = np.arange(len(order)) - starts  # the first of every group, then the second of every one
        chosen = order[np.lexsort((-self._columns.confidence[places[order]], turns))][:n]
        rows: list[int] = self._columns.rows[places[chosen]].tolist()
        return rows

    @cached_property
    def _parts(self) -> _Parts:
        from kinfold.levels import open_levels  # loads PyTorch, which isn't needed to start the server

        if not self.are_there:
            raise NotFoundError("this run has no levels: it was made before Kinfold knew them")
        found = open_levels(self._run)
        best = _best_of(found.parts, found.levels.n_parts, self._columns.confidence_order)
        return _Parts(found.levels, found.parts, best, read_curve(found.estimate))


class LevelPreview:
    """The groups of one level, beside those that the run has now; see :meth:`LevelViews.preview`."""

    def __init__(self, views: LevelViews, state: State, n_groups: int, was: int | None = None) -> None:
        self._views = views
        self._now = views.groups(views.shown)
        self._groups = views.groups(n_groups)
        self._was = None if was is None else views.groups(was)
        self._sizes = views.sizes(state, n_groups)
        self._whole = np.bincount(self._now)  # parts of every group of now
        self._level = _arrange(self._groups, self._now, self._sizes)

    def __len__(self) -> int:
        return len(self._level.ids)

    def counts(self) -> dict[str, int]:
        """Return how many groups of now stay, are divided, and join others."""
        pairs = np.unique(np.stack([self._now, self._groups]), axis=1)
        finer = np.bincount(pairs[0])[pairs[0]] > 1
        coarser = np.bincount(pairs[1])[pairs[1]] > 1
        return {
            "same": int(np.count_nonzero(~finer & ~coarser)),
            "divided": len(np.unique(pairs[0][finer])),
            "joined": int(np.count_nonzero(coarser)),
        }

    def page(self, offset: int, limit: int) -> list[dict[str, Any]]:
        """Return some groups in order, as the page shows them, without names."""
        return [self.describe(group) for group in self._level.ids[offset : offset + limit].tolist()]

    def describe(self, group: int, n_pictures: int = N_PICTURES) -> dict[str, Any]:
        """Return a group: size, pictures, and which groups of now it is, is a part of, or joins.

        Raises
        ------
        NotFoundError
            The level has no such group.
        """
        parts = self._level.place_of(group)
        return {
            "group": group,
            "n_parts": len(parts),
            **describe_parts(self._views, parts, self._now, self._whole, self._sizes, n_pictures),
            **({} if self._was is None else {"was": _some(self._was[parts], 2 * _MOST_NAMED)}),
        }


class LevelTree:
    """The groups of all levels as a tree, of which a request sees the children of one node.

    A node is a group of a layer; layers are numbers of groups from two to that of all parts, each about
    twice the one before, and that of the run. Its children are the groups that it is divided into at the next
    layer that divides it at all.

    Parameters
    ----------
    views : LevelViews
        The levels.
    state : State
        The groups as corrected.
    """

    def __init__(self, views: LevelViews, state: State) -> None:
        self._views = views
        self._now = views.groups(views.shown)
        self._whole = np.bincount(self._now)
        self._state = state
        found = {*space_numbers(2, views.n_parts, TREE_FACTOR), views.n_parts, views.shown}
        self.layers = sorted(n for n in found if n >= min(2, views.n_parts))

    def children(self, layer: int | None, group: int, offset: int, limit: int) -> dict[str, Any]:
        """Return a page of the children of a node; the coarsest groups for the layer None.

        Raises
        ------
        NotFoundError
            There is no such node.
        """
        parts: NDArray[np.int64] = np.arange(self._views.n_parts)
        if layer is None:
            at, groups = self.layers[0], self._views.groups(self.layers[0])
        else:
            if layer not in self.layers:
                raise NotFoundError(f"the tree has no layer of {layer} groups")
            parts = np.flatnonzero(self._views.groups(layer) == group)
            if not len(parts):
                raise NotFoundError(f"there is no group {group} at this level")
            at, groups = self._divided(layer, parts)
        if layer is not None and at == layer:  # one part
            return {"total": 0, "nodes": []}
        sizes = self._views.sizes(self._state, at)
        found = _arrange(groups[parts], self._now[parts], sizes[parts])
        nodes = [
            self._describe(at, child, parts[found.members[child]], sizes)
            for child in found.ids[offset : offset + limit].tolist()
        ]
        return {"total": len(found.ids), "nodes": nodes}

    def _divided(self, layer: int, parts: NDArray[np.int64]) -> tuple[int, NDArray[np.int32]]:
        """Return the next layer that divides a node, and its groups; the node's own for a single part."""
        if len(parts) > 1:
            for finer in self.layers[self.layers.index(layer) + 1 :]:
                groups = self._views.groups(finer)
                if (groups[parts] != groups[parts[0]]).any():
                    return finer, groups
        return layer, self._views.groups(layer)

    def _describe(
        self, layer: int, group: int, parts: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> dict[str, Any]:
        at, finer = self._divided(layer, parts)
        return {
            "layer": layer,
            "group": group,
            "n_children": 0 if at == layer else len(np.unique(finer[parts])),
            "n_groups": len(np.unique(self._now[parts])),
            **describe_parts(self._views, parts, self._now, self._whole, sizes, N_TREE_PICTURES),
        }


def describe_parts(
    views: LevelViews,
    parts: NDArray[np.int64],
    now: NDArray[np.int32],
    whole: NDArray[np.int64],
    sizes: NDArray[np.int64],
    n_pictures: int,
) -> dict[str, Any]:
    """Return size, pictures and relation of a set of parts to the groups of now.

    ``kind`` is ``"same"`` where it is one group, ``"part"`` where it lies within one, ``"join"`` where it
    holds several; ``groups`` are their numbers, at most six of ``n_from``.
    """
    origins = np.unique(now[parts])
    kind = JOIN
    if len(origins) == 1:
        kind = SAME if len(parts) == whole[origins[0]] else PART
    return {
        "kind": kind,
        "from": origins[:_MOST_NAMED].tolist(),
        "n_from": len(origins),
        "size": int(sizes[parts].sum()),
        "representatives": views.pictures(parts, now[parts], n_pictures),
    }


def _arrange(groups: NDArray[np.int32], now: NDArray[np.int32], sizes: NDArray[np.int64]) -> _Level:
    order = np.argsort(groups, kind="stable")
    ids, starts = np.unique(groups[order], return_index=True)
    members = np.split(order, starts[1:])
    first = np.minimum.reduceat(now[order], starts)
    size = np.add.reduceat(sizes[order], starts)
    placed = np.lexsort((ids, -size, first))
    return _Level(ids[placed], dict(zip(ids.tolist(), members, strict=True)))


def _best_of(
    parts: NDArray[np.int32], n_parts: int, confidence_order: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return the positions of the most confident images of every part (M, 8), −1 where it has fewer."""
    order = confidence_order[np.argsort(parts[confidence_order], kind="stable")]
    starts = np.searchsorted(parts[order], np.arange(n_parts + 1))
    places = starts[:-1, None] + np.arange(N_PICTURES)
    found = order[np.minimum(places, max(0, len(order) - 1))] if len(order) else places * 0
    return np.where(places < starts[1:, None], found, np.int32(-1)).astype(np.int32)


def _some(values: NDArray[np.integer], most: int) -> list[int]:
    found: list[int] = np.unique(values)[:most].tolist()
    return found


def space_numbers(first: int, last: int, factor: float) -> Sequence[int]:
    """Return whole numbers from ``first`` to ``last``, each about ``factor`` times the one before."""
    if last < first:
        return [last]
    n = max(1, math.ceil(math.log(last / first) / math.log(max(factor, 1 + 1e-6))))
    return [*(round(first * (last / first) ** (k / n)) for k in range(n)), last]
