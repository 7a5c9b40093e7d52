"""One export as its writer sees it: the images to write, and how their files are linked or copied."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kinfold.errors import InputError, nearest_name
from kinfold.exports._takeaway import Takeaway
from kinfold.images import EXTENSIONS, SkipReason, UnusableImage, sniff
from kinfold.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kinfold.images import ImageSource

LINKS = ("auto", "hard", "symlink", "copy")
_ENDINGS = {"JPEG": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}

_STEP = 256
_SHARD = 10_000

Namer = Callable[[int, str, str], Path]
"""Line of the table, key and ending of an image -> where it goes, below the export."""


@dataclass(frozen=True)
class Original:
    """One image as it is found: a file of its own, or bytes out of an archive or a table.

    Attributes
    ----------
    path : Path or None
        The file, links followed.
    data : bytes
        The image, where it has no file.
    ending : str
        What its name should end in, in lower case: ``.jpg``.
    """

    path: Path | None
    data: bytes
    ending: str


def check_link(link: str) -> None:
    """Raise :class:`InputError` for a way of linking that doesn't exist."""
    if link not in LINKS:
        raise InputError(
            f"link must be one of {', '.join(LINKS)}, not {link!r}{nearest_name(str(link), list(LINKS))}"
        )


def find_original(images: ImageSource, row: int) -> Original:
    """Find the image of a row.

    Raises
    ------
    UnusableImage
        It isn't there any more, or can't be read.
    """
    path = images.path(row)
    ending = os.path.splitext(images.keys[row])[1].lower()
    known = ending in EXTENSIONS
    if path is None:
        data = images.read(row)
        return Original(None, data, ending if known else _ending_of(data))
    file = _resolve(path)
    if not known:
        with file.open("rb") as stream:
            ending = _ending_of(stream.read(64))
    return Original(file, b"", ending)


def place(original: Original, target: Path, link: str) -> None:
    """Put an image where nothing is yet.

    Parameters
    ----------
    original : Original
        The image.
    target : Path
        The new file; its folder exists.
    link : str
        What to do with a file: ``"hard"``, ``"symlink"`` (absolute), ``"copy"``, or ``"auto"``: a hard link
        where the file system allows it, else a copy.

    Raises
    ------
    InputError
        The link that was asked for isn't possible there.
    """
    if original.path is None:
        target.write_bytes(original.data)
        return
    if link == "copy" or (link == "auto" and not _link(original.path, target)):
        shutil.copyfile(original.path, target)
    elif link == "symlink":
        os.symlink(original.path, target)
    elif link == "hard" and not _link(original.path, target):
        raise InputError(
            f"{original.path} can't be hard-linked from {target.parent}: another file system, or one without "
            "hard links, or no right to; use copies (link='copy', --copy)"
        )


def _link(path: Path, target: Path) -> bool:
    try:
        os.link(path, target)
    except OSError:
        if target.exists():
            raise
        return False
    return True


def _resolve(path: Path) -> Path:
    """Return the regular file behind a path; :class:`UnusableImage` where there is none to be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UnusableImage(SkipReason.NOT_A_FILE, "something else is there now")
        if not os.access(path, os.R_OK):
            raise UnusableImage(SkipReason.UNREADABLE, "permission denied")
        return path.resolve() if path.is_symlink() else path.absolute()
    except FileNotFoundError:
        raise UnusableImage(SkipReason.MISSING, "the file isn't there") from None
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a NUL in a path of a table
        reason = getattr(error, "strerror", None) or str(error)
        raise UnusableImage(SkipReason.UNREADABLE, reason) from None


def _ending_of(data: bytes) -> str:
    kind = sniff(data)
    return "" if kind is None else _ENDINGS.get(kind, f".{kind.lower()}")


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
        How files get into a folder, see :func:`~kinfold.exports._job.place`.
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
        n_rows = int(self.takeaway.run.manifest["source"]["n_rows"])
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
