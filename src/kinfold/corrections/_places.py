"""Where the corrections of a run are: a file for each of its levels, and those that were put aside."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from kinfold.corrections._store import CORRECTIONS_NAME, connect

_ENDINGS = ("", "-wal", "-journal")  # of the file, and of the logs that SQLite writes beside it
_STEM = Path(CORRECTIONS_NAME).stem
_IN_USE = re.compile(rf"({_STEM}(?:-level-[1-9][0-9]*)?\.sqlite)(?:-wal)?")


def corrections_name(level: int | None) -> str:
    """Return the file of the corrections of a level of so many groups; None is that of the fit.

    Each level has a file of its own, so that no file is moved when another level is shown: whoever has one
    open writes into the one that it read.
    """
    return CORRECTIONS_NAME if level is None else f"{_STEM}-level-{level}.sqlite"


def has_corrections(path: Path, level: int | None) -> bool:
    """Tell whether a level was ever corrected.

    A log alone is what is left of a file that someone took away.
    """
    name = corrections_name(level)
    return any(os.path.lexists(path / one) for one in (name, f"{name}-wal"))


def list_corrections(path: Path) -> list[Path]:
    """Return the files of all levels of the run at ``path``, without those that were put aside."""
    found = {match[1] for file in path.glob(f"{_STEM}*") if (match := _IN_USE.fullmatch(file.name))}
    return [path / name for name in sorted(found)]


def list_corrected_levels(path: Path) -> list[int | None]:
    """Return the levels of the run at ``path`` that were ever corrected; None is that of the fit."""
    names = [file.stem.removeprefix(_STEM).removeprefix("-level-") for file in list_corrections(path)]
    return [int(name) if name else None for name in names]


def count_edits(file: Path) -> int:
    """Return how many edits of a file hold, whatever groups they are of.

    Raises
    ------
    sqlite3.Error, ValueError
        The file is damaged.
    """
    if not file.is_file() or not file.stat().st_size:
        return 1  # only a log is left, which may hold any number
    holding: set[int] = set()
    with closing(connect(file, "ro")) as connection:
        for number, kind, payload in connection.execute("SELECT id, kind, payload FROM edits ORDER BY id"):
            if kind == "undo":
                holding.discard(json.loads(payload)["edit"])
            else:
                holding.add(json.loads(payload)["edit"] if kind == "redo" else number)
    return len(holding)


def set_aside(file: Path) -> Path:
    """Rename corrections of groups that a run no longer has, and return where they are now."""
    number = 1
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
