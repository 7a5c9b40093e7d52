"""Approximate neighbours through a faiss index, with exact similarities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import MissingExtraError
from kinfold.features.unit_rows import UnitRows
from kinfold.neighbors._csr import Csr
from kinfold.neighbors._rule import Rule
from kinfold.progress import Progress

FLAT_LIMIT = 20_000
_SEED = 1234
_SPARE = 1.5
_PROBED_SHARE = 1 / 16
_LEAST_PROBED = 16
_TRAINING_PER_LIST = 64
_BLOCK = 1024
_GATHERED_BYTES = 1 << 27


def faiss_neighbors(rows: UnitRows, rule: Rule, budget: int, progress: Progress) -> Csr:
    """Return indptr, indices and similarities of neighbours found through an index.

    Up to 20,000 rows the index is flat. Above, it is an inverted file of about 4·√N lists of which a
    sixteenth is searched (at least 16); its vectors are float32 where they fit into ``budget`` bytes, else
    8-bit. Half as many candidates again as are needed are then ranked by their exact similarities. An HNSW
    graph isn't used: built on several threads, it differs from run to run.

    Raises
    ------
    MissingExtraError
        faiss isn't installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("Approximate neighbour search", "faiss-cpu", "faiss") from error
    n = rows.n_rows
    index = _build(faiss, rows, budget)
    wanted = min(n, int(rule.at_most * _SPARE) + 2)
    degrees, indices, similarities = [], [], []
    with progress.task("neighbours", total=n, unit="rows") as task:
        for start in range(0, n, _BLOCK):
            stop = min(n, start + _BLOCK)
            queries = rows.read(start, stop).cpu().numpy()
            _, found = index.search(queries, wanted)
            part = _rank(rows, rule, queries, found, start)
            degrees.append(part[0])
            indices.append(part[1])
            similarities.append(part[2])
            task.advance(stop - start)
    indptr = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.concatenate(degrees), out=indptr[1:])
    return indptr, np.concatenate(indices), np.concatenate(similarities)


def _build(faiss: Any, rows: UnitRows, budget: int) -> Any:
    n, dim = rows.n_rows, rows.dim
    if n <= FLAT_LIMIT:
        index = faiss.IndexFlatIP(dim)
    else:
        n_lists = int(4 * np.sqrt(n))
        storage = "Flat" if 4 * n * dim <= budget else "SQ8"
        index = faiss.index_factory(dim, f"IVF{n_lists},{storage}", faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = _SEED
        index.nprobe = min(n_lists, max(_LEAST_PROBED, int(n_lists * _PROBED_SHARE)))
        size = min(n, n_lists * _TRAINING_PER_LIST)
        sample = np.random.default_rng(_SEED).choice(n, size, replace=False)
        index.train(rows.take(np.sort(sample)).cpu().numpy())
    for start in range(0, n, _BLOCK * 16):
        index.add(rows.read(start, min(n, start + _BLOCK * 16)).cpu().numpy())
    return index


def _rank(rows: UnitRows, rule: Rule, queries: NDArray[Any], found: NDArray[Any], start: int) -> Csr:
    """Rank candidates ``(rows, width)`` by exact similarity and keep what the rule keeps; −1 marks none."""
    own = np.arange(start, start + len(found))[:, None]
    found = np.sort(np.where(found == own, -1, found), axis=1)
    exact = _similarities(rows, queries, found)
    order = np.argsort(-exact, axis=1, kind="stable")
    found, exact = np.take_along_axis(found, order, 1), np.take_along_axis(exact, order, 1)
    degrees = np.minimum(rule.degrees(exact), np.count_nonzero(found >= 0, axis=1))
    kept = np.arange(found.shape[1])[None, :] < degrees[:, None]
    return degrees, found[kept].astype(np.int32), exact[kept]


def _similarities(rows: UnitRows, queries: NDArray[Any], found: NDArray[Any]) -> NDArray[Any]:
    """Return the similarity of every query to its candidates, −inf where there is none."""
    exact = np.full(found.shape, -np.inf, dtype=np.float32)
    step = max(1, _GATHERED_BYTES // (4 * rows.dim * found.shape[1]))
    for low in range(0, len(found), step):
        part = found[low : low + step]
        used, places = np.unique(np.maximum(part, 0), return_inverse=True)
        keys = rows.take(used).cpu().numpy()[places.reshape(part.shape)]
        values = np.einsum("id,ijd->ij", queries[low : low + step], keys)
        exact[low : low + step] = np.where(part >= 0, np.minimum(values, 1.0), -np.inf)
    return exact
