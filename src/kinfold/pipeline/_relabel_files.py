"""The folder that relabelling writes: whose it is, and its tables."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError
from kinfold.language import Calibration, Relabeling, RelabelReport, WalkAccuracy
from kinfold.storage import (
    atomic_file,
    check_format_version,
    check_place,
    read_json,
    remove_partials,
    write_json,
)

FORMAT = "kinfold-relabeling"
FORMAT_VERSION = 1
REPORT_NAME = "report.json"
LABELS_NAME = "labels.parquet"
MOVES_NAME = "moves.csv"
CALIBRATION_NAME = "calibration.csv"
LEVELS_NAME = "levels.csv"
SHEET_NAME = "sheet.html"
FEATURES_NAME = "features"
TEXTS_NAME = "texts"
_RESULTS = (LABELS_NAME, MOVES_NAME, CALIBRATION_NAME, LEVELS_NAME, SHEET_NAME)

LABELS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("before", pa.string()),
        ("after", pa.string()),
        ("confidence", pa.float32()),
        ("n_steps", pa.int32()),
    ]
)


def check_folder(out: Path) -> None:
    """Refuse a folder that holds something else than a relabelling, finished or not.

    Raises
    ------
    InputError
        There is something else.
    FormatError
        The relabelling there is damaged, or of a newer format.
    """
    check_place(out)
    if not (out.exists() or out.is_symlink()):
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; give a folder (out=, --out)")
    report = out / REPORT_NAME
    if report.is_file():
        read_report(out)
    elif any(entry.name != ".lock" and not entry.name.startswith(".partial-") for entry in out.iterdir()):
        raise InputError(
            f"{out} holds something that `kinfold relabel` didn't write; it was left as it is. Choose a new "
            "or empty folder (out=, --out)"
        )


def read_report(out: Path) -> dict[str, Any]:
    """Return what ``report.json`` says.

    Raises
    ------
    InputError
        It is the report of something else.
    FormatError
        It is damaged, or of a newer format.
    """
    path = out / REPORT_NAME
    if not path.is_file():
        raise InputError(f"there is no relabelling at {out}; {REPORT_NAME} is missing")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} was not written by `kinfold relabel`; choose another folder (out=, --out)")
    check_format_version(path, content.get("format_version"), FORMAT_VERSION)
    return content


def begin_folder(out: Path) -> None:
    """Mark the folder as a relabelling that isn't finished; earlier results go, features stay."""
    remove_partials(out)
    write_report(out, {}, complete=False)
    for name in _RESULTS:
        (out / name).unlink(missing_ok=True)


def write_report(out: Path, content: dict[str, Any], *, complete: bool = True) -> dict[str, Any]:
    """Write ``report.json`` and return what it says."""
    whole = {"format": FORMAT, "format_version": FORMAT_VERSION, "complete": complete, **content}
    write_json(out / REPORT_NAME, whole)
    return whole


def write_labels(
    path: Path,
    rows: NDArray[np.int64],
    keys: Any,
    before: NDArray[np.int32],
    found: Relabeling,
    ids: Sequence[str],
) -> None:
    """Write the class of every usable image before and after; nothing where it has none."""
    names = pa.array(ids, pa.string())
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    columns = [
        pa.array(rows, pa.int64()),
        keys.cast(pa.string()),
        names.take(pa.array(before, pa.int32(), mask=before < 0)),
        names.take(pa.array(found.labels, pa.int32(), mask=found.labels < 0)),
        pa.array(found.confidences, pa.float32(), mask=np.isnan(found.confidences)),
        pa.array(found.steps, pa.int32()),
    ]
    with atomic_file(path) as partial:
        table = pa.Table.from_arrays(columns, schema=LABELS_SCHEMA)
        pq.write_table(table, partial, compression="zstd", row_group_size=1 << 17, store_schema=False)


def read_labels_table(path: Path) -> pa.Table:
    """Read ``labels.parquet`` back; :class:`FormatError` where it is missing or damaged."""
    try:
        return pq.read_table(path).select(LABELS_SCHEMA.names).cast(LABELS_SCHEMA)
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise FormatError(f"{path} is missing or damaged ({reason}); relabel again") from error


def write_moves(path: Path, report: RelabelReport, ids: Sequence[str], names: Sequence[str]) -> None:
    """Write from which class to which how many images moved, most first."""
    moves = zip(report.before.tolist(), report.after.tolist(), report.counts.tolist(), strict=True)
    rows = ((ids[a], names[a], ids[b], names[b], count) for a, b, count in moves)
    _write_csv(path, ("before", "before_name", "after", "after_name", "count"), rows)


def write_calibration(path: Path, found: Sequence[Calibration]) -> None:
    """Write the curves: per choice of candidates and bin how many, how right, how sure."""
    rows = (
        (one.candidates, _number(low), _number(high), count, _number(right), _number(sure))
        for one in found
        for low, high, count, right, sure in zip(
            one.curve.edges[:-1].tolist(),
            one.curve.edges[1:].tolist(),
            one.curve.counts.tolist(),
            one.curve.accuracies.tolist(),
            one.curve.confidences.tolist(),
            strict=True,
        )
    )
    _write_csv(path, ("candidates", "above", "up_to", "count", "accuracy", "confidence"), rows)


def write_levels(path: Path, found: WalkAccuracy) -> None:
    """Write how often the choice at classes of each depth went towards the known label."""
    figures = zip(found.counts.tolist(), found.accuracies.tolist(), found.chances.tolist(), strict=True)
    rows = (
        (depth, count, _number(right), _number(chance))
        for depth, (count, right, chance) in enumerate(figures)
    )
    _write_csv(path, ("depth", "count", "accuracy", "chance"), rows)


def _number(value: float) -> str:
    return "" if value != value else f"{value:.6g}"


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
