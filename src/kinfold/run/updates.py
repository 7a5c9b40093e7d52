"""Which image of a source is which row of a run, after files came, went, were renamed or replaced."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

UPDATES_NAME = "updates.parquet"
SPLITS_NAME = "splits.parquet"
UPDATES_SCHEMA = pa.schema(
    [
        ("update", pa.int32()),
        ("row", pa.int64()),
        ("key", pa.string()),
        ("what", pa.string()),
        ("before", pa.string()),
        ("content", pa.binary()),
    ]
)
SPLITS_SCHEMA = pa.schema(
    [
        ("corrections", pa.string()),
        ("edit", pa.int64()),
        ("time", pa.string()),
        ("row", pa.int64()),
        ("part", pa.int32()),
    ]
)
CAME, WENT, MOVED, CHANGED, RETURNED = "came", "went", "moved", "changed", "returned"
_NONE = -1

Content = bytes | None


@dataclass(frozen=True)
class KnownRows:
    """The rows that a run ever had.

    Attributes
    ----------
    keys : sequence of str
        Key of every row; of one whose image is gone the last one.
    contents : sequence of bytes or None
        Hash of its file; None where it could not be read.
    gone : ndarray (N,) bool
        Whether its image is gone.
    usable : ndarray (N,) bool
        Whether it has a group.
    """

    keys: Sequence[str]
    contents: Sequence[Content]
    gone: NDArray[np.bool_]
    usable: NDArray[np.bool_]


@dataclass(frozen=True)
class Matching:
    """The rows of a run beside the images of its source as they are now.

    Attributes
    ----------
    places : ndarray (M,) int64
        For every row, new ones behind the others, its place in the source; −1 where the image is gone.
    n_before : int
        Rows before.
    what : mapping of str to list of int
        Rows that came, went, moved, changed (new rows of files whose content was replaced) or returned.
    replaced : list of int
        Rows whose file was replaced under the same key: they are among those that went.
    unread : list of int
        Rows with a group whose file can't be read now; they stay as they are.
    mended : list of int
        Rows without a group whose file could not be read before.
    """

    places: NDArray[np.int64]
    n_before: int
    what: dict[str, list[int]]
    replaced: list[int]
    unread: list[int]
    mended: list[int]

    @property
    def is_same(self) -> bool:
        """Whether all images are where they were."""
        return not (any(self.what.values()) or self.mended)

    @property
    def n_new(self) -> int:
        """Rows that are new."""
        return len(self.places) - self.n_before


def match_rows(known: KnownRows, keys: Sequence[str], contents: Sequence[Content]) -> Matching:
    """Find the row of every image: by key and content, then by content alone, then a new one.

    A file of the same key and another content is another image, with a row of its own: what people said of
    the image before is never attached to it. Of several files with one content each keeps its row by its key;
    the others are taken in order. An image that was gone gets its row back.

    Parameters
    ----------
    known : KnownRows
        What the run had.
    keys, contents : sequences of length S
        Of the images as they are now, in their order.
    """
    n = len(known.keys)
    places = np.full(n, _NONE, np.int64)
    row_at = {known.keys[row]: row for row in np.flatnonzero(~known.gone).tolist()}
    free: list[int] = []
    what: dict[str, list[int]] = {name: [] for name in (CAME, WENT, MOVED, CHANGED, RETURNED)}
    unread, mended = [], []
    for place, (key, content) in enumerate(zip(keys, contents, strict=True)):
        row = row_at.get(key)
        if row is None or (content is not None and not _may_be(known, row, content)):
            free.append(place)
            continue
        places[row] = place
        if content is None and known.usable[row]:
            unread.append(row)
        elif content is not None and known.contents[row] is None:
            mended.append(row)
    present = np.flatnonzero(~known.gone & (places < 0)).tolist()
    for rows, name in ((present, MOVED), (np.flatnonzero(known.gone).tolist(), RETURNED)):
        found = _by_content(known, rows, keys, contents, free)
        for place, row in found.items():
            places[row] = place
            what[name].append(row)
        free = [place for place in free if place not in found]
    left = set(np.flatnonzero(~known.gone & (places < 0)).tolist())
    replaced = []
    for number, place in enumerate(free, start=n):
        former = row_at.get(keys[place], _NONE)
        what[CHANGED if former in left else CAME].append(number)
        if former in left:
            replaced.append(former)
    what[WENT] = sorted(left)
    for name in (MOVED, RETURNED):
        what[name].sort()
    return Matching(np.concatenate([places, np.array(free, np.int64)]), n, what, replaced, unread, mended)


def _by_content(
    known: KnownRows, rows: list[int], keys: Sequence[str], contents: Sequence[Content], free: list[int]
) -> dict[int, int]:
    """Return for places in the source the row of the same content: the same key first, then in order."""
    by_content: dict[Content, deque[int]] = {}
    by_both: dict[tuple[str, Content], deque[int]] = {}
    for row in rows:
        if (content := known.contents[row]) is not None:
            by_content.setdefault(content, deque()).append(row)
            by_both.setdefault((known.keys[row], content), deque()).append(row)
    found: dict[int, int] = {}
    taken: set[int] = set()
    for place in free:
        if same := by_both.get((keys[place], contents[place])):
            found[place] = same.popleft()
            taken.add(found[place])
    for place in free:
        same = by_content.get(contents[place]) or deque()
        while place not in found and same:
            if (row := same.popleft()) not in taken:
                found[place] = row
    return found


def _may_be(known: KnownRows, row: int, content: bytes) -> bool:
    """Tell whether a file can be that of a row; one that was never read has no group to be kept."""
    before = known.contents[row]
    return before == content or (before is None and not known.usable[row])
