"""CSV and Parquet: a million rows in seconds, in batches."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from kinfold._version import __version__
from kinfold.exports._job import Job

logger = logging.getLogger(__name__)

COLUMNS = ("row", "key", "cluster", "name", "confidence", "original_cluster", "mark", "by_hand")
PARQUET_KEY = b"kinfold-export"
_ROW_GROUP_SIZE = 1 << 17
_FORMULA = r"^[=+\-@\t\r]"


def write_csv(job: Job) -> None:
    """Write the table as CSV: UTF-8, comma, quotes where needed, nothing for a missing value."""
    table = job.takeaway.table.select(COLUMNS)
    warn_of_formulas(table)
    write_csv_table(table, job.target)


def write_csv_table(table: pa.Table, path: Path) -> None:
    """Write any table as CSV in the same way."""
    options = pyarrow.csv.WriteOptions(quoting_style="needed", quoting_header="none")
    pyarrow.csv.write_csv(table, path, options)


def write_parquet(job: Job) -> None:
    """Write the table as Parquet, its types kept."""
    write_parquet_table(job.takeaway.table.select(COLUMNS), job.target, "parquet")


def write_parquet_table(table: pa.Table, path: Path, to: str) -> None:
    """Write a Parquet file that says in its metadata which export it is."""
    mark = json.dumps({"to": to, "format_version": 1, "kinfold": __version__})
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), PARQUET_KEY: mark.encode()})
    pq.write_table(table, path, compression="zstd", row_group_size=_ROW_GROUP_SIZE)


def is_our_csv(path: Path) -> bool:
    """Tell whether a file begins as :func:`write_csv` begins."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return next(csv.reader([stream.readline(1000)]), None) == list(COLUMNS)
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def is_our_parquet(path: Path, to: str = "parquet") -> bool:
    """Tell whether a file says that :func:`write_parquet_table` wrote it for ``to``."""
    try:
        mark = (pq.read_schema(path).metadata or {}).get(PARQUET_KEY)
        return mark is not None and json.loads(mark).get("to") == to
    except (pa.ArrowException, OSError, ValueError):
        return False


def warn_of_formulas(table: pa.Table) -> None:
    """Warn of texts that a spreadsheet would run; they are written as they are, so that keys stay keys."""
    found = [
        count
        for name in ("key", "name")
        if (count := pc.sum(pc.match_substring_regex(table[name].cast(pa.large_string()), _FORMULA)).as_py())
    ]
    if found:
        logger.warning(
            "%d keys or names begin with =, +, -, @, a tab or a line break: in a spreadsheet import these "
            "columns as text, else it takes them for formulas",
            sum(found),
        )
