"""Cache of noun features between runs, one entry per model, prompts and words."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError, NewerFormatError
from kinfold.locks import lock_directory
from kinfold.reading import is_count
from kinfold.rows import map_npy
from kinfold.storage import (
    atomic_file,
    check_format_version,
    hash_file,
    hash_json,
    read_json,
    remove_partials,
    write_array,
    write_json,
)

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1  # raised when older Kinfolds could misread an entry
MANIFEST_NAME, WORDS_NAME, FEATURES_NAME, PARTS_NAME = "manifest.json", "words.json", "features.npy", "parts"

# Checked on reading, because a damaged file should be named and not end in a TypeError elsewhere.
_HEADER_TYPES: dict[str, Any] = {"model": str, "features_sha256": (str, type(None))}
_KEY_TYPES = {"words": str, "n_words": int, "dim": int, "chunk": int, "prompts": list}


@dataclass(frozen=True)
class NounKey:
    """What the features of a list of words depend on.

    Parameters
    ----------
    encoder : str
        The text encoder's fingerprint.
    prompts : tuple of str
        The templates.
    words : str
        SHA-256 of the list of words.
    n_words, dim : int
        Shape of the features.
    chunk : int
        Words that are embedded together.
    """

    encoder: str
    prompts: tuple[str, ...]
    words: str
    n_words: int
    dim: int
    chunk: int

    @property
    def name(self) -> str:
        """The name of the entry's folder."""
        # 128 bits of the hash: no two keys meet, and paths stay short enough for Windows.
        return hash_json(asdict(self))[:32]

    @property
    def n_parts(self) -> int:
        """The number of pieces that the features are made in."""
        return -(-self.n_words // self.chunk)


@dataclass(frozen=True)
class NounHeader:
    """What ``manifest.json`` in an entry's folder says.

    Parameters
    ----------
    model : str
        The text encoder's name.
    key : mapping of str to object
        The fields of :class:`NounKey`, as JSON has them.
    features_sha256 : str or None
        SHA-256 of the file of features; None or empty while the entry is unfinished.
    """

    model: str
    key: Mapping[str, Any]
    features_sha256: str | None

    @classmethod
    def read(cls, folder: Path) -> NounHeader:
        """Read the header in an entry's folder.

        Raises
        ------
        FormatError
            It is damaged, or written by a newer Kinfold.
        FileNotFoundError
            There is none.
        """
        file = folder / MANIFEST_NAME
        content = read_json(file)
        if not isinstance(content, dict):
            raise FormatError(f"{file} is damaged: it isn't an object")
        check_format_version(file, content.get("format_version"), FORMAT_VERSION)
        key = content.get("key")
        if not isinstance(key, dict) or not (
            _fits(content, _HEADER_TYPES) and _fits(key, _KEY_TYPES) and key["chunk"]
        ):
            raise FormatError(
                f"{file} is damaged: entries are missing, or of another type than they should be"
            )
        return cls(content["model"], key, content["features_sha256"])

    def write(self, folder: Path) -> None:
        """Write the header into an entry's folder."""
        content = {
            "format": "kinfold noun features",
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "key": self.key,
            "features_sha256": self.features_sha256,
        }
        write_json(folder / MANIFEST_NAME, content)


class NounEntry:
    """One entry while it is looked up or written.

    The header is written twice: when the entry begins, and as complete when all else is on the disk.
    Between them features come in parts, each whole or missing; so a killed process loses one part.

    Parameters
    ----------
    path : Path
        Its folder.
    key : NounKey
        What it is of.
    """

    def __init__(self, path: Path, key: NounKey) -> None:
        self.path = path
        self.key = key

    @contextmanager
    def writing(self, model: str, words: Sequence[str]) -> Iterator[None]:
        """Hold the entry for this process alone, waiting for others; begin it if it isn't there."""
        with _plain_write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with lock_directory(self.path, wait=True):
                for folder in (self.path, self.path / PARTS_NAME):
                    remove_partials(folder)
                # A header of another key or format: whatever lies beside it can't be trusted.
                if self._header() is None:
                    shutil.rmtree(self.path / PARTS_NAME, ignore_errors=True)
                    (self.path / FEATURES_NAME).unlink(missing_ok=True)
                    write_json(self.path / WORDS_NAME, list(words))
                    NounHeader(model, _plain_key(self.key), None).write(self.path)
                elif not self._has_words():
                    write_json(self.path / WORDS_NAME, list(words))
                (self.path / PARTS_NAME).mkdir(exist_ok=True)
                yield

    def read(self) -> tuple[NDArray[np.float32], str] | None:
        """Return the features, mapped from disk, and their file's SHA-256; None unless complete and sound."""
        header = self._header()
        if header is None or not header.features_sha256:
            return None
        try:
            _read_words(self.path, header.key)
            features = _read_features(self.path, self.key.n_words, self.key.dim, header.features_sha256)
        except FormatError as error:
            logger.warning("%s; it is made anew", error)
            return None
        return features, header.features_sha256

    def is_complete(self) -> bool:
        """Tell whether the features are there according to the header; their bytes aren't read."""
        header = self._header()
        return header is not None and bool(header.features_sha256)

    def has_part(self, number: int) -> bool:
        """Tell whether a part is there."""
        try:
            self._part(number)
        except FormatError:
            return False
        return True

    def write_part(self, number: int, features: NDArray[np.float32]) -> None:
        """Write a part."""
        with atomic_file(self._part_path(number)) as partial, partial.open("wb") as stream:
            write_array(stream, features)

    def finish(self, model: str) -> None:
        """Put the parts together and mark the entry as complete."""
        npy_header = {"descr": "<f4", "fortran_order": False, "shape": (self.key.n_words, self.key.dim)}
        with atomic_file(self.path / FEATURES_NAME) as partial, partial.open("wb") as stream:
            # By writes and no memory map, which would kill the process where the disk is full.
            np.lib.format.write_array_header_1_0(stream, npy_header)  # type: ignore[no-untyped-call]
            for number in range(self.key.n_parts):
                stream.write(self._part(number).astype("<f4", copy=False).tobytes())
        sha256 = hash_file(self.path / FEATURES_NAME)
        NounHeader(model, _plain_key(self.key), sha256).write(self.path)
        shutil.rmtree(self.path / PARTS_NAME, ignore_errors=True)

    def _part(self, number: int) -> NDArray[np.float32]:
        rows = min(self.key.chunk, self.key.n_words - number * self.key.chunk)
        return _map(self._part_path(number), (rows, self.key.dim))

    def _part_path(self, number: int) -> Path:
        return self.path / PARTS_NAME / f"{number:05d}.npy"

    def _has_words(self) -> bool:
        try:
            _read_words(self.path, _plain_key(self.key))
        except FormatError:
            return False
        return True

    def _header(self) -> NounHeader | None:
        """Return the header; None if there is none, or it is damaged or of another key."""
        try:
            header = NounHeader.read(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except NewerFormatError:
            raise
        except FormatError as error:
            logger.warning("%s; it is made anew", error)
            return None
        return header if header.key == _plain_key(self.key) else None


def _plain_key(key: NounKey) -> dict[str, Any]:
    return {**asdict(key), "prompts": list(key.prompts)}


def read_entry(folder: Path) -> tuple[tuple[str, ...], NDArray[np.float32], str]:
    """Return the words, features and their SHA-256 of a complete entry.

    Raises
    ------
    FormatError
        It is missing, unfinished or damaged.
    """
    try:
        header = NounHeader.read(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FormatError(f"{folder} holds no noun features: {error.filename} is missing") from error
    if not header.features_sha256:
        raise FormatError(f"{folder} holds unfinished noun features; make them with `kinfold nouns build`")
    words = _read_words(folder, header.key)
    features = _read_features(folder, header.key["n_words"], header.key["dim"], header.features_sha256)
    return words, features, header.features_sha256


def _read_words(folder: Path, key: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the words of an entry, which are those of its key."""
    file = folder / WORDS_NAME
    try:
        words = read_json(file)
    except FileNotFoundError as error:
        raise FormatError(f"{file} is missing") from error
    if not isinstance(words, list) or len(words) != key["n_words"] or hash_json(words) != key["words"]:
        raise FormatError(f"{file} is damaged: it doesn't hold the words of the entry")
    return tuple(words)


def _fits(content: dict[str, Any], types: Mapping[str, Any]) -> bool:
    """Tell whether all these entries are there, of their types."""
    return all(
        name in content and (is_count(content[name]) if kind is int else isinstance(content[name], kind))
        for name, kind in types.items()
    )


def _read_features(folder: Path, n_words: int, dim: int, sha256: str) -> NDArray[np.float32]:
    """Return the features, mapped from disk; their bytes are checked, which takes a fraction of a second."""
    file = folder / FEATURES_NAME
    features = _map(file, (n_words, dim))
    if hash_file(file) != sha256:
        raise FormatError(f"{file} is damaged: its bytes aren't those that were written")
    return features


def _map(file: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    try:
        array: NDArray[np.float32] = map_npy(file)
    except InputError as error:  # of a cache that can't be read too: what is wrong with it is made anew
        raise FormatError(str(error)) from error
    if array.shape != shape or array.dtype != np.float32:
        raise FormatError(
            f"{file} is damaged: it holds {array.dtype} {array.shape} instead of float32 {shape}"
        )
    return array


@contextmanager
def _plain_write_errors(path: Path) -> Iterator[None]:
    """Say in plain words that the cache can't be written, and how to put it elsewhere."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise InputError(
            f"the cache of nouns can't be written to {path}: {error.strerror}. Free some space there, or "
            "name another folder by KINFOLD_CACHE; what is done is kept"
        ) from error


def cache_folder() -> Path:
    """Return the folder of Kinfold's caches: ``KINFOLD_CACHE``, else ``kinfold`` where the system has caches.

    That is in ``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux, in ``~/Library/Caches`` on macOS and in
    ``%LOCALAPPDATA%`` on Windows. It need not exist.
    """
    own = os.environ.get("KINFOLD_CACHE")
    try:
        if own:
            return Path(own).expanduser().absolute()
        if sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        elif os.name == "nt":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:  # a user id without an account, as containers have
        raise InputError("this user has no home folder for caches; name a folder by KINFOLD_CACHE") from error
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
            raise InputError(f"{self.path} has no entry of {name or model!r}; kinfold nouns list shows all")
        if name is not None and len({entry.name for entry in entries}) > 1:
            raise InputError(f"several entries of {self.path} begin with {name!r}; give more of the name")
        for entry in entries:
            with lock_directory(entry.path):
                # The header first: killed in the middle, what is left counts as no entry.
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
        header = NounHeader.read(path)
    except (FormatError, FileNotFoundError):
        return CachedNouns(path.name, "", 0, 0, 0, 0, size, path)
    key = header.key
    n_words, chunk = int(key["n_words"]), int(key["chunk"])
    done = n_words
    if not header.features_sha256:
        parts = [int(file.stem) for file in (path / PARTS_NAME).glob("[0-9]*.npy")]
        done = sum(min(chunk, n_words - number * chunk) for number in parts)
    return CachedNouns(
        path.name, header.model, n_words, int(key["dim"]), done, len(key["prompts"]), size, path
    )


def _size_of(file: Path) -> int:
    """Return the size of a file; 0 for a folder, or a file that a writer has renamed or removed meanwhile."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
