"""The manifest of a run, ``manifest.json``: its sections, reading, writing, replacing files with it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from copy import deepcopy
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeAlias

from kinfold.errors import FormatError, InputError
from kinfold.reading import check_fields, is_count, list_of
from kinfold.storage import (
    check_format_version,
    check_own,
    hash_file,
    is_plain_name,
    read_json,
    write_json,
)

FORMAT = "kinfold-run"
FORMAT_VERSION = 1  # of the folder; readers refuse a newer one
MANIFEST_NAME = "manifest.json"

_SECTIONS = ("source", "parameters", "features", "stages", "metrics", "diagnosis", "timings", "machine")
# What readers rely on without asking: a manifest without a section, or with other types, is damaged.
_TEXT = (str, None)
_KINDS: dict[str, Any] = {
    **dict.fromkeys(_SECTIONS, dict),
    "source": {"kind?": str, "uri?": _TEXT, "images?": _TEXT, "options?": (dict, None), "fingerprint?": _TEXT}
    | dict.fromkeys(("n_rows?", "n_usable?", "n_skipped?"), (is_count, None)),
    "parameters": {"method?": _TEXT, "variant?": _TEXT, "preset?": _TEXT, "method_parameters?": (dict, None)},
    "features": {"path?": _TEXT, "column?": _TEXT, "variant?": _TEXT, "fingerprint?": _TEXT},
    "stages": {"*": {"inputs?": str, "outputs?": {"*": str}, "seconds?": float}},
    "timings": {"*": (float, None)},
    "seed?": (is_count, None),
    "replacing?": (list, None),
    "libraries?": {"*": str},
    **dict.fromkeys(("backbone?", "language?", "neighbors?", "naming?"), (dict, None)),
    **dict.fromkeys(("level?", "choice?"), (dict, None)),
    **dict.fromkeys(("criteria?", "fit?"), dict),
    "updates?": (dict, None),
}
_UPDATES: dict[str, Any] = {
    "number": is_count,
    "fitted": {"features": str, "n_rows": is_count},
    "source": {"fingerprint": str},
    "bases": {"*": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value)},
    "history": list_of({"number": is_count, "time": str, "counts": {"*": is_count}, "undone": _TEXT}),
    "former?": (dict, None),
}
_FORMER: dict[str, Any] = {"folder": str, "source": dict, "features": {"path": str}, "diagnosis": dict}
_LEVEL: dict[str, Any] = {"n_groups": is_count, "n_clusters": is_count}
_NEXT = ".next"  # folder of staged files; the dot keeps it out of what people and exporters list
_MEND = "Restore the file from a copy, or remove the folder and cluster again"

# Files that stages write, and so the only ones that a manifest may name: a name from a file that came from
# elsewhere must not lead out of the folder.
STAGE_FILES = frozenset(
    (
        "assignments.parquet",
        "levels.json",
        "levels.parquet",
        "levels.safetensors",
        "model.json",
        "model.safetensors",
        "names.parquet",
        "report.html",
        "skipped.parquet",
        "splits.parquet",
        "updates.parquet",
        "typicality.parquet",
        "typicality.safetensors",
    )
)
# Names of the groups of levels that the run doesn't show.
LEVEL_NAMES = re.compile(r"names-level-(fit|[1-9][0-9]{0,9})\.parquet")
# What an update leaves of the groups before it, and where features of the run may be.
FORMER_FOLDER = re.compile(r"former-[1-9][0-9]{0,9}")
OWN_FEATURES = re.compile(r"features(-[1-9][0-9]{0,9})?")
_NO_RECORD: dict[str, Any] = {"inputs": "", "outputs": {}, "seconds": 0.0}  # what a record may leave out
_FOLDERS_BELOW = 4  # levels of a run's folders: features/variants/NAME/00000.npy

Section: TypeAlias = dict[str, Any]


@dataclass(eq=False)
class Manifest(MutableMapping[str, Any]):
    """What was asked of a run, what was done, on what machine, and with which result.

    Each section of the file is an attribute. A manifest is also a mapping from the sections that the file
    has to their content, in the order of the file, which is the order in which they were first set. A section
    that isn't there is an empty or None attribute, but no key of the mapping. docs/formats.md describes the
    content of each section.

    Attributes
    ----------
    format, format_version : str, int
        What kind of folder this is.
    source : dict
        Images or features: kind, uri, images, options, n_rows, n_usable, n_skipped, fingerprint.
    parameters : dict
        n_clusters, method, random_state, variant, method_parameters, preset.
    features : dict
        Where the features are: path, column, variant, dim, fingerprint.
    stages : dict
        By the name of each finished stage: inputs (hash), outputs (hash by file), seconds.
    metrics : dict
        What the last evaluation found; empty before.
    diagnosis : dict
        Sizes of the groups and what is suspicious about them.
    timings : dict
        Seconds by stage, and total_seconds.
    machine : dict
        System, cores, memory, device.
    seed : int or None
        The method's.
    backbone : dict or None
        What embeds later images alike; None for ready features.
    language : dict or None
        Text model and nouns of a method that nouns guide.
    neighbors : dict or None
        The neighbor graph; by method where there are several.
    criteria, fit : dict
        How good the fit looks without labels, and the tables by which it made its choices.
    naming : dict or None
        How the groups were named.
    level : dict or None
        The level that was chosen instead of the fit's own: n_groups with images, n_clusters (numbers of
        groups, empty ones among them).
    updates : dict or None
        What `kinfold update` did since the fit: the last number, what the fit was made from, hashes of
        earlier groups whose corrections hold, history, and where the groups before the last one are.
    choice : dict or None
        How the number of groups was found where none was asked for: the range, and
        :meth:`kinfold.levels.LevelEstimate.as_dict`.
    kinfold : str or None
        Version that did the last stage.
    libraries : dict
        Versions of the libraries then.
    replacing : list of str or None
        Files that are on their way to replace others, see :func:`replace_files`.
    extra : dict
        Sections that this version doesn't know; they are written back as they were.
    """

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    source: Section = field(default_factory=dict)
    parameters: Section = field(default_factory=dict)
    features: Section = field(default_factory=dict)
    stages: dict[str, Section] = field(default_factory=dict)
    metrics: Section = field(default_factory=dict)
    diagnosis: Section = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    machine: Section = field(default_factory=dict)
    seed: int | None = None
    backbone: Section | None = None
    language: Section | None = None
    neighbors: Section | None = None
    criteria: Section = field(default_factory=dict)
    fit: Section = field(default_factory=dict)
    naming: Section | None = None
    level: Section | None = None
    choice: Section | None = None
    updates: Section | None = None
    kinfold: str | None = None
    libraries: dict[str, str] = field(default_factory=dict)
    replacing: list[str] | None = None
    extra: Section = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A dict for its order: files must come out as they always did, whichever stage set a section first.
        self._keys = dict.fromkeys([*(name for name in _FIELDS if getattr(self, name)), *self.extra])

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _FIELDS and "_keys" in vars(self):
            self._keys.setdefault(name)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Manifest:
        """Take the sections of a mapping, in its order; a manifest is returned as it is."""
        if isinstance(content, Manifest):
            return content
        found = cls()
        found._keys = {}
        found.update(content)
        return found

    def hash_of(self, name: str) -> str | None:
        """Return the SHA-256 that a stage recorded of a file; None where none did."""
        records = (record.get("outputs", {}) for record in self.stages.values())
        return next((outputs[name] for outputs in records if name in outputs), None)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return getattr(self, key) if key in _FIELDS else self.extra[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key in _FIELDS:
            setattr(self, key, value)
        else:
            self.extra[key] = value
            self._keys.setdefault(key)

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        if key in _FIELDS:
            one = _FIELDS[key]
            default = one.default if one.default_factory is MISSING else one.default_factory()
            super().__setattr__(key, default)
        else:
            del self.extra[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


_FIELDS = {one.name: one for one in fields(Manifest) if one.name != "extra"}


def is_run(path: Path) -> bool:
    """Tell whether ``path`` is a run directory, finished or not, of any version.

    A directory whose manifest can't be read counts as none.
    """
    try:
        content = read_json(path / MANIFEST_NAME)
    except (OSError, FormatError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_manifest(path: Path) -> Manifest:
    """Read and check the manifest of the run at ``path``.

    Raises
    ------
    InputError
        There is nothing at ``path``, or something that is no run.
        There is a link or a pipe in it, see :func:`~kinfold.storage.check_own`.
    FormatError
        The manifest is damaged, or of a newer format version than this Kinfold reads.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "doesn't exist"
        raise InputError(f"{path} {what}; give the folder that `kinfold cluster` wrote")
    file = path / MANIFEST_NAME
    if file.is_symlink() or file.is_file():
        check_own(path, depth=_FOLDERS_BELOW)
    if not file.is_file():
        raise InputError(f"{path} is no run of Kinfold: it has no {MANIFEST_NAME}{_find_run_near(path)}")
    try:
        content = read_json(file)
    except FormatError as error:
        raise FormatError(f"{error}. {_MEND}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise InputError(
            f"{path} is no run of Kinfold: its {MANIFEST_NAME} "
            + (f"has the format {found!r}" if found else f"doesn't name the format {FORMAT!r}")
        )
    check_format_version(file, content.get("format_version"), FORMAT_VERSION)
    check_fields(file, content, _KINDS, _MEND[:1].lower() + _MEND[1:])
    if content.get("level") is not None:
        check_fields(file, content["level"], _LEVEL, _MEND[:1].lower() + _MEND[1:], at="level")
    if (updates := content.get("updates")) is not None:
        check_fields(file, updates, _UPDATES, _MEND[:1].lower() + _MEND[1:], at="updates")
        if updates.get("former") is not None:
            check_fields(file, updates["former"], _FORMER, _MEND[:1].lower() + _MEND[1:], at="updates.former")
    _check_names(file, content)
    content["stages"] = {
        stage: {**deepcopy(_NO_RECORD), **record} for stage, record in content["stages"].items()
    }
    return Manifest.of(content)


def _check_names(file: Path, content: Mapping[str, Any]) -> None:
    """Refuse a manifest, of the right types, that names other files than those that stages write."""
    replacing = content.get("replacing")
    if replacing is not None and not _are_stage_files(replacing):
        raise FormatError(f"{file} is damaged: 'replacing' lists what is no file of a run. {_MEND}")
    for stage, record in content["stages"].items():
        if not _are_stage_files(record.get("outputs", {})):
            raise FormatError(f"{file} is damaged: the record of stage {stage!r} isn't one. {_MEND}")
    # Features in the run are in a folder of its own; elsewhere they were recorded by their full path.
    former = (content.get("updates") or {}).get("former") or {}
    for path in (content["features"].get("path"), former.get("features", {}).get("path")):
        if path is not None and not (is_plain_name(path) or _is_absolute(path)):
            raise FormatError(f"{file} is damaged: {path!r} is no place of features. {_MEND}")
    if former and not FORMER_FOLDER.fullmatch(former["folder"]):
        raise FormatError(f"{file} is damaged: {former['folder']!r} holds no former groups. {_MEND}")


def _is_absolute(path: object) -> bool:
    """Tell whether a path is absolute on any system: a run may have been made on another one."""
    kinds = (PurePosixPath, PureWindowsPath)
    return isinstance(path, str) and any(kind(path).is_absolute() for kind in kinds)


def _are_stage_files(names: Iterable[object]) -> bool:
    return all(
        isinstance(name, str) and (name in STAGE_FILES or LEVEL_NAMES.fullmatch(name)) for name in names
    )


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of the run at ``path``, atomically.

    Format and version come first, then what ``manifest`` has in its order, then empty sections for those that
    every manifest must have.
    """
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    sections = {section: manifest.get(section, {}) for section in _SECTIONS}
    write_json(path / MANIFEST_NAME, {**head, **manifest, **head, **sections})


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


def replace_files(path: Path, manifest: Manifest, names: tuple[str, ...]) -> None:
    """Put staged files in their place, together with the manifest that lists them.

    Several files can't be renamed at one moment, one file can: the change happens when the manifest is
    written. Before it a reader finds the old files, after it (:func:`locate_file`) the new ones, wherever
    they are; :func:`finish_replacing` moves them.
    """
    manifest.replacing = list(names)
    write_manifest(path, manifest)
    finish_replacing(path)
    del manifest["replacing"]


def finish_replacing(path: Path) -> None:
    """Finish or discard a replacement that a killed process left; the run must be locked."""
    if not (path / MANIFEST_NAME).is_file():
        return
    manifest = read_manifest(path)
    names = manifest.pop("replacing", None)
    for name in names or ():
        if (path / _NEXT / name).exists():
            os.replace(path / _NEXT / name, path / name)
    if names is not None:
        write_manifest(path, manifest)
    shutil.rmtree(path / _NEXT, ignore_errors=True)


def remove_unnamed(path: Path, manifest: Manifest) -> None:
    """Remove features and groups from before earlier updates, which nothing needs any more.

    The features of the update that comes next stay: it may have been interrupted, and goes on with them.
    """
    updates = manifest.updates
    if updates is None:
        return
    former = updates.get("former") or {}
    named = {
        manifest.features.get("path"),
        former.get("folder"),
        former.get("features", {}).get("path"),
        f"features-{updates['number'] + 1}",
    }
    for pattern in (OWN_FEATURES, FORMER_FOLDER):
        for entry in path.iterdir():
            if pattern.fullmatch(entry.name) and entry.name not in named and entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)


def locate_file(path: Path, manifest: Manifest, name: str) -> Path:
    """Return where a file of the run is: in its place, or on its way there."""
    staged = path / _NEXT / name
    return staged if name in (manifest.replacing or ()) and staged.exists() else path / name


def locate_whole(path: Path, manifest: Manifest, name: str, mend: str) -> Path:
    """Return where a file of the run is, after comparing its content with the hash that was recorded of it.

    Raises
    ------
    FormatError
        The file isn't what was written; ``mend`` says what to do. A missing one is left to its reader.
    """
    file = locate_file(path, manifest, name)
    recorded = manifest.hash_of(name)
    if recorded is None or not file.is_file() or hash_file(file) == recorded:
        return file
    # The run may have been changed since the manifest was read, by `kinfold name` for instance.
    latest = read_manifest(path)
    file, recorded = locate_file(path, latest, name), latest.hash_of(name)
    if recorded is not None and file.is_file() and hash_file(file) != recorded:
        raise FormatError(f"{file} is damaged (its content isn't what was written); {mend}")
    return file


def have_same_groups(first: Manifest, second: Manifest) -> bool:
    """Tell whether two manifests of a run are of the same fit and level."""
    fits = [one.stages.get("assign", {}).get("inputs") for one in (first, second)]
    return fits[0] == fits[1] and first.level == second.level


def _find_run_near(path: Path) -> str:
    """Return a hint at a run inside ``path``, or at the one made from it."""
    inside = sorted(file.parent for file in path.glob(f"*/{MANIFEST_NAME}"))
    runs = [one for one in (*inside, Path(f"{path.resolve().name}.kinfold")) if is_run(one)]
    return f"; did you mean {runs[0]}?" if runs else ""
