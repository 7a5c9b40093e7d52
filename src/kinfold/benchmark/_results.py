"""Lines of figures that were measured: one per finished cell, only ever appended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Results:
    """A file of JSON lines, read anew at every question, so that several runs may append to it.

    Every line has a ``key``, which stands for everything that decides it, and a ``seed``; one with
    ``failed`` says why there are no figures.

    Parameters
    ----------
    path : Path
        Need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: Line) -> None:
        """Add a line by one write; what a killed process left of one stays a line that nobody reads."""
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+", buffering=0) as stream:
            if stream.tell():
                stream.seek(-1, 2)
                if stream.read(1) != b"\n":
                    text = "\n" + text
            stream.write(text.encode())
            os.fsync(stream.fileno())

    def read(self) -> dict[tuple[str, int], Line]:
        """Return the newest line of every (key, seed); a failure never hides a success."""
        found: dict[tuple[str, int], Line] = {}
        for line in self._lines():
            key = line["key"], line["seed"]
            if "failed" not in line or "failed" in found.get(key, line):
                found[key] = line
        return found

    def _lines(self) -> Iterator[Line]:
        if not self.path.exists():
            return
        for text in self.path.read_bytes().splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # the rest of a line that was being written
                continue
            if isinstance(line, dict) and {"key", "seed"} <= line.keys():
                yield line
