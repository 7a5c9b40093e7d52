"""What is exported: every image with its corrected group, and names that every file system takes."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.corrections import Corrections, corrected_table, names_of
from kinfold.run import add_levels
from kinfold.typicality import find_strays

if TYPE_CHECKING:
    from kinfold.run import Run

Id = TypeVar("Id", bound=Hashable)

MOST_BYTES = 120  # of 255: leaves room for a number, a suffix, and the prefix of a partial file
_FORBIDDEN = frozenset('<>:"/\\|?*')
_UNSEEN = frozenset(["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"])
_JOINERS = "\u200c\u200d"  # part of Persian words and of emoji
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"]
)
_STAND_IN = "_"  # for characters that some file system refuses

FIRST_COLUMNS = ("row", "key", "cluster", "name", "confidence", "original_cluster", "mark", "by_hand")
COLUMNS = (*FIRST_COLUMNS, "typicality")  # earlier versions wrote none
UNSORTED = "unsorted"
NO_GROUP = -1
STRAY = "stray"  # mark of an image that fits no group
_BLOCK = 1 << 16  # rows at a time: a million rows as dictionaries would take gigabytes


def safe_name(text: str, most_bytes: int = MOST_BYTES) -> str:
    r"""Return ``text`` as a file name that is valid on Linux, macOS and Windows.

    Slashes and other characters that Windows forbids, control characters and invisible ones become ``_``; so
    do leading dots and dashes; trailing dots and spaces are removed. Names of devices (``NUL``) get a leading
    ``_``. Longer names are cut to ``most_bytes`` of UTF-8.

    Examples
    --------
    >>> safe_name("a/b: c?"), safe_name(".."), safe_name("nul.txt"), safe_name("cat ")
    ('a_b_ c_', '__', '_nul.txt', 'cat')
    """
    text = unicodedata.normalize("NFC", text)
    text = "".join(_STAND_IN if _is_trouble(character) else character for character in text).strip()
    head, tail = text.lstrip(".-"), text.rstrip(". ")
    if not tail:
        return _STAND_IN * max(1, len(text))
    text = _STAND_IN * (len(text) - len(head)) + tail[len(text) - len(head) :]
    if text.split(".", 1)[0].rstrip().casefold() in _DEVICES:
        text = _STAND_IN + text
    return cut(text, most_bytes).rstrip(". ") or _STAND_IN


def cut(text: str, most_bytes: int) -> str:
    """Return the longest prefix of ``text`` that takes at most ``most_bytes`` in UTF-8."""
    return text.encode("utf-8")[:most_bytes].decode("utf-8", "ignore")


def fold(name: str) -> str:
    """Return a key that is equal for names that some file system takes for the same."""
    # twice: case folding can leave characters that compose differently
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def tell_apart(names: Mapping[Id, str], reserved: Collection[str] = ()) -> dict[Id, str]:
    """Return unique names: those that some file system takes for another get the key of their owner appended.

    Parameters
    ----------
    names : Mapping
        Name by owner.
    reserved : collection of str
        Names that no owner may have unchanged.

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
    """Gives out unique file names for one folder."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def take(self, stem: str, suffix: str) -> str:
        """Return ``stem + suffix``, with ``-2``, ``-3``, … after the stem where that is taken."""
        wanted = fold(stem + suffix)
        name, number = stem + suffix, self._next.get(wanted, 1)
        while fold(name) in self._taken:
            number += 1
            name = f"{stem}-{number}{suffix}"
        self._next[wanted] = number
        self._taken.add(fold(name))
        return name


def _is_trouble(character: str) -> bool:
    if character in _FORBIDDEN:
        return True
    return character not in _JOINERS and unicodedata.category(character) in _UNSEEN


@dataclass(frozen=True)
class ExportedGroup:
    """A group as it is exported.

    Attributes
    ----------
    id : int
        Number of the group, as in the column ``cluster``.
    name : str
        Name of the group; empty where it has none.
    label : str
        The name, or ``group 7``, made unique among all groups even where case is ignored.
    size : int
        Number of images.
    """

    id: int
    name: str
    label: str
    size: int


def take_out(table: pa.Table, strays: NDArray[np.bool_]) -> pa.Table:
    """Return a table with some images in no group: cluster −1, no name, mark "stray" where it has marks."""
    mask = pa.array(strays)
    instead: dict[str, object] = {"cluster": NO_GROUP, "name": None, "mark": STRAY}
    for name, value in instead.items():
        if name in table.column_names:
            place, kind = table.column_names.index(name), table.schema.field(name)
            column = pc.if_else(mask, pa.scalar(value, kind.type), table[name])
            table = table.set_column(place, kind, column)
    return table


@dataclass(frozen=True)
class Takeaway:
    """A run as it is exported: a snapshot with its corrections.

    Attributes
    ----------
    run : Run
        The run.
    table : pa.Table
        Of :func:`~kinfold.corrections.corrected_table`: row, key, cluster (−1: in no group), name,
        confidence, original_cluster, mark ("stray" too, where asked for), by_hand, typicality.
    names : Mapping of int to str
        Name of every group, without groups that were merged into another.
    version : int
        Version of the corrections; 0 where there are none.
    levels : tuple of int
        Numbers of groups of further levels, from coarse to fine: the table has a column ``level_K`` of each.
    """

    run: Run
    table: pa.Table
    names: Mapping[int, str]
    version: int
    levels: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        run: Run,
        levels: Mapping[int, NDArray[np.int32]] = MappingProxyType({}),
        strays: float | None = None,
    ) -> Takeaway:
        """Read the run and its current corrections.

        ``levels`` has the groups of further levels; images less typical than a share ``strays`` of their
        group are in none.
        """
        with Corrections.open(run, write=False) as corrections:
            state = corrections.state
        names = names_of(run, state)
        alive = {group: names.get(group) or "" for group in sorted(state.groups) if state.groups[group].alive}
        table = corrected_table(run, state)
        if strays is not None:
            typicality = table["typicality"].to_numpy()
            table = take_out(
                table, find_strays(typicality, table["cluster"].to_numpy(), strays, kept=state.by_hand)
            )
        table = add_levels(table, levels)
        return cls(run, table, alive, state.version, tuple(levels))

    @property
    def level_columns(self) -> tuple[str, ...]:
        """Names of the columns of further levels."""
        return tuple(f"level_{n_groups}" for n_groups in self.levels)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of an exported table."""
        return (*COLUMNS, *self.level_columns)

    @cached_property
    def groups(self) -> tuple[ExportedGroup, ...]:
        """All groups by number, including those without images."""
        sizes = np.bincount(self.clusters[self.clusters >= 0], minlength=max(self.names, default=0) + 1)
        wanted = {id: name or f"group {id}" for id, name in self.names.items()}
        labels = tell_apart(wanted, reserved=(UNSORTED,))
        return tuple(ExportedGroup(id, self.names[id], labels[id], int(sizes[id])) for id in self.names)

    @cached_property
    def labels(self) -> dict[int, str]:
        """Label of each group by number; −1 is ``unsorted``."""
        return {**{group.id: group.label for group in self.groups}, NO_GROUP: UNSORTED}

    @cached_property
    def clusters(self) -> NDArray[np.int32]:
        """Group of every row of the table, −1 for none."""
        clusters: NDArray[np.int32] = self.table["cluster"].to_numpy()
        return clusters

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the table as dictionaries, read in blocks."""
        for batch in self.table.to_batches(max_chunksize=_BLOCK):
            yield from batch.to_pylist()
