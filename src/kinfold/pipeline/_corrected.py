"""The groups of a run as people corrected them, as every command takes them."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections import (
    Corrections,
    State,
    corrections_name,
    count_edits,
    first_state,
    has_corrections,
    list_corrections,
    names_of,
    set_aside,
)
from kinfold.errors import FormatError, InputError, KinfoldError, OtherGroupsError, count_of
from kinfold.run import Manifest, Run, read_manifest

if TYPE_CHECKING:
    from kinfold.gallery import Shown

logger = logging.getLogger(__name__)

_NO_GROUP = -1
_BROKEN = (sqlite3.Error, ValueError, KeyError)
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
        if not has_corrections(run.path, run.level):
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
    manifest = read_manifest(path)
    files = list_corrections(path)
    if not files:
        return
    n_corrections, told = _count_corrections(path, manifest, files)
    if not n_corrections or (reason := why()) is None:
        return
    if not force:
        raise InputError(
            f"{path} was corrected by hand ({told}), and would get other groups because {reason}; it was "
            "left as it is. Choose another folder (out=, --out), or replace it (force=True, --force)"
        )
    for file in files:
        logger.warning("the corrections of %s are kept as %s", path, set_aside(file).name)


def _count_corrections(path: Path, manifest: Manifest, files: list[Path]) -> tuple[int, str]:
    """Return how many corrections of all levels hold, and in words."""
    if "assign" not in manifest.stages:
        return 1, "how often can't be told, as the run isn't finished"
    shown = path / corrections_name(Run(path, manifest).level)
    try:
        n_corrections = CorrectedGroups.of(Run.open(path)).n_corrections if shown in files else 0
        n_corrections += sum(count_edits(file) for file in files if file != shown)
    except (FormatError, *_BROKEN) as error:  # of the groups or of the corrections: there may be any number
        return 1, f"how often can't be told: {error}"
    return n_corrections, count_of(n_corrections, "correction")
