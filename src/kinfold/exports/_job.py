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

from kinfold.errors import InputError
from kinfold.exports._takeaway import Takeaway
from kinfold.images import EXTENSIONS, SkipReason, UnusableImage, sniff
from kinfold.progress import Progress
from kinfold.validation import check_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kinfold.images import ImageSource

LINKS = ("auto", "hard", "symlink", "copy")
# where the suffix isn't the lower-case name of the format
_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}

_STEP = 256  # images between two updates of the progress
_SHARD = 10_000  # files of one folder; file managers and network drives slow down with more

Namer = Callable[[int, str, str], Path]
"""From row of the table, key and suffix of an image to its path below the export."""


@dataclass(frozen=True)
class Original:
    """An original image: a file, or bytes from an archive or a table.

    Attributes
    ----------
    path : Path or None
        The file, with symbolic links resolved; None where the image has no file of its own.
    data : bytes
        The encoded image, where it has no file; else empty.
    suffix : str
        Suffix for its name, in lower case: ``.jpg``.
    """

    path: Path | None
    data: bytes
    suffix: str


def check_link(link: str) -> None:
    """Raise :class:`InputError` for an unknown way of linking."""
    check_choice(LINKS, link=link)


def find_original(images: ImageSource, row: int) -> Original:
    """Return the original image of a row.

    Raises
    ------
    UnusableImage
        It is missing or can't be read.
    """
    path = images.path(row)
    suffix = os.path.splitext(images.keys[row])[1].lower()
    known = suffix in EXTENSIONS
    if path is None:
        data = images.read(row)
        return Original(None, data, suffix if known else _suffix_of(data))
    file = _resolve(path)
    if not known:
        with file.open("rb") as stream:
            suffix = _suffix_of(stream.read(64))
    return Original(file, b"", suffix)


def place(original: Original, target: Path, link: str) -> None:
    """Write an image to a new file.

    Parameters
    ----------
    original : Original
        The image.
    target : Path
        The new file; its folder exists.
    link : str
        How: ``"hard"``, ``"symlink"`` (absolute), ``"copy"``, or ``"auto"``, a hard link where the file
        system allows it, else a copy. Images without a file are always written out.

    Raises
    ------
    InputError
        The link isn't possible between these folders.
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
            f"{original.path} can't be hard-linked from {target.parent}: it is on another file system, or "
            "hard links aren't supported or permitted; use copies (link='copy', --copy)"
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
    """Return the regular file behind a path; :class:`UnusableImage` if it is missing or unreadable."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UnusableImage(SkipReason.NOT_A_FILE, "it is no longer a regular file")
        if not os.access(path, os.R_OK):
            raise UnusableImage(SkipReason.UNREADABLE, "permission denied")
        return path.resolve() if path.is_symlink() else path.absolute()
    except FileNotFoundError:
        raise UnusableImage(SkipReason.MISSING, "the file isn't there") from None
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # a cycle of links, or a NUL character in a path of a table
        reason = getattr(error, "strerror", None) or str(error)
        raise UnusableImage(SkipReason.UNREADABLE, reason) from None


def _suffix_of(data: bytes) -> str:
    kind = sniff(data)
    return "" if kind is None else _SUFFIXES.get(kind, f".{kind.lower()}")


@dataclass(frozen=True)
class Missing:
    """An image whose original could not be exported, by row and key, and the reason."""

    row: int
    key: str
    reason: str


@dataclass
class Job:
    """What the writer of a format gets.

    Attributes
    ----------
    takeaway : Takeaway
        The run and its corrections.
    target : Path
        File to write, or empty folder to fill; it is temporary, and renamed when the writer returns.
    images : ImageSource or None
        The original images; None where they aren't known.
    link : str
        How files get into a folder; see :func:`~kinfold.exports._job.place`.
    progress : Progress
        Shows the steps.
    missing : list of Missing
        Images without original; the writer appends to it.
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
        """Write the images of some rows of the table; yield row, path below the target and image of each.

        An original that is missing is added to :attr:`missing` and skipped.
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
                    file = name(line, key, original.suffix)
                    if file.parent not in folders:
                        (self.target / file.parent).mkdir(parents=True, exist_ok=True)
                        folders.add(file.parent)
                    place(original, self.target / file, self.link)
                    yield line, file, original
                if done % _STEP == 0 or done == len(places):
                    task.advance(done - (done - 1) // _STEP * _STEP)

    def number_images(self, folder: str) -> Iterator[tuple[dict[str, Any], Path, Original]]:
        """Write all images below ``folder``, named by their row.

        Numbers are safe where keys aren't: loaders read words like *test* in a path as a split. More than
        10,000 images are spread over subfolders of at most that many. Yields the row of the table as a
        dictionary, the path below ``folder``, and the image.
        """
        n_rows = int(self.takeaway.run.manifest.source["n_rows"])
        width, part_width = (len(str(max(n_rows - 1, 0) // step)) for step in (1, _SHARD))
        rows = self.takeaway.table["row"].to_numpy()

        def name(line: int, key: str, suffix: str) -> Path:
            row = int(rows[line])
            part = Path(folder, f"{row // _SHARD:0{part_width}d}") if n_rows > _SHARD else Path(folder)
            return part / f"{row:0{width}d}{suffix.lower()}"

        # place_images skips missing images, so rows are read on until they meet
        records = enumerate(self.takeaway.lines())
        for line, file, original in self.place_images(np.arange(len(rows)), name):
            record = next(record for at, record in records if at == line)
            yield record, file.relative_to(folder), original
