"""The neighbour graph in compressed sparse rows, in memory or mapped from disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import FormatError, InputError
from kinfold.features.matrix import map_npy
from kinfold.neighbors._lists import check_lists
from kinfold.storage import (
    atomic_directory,
    check_format_version,
    hash_array,
    hash_json,
    read_json,
    write_array,
    write_json,
)

FORMAT = "kinfold-neighbors"
FORMAT_VERSION = 1
_ARRAYS = {"indptr": np.int64, "indices": np.int32, "similarities": np.float32}


@dataclass(frozen=True)
class NeighborGraph:
    """Who is near whom: for every sample its neighbours, most similar first.

    Row ``i`` has the neighbours ``indices[indptr[i]:indptr[i + 1]]``, with their cosine similarities
    at the same places. A sample is never its own neighbour.

    Attributes
    ----------
    indptr : int64 array of shape (n_samples + 1,)
        Where each row begins and ends.
    indices : int32 array of shape (n_edges,)
        The neighbours; equal similarities stand in ascending order of number.
    similarities : float32 array of shape (n_edges,)
        Cosine similarities in [-1, 1], descending within a row.
    parameters : mapping
        How the graph was made: ``n_neighbors``, ``threshold``, ``max_neighbors``, ``backend``; of an exact
        search ``precision``, and in bfloat16 ``share_searched_again`` (rows that the error bound did not
        clear); of an approximate one ``recall`` on ``recall_sample`` rows; ``isolated_rows`` where all-zero
        rows were let in.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    similarities: NDArray[np.float32]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_lists(
        cls,
        indptr: ArrayLike,
        indices: ArrayLike,
        similarities: ArrayLike | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
    ) -> NeighborGraph:
        """Make a graph of one's own pairs, which ``fit`` takes as it takes one of :func:`knn_graph`.

        Parameters
        ----------
        indptr : array-like of int, shape (n_samples + 1,)
            Where each row begins and ends, from 0 to the number of pairs.
        indices : array-like of int, shape (n_edges,)
            The neighbours of one row after another, in any order; a row may have none.
        similarities : array-like of float, shape (n_edges,), optional
            In [-1, 1]; by default 1 everywhere.
        parameters : mapping, optional
            What the graph should say of itself, as JSON values.

        Raises
        ------
        InputError
            The arrays don't fit each other, a neighbour isn't among the samples, is the sample itself or
            stands twice in a row, or a similarity is out of range; the first wrong row is named.
        """
        arrays = check_lists(indptr, indices, similarities)
        return cls(*arrays, {"backend": "own pairs", **(parameters or {})})

    @property
    def n_samples(self) -> int:
        """Number of rows."""
        return len(self.indptr) - 1

    @property
    def n_edges(self) -> int:
        """Number of (sample, neighbour) pairs."""
        return len(self.indices)

    @property
    def degrees(self) -> NDArray[np.int64]:
        """Number of neighbours of every sample."""
        return np.diff(self.indptr)

    @property
    def mean_degree(self) -> float:
        """Mean number of neighbours."""
        return self.n_edges / self.n_samples

    def neighbors(self, row: int) -> NDArray[np.int32]:
        """Return the neighbours of one sample, most similar first."""
        if not 0 <= row < self.n_samples:
            raise InputError(f"row {row} is not among the {self.n_samples} samples of the graph")
        return self.indices[self.indptr[row] : self.indptr[row + 1]]

    def describe(self) -> dict[str, Any]:
        """Return the parameters and the degrees' statistics as JSON values."""
        degrees = self.degrees
        cap = self.parameters.get("max_neighbors")
        return {
            **self.parameters,
            "n_samples": self.n_samples,
            "n_edges": self.n_edges,
            "degree": {
                "mean": round(self.mean_degree, 3),
                "min": int(degrees.min()),
                "median": float(np.median(degrees)),
                "max": int(degrees.max()),
            },
            "share_at_cap": 0.0 if cap is None else round(float(np.mean(degrees >= cap)), 4),
        }

    def fingerprint(self) -> str:
        """Return the SHA-256 of the three arrays."""
        return hash_json({name: hash_array(getattr(self, name)) for name in _ARRAYS})

    def save(self, path: str | Path) -> None:
        """Write the graph as a folder of ``.npy`` files and ``graph.json``: whole, or not at all.

        An existing folder at ``path`` is replaced if it is a graph; anything else raises
        :class:`~kinfold.errors.InputError` and is left alone.
        """
        path = Path(path)
        if path.exists() and not (path / "graph.json").is_file():
            raise InputError(f"{path} exists and is not a neighbour graph; choose another place")
        hashes = {name: hash_array(getattr(self, name)) for name in _ARRAYS}
        with atomic_directory(path) as partial:
            for name in _ARRAYS:
                with (partial / f"{name}.npy").open("wb") as stream:
                    write_array(stream, getattr(self, name))
            write_json(
                partial / "graph.json",
                {
                    "format": FORMAT,
                    "format_version": FORMAT_VERSION,
                    "n_samples": self.n_samples,
                    "n_edges": self.n_edges,
                    "parameters": dict(self.parameters),
                    "arrays": hashes,
                },
            )

    @classmethod
    def open(cls, path: str | Path, *, mmap: bool = True) -> NeighborGraph:
        """Open a saved graph.

        Parameters
        ----------
        path : path
            The folder that :meth:`save` wrote.
        mmap : bool, default True
            Map the arrays from disk instead of reading them into memory.

        Raises
        ------
        FormatError
            The folder is no graph, of a newer format, or damaged; the message names the file.
        """
        path = Path(path)
        if not (path / "graph.json").is_file():
            raise FormatError(f"{path} is not a neighbour graph: it has no graph.json")
        facts = _check_header(path / "graph.json")
        arrays = {name: _open_array(path / f"{name}.npy", mmap) for name in _ARRAYS}
        lengths = {
            "indptr": facts["n_samples"] + 1,
            "indices": facts["n_edges"],
            "similarities": facts["n_edges"],
        }
        for name, dtype in _ARRAYS.items():
            if arrays[name].dtype != dtype or arrays[name].shape != (lengths[name],):
                raise FormatError(f"{path / name}.npy is damaged: it does not fit graph.json")
        return cls(arrays["indptr"], arrays["indices"], arrays["similarities"], facts["parameters"])

    @staticmethod
    def verify(path: str | Path) -> None:
        """Read a saved graph in full and compare it with its recorded hashes.

        Raises
        ------
        FormatError
            The content is not what was written; the message names the file.
        """
        path = Path(path)
        graph = NeighborGraph.open(path)
        recorded = read_json(path / "graph.json")["arrays"]
        for name in _ARRAYS:
            if hash_array(getattr(graph, name)) != recorded.get(name):
                raise FormatError(f"{path / name}.npy is damaged: its content does not match its hash")


def _check_header(path: Path) -> dict[str, Any]:
    facts = read_json(path)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise FormatError(f"{path} does not describe a neighbour graph")
    check_format_version(path, facts.get("format_version"), FORMAT_VERSION)
    if not {"n_samples", "n_edges", "parameters", "arrays"} <= facts.keys():
        raise FormatError(f"{path} is damaged: fields are missing")
    return facts


def _open_array(path: Path, mmap: bool) -> NDArray[Any]:
    array = map_npy(path)
    return array if mmap else np.array(array)
