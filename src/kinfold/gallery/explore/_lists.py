"""Summaries of groups and lists of images, kept between requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections import MARKS, State, changed_groups
from kinfold.gallery.explore._columns import Columns
from kinfold.typicality import find_strays
from kinfold.validation import Choice, check

N_BINS = 20  # of confidence, as in a report
N_REPRESENTATIVES = 8  # images on the card of a group
_FEW = 64  # up to so many changed groups, one scan for each is faster than counting all groups

SORTS = ("confidence", "doubt", "distance", "typicality", "key", "row", "group")
STRAY_SHARE = 0.01  # of a group that the filter "stray" shows
_RULES = {
    "sort": Choice(SORTS),
    "order": Choice(("", "asc", "desc")),
    "mark": Choice(("", "none", "any", *MARKS, "stray")),
}
_FALLING = ("confidence", "doubt")  # descending by default; the others ascend
_KEPT_BYTES = 96 << 20  # 24 lists of a million images

Places = NDArray[np.int32]
Distances = Callable[[State, "int | None"], NDArray[np.float32]]
"""From a state and a group (None: all) to distances from the center of the group, NaN for other images."""
Typicalities = Callable[[State, NDArray[np.integer]], NDArray[np.float32]]
"""From a state and positions to the typicality of these images in their groups, NaN where there is none."""


@dataclass(frozen=True)
class GroupSummary:
    """Counts of one group.

    Attributes
    ----------
    size : int
        Number of unmarked images.
    n_wrong, n_noise : int
        Number of images with either mark.
    mean_confidence : float
        Mean confidence of unmarked images; 0 where there are none.
    histogram : tuple of int
        Number of unmarked images for each confidence bin of width 1/20.
    representatives : tuple of int
        Positions of the most confident unmarked images, at most eight.
    """

    size: int
    n_wrong: int
    n_noise: int
    mean_confidence: float
    histogram: tuple[int, ...]
    representatives: tuple[int, ...]


class GroupSummaries:
    """Summaries of all groups in one state; after an edit, changed groups alone are counted again.

    Parameters
    ----------
    columns : Columns
        The run's images.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._bins = np.clip((columns.confidence * N_BINS).astype(np.int8), 0, N_BINS - 1)
        self._guard = threading.Lock()
        self._state: State | None = None
        self._found: dict[int, GroupSummary] = {}

    def of(self, state: State) -> Mapping[int, GroupSummary]:
        """Return the summary of every group of a state, by number."""
        with self._guard:
            if self._state is None or self._state.version != state.version:
                self._found = self._update(state)
                self._state = state
            return self._found

    def _update(self, state: State) -> dict[int, GroupSummary]:
        alive = state.alive
        if self._state is not None:
            changed = changed_groups(self._state, state)
            if len(changed) <= _FEW:
                kept = {group: one for group, one in self._found.items() if group not in changed}
                return {group: kept[group] if group in kept else self._count(state, group) for group in alive}
        return self._count_all(state, alive)

    def _count(self, state: State, group: int) -> GroupSummary:
        places = np.flatnonzero(state.labels == group)
        marks = state.marks[places]
        members = places[marks == 0]
        confidence = self._columns.confidence[members]
        best = np.lexsort((members, -confidence))[:N_REPRESENTATIVES] if len(members) else members
        return GroupSummary(
            len(members),
            int(np.count_nonzero(marks == 1)),
            int(np.count_nonzero(marks == 2)),
            float(confidence.mean(dtype=np.float64)) if len(members) else 0.0,
            tuple(np.bincount(self._bins[members], minlength=N_BINS).tolist()),
            tuple(members[best].tolist()),
        )

    def _count_all(self, state: State, alive: Iterable[int]) -> dict[int, GroupSummary]:
        n_groups = max(state.groups, default=-1) + 1
        counts = [np.bincount(state.labels[state.marks == mark], minlength=n_groups) for mark in range(3)]
        plain = state.marks == 0
        labels = state.labels[plain].astype(np.int64)
        flat = np.bincount(labels * N_BINS + self._bins[plain], minlength=n_groups * N_BINS)
        histograms = flat.reshape(n_groups, N_BINS)
        sums = np.bincount(labels, weights=self._columns.confidence[plain], minlength=n_groups)
        best = self._best(state, counts[0])
        return {
            group: GroupSummary(
                int(counts[0][group]),
                int(counts[1][group]),
                int(counts[2][group]),
                float(sums[group] / max(1, counts[0][group])),
                tuple(histograms[group].tolist()),
                best.get(group, ()),
            )
            for group in alive
        }

    def _best(self, state: State, sizes: NDArray[np.int64]) -> dict[int, tuple[int, ...]]:
        """Return the positions of the most confident images of every group."""
        order = self._columns.confidence_order
        order = order[state.marks[order] == 0]
        labels = state.labels[order]
        # in 16 bits where they fit: NumPy sorts those in linear time
        narrow = labels.astype(np.uint16) if labels.max(initial=0) < 1 << 16 else labels
        by_group = order[np.argsort(narrow, kind="stable")]
        ends = np.cumsum(sizes)
        return {
            int(group): tuple(
                by_group[ends[group] - sizes[group] :][: min(N_REPRESENTATIVES, sizes[group])].tolist()
            )
            for group in np.flatnonzero(sizes)
        }


@dataclass(frozen=True)
class ImageQuery:
    """Which images to list, in which order.

    Attributes
    ----------
    group : int or None
        Images of this group; None for all.
    second : int or None
        Images whose second choice is this group.
    mark : str
        ``""`` for all; ``"none"`` for unmarked, ``"wrong"``, ``"noise"``, or ``"any"`` for marked images;
        ``"stray"`` for the least typical 1 % of each group that nobody marked or placed.
    text : str
        Part of the key, ignoring case.
    sort : str
        One of :data:`SORTS`. ``doubt`` is 1 minus the difference of the two highest probabilities;
        ``typicality`` puts the least typical first.
    order : str
        ``"asc"``, ``"desc"``, or ``""`` for the default of the sort.
    """

    group: int | None = None
    second: int | None = None
    mark: str = ""
    text: str = ""
    sort: str = "confidence"
    order: str = ""

    def check(self) -> None:
        """Raise :class:`InputError` for an unknown sort, order or mark."""
        check(_RULES, sort=self.sort, order=self.order, mark=self.mark)

    @property
    def is_falling(self) -> bool:
        """Tell whether the order is descending."""
        return self.order == "desc" or (not self.order and self.sort in _FALLING)


class ImageLists:
    """Lists of images for queries, the last of which are kept for the next pages of a list.

    Parameters
    ----------
    columns : Columns
        The run's images.
    seconds : callable
        From a state and positions to second choices, −1 for none.
    distances, typicalities : callable
        See :data:`Distances` and :data:`Typicalities`.
    """

    def __init__(
        self,
        columns: Columns,
        seconds: Callable[[State, Places], NDArray[np.int32]],
        distances: Distances,
        typicalities: Typicalities,
    ) -> None:
        self._columns = columns
        self._seconds = seconds
        self._distances = distances
        self._typicalities = typicalities
        self._guard = threading.Lock()
        self._kept: OrderedDict[object, NDArray[np.generic]] = OrderedDict()

    def places(self, state: State, query: ImageQuery) -> Places:
        """Return the positions of all images of a query, in order.

        Raises
        ------
        InputError
            The sort, order or mark is unknown.
        """
        query.check()
        found: Places = self._keep((state.version, query), lambda: self._find(state, query))  # type: ignore[assignment]
        return found

    def _find(self, state: State, query: ImageQuery) -> Places:
        mask = self._filter(state, query)
        if query.group is None and query.second is None and query.sort in ("confidence", "key", "row"):
            order = self._whole_order(query.sort)
            order = order if mask is None else order[mask[order]]
            return self._turn(order, query)
        found = np.arange(len(self._columns)) if mask is None else np.flatnonzero(mask)
        places: Places = found.astype(np.int32)
        if query.second is not None:
            places = places[self._seconds(state, places) == query.second]
        return self._sort(state, query, places)

    def _whole_order(self, sort: str) -> Places:
        if sort == "row":
            return np.arange(len(self._columns), dtype=np.int32)
        return self._columns.key_order if sort == "key" else self._columns.confidence_order

    def _turn(self, order: Places, query: ImageQuery) -> Places:
        """Reverse an order of all images where the query needs it; that of confidence descends already."""
        return order[::-1] if query.is_falling != (query.sort == "confidence") else order

    def _filter(self, state: State, query: ImageQuery) -> NDArray[np.bool_] | None:
        masks = []
        if query.group is not None:
            masks.append(state.labels == query.group)
        if query.mark == "stray":
            masks.append(self._strays(state))
        elif query.mark:
            wanted = {"none": 0, "wrong": 1, "noise": 2}.get(query.mark)
            masks.append(state.marks != 0 if wanted is None else state.marks == wanted)
        if query.text:
            text = query.text.lower()
            masks.append(self._keep(("text", text), lambda: self._columns.search(text)))
        return np.logical_and.reduce(masks) if masks else None

    def _sort(self, state: State, query: ImageQuery, places: Places) -> Places:
        values: NDArray[np.generic]
        if query.sort == "row":
            return places[::-1] if query.is_falling else places
        if query.sort == "confidence":
            values = self._columns.confidence[places]
        elif query.sort == "doubt":
            values = 1 - self._margin()[places]
        elif query.sort == "distance":
            values = self._distances(state, query.group)[places]
        elif query.sort == "typicality":
            values = self._typicalities(state, places)
        elif query.sort == "group":
            values = state.labels[places]
        else:
            values = self._key_ranks()[places]
        if query.is_falling:
            values = -values  # not reversed afterwards, so that ties stay in the order of rows
        return places[np.argsort(values, kind="stable")]

    def _strays(self, state: State) -> NDArray[np.bool_]:
        """Return which images the filter "stray" shows."""

        def find() -> NDArray[np.bool_]:
            typicality = self._typicalities(state, np.arange(len(self._columns)))
            groups = np.where(state.marks == 0, state.labels, -1)
            return find_strays(typicality, groups, STRAY_SHARE, kept=state.by_hand)

        return self._keep(("strays", state.version), find)  # type: ignore[return-value]

    def _margin(self) -> NDArray[np.float32]:
        return self._keep("margin", self._columns.margin)  # type: ignore[return-value]

    def _key_ranks(self) -> Places:
        def rank() -> Places:
            ranks = np.empty(len(self._columns), np.int32)
            ranks[self._columns.key_order] = np.arange(len(ranks), dtype=np.int32)
            return ranks

        return self._keep("key ranks", rank)  # type: ignore[return-value]

    def _keep(self, name: object, work: Callable[[], NDArray[np.generic]]) -> NDArray[np.generic]:
        """Return a kept array, or compute and keep it; the least recently used ones are dropped first."""
        with self._guard:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        found = work()
        with self._guard:
            self._kept[name] = found
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return found
