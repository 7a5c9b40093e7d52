"""The groups of a run as people corrected them, as every command takes them."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections import CORRECTIONS_NAME, Corrections, State, first_state, names_of
from kinfold.errors import FormatError, InputError, KinfoldError, OtherGroupsError, count_of
from kinfold.run import Run, read_manifest

if TYPE_CHECKING:
    from kinfold.gallery import Shown

logger = logging.getLogger(__name__)

_NO_GROUP = -1
_ENDINGS = ("", "-wal", "-journal")  # of the file, and of the logs that SQLite writes beside it
_BLOCK = 1 << 14  # rows at a time: features may be larger than memory


@dataclass(frozen=True)
class CorrectedGroups:
    """The groups of a run as corrected.

    Attributes
    ----------
    run : Run
        The run.
    state : State
        Its groups, those of the method where nothing was corrected.
    n_corrections : int
        Edits that hold; 0 where the groups are those of the method.
    """

    run: Run
    state: State
    n_corrections: int

    @classmethod
    def of(cls, run: Run) -> CorrectedGroups:
        """Read the corrections of a run; those of groups that it no longer has are left out with a warning.

        Raises
        ------
        FormatError
            The corrections are damaged.
        """
        if not has_corrections(run.path):
            return cls(run, first_state(run), 0)
        try:
            with Corrections.open(run, write=False) as corrections:
                state = corrections.state
                n_edits = sum(
                    not (one.undone or one.problem) for one in corrections.history(limit=state.version)
                )
        except OtherGroupsError as error:
            logger.warning("%s", error)
            return cls(run, first_state(run), 0)
        return cls(run, state, n_edits)

    @property
    def labels(self) -> NDArray[np.int32]:
        """Group of every image; −1 for those that are marked, and so in no group."""
        return np.where(self.state.marks == 0, self.state.labels, _NO_GROUP).astype(np.int32)

    @property
    def names(self) -> dict[int, str]:
        """Name of every group that there still is; empty for one without name."""
        alive = set(self.state.alive)
        return {group: name for group, name in names_of(self.run, self.state).items() if group in alive}

    def count(self) -> list[dict[str, Any]]:
        """Return number, name, size and mean confidence of every group that there still is, JSON-ready."""
        inside = self.labels >= 0
        labels = self.labels[inside]
        confidences = self.run.assignments["confidence"].to_numpy()[inside]
        n_groups = max(self.state.groups) + 1
        sizes = np.bincount(labels, minlength=n_groups)
        sums = np.bincount(labels, weights=confidences, minlength=n_groups)
        return [
            {
                "cluster": group,
                "name": name or None,
                "size": int(sizes[group]),
                "mean_confidence": round(float(sums[group] / sizes[group]), 6) if sizes[group] else None,
            }
            for group, name in self.names.items()
        ]

    def shown(self) -> Shown | None:
        """Return what a page shows; None where it shows the run's own groups."""
        from kinfold.gallery import Shown

        return Shown(self.labels, self.names) if self.n_corrections else None

    def describe(self) -> dict[str, Any]:
        """Return what the page depends on, for the inputs of its stage; empty where nothing was corrected."""
        return {"corrections": self.state.version} if self.n_corrections else {}

    def first_heirs(self) -> NDArray[np.int32]:
        """Return for every cluster of the method the group that continues it, through all merges."""
        return np.array([self.state.follow(group) for group in range(self.run.n_clusters)], np.int32)

    def assign(self, clusters: NDArray[np.integer], matrix: Any) -> NDArray[np.int32]:
        """Return the corrected groups of new images.

        Merges are followed. Where a cluster was split, an image goes to the part whose mean direction is
        closest; without the run's features, which tell these, to the part that kept the number. What was
        moved by hand changes nothing: it says nothing of other images.

        Parameters
        ----------
        clusters : NDArray of int (n,)
            Cluster that the method's model predicts for each.
        matrix : RowMatrix (n, D)
            Their features.
        """
        groups: NDArray[np.int32] = self.first_heirs()[clusters]
        split = {
            cluster: heirs
            for cluster in np.unique(clusters).tolist()
            if len(heirs := self.state.heirs(cluster)) > 1
        }
        if not split:
            return groups
        try:
            centers = self._centers(sorted({heir for heirs in split.values() for heir in heirs}))
        except KinfoldError as error:
            logger.warning(
                "images of groups that were split all go to the part that kept the number, because the parts "
                "can't be told apart without the run's features: %s",
                error,
            )
            return groups
        for cluster, heirs in split.items():
            known = [heir for heir in heirs if heir in centers]
            if not known:
                continue
            directions = np.stack([centers[heir] for heir in known])
            places = np.flatnonzero(clusters == cluster)
            for start in range(0, len(places), _BLOCK):
                some = places[start : start + _BLOCK]
                closest = (_unit(np.asarray(matrix[some], np.float32)) @ directions.T).argmax(axis=1)
                groups[some] = np.array(known, np.int32)[closest]
        return groups

    def _centers(self, groups: list[int]) -> Mapping[int, NDArray[np.float32]]:
        """Return the mean direction of the images of some groups, without those that have no image."""
        labels = self.labels
        matrix = self.run.features().matrix(self.run.manifest.features["variant"])
        found = {}
        for group in groups:
            places = np.flatnonzero(labels == group)
            if not len(places):
                continue
            total = np.zeros(matrix.shape[1])
            for start in range(0, len(places), _BLOCK):
                rows = _unit(np.asarray(matrix[places[start : start + _BLOCK]], np.float32))
                total += rows.sum(axis=0, dtype=np.float64)
            found[group] = _unit(total[None]).astype(np.float32)[0]
        return found


def has_corrections(path: Path) -> bool:
    """Tell whether a run was ever corrected: a log alone is what is left of a file that someone took away."""
    return any(os.path.lexists(path / name) for name in (CORRECTIONS_NAME, f"{CORRECTIONS_NAME}-wal"))


def _unit(rows: NDArray[Any]) -> NDArray[Any]:
    """Return rows scaled to unit length."""
    unit: NDArray[Any] = rows / np.maximum(
        np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny
    )
    return unit


def check_replacing(path: Path, why: Callable[[], str | None], *, force: bool) -> None:
    """Refuse to give a corrected run other groups; with ``force``, put its corrections aside.

    Parameters
    ----------
    path : Path
        The run.
    why : callable
        Tells why it would get other groups; None if it would get the same.
    force : bool
        Whether that was asked for.

    Raises
    ------
    InputError
        The run is corrected and would get other groups; nothing was changed.
    """
    if not has_corrections(path):
        return
    try:
        if "assign" in read_manifest(path).stages:
            n_corrections = CorrectedGroups.of(Run.open(path)).n_corrections
            told = count_of(n_corrections, "correction")
        else:
            n_corrections, told = 1, "how often can't be told, as the run isn't finished"
    except FormatError as error:  # of the groups or of the corrections: there may be any number
        n_corrections, told = 1, f"how often can't be told: {error}"
    if not n_corrections or (reason := why()) is None:
        return
    if not force:
        raise InputError(
            f"{path} was corrected by hand ({told}), and would get other groups because {reason}; it was "
            "left as it is. Choose another folder (out=, --out), or replace it (force=True, --force)"
        )
    logger.warning("the corrections of %s are kept as %s", path, set_aside(path).name)


def set_aside(path: Path) -> Path:
    """Rename the corrections of a run that is about to get other groups, and return where they are now."""
    file, number = path / CORRECTIONS_NAME, 1
    while any(
        os.path.lexists(f"{kept}{ending}")
        for kept in [file.with_name(f"{file.stem}-{number}{file.suffix}")]
        for ending in _ENDINGS
    ):
        number += 1
    kept = file.with_name(f"{file.stem}-{number}{file.suffix}")
    # SQLite removes the log of a file that is missing or empty, and with it all edits that stand there.
    if file.is_file() and file.stat().st_size:
        with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as connection:
            # Another program may have the file open, and its latest edits stand in the log.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for ending in _ENDINGS:
        if (found := file.with_name(file.name + ending)).exists() and (not ending or found.stat().st_size):
            os.replace(found, kept.with_name(kept.name + ending))
    return kept
