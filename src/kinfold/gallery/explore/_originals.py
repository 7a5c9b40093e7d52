"""The run's images: where they are, opened beside the first requests, and what is shown of them."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from kinfold.errors import KinfoldError
from kinfold.gallery.explore._errors import NotFoundError
from kinfold.images import ImageSource, UnusableImage, describe_image
from kinfold.run import Run

_log = logging.getLogger(__name__)


class Originals:
    """The images that a run was made from, as far as they are still there.

    They are listed by a thread of its own, for listing a large folder takes a while.

    Parameters
    ----------
    run : Run
        The run.
    images : ImageSource or path, optional
        They, or where they are now, if they were moved.
    """

    def __init__(self, run: Run, images: ImageSource | str | Path | None = None) -> None:
        self._run = run
        self._opened: Future[ImageSource | None] = Future()
        self.trouble = ""
        if isinstance(images, ImageSource):
            self._opened.set_result(images)
        elif images is None and run.manifest.source.get("images") is None:
            self.trouble = "this run was made from ready features: it knows of no images"
            self._opened.set_result(None)
        else:
            threading.Thread(target=self._open, args=(images,), name="kinfold-listing", daemon=True).start()

    @property
    def are_there(self) -> bool:
        """Tell whether there are images to show, as far as is known by now."""
        return not self._opened.done() or self._opened.result() is not None

    def source(self) -> ImageSource:
        """Return the source, waiting until it is listed; raises :class:`NotFoundError`."""
        source = self._opened.result()
        if source is None:
            raise NotFoundError(self.trouble)
        return source

    def read(self, row: int) -> bytes:
        """Return an image's file; raises :class:`NotFoundError` with the reason."""
        try:
            return self.source().read(row)
        except UnusableImage as error:
            raise NotFoundError(str(error)) from error

    def describe(self, row: int) -> dict[str, Any]:
        """Return what is known of an image's file; ``missing`` says why, where nothing is."""
        facts: dict[str, Any] = {
            "path": None,
            "width": None,
            "height": None,
            "n_bytes": None,
            "format": None,
            "metadata": {},
            "missing": None,
        }
        try:
            source = self.source()
            path = source.path(row)
            facts["path"] = str(path) if path is not None else None
            data = source.read(row)
            facts["n_bytes"] = len(data)
            found = describe_image(data)
        except (UnusableImage, NotFoundError) as error:
            return {**facts, "missing": str(error)}
        return {
            **facts,
            "width": found.width,
            "height": found.height,
            "format": found.format,
            "metadata": dict(found.metadata),
        }

    def _open(self, images: str | Path | None) -> None:
        try:
            source = self._run.images(images)
        except (KinfoldError, OSError) as error:
            self.trouble, source = str(error), None
            _log.warning("no pictures: %s", error)
        self._opened.set_result(source)
