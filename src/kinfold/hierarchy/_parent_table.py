"""Parent tables of the user: who stands below whom, as a mapping, pairs, or a file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kinfold.errors import InputError, nearest_name
from kinfold.hierarchy._links import Links

CHILD, PARENT = "child", "parent"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_PARQUET = (".parquet", ".pq")

Parents = Mapping[str, "str | Iterable[str] | None"]


def link(parents: Parents, what: str) -> tuple[tuple[str, ...], Links]:
    """Return the ids of a mapping from child to parents, in its order, and the links.

    Raises
    ------
    InputError
        It is no mapping or empty, an id is no text or empty, a parent has no entry of its own, is the child
        itself, or is named twice.
    """
    if not isinstance(parents, Mapping):
        raise InputError(
            f"{what} is made of a mapping from child to parents, not of {type(parents).__name__}"
        )
    if not parents:
        raise InputError(f"{what} has no class; it needs one at least")
    number_of = {child: number for number, child in enumerate(parents)}
    owners: list[int] = []
    values: list[int] = []
    for child, above in parents.items():
        _check_id(child, what)
        named = _named(child, above, what)
        for parent in named:
            _check_id(parent, what)
            if parent == child:
                raise InputError(f"{what}: {child!r} is its own parent")
            if parent not in number_of:
                hint = nearest_name(str(parent), list(number_of)) or "; give it one, with an empty parent"
                raise InputError(f"{what}: the parent {parent!r} of {child!r} has no entry of its own{hint}")
        if len(set(named)) < len(named):
            twice = next(parent for parent in named if named.count(parent) > 1)
            raise InputError(f"{what}: {child!r} has the parent {twice!r} twice")
        owners += [number_of[child]] * len(named)
        values += [number_of[parent] for parent in named]
    pairs = np.array(owners, dtype=np.int64), np.array(values, dtype=np.int32)
    return tuple(parents), Links.from_pairs(*pairs, len(parents))


def _named(child: str, above: str | Iterable[str] | None, what: str) -> list[str]:
    if above is None or isinstance(above, str):
        return [] if above is None else [above]
    if not isinstance(above, Iterable):
        raise InputError(f"{what}: {child!r} has the parents {above!r}, which are no texts")
    return list(above)


def _check_id(child: object, what: str) -> None:
    if not isinstance(child, str) or not child:
        raise InputError(f"{what}: ids must be texts that aren't empty, not {child!r}")


def read_parent_table(path: Path, child_column: str, parent_column: str) -> dict[str, list[str]]:
    """Read a file with one row per child and parent; an empty parent makes a root.

    Raises
    ------
    InputError
        The file can't be read or lacks a column, a child is empty, a pair is there twice, or a root has a
        parent in another row.
    """
    rows = _read_parquet if path.suffix.lower() in _PARQUET else _read_text
    parents: dict[str, list[str]] = {}
    roots: set[str] = set()
    for place, child, parent in rows(path, child_column, parent_column):
        if not child:
            raise InputError(f"{path}, row {place}: the child is empty")
        known = parents.setdefault(child, [])
        shown = repr(parent) if parent else "nothing"
        if parent in known or (not parent and child in roots):
            raise InputError(f"{path}, row {place}: {child!r} below {shown} is there twice")
        if (child in roots) if parent else bool(known):
            raise InputError(
                f"{path}, row {place}: {child!r} has an empty parent in one row and one in another"
            )
        if parent:
            known.append(parent)
        else:
            roots.add(child)
    return parents


def _read_text(path: Path, child_column: str, parent_column: str) -> Iterator[tuple[int, str, str]]:
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise InputError(f"{path} is no parent table: it must end in .csv, .tsv or .parquet")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
            _require(path, reader.fieldnames or [], child_column, parent_column)
            for row in reader:
                if None in row:
                    raise InputError(f"{path}, row {reader.line_num}: more fields than columns")
                yield reader.line_num, row[child_column] or "", row[parent_column] or ""
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} can't be read: {error}") from error


def _read_parquet(path: Path, child_column: str, parent_column: str) -> Iterator[tuple[int, str, str]]:
    try:
        _require(path, pq.read_schema(path).names, child_column, parent_column)
        table = pq.read_table(path, columns=[child_column, parent_column])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} can't be read: {error}") from error
    columns = [_texts(path, table, name) for name in (child_column, parent_column)]
    for place, (child, parent) in enumerate(zip(*columns, strict=True), start=1):
        yield place, child or "", parent or ""


def _texts(path: Path, table: Any, name: str) -> list[str | None]:
    kind = table.schema.field(name).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    known = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    if not any(fits(kind) for fits in known):  # null: where no class has a parent
        raise InputError(f"column {name!r} of {path} holds {kind}, not texts or whole numbers")
    texts: list[str | None] = table[name].cast(pa.string()).to_pylist()
    return texts


def _require(path: Path, names: Iterable[str], *wanted: str) -> None:
    known = list(names)
    for name in wanted:
        if name not in known:
            hint = nearest_name(name, known) or f"; it has {', '.join(known) or 'none'}"
            raise InputError(f"{path} has no column {name!r}{hint}")
