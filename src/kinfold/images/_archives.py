"""Images in archives: tar files (WebDataset) and zip files, listed once, then read by offset."""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kinfold.errors import InputError
from kinfold.images._folder import Problem, is_clutter
from kinfold.images._formats import EXTENSIONS
from kinfold.images._keys import encode_key, encode_member, natural_key, unique_keys
from kinfold.images._source import (
    HandleCache,
    LocatedSource,
    SkipReason,
    UnusableImage,
    describe_os_error,
    read_bounded,
    read_exactly,
)

_TAR_COLUMNS = ("shard", "offset", "size", "modified")  # of an integer array: a million members take 32 MB

# Of a member's own header: signature, and the lengths of name and extra field, which differ from those in the
# archive's directory. What lies between them is taken from the directory.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ZIP_COLUMNS = np.dtype(
    [
        ("shard", "i4"),
        ("offset", "i8"),
        ("packed", "i8"),
        ("size", "i8"),
        ("checksum", "u4"),
        ("method", "u2"),
        ("encrypted", "?"),
        ("link", "?"),
    ]
)


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
        self._facts = np.array(facts, dtype=np.int64).reshape(-1, len(_TAR_COLUMNS))

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
                    place = len(facts) // len(_TAR_COLUMNS)
                    self._problems[place] = SkipReason.NOT_A_FILE, "a link or special file in an archive"
                facts.extend((shard, offset, size, modified))
                yield prefix + key
            if listing.problem is not None:
                self._problems[len(facts) // len(_TAR_COLUMNS)] = listing.problem
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
                archive.members = []  # type: ignore[attr-defined]  # or tarfile keeps an object for each member
                end = archive.offset  # a damaged shard keeps the members before this place
                key = encode_member(info.name)
                if info.isdir() or _is_clutter(key):
                    continue
                if info.islnk():
                    links[len(members)] = encode_member(info.linkname)
                offset = info.offset_data if info.isreg() and not info.issparse() else -1
                members.append((key, offset, info.size, int(info.mtime)))
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
    # Signatures of gzip, bzip2, xz and zstandard.
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")):
        raise InputError(
            f"{path} is compressed, so that no image in it can be read on its own; "
            "unpack it to a plain .tar first"
        )


def _is_clutter(key: str) -> bool:
    """Tell whether a part of a member's name is hidden or left behind by a system."""
    return any(is_clutter(part.encode("utf-8", "surrogatepass")) for part in key.split("/"))


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


class ZipMember(NamedTuple):
    """Number of the archive in which a member lies, where in it, and how it is packed."""

    shard: int
    offset: int
    packed: int
    size: int
    checksum: int
    method: int
    encrypted: bool
    link: bool


class ZipSource(LocatedSource):
    r"""All files in one or several zip archives, in natural order, but for hidden names and system files.

    The key is the member's name, tidied (``./a.png``, ``/a.png``, ``x\..\a.png`` are ``a.png``), behind
    ``archive.zip/`` where there are several. A name that occurs twice becomes ``name#2``. Stored, deflated
    and bzip2 members can be read. One of several archives that can't be opened is a row, with the reason.

    Parameters
    ----------
    path : str, Path, or sequence of these
        The archives.
    uri : str, optional
        What was opened, if not the one path.

    Raises
    ------
    InputError
        The only file is no zip archive, or its directory is damaged.
    """

    kind = "zip"

    def __init__(self, path: str | Path | Sequence[str | Path], *, uri: str | None = None) -> None:
        paths = [path] if isinstance(path, str | os.PathLike) else list(path)
        absolute = [os.path.abspath(one) for one in paths]
        names = _shard_names(absolute)
        order = sorted(range(len(names)), key=lambda i: natural_key(names[i]))
        self._shards = tuple(absolute[i] for i in order)
        self.uri = uri or self._shards[0]
        self._problems: dict[int, Problem] = {}
        keys: list[str] = []
        facts: list[tuple[int | bool, ...]] = []
        for shard, number in enumerate(order):
            prefix = f"{names[number]}/" if len(names) > 1 else ""
            try:
                members = _list_zip(self._shards[shard])
            except InputError as error:
                if len(names) == 1:
                    raise
                self._problems[len(keys)] = SkipReason.UNREADABLE, str(error)
                keys.append(names[number])
                facts.append((shard, *[0] * (len(_ZIP_COLUMNS.names or ()) - 1)))
                continue
            keys += [prefix + key for key, _ in members]
            facts += [_locate(shard, info) for _, info in members]
        self.keys = unique_keys(keys)
        self._facts = np.array(facts, dtype=_ZIP_COLUMNS)

    def locate(self, row: int) -> ZipMember:
        """Return where the member lies; raises :class:`UnusableImage` for an archive that can't be opened."""
        if row in self._problems:
            raise UnusableImage(*self._problems[row])
        return ZipMember(*self._facts[row].item())

    def reader(self) -> ZipReader:
        """Return a reader of members by offset."""
        return ZipReader(self._shards)

    def fingerprint(self) -> str:
        """Return the SHA-256 of names, sizes and checksums, as the archives' directories have them."""
        digest = hashlib.sha256()
        for row, key in enumerate(self.keys):
            digest.update(key.encode("utf-8", "surrogatepass"))
            digest.update(f"\0{self._facts['size'][row]}\0{self._facts['checksum'][row]}\n".encode())
        return digest.hexdigest()


class ZipReader:
    """Reads members of archives, of which a few are kept open."""

    def __init__(self, shards: tuple[str, ...]) -> None:
        self._shards = shards
        self._handles = HandleCache()

    def read(self, locator: ZipMember) -> bytes:
        """Return a member's content; raises :class:`UnusableImage`."""
        if locator.link:
            raise UnusableImage(SkipReason.NOT_A_FILE, "a link inside an archive")
        if locator.encrypted:
            raise UnusableImage(SkipReason.UNREADABLE, "it is encrypted")
        try:
            return self._read(locator)
        except (OSError, ValueError, EOFError, struct.error, zlib.error) as error:
            raise UnusableImage(
                SkipReason.UNREADABLE, f"in the archive: {describe_os_error(error)}"
            ) from error

    def _read(self, member: ZipMember) -> bytes:
        stream = self._handles.get(self._shards[member.shard])
        stream.seek(member.offset)
        mark, name, extra = _LOCAL_HEADER.unpack(read_exactly(stream, _LOCAL_HEADER.size))
        if mark != b"PK\x03\x04":
            raise ValueError("the member doesn't begin where the directory says")
        stream.seek(name + extra, os.SEEK_CUR)
        if member.method == zipfile.ZIP_STORED:
            data = read_bounded(stream, member.size)
        else:
            data = read_bounded(_Unpacked(read_exactly(stream, member.packed), member.method), member.size)
        if len(data) < member.size:
            missing = member.size - len(data)
            raise UnusableImage(SkipReason.TRUNCATED, f"{missing:,} bytes are missing in the archive")
        # Decoders accept many damaged files, so that a wrong image would pass without this check.
        if zlib.crc32(data) != member.checksum:
            raise UnusableImage(SkipReason.CORRUPT, "its checksum in the archive is another")
        return data


class _Unpacked(BytesIO):
    """A packed member as a stream that never unpacks more than is asked for."""

    def __init__(self, packed: bytes, method: int) -> None:
        super().__init__()
        if method not in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
            raise ValueError(f"compression method {method} isn't read; repack it with deflate")
        self._rest = packed
        self._unpack = zlib.decompressobj(-15) if method == zipfile.ZIP_DEFLATED else bz2.BZ2Decompressor()

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0
        out = b""
        while len(out) < size and not self._unpack.eof:
            # Bounded: a few kilobytes can unpack to gigabytes.
            piece = self._unpack.decompress(self._rest, size - len(out))
            self._rest = getattr(self._unpack, "unconsumed_tail", b"")
            if not piece and not self._rest:
                break
            out += piece
        return out


def _list_zip(path: str) -> list[tuple[str, zipfile.ZipInfo]]:
    """Return the files of an archive with their keys, in natural order."""
    try:
        with zipfile.ZipFile(path) as archive:
            named = [(_zip_key(info), info) for info in archive.infolist()]
    except Exception as error:  # zipfile raises what it likes for a damaged directory
        raise InputError(f"{path} can't be read as a zip archive: {error}") from error
    members = [(key, info) for key, info in named if not (_is_folder(info) or _is_clutter(key))]
    members.sort(key=lambda member: natural_key(member[0]))
    return members


def _is_folder(info: zipfile.ZipInfo) -> bool:
    # Old programs of Windows end a folder's name with a backslash; what holds bytes is a file all the same.
    return info.is_dir() or (info.filename.endswith("\\") and info.file_size == 0)


def _zip_key(info: zipfile.ZipInfo) -> str:
    name = info.filename
    if not info.flag_bits & 0x800:  # the encoding isn't stated: many tools write UTF-8 all the same
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return encode_member(name)


def _locate(shard: int, info: zipfile.ZipInfo) -> tuple[int | bool, ...]:
    return (
        shard,
        info.header_offset,
        info.compress_size,
        info.file_size,
        info.CRC,
        info.compress_type,
        bool(info.flag_bits & 1),
        stat.S_ISLNK(info.external_attr >> 16),
    )
