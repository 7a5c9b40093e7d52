"""``levels.json``, ``levels.safetensors`` and ``levels.parquet`` of a run: its tree of groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load, save

from kinfold.errors import FormatError, InputError
from kinfold.levels._levels import Levels
from kinfold.methods import MergeTree
from kinfold.reading import check_fields, check_regular, is_count, reason_of
from kinfold.run import Run, locate_whole, read_table, write_table
from kinfold.storage import atomic_file, check_format_version, read_json, write_json

FORMAT = "kinfold-levels"
FORMAT_VERSION = 1
LEVELS_NAME, CENTERS_NAME, PARTS_NAME = "levels.json", "levels.safetensors", "levels.parquet"
LEVEL_FILES = (LEVELS_NAME, CENTERS_NAME, PARTS_NAME)
PARTS_SCHEMA = pa.schema([("row", pa.int64()), ("key", pa.string()), ("part", pa.int32())])

_MEND = "repeat the `kinfold cluster` command with the same --out to write it anew"
_KINDS: dict[str, Any] = {
    "n_clusters": is_count,
    "part_clusters": list,
    "part_sizes": list,
    "merges": list,
    "similarities": list,
    "estimate?": (dict, None),
}


@dataclass(frozen=True)
class RunLevels:
    """The levels of a run.

    Attributes
    ----------
    levels : Levels
        The tree.
    parts : ndarray (N,) int32
        Part of every usable image, in the order of ``assignments``.
    estimate : dict or None
        How the number of groups was estimated, where it was: see
        :meth:`~kinfold.methods.LevelEstimate.as_dict`.
    """

    levels: Levels
    parts: NDArray[np.int32]
    estimate: dict[str, Any] | None = None

    def labels(self, n_groups: int) -> NDArray[np.int32]:
        """Return the group of every usable image (N,) at a level, before any correction."""
        return self.levels.groups(n_groups)[self.parts]


def write_levels(
    directory: Path,
    levels: Levels,
    rows: NDArray[np.int64],
    keys: pa.Array,
    parts: NDArray[np.int32],
    estimate: dict[str, Any] | None = None,
) -> None:
    """Write the three files, each whole or not at all.

    Parameters
    ----------
    directory : Path
        The run.
    levels : Levels
        The tree.
    rows, keys : ndarray (N,) int64, pyarrow.Array of string
        Row in the source and key of every usable image.
    parts : ndarray (N,) int32
        Its part.
    estimate : dict, optional
        How the number of groups was estimated.
    """
    write_parts(directory / PARTS_NAME, rows, keys, parts)
    with atomic_file(directory / CENTERS_NAME) as partial:
        partial.write_bytes(save({"centers": np.ascontiguousarray(levels.centers, np.float32)}))
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "n_clusters": levels.n_clusters,
        "part_clusters": levels.part_clusters.tolist(),
        "part_sizes": levels.part_sizes.tolist(),
        "merges": levels.tree.merges.tolist(),
        "similarities": levels.tree.similarities.tolist(),
        "estimate": estimate,
    }
    write_json(directory / LEVELS_NAME, content)


def write_parts(path: Path, rows: NDArray[np.int64], keys: pa.Array, parts: NDArray[np.int32]) -> None:
    """Write the part of every usable image, as ``levels.parquet`` has it."""
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    columns = [pa.array(rows, pa.int64()), keys.cast(pa.string()), pa.array(parts, pa.int32())]
    write_table(path, pa.Table.from_arrays(columns, schema=PARTS_SCHEMA))


def has_levels(run: Run) -> bool:
    """Tell whether a run has levels; those of Kinfold before there were any have none."""
    return "levels" in run.manifest.stages


def open_levels(run: Run) -> RunLevels:
    """Read the levels of a run, after comparing the files with the hashes that were recorded of them.

    Raises
    ------
    InputError
        The run has none: it was made before Kinfold knew levels.
    FormatError
        A file is missing or damaged.
    """
    if not has_levels(run):
        raise InputError(
            f"{run.path} has no levels; repeat the `kinfold cluster` command with the same --out, which adds "
            "them and keeps the groups"
        )
    for name in LEVEL_FILES:
        locate_whole(run.path, run.manifest, name, _MEND)
    levels, estimate = _read_tree(run.path)
    table = read_table(run.path / PARTS_NAME, PARTS_SCHEMA, _MEND)
    parts: NDArray[np.int32] = table["part"].to_numpy()
    if len(parts) != len(run.labels) or (
        len(parts) and not 0 <= int(parts.min()) <= int(parts.max()) < levels.n_parts
    ):
        raise FormatError(f"{run.path / PARTS_NAME} doesn't fit the run; {_MEND}")
    return RunLevels(levels, parts, estimate)


def _read_tree(directory: Path) -> tuple[Levels, dict[str, Any] | None]:
    path, centers = directory / LEVELS_NAME, directory / CENTERS_NAME
    for file in (path, centers):
        if not file.is_file():
            raise FormatError(f"{file} is missing; {_MEND}")
        check_regular(file, _MEND)
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError(f"{path} doesn't hold levels of Kinfold; {_MEND}")
    check_format_version(path, content.get("format_version"), FORMAT_VERSION)
    check_fields(path, content, _KINDS, _MEND)
    try:
        levels = Levels(
            int(content["n_clusters"]),
            np.asarray(content["part_clusters"], dtype=np.int32),
            np.asarray(content["part_sizes"], dtype=np.int64),
            load(centers.read_bytes())["centers"],
            MergeTree(
                np.asarray(content["merges"], dtype=np.int32).reshape(-1, 2),
                np.asarray(content["similarities"], dtype=np.float64),
            ),
        )
        levels.check_whole()
    except Exception as error:
        raise FormatError(f"{path} is damaged ({reason_of(error)}); {_MEND}") from error
    return levels, content.get("estimate")
