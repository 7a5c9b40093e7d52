"""Where an export may be written: never over what isn't one, and over one only if asked to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kinfold.errors import FormatError, InputError
from kinfold.storage import read_json

MANIFEST_NAME = "manifest.json"
FORMAT = "kinfold-export"
FORMAT_VERSION = 1
_CLUTTER = frozenset([".DS_Store", "Thumbs.db", "desktop.ini", ".directory"])
_ELSEWHERE = "choose another place (out=, --out)"


def check_place(out: Path, home: Path) -> None:
    """Refuse a place inside the run at ``home``, or below something that is no folder."""
    run = home.resolve()
    if out.resolve().is_relative_to(run):
        raise InputError(f"{out} is inside the run {home}; {_ELSEWHERE}")
    for parent in out.absolute().parents:
        if parent.exists() or parent.is_symlink():
            if not parent.is_dir():
                raise InputError(f"{out} can't be written: {parent} is no folder; {_ELSEWHERE}")
            return


def check_file(out: Path, is_ours: Callable[[Path], bool], endings: tuple[str, ...], *, force: bool) -> None:
    """Refuse to write a file over anything but an earlier export of its kind, and that only by ``force``.

    Raises
    ------
    InputError
        It says what is there.
    """
    if out.is_dir() and not out.is_symlink():
        raise InputError(f"{out} is a folder; give the {endings[0]} file to write (out=, --out)")
    if out.suffix.lower() not in endings:
        raise InputError(f"{out} should end in {' or '.join(endings)}; change its name (out=, --out)")
    if not _is_taken(out):
        return
    if out.is_symlink() or not out.is_file() or not is_ours(out):
        raise InputError(_foreign(out))
    _ask_for_force(out, force)


def check_folder(out: Path, *, force: bool) -> None:
    """Refuse to write a folder over anything but nothing, an empty one, or by ``force`` an earlier export.

    Raises
    ------
    InputError
        It says what is there; also an export that files were put into, or taken from, is left alone.
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
            f"{out} is an export of Kinfold, but files were added or taken away since; it was left as it is. "
            "Move or remove it yourself, or choose another place (out=, --out)"
        )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return what an exported folder says of itself; None of any other one."""
    try:
        content = read_json(folder / MANIFEST_NAME)
    except (OSError, FormatError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the names of all files below a folder, but for the manifest and systems' clutter.

    Names, not contents: an export of a million linked images is told in seconds.
    """
    digest = hashlib.sha256()
    for name in _files(os.fsencode(folder)):
        digest.update(name + b"\0")
    return digest.hexdigest()


def _files(top: bytes) -> Iterator[bytes]:
    for folder, folders, files in os.walk(top):
        folders.sort()
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
