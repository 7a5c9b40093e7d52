"""The run as the server shows it now: another level takes its place as a whole, between two requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from starlette.concurrency import run_in_threadpool

from kinfold.corrections import LevelChange, switch_level
from kinfold.errors import InputError, KinfoldError, UnwritableError
from kinfold.gallery.explore._errors import ConflictError, ForbiddenError
from kinfold.gallery.explore._explorer import Explorer, Options
from kinfold.run import Run

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_log = logging.getLogger(__name__)


class TakeLevel(Protocol):
    """What makes another level the groups of a run, as :func:`kinfold.corrections.switch_level` does."""

    def __call__(self, run: Path, n_groups: int | None, /, *, features: str | None) -> LevelChange:
        """Change the run at a path; its features are at ``features``, if they were moved."""


class _Shown:
    """A run as it was opened, the application of its routes, and the requests that are being answered."""

    def __init__(self, explorer: Explorer, app: ASGIApp) -> None:
        self.explorer = explorer
        self.app = app
        self._guard = threading.Lock()
        self._n_open = 0
        self._retired = False

    def enter(self) -> bool:
        """Count a request; False where another run took this one's place."""
        with self._guard:
            self._n_open += not self._retired
            return not self._retired

    def leave(self) -> None:
        with self._guard:
            self._n_open -= 1
        self._close_if_idle()

    def retire(self) -> None:
        """Close the run once its last request is answered."""
        with self._guard:
            self._retired = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        with self._guard:
            if not self._retired or self._n_open:
                return
        # in a thread: a map that is being computed is told to stop
        threading.Thread(target=self.explorer.close_groups, name="kinfold-closing", daemon=True).start()


class Current:
    """ASGI application of a run whose groups may change as a whole.

    Every request is answered by one opened run from its beginning to its end. When `kinfold level`, here or
    in another process, makes another level the run's groups, the run is opened again and takes the place of
    the old one, which ends with its last request. Pictures are shared: they stay the same.

    Parameters
    ----------
    run : Run
        The run.
    options : Options
        Options of the server.
    make_app : callable
        Makes the application of the routes.
    take_level : callable
        Makes another level the run's groups.

    Attributes
    ----------
    before : int or None
        The level that was shown before the last change; None before the first. For the fit's own it is the
        number of its groups.
    """

    def __init__(
        self,
        run: Run,
        options: Options,
        make_app: Callable[[Current, Explorer], ASGIApp],
        take_level: TakeLevel = switch_level,
    ) -> None:
        self._options = options
        self._take_level = take_level
        self._make_app = make_app
        self._switching = threading.Lock()
        self.before: int | None = None
        explorer = Explorer(run, options)
        self._shown = _Shown(explorer, make_app(self, explorer))
        self._seen = _stamp(run.path)

    @property
    def explorer(self) -> Explorer:
        """The run as it is shown now."""
        return self._shown.explorer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by the run as it is now."""
        if scope["type"] == "http" and _stamp(self.explorer.run.path) not in (None, self._seen):
            await run_in_threadpool(self._look)
        shown = self._shown
        while not shown.enter():
            shown = self._shown
        try:
            await shown.app(scope, receive, send)
        finally:
            shown.leave()

    def switch(self, n_groups: int | None) -> LevelChange:
        """Make another level the run's groups, as ``kinfold level`` does; return what was carried over.

        Parameters
        ----------
        n_groups : int or None
            The level; None for the groups of the fit.

        Raises
        ------
        ForbiddenError
            The run is read-only.
        ConflictError
            There is no such level, or another process holds the run.
        """
        with self._switching:
            explorer = self.explorer
            if explorer.corrections.refusal is not None:
                raise ForbiddenError(explorer.corrections.refusal)
            before = explorer.levels.shown
            try:
                change = self._take_level(explorer.run.path, n_groups, features=explorer.moved_features)
            except UnwritableError:
                raise
            except InputError as error:
                raise ConflictError(str(error)) from error
            self._reopen()
            self.before = before
            return change

    def close(self) -> None:
        """Stop the processes and close the files."""
        self.explorer.close()

    def _look(self) -> None:
        """Open the run again where another process made another level its groups."""
        with self._switching:
            stamp = _stamp(self.explorer.run.path)
            if stamp == self._seen:
                return
            explorer = self.explorer
            try:
                if Run.open(explorer.run.path).manifest.level != explorer.run.manifest.level:
                    before = explorer.levels.shown if explorer.levels.are_there else None
                    self._reopen()
                    self.before = before
            except (KinfoldError, OSError) as error:
                # Requests say what is wrong, and the next one looks again.
                _log.warning("%s can't be opened again: %s", explorer.run.path, error)
                return
            self._seen = stamp

    def _reopen(self) -> None:
        old = self._shown
        stamp = _stamp(old.explorer.run.path)
        explorer = Explorer(Run.open(old.explorer.run.path), self._options, before=old.explorer)
        self._shown = _Shown(explorer, self._make_app(self, explorer))
        self._seen = stamp
        old.retire()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return inode, modification time and size of the manifest; None where it isn't there."""
    try:
        status = (path / "manifest.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
