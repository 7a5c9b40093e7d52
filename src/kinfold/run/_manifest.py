"""manifest.json of a run: what was asked, what was done, on what machine, with which result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinfold.errors import FormatError, InputError
from kinfold.storage import check_format_version, read_json, write_json

FORMAT = "kinfold-run"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
_SECTIONS = ("source", "parameters", "features", "stages", "metrics", "diagnosis", "timings", "machine")


def is_run(path: Path) -> bool:
    """Tell whether ``path`` is a run directory, finished or not, of any version.

    A directory whose manifest can't be read counts as none.
    """
    try:
        manifest = read_json(path / MANIFEST_NAME)
    except (OSError, FormatError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def _guess(path: Path) -> str:
    """Return what to say of a run that is close by: one inside ``path``, or the one made from it."""
    inside = sorted(file.parent for file in path.glob(f"*/{MANIFEST_NAME}"))
    runs = [one for one in (*inside, Path(f"{path.resolve().name}.kinfold")) if is_run(one)]
    return f"; did you mean {runs[0]}?" if runs else ""


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest of the run at ``path``.

    Raises
    ------
    InputError
        There is nothing at ``path``, or something that is no run.
    FormatError
        The manifest is damaged, or of a newer format version than this Kinfold reads.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "doesn't exist"
        raise InputError(f"{path} {what}; give the folder that `kinfold cluster` wrote")
    file = path / MANIFEST_NAME
    if not file.is_file():
        raise InputError(f"{path} is no run of Kinfold: it has no {MANIFEST_NAME}{_guess(path)}")
    try:
        manifest = read_json(file)
    except FormatError as error:
        raise FormatError(
            f"{error}. Restore the file from a copy, or remove the folder and cluster again"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise InputError(
            f"{path} is no run of Kinfold: its {MANIFEST_NAME} "
            + (f"has the format {found!r}" if found else f"doesn't name the format {FORMAT!r}")
        )
    check_format_version(file, manifest.get("format_version"), FORMAT_VERSION)
    for section in _SECTIONS:
        if not isinstance(manifest.get(section), dict):
            raise FormatError(
                f"{file} is damaged: {section!r} is missing. "
                "Restore the file from a copy, or remove the folder and cluster again"
            )
    return manifest


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of the run at ``path``, atomically; format and version come first."""
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    sections = {section: manifest.get(section, {}) for section in _SECTIONS}
    write_json(path / MANIFEST_NAME, {**head, **manifest, **head, **sections})
