"""Learning again from the corrections, beside the page, and what the classifier then proposes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections import PROPOSALS_NAME, Proposals, State, read_proposals, refine, write_proposals
from kinfold.errors import FormatError, KinfoldError
from kinfold.run import Run

_log = logging.getLogger(__name__)


class Refining:
    """The proposals of a run, and the thread that makes new ones; one at a time.

    Parameters
    ----------
    run : Run
        The run.
    get_state : callable
        Gives the state to learn from.
    source : path, optional
        Where the features are now, if they were moved.
    """

    def __init__(self, run: Run, get_state: Callable[[], State], source: str | Path | None) -> None:
        self._run = run
        self._get_state = get_state
        self._source = source
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self.text = ""
        self._read: tuple[int, Proposals | None] = (-1, None)
        self._left: tuple[Proposals | None, int, NDArray[np.int64]] = (None, -1, np.empty(0, np.int64))
        self._by_row: tuple[NDArray[np.int64] | None, dict[int, int]] = (None, {})

    @property
    def state(self) -> str:
        """``"running"``, ``"ready"`` where there are proposals, else ``"none"``."""
        if self._thread is not None and self._thread.is_alive():
            return "running"
        return "ready" if self.proposals() is not None else "none"

    def start(self) -> None:
        """Begin, unless it is going on already."""
        with self._guard:
            if self._thread is None or not self._thread.is_alive():
                self.text = "Getting ready"
                self._thread = threading.Thread(target=self._work, name="kinfold-refine", daemon=True)
                self._thread.start()

    def proposals(self) -> Proposals | None:
        """Return the last proposals, those of `kinfold refine` included; None where there are none."""
        path = self._run.path / PROPOSALS_NAME
        with self._guard:
            try:
                stamp = path.stat().st_mtime_ns if path.is_file() else -1
                if stamp != self._read[0]:
                    self._read = (stamp, read_proposals(self._run))
            except (FormatError, OSError) as error:
                self._read = (stamp, None)
                self.text = str(error)
            return self._read[1]

    def left(self, state: State) -> NDArray[np.int64]:
        """Return which proposals can still be accepted, the surest first: numbers of their list."""
        proposals = self.proposals()
        if proposals is None:
            return np.empty(0, np.int64)
        if self._left[0] is proposals and self._left[1] == state.version:
            return self._left[2]
        rows = self._run.assignments["row"].to_numpy()
        places = np.searchsorted(rows, proposals.rows)
        takers = np.array([one.id for one in state.groups.values() if one.alive and not one.locked], np.int64)
        left = (
            (state.labels[places] == proposals.from_groups)
            & ~state.by_hand[places]
            & np.isin(proposals.groups, takers)
            & np.isin(proposals.from_groups, takers)
        )
        order = np.argsort(-proposals.confidences, kind="stable")
        found: NDArray[np.int64] = order[left[order]]
        self._left = (proposals, state.version, found)
        return found

    def proposed(self, state: State) -> dict[int, int]:
        """Return the group that is proposed for each row, of proposals that can still be accepted."""
        proposals = self.proposals()
        if proposals is None:
            return {}
        left = self.left(state)
        if self._by_row[0] is not left:
            rows, groups = proposals.rows[left].tolist(), proposals.groups[left].tolist()
            self._by_row = (left, dict(zip(rows, groups, strict=True)))
        return self._by_row[1]

    def _work(self) -> None:
        try:
            made = refine(self._run, self._get_state(), source=self._source, progress=_Told(self))
            write_proposals(self._run, made)
            self.text = ""
        except (KinfoldError, OSError, MemoryError) as error:
            self.text = str(error) or type(error).__name__
        except Exception:
            _log.exception("learning from the corrections failed")
            self.text = "Learning failed; what `kinfold explore` printed says why."


class _Told:
    """Progress as the one line that the page shows."""

    def __init__(self, refining: Refining) -> None:
        self._refining = refining

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "") -> Iterator[_ToldTask]:
        yield _ToldTask(self._refining, description, total)


class _ToldTask:
    def __init__(self, refining: Refining, description: str, total: int | None) -> None:
        self._refining, self._description, self._total, self._done = refining, description, total, 0
        self.advance(0)

    def advance(self, n: int = 1, **figures: object) -> None:
        """Move on."""
        self._done += n
        part = f", {min(100, 100 * self._done // self._total)} %" if self._total else ""
        self._refining.text = f"{self._description}{part}"
