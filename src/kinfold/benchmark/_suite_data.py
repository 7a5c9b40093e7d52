"""Data of a cell, features joined with labels by key, and the figures computed for one fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold import metrics
from kinfold.benchmark._building import is_benchmark
from kinfold.benchmark._reading import read_label_table
from kinfold.benchmark._suite_file import BenchmarkEntry, FeatureEntry
from kinfold.errors import InputError, nearest_name
from kinfold.features import Features, is_features, open_features
from kinfold.labels import LabelTable
from kinfold.methods import predict_top
from kinfold.methods.protocol import Clusterer
from kinfold.paths import arrow_path, normalize_keys
from kinfold.reading import open_arrays, reading
from kinfold.rows import SelectedRows
from kinfold.storage import hash_array, hash_json

_COLUMN = "column:"
_FOLDER = "folder"
_TESTS = ("val", "test")
_MOST_JUDGED = 20_000  # rows whose neighbours tell the alignment
_N_NEIGHBORS = 10  # local, and few enough that small classes of a benchmark still have as many
_HELD_OUT = 0.2  # trades rows that teach the probe against noise of the accuracy it reports
_CELLS = 1 << 23  # probabilities at a time


@dataclass(frozen=True)
class Part:
    """Vectors of some images, by key.

    Attributes
    ----------
    name : str
        For messages.
    X : matrix (n, D)
        The usable rows.
    keys : pyarrow.Array (n,)
        Of these.
    fingerprint : callable
        Returns a hash of the vectors.
    read_column : callable
        Returns what stands beside the usable rows under a name.
    """

    name: str
    X: Any
    keys: Any
    fingerprint: Callable[[], str]
    read_column: Callable[[str], Any]


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of a matrix and the numbers of their classes.

    Attributes
    ----------
    matrix : matrix (N, D)
        Where the rows are taken from.
    rows : ndarray (n,) of int64
        Which, ascending.
    y : ndarray (n,) of int32
        Their classes.
    scale : float
        What values are multiplied by.
    """

    matrix: Any
    rows: NDArray[np.int64]
    y: NDArray[np.int32]
    scale: float = 1.0

    @cached_property
    def X(self) -> Any:  # noqa: N802 (scikit-learn's name)
        """The rows (n, D), taken when they are first asked for; rows on disk stay there."""
        whole = len(self.rows) == self.matrix.shape[0]
        if self.scale != 1 or np.dtype(self.matrix.dtype).kind in "iub":
            taken = np.asarray(self.matrix[:] if whole else self.matrix[self.rows], dtype=np.float32)
            return taken * np.float32(self.scale)
        if whole:
            return self.matrix
        in_memory = isinstance(self.matrix, np.ndarray) and not isinstance(self.matrix, np.memmap)
        return self.matrix[self.rows] if in_memory else SelectedRows(self.matrix, self.rows)

    def take(self, places: NDArray[np.int64]) -> Split:
        """Return some of the rows, by their places among them."""
        return Split(self.matrix, self.rows[places], self.y[places], self.scale)


@dataclass(frozen=True)
class Task:
    """What a method fits and what it is judged on.

    Attributes
    ----------
    train : Split
        Fitted on; the labels are for judging alone.
    test : Split or None
        Judged, where there is a test set.
    classes : tuple of str
        Their names.
    n_classes : int
        Classes that occur in the training rows, before some of these are drawn.
    unmatched : mapping
        ``without_label``: images left out; ``without_image``: labels of no image; ``of_other_classes``: test
        rows of classes that can't be known.
    identity : str
        Hash of which rows are taken and of their classes.
    """

    train: Split
    test: Split | None
    classes: tuple[str, ...]
    n_classes: int
    unmatched: dict[str, int] = field(default_factory=dict)
    identity: str = ""


@lru_cache(maxsize=2)
def open_part(entry: FeatureEntry, *, test: bool = False) -> Part:
    """Open the training or the test vectors of an entry whose paths are paths; the last two stay open."""
    if entry.builtin is not None:
        return _open_digits()
    path = Path(str(entry.test if test else entry.path))
    if path.exists() and not is_features(path):
        raise InputError(f"{path} holds no features; give images = with a backbone =, or embed it first")
    features = open_features(path, column=entry.column)
    variant = features.choose_variant(entry.variant)
    features.verify(variant)

    def read_column(name: str) -> Any:
        return _read_column(features, path, name)

    return Part(
        str(path),
        features.matrix(variant),
        features.keys.take(pa.array(features.rows)),
        lambda: features.fingerprint(variant),
        read_column,
    )


def load_task(entry: FeatureEntry, benchmark: BenchmarkEntry, seed: int) -> Task:
    """Join features and labels.

    Raises
    ------
    InputError
        Something is missing, or no label is about one of the images.
    """
    part = open_part(entry)
    table = _read_labels(benchmark.labels, part)
    rows, codes, unmatched = _join(part, table, table.is_training)
    n_classes = len(np.unique(codes))
    if benchmark.rows is not None:
        if benchmark.rows > len(rows):
            raise InputError(f"rows is {benchmark.rows:,}, but there are only {len(rows):,} of {part.name}")
        drawn = np.sort(np.random.default_rng(seed).choice(len(rows), benchmark.rows, replace=False))
        rows, codes = rows[drawn], codes[drawn]
    train = Split(part.X, rows, codes, entry.scale)
    test = _load_test(entry, benchmark, part, table, unmatched)
    hashes = [
        hash_array(array) for split in (train, test) if split is not None for array in (split.rows, split.y)
    ]
    identity = hash_json([hashes, table.classes, n_classes])
    return Task(train, test, table.classes, n_classes, unmatched, identity)


def fingerprint_of(entry: FeatureEntry) -> list[Any]:
    """Return what stands for the vectors of an entry."""
    parts = [open_part(entry), *([open_part(entry, test=True)] if entry.is_tested else [])]
    return [[part.fingerprint() for part in parts], float(entry.scale)]


def texts_of(classes: Sequence[str], names: Mapping[str, str] | None) -> list[str]:
    """Return what classes are called: as ``names`` says, by the first lemma of a WordNet id, or as they are.

    Raises
    ------
    InputError
        A class is named that isn't there.
    """
    from kinfold.hierarchy import load_wordnet

    named = dict(names or {})
    if strange := [name for name in named if name not in classes]:
        hint = nearest_name(strange[0], list(classes))
        raise InputError(f"names: there is no class {strange[0]!r}{hint}")
    wordnet = load_wordnet()
    return [named.get(one) or (wordnet.lemmas(one)[0] if one in wordnet else one) for one in classes]


def _load_test(
    entry: FeatureEntry, benchmark: BenchmarkEntry, part: Part, table: LabelTable, unmatched: dict[str, int]
) -> Split | None:
    """Return the test rows: of features apart, of labels apart, or those of another split."""
    if entry.is_tested or benchmark.test_labels is not None:
        if entry.is_tested:
            part = open_part(entry, test=True)
        labels = _read_labels(benchmark.test_labels or benchmark.labels, part)
        found = LabelTable.from_columns(labels.keys, _names_of(labels), what=part.name).within(table.classes)
        unmatched["of_other_classes"] = len(labels) - len(found)
        rows, codes, _ = _join(part, found, np.ones(len(found), dtype=bool))
        return Split(part.X, rows, codes, entry.scale)
    wanted = benchmark.test_split or next((one for one in _TESTS if one in table.splits), None)
    if wanted is None:
        return None
    if wanted not in table.splits:
        hint = nearest_name(wanted, list(table.splits))
        raise InputError(
            f"the labels of {benchmark.name} have no split {wanted!r}{hint}; they have "
            f"{', '.join(table.splits) or 'none'}"
        )
    rows, codes, _ = _join(part, table, table.split_codes == table.splits.index(wanted))
    return Split(part.X, rows, codes, entry.scale)


def _names_of(table: LabelTable) -> Any:
    return pa.array(table.classes, pa.large_string()).take(pa.array(table.labels))


def _join(
    part: Part, table: LabelTable, chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32], dict[str, int]]:
    """Return the rows that have one of the chosen labels, these labels, and what had no partner."""
    keys = part.keys.cast(pa.large_string())
    found = pc.index_in(keys, value_set=table.keys)
    if found.null_count:  # by what they mean: a label file is tidied, the keys of features may not be
        keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
        theirs = normalize_keys(table.keys)
        found = pc.coalesce(found, pc.index_in(normalize_keys(keys), value_set=theirs))
    place = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    labeled = place >= 0
    rows = np.flatnonzero(labeled)
    rows = rows[chosen[place[rows]]]
    if not len(rows):
        ours, theirs = part.keys[0].as_py(), table.keys[0].as_py()
        raise InputError(
            f"no label is about an image of {part.name}: labels are for keys like {theirs!r}, images like "
            f"{ours!r}"
        )
    unmatched = {
        "without_label": int((~labeled).sum()),
        "without_image": int(chosen.sum()) - len(rows),
    }
    return rows.astype(np.int64), table.labels[place[rows]], unmatched


def _read_labels(labels: str, part: Part) -> LabelTable:
    if labels == _FOLDER:
        return LabelTable.from_folders(part.keys, part.name)
    if labels.startswith(_COLUMN):
        column = part.read_column(labels.removeprefix(_COLUMN).strip())
        return LabelTable.from_columns(part.keys, column, what=part.name)
    path = Path(labels)
    if is_benchmark(path):
        path = path / "labels.parquet"
    return read_label_table(path)


def _read_column(features: Features, path: Path, name: str) -> Any:
    """Read what stands beside the usable rows of ready features."""
    if path.suffix == ".npz":
        with open_arrays(path) as arrays:
            known = [key for key in arrays.names if key != "features"]
            if name in known:
                return _texts(arrays[name][features.rows])
    elif path.suffix in (".parquet", ".pq"):
        with reading(path):
            known = list(pq.read_schema(arrow_path(path)).names)
            if name in known:
                column = pq.read_table(arrow_path(path), columns=[name])[name].combine_chunks()
                return column.take(pa.array(features.rows))
    else:
        known = []
    hint = nearest_name(name, known) or (f"; it has {', '.join(known)}" if known else "")
    raise InputError(f"{path} has nothing named {name!r} beside its vectors{hint}")


def _texts(values: NDArray[Any]) -> Any:
    return pa.array([str(value) for value in values.tolist()], pa.large_string())


def _open_digits() -> Part:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    X, y = digits.data.astype(np.float32), digits.target

    def read_column(name: str) -> Any:
        if name != "label":
            raise InputError(f"the built-in digits have no column {name!r}; they have 'label'")
        return _texts(y)

    keys = pa.array([f"{row:04d}" for row in range(len(X))], pa.string())
    return Part("the built-in digits", X, keys, lambda: hash_array(X), read_column)


def judge(estimator: Clusterer, task: Task, *, with_ami: bool = False) -> dict[str, Any]:
    """Return the figures of a fitted estimator on training rows and, where there are some, on test rows.

    ``calibration`` and ``confidence`` are of the rows that are judged: the test rows, else the training rows.
    """
    judged = task.test or task.train
    top = predict_top(estimator, judged.X)
    found: dict[str, Any] = {"train": scores(task.train.y, estimator.labels_, with_ami=with_ami)}
    labels = estimator.labels_ if task.test is None else top.clusters[:, 0]
    side = "train" if task.test is None else "test"
    match = metrics.match_clusters(judged.y, top.clusters[:, 0])
    right = _right(judged.y, top.clusters[:, 0], match.mapping)
    sureness = _sureness(top.probabilities[:, 0], right)
    found[side] = scores(judged.y, labels, with_ami=with_ami) | {
        "top5": metrics.top_k_accuracy(judged.y, top.clusters, k=min(5, top.clusters.shape[1])),
        "ece": sureness.pop("ece"),
    }
    return found | sureness


def judge_names(classifier: Any, task: Task) -> dict[str, Any]:
    """Return the figures of zero-shot classification on the rows that are judged.

    Its answers are classes, so the accuracy is the share of right ones, without a map.
    """
    judged = task.test or task.train
    best, probabilities = _rank(classifier, judged)
    right = best == judged.y[:, None]
    sureness = _sureness(probabilities, right[:, 0])
    found = scores(judged.y, best[:, 0])
    del found["acc_majority"]  # no cluster to give away
    found |= {"acc": right[:, 0].mean(), "top5": right.any(axis=1).mean(), "ece": sureness.pop("ece")}
    return {"train" if task.test is None else "test": found, **sureness}


def _rank(classifier: Any, split: Split) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the up to five likeliest classes of every row, and the probability of the first."""
    width = min(5, classifier.n_classes)
    best = np.empty((len(split.y), width), dtype=np.int64)
    sure = np.empty(len(split.y), dtype=np.float32)
    size = max(1, _CELLS // classifier.n_classes)
    for start in range(0, len(split.y), size):
        found = classifier.predict_proba(np.asarray(split.X[start : start + size], dtype=np.float32))
        best[start : start + size] = np.argsort(-found, axis=1, kind="stable")[:, :width]
        sure[start : start + size] = found.max(axis=1)
    return best, sure


def _sureness(confidences: NDArray[np.float32], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Return how confident an answer is and how often it is right then."""
    curve = metrics.calibration_curve(confidences, right)
    histogram = metrics.confidence_histogram(confidences)
    return {
        "ece": curve.error,
        "calibration": {
            "edges": curve.edges,
            "counts": curve.counts,
            "accuracies": curve.accuracies,
            "confidences": curve.confidences,
        },
        "confidence": {"edges": histogram.edges, "counts": histogram.counts, "mean": histogram.mean},
    }


def scores(y: NDArray[np.integer], labels: NDArray[np.integer], *, with_ami: bool = False) -> dict[str, Any]:
    """Return agreement of clusters with classes, by every measure that is quick."""
    found: dict[str, Any] = {
        "acc": metrics.clustering_accuracy(y, labels),
        "acc_majority": metrics.clustering_accuracy(y, labels, majority=True),
        "nmi": metrics.normalized_mutual_info(y, labels),
        "nmi_geometric": metrics.normalized_mutual_info(y, labels, average_method="geometric"),
        "ari": metrics.adjusted_rand_index(y, labels),
        "purity": metrics.purity(y, labels),
        "live": len(np.unique(labels)),
    }
    if with_ami:
        found["ami"] = metrics.adjusted_mutual_info(y, labels)
    return found


def _right(y: NDArray[np.integer], clusters: NDArray[np.integer], mapping: Any) -> NDArray[np.bool_]:
    """Tell which rows are in the cluster that stands for their class."""
    most = int(clusters.max()) + 1
    classes = np.full(most, -1, dtype=np.int64)
    for cluster, label in mapping.items():
        classes[int(cluster)] = int(label)
    return np.asarray(classes[clusters] == y)


def judge_space(task: Task, seed: int) -> dict[str, Any]:
    """Return how well the classes lie apart in the space: an upper bound, no clustering.

    The linear probe learns from the labels of the training rows and is judged on the test rows. Where there
    are none, a fifth of the training rows, drawn with the seed, is held out and judged instead.
    """
    from kinfold.probing import linear_probe

    learned, judged = (task.train, task.test) if task.test is not None else _hold_out(task.train, seed)
    found = linear_probe(learned.X, learned.y, judged.X, judged.y, random_state=seed)
    space = _draw(judged, seed)
    unit = _unit(space)
    return {
        "n_train": len(learned.y),
        "n_test": len(judged.y),
        "test": {"acc": found.accuracy, "top5": found.top5_accuracy},
        "probe": {"learning_rate": found.learning_rate, "weight_decay": found.weight_decay},
        "n_space": len(space.y),
        "space": {
            "silhouette": metrics.silhouette(unit, space.y, random_state=seed).value,
            "davies_bouldin": metrics.davies_bouldin(unit, space.y),
            "alignment": metrics.alignment(unit, space.y, _nearest(unit)),
        },
    }


def _hold_out(split: Split, seed: int) -> tuple[Split, Split]:
    order = np.random.default_rng(seed).permutation(len(split.y))
    held = np.zeros(len(order), dtype=bool)
    held[order[: max(1, round(_HELD_OUT * len(order)))]] = True
    kept, out = np.flatnonzero(~held), np.flatnonzero(held)
    return split.take(kept), split.take(out)


def _draw(split: Split, seed: int) -> Split:
    if len(split.y) <= _MOST_JUDGED:
        return split
    rows = np.sort(np.random.default_rng(seed).choice(len(split.y), _MOST_JUDGED, replace=False))
    return split.take(rows)


def _unit(split: Split) -> NDArray[np.float32]:
    X = np.asarray(split.X[:], dtype=np.float32)
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return np.asarray(X / np.maximum(norms, np.finfo(np.float32).tiny))


def _nearest(unit: NDArray[np.float32]) -> Any:
    from kinfold.neighbors import knn_graph

    return knn_graph(unit, min(_N_NEIGHBORS, len(unit) - 1), zero_rows="isolate")
