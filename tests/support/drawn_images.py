"""A source of drawn images that notes what it is asked for; workers import this, so it imports little."""

from __future__ import annotations

import io

from PIL import Image

from kinfold.images import ImageSource, SkipReason, UnusableImage


def encoded(kind: str, size=(40, 30), **options) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(stream, kind, **options)
    return stream.getvalue()


class Noting(ImageSource):
    """Images that note the order in which they are asked for; those in ``missing`` aren't there."""

    kind, uri = "made", "made"

    def __init__(self, n: int) -> None:
        self.keys = [str(row) for row in range(n)]
        self.asked: list[int] = []
        self.missing = {7}

    def read(self, row: int) -> bytes:
        return encoded("PNG", (8, 8))

    def locate(self, row: int):
        self.asked.append(row)
        if row in self.missing:
            raise UnusableImage(SkipReason.MISSING, "the file isn't there")
        return row

    def reader(self):
        return Plain()

    def fingerprint(self) -> str:
        return "made"


class Plain:
    """What workers read by: the same picture always."""

    def read(self, locator) -> bytes:
        return encoded("PNG", (8, 8))
