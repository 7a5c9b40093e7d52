"""Summaries of groups and lists of images, kept between requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections import MARKS, State, changed_groups
from kinfold.errors import InputError, nearest_name
from kinfold.gallery.explore._columns import Columns

N_BINS = 20
N_REPRESENTATIVES = 8
_FEW = 64  # so many changed groups are counted one by one

SORTS = ("confidence", "doubt", "distance", "key", "row", "group")
_FALLING = ("confidence", "doubt")  # the others rise unless asked otherwise
_KEPT_BYTES = 96 << 20

Places = NDArray[np.int32]
Distances = Callable[[State, "int | None"], NDArray[np.float32]]
"""From a state and a group (None: all) to every image's distance from its group's centre, NaN elsewhere."""


@dataclass(frozen=True)
class GroupSummary:
    """One group, counted.

    Attributes
    ----------
    size : int
        Its images that aren't marked.
    n_wrong, n_noise : int
        Those that are.
    mean_confidence : float
        Of the unmarked ones; 0 where there are none.
    histogram : tuple of int
        Unmarked ones per confidence bin of width 1/20.
    representatives : tuple of int
        Places of the most confident unmarked ones, at most eight.
    """

    size: int
    n_wrong: int
    n_noise: int
    mean_confidence: float
    histogram: tuple[int, ...]
    representatives: tuple[int, ...]


class GroupSummaries:
    """The summaries of all groups for the state that was asked for last.

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
        """Return the summary of every group that is there, by its number."""
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
        """Return the places of every group's most confident images."""
        order = self._columns.confidence_order
        order = order[state.marks[order] == 0]
        labels = state.labels[order]
        by_group = order[np.argsort(_narrow(labels), kind="stable")]
        ends = np.cumsum(sizes)
        return {
            int(group): tuple(
                by_group[ends[group] - sizes[group] :][: min(N_REPRESENTATIVES, sizes[group])].tolist()
            )
            for group in np.flatnonzero(sizes)
        }


def _narrow(labels: NDArray[np.int32]) -> NDArray[np.integer]:
    """Return labels in 16 bits where they fit: those are sorted in linear time."""
    return labels.astype(np.uint16) if not len(labels) or labels.max() < 1 << 16 else labels


@dataclass(frozen=True)
class ImageQuery:
    """Which images, in which order.

    Attributes
    ----------
    group : int or None
        Those of one group; None is all.
    second : int or None
        Those whose second choice is this group.
    mark : str
        ``""``: marked or not; ``"none"``, ``"wrong"``, ``"noise"``; ``"any"``: marked.
    text : str
        A part of the key, in whatever case.
    sort : str
        One of :data:`SORTS`. ``doubt``: first those whose two best groups are closest.
    order : str
        ``"asc"``, ``"desc"``, or ``""`` for the sort's own.
    """

    group: int | None = None
    second: int | None = None
    mark: str = ""
    text: str = ""
    sort: str = "confidence"
    order: str = ""

    def check(self) -> None:
        """Refuse words that mean nothing; raises :class:`InputError`."""
        for word, known in (
            (self.sort, SORTS),
            (self.order, ("", "asc", "desc")),
            (self.mark, ("", "none", "any", *MARKS)),
        ):
            if word not in known:
                names = [name for name in known if name]
                raise InputError(f"{word!r} is none of {', '.join(names)}{nearest_name(word, names)}")

    @property
    def is_falling(self) -> bool:
        """Tell whether the greatest comes first."""
        return self.order == "desc" or (not self.order and self.sort in _FALLING)


class ImageLists:
    """Answers :class:`ImageQuery` for states of the corrections.

    Parameters
    ----------
    columns : Columns
        The run's images.
    seconds : callable
        From a state and places to those images' second choices, −1 for none.
    distances : callable
        See :data:`Distances`.
    """

    def __init__(
        self, columns: Columns, seconds: Callable[[State, Places], NDArray[np.int32]], distances: Distances
    ) -> None:
        self._columns = columns
        self._seconds = seconds
        self._distances = distances
        self._guard = threading.Lock()
        self._kept: OrderedDict[object, NDArray[np.generic]] = OrderedDict()

    def places(self, state: State, asked: ImageQuery) -> Places:
        """Return the places of all images that are asked for, in order.

        Raises
        ------
        InputError
            A word of ``asked`` isn't known, or its group isn't there.
        """
        asked.check()
        found: Places = self._keep((state.version, asked), lambda: self._find(state, asked))  # type: ignore[assignment]
        return found

    def _find(self, state: State, asked: ImageQuery) -> Places:
        mask = self._filter(state, asked)
        if asked.group is None and asked.second is None and asked.sort in ("confidence", "key", "row"):
            order = self._whole_order(asked.sort)
            order = order if mask is None else order[mask[order]]
            return self._turn(order, asked)
        found = np.arange(len(self._columns)) if mask is None else np.flatnonzero(mask)
        places: Places = found.astype(np.int32)
        if asked.second is not None:
            places = places[self._seconds(state, places) == asked.second]
        return self._sort(state, asked, places)

    def _whole_order(self, sort: str) -> Places:
        if sort == "row":
            return np.arange(len(self._columns), dtype=np.int32)
        return self._columns.key_order if sort == "key" else self._columns.confidence_order

    def _turn(self, order: Places, asked: ImageQuery) -> Places:
        """Turn a whole order round where that is asked for; that of confidence falls already."""
        return order[::-1] if asked.is_falling != (asked.sort == "confidence") else order

    def _filter(self, state: State, asked: ImageQuery) -> NDArray[np.bool_] | None:
        masks = []
        if asked.group is not None:
            masks.append(state.labels == asked.group)
        if asked.mark:
            wanted = {"none": 0, "wrong": 1, "noise": 2}.get(asked.mark)
            masks.append(state.marks != 0 if wanted is None else state.marks == wanted)
        if asked.text:
            text = asked.text.lower()
            masks.append(self._keep(("text", text), lambda: self._columns.search(text)))
        return np.logical_and.reduce(masks) if masks else None

    def _sort(self, state: State, asked: ImageQuery, places: Places) -> Places:
        values: NDArray[np.generic]
        if asked.sort == "row":
            return places[::-1] if asked.is_falling else places
        if asked.sort == "confidence":
            values = self._columns.confidence[places]
        elif asked.sort == "doubt":
            values = 1 - self._margin()[places]
        elif asked.sort == "distance":
            values = self._distances(state, asked.group)[places]
        elif asked.sort == "group":
            values = state.labels[places]
        else:
            values = self._key_ranks()[places]
        if asked.is_falling:
            values = -values  # not turned round afterwards: equal ones stay in the order of rows
        return places[np.argsort(values, kind="stable")]

    def _margin(self) -> NDArray[np.float32]:
        return self._keep("margin", self._columns.margin)  # type: ignore[return-value]

    def _key_ranks(self) -> Places:
        def rank() -> Places:
            ranks = np.empty(len(self._columns), np.int32)
            ranks[self._columns.key_order] = np.arange(len(ranks), dtype=np.int32)
            return ranks

        return self._keep("key ranks", rank)  # type: ignore[return-value]

    def _keep(self, name: object, work: Callable[[], NDArray[np.generic]]) -> NDArray[np.generic]:
        """Return what was found before, or find it and keep it; the least recently used goes first."""
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
