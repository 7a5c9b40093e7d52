"""Names of files: as archives, tables and labels write them, and as libraries can open them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_COMMON = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")
_RARE = (".avif", ".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm")
IMAGE_SUFFIXES = frozenset([*_COMMON, *_RARE, ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"])
"""Suffixes of image files, in lower case."""

_URI = re.compile(r"file:(?://[^/]*)?(?=/)", re.IGNORECASE)
_WEB = re.compile(r"(?:https?|s3|gs|ftp)://", re.IGNORECASE)
_LOCAL_DRIVE = re.compile(r"/[A-Za-z]:/")
_UNTIDY = r"\\|//|(?:^|/)\.\.?(?:/|$)|^/|^(?i:file):"  # what normalize_name changes


def normalize_name(name: str) -> str:
    r"""Return a name with ``/`` between its parts and without ``.``, ``..``, empty parts and a leading ``/``.

    The one rule for names in archives and for comparing keys: ``./a.png``, ``a//b.png``, ``a\b.png`` and
    ``/a.png`` mean what they would once unpacked. ``..`` takes away the part before it, and nothing at the
    top, so that no name leads out of its archive.

    Examples
    --------
    >>> [normalize_name(name) for name in ("./a.png", "x\\y//b.png", "/c.png", "../x/../d.png")]
    ['a.png', 'x/y/b.png', 'c.png', 'd.png']
    """
    parts: list[str] = []
    for part in strip_uri(name).replace("\\", "/").split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def normalize_keys(keys: Any) -> Any:
    """Return an Arrow array of strings with :func:`normalize_name` applied to those that need it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    untidy = pc.fill_null(pc.match_substring_regex(keys, _UNTIDY), False)
    if not pc.any(untidy).as_py():
        return keys
    tidy = [name if name is None else normalize_name(name) for name in keys.filter(untidy).to_pylist()]
    return pc.replace_with_mask(keys, untidy, pa.array(tidy, keys.type))


def strip_uri(name: str) -> str:
    """Return the path of a ``file://`` address, with ``%20`` as a space; other names stay."""
    found = _URI.match(name)
    if found is None:
        return name
    path = unquote(name[found.end() :], errors="surrogateescape")
    return path[1:] if _LOCAL_DRIVE.match(path) else path


def is_web_address(name: str) -> bool:
    """Tell whether a path is an address on the web or in an object store."""
    return _WEB.match(name) is not None


def is_image_name(name: str) -> bool:
    """Tell whether a name ends as those of images do."""
    return os.path.splitext(name.strip())[1].lower() in IMAGE_SUFFIXES


def arrow_path(path: str | Path, mode: str = "rb") -> Any:
    """Return what PyArrow can open: the path, or the open file where its name isn't UTF-8.

    PyArrow encodes names strictly, so that a folder from an old disk anywhere above a file would end in a
    traceback.

    Parameters
    ----------
    path : path
        A file.
    mode : str, default "rb"
        What it is opened for: ``"rb"`` or ``"wb"``.
    """
    if is_utf8(path):
        return os.fspath(path)
    import pyarrow as pa

    return pa.OSFile(os.fsencode(path), mode)


@contextmanager
def utf8_path(path: str | Path) -> Iterator[str]:
    """Yield a name for an existing file that is UTF-8, for libraries that can't read others."""
    if is_utf8(path):
        yield os.fspath(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


def is_utf8(path: str | Path) -> bool:
    """Tell whether a path is valid UTF-8; what isn't stands in it as lone surrogates."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True
