"""One export as its writer sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinfold.exports._images import Original, find_original, place
from kinfold.exports._takeaway import Takeaway
from kinfold.images import UnusableImage
from kinfold.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kinfold.images import ImageSource

_STEP = 256
_SHARD = 10_000

Namer = Callable[[int, str, str], Path]
"""Line of the table, key and ending of an image -> where it goes, below the export."""


@dataclass(frozen=True)
class Missing:
    """An image whose original could not be exported: row and key, and why."""

    row: int
    key: str
    reason: str


@dataclass
class Job:
    """What a writer works with.

    Attributes
    ----------
    takeaway : Takeaway
        The run and its corrections.
    target : Path
        The file to write, or an empty folder to fill; put into place when the writer is done.
    images : ImageSource or None
        The originals, where they are known.
    link : str
        How files get into a folder, see :func:`~kinfold.exports._images.place`.
    progress : Progress
        Shows the work.
    missing : list of Missing
        Filled by the writer.
    """

    takeaway: Takeaway
    target: Path
    images: ImageSource | None
    link: str
    progress: Progress
    missing: list[Missing] = field(default_factory=list)

    def place_images(
        self, places: Sequence[int] | NDArray[np.int64], name: Namer
    ) -> Iterator[tuple[int, Path, Original]]:
        """Put the images of some lines below the target; yield line, place below and image of each.

        An original that is gone is noted in :attr:`missing` and passed over.
        """
        assert self.images is not None
        rows, keys = (self.takeaway.table[name].combine_chunks() for name in ("row", "key"))
        folders: set[Path] = set()
        with self.progress.task("Exporting", len(places), "images") as task:
            for done, line in enumerate(map(int, places), start=1):
                row, key = rows[line].as_py(), keys[line].as_py()
                try:
                    original = find_original(self.images, row)
                except UnusableImage as trouble:
                    self.missing.append(Missing(row, key, str(trouble)))
                else:
                    file = name(line, key, original.ending)
                    if file.parent not in folders:
                        (self.target / file.parent).mkdir(parents=True, exist_ok=True)
                        folders.add(file.parent)
                    place(original, self.target / file, self.link)
                    yield line, file, original
                if done % _STEP == 0 or done == len(places):
                    task.advance(done - (done - 1) // _STEP * _STEP)

    def number_images(self, folder: str) -> Iterator[tuple[dict[str, Any], Path, Original]]:
        """Put all images below ``folder``, named by their row: a name that says nothing can't be misread.

        Above ten thousand images they are in subfolders of so many. Yields the line of the table, the place
        below ``folder``, and the image.
        """
        n_rows = int(self.takeaway.run.manifest.source["n_rows"])
        width, part_width = (len(str(max(n_rows - 1, 0) // step)) for step in (1, _SHARD))
        rows = self.takeaway.table["row"].to_numpy()

        def name(line: int, key: str, ending: str) -> Path:
            row = int(rows[line])
            part = Path(folder, f"{row // _SHARD:0{part_width}d}") if n_rows > _SHARD else Path(folder)
            return part / f"{row:0{width}d}{ending.lower()}"

        records = enumerate(self.takeaway.lines())
        for line, file, original in self.place_images(np.arange(len(rows)), name):
            record = next(record for at, record in records if at == line)
            yield record, file.relative_to(folder), original
