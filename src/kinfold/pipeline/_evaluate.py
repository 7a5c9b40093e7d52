"""Comparing a finished run with known labels; nothing here reaches a method or a default."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kinfold.errors import InputError
from kinfold.metrics import adjusted_rand_index, match_clusters, normalized_mutual_info
from kinfold.run import Run, lock_directory, read_manifest, write_manifest

FOLDER = "folder"
_N_EXAMPLES = 3


@dataclass(frozen=True)
class Evaluation:
    """How well the groups of a run agree with known labels.

    Attributes
    ----------
    accuracy : float
        Share of labeled images whose group stands for their class under the best one-to-one map; all
        images of leftover groups count as wrong. 0 to 1.
    accuracy_majority : float
        The same with each leftover group given to its majority class.
    nmi : float
        Normalised mutual information, arithmetic average. 0 to 1.
    ari : float
        Adjusted Rand index, at most 1.
    n_classes, n_groups : int
        Distinct labels and non-empty groups among the matched images.
    n_matched : int
        Images with a group and a label: what the figures are about.
    n_without_label : int
        Images with a group but no label.
    n_without_image : int
        Labels whose key is not among the grouped images (skipped images are such).
    labels_without_image : tuple of str
        The first few keys of such labels.
    classes : Mapping of int to str
        Class that each matched group stands for.
    """

    accuracy: float
    accuracy_majority: float
    nmi: float
    ari: float
    n_classes: int
    n_groups: int
    n_matched: int
    n_without_label: int
    n_without_image: int
    labels_without_image: tuple[str, ...]
    classes: Mapping[int, str]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data, as the manifest records it."""
        return {
            **asdict(self),
            "labels_without_image": list(self.labels_without_image),
            "classes": {str(group): name for group, name in self.classes.items()},
        }


def evaluate(run: Run | str | Path, labels: str | Path | Mapping[Any, Any]) -> Evaluation:
    """Compare the groups of ``run`` with known labels and record the figures in its manifest.

    Parameters
    ----------
    run : Run or path
        A finished run.
    labels : path, "folder" or Mapping
        A CSV or Parquet file with the columns ``key`` and ``label``; or ``"folder"``, the name of the
        folder that each image lies in; or a mapping from key to label. An empty label counts as none.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        The labels can't be read, one key has two labels, or no key is one of the run's.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    keys = run.assignments["key"].to_pylist()
    known = _label_keys(labels, keys)
    if not known:
        source = "the mapping" if isinstance(labels, Mapping) else labels
        raise InputError(f"{source} holds no labels: it has no rows, or all its labels are empty")
    pairs = [(known[key], int(group)) for key, group in zip(keys, run.labels, strict=True) if key in known]
    if not pairs:
        raise InputError(
            f"no label is about an image of {run.path}: "
            f"labels are for {_examples(known)}, images are {_examples(keys)}"
        )
    y_true, y_pred = [label for label, _ in pairs], [group for _, group in pairs]
    match = match_clusters(y_true, y_pred)
    evaluation = Evaluation(
        accuracy=match.accuracy,
        accuracy_majority=match_clusters(y_true, y_pred, majority=True).accuracy,
        nmi=normalized_mutual_info(y_true, y_pred),
        ari=adjusted_rand_index(y_true, y_pred),
        n_classes=len(set(y_true)),
        n_groups=len(set(y_pred)),
        n_matched=len(pairs),
        n_without_label=len(keys) - len(pairs),
        n_without_image=len(known) - len(pairs),
        labels_without_image=_first_missing(known, keys),
        classes={int(group): str(match.mapping[group]) for group in sorted(match.mapping)},
    )
    _record(run, evaluation)
    return evaluation


def _record(run: Run, evaluation: Evaluation) -> None:
    with lock_directory(run.path):
        manifest = read_manifest(run.path)
        manifest["metrics"] = evaluation.as_dict()
        write_manifest(run.path, manifest)
    run.manifest["metrics"] = evaluation.as_dict()


def _label_keys(labels: str | Path | Mapping[Any, Any], keys: list[str]) -> dict[str, Any]:
    """Return the label of every key that has one."""
    if isinstance(labels, Mapping):
        found = {str(key): label for key, label in labels.items()}
    elif str(labels) == FOLDER:
        found = {key: PurePosixPath(key).parent.name for key in keys}
        if not any(found.values()):
            raise InputError(f"labels='folder' needs images in folders, but keys are like {_examples(keys)}")
    else:
        path = Path(labels)
        if not path.is_file():
            raise InputError(
                f"there are no labels at {path}; give a CSV or Parquet file with the columns key,label, "
                f"or {FOLDER!r} for the name of each image's folder"
            )
        found = _join(path, _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path))
    return {key: label for key, label in found.items() if label is not None and str(label).strip()}


def _read_csv(path: Path) -> list[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            names = list(reader.fieldnames or [])
            if not any(name.strip() for name in names):
                raise InputError(
                    f"{path} is empty; it needs a first line key,label and a line for each image"
                )
            _check_columns(path, names)
            return [(row["key"], row["label"] or "") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}") from error


def _read_parquet(path: Path) -> list[tuple[str, Any]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from error
    _check_columns(path, table.column_names)
    keys = (str(key) for key in table["key"].to_pylist())
    return list(zip(keys, table["label"].to_pylist(), strict=True))


def _check_columns(path: Path, names: list[str]) -> None:
    missing = [name for name in ("key", "label") if name not in names]
    if missing:
        raise InputError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}; "
            f"it needs key and label, and has {', '.join(map(repr, names)) or 'none'}"
        )


def _join(path: Path, rows: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, label in rows:
        if found.setdefault(key, label) != label:
            raise InputError(f"{path} gives {key!r} two labels, {found[key]!r} and {label!r}; keep one")
    return found


def _first_missing(known: Mapping[str, Any], keys: list[str]) -> tuple[str, ...]:
    grouped = set(keys)
    return tuple(islice((key for key in known if key not in grouped), _N_EXAMPLES))


def _examples(keys: Any) -> str:
    named = [repr(key) for _, key in zip(range(_N_EXAMPLES), keys, strict=False)]
    return ", ".join(named) + (", …" if len(keys) > len(named) else "")
