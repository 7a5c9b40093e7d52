"""Where features of nouns are kept between runs: made once per model, prompts and words."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kinfold.errors import FormatError, InputError
from kinfold.language._entry import (
    FEATURES_NAME,
    MANIFEST_NAME,
    PARTS_NAME,
    WORDS_NAME,
    NounEntry,
    NounKey,
    read_manifest,
)
from kinfold.locks import lock_directory
from kinfold.storage import remove_partials


def cache_folder() -> Path:
    """Return the folder of Kinfold's caches: ``KINFOLD_CACHE``, else ``kinfold`` where the system has caches.

    That is in ``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux, in ``~/Library/Caches`` on macOS and in
    ``%LOCALAPPDATA%`` on Windows. It need not exist.
    """
    own = os.environ.get("KINFOLD_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "kinfold"


@dataclass(frozen=True)
class CachedNouns:
    """One entry of the cache.

    Parameters
    ----------
    name : str
        Name of its folder; :meth:`NounCache.clear` takes it.
    model : str
        The text encoder's name.
    n_words, dim : int
        Shape of the features; 0 in a damaged entry.
    n_done : int
        Words whose features are there; ``n_words`` in a complete entry.
    n_prompts : int
        Prompts per word.
    bytes : int
        Size on disk.
    path : Path
        Its folder.
    """

    name: str
    model: str
    n_words: int
    dim: int
    n_done: int
    n_prompts: int
    bytes: int
    path: Path

    @property
    def complete(self) -> bool:
        """Whether all features are there."""
        return self.n_words > 0 and self.n_done == self.n_words


class NounCache:
    """The folder of noun features.

    Parameters
    ----------
    path : str or Path or None
        The folder; None is ``nouns`` in :func:`cache_folder`. It need not exist.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = cache_folder() / "nouns" if path is None else Path(path).expanduser().absolute()

    @property
    def size(self) -> int:
        """Bytes on disk of all entries."""
        return sum(entry.bytes for entry in self.list())

    def list(self) -> list[CachedNouns]:
        """Return all entries, unfinished and damaged ones too, by model and name."""
        folders = [path for path in self.path.glob("*") if _is_entry(path)] if self.path.is_dir() else []
        return sorted((_describe(path) for path in folders), key=lambda entry: (entry.model, entry.name))

    def clear(self, name: str | None = None, *, model: str | None = None, unfinished: bool = False) -> int:
        """Remove entries and return the bytes that this freed. Nothing else in the folder is touched.

        Parameters
        ----------
        name : str or None
            Only this entry: its name, or a beginning of it that no other has.
        model : str or None
            Only entries of this text encoder.
        unfinished : bool
            Only entries that aren't complete.

        Raises
        ------
        InputError
            There is no entry of that name or model, several names begin like this, or another process is
            writing one of them.
        """
        entries = [
            entry
            for entry in self.list()
            if (name is None or entry.name.startswith(name))
            and model in (None, entry.model)
            and not (unfinished and entry.complete)
        ]
        if not entries and not self._has(name, model):
            raise InputError(f"{self.path} has no entry of {name or model!r}")
        if name is not None and len({entry.name for entry in entries}) > 1:
            raise InputError(f"several entries of {self.path} begin with {name!r}; give more of the name")
        for entry in entries:
            with lock_directory(entry.path):
                (entry.path / MANIFEST_NAME).unlink(missing_ok=True)
                shutil.rmtree(entry.path / PARTS_NAME, ignore_errors=True)
                remove_partials(entry.path)
                for file in (FEATURES_NAME, WORDS_NAME):
                    (entry.path / file).unlink(missing_ok=True)
            with suppress(OSError):  # another process has begun the same entry anew
                entry.path.rmdir()
        return sum(entry.bytes for entry in entries)

    def _has(self, name: str | None, model: str | None) -> bool:
        """Tell whether an entry has what was asked for; nothing asked for is always there."""
        asked = name is not None or model is not None
        return not asked or any(
            (name is None or entry.name.startswith(name)) and model in (None, entry.model)
            for entry in self.list()
        )

    def entry(self, key: NounKey) -> NounEntry:
        """Return the entry of a key, whether or not it is there."""
        return NounEntry(self.path / key.name, key)


def _is_entry(path: Path) -> bool:
    """Tell whether a folder is one of ours: by its name, which is 32 hexadecimal digits."""
    return path.is_dir() and len(path.name) == 32 and set(path.name) <= set("0123456789abcdef")


def _describe(path: Path) -> CachedNouns:
    size = sum(_size_of(file) for file in path.rglob("*"))
    try:
        manifest = read_manifest(path)
    except (FormatError, FileNotFoundError):
        return CachedNouns(path.name, "", 0, 0, 0, 0, size, path)
    key = manifest["key"]
    n_words, chunk = int(key["n_words"]), int(key["chunk"])
    done = n_words
    if not manifest["features_sha256"]:
        parts = [int(file.stem) for file in (path / PARTS_NAME).glob("[0-9]*.npy")]
        done = sum(min(chunk, n_words - number * chunk) for number in parts)
    return CachedNouns(
        path.name, manifest["model"], n_words, int(key["dim"]), done, len(key["prompts"]), size, path
    )


def _size_of(file: Path) -> int:
    """Return the size of a file, 0 of what is none, or is gone by now: a writer renames and removes."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
