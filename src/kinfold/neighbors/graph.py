"""The neighbour graph in compressed sparse rows: made of a search, of given pairs or of labels; on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from kinfold.errors import FormatError, InputError
from kinfold.reading import check_fields, is_count
from kinfold.rows import map_npy
from kinfold.rows.ragged import starts_of
from kinfold.storage import (
    atomic_directory,
    check_format_version,
    check_own,
    hash_array,
    hash_json,
    hold_output,
    read_json,
    write_array,
    write_json,
)
from kinfold.validation import Rule, check, check_integer

FORMAT = "kinfold-neighbors"
FORMAT_VERSION = 1
MOST_ROWS = 2**31 - 1  # indices are 32-bit: they take most of a graph's bytes, and half of what 64-bit would
# The types on disk, in the order in which the arrays are hashed and written.
_ARRAYS = {"indptr": np.int64, "indices": np.int32, "similarities": np.float32}
_KINDS = {
    "n_samples": is_count,
    "n_edges": is_count,
    "parameters": dict,
    "arrays": {"*": str},
}  # of graph.json


# In a class of fewer members than this many times the neighbours, drawing with repetitions would have to be
# repeated too often, so its members are shuffled instead. Shuffling costs the square of a class's size.
_CROWDED = 4
_DRAWN_AT_ONCE = 1 << 22  # random numbers of one block of a shuffle: 32 MiB


@dataclass(frozen=True)
class NeighborGraph:
    """A neighbour graph: for every sample its neighbours, most similar first.

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
        rows were isolated.
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
        """Make a graph of given pairs, which ``fit`` takes like one of :func:`knn_graph`.

        Parameters
        ----------
        indptr : array-like of int, shape (n_samples + 1,)
            Where each row begins and ends, from 0 to the number of pairs.
        indices : array-like of int, shape (n_edges,)
            The neighbours of one row after another, in any order; a row may have none.
        similarities : array-like of float, shape (n_edges,), optional
            In [-1, 1]; by default 1 everywhere.
        parameters : mapping, optional
            JSON values to record in :attr:`parameters`.

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
        hashes = {name: hash_array(getattr(self, name)) for name in _ARRAYS}
        with hold_output(path):
            if path.exists() and not (path / "graph.json").is_file():
                raise InputError(f"{path} exists and is not a neighbour graph; choose another place")
            self._write(path, hashes)

    def _write(self, path: Path, hashes: Mapping[str, str]) -> None:
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
                    "arrays": dict(hashes),
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
        InputError
            There is a link or a pipe in it.
        """
        path = Path(path)
        check_own(path)
        if not (path / "graph.json").is_file():
            raise FormatError(
                f"{path} is not a neighbour graph: it has no graph.json; name a folder that "
                "NeighborGraph.save wrote"
            )
        facts = _check_header(path / "graph.json")
        arrays = {name: _open_array(path / f"{name}.npy", mmap) for name in _ARRAYS}
        lengths = {
            "indptr": facts["n_samples"] + 1,
            "indices": facts["n_edges"],
            "similarities": facts["n_edges"],
        }
        for name, dtype in _ARRAYS.items():
            if arrays[name].dtype != dtype or arrays[name].shape != (lengths[name],):
                raise FormatError(
                    f"{path / name}.npy is damaged: it does not fit graph.json; make the graph again"
                )
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
        recorded = _check_header(path / "graph.json")["arrays"]
        for name in _ARRAYS:
            if hash_array(getattr(graph, name)) != recorded[name]:
                raise FormatError(
                    f"{path / name}.npy is damaged: its content does not match its hash; make the graph again"
                )


def _check_header(path: Path) -> dict[str, Any]:
    facts = read_json(path)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise FormatError(
            f"{path} does not describe a neighbour graph; name a folder that NeighborGraph.save wrote"
        )
    check_format_version(path, facts.get("format_version"), FORMAT_VERSION)
    check_fields(path, facts, _KINDS)
    if facts["arrays"].keys() != _ARRAYS.keys():
        raise FormatError(f"{path} is damaged: its arrays are not those of a graph; make the graph again")
    return facts


def _open_array(path: Path, mmap: bool) -> NDArray[Any]:
    array = map_npy(path)
    return array if mmap else np.array(array)


def check_lists(
    indptr: ArrayLike, indices: ArrayLike, similarities: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Return the three arrays of a graph, its rows sorted; :class:`InputError` where they aren't one."""
    starts, numbers = read_integers(indptr, "indptr"), read_integers(indices, "indices")
    if len(starts) < 2 or starts[0] != 0 or starts[-1] != len(numbers) or (np.diff(starts) < 0).any():
        raise InputError(f"indptr must rise from 0 to the number of pairs, {len(numbers)}")
    n = len(starts) - 1
    if n > MOST_ROWS:
        raise InputError(f"{n:,} rows are more than a graph with 32-bit indices can hold")
    # Each check names the first row that fails, so the graph's maker can find it.
    rows = np.repeat(np.arange(n), np.diff(starts))
    _refuse(rows, (numbers < 0) | (numbers >= n), f"has a neighbour that is not among the {n} samples")
    _refuse(rows, numbers == rows, "is its own neighbour")
    pairs = np.sort(rows * n + numbers)
    twice = np.flatnonzero(pairs[1:] == pairs[:-1])
    if len(twice):
        raise InputError(f"row {pairs[twice[0]] // n} has the neighbour {pairs[twice[0]] % n} twice")
    values = _check_similarities(similarities, rows)
    # The order of a search's graph: by row, most similar first, ties to the lower number.
    order = np.lexsort((numbers, -values, rows))
    return starts, numbers[order].astype(np.int32), values[order]


def _check_similarities(similarities: ArrayLike | None, rows: NDArray[Any]) -> NDArray[np.float32]:
    if similarities is None:
        return np.ones(len(rows), dtype=np.float32)
    values = np.asarray(similarities)
    if values.shape != rows.shape or values.dtype.kind not in "fiu":
        raise InputError(f"similarities must be {len(rows)} numbers, one for each pair")
    values = values.astype(np.float32)
    _refuse(rows, ~(np.abs(values) <= 1), "has a similarity that is not in [-1, 1]")
    return values


def read_integers(values: ArrayLike, name: str, most: int | None = None) -> NDArray[np.int64]:
    """Return a list of integers as int64; with ``most``, all must be from 0 to it.

    Raises
    ------
    InputError
        It is something else.
    """
    array = np.asarray(values)
    wanted = "a list of integers" if most is None else f"a list of integers from 0 to {most}"
    check({name: Rule(lambda _: _are_integers(array, most), wanted)}, **{name: array})
    return array.astype(np.int64)


def _are_integers(array: NDArray[Any], most: int | None) -> bool:
    # Of the array at once: a rule for every value would take seconds for the millions of a graph.
    if array.ndim != 1 or not array.size:
        return array.ndim == 1
    return array.dtype.kind in "iu" and (most is None or bool(0 <= array.min() <= array.max() <= most))


def _refuse(rows: NDArray[Any], wrong: NDArray[np.bool_], reason: str) -> None:
    if wrong.any():
        raise InputError(f"row {rows[np.argmax(wrong)]} {reason}")


def same_label_graph(
    labels: ArrayLike,
    n_neighbors: int = 50,
    *,
    random_state: int | np.random.RandomState | None = None,
) -> NeighborGraph:
    """Return a graph that joins every sample to random others of its own label: **for studies only**.

    Fitted with it, a method shows the upper bound that perfect neighbours would allow (ICCE's study of
    ground-truth neighbours). This is not clustering: the result depends on the labels.

    Parameters
    ----------
    labels : array-like of shape (n_samples,)
        Classes, of any type that can be sorted.
    n_neighbors : int, default 50
        Others per sample, drawn without repetition; all of them where a class has no more.
    random_state : int, RandomState or None, default None
        Seed of the draws.

    Returns
    -------
    NeighborGraph
        All similarities are 1; the only sample of a class has no neighbours.

    Raises
    ------
    InputError
        ``labels`` is empty or no list, or ``n_neighbors`` is not an integer of at least 1.
    """
    classes = np.asarray(labels)
    if classes.ndim != 1 or not len(classes):
        raise InputError(f"labels must be a list with one entry per sample, not of shape {classes.shape}")
    check_integer(n_neighbors=n_neighbors)
    # A seed of scikit-learn's kind, and NumPy's newer generator for the draws, which is faster.
    rng = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
    _, codes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    degrees = np.minimum(n_neighbors, counts - 1)[codes]
    indptr = starts_of(degrees)
    indices = np.empty(int(indptr[-1]), dtype=np.int32)
    order = np.argsort(codes, kind="stable")
    for members in np.split(order, np.cumsum(counts)[:-1]):
        degree = min(n_neighbors, len(members) - 1)
        places = indptr[members][:, None] + np.arange(degree)
        indices[places] = np.sort(members[_draw_others(len(members), degree, rng)], axis=1)
    parameters = {
        "n_neighbors": n_neighbors,
        "threshold": None,
        "max_neighbors": None,
        "backend": "same labels",
    }
    return NeighborGraph(indptr, indices, np.ones(len(indices), np.float32), parameters)


def _draw_others(size: int, degree: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return, for each of ``size`` members, ``degree`` different others, (size, degree)."""
    steps = _shuffled(size, degree, rng) if size < _CROWDED * degree else _drawn(size, degree, rng)
    others: NDArray[Any] = (np.arange(size)[:, None] + 1 + steps) % size
    return others


def _shuffled(size: int, degree: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw ``degree`` of the numbers below ``size`` − 1 for each row, by the order of random numbers."""
    drawn = np.empty((size, degree), dtype=np.int64)
    step = max(1, _DRAWN_AT_ONCE // size)
    for start in range(0, size, step):
        block = drawn[start : start + step]
        block[:] = rng.random((len(block), size - 1)).argsort(axis=1)[:, :degree]
    return drawn


def _drawn(size: int, degree: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as :func:`_shuffled` does, with repetitions first, which are drawn again until there are none."""
    drawn = np.sort(rng.integers(size - 1, size=(size, degree)), axis=1)
    open_rows: NDArray[Any] = np.arange(size)
    while len(open_rows):
        block = drawn[open_rows]
        repeated = np.zeros(block.shape, dtype=bool)
        repeated[:, 1:] = block[:, 1:] == block[:, :-1]
        again = repeated.any(axis=1)
        open_rows, block, repeated = open_rows[again], block[again], repeated[again]
        block[repeated] = rng.integers(size - 1, size=int(repeated.sum()))
        drawn[open_rows] = np.sort(block, axis=1)
    return drawn
