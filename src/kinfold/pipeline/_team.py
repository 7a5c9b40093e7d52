"""Several processes under ``torchrun``: the first does the work and writes, all join for the fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import distributed

from kinfold.distributed import Workers
from kinfold.errors import KinfoldError
from kinfold.features import Features
from kinfold.methods.protocol import Clusterer
from kinfold.pipeline._method import FitOrder
from kinfold.pipeline._source import (
    SourceLike,
)
from kinfold.progress import SILENT, Progress


@dataclass(frozen=True)
class _Done:
    """Message to the others: the run is written."""

    path: Path


@dataclass(frozen=True)
class _Failure:
    """Message to the others: the first process has failed."""

    message: str


class Team:
    """The processes of one call of ``cluster``.

    The first process leads: it does all stages alone, and between them tells the others what to join in. The
    others follow: they wait for its messages, hold no lock and write nothing.

    When the first fails while the others wait, they are told, and all end with its message. Who fails during
    the fit ends at once; the others notice the lost connection.

    Parameters
    ----------
    workers : Workers
        The processes of this job; there may be one only.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._joined = False

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Lead for as long as the context lasts; a failure in it ends all processes."""
        try:
            yield
        except BaseException as error:
            if not self._joined:
                with contextlib.suppress(RuntimeError):  # others that are gone need not be told
                    self._workers.broadcast(_Failure(str(error) or type(error).__name__))
            raise

    def fit(self, order: FitOrder, features: Features, progress: Progress) -> Clusterer:
        """Fit with all processes and return the estimator."""
        self._joined = True
        with _noticing_losses(self._workers):
            self._workers.broadcast(order)
            estimator = order.run(progress, features)
        self._joined = False
        return estimator

    def finish(self, path: Path) -> None:
        """Tell the others that the run at ``path`` is complete."""
        self._workers.broadcast(_Done(path))

    def follow(self, source: SourceLike) -> Path:
        """Join in what the first process asks for, until it is done; return its run.

        Parameters
        ----------
        source : path, ImageSource, Features, or images or vectors in memory
            What the caller of this process named; open features are used as they are.

        Raises
        ------
        KinfoldError
            The first process failed, or a process is lost.
        """
        while True:
            with _noticing_losses(self._workers):
                word = self._workers.broadcast(None)
                if isinstance(word, FitOrder):
                    word.run(SILENT, source if isinstance(source, Features) else None)
            if isinstance(word, _Failure):
                raise KinfoldError(f"the first process of this job stopped: {word.message}")
            if isinstance(word, _Done):
                return word.path


@contextmanager
def _noticing_losses(workers: Workers) -> Iterator[None]:
    """Turn what collective operations raise when a process of the job has ended into a KinfoldError."""
    try:
        yield
    except RuntimeError as error:
        if workers.size == 1 or not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        raise KinfoldError(
            "another process of this job has ended; its own message says why. What is done is kept: start "
            "the same command again to go on"
        ) from error
