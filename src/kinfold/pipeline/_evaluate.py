"""Comparing a finished run with known labels; nothing here reaches a method or a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kinfold.errors import InputError
from kinfold.metrics import adjusted_rand_index, match_clusters, normalized_mutual_info
from kinfold.pipeline._labels import first_missing, read_labels, show_examples
from kinfold.run import Run, lock_directory, read_manifest, write_manifest


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
    known = read_labels(labels, keys)
    if not known:
        source = "the mapping" if isinstance(labels, Mapping) else labels
        raise InputError(f"{source} holds no labels: it has no rows, or all its labels are empty")
    pairs = [(known[key], int(group)) for key, group in zip(keys, run.labels, strict=True) if key in known]
    if not pairs:
        raise InputError(
            f"no label is about an image of {run.path}: "
            f"labels are for {show_examples(known)}, images are {show_examples(keys)}"
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
        labels_without_image=first_missing(known, keys),
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
