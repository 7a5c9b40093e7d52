"""One run as the server keeps it: columns, corrections, proposals, and everything that answers need."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections import (
    PROPOSALS_NAME,
    Corrections,
    Proposals,
    State,
    changed_groups,
    names_of,
    read_edit,
    read_proposals,
    refine,
    write_proposals,
)
from kinfold.errors import FormatError, InputError, KinfoldError, UnwritableError
from kinfold.features import Features
from kinfold.gallery.explore._columns import Choices, Columns
from kinfold.gallery.explore._errors import ConflictError, ForbiddenError, NotFoundError
from kinfold.gallery.explore._levels import LevelViews
from kinfold.gallery.explore._lists import GroupSummaries, ImageLists
from kinfold.gallery.explore._map_job import MapJob
from kinfold.gallery.explore._pictures import Originals, Thumbnails
from kinfold.gallery.explore._vectors import Nearest, Vectors
from kinfold.images import ImageSource
from kinfold.metrics import GroupRanks
from kinfold.run import Run
from kinfold.storage import hash_json

_log = logging.getLogger(__name__)

_CLOSING_SECONDS = 0.3  # Ctrl-C ends the server within a second, whatever it is doing


class Refining:
    """The proposals of a run, and the thread that computes new ones, one at a time.

    Parameters
    ----------
    run : Run
        The run.
    get_state : callable
        Returns the state to train on.
    source : path, optional
        Where the features are now, if they were moved.
    """

    def __init__(self, run: Run, get_state: Callable[[], State], source: str | Path | None) -> None:
        self._run = run
        self._get_state = get_state
        self._source = source
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self.text = ""
        self._read: tuple[int, Proposals | None] = (-1, None)
        self._left: tuple[Proposals | None, int, NDArray[np.int64]] = (None, -1, np.empty(0, np.int64))
        self._by_row: tuple[NDArray[np.int64] | None, dict[int, int]] = (None, {})

    @property
    def state(self) -> str:
        """``"running"``, ``"ready"`` where there are proposals, else ``"none"``."""
        if self._thread is not None and self._thread.is_alive():
            return "running"
        return "ready" if self.proposals() is not None else "none"

    def start(self) -> None:
        """Start to refine, unless it is running already."""
        with self._guard:
            if self._thread is None or not self._thread.is_alive():
                self.text = "Getting ready"
                self._thread = threading.Thread(target=self._work, name="kinfold-refine", daemon=True)
                self._thread.start()

    def proposals(self) -> Proposals | None:
        """Return the last proposals, also of `kinfold refine`; None where there are none."""
        path = self._run.path / PROPOSALS_NAME
        with self._guard:
            try:
                stamp = path.stat().st_mtime_ns if path.is_file() else -1
                if stamp != self._read[0]:
                    self._read = (stamp, read_proposals(self._run))
            except (FormatError, OSError) as error:
                self._read = (stamp, None)
                self.text = str(error)
            return self._read[1]

    def left(self, state: State) -> NDArray[np.int64]:
        """Return the indices of proposals that can still be accepted, by descending confidence."""
        proposals = self.proposals()
        if proposals is None:
            return np.empty(0, np.int64)
        if self._left[0] is proposals and self._left[1] == state.version:
            return self._left[2]
        rows = self._run.assignments["row"].to_numpy()
        places = np.searchsorted(rows, proposals.rows)
        takers = np.array([one.id for one in state.groups.values() if one.alive and not one.locked], np.int64)
        left = (
            (state.labels[places] == proposals.from_groups)
            & ~state.by_hand[places]
            & np.isin(proposals.groups, takers)
            & np.isin(proposals.from_groups, takers)
        )
        order = np.argsort(-proposals.confidences, kind="stable")
        found: NDArray[np.int64] = order[left[order]]
        self._left = (proposals, state.version, found)
        return found

    def proposed(self, state: State) -> dict[int, int]:
        """Return the proposed group by row, of proposals that can still be accepted."""
        proposals = self.proposals()
        if proposals is None:
            return {}
        left = self.left(state)
        if self._by_row[0] is not left:
            rows, groups = proposals.rows[left].tolist(), proposals.groups[left].tolist()
            self._by_row = (left, dict(zip(rows, groups, strict=True)))
        return self._by_row[1]

    def _work(self) -> None:
        try:
            made = refine(self._run, self._get_state(), source=self._source, progress=_LineProgress(self))
            write_proposals(self._run, made)
            self.text = ""
        except (KinfoldError, OSError, MemoryError) as error:
            self.text = str(error) or type(error).__name__
        except Exception:
            _log.exception("refining failed")
            self.text = "Refining failed; see what `kinfold explore` printed."


class _LineProgress:
    """Progress as the line of text that the page shows."""

    def __init__(self, refining: Refining) -> None:
        self._refining = refining

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "") -> Iterator[_LineTask]:
        yield _LineTask(self._refining, description, total)


class _LineTask:
    def __init__(self, refining: Refining, description: str, total: int | None) -> None:
        self._refining, self._description, self._total, self._done = refining, description, total, 0
        self.advance(0)

    def advance(self, n: int = 1, **figures: object) -> None:
        """Count ``n`` more."""
        self._done += n
        part = f", {min(100, 100 * self._done // self._total)} %" if self._total else ""
        self._refining.text = f"{self._description}{part}"


@dataclass(frozen=True)
class Options:
    """Options of the server.

    Attributes
    ----------
    images : ImageSource, path or None
        The images, or where they are now, if they were moved.
    features : Features, path or None
        The features, or where they are now, if they were moved.
    read_only : bool
        Refuse corrections, and write nothing to the run.
    thumbnail_limit : int
        Largest size of the cache of thumbnails in bytes.
    n_workers : int or None
        Processes that make thumbnails.
    device : str
        Device that embeds dropped images.
    """

    images: ImageSource | str | Path | None = None
    features: Features | str | Path | None = None
    read_only: bool = False
    thumbnail_limit: int = 1 << 30
    n_workers: int | None = None
    device: str = "auto"


class Explorer:
    """A run and all that is kept in memory for its page. All threads share one.

    Parameters
    ----------
    run : Run
        The run.
    options : Options
        Options of the server.
    before : Explorer, optional
        The same run as it was opened before, with other groups; its pictures are taken over.

    Raises
    ------
    FormatError
        The run's files, or its corrections, are damaged.
    """

    def __init__(self, run: Run, options: Options, before: Explorer | None = None) -> None:
        self.run = run
        self.columns = Columns.read(run)
        self.skipped = run.skipped  # read now, so that damage is reported before anything is shown
        self.words = {group: [name.noun for name in named.names] for group, named in run.names.items()}
        self.moved_images, path = (
            str(one) if isinstance(one, str | Path) else None for one in (options.images, options.features)
        )
        self.moved_features = path
        self.corrections = Corrections.open(run, write=not options.read_only, source=path)
        self.read_only = options.read_only
        self.vectors = Vectors(run, options.features)
        self.levels = LevelViews(run, self.columns)
        self.opening: int = (
            0 if before is None else before.opening + 1
        )  # how often the groups changed as a whole
        self.summaries = GroupSummaries(self.columns)
        self.choices = Choices(self.columns, run.labels)
        self.listing = ImageLists(
            self.columns,
            lambda state, places: self.choices.second(state, places)[0],
            self.vectors.distances,
            self.typicality,
        )
        self.nearest = Nearest(run, self.vectors, device=options.device)
        self.refining = Refining(run, lambda: self.state, path)
        self.map_job = MapJob(run, features=path, writable=not options.read_only)
        source = run.manifest.source
        self.base = hash_json([source.get(name) for name in ("fingerprint", "images", "n_rows")])[:16]
        if before is None:
            self.originals = Originals(run, options.images)
            folder = None if options.read_only else run.path
            self.thumbnails = Thumbnails(
                self.originals, folder, self.base, options.thumbnail_limit, options.n_workers
            )
        else:
            self.originals, self.thumbnails = before.originals, before.thumbnails
        self._names: tuple[int, dict[int, str]] = (-1, {})
        self._order: NDArray[np.int32] | None = None  # of the images by closeness
        self._ranks = (-1, GroupRanks.of(np.zeros(0), np.zeros(0, np.int32)))
        self._guard = threading.Lock()

    @property
    def state(self) -> State:
        """The current state of the groups."""
        return self.corrections.state

    def names(self, state: State) -> dict[int, str]:
        """Return the name of each group, "" for groups without one; kept until the next edit."""
        with self._guard:
            if self._names[0] != state.version:
                self._names = (state.version, names_of(self.run, state))
            return self._names[1]

    def place(self, row: int) -> int:
        """Return the position of a row; :class:`NotFoundError` if the run doesn't have it."""
        place = self.columns.place(row)
        if place is None:
            raise NotFoundError(f"this run has no image of row {row}")
        return place

    def check_group(self, state: State, group: int) -> None:
        """Raise :class:`NotFoundError` for a group that doesn't exist or was merged away."""
        found = state.groups.get(group)
        if found is None or not found.alive:
            raise NotFoundError(
                f"there is no group {group}" if found is None else f"group {group} was merged away"
            )

    def edit(self, content: Any, client: str) -> dict[str, Any]:
        """Make an edit; return its version, description and the groups that changed."""
        if not isinstance(content, dict):
            raise InputError("an edit must be a JSON object with 'kind' and the fields of that kind")
        edit = read_edit(content)
        self._check_writable()
        return self._apply(lambda: self.corrections.apply(edit, client=client))

    def undo(self, client: str) -> dict[str, Any]:
        """Undo the last edit of the client."""
        self._check_writable()
        return self._apply(lambda: self.corrections.undo(client))

    def redo(self, client: str) -> dict[str, Any]:
        """Redo the edit that the client undid last."""
        self._check_writable()
        return self._apply(lambda: self.corrections.redo(client))

    def map_groups(self) -> tuple[int, NDArray[np.int32]]:
        """Return the version, and the group of every image; −1 for marked images."""
        state = self.state
        return state.version, np.where(state.marks == 0, state.labels, np.int32(-1))

    def typicality(self, state: State, places: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the typicality of some images in their groups; NaN where marked, or where none is known."""
        closeness = self.run.closeness
        if closeness is None:
            return np.full(len(places), np.nan, np.float32)
        groups = np.where(state.marks == 0, state.labels, np.int32(-1))
        with self._guard:
            if self._order is None:
                self._order = np.argsort(closeness, kind="stable").astype(np.int32)
            if self._ranks[0] != state.version:
                self._ranks = (state.version, GroupRanks.of(closeness, groups, order=self._order))
            ranks = self._ranks[1]
        return ranks.shares(closeness[places], groups[places], members=True)

    def warm(self) -> None:
        """Start a thread that computes what later requests would wait for."""
        threading.Thread(target=self._warm, name="kinfold-warm", daemon=True).start()

    def close(self) -> None:
        """Stop the processes and close the files."""
        self.thumbnails.close()
        self.close_groups()

    def close_groups(self) -> None:
        """Close what depends on the groups; the pictures stay open."""
        self.map_job.stop()
        # an edit that goes on holds the file; it ends with the process, and leaves nothing
        closing = threading.Thread(target=self.corrections.close, name="kinfold-closing", daemon=True)
        closing.start()
        closing.join(_CLOSING_SECONDS)

    def _warm(self) -> None:
        state = self.state
        self.summaries.of(state)
        self.columns.search("a")
        if len(self.columns):
            self.choices.second(state, np.arange(1))
        if self.vectors.are_there:
            importlib.import_module("kinfold.neighbors")  # PyTorch takes seconds to load

    def _check_writable(self) -> None:
        if self.corrections.refusal is not None:
            raise ForbiddenError(self.corrections.refusal)

    def _apply(self, work: Callable[[], State]) -> dict[str, Any]:
        before = self.state
        try:
            after = work()
        except UnwritableError:  # an InputError too, but no conflict: the disk is full or the file is held
            raise
        except InputError as error:
            raise ConflictError(str(error)) from error
        entry = self.corrections.entry(after.version)
        return {"version": after.version, "text": entry.text, "groups": list(changed_groups(before, after))}
