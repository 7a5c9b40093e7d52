"""The process that lays out a map: ``python -m kinfold.gallery.explore._map_worker``.

The order is one line of JSON on standard input; how far it is and how it ended are lines of JSON on standard
output. When standard input closes, whoever ordered the map is gone, and the work ends too.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kinfold.errors import KinfoldError, MissingExtraError

_NICENESS = 10


class PipedProgress:
    """Progress as lines of JSON on standard output."""

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "") -> Iterator[_PipedTask]:
        """Open a step of the work."""
        yield _PipedTask(description, total)


class _PipedTask:
    def __init__(self, description: str, total: int | None) -> None:
        self._description, self._total, self._done, self._told = description, total, 0, -1
        self.advance(0)

    def advance(self, n: int = 1, **figures: object) -> None:
        """Move on; a line is written for every hundredth part at most."""
        self._done += n
        part = 100 * self._done // self._total if self._total else 0
        if part != self._told:
            self._told = part
            say({"step": self._description, "progress": part / 100})


def say(fact: dict[str, object]) -> None:
    """Write one line for whoever ordered the work."""
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Carry out the order on standard input: ``{"run": path, "features": path or null}``."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_other_side, daemon=True).start()
    if hasattr(os, "nice"):
        with suppress(OSError):
            os.nice(_NICENESS)  # the page goes first
    try:
        _compute(order)
    except MissingExtraError as error:
        say({"unavailable": str(error)})
    except (KinfoldError, OSError, MemoryError) as error:
        say({"failed": str(error) or type(error).__name__})
    else:
        say({"ready": True})


def _compute(order: dict[str, str | None]) -> None:
    from kinfold.gallery.explore._map import compute_map
    from kinfold.run import Run

    compute_map(Run.open(str(order["run"])), features=order.get("features"), progress=PipedProgress())


def _end_with_the_other_side() -> None:
    while sys.stdin.read(1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
