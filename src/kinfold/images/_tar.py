"""WebDataset: images in one or many tar files, listed once, then read by offset."""

from __future__ import annotations

import hashlib
import os
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kinfold.errors import InputError
from kinfold.images._folder import Problem, is_clutter
from kinfold.images._formats import EXTENSIONS
from kinfold.images._keys import encode_key, natural_key, unique_keys
from kinfold.images._reasons import SkipReason, UnusableImage
from kinfold.images._source import HandleCache, LocatedSource, describe_os_error, read_bounded

_FACTS = ("shard", "offset", "size", "modified")  # columns of what is known of every member


class TarMember(NamedTuple):
    """Where a member's content lies: number of the shard, first byte, length."""

    shard: int
    offset: int
    size: int


class TarSource(LocatedSource):
    """The images of WebDataset shards (or of any uncompressed tar files), in natural order.

    The key is the member's name, behind ``shard.tar/`` where there are several shards. Members that share the
    WebDataset key (the name up to the first dot of its last part) with an image are its annotations and no
    rows; every other file is a row. A name that occurs twice becomes ``name#2``. A shard that ends early or
    can't be opened is one more row, with the reason.

    Parameters
    ----------
    paths : sequence of str or Path
        The shards.
    uri : str, optional
        What was opened, if not the one path.

    Raises
    ------
    InputError
        The only shard is no tar file, or a shard is compressed.
    """

    kind = "webdataset"

    def __init__(self, paths: Sequence[str | Path], *, uri: str | None = None) -> None:
        absolute = [os.path.abspath(path) for path in paths]
        names = _shard_names(absolute)
        order = sorted(range(len(names)), key=lambda i: natural_key(names[i]))
        self._shards = [absolute[i] for i in order]
        self.uri = uri or self._shards[0]
        self._problems: dict[int, Problem] = {}
        facts = array("q")
        self.keys = unique_keys(self._list([names[i] for i in order], facts))
        self._facts = np.array(facts, dtype=np.int64).reshape(-1, len(_FACTS))

    def locate(self, row: int) -> TarMember:
        """Return where the member lies; raises :class:`UnusableImage` for what isn't one."""
        if row in self._problems:
            raise UnusableImage(*self._problems[row])
        shard, offset, size, _ = self._facts[row].tolist()
        return TarMember(shard, offset, size)

    def reader(self) -> TarReader:
        """Return a reader of members by offset."""
        return TarReader(tuple(self._shards))

    def fingerprint(self) -> str:
        """Return the SHA-256 of names, sizes and modification times, as the shards have them."""
        digest = hashlib.sha256()
        for row, key in enumerate(self.keys):
            _, _, size, modified = self._facts[row].tolist()
            digest.update(key.encode("utf-8", "surrogatepass"))
            digest.update(f"\0{size}\0{modified}\n".encode())
        return digest.hexdigest()

    def _list(self, names: list[str], facts: array[int]) -> Iterator[str]:
        for shard, (path, name) in enumerate(zip(self._shards, names, strict=True)):
            prefix = f"{name}/" if len(names) > 1 else ""
            listing = _list_shard(path)
            if listing.problem is not None and len(names) == 1 and not listing.members:
                raise InputError(f"{path} can't be read as a tar file: {listing.problem[1]}")
            for key, offset, size, modified in listing.members:
                if offset < 0:
                    place = len(facts) // len(_FACTS)
                    self._problems[place] = SkipReason.NOT_A_FILE, "a link or special file in an archive"
                facts.extend((shard, offset, size, modified))
                yield prefix + key
            if listing.problem is not None:
                self._problems[len(facts) // len(_FACTS)] = listing.problem
                facts.extend((shard, -1, 0, 0))
                yield name


class TarReader:
    """Reads members of several shards, of which a few are kept open."""

    def __init__(self, shards: tuple[str, ...]) -> None:
        self._shards = shards
        self._handles = HandleCache()

    def read(self, locator: TarMember) -> bytes:
        """Return a member's content; raises :class:`UnusableImage`."""
        shard, offset, size = locator
        try:
            stream = self._handles.get(self._shards[shard])
            stream.seek(offset)
            data = read_bounded(stream, size) if size else b""
        except OSError as error:
            detail = f"in the shard: {describe_os_error(error)}"
            raise UnusableImage(SkipReason.UNREADABLE, detail) from error
        if len(data) < size:
            detail = f"{size - len(data):,} bytes are missing at the end of the shard"
            raise UnusableImage(SkipReason.TRUNCATED, detail)
        return data


class _Listing(NamedTuple):
    members: list[tuple[str, int, int, int]]
    problem: Problem | None


def _shard_names(paths: Sequence[str]) -> list[str]:
    """Return each shard's path below the folder that all have in common, as a key."""
    common = (
        os.path.dirname(paths[0])
        if len(paths) == 1
        else os.path.commonpath([os.path.dirname(p) for p in paths])
    )
    return [encode_key(os.path.relpath(path, common).replace(os.sep, "/")) for path in paths]


def _list_shard(path: str) -> _Listing:
    members: list[tuple[str, int, int, int]] = []
    links: dict[int, str] = {}
    problem: Problem | None = None
    end = 0
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # or tarfile keeps all members
                end = archive.offset
                if info.isdir() or any(is_clutter(part) for part in _parts(info.name)):
                    continue
                if info.islnk():
                    links[len(members)] = _key(info.linkname)
                offset = info.offset_data if info.isreg() and not info.issparse() else -1
                members.append((_key(info.name), offset, info.size, int(info.mtime)))
        problem = _check_end(path, end)
    except (tarfile.TarError, OSError, EOFError) as error:
        _refuse_compressed(path)
        detail = f"after byte {end:,} the shard can't be read: {describe_os_error(error)}"
        problem = SkipReason.UNREADABLE, detail
    _resolve(links, members)
    return _Listing(_without_annotations(members), problem)


def _resolve(links: dict[int, str], members: list[tuple[str, int, int, int]]) -> None:
    """Let hard links, which tar writes for a file's second name, lie where the file lies."""
    if not links:
        return
    places = {key: (offset, size) for key, offset, size, _ in members if offset >= 0}
    for at, target in links.items():
        key, _, _, modified = members[at]
        members[at] = (key, *places.get(target, (-1, 0)), modified)


def _check_end(path: str, end: int) -> Problem | None:
    """Return what is wrong where the listing ended: tarfile takes a damaged header for the end."""
    size = os.path.getsize(path)
    if end >= size:
        return None
    with open(path, "rb") as stream:
        stream.seek(end)
        if not stream.read(512).strip(b"\0"):
            return None
    return SkipReason.CORRUPT, f"after byte {end:,} of {size:,} the shard's listing is damaged"


def _refuse_compressed(path: str) -> None:
    with open(path, "rb") as stream:
        head = stream.read(6)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")):
        raise InputError(
            f"{path} is compressed, so that no image in it can be read on its own; "
            "unpack it to a plain .tar first"
        )


def _parts(name: str) -> list[bytes]:
    return [part.encode("utf-8", "surrogateescape") for part in name.split("/") if part not in ("", ".")]


def _key(name: str) -> str:
    return encode_key(b"/".join(_parts(name)))


def _without_annotations(members: list[tuple[str, int, int, int]]) -> list[tuple[str, int, int, int]]:
    samples = {_sample(key) for key, *_ in members if _is_image_name(key)}
    kept = [member for member in members if _is_image_name(member[0]) or _sample(member[0]) not in samples]
    kept.sort(key=lambda member: natural_key(member[0]))
    return kept


def _is_image_name(key: str) -> bool:
    return os.path.splitext(key)[1].lower() in EXTENSIONS


def _sample(key: str) -> str:
    folder, _, name = key.rpartition("/")
    return f"{folder}/{name.split('.', 1)[0]}"
