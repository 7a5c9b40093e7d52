"""Replacing several files of a run at once: after a kill there are all of the old ones or all of the new."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kinfold.run._manifest import MANIFEST_NAME, read_manifest, write_manifest

_NEXT = ".next"
_SECTION = "replacing"


def stage_files(path: Path, writers: Mapping[str, Callable[[Path], None]]) -> dict[str, Path]:
    """Write the new files of the run at ``path`` beside the old ones, which stay as they are.

    Parameters
    ----------
    path : Path
        The run directory, locked by this process.
    writers : mapping
        File name to what writes it to the path that it is given, whole or not at all.

    Returns
    -------
    dict
        File name to where its new content is.
    """
    home = path / _NEXT
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    staged = {name: home / name for name in writers}
    for name, write in writers.items():
        write(staged[name])
    return staged


def replace_files(path: Path, manifest: dict[str, Any], names: tuple[str, ...]) -> None:
    """Put staged files in their place, together with the manifest that tells of them.

    The moment of change is when the manifest is written: before it a reader finds the old files, after it
    (:func:`locate_file`) the new ones, wherever they are, and :func:`finish_replacing` moves them.
    """
    manifest[_SECTION] = list(names)
    write_manifest(path, manifest)
    finish_replacing(path)
    manifest.pop(_SECTION)


def finish_replacing(path: Path) -> None:
    """Finish what a killed process had begun to replace, or forget what it hadn't; the run must be locked."""
    if not (path / MANIFEST_NAME).is_file():
        return
    manifest = read_manifest(path)
    names = manifest.pop(_SECTION, None)
    for name in names or ():
        if (path / _NEXT / name).exists():
            os.replace(path / _NEXT / name, path / name)
    if names is not None:
        write_manifest(path, manifest)
    shutil.rmtree(path / _NEXT, ignore_errors=True)


def locate_file(path: Path, manifest: Mapping[str, Any], name: str) -> Path:
    """Return where a file of the run is: in its place, or on its way there."""
    staged = path / _NEXT / name
    return staged if name in manifest.get(_SECTION, ()) and staged.exists() else path / name
