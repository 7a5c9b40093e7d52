"""Typicality: how near an image lies to the images of a run, and which images fit none of its groups.

*Closeness* is the mean cosine similarity to the five nearest of the run's images. It is one number per image,
whatever the groups are. *Typicality* is its rank in a group: the share of the group's images that are less
close, see :class:`~kinfold.metrics.GroupRanks`. So the groups may be those of any level, or corrected ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from kinfold.errors import FormatError, InputError
from kinfold.levels import draw_of_each
from kinfold.metrics import GroupRanks
from kinfold.neighbors import nearest_rows
from kinfold.reading import check_regular, is_count, parse_json, reading
from kinfold.rows import RowMatrix
from kinfold.rows.readers import UnitRows
from kinfold.run import TYPICALITY_NAME, TYPICALITY_SCHEMA, Run, locate_whole, write_table
from kinfold.storage import atomic_file, check_format_version
from kinfold.validation import Constraint, Integer, Number, check

FORMAT, FORMAT_VERSION = "kinfold-typicality", 1
REFERENCE_NAME = "typicality.safetensors"
TYPICALITY_FILES = (TYPICALITY_NAME, REFERENCE_NAME)

# docs/choices.md says what chose these.
N_NEIGHBORS = 5
MOST_ROWS, MOST_VALUES = 16_384, 1 << 24  # of the reference: 32 MiB as float16
_COPY = 1 - 1e-5  # cosine from which two vectors are one image's: float16 rounds it by less
_BLOCK = 1 << 16  # rows that are compared at once
_METADATA = "kinfold"
_MEND = "repeat the `kinfold cluster` command with the same --out to write it anew"
_RATE: dict[str, Constraint] = {"strays": Number(above=0, below=1)}

_KIND_NEIGHBORS = 10
_ATYPICAL = 0.3  # what is no less typical is of a known kind, of which many came at once
_MUTUAL = 5
_ROUNDS = 3
_KIND_RULES: dict[str, Constraint] = {"false_alarms": Number(above=0, below=1), "min_size": Integer(2)}


@dataclass(frozen=True)
class Reference:
    """Images of a run that others are compared with.

    Attributes
    ----------
    vectors : ndarray (R, D) float16
        Their features at unit length.
    rows : ndarray (R,) int64
        Their rows in the source.
    n_neighbors : int
        How many of the nearest closeness is the mean over.
    """

    vectors: NDArray[np.float16]
    rows: NDArray[np.int64]
    n_neighbors: int = N_NEIGHBORS

    @classmethod
    def draw(cls, X: RowMatrix, rows: NDArray[np.int64], parts: NDArray[np.integer]) -> Reference:
        """Draw about 16,384 images, fewer of over 1,024 dimensions: all, or the same share of every part.

        Parameters
        ----------
        X : row matrix (N, D)
            Features of the run's images.
        rows : ndarray (N,) int64
            Their rows in the source.
        parts : ndarray (N,) of int
            The part of each, see :class:`~kinfold.levels.Levels`; each keeps one row at least.
        """
        most = min(MOST_ROWS, max(1, MOST_VALUES // int(X.shape[1])))
        _, parts, sizes = np.unique(parts, return_inverse=True, return_counts=True)
        places = draw_of_each(parts, sizes, most)
        units = UnitRows(X, torch.device("cpu"))
        return cls(units.take(places).numpy().astype(np.float16), rows[places])

    def closeness(self, X: RowMatrix, *, device: str = "auto") -> NDArray[np.float32]:
        """Return the mean cosine of each row (n,) to its nearest reference images, in [−1, 1].

        A nearest one that is a copy of the row is left out: a row that is in the reference itself is as
        close as if it weren't. So training images and new ones can be compared.

        Parameters
        ----------
        X : row matrix (n, D)
            Features, without all-zero rows.
        device : str, default "auto"
            Where to compute.

        Raises
        ------
        InputError
            X has other dimensions, or rows that are zero or not finite.
        """
        n_rows = int(X.shape[0])
        found: NDArray[np.float32] = np.empty(n_rows, dtype=np.float32)
        for start in range(0, n_rows, _BLOCK):
            block = np.asarray(X[start : start + _BLOCK])
            found[start : start + len(block)] = _closeness(self.vectors, block, self.n_neighbors, device)
        return found


def _closeness(
    vectors: NDArray[np.floating], X: RowMatrix, n_neighbors: int, device: str
) -> NDArray[np.float32]:
    """Return the mean cosine of rows to the nearest of some vectors, a copy left out; 1 to nothing else."""
    _, similarities = nearest_rows(vectors, X, n_neighbors + 1, device=device)
    is_copy = similarities[:, 0] >= _COPY
    nearest, others = similarities[:, :n_neighbors], similarities[:, 1:]
    alone = np.ones(len(similarities)) if others.shape[1] == 0 else others.mean(axis=1, dtype=np.float64)
    mean = np.where(is_copy, alone, nearest.mean(axis=1, dtype=np.float64))
    return np.asarray(mean.clip(-1, 1), dtype=np.float32)


@dataclass(frozen=True)
class Typicality:
    """What tells the typicality of new images in the groups of a run.

    Attributes
    ----------
    reference : Reference
        The run's images that they are compared with.
    groups : ndarray (R,) of int
        The group of each of these.
    ranks : GroupRanks
        The closeness of the run's own images, by group.
    """

    reference: Reference
    groups: NDArray[np.integer]
    ranks: GroupRanks

    @classmethod
    def of(cls, run: Run, labels: NDArray[np.integer]) -> Typicality | None:
        """Read it from a run; None where an older Kinfold made it, or its groups haven't been looked at yet.

        Parameters
        ----------
        run : Run
            The run.
        labels : ndarray (N,) of int
            The group of each usable image, −1 for none: of any level, or as corrected.

        Raises
        ------
        FormatError
            A file is damaged.
        """
        reference = read_reference(run)
        if reference is None or run.closeness is None:
            return None
        rows = run.assignments["row"].to_numpy()
        places = np.searchsorted(rows, reference.rows).clip(0, len(rows) - 1)
        groups = np.where(
            rows[places] == reference.rows, labels[places], -1
        )  # those that are gone are in none
        return cls(reference, groups, GroupRanks.of(run.closeness, labels))

    def shares(
        self, X: RowMatrix, groups: NDArray[np.integer], *, device: str = "auto"
    ) -> NDArray[np.float32]:
        """Return the typicality (n,) of new images in their groups, in (0, 1).

        Parameters
        ----------
        X : row matrix (n, D)
            Their features.
        groups : ndarray (n,) of int
            The group of each; −1 gives NaN.
        device : str, default "auto"
            Where to compute.
        """
        return self.ranks.shares(self.reference.closeness(X, device=device), groups, members=False)


def check_strays(run: Run, strays: float | None) -> None:
    """Raise :class:`InputError` unless a share of strays is None, or between 0 and 1 and the run knows it."""
    if strays is None:
        return
    check(_RATE, strays=strays)
    if run.closeness is None:
        raise InputError(
            f"{run.path} doesn't know how typical its images are; repeat the `kinfold cluster` command "
            "with the same --out, which adds that and keeps the groups"
        )


def find_strays(
    typicality: NDArray[np.floating],
    groups: NDArray[np.integer],
    strays: float,
    *,
    kept: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Tell which images of a run belong nowhere: those less typical than a share of their group.

    About so many images of the run itself are strays, and of new images of the same kinds: it is the rate of
    false alarms. No group is emptied: one that would have no other image keeps all of its own.

    Parameters
    ----------
    typicality : ndarray (N,)
        Of every image; one of NaN is no stray.
    groups : ndarray (N,) of int
        The group of each, −1 for none.
    strays : float
        The share, between 0 and 1.
    kept : ndarray (N,) of bool, optional
        Images that are never strays: those that people placed.

    """
    found: NDArray[np.bool_] = (typicality < strays) & (groups >= 0)
    if kept is not None:
        found &= ~kept
    left = np.unique(groups[~found])
    return np.asarray(found & np.isin(groups, left))


def write_typicality(
    directory: Path,
    reference: Reference,
    rows: NDArray[np.int64],
    keys: pa.Array,
    closeness: NDArray[np.float32],
    labels: NDArray[np.integer],
) -> None:
    """Write the two files, each whole or not at all.

    Parameters
    ----------
    directory : Path
        The run.
    reference : Reference
        What new images are compared with.
    rows, keys : ndarray (N,) int64, pyarrow.Array of string
        Row in the source and key of every usable image.
    closeness : ndarray (N,) float32
        Its closeness.
    labels : ndarray (N,) of int
        Its group of the fit.
    """
    write_closeness(directory / TYPICALITY_NAME, rows, keys, closeness, labels)
    # One entry: safetensors writes several in any order.
    facts = {"format": FORMAT, "format_version": FORMAT_VERSION, "n_neighbors": reference.n_neighbors}
    with atomic_file(directory / REFERENCE_NAME) as partial:
        tensors: dict[str, Any] = {
            "reference": np.ascontiguousarray(reference.vectors),
            "rows": reference.rows,
        }
        partial.write_bytes(save(tensors, {_METADATA: json.dumps(facts)}))


def write_closeness(
    path: Path,
    rows: NDArray[np.int64],
    keys: pa.Array,
    closeness: NDArray[np.float32],
    labels: NDArray[np.integer],
) -> None:
    """Write the table alone; parameters as for :func:`write_typicality`."""
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    shares = GroupRanks.of(closeness, labels).shares(closeness, labels, members=True)
    columns = [pa.array(rows, pa.int64()), keys.cast(pa.string()), pa.array(closeness), pa.array(shares)]
    write_table(path, pa.Table.from_arrays(columns, schema=TYPICALITY_SCHEMA))


def read_reference(run: Run) -> Reference | None:
    """Read the reference of a run, after comparing the file with its hash; None where there is none.

    Raises
    ------
    FormatError
        The file is missing or damaged.
    """
    if "typicality" not in run.manifest.stages:
        return None
    path = locate_whole(run.path, run.manifest, REFERENCE_NAME, _MEND)
    if not path.is_file():
        raise FormatError(f"{path} is missing; {_MEND}")
    check_regular(path, _MEND)
    with reading(path, _MEND), safe_open(path, framework="numpy") as file:
        facts = parse_json((file.metadata() or {}).get(_METADATA, ""))
        vectors, rows = file.get_tensor("reference"), file.get_tensor("rows")
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise FormatError(f"{path} doesn't hold the typicality of a run of Kinfold; {_MEND}")
    check_format_version(path, facts.get("format_version"), FORMAT_VERSION)
    n_neighbors = int(facts["n_neighbors"]) if is_count(facts.get("n_neighbors")) else 0
    if n_neighbors < 1 or vectors.ndim != 2 or not 0 < len(vectors) == len(rows):
        raise FormatError(f"{path} is damaged: it holds no vectors to compare with; {_MEND}")
    return Reference(vectors, rows, n_neighbors)


@dataclass(frozen=True)
class NewKinds:
    """New images that are of none of a run's groups, grouped among themselves.

    Attributes
    ----------
    labels : ndarray (n,) int32
        The new kind of each image, 0, 1, … by descending size; −1 for images of the run's groups, and for
        strays that are too few to make a kind.
    sizes : tuple of int
        Images of each kind.
    p_values : ndarray (n,) float32
        For each image the share of the run's own images that would lie as close together, and as far from the
        others, if they had come now, in (0, 1].
    """

    labels: NDArray[np.int32]
    sizes: tuple[int, ...]
    p_values: NDArray[np.float32]


def find_new_kinds(
    known: Typicality,
    X: RowMatrix,
    groups: NDArray[np.integer],
    *,
    false_alarms: float = 0.01,
    min_size: int = 10,
    random_state: int = 0,
    device: str = "auto",
) -> NewKinds:
    """Find new kinds among new images: such that lie closer to each other than to the run's images.

    How much closer is compared with a rehearsal: of the run's reference images as many as came of each group
    are taken for new ones, and the rest for the run. An image that goes further than all but a share
    ``false_alarms`` of these, and is less typical of its group than seven in ten of its images, is suspected.
    Suspects that are mutually among each other's five nearest are one kind, if they are ``min_size`` at
    least. Images join a kind that half of their ten nearest, new or old, are of.

    Parameters
    ----------
    known : Typicality
        Of the run, in its groups now.
    X : row matrix (n, D)
        Features of the new images.
    groups : ndarray (n,) of int
        The group of the run that each was put into, strays too.
    false_alarms : float, default 0.01
        Share of new images of the run's own kinds that may be suspected, between 0 and 1.
    min_size : int, default 10
        Suspects that make a kind.
    random_state : int, default 0
        Seed of the rehearsal.
    device : str, default "auto"
        Where to compute.

    Raises
    ------
    InputError
        X has other dimensions than the run's features, or rows that are zero or not finite; the share isn't
        between 0 and 1, or ``min_size`` is not an integer of at least 2.

    References
    ----------
    Schilling, "Multivariate Two-Sample Tests Based on Nearest Neighbors", 1986, of single images instead of
    whole samples; ranks among rehearsed ones are conformal p-values (Vovk et al., 2005).
    """
    check(_KIND_RULES, false_alarms=false_alarms, min_size=min_size)
    n_rows = int(X.shape[0])
    if n_rows < min_size:
        return NewKinds(np.full(n_rows, -1, np.int32), (), np.ones(n_rows, np.float32))
    typicality = known.shares(X, groups, device=device)
    units = UnitRows(X, torch.device("cpu")).read(0, n_rows).numpy()
    p_values = _rehearse(known, units, groups, min_size, random_state, device)
    suspects = np.flatnonzero((p_values <= false_alarms) & (typicality < _ATYPICAL))
    labels: NDArray[np.int32] = np.full(n_rows, -1, dtype=np.int32)
    labels[suspects] = _join_mutual(units[suspects], min_size, device)
    labels = _let_join(labels, units, known.reference.vectors, device)
    kinds, sizes = np.unique(labels[labels >= 0], return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    number = np.empty(len(kinds), dtype=np.int32)
    number[order] = np.arange(len(kinds), dtype=np.int32)
    inside = labels >= 0
    labels[inside] = number[labels[inside]]
    return NewKinds(labels, tuple(sizes[order].tolist()), p_values)


def _rehearse(
    known: Typicality,
    units: NDArray[np.float32],
    groups: NDArray[np.integer],
    min_size: int,
    seed: int,
    device: str,
) -> NDArray[np.float32]:
    """Return the conformal p-value of each new image, of how much closer the new ones are than the old."""
    random = np.random.RandomState(seed)
    rehearsed, among = [], []
    for group in np.unique(groups).tolist():
        old = random.permutation(np.flatnonzero(known.groups == group))
        new = random.permutation(np.flatnonzero(groups == group))
        # As many on both sides, as closeness grows with numbers. The rest of the group plays the run.
        rehearsed.append(old[: min(len(new), len(old) // 2)])
        among.append(new[: max(len(old) // 2, min_size)])
    taken, some = np.sort(np.concatenate(rehearsed)), np.sort(np.concatenate(among))
    vectors = known.reference.vectors
    rest = np.setdiff1d(np.arange(len(vectors)), taken)
    k = min(_KIND_NEIGHBORS, len(some) - 1, len(taken) - 1, len(rest) - 1)
    if k < 1:
        return np.ones(len(units), dtype=np.float32)
    gains = [
        _closeness(near, rows, k, device) - _closeness(vectors[rest], rows, k, device)
        for near, rows in ((units[some], units), (vectors[taken], vectors[taken]))
    ]
    ahead = len(taken) - np.searchsorted(np.sort(gains[1]), gains[0], side="left")
    return np.asarray((1 + ahead) / (1 + len(taken)), dtype=np.float32)


def _join_mutual(units: NDArray[np.float32], min_size: int, device: str) -> NDArray[np.int32]:
    """Return the component (m,) of each row in the graph of mutual nearest neighbours, −1 in small ones."""
    n_rows = len(units)
    found = np.full(n_rows, -1, dtype=np.int32)
    if n_rows < min_size:
        return found
    pairs = _other_nearest(units, units, _MUTUAL, device)
    owners = np.repeat(np.arange(n_rows), pairs.shape[1])
    graph = sparse.csr_matrix((np.ones(pairs.size, bool), (owners, pairs.ravel())), shape=(n_rows, n_rows))
    _, components = connected_components(graph.minimum(graph.T), directed=False)
    large = np.bincount(components) >= min_size
    kept = large[components]
    found[kept] = np.unique(components[kept], return_inverse=True)[1]
    return found


def _let_join(
    labels: NDArray[np.int32], units: NDArray[np.float32], old: NDArray[np.float16], device: str
) -> NDArray[np.int32]:
    """Return the kinds with images that half of whose nearest are of one."""
    n_kinds = int(labels.max(initial=-1)) + 1
    if not n_kinds:
        return labels
    nearest = _other_nearest(np.concatenate([units, old.astype(np.float32)]), units, _KIND_NEIGHBORS, device)
    labels = labels.copy()
    for _ in range(_ROUNDS):
        around = np.append(labels, -1)[np.minimum(nearest, len(labels))]
        votes = np.stack([(around == kind).sum(axis=1) for kind in range(n_kinds)], axis=1)
        best = votes.argmax(axis=1).astype(np.int32)
        joins = (labels < 0) & (2 * votes.max(axis=1) >= nearest.shape[1])
        if not joins.any():
            break
        labels[joins] = best[joins]
    return labels


def _other_nearest(
    vectors: NDArray[np.float32], units: NDArray[np.float32], n_nearest: int, device: str
) -> NDArray[np.int64]:
    """Return the nearest of some vectors (n, k) for each of the first n of them, itself left out."""
    found, _ = nearest_rows(vectors, units, n_nearest + 1, device=device)
    found = np.where(found == np.arange(len(units))[:, None], -1, found)
    # Itself is among them unless enough copies of it are: then the last goes.
    lacking = (found >= 0).all(axis=1)
    found[lacking, -1] = -1
    return found[found >= 0].reshape(len(units), -1)
