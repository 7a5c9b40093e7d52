"""Where an export may be written: never over other files, and over an earlier export only by force."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kinfold import storage
from kinfold.errors import FormatError, InputError
from kinfold.storage import read_json

MANIFEST_NAME = "manifest.json"
FORMAT = "kinfold-export"
FORMAT_VERSION = 1
# written by file managers when someone looks into a folder; not a change of the export
_CLUTTER = frozenset([".DS_Store", "Thumbs.db", "desktop.ini", ".directory"])
_ELSEWHERE = "choose another place (out=, --out)"


def check_place(out: Path, home: Path) -> None:
    """Raise :class:`InputError` for a path inside the run at ``home``, or below a file."""
    if out.resolve().is_relative_to(home.resolve()):
        raise InputError(f"{out} is inside the run {home}; {_ELSEWHERE}")
    storage.check_place(out)


def check_file(out: Path, is_ours: Callable[[Path], bool], suffixes: tuple[str, ...], *, force: bool) -> None:
    """Check that a file may be written: nothing is there, or by ``force`` an earlier export of its format.

    Raises
    ------
    InputError
        Something else is there, or the suffix is another one.
    """
    if out.is_dir() and not out.is_symlink():
        raise InputError(f"{out} is a folder; give the {suffixes[0]} file to write (out=, --out)")
    if out.suffix.lower() not in suffixes:
        raise InputError(f"{out} must end in {' or '.join(suffixes)}; change its name (out=, --out)")
    if not _is_taken(out):
        return
    if out.is_symlink() or not out.is_file() or not is_ours(out):
        raise InputError(_foreign(out))
    _ask_for_force(out, force)


def check_folder(out: Path, *, force: bool) -> None:
    """Check that a folder may be written: nothing or an empty folder is there, or by ``force`` an export.

    Raises
    ------
    InputError
        Something else is there, or an export that files were added to or removed from.
    """
    if not _is_taken(out):
        return
    if out.is_symlink() or not out.is_dir():
        raise InputError(_foreign(out))
    if next(out.iterdir(), None) is None:
        return
    manifest = read_manifest(out)
    if manifest is None:
        raise InputError(_foreign(out))
    _ask_for_force(out, force)
    if fingerprint(out) != manifest.get("files"):
        raise InputError(
            f"{out} is an export of Kinfold, but files were added or removed since; it was left as it is. "
            f"Move or remove it yourself, or {_ELSEWHERE}"
        )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of an exported folder; None for any other folder."""
    try:
        content = read_json(folder / MANIFEST_NAME)
    except (OSError, FormatError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the names of all files below a folder, except the manifest.

    Names are hashed, not contents, so that an export of a million images is checked in seconds. Files that
    file managers write, like ``.DS_Store``, are left out.
    """
    digest = hashlib.sha256()
    for name in _files(os.fsencode(folder)):  # bytes, because a name needn't be valid Unicode
        digest.update(name + b"\0")
    return digest.hexdigest()


def _files(top: bytes) -> Iterator[bytes]:
    for folder, folders, files in os.walk(top):
        folders.sort()  # in place, which os.walk follows: its own order depends on the file system
        inside = os.path.relpath(folder, top)
        if not folders and not files:
            yield inside + b"/"
        for name in sorted(files + [name for name in folders if os.path.islink(os.path.join(folder, name))]):
            if os.fsdecode(name) in _CLUTTER or (inside == b"." and os.fsdecode(name) == MANIFEST_NAME):
                continue
            yield inside + b"/" + name


def _is_taken(out: Path) -> bool:
    return out.exists() or out.is_symlink()


def _foreign(out: Path) -> str:
    return f"{out} exists and isn't an earlier export of this kind; it was left as it is; {_ELSEWHERE}"


def _ask_for_force(out: Path, force: bool) -> None:
    if not force:
        raise InputError(f"{out} is an earlier export; --force (force=True) replaces it, or {_ELSEWHERE}")
