"""What a classifier that learned the corrections would change: kept in the run until the next one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.corrections._base import hash_base
from kinfold.corrections._edits import Accept, Rows
from kinfold.errors import FormatError, InputError
from kinfold.run import lock_directory, read_table
from kinfold.storage import as_plain, atomic_file, check_format_version

if TYPE_CHECKING:
    from kinfold.run import Run

PROPOSALS_NAME = "proposals.parquet"
PROPOSALS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("from_cluster", pa.int32()),
        ("to_cluster", pa.int32()),
        ("confidence", pa.float32()),
    ]
)
_FORMAT = "kinfold-proposals"
_FORMAT_VERSION = 1
_METADATA = b"kinfold"
_MEND = "refine again: `kinfold refine`"


@dataclass(frozen=True, eq=False)
class Proposals:
    """Images that had better be in another group, in row order.

    Attributes
    ----------
    rows : ndarray (n,) int64
        Their rows in the source.
    groups : ndarray (n,) int32
        The group proposed for each.
    confidences : ndarray (n,) float32
        How sure the classifier is of that group, 0 to 1.
    from_groups : ndarray (n,) int32
        The group each is in, also of images marked "wrong".
    facts : dict
        What the classifier learned from: ``version`` of the state, ``n_images``, ``n_learned``,
        ``n_by_hand``, ``n_groups``, ``n_free`` (images that could have been changed), ``agreement`` (share
        of images not placed by hand whose group is found by a classifier that hasn't learned from them),
        ``found_by_hand`` (the same of those placed by hand; None where they are too few), ``random_state``.
    """

    rows: NDArray[np.int64]
    groups: NDArray[np.int32]
    confidences: NDArray[np.float32]
    from_groups: NDArray[np.int32]
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Rows | None = None, *, min_confidence: float = 0.0) -> Accept:
        """Return the edit that takes proposals over: all, those of some rows, those that are sure enough.

        Raises
        ------
        InputError
            None is left, or ``min_confidence`` is not between 0 and 1.
        """
        check_confidence(min_confidence)
        taken = self.confidences >= np.float32(min_confidence)
        if rows is not None:
            taken &= np.isin(self.rows, np.asarray(rows))
        if not taken.any():
            raise InputError("no proposal is left to take over")
        return Accept(self.rows[taken], self.groups[taken])


def check_confidence(min_confidence: float) -> None:
    """Raise :class:`InputError` unless a confidence is between 0 and 1."""
    number = isinstance(min_confidence, int | float | np.floating) and not isinstance(min_confidence, bool)
    if not number or not 0 <= min_confidence <= 1:
        raise InputError(f"min_confidence must be between 0 and 1, not {min_confidence!r}")


def write_proposals(run: Run, proposals: Proposals) -> Path:
    """Write ``RUN/proposals.parquet``, whole or not at all, and return its path."""
    path = run.path / PROPOSALS_NAME
    places = np.searchsorted(run.assignments["row"].to_numpy(), proposals.rows)
    head = {"format": _FORMAT, "format_version": _FORMAT_VERSION, "base": hash_base(run)}
    text = json.dumps({**head, "facts": proposals.facts}, sort_keys=True, default=as_plain)
    columns = [
        pa.array(proposals.rows),
        run.assignments["key"].take(pa.array(places)),
        pa.array(proposals.from_groups),
        pa.array(proposals.groups),
        pa.array(proposals.confidences),
    ]
    table = pa.table(columns, schema=PROPOSALS_SCHEMA.with_metadata({_METADATA: text.encode()}))
    with lock_directory(run.path, wait=True), atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")
    return path


def read_proposals(run: Run) -> Proposals | None:
    """Read what :func:`write_proposals` wrote last; None where there is nothing.

    Raises
    ------
    FormatError
        The file is damaged, of a newer format, or of other groups than the run's.
    """
    path = run.path / PROPOSALS_NAME
    if not path.is_file():
        return None
    table = read_table(path, PROPOSALS_SCHEMA, _MEND)
    head = _read_head(path)
    if head.get("base") != hash_base(run):
        raise FormatError(f"{path} holds proposals for other groups than this run's; {_MEND}")
    return Proposals(
        table["row"].to_numpy(),
        table["to_cluster"].to_numpy(),
        table["confidence"].to_numpy(),
        table["from_cluster"].to_numpy(),
        dict(head.get("facts", {})),
    )


def _read_head(path: Path) -> dict[str, Any]:
    try:
        head = json.loads((pq.read_schema(path).metadata or {}).get(_METADATA, b"{}"))
    except ValueError as error:
        raise FormatError(f"{path} is damaged ({error}); {_MEND}") from error
    if not isinstance(head, dict) or head.get("format") != _FORMAT:
        raise FormatError(f"{path} isn't a file of Kinfold's proposals; {_MEND}")
    check_format_version(path, head.get("format_version"), _FORMAT_VERSION)
    return head
