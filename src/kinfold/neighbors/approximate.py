"""Approximate neighbours through a faiss index, with exact similarities and a measured recall."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.errors import MissingExtraError
from kinfold.neighbors._candidates import Csr, CsrParts, Rule
from kinfold.neighbors.exact import neighbors_of
from kinfold.progress import Progress
from kinfold.rows.readers import UnitRows

logger = logging.getLogger(__name__)


FLAT_LIMIT = 20_000  # rows: below, an inverted file saves nothing over comparing with all
_INDEX_SEED = 1234  # of the index's training, so that it is the same every time
# Candidates asked of the index for each neighbour that is kept: its own distances may be those of 8-bit
# vectors, and the exact similarities that rank them need some to choose from.
_SPARE = 1.5
# Lists of the inverted file that a query looks into: the trade of time for recall, see measure_recall.
_PROBED_SHARE = 1 / 16
_LEAST_PROBED = 16
_TRAINING_PER_LIST = 64  # rows per list to train with; faiss warns below 39
# faiss's own defaults for links are 32 and for building 40; a broader building search finds better links
# and takes longer, once. Searching needs a breadth above the neighbours wanted.
_LINKS = 32
_BUILD_BREADTH = 80
_LEAST_BREADTH = 128
_BLOCK = 1024  # queries at once
_GATHERED_BYTES = 1 << 27  # of candidates' vectors, copied for their exact similarities
RECALL_SAMPLE = 512  # rows searched exactly to measure the recall: enough for a percent, quick at any size
WARN_BELOW = 0.9
_TIE = 1e-6  # similarities closer than this may stand in for each other
_SAMPLE_SEED = 1  # not the index's seed: the sample must not be the rows it was trained on


def faiss_neighbors(
    rows: UnitRows, rule: Rule, budget: int, progress: Progress, *, hnsw: bool = False
) -> Csr:
    """Return indptr, indices and similarities of neighbours found through an index.

    Up to 20,000 rows the index is flat. Above, it is an inverted file of about 4·√N lists of which a
    sixteenth is searched (at least 16). With ``hnsw`` it is a hierarchical graph of 32 links per row at any
    size, built on one thread, since on several it would differ from run to run, and searched on all.
    Vectors are float32 where they fit into ``budget`` bytes, else 8-bit. Half as many candidates again as
    are needed are then ranked by their exact similarities.

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
    wanted = min(n, int(rule.at_most * _SPARE) + 2)
    index = _build_graph(faiss, rows, budget, wanted) if hnsw else _build(faiss, rows, budget)
    parts = CsrParts()
    with progress.task("finding nearest neighbours", total=n, unit="rows") as task:
        for start in range(0, n, _BLOCK):
            stop = min(n, start + _BLOCK)
            queries = rows.read(start, stop).cpu().numpy()
            _, found = index.search(queries, wanted)
            parts.add(*_rank(rows, rule, queries, found, start))
            task.advance(stop - start)
    return parts.join()


def _build(faiss: Any, rows: UnitRows, budget: int) -> Any:
    n, dim = rows.n_rows, rows.dim
    if n <= FLAT_LIMIT:
        index = faiss.IndexFlatIP(dim)
    else:
        n_lists = int(4 * np.sqrt(n))
        index = faiss.index_factory(dim, f"IVF{n_lists},{_storage(rows, budget)}", faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = _INDEX_SEED
        index.nprobe = min(n_lists, max(_LEAST_PROBED, int(n_lists * _PROBED_SHARE)))
        index.train(_draw(rows, n_lists * _TRAINING_PER_LIST))
    _fill(index, rows)
    return index


def _build_graph(faiss: Any, rows: UnitRows, budget: int, wanted: int) -> Any:
    index = faiss.index_factory(
        rows.dim, f"HNSW{_LINKS},{_storage(rows, budget)}", faiss.METRIC_INNER_PRODUCT
    )
    index.hnsw.efConstruction = _BUILD_BREADTH
    index.hnsw.efSearch = max(_LEAST_BREADTH, 2 * wanted)
    if not index.is_trained:
        index.train(_draw(rows, FLAT_LIMIT))
    # On several threads the links depend on which row is added first.
    with _one_thread(faiss):
        _fill(index, rows)
    return index


def _storage(rows: UnitRows, budget: int) -> str:
    return "Flat" if 4 * rows.n_rows * rows.dim <= budget else "SQ8"


def _draw(rows: UnitRows, size: int) -> NDArray[Any]:
    """Return a fixed sample of rows to train an index with."""
    sample = np.random.default_rng(_INDEX_SEED).choice(rows.n_rows, min(rows.n_rows, size), replace=False)
    return rows.take(np.sort(sample)).cpu().numpy()


def _fill(index: Any, rows: UnitRows) -> None:
    for start in range(0, rows.n_rows, _BLOCK * 16):
        index.add(rows.read(start, min(rows.n_rows, start + _BLOCK * 16)).cpu().numpy())


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    n_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(n_threads)


def _rank(
    rows: UnitRows, rule: Rule, queries: NDArray[Any], found: NDArray[Any], start: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return degrees, indices and similarities of candidates ``(rows, width)``, of which −1 marks none."""
    own = np.arange(start, start + len(found))[:, None]
    # Ascending, so that the stable sort by similarity below leaves ties with the lower row number.
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


def measure_recall(
    rows: UnitRows, found: Csr, rule: Rule, budget: int, device: torch.device
) -> dict[str, Any]:
    """Return ``recall`` and ``recall_sample``: the share found of the exact neighbours of 512 fixed rows.

    A neighbour counts as found where another stands in its place that is as similar up to rounding. The
    figure is logged; one below 0.9 is also a :class:`UserWarning`.
    """
    n = rows.n_rows
    sample = np.sort(
        np.random.default_rng(_SAMPLE_SEED).choice(n, min(n, RECALL_SAMPLE), replace=False)
    ).astype(np.int64)
    indptr, _, similarities = neighbors_of(rows, sample, rule, budget, device)
    wanted = hits = 0
    for place, row in enumerate(sample):
        exact = similarities[indptr[place] : indptr[place + 1]]
        ours = found[2][found[0][row] : found[0][row + 1]]
        wanted += len(exact)
        hits += min(len(exact), int(np.count_nonzero(ours >= exact[-1] - _TIE)))
    recall = round(hits / wanted, 4)
    logger.info(
        "the approximate search found %.1f %% of the neighbours of %d rows", 100 * recall, len(sample)
    )
    if recall < WARN_BELOW:
        warnings.warn(
            f"the approximate search found only {recall:.1%} of the neighbours; backend='exact' finds all",
            UserWarning,
            stacklevel=4,
        )
    return {"recall": recall, "recall_sample": len(sample)}
