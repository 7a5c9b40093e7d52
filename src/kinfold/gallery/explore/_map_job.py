"""Compute a map in a process of its own: the server's side, and the process itself.

The process is ``python -m kinfold.gallery.explore._map_job``. The order is one line of JSON on its standard
input; progress and result are lines of JSON on its standard output. When standard input closes, the server
has ended, and the process ends too.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import kinfold
from kinfold.errors import FormatError, KinfoldError, MissingExtraError
from kinfold.gallery.explore._map import Map, read_map
from kinfold.run import Run

logger = logging.getLogger(__name__)

WORKER = "kinfold.gallery.explore._map_job"
_NICENESS = 10  # lower priority than the server, so that the page stays responsive


@dataclass(frozen=True)
class MapState:
    """State of the map of a run.

    Attributes
    ----------
    state : {"none", "running", "ready", "unavailable"}
        ``"none"`` also after a failure, which ``text`` then describes.
    progress : float
        Finished fraction of the current step, in [0, 1].
    text : str
        Description for the page.
    """

    state: str
    progress: float = 0.0
    text: str = ""


class MapJob:
    """The map of a run: read once, computed on request, by one process at a time.

    It has a process of its own, because UMAP takes minutes and can only be stopped by ending its process.

    Parameters
    ----------
    run : Run
        The run.
    features : path, optional
        Where its features are now, if they were moved.
    writable : bool, default True
        Whether a map may be computed and written into the run.
    """

    def __init__(self, run: Run, *, features: str | Path | None = None, writable: bool = True) -> None:
        self._run, self._features, self._writable = run, features, writable
        self._guard = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._map: Map | None = None
        self._stopped = False
        self._state = self._look()

    @property
    def state(self) -> MapState:
        """The current state."""
        return self._state

    @property
    def map(self) -> Map | None:
        """The map, once it is ready."""
        return self._map

    def start(self) -> MapState:
        """Start to compute the map, unless it is ready, being computed or unavailable."""
        with self._guard:
            if self._stopped or self._state.state != "none" or not self._writable:
                return self._state
            moved = None if self._features is None else str(self._features)
            order = {"run": str(self._run.path.resolve()), "features": moved}
            try:
                self._process = _spawn(order)
            except OSError as error:
                self._state = MapState("none", text=f"The map couldn't be started: {error}")
                return self._state
            self._state = MapState("running", text="Getting ready")
            self._reader = threading.Thread(target=self._follow, args=(self._process,), daemon=True)
            self._reader.start()
            return self._state

    def stop(self) -> None:
        """Kill the process, if there is one; a map that the run had before is kept."""
        with self._guard:
            self._stopped = True
            process, reader = self._process, self._reader
        if process is not None and process.poll() is None:
            process.kill()
        if reader is not None:
            reader.join(timeout=10)

    def _look(self) -> MapState:
        try:
            self._map = read_map(self._run)
        except FormatError as error:
            return MapState("none", text=str(error))
        if self._map is not None:
            return MapState("ready", progress=1.0)
        if not self._writable:
            return MapState("unavailable", text="This run has no map, and nothing may be written here.")
        if importlib.util.find_spec("umap") is None:
            return MapState("unavailable", text=str(MissingExtraError("The map", "umap-learn", "map")))
        return MapState("none")

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        end = MapState("none", text="The map was not finished: its process ended early.")
        with process.stdout:
            for line in process.stdout:
                end = self._handle(_parse(line), end)
        process.wait()
        _close(process.stdin)
        if end.state == "ready":
            try:
                end = self._look()
            except (KinfoldError, OSError) as error:
                end = MapState("none", text=str(error))
        if end.state != "ready":
            logger.warning("no map: %s", end.text)
        with self._guard:
            self._process, self._state = None, end

    def _handle(self, fact: dict[str, object], end: MapState) -> MapState:
        """Handle one line of the process; return the final state if no other line follows."""
        if "step" in fact:
            step = str(fact["step"])
            self._state = MapState("running", float(str(fact["progress"])), step[:1].upper() + step[1:])
        if "unavailable" in fact:
            return MapState("unavailable", text=str(fact["unavailable"]))
        if "failed" in fact:
            return MapState("none", text=f"The map could not be made: {fact['failed']}")
        return MapState("ready") if "ready" in fact else end


def _spawn(order: dict[str, str | None]) -> subprocess.Popen[str]:
    home = str(Path(kinfold.__file__).parent.parent)
    places = [home, os.environ.get("PYTHONPATH", "")]
    # a new interpreter, not a fork: the server has threads, and may use a GPU
    process = subprocess.Popen(
        [sys.executable, "-m", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(place for place in places if place)},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    return process


def _parse(line: str) -> dict[str, object]:
    try:
        fact = json.loads(line)
    except ValueError:
        return {}  # output of a library
    return fact if isinstance(fact, dict) else {}


def _close(stream: IO[str] | None) -> None:
    try:
        if stream is not None:
            stream.close()
    except BrokenPipeError:
        return


class PipedProgress:
    """Progress as lines of JSON on standard output."""

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "") -> Iterator[_PipedTask]:
        """Start a step."""
        yield _PipedTask(description, total)


class _PipedTask:
    def __init__(self, description: str, total: int | None) -> None:
        self._description, self._total, self._done, self._reported = description, total, 0, -1
        self.advance(0)

    def advance(self, n: int = 1, **figures: object) -> None:
        """Count ``n`` more; a line is written for each percent at most."""
        self._done += n
        part = 100 * self._done // self._total if self._total else 0
        if part != self._reported:
            self._reported = part
            say({"step": self._description, "progress": part / 100})


def say(fact: dict[str, object]) -> None:
    """Write one line for the server."""
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Compute the map that standard input asks for: ``{"run": path, "features": path or null}``."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_server, daemon=True).start()
    if hasattr(os, "nice"):
        with suppress(OSError):
            os.nice(_NICENESS)  # refused in some containers; only speed depends on it
    try:
        _compute(order)
    except MissingExtraError as error:
        say({"unavailable": str(error)})
    except (KinfoldError, OSError, MemoryError) as error:
        say({"failed": str(error) or type(error).__name__})
    except Exception as error:  # a library's: the page says what it was, where a traceback would reach nobody
        say({"failed": f"{type(error).__name__}: {error}"[:500]})
    else:
        say({"ready": True})


def _compute(order: dict[str, str | None]) -> None:
    from kinfold.gallery.explore._map import compute_map
    from kinfold.run import Run

    compute_map(Run.open(str(order["run"])), features=order.get("features"), progress=PipedProgress())


def _exit_with_server() -> None:
    while sys.stdin.read(1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
