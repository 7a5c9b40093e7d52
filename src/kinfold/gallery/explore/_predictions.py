"""Predictions of a run's model as a run of their own, which the page shows by group and doesn't change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kinfold.corrections import Corrections, Rename
from kinfold.errors import FormatError, InputError
from kinfold.images import ImageSource, open_source
from kinfold.paths import arrow_path
from kinfold.reading import reading
from kinfold.run import (
    ASSIGNMENTS_NAME,
    NAMED_PREDICTIONS_SCHEMA,
    SKIPPED_SCHEMA,
    Run,
    is_predictions,
    leave_out_further,
    read_table,
    write_assignments,
    write_manifest,
    write_skipped,
)
from kinfold.tables import TextTable

_GIVE = "give the Parquet or CSV file that `kinfold predict` wrote"
_MEND = "predict again"
_STRAY, _STRAYS = -1, "belongs nowhere"  # what fits no group, and what the page calls the group of these
_COPIED = ("backbone", "parameters", "seed", "machine")  # sections that say how the run was made


@contextmanager
def predictions_as_run(run: Run, path: Path, source: str | Path | None) -> Iterator[tuple[Run, ImageSource]]:
    """Write predictions as a run into a temporary folder; yield it and the images, and remove it at the end.

    Parameters
    ----------
    run : Run
        The run whose model made them.
    path : path
        The Parquet or CSV file that ``kinfold predict`` wrote.
    source : path or None
        Where their images are.

    Raises
    ------
    InputError
        ``source`` is missing, or its images are others than those of the predictions.
    FormatError
        ``path`` isn't a file of predictions.
    """
    from kinfold.methods import TopClusters  # imports PyTorch, which the page of a run needs later, if at all

    table = _read(path)
    if source is None:
        raise InputError(
            f"say where the images of {path} are: --source FOLDER, as it was given to `kinfold predict`"
        )
    images = open_source(source)
    _check_keys(table, images, path, source)
    with TemporaryDirectory(prefix="kinfold-predictions-") as home:
        folder = Path(home) / (path.stem or "predictions")
        folder.mkdir()
        clusters = table["cluster"].to_numpy().astype(np.int32)
        strays = clusters == _STRAY
        n_groups = max(run.n_clusters, int(clusters.max(initial=-1)) + 1)
        if strays.any():  # the page shows them as one more group
            clusters[strays] = n_groups
            n_groups += 1
        sure = table["confidence"].to_numpy().astype(np.float32)
        best = TopClusters(clusters[:, None], sure[:, None])
        write_assignments(folder / ASSIGNMENTS_NAME, table["row"].to_numpy(), _plain(table["key"]), best)
        write_skipped(folder / "skipped.parquet", _skipped(path))
        sections: dict[str, Any] = {name: run.manifest[name] for name in _COPIED if name in run.manifest}
        sections["parameters"] = {**run.manifest.parameters, "n_clusters": n_groups}
        sections["source"] = {
            "kind": images.kind,
            "uri": images.uri,
            "images": images.uri,
            "n_rows": len(images),
            "fingerprint": images.fingerprint(),
        }
        write_manifest(folder, {**sections, "stages": {"fit": {}, "assign": {}}})
        made = Run.open(folder)
        _name(made, table)
        if strays.any():
            with Corrections.open(made) as corrections:
                corrections.apply(Rename(n_groups - 1, _STRAYS))
        yield made, images


def _read(path: Path) -> pa.Table:
    if path.is_dir():
        raise InputError(f"{path} is a folder, whose images need no page; {_GIVE}")
    if not path.is_file():
        raise InputError(f"there is no file {path}; {_GIVE}")
    if _is_csv(path):
        table = _read_csv(path, NAMED_PREDICTIONS_SCHEMA)
    elif is_predictions(path):
        with reading(path, _MEND):
            table = pq.read_table(arrow_path(path))
    else:
        raise FormatError(f"{path} isn't a file of predictions; {_GIVE}")
    rows = table["row"].to_numpy()
    if any(table[name].null_count for name in ("row", "key", "cluster", "confidence")):
        raise FormatError(f"{path} is damaged: a row lacks a value; predict again")
    if (np.diff(rows) <= 0).any() or (table["cluster"].to_numpy() < _STRAY).any():
        raise FormatError(f"{path} is damaged: its rows aren't in order; predict again")
    return table


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _read_csv(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a table that `kinfold predict` wrote as CSV, or that a spreadsheet saved since."""
    with reading(path, _MEND):
        text = TextTable.open(path, is_path=lambda cell: False)
        if leave_out_further(text.names) != schema.names:
            raise FormatError(f"{path} isn't a file of predictions; {_GIVE}")
        cells = list(zip(*text.rows(), strict=True))[: len(schema)] or [()] * len(schema)
        columns = [pa.array([cell or None for cell in column], pa.string()) for column in cells]
        return pa.table(
            [column.cast(field.type) for column, field in zip(columns, schema, strict=True)], schema
        )


def _check_keys(table: pa.Table, images: ImageSource, path: Path, source: str | Path) -> None:
    for row, key in zip(table["row"].to_pylist(), table["key"].to_pylist(), strict=True):
        found = images.keys[row] if row < len(images) else None
        if found != key:
            raise InputError(
                f"the images at {source} aren't those of {path}: row {row} is {key!r} there, and "
                f"{'missing' if found is None else repr(str(found))} here; give the folder that was "
                "predicted (--source)"
            )


def _plain(keys: pa.ChunkedArray) -> pa.Array:
    return keys.combine_chunks()


def _skipped(path: Path) -> pa.Table:
    """Return the list that lies beside predictions of which some images couldn't be used."""
    beside = path.with_name(f"{path.stem}.skipped.{'csv' if _is_csv(path) else 'parquet'}")
    if not beside.is_file():
        return SKIPPED_SCHEMA.empty_table()
    return _read_csv(beside, SKIPPED_SCHEMA) if _is_csv(path) else read_table(beside, SKIPPED_SCHEMA, _MEND)


def _name(run: Run, table: pa.Table) -> None:
    if "name" not in table.column_names:
        return
    pairs = zip(table["cluster"].to_pylist(), table["name"].to_pylist(), strict=True)
    with Corrections.open(run) as corrections:
        for group, name in sorted({pair for pair in pairs if pair[1]}):
            corrections.apply(Rename(group, name))
