"""One run as the server keeps it: its columns, its corrections, and everything that answers are made of."""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections import Corrections, State, changed_groups, names_of, read_edit
from kinfold.errors import InputError, UnwritableError
from kinfold.features import Features
from kinfold.gallery.explore._choices import Choices
from kinfold.gallery.explore._columns import Columns
from kinfold.gallery.explore._errors import ConflictError, ForbiddenError, NotFoundError
from kinfold.gallery.explore._listing import Listing
from kinfold.gallery.explore._map_job import MapJob
from kinfold.gallery.explore._nearest import Nearest
from kinfold.gallery.explore._originals import Originals
from kinfold.gallery.explore._refining import Refining
from kinfold.gallery.explore._summaries import Summaries
from kinfold.gallery.explore._thumbs import Thumbnails
from kinfold.gallery.explore._vectors import Vectors
from kinfold.images import ImageSource
from kinfold.run import Run
from kinfold.storage import hash_json


@dataclass(frozen=True)
class Options:
    """How a run is explored.

    Attributes
    ----------
    images : ImageSource, path or None
        The images, or where they are now, if they were moved.
    features : Features, path or None
        The same of the features.
    read_only : bool
        Nothing can be corrected, and nothing is written to the run.
    thumbnail_limit : int
        Bytes that kept thumbnails may take.
    n_workers : int or None
        Processes that make thumbnails.
    device : str
        Where dropped images are embedded.
    """

    images: ImageSource | str | Path | None = None
    features: Features | str | Path | None = None
    read_only: bool = False
    thumbnail_limit: int = 1 << 30
    n_workers: int | None = None
    device: str = "auto"


class Explorer:
    """A run and what is kept in memory for its page. All threads share one.

    Parameters
    ----------
    run : Run
        The run.
    options : Options
        How.

    Raises
    ------
    FormatError
        The run's files, or its corrections, are damaged.
    """

    def __init__(self, run: Run, options: Options) -> None:
        self.run = run
        self.columns = Columns.read(run)
        self.skipped = run.skipped  # read now: damage is told before anything is shown
        self.words = {group: [name.noun for name in named.names] for group, named in run.names.items()}
        self.moved_images, path = (
            str(one) if isinstance(one, str | Path) else None for one in (options.images, options.features)
        )
        self.moved_features = path
        self.corrections = Corrections.open(run, write=not options.read_only, source=path)
        self.read_only = options.read_only
        self.vectors = Vectors(run, options.features)
        self.originals = Originals(run, options.images)
        self.summaries = Summaries(self.columns)
        self.choices = Choices(self.columns, run.labels)
        self.listing = Listing(
            self.columns, lambda state, places: self.choices.second(state, places)[0], self.vectors.distances
        )
        self.nearest = Nearest(run, self.vectors, device=options.device)
        self.refining = Refining(run, lambda: self.state, path)
        self.map_job = MapJob(run, features=path, writable=not options.read_only)
        source = run.manifest.source
        self.base = hash_json([source.get(name) for name in ("fingerprint", "images", "n_rows")])[:16]
        self.thumbnails = Thumbnails(
            self.originals,
            None if options.read_only else run.path,
            self.base,
            options.thumbnail_limit,
            options.n_workers,
        )
        self._names: tuple[int, dict[int, str]] = (-1, {})
        self._guard = threading.Lock()

    @property
    def state(self) -> State:
        """The groups as corrected by now."""
        return self.corrections.state

    def names(self, state: State) -> dict[int, str]:
        """Return what each group is called; "" for those without a name."""
        with self._guard:
            if self._names[0] != state.version:
                self._names = (state.version, names_of(self.run, state))
            return self._names[1]

    def place(self, row: int) -> int:
        """Return where a row is; raises :class:`NotFoundError` for those that the run doesn't list."""
        place = self.columns.place(row)
        if place is None:
            raise NotFoundError(f"this run has no image of row {row}")
        return place

    def check_group(self, state: State, group: int) -> None:
        """Raise :class:`NotFoundError` for a group that there isn't, or that was merged away."""
        found = state.groups.get(group)
        if found is None or not found.alive:
            raise NotFoundError(
                f"there is no group {group}" if found is None else f"group {group} was merged away"
            )

    def edit(self, content: Any, client: str) -> dict[str, Any]:
        """Carry out an edit, durably, and return what the page is told."""
        if not isinstance(content, dict):
            raise InputError("an edit is a JSON object with its kind and fields")
        edit = read_edit(content)
        self._check_writable()
        return self._tell(lambda: self.corrections.apply(edit, client=client))

    def undo(self, client: str) -> dict[str, Any]:
        """Take back the client's last edit."""
        self._check_writable()
        return self._tell(lambda: self.corrections.undo(client))

    def redo(self, client: str) -> dict[str, Any]:
        """Bring back what the client undid last."""
        self._check_writable()
        return self._tell(lambda: self.corrections.redo(client))

    def map_groups(self) -> tuple[int, NDArray[np.int32]]:
        """Return the version, and the group of every place; −1 for marked images."""
        state = self.state
        return state.version, np.where(state.marks == 0, state.labels, np.int32(-1))

    def warm(self) -> None:
        """Do now, beside the first requests, what would make later ones wait once."""
        threading.Thread(target=self._warm, name="kinfold-warm", daemon=True).start()

    def close(self) -> None:
        """End the processes and close the files."""
        self.map_job.stop()
        self.thumbnails.close()
        self.corrections.close()

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

    def _tell(self, work: Any) -> dict[str, Any]:
        before = self.state
        try:
            after: State = work()
        except UnwritableError:
            raise
        except InputError as error:
            raise ConflictError(str(error)) from error
        entry = self.corrections.entry(after.version)
        return {"version": after.version, "text": entry.text, "groups": list(changed_groups(before, after))}
