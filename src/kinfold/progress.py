"""Progress bars: the interface that the library calls and that the command line draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class ProgressTask(Protocol):
    """One bar."""

    def advance(self, n: int = 1, **figures: object) -> None:
        """Move on by ``n`` units; ``figures`` (``loss=1.2``) are shown beside the bar."""


class Progress(Protocol):
    """Shows progress."""

    def task(
        self, description: str, total: int | None, unit: str = ""
    ) -> AbstractContextManager[ProgressTask]:
        """Open a bar of ``total`` units (unknown when None), closed when the context ends."""


class _SilentTask:
    def advance(self, n: int = 1, **figures: object) -> None:
        """Show nothing."""


class SilentProgress:
    """Shows nothing; the default everywhere in the library."""

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "") -> Iterator[ProgressTask]:
        """Yield a task that shows nothing."""
        yield _SilentTask()


SILENT = SilentProgress()
