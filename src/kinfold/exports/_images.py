"""Getting images to another place: by link or copy, written out of archives, never changing the originals."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kinfold.errors import InputError, nearest_name
from kinfold.images import EXTENSIONS, SkipReason, UnusableImage, sniff

if TYPE_CHECKING:
    from kinfold.images import ImageSource

LINKS = ("auto", "hard", "symlink", "copy")
_ENDINGS = {"JPEG": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}


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
