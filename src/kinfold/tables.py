"""Tables as people save them: the dialects of CSV, and the types of Parquet columns.

Spreadsheets write semicolons, tabs, UTF-16 and Windows-1252; scripts leave the header out; Arrow has half a
dozen types for a string. Whoever reads a table of images, of labels or of vectors reads it through this.
"""

from __future__ import annotations

import codecs
import csv
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from kinfold.errors import InputError
from kinfold.paths import is_image_name

PARQUET_SUFFIXES = (".parquet", ".pq")
TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, *PARQUET_SUFFIXES)

_TABS = (".tsv", ".tab")
# The longest mark first: UTF-32's begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HEAD_BYTES = 1 << 16  # enough to see a header and some lines
_HEAD_LINES = 20
_DELIMITERS = (",", ";", "\t", "|")
_NO_DELIMITER = "\x1f"  # for tables of one column, whose paths may hold commas: a character no name has
_SEPARATOR_LINE = re.compile(r"sep=(.)\Z", re.IGNORECASE)  # what Excel writes and obeys
# Five bytes stand for nothing in Windows-1252; ISO 8859-1 has control characters there.
_WESTERN = "windows-1252"

logger = logging.getLogger(__name__)


def is_parquet(path: str | Path) -> bool:
    """Tell whether a file is Parquet by its suffix, in upper or lower case."""
    return os.fspath(path).lower().endswith(PARQUET_SUFFIXES)


def value_type(kind: Any) -> Any:
    """Return the type of a column's values where the column is a dictionary, else the type itself."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: Any) -> bool:
    """Tell whether a column of this Arrow type holds strings: plain, large, views, or a dictionary."""
    return str(value_type(kind)) in ("string", "large_string", "string_view")


def is_bytes(kind: Any) -> bool:
    """Tell whether a column of this Arrow type holds bytes: plain, large, views, of one size, dictionary."""
    import pyarrow as pa

    kind = value_type(kind)
    return str(kind) in ("binary", "large_binary", "binary_view") or pa.types.is_fixed_size_binary(kind)


def is_list(kind: Any) -> bool:
    """Tell whether a column of this Arrow type holds several values per row."""
    import pyarrow as pa

    views = ("is_list_view", "is_large_list_view")  # newer than the oldest PyArrow that is supported
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in (*tests, *(getattr(pa.types, name, bool) for name in views)))


def as_strings(column: Any) -> Any:
    """Return a column of strings or integers as ``large_string``, which all of Arrow's functions take."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.large_string())


@dataclass(frozen=True)
class TextTable:
    """A CSV or TSV file, as its first lines show it to be.

    Attributes
    ----------
    path : str
        The file.
    names : tuple of str
        Its columns: those of the header, or names made up where there is none: ``path`` for the column of
        paths, ``column 2`` and so on for others.
    encoding, delimiter : str
        How to read it.
    skip : int
        Lines before the first row: the header, and Excel's ``sep=;``.
    has_made_up_names : bool
        Whether there is no header.
    """

    path: str
    names: tuple[str, ...]
    encoding: str
    delimiter: str
    skip: int
    has_made_up_names: bool = False

    @classmethod
    def open(cls, path: str | Path, is_path: Callable[[str], bool] = is_image_name) -> TextTable:
        """Find out encoding, delimiter and header of a file.

        Parameters
        ----------
        path : path
            The file.
        is_path : callable
            Tells whether a cell names an image, which no column's name does: then the first line is a row.

        Raises
        ------
        InputError
            The file can't be read, or is empty.
        """
        place = os.fspath(path)
        with _reading(place):
            encoding = _find_encoding(place)
            with _open_text(place, encoding) as stream:
                lines = list(islice(stream, _HEAD_LINES + 1))
        first = lines[0].strip("\r\n") if lines else ""
        told = _SEPARATOR_LINE.match(first)
        if told:
            lines = lines[1:]
        if not lines or not lines[0].strip():
            raise InputError(f"{place} is empty and can't be read; it needs a first line of column names")
        delimiter = told[1] if told else _find_delimiter(place, lines, is_path)
        with _reading(place):
            head = next(csv.reader(lines, delimiter=delimiter))
        if any(is_path(cell) for cell in head):
            names = _made_up(head, is_path)
            logger.warning(
                "%s has no header: its first line, %s, is read as an image; columns are called %s",
                place,
                lines[0].strip()[:200],
                ", ".join(names),
            )
            return cls(place, names, encoding, delimiter, int(bool(told)), True)
        return cls(place, tuple(head), encoding, delimiter, 1 + bool(told))

    def rows(self, *, strict: bool = False, quoted: bool = False) -> Iterator[list[str]]:
        """Yield the cells of every row that isn't blank; a row that is too short is filled up.

        Parameters
        ----------
        strict : bool
            Refuse rows with more cells than columns, unless these are blank; by default they are left out.
        quoted : bool
            Refuse quotes that aren't closed, or not at the end of their cell; by default they are taken as
            they come.

        Raises
        ------
        InputError
            The file is damaged.
        """
        width = len(self.names)
        blank = [""] * width
        with _reading(self.path), _open_text(self.path, self.encoding) as stream:
            reader = csv.reader(stream, delimiter=self.delimiter, strict=quoted)
            for line in islice(reader, self.skip, None):
                if not line:
                    continue
                if strict and any(cell.strip() for cell in line[width:]):
                    raise InputError(
                        f"line {reader.line_num} of {self.path} has {len(line)} cells, but there are {width} "
                        'columns; put cells that hold a comma or a line break between quotes: "a, b.jpg"'
                    )
                yield line[:width] if len(line) >= width else (line + blank)[:width]


class _reading:  # noqa: N801 - a context manager, used as a function
    """Say which file is damaged, where a library finds that out."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, OSError | UnicodeError | csv.Error):
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise InputError(
                f"{self._path} can't be read as a table: it is no CSV or TSV in UTF-8 or UTF-16 ({reason})"
            ) from error


def _open_text(path: str, encoding: str) -> IO[str]:
    return open(path, encoding=encoding, newline="", errors="_kinfold_western")


def _as_latin(error: UnicodeError) -> tuple[str, int]:
    """Read a byte that Windows-1252 has no character for as ISO 8859-1; other encodings stay strict."""
    if isinstance(error, UnicodeDecodeError) and error.encoding == "charmap":
        return error.object[error.start : error.end].decode("latin-1"), error.end
    raise error


codecs.register_error("_kinfold_western", _as_latin)


def _find_encoding(path: str) -> str:
    with open(path, "rb") as stream:
        head = stream.read(_HEAD_BYTES)
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                return encoding
        if not head:
            return "utf-8"
        # ASCII in UTF-16 has a zero in every second byte; some programs leave the mark away.
        for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            half, other = head[start::2], head[1 - start :: 2]
            if len(head) > 3 and half.count(0) > 0.6 * len(half) and not other.count(0):
                return encoding
        if head.count(0):
            raise InputError(
                f"{path} is no table of text; of a spreadsheet save the sheet as CSV (UTF-8), and give "
                "Parquet files the suffix .parquet"
            )
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while head:
                decoder.decode(head)
                head = stream.read(1 << 20)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            logger.warning(
                "%s is not in UTF-8: it is read as Windows-1252 (Western European); save it as UTF-8 if "
                "names come out wrong",
                path,
            )
            return _WESTERN
    return "utf-8"


def _find_delimiter(path: str, lines: list[str], is_path: Callable[[str], bool]) -> str:
    first = lines[0].strip("\r\n")
    own = "\t" if path.lower().endswith(_TABS) else ","
    if os.path.splitext(first)[0] and is_path(first) and not _splits_alike(lines, own):
        return _NO_DELIMITER  # a list of paths without a header, which may hold any delimiter
    for delimiter in (own, *_DELIMITERS):
        if _count_cells(first, delimiter) > 1:
            others = [one for one in _DELIMITERS if _count_cells(first, one) > _count_cells(first, delimiter)]
            better = next((one for one in others if _splits_alike(lines, one)), None)
            return better if better and not _splits_alike(lines, delimiter) else delimiter
    return _NO_DELIMITER


def _splits_alike(lines: list[str], delimiter: str) -> bool:
    """Tell whether a delimiter cuts the first lines into equally many cells, more than one."""
    counts = {_count_cells(line, delimiter) for line in lines if line.strip()}
    return len(counts) == 1 and counts != {1}


def _count_cells(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line.strip("\r\n")], delimiter=delimiter), []))
    except csv.Error:
        return 1


def _made_up(cells: list[str], is_path: Callable[[str], bool]) -> tuple[str, ...]:
    """Return names for the columns of a table without a header; with two, the other one is the label."""
    at = next(place for place, cell in enumerate(cells) if is_path(cell))
    names = [f"column {place + 1}" for place in range(len(cells))]
    names[at] = "path"
    if len(cells) == 2:
        names[1 - at] = "label"
    return tuple(names)
