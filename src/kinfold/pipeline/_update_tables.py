"""The tables of a run after an update: old images keep their groups, new ones get those of the model."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from dataclasses import replace as replace_in
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.compute import Runtime
from kinfold.corrections import (
    Corrections,
    add_to_splits,
    corrections_name,
    has_corrections,
    hash_base,
    list_corrected_levels,
    read_additions,
)
from kinfold.errors import OtherGroupsError
from kinfold.features import FeatureStore
from kinfold.levels import Levels, RunLevels, has_levels, open_levels
from kinfold.methods import TopClusters, predict_top
from kinfold.pipeline._corrected import CorrectedGroups
from kinfold.rows import SelectedRows
from kinfold.run import N_TOP, Run, make_assignments
from kinfold.typicality import read_reference

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpdatedTables:
    """The tables of a run after an update.

    Attributes
    ----------
    assignments : pyarrow.Table
        Old images with the groups that they have, new ones with those that the model gives.
    fresh : ndarray (n,) int64
        Rows of new images.
    parts : ndarray (N,) int32 or None
        Part of every image, where the run has levels.
    clusters : ndarray (N,) int32 or None
        Its group of the fit, where the run has levels.
    closeness : ndarray (N,) float32 or None
        How close it is to others, where the run knows that.
    splits : pyarrow.Table
        Parts of groups that were split for new images.
    bases : dict of str to list of str
        By file of corrections, hashes of the groups before.
    """

    assignments: pa.Table
    fresh: NDArray[np.int64]
    parts: NDArray[np.int32] | None
    clusters: NDArray[np.int32] | None
    closeness: NDArray[np.float32] | None
    splits: pa.Table
    bases: dict[str, list[str]]

    @classmethod
    def of(
        cls, run: Run, keys: pa.Array, gone: NDArray[np.bool_], features: FeatureStore, runtime: Runtime
    ) -> UpdatedTables:
        """Make them.

        Parameters
        ----------
        run : Run
            The run before.
        keys : pyarrow.Array of string
            Key of every row now.
        gone : ndarray of bool
            Whether the image of each row is gone.
        features : FeatureStore
            Of the rows now.
        runtime : Runtime
            Where to compute.
        """
        rows = run.assignments["row"].to_numpy()
        stays = ~gone[rows]
        fresh = np.setdiff1d(features.rows, rows[stays])
        variant = run.manifest.features["variant"]
        new = SelectedRows(features.matrix(variant), np.searchsorted(features.rows, fresh))
        tree = open_levels(run) if has_levels(run) else None
        top, parts = _place(run, tree, new, runtime)
        old = run.assignments.filter(pa.array(stays))
        old = old.set_column(old.schema.get_field_index("key"), "key", keys.take(old["row"]))
        both = [old, name_alike(make_assignments(fresh, keys.take(pa.array(fresh)), top), run)]
        assignments = pa.concat_tables(both).sort_by("row")
        order = np.argsort(np.concatenate([rows[stays], fresh]), kind="stable")
        all_parts = None if tree is None else np.concatenate([tree.parts[stays], parts])[order]
        found = cls(
            assignments=assignments,
            fresh=fresh,
            parts=all_parts,
            clusters=None if tree is None else tree.levels.part_clusters[all_parts],
            closeness=None,
            splits=read_additions(run),
            bases=find_bases(run),
        )
        if (reference := read_reference(run)) is not None and run.closeness is not None:
            closeness = [run.closeness[stays], reference.closeness(new, device=str(runtime.device))]
            found = replace_in(found, closeness=np.concatenate(closeness)[order])
        return replace_in(found, splits=found._find_splits(run, tree, top.clusters[:, 0], parts, new))

    def _find_splits(
        self,
        run: Run,
        tree: RunLevels | None,
        clusters: NDArray[np.int32],
        parts: NDArray[np.int32],
        matrix: SelectedRows,
    ) -> pa.Table:
        """Put new images into the parts of split groups, at all levels that were corrected."""
        tables = [self.splits.filter(pc.invert(pc.is_in(self.splits["row"], pa.array(self.fresh))))]
        for level in list_corrected_levels(run.path):
            shown = _at_level(run, tree, level)
            if shown is None or not has_corrections(run.path, level):
                continue
            own = clusters if level == run.level else _groups_at(tree, level)[parts]
            try:
                with Corrections.open(shown, write=False) as corrections:
                    if corrections.splits() and len(own):
                        groups = CorrectedGroups.of(shown).assign(own, matrix)
                        name, splits = corrections.path.name, corrections.splits()
                        tables.append(add_to_splits(name, corrections.state, splits, self.fresh, groups))
            except OtherGroupsError as error:  # of an earlier fit
                logger.warning("%s", error)
        return pa.concat_tables(tables)


def _place(
    run: Run, tree: RunLevels | None, X: SelectedRows, runtime: Runtime
) -> tuple[TopClusters, NDArray[np.int32]]:
    """Return the best groups of new images at the level that a run shows, and their parts."""
    n_top = min(N_TOP, run.n_clusters)
    if not len(X):
        empty = TopClusters(np.zeros((0, n_top), np.int32), np.zeros((0, n_top), np.float32))
        return empty, np.zeros(0, np.int32)
    model = run.load_model(device=str(runtime.device))
    if tree is None:
        return predict_top(model, X, n_top=N_TOP), np.zeros(len(X), np.int32)
    levels: Levels = tree.levels
    return levels.top(model, X, run.level or levels.n_clusters, N_TOP), levels.predict_parts(model, X)


def name_alike(table: pa.Table, run: Run) -> pa.Table:
    """Name new images as the others of their groups are."""
    before = run.assignments
    clusters, places = np.unique(before["cluster"].to_numpy(), return_index=True)
    names = {group: one.noun for group, one in run.names.items()}
    names |= dict(zip(clusters.tolist(), before["name"].take(pa.array(places)).to_pylist(), strict=True))
    found = pa.array([names.get(group) for group in table["cluster"].to_pylist()], pa.string())
    return table.set_column(table.schema.get_field_index("name"), "name", found)


def _groups_at(tree: RunLevels | None, level: int | None) -> NDArray[np.int32]:
    """Return the group of every part at a level; None is that of the fit."""
    assert tree is not None
    return tree.levels.part_clusters if level is None else tree.levels.groups(level)


def _at_level(run: Run, tree: RunLevels | None, level: int | None) -> Run | None:
    """Return a run with the groups of a level, as far as corrections need them; None if it has no such."""
    if level == run.level:
        return run
    if tree is None or (level is not None and not 1 <= level <= tree.levels.n_parts):
        return None
    labels = _groups_at(tree, level)[tree.parts]
    place = run.assignments.schema.get_field_index("cluster")
    table = run.assignments.set_column(place, "cluster", pa.array(labels, pa.int32()))
    section = None if level is None else {"n_groups": level, "n_clusters": tree.levels.count(level)}
    return run.at_level(section, table)


def find_bases(run: Run) -> dict[str, list[str]]:
    """Return by file of corrections the hashes of the groups that its edits may be of, with those of now."""
    tree = open_levels(run) if has_levels(run) else None
    known = (run.manifest.updates or {}).get("bases", {})
    found = {name: set(bases) for name, bases in known.items()}
    for level in {run.level, *list_corrected_levels(run.path)}:
        if (shown := _at_level(run, tree, level)) is not None:
            found.setdefault(corrections_name(level), set()).add(hash_base(shown))
    return {name: sorted(bases) for name, bases in sorted(found.items())}


def compare_groups(before: CorrectedGroups, run: Run) -> tuple[dict[str, Any], ...]:
    """Return number, name, size of every group now, and how many images came and went."""
    after = CorrectedGroups.of(run)
    counts = []
    for one, other in ((after, before), (before, after)):
        rows = one.run.assignments["row"].to_numpy()
        alone = ~np.isin(rows, other.run.assignments["row"].to_numpy())
        counts.append(Counter(one.labels[alone].tolist()))
    return tuple(
        {
            "cluster": group["cluster"],
            "name": group["name"],
            "size": group["size"],
            "came": counts[0][group["cluster"]],
            "went": counts[1][group["cluster"]],
        }
        for group in after.count()
    )
