"""Folders and glob patterns: every file at any depth, in natural order; links are followed, but no loop."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kinfold.errors import InputError
from kinfold.images._keys import KeyList, decode_key, encode_key, natural_key
from kinfold.images._source import (
    FileReader,
    LocatedSource,
    SkipReason,
    UnusableImage,
    describe_kind,
    describe_os_error,
)

_MAGIC = re.compile(r"[*?[{]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000  # names of a range such as {0..9}: a mistyped number should not fill the memory

Problem = tuple[SkipReason, str]
Identity = tuple[int, int]  # device and number: what a folder is, by whatever path it is reached

# What Windows and macOS leave in folders, in lower case.
_CLUTTER = frozenset(
    [b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b"__macosx", b"$recycle.bin", b"system volume information"]
)
# Files by which the folders that Kinfold writes are known; images in them are copies or thumbnails.
_MANIFESTS = frozenset([b"manifest.json", b"report.json"])
_OWN_MANIFEST = re.compile(rb'\s*\{\s*"format":\s*"kinfold-')
# Links to one folder that are followed. Folders that link to one another crosswise have exponentially many
# paths without any circle; the limit ends them.
_MAX_LINKS = 16


@dataclass(frozen=True)
class Pattern:
    """A pattern, taken apart.

    Attributes
    ----------
    root : Path
        The deepest folder above everything that can match, absolute.
    regex : re.Pattern
        Matches paths relative to the root, with ``/``.
    max_depth : int or None
        How many levels below the root can match; None with ``**``.
    """

    root: Path
    regex: re.Pattern[str]
    max_depth: int | None


def has_magic(text: str) -> bool:
    """Tell whether ``text`` is a pattern rather than a path."""
    return _MAGIC.search(text) is not None


def parse_pattern(text: str) -> Pattern:
    """Take a pattern apart: ``*``, ``?``, ``[ab]`` in a name, ``**`` at any depth, ``{a,b}``, ``{0..9}``.

    Folders at its beginning whose names are as written, ``trip [2023]``, are taken as they are; further down
    ``[ab]`` also stands for itself.
    """
    parts = os.path.abspath(text).replace(os.sep, "/").split("/")
    first = 0
    while first < len(parts) - 1 and (
        not has_magic(parts[first]) or os.path.isdir("/".join(parts[: first + 1]))
    ):
        first += 1
    while first and "/".join(parts[:first]).count("{") > "/".join(parts[:first]).count("}"):
        first -= 1
    inside = expand_braces("/".join(parts[first:]))
    depth = None if any("**" in one for one in inside) else max(one.count("/") + 1 for one in inside)
    try:
        regex = re.compile("|".join(f"(?:{_translate(one)})" for one in inside), re.DOTALL)
    except re.error as error:
        raise InputError(f"the pattern {text} can't be understood: {error}") from error
    return Pattern(Path("/".join(parts[:first]) or "/"), regex, depth)


def expand_braces(text: str) -> list[str]:
    """Return every text that ``{a,b}`` and ``{000..099}`` stand for, as a shell does."""
    found = _BRACES.search(text)
    if found is None:
        return [text]
    span = _RANGE.fullmatch(found[1])
    if span:
        low, high = int(span[1]), int(span[2])
        if abs(high - low) >= _MOST:
            raise InputError(f"{{{found[1]}}} stands for more than {_MOST:,} names; use * instead")
        width = max(len(span[1]), len(span[2])) if "0" in (span[1][0], span[2][0]) else 0
        step = 1 if low <= high else -1
        choices = [f"{number:0{width}d}" for number in range(low, high + step, step)]
    else:
        choices = found[1].split(",")
    tails = expand_braces(text[found.end() :])
    return [f"{text[: found.start()]}{choice}{tail}" for choice in choices for tail in tails]


def _translate(pattern: str) -> str:
    out, at = [], 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            out.append("(?:[^/]+/)*")
            at += 3
        elif pattern.startswith("**", at):
            out.append(".*")
            at += 2
        elif pattern[at] == "*":
            out.append("[^/]*")
            at += 1
        elif pattern[at] == "?":
            out.append("[^/]")
            at += 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            body = pattern[at + 1 : end].replace("\\", "\\\\")
            choice = f"[^{body[1:]}]" if body[0] in "!^" else f"[{body}]"
            out.append(f"(?:{choice}|{re.escape(pattern[at : end + 1])})")
            at = end + 1
        else:
            out.append(re.escape(pattern[at]))
            at += 1
    return "".join(out)


class FolderSource(LocatedSource):
    """All files below a folder, whatever they hold: what is no image is found out, and listed, on reading.

    Links are followed. Hidden names (those that begin with a dot), what systems leave behind
    (``Thumbs.db``, ``desktop.ini``, ``__MACOSX`` and the like), and the runs, feature stores and relabelled
    folders that Kinfold itself has written below the folder are ignored. A link that leads back to a folder
    above it, be it in the source or above the source, a broken link, a folder that can't be opened, a pipe, a
    socket and a device are rows too, with their reason.

    Parameters
    ----------
    root : str or Path
        The folder.
    pattern : re.Pattern, optional
        Keys that don't match it entirely are left out.
    max_depth : int, optional
        Deeper levels aren't looked at; 1 is the folder itself.
    kind, uri : str, optional
        Recorded in place of ``"folder"`` and the path.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        pattern: re.Pattern[str] | None = None,
        max_depth: int | None = None,
        kind: str = "folder",
        uri: str | None = None,
    ) -> None:
        self.kind = kind
        self._root = os.fsencode(os.path.abspath(root))
        self.uri = uri or os.fsdecode(self._root)
        self._problems: dict[int, Problem] = {}
        self._fingerprint: str | None = None
        self.keys = KeyList(self._list(pattern, max_depth))

    def path(self, row: int) -> Path:
        """Return the file's path."""
        return Path(os.fsdecode(self._path(row)))

    def locate(self, row: int) -> bytes:
        """Return the file's path as bytes; raises :class:`UnusableImage` for what is no file."""
        if row in self._problems:
            raise UnusableImage(*self._problems[row])
        return self._path(row)

    def reader(self) -> FileReader:
        """Return a reader of paths."""
        return FileReader()

    def fingerprint(self) -> str:
        """Return the SHA-256 of keys, sizes and modification times, taken at the first call."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_files(
                (key, None if row in self._problems else self._path(row)) for row, key in enumerate(self.keys)
            )
        return self._fingerprint

    def _path(self, row: int) -> bytes:
        return os.path.join(self._root, decode_key(self.keys[row]))

    def _list(self, pattern: re.Pattern[str] | None, max_depth: int | None) -> Iterator[str]:
        row = 0
        for name, problem in walk(self._root, max_depth):
            key = encode_key(name if os.sep == "/" else name.replace(os.fsencode(os.sep), b"/"))
            if pattern is not None and not pattern.fullmatch(key):
                continue
            if problem is not None:
                self._problems[row] = problem
            row += 1
            yield key


def fingerprint_files(files: Iterator[tuple[str, bytes | None]]) -> str:
    """Return the SHA-256 of keys with the size and modification time of their files."""
    digest = hashlib.sha256()
    for key, path in files:
        try:
            status = os.stat(path) if path is not None else None
        except (OSError, ValueError):
            status = None
        facts = f"\0{status.st_size}\0{status.st_mtime_ns}\n" if status else "\0-\n"
        digest.update(key.encode("utf-8", "surrogatepass") + facts.encode())
    return digest.hexdigest()


def is_clutter(name: bytes) -> bool:
    """Tell whether a file or folder of this name is hidden or left behind by a system."""
    return name.startswith(b".") or name.lower() in _CLUTTER


def is_own_folder(path: bytes) -> bool:
    """Tell whether a folder is a run, a feature store or relabelled, by the first words of its manifest."""
    return any(_is_own_manifest(os.path.join(path, name)) for name in _MANIFESTS)


def _is_own_manifest(path: bytes) -> bool:
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    try:
        with open(path, "rb") as file:
            return _OWN_MANIFEST.match(file.read(64)) is not None
    except OSError:
        return False


def walk(root: bytes, max_depth: int | None = None) -> Iterator[tuple[bytes, Problem | None]]:
    """Yield every file below ``root``, and every entry that can't be one with its reason, in natural order.

    Parameters
    ----------
    root : bytes
        The folder. It must be possible to open it.
    max_depth : int, optional
        Levels to look at.

    Yields
    ------
    tuple of bytes and (SkipReason, str) or None
        The path relative to ``root``, and the trouble with it.

    Raises
    ------
    InputError
        ``root`` can't be opened.
    """
    try:
        # A stack and no recursion: folders may be nested deeper than Python's limit.
        stack = [_open_level(root, b"", _identity(root))]
    except OSError as error:
        raise InputError(f"{os.fsdecode(root)} can't be opened: {describe_os_error(error)}") from error
    above = _ancestors(root)
    links: Counter[Identity] = Counter()
    while stack:
        level = stack[-1]
        if not level.names:
            stack.pop()
            continue
        name = level.names.pop()
        inside = level.inside + name
        found = level.special.get(name)
        if not isinstance(found, _Directory):
            yield inside, found
        elif max_depth is None or len(stack) < max_depth:
            try:
                stack.append(_enter(root, inside, found, stack, above, links))
            except UnusableImage as trouble:
                yield inside, (trouble.reason, trouble.detail)


@dataclass(frozen=True)
class _Directory:
    is_link: bool


@dataclass
class _Level:
    """A folder being walked: the names still to come, last first, and what those are that aren't files."""

    inside: bytes
    identity: Identity
    names: list[bytes] = field(default_factory=list)
    special: dict[bytes, _Directory | Problem] = field(default_factory=dict)


def _enter(
    root: bytes,
    inside: bytes,
    directory: _Directory,
    stack: list[_Level],
    above: frozenset[Identity],
    links: Counter[Identity],
) -> _Level:
    path = os.path.join(root, inside)
    try:
        identity = _identity(path)
        if identity in above:
            raise UnusableImage(SkipReason.DIRECTORY_LOOP, "it leads to a folder above the source")
        for outer in stack:
            if outer.identity == identity:
                where = encode_key(outer.inside.rstrip(os.fsencode(os.sep))) or "the source itself"
                raise UnusableImage(SkipReason.DIRECTORY_LOOP, f"it leads back to {where}")
        if directory.is_link:
            links[identity] += 1
            if links[identity] > _MAX_LINKS:
                detail = f"more than {_MAX_LINKS} links lead to the same folder"
                raise UnusableImage(SkipReason.DIRECTORY_LOOP, detail)
        level = _open_level(path, inside + os.fsencode(os.sep), identity)
        is_own = not _MANIFESTS.isdisjoint(level.names) and is_own_folder(path)
        return _Level(level.inside, identity) if is_own else level
    except OSError as error:
        detail = f"the folder can't be opened: {describe_os_error(error)}"
        raise UnusableImage(SkipReason.UNREADABLE, detail) from error


def _identity(path: bytes) -> Identity:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _ancestors(root: bytes) -> frozenset[Identity]:
    """Return the folders above the source, as it is written and where it really lies."""
    found = set()
    for path in (os.path.abspath(root), os.path.realpath(root)):
        while (parent := os.path.dirname(path)) != path:
            path = parent
            with suppress(OSError):
                found.add(_identity(path))
    return frozenset(found)


def _open_level(path: bytes, inside: bytes, identity: Identity) -> _Level:
    level = _Level(inside, identity)
    with os.scandir(path) as entries:
        for entry in entries:
            if is_clutter(entry.name):
                continue
            level.names.append(entry.name)
            # scandir knows the kind without a call per file; only what is no plain file is examined.
            if not entry.is_file(follow_symlinks=False):
                special = _examine(entry)
                if special is not None:
                    level.special[entry.name] = special
    # Reversed, because names are popped from the end.
    level.names.sort(key=lambda name: natural_key(encode_key(name)), reverse=True)
    return level


def _examine(entry: os.DirEntry[bytes]) -> _Directory | Problem | None:
    try:
        is_link = entry.is_symlink()
        if entry.is_dir():
            return _Directory(is_link)
        if entry.is_file():
            return None
        return SkipReason.NOT_A_FILE, describe_kind(entry.stat().st_mode)
    except FileNotFoundError:
        return SkipReason.BROKEN_LINK, "what it points to isn't there"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return SkipReason.BROKEN_LINK, "it points to itself"
        return SkipReason.UNREADABLE, describe_os_error(error)
