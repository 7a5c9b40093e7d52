"""What every later room works on: one vector per usable row of a source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinfold.errors import InputError, nearest_name
from kinfold.features.matrix import RowMatrix

DEFAULT_VARIANT = "cls"
SKIPPED_SCHEMA = pa.schema([("row", pa.int64()), ("key", pa.string()), ("reason", pa.string())])


class Features(ABC):
    """Features of the rows of a source.

    A row number is the place in the source and never changes: rows that can't be used keep theirs, are
    listed in ``skipped`` and are left out of the matrix.

    Attributes
    ----------
    path : Path
        The store or file.
    variants : tuple of str
        Names of the matrices that stand side by side, all with the same rows.
    source_uri : str or None
        Where the images are, if known; they may have moved since.
    neighbors_path : Path or None
        Folder where graphs of these features may be kept.
    """

    path: Path
    variants: tuple[str, ...]
    source_uri: str | None = None
    neighbors_path: Path | None = None

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """Rows of the source, skipped ones counted."""

    @property
    @abstractmethod
    def keys(self) -> Any:
        """Key of every row of the source, as a string array of PyArrow."""

    @property
    @abstractmethod
    def rows(self) -> NDArray[np.int64]:
        """Row number of every line of the matrix, ascending."""

    @property
    @abstractmethod
    def skipped(self) -> Any:
        """PyArrow table of skipped rows: row int64, key string, reason string."""

    @abstractmethod
    def matrix(self, variant: str | None = None) -> RowMatrix:
        """Return the vectors of the usable rows, ``len(rows)`` × dim.

        Parameters
        ----------
        variant : str, optional
            Which vectors; by default ``cls``, or the first variant where there is no such.

        Raises
        ------
        InputError
            There is no such variant; the message lists those there are.
        """

    @abstractmethod
    def fingerprint(self, variant: str | None = None) -> str:
        """Return a SHA-256 that stands for the vectors of a variant, the keys and the skipped rows."""

    def choose_variant(self, variant: str | None) -> str:
        """Return the variant asked for, checked, or the default one."""
        if variant is None:
            return DEFAULT_VARIANT if DEFAULT_VARIANT in self.variants else self.variants[0]
        if variant not in self.variants:
            hint = nearest_name(variant, list(self.variants))
            offered = ", ".join(self.variants)
            raise InputError(f"{self.path} has no variant {variant!r}{hint}; it has: {offered}")
        return variant

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.path)!r}: {len(self.rows):,} of {self.n_rows:,} rows>"
