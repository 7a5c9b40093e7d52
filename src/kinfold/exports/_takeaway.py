"""What is exported: every image with its corrected group, and names that every file system takes."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinfold.corrections import Corrections, corrected_table, names_of

if TYPE_CHECKING:
    from kinfold.run import Run

Id = TypeVar("Id", bound=Hashable)

MOST_BYTES = 120  # of 255: room for a number, an ending, and the mark of a half-written file
_FORBIDDEN = frozenset('<>:"/\\|?*')
_UNSEEN = frozenset(["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"])
_JOINERS = "\u200c\u200d"  # part of Persian words and of emoji
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"]
)
_ALIKE_IN_FILES = "_"

UNSORTED = "unsorted"
NO_GROUP = -1
_BLOCK = 1 << 16


def safe_name(text: str, most_bytes: int = MOST_BYTES) -> str:
    r"""Return ``text`` as one part of a path that Linux, macOS and Windows all take as it is.

    Slashes and what else Windows forbids, control characters and invisible ones become ``_``; so do dots and
    dashes at the beginning, and dots and spaces at the end; the names of devices (``NUL``) get a ``_`` in
    front. What is too long is cut.

    Examples
    --------
    >>> safe_name("a/b: c?"), safe_name(".."), safe_name("nul.txt"), safe_name("cat ")
    ('a_b_ c_', '__', '_nul.txt', 'cat')
    """
    text = unicodedata.normalize("NFC", text)
    text = "".join(_ALIKE_IN_FILES if _is_trouble(character) else character for character in text).strip()
    head, tail = text.lstrip(".-"), text.rstrip(". ")
    if not tail:
        return _ALIKE_IN_FILES * max(1, len(text))
    text = _ALIKE_IN_FILES * (len(text) - len(head)) + tail[len(text) - len(head) :]
    if text.split(".", 1)[0].rstrip().casefold() in _DEVICES:
        text = _ALIKE_IN_FILES + text
    return cut(text, most_bytes).rstrip(". ") or _ALIKE_IN_FILES


def cut(text: str, most_bytes: int) -> str:
    """Return the longest beginning of ``text`` that takes at most so many bytes in UTF-8."""
    return text.encode("utf-8")[:most_bytes].decode("utf-8", "ignore")


def fold(name: str) -> str:
    """Return what two names share that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def tell_apart(names: Mapping[Id, str], reserved: Collection[str] = ()) -> dict[Id, str]:
    """Return the names with the number of its owner behind each that would be taken for another one.

    Parameters
    ----------
    names : Mapping
        Owner to name.
    reserved : collection of str
        Names that nobody may have as they are.

    Examples
    --------
    >>> tell_apart({3: "crane", 5: "cat", 7: "Crane"})
    {3: 'crane (3)', 5: 'cat', 7: 'Crane (7)'}
    """
    found = dict(names)
    while True:
        counts = Counter(map(fold, [*found.values(), *reserved, *reserved]))
        twice = [owner for owner, name in found.items() if counts[fold(name)] > 1]
        if not twice:
            return found
        for owner in twice:
            found[owner] = f"{found[owner]} ({owner})"


class FreeNames:
    """Hands out file names of one folder, each of them once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def take(self, stem: str, ending: str) -> str:
        """Return ``stem + ending``, or with ``-2``, ``-3`` … behind the stem where that is taken."""
        wanted = fold(stem + ending)
        name, number = stem + ending, self._next.get(wanted, 1)
        while fold(name) in self._taken:
            number += 1
            name = f"{stem}-{number}{ending}"
        self._next[wanted] = number
        self._taken.add(fold(name))
        return name


def _is_trouble(character: str) -> bool:
    if character in _FORBIDDEN:
        return True
    return character not in _JOINERS and unicodedata.category(character) in _UNSEEN


@dataclass(frozen=True)
class ExportedGroup:
    """One group that images can be in.

    Attributes
    ----------
    id : int
        Its number, as in ``cluster``.
    name : str
        What it is called; empty where it has no name.
    label : str
        The same, or ``group 7``: differs from the labels of all other groups, also where case doesn't count.
    size : int
        Its images.
    """

    id: int
    name: str
    label: str
    size: int


@dataclass(frozen=True)
class Takeaway:
    """A run as it is exported.

    Attributes
    ----------
    run : Run
        The run.
    table : pa.Table
        Of :func:`~kinfold.corrections.corrected_table`: row, key, cluster (−1: in no group), name,
        confidence, original_cluster, mark, by_hand.
    names : Mapping of int to str
        The groups that there are, merged ones left out, with their names.
    version : int
        Of the corrections; 0 where there are none.
    """

    run: Run
    table: pa.Table
    names: Mapping[int, str]
    version: int

    @classmethod
    def of(cls, run: Run) -> Takeaway:
        """Read the run and its corrections, as they are now."""
        corrections = Corrections.open(run, write=False)
        state = corrections.state
        names = names_of(run, state)
        alive = {group: names.get(group) or "" for group in sorted(state.groups) if state.groups[group].alive}
        return cls(run, corrected_table(run, state), alive, state.version)

    @cached_property
    def groups(self) -> tuple[ExportedGroup, ...]:
        """The groups, by number, also those without images."""
        sizes = np.bincount(self.clusters[self.clusters >= 0], minlength=max(self.names, default=0) + 1)
        wanted = {id: name or f"group {id}" for id, name in self.names.items()}
        labels = tell_apart(wanted, reserved=(UNSORTED,))
        return tuple(ExportedGroup(id, self.names[id], labels[id], int(sizes[id])) for id in self.names)

    @cached_property
    def labels(self) -> dict[int, str]:
        """The groups' labels by number; None's is ``unsorted``."""
        return {**{group.id: group.label for group in self.groups}, NO_GROUP: UNSORTED}

    @cached_property
    def clusters(self) -> NDArray[np.int32]:
        """Group of every line of the table, −1 for none."""
        clusters: NDArray[np.int32] = self.table["cluster"].to_numpy()
        return clusters

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the table, read in blocks."""
        for batch in self.table.to_batches(max_chunksize=_BLOCK):
            yield from batch.to_pylist()
