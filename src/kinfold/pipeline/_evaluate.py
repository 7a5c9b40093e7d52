"""Compare a finished run with known labels; nothing here reaches a method or a default."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.hierarchy import ClassTree
from kinfold.labels import Truth, join_truth
from kinfold.metrics import (
    Agreement,
    LabelSets,
    compare,
    drawn_label_accuracy,
    expected_calibration_error,
    multi_label_accuracy,
    per_class_accuracy,
    top_k_accuracy,
)
from kinfold.pipeline._classes import TreeLike, open_class_tree
from kinfold.pipeline._corrected import CorrectedGroups
from kinfold.run import Run, have_same_groups, lock_directory, read_manifest, write_manifest

logger = logging.getLogger(__name__)

_RANKS = 5  # top-1 to top-5 accuracy: a run keeps no more groups per image
_N_DRAWS = 50  # one map of groups is a coin toss among equally right labels; the mean of many is not
_NOTHING = -1  # no label is numbered so, hence it equals none


@dataclass(frozen=True)
class SeveralLabels:
    """Accuracy where several labels are right for an image.

    Attributes
    ----------
    kind : str
        "drawn": the map comes from one label per image drawn at random; "listed": from the image's first
        label; "ancestors": from its label, and what lies above it in the tree is right too.
    accuracies : Mapping of int to float
        Share of images for which one of the k best groups stands for a right label: top-kL.
    deviations : Mapping of int to float
        Standard deviation over draws; empty where nothing was drawn.
    n_draws : int
        Maps that were drawn; 0 where the map is one.
    mean_labels : float
        Right labels per image.
    """

    kind: str
    accuracies: Mapping[int, float]
    deviations: Mapping[int, float]
    n_draws: int
    mean_labels: float


@dataclass(frozen=True)
class DepthAccuracy:
    """Accuracy of the images whose labels lie equally deep in the tree.

    Attributes
    ----------
    depth : int
        Steps to the nearest root; roots have 0.
    n_classes, n_images : int
        Labels at that depth, and their images.
    accuracy : float
        Share of them whose group stands for their label.
    accuracy_ancestors : float
        Share whose group stands for their label or something above it.
    """

    depth: int
    n_classes: int
    n_images: int
    accuracy: float
    accuracy_ancestors: float


@dataclass(frozen=True)
class Evaluation:
    """How well the groups of a run agree with known labels.

    Figures that need one label per image are None where images have several and none is the first.

    Attributes
    ----------
    accuracy : float or None
        Share of labeled images whose group stands for their class under the best one-to-one map; all
        images of leftover groups count as wrong. 0 to 1.
    accuracy_majority : float or None
        The same with each leftover group given to its majority class.
    mean_class_accuracy : float or None
        Mean over classes of the share of their images that are right, one-to-one.
    nmi, ami : float or None
        Normalised and adjusted mutual information, arithmetic average.
    ari : float or None
        Adjusted Rand index, at most 1.
    purity : float or None
        Share of images that are of their group's majority class.
    top_k : Mapping of int to float
        Share of images of which one of the k best groups stands for their class, for the k up to 5 that the
        run keeps.
    calibration_error : float or None
        Expected calibration error of the confidences, over 15 bins.
    several : SeveralLabels or None
        Where several labels are right.
    by_depth : tuple of DepthAccuracy
        Where a tree was given.
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
    n_corrections : int
        Edits by which people corrected the groups that are judged.
    n_marked : int
        Labeled images that are marked as wrong or noise: in no group, so no figure is about them.
    uncorrected : Evaluation or None
        The same of the groups as the method made them, where they were corrected.
    warnings : tuple of str
        What makes the figures worthless, as when all images have one label.
    """

    accuracy: float | None
    accuracy_majority: float | None
    mean_class_accuracy: float | None
    nmi: float | None
    ami: float | None
    ari: float | None
    purity: float | None
    top_k: Mapping[int, float]
    calibration_error: float | None
    several: SeveralLabels | None
    by_depth: tuple[DepthAccuracy, ...]
    n_classes: int
    n_groups: int
    n_matched: int
    n_without_label: int
    n_without_image: int
    labels_without_image: tuple[str, ...]
    classes: Mapping[int, str]
    n_corrections: int = 0
    n_marked: int = 0
    uncorrected: Evaluation | None = None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data, as the manifest records it."""
        return dict(_text_keys(asdict(self)))


def _text_keys(value: Any) -> Any:
    """Return nested data as JSON has it: keys are texts, tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): _text_keys(some) for key, some in value.items()}
    return [_text_keys(some) for some in value] if isinstance(value, (list, tuple)) else value


def evaluate(
    run: Run | str | Path,
    labels: str | Path | Mapping[Any, Any],
    *,
    tree: TreeLike | None = None,
    multi_label: bool = False,
    n_draws: int = _N_DRAWS,
    random_state: int = 0,
) -> Evaluation:
    """Compare the groups of ``run`` with known labels and record the figures in its manifest.

    The groups are those that people corrected, where they did; the figures of the method's own groups then
    are in ``uncorrected``. Labels are joined by key; what finds no partner is counted and left out, never
    guessed.

    Parameters
    ----------
    run : Run or path
        A finished run.
    labels : path, "folder" or Mapping
        A CSV or Parquet file with the columns ``key`` and ``label``; the folder of a benchmark; ``"folder"``,
        the name of the folder that each image lies in; or a mapping from key to label. An empty label counts
        as none. Several labels per image are lists in the column ``label`` or in the mapping, or (beside the
        one label that groups are mapped by) in a column ``labels``.
    tree : "wordnet", path or ClassTree, optional
        How the labels lie below one another: adds accuracies for which a label's ancestors are right too, and
        accuracies by depth. WordNet for synset ids; a file is a parent table.
    multi_label : bool, default False
        A key may have several rows, one per label.
    n_draws : int, default 50
        Maps from labels drawn at random, where no label of an image is the first (ReaL's protocol).
    random_state : int, default 0
        Seed of the draws.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        The labels or the tree can't be read, one key has two labels, no key is one of the run's, a label
        isn't in the tree, or a tree is given where labels say themselves what is right.
    """
    given, run = run, Run.latest(run)
    truth = join_truth(labels, _keys(run), several=multi_label, where=str(run.path))
    if tree is not None and truth.sets is not None:
        raise InputError("images with several labels and a tree (tree=, --tree) don't go together; give one")
    opened: tuple[ClassTree, list[str]] | None = None
    if tree is not None and truth.codes is not None:
        names = [str(name) for name in truth.classes]
        opened = open_class_tree(tree, names)[0], names
    corrected = CorrectedGroups.of(run)
    confidences = run.assignments["confidence"].to_numpy()[truth.rows]

    def judge(truth: Truth, groups: NDArray[np.int32], top: NDArray[np.int32], sure: Any) -> Evaluation:
        return _judge(truth, groups, top, sure, opened, n_draws, random_state)

    own_groups, own_top = run.labels[truth.rows], _ranked_groups(run, truth.rows)
    if corrected.n_corrections:
        groups = corrected.labels[truth.rows]
        top = _corrected_ranks(corrected, groups, own_top)
        inside = groups >= 0
        if not inside.any():
            raise InputError(
                f"all labeled images of {run.path} are marked as wrong or as noise, so none is in a group"
            )
        uncorrected = judge(truth, own_groups, own_top, confidences)
        evaluation = judge(_only(truth, inside), groups[inside], top[inside], confidences[inside])
        evaluation = replace(
            evaluation,
            n_corrections=corrected.n_corrections,
            n_marked=int((~inside).sum()),
            uncorrected=uncorrected,
        )
    else:
        evaluation = judge(truth, own_groups, own_top, confidences)
    for message in evaluation.warnings:
        logger.warning("%s", message)
    _record(run, evaluation)
    if isinstance(given, Run):
        given.manifest.metrics = evaluation.as_dict()
    return evaluation


def _judge(
    truth: Truth,
    groups: NDArray[np.int32],
    top: NDArray[np.int32],
    confidences: NDArray[np.float32],
    tree: tuple[ClassTree, list[str]] | None,
    n_draws: int,
    random_state: int,
) -> Evaluation:
    """Return all figures of some groups: of every labeled image its group, best groups and confidence."""
    agreement = None if truth.codes is None else compare(truth.codes, groups)
    several: SeveralLabels | None = None
    by_depth: tuple[DepthAccuracy, ...] = ()
    if truth.sets is not None:
        several = _measure_sets(truth, truth.sets, top, n_draws, random_state)
    elif tree is not None and truth.codes is not None and agreement is not None:
        several, by_depth = _measure_tree(*tree, truth.codes, top, agreement)
    return Evaluation(
        **_single_label_figures(truth, groups, top, confidences, agreement),
        several=several,
        by_depth=by_depth,
        n_classes=len(truth.classes) if truth.codes is None else len(np.unique(truth.codes)),
        n_groups=len(np.unique(groups)),
        n_matched=len(truth.rows),
        n_without_label=truth.n_without_label,
        n_without_image=truth.n_without_image,
        labels_without_image=truth.labels_without_image,
        warnings=_doubts(truth),
    )


def _doubts(truth: Truth) -> tuple[str, ...]:
    """Say what makes the figures worthless."""
    if truth.codes is None or len(truth.codes) < 2:
        return ()
    counts = np.bincount(truth.codes)
    if counts.max() == len(truth.codes):
        only = str(truth.classes[int(truth.codes[0])])
        return (
            f"all {len(truth.codes):,} labeled images have one label, {only!r}: the figures say nothing "
            f"about the "
            "groups. Are these the right labels, or the right column (label)?",
        )
    if counts.max() == 1:
        return (
            f"all {len(truth.codes):,} labeled images have different labels: the figures say nothing about "
            f"the "
            "groups. Are these the right labels, or names of the images?",
        )
    return ()


def _corrected_ranks(
    corrected: CorrectedGroups, groups: NDArray[np.int32], top: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return the best groups as corrected, each once: where an image is, then what continues the others."""
    heirs = np.append(corrected.first_heirs(), _NOTHING).astype(np.int32)  # −1 stays −1
    ranked = np.concatenate([groups[:, None], heirs[top]], axis=1)
    for rank in range(1, ranked.shape[1]):
        again = (ranked[:, :rank] == ranked[:, rank : rank + 1]).any(axis=1)
        ranked[again, rank] = _NOTHING
    # Those that are there first, in their order; as many as the run keeps.
    order = np.argsort(ranked == _NOTHING, axis=1, kind="stable")
    return np.take_along_axis(ranked, order, axis=1)[:, : top.shape[1]]


def _only(truth: Truth, some: NDArray[np.bool_]) -> Truth:
    """Return the labels of some of the images."""
    places = np.flatnonzero(some)
    return replace(
        truth,
        rows=truth.rows[places],
        codes=None if truth.codes is None else truth.codes[places],
        sets=None if truth.sets is None else replace(truth.sets, sets=truth.sets.sets[places]),
    )


def _single_label_figures(
    truth: Truth,
    groups: NDArray[np.int32],
    top: NDArray[np.int32],
    confidences: NDArray[np.float32],
    agreement: Agreement | None,
) -> dict[str, Any]:
    """Return the figures that go by one label per image: all None or empty where there is none."""
    codes = truth.codes
    if agreement is None or codes is None:
        names = ("accuracy", "accuracy_majority", "nmi", "ami", "ari", "purity")
        none = dict.fromkeys((*names, "mean_class_accuracy", "calibration_error"))
        return {**none, "top_k": {}, "classes": {}}
    match = agreement.match
    stands_for = np.full(int(groups.max()) + 1, _NOTHING)
    stands_for[list(match.mapping)] = list(match.mapping.values())
    return {
        "accuracy": agreement.accuracy,
        "accuracy_majority": agreement.accuracy_majority,
        "mean_class_accuracy": per_class_accuracy(codes, groups).mean_accuracy,
        "nmi": agreement.nmi,
        "ami": agreement.ami,
        "ari": agreement.ari,
        "purity": agreement.purity,
        "top_k": {k: top_k_accuracy(codes, top, k, match=match) for k in _ranks(top)},
        "calibration_error": expected_calibration_error(confidences, stands_for[groups] == codes),
        "classes": {int(group): str(truth.classes[match.mapping[group]]) for group in sorted(match.mapping)},
    }


def _measure_sets(
    truth: Truth, sets: LabelSets, top: NDArray[np.int32], n_draws: int, random_state: int
) -> SeveralLabels:
    """Measure where the labels say themselves what is right."""
    ks, mean_labels = _ranks(top), float(sets.counts.mean())
    if truth.codes is not None:
        place_of = {label: place for place, label in enumerate(sets.labels)}
        first = np.array([place_of[label] for label in truth.classes])[truth.codes]
        numbered = replace(sets, labels=tuple(range(len(sets.labels))))  # no text per image
        found = multi_label_accuracy(first, numbered, top, ks=ks)
        return SeveralLabels("listed", found, {}, 0, mean_labels)
    drawn = drawn_label_accuracy(sets, top, ks=ks, n_draws=n_draws, random_state=random_state)
    return SeveralLabels("drawn", drawn.means, drawn.deviations, drawn.n_draws, mean_labels)


def _measure_tree(
    tree: ClassTree,
    names: list[str],
    codes: NDArray[np.int32],
    top: NDArray[np.int32],
    agreement: Agreement,
) -> tuple[SeveralLabels, tuple[DepthAccuracy, ...]]:
    """Measure where what lies above a label is right too."""
    tree.numbers(names)  # all are in it, or the first that isn't is named
    number_of: dict[str, Any] = {name: number for number, name in enumerate(names)}
    above = [[number_of.get(node, node) for node in tree.ancestors(name)] for name in names]
    sets = LabelSets.of_classes(codes, {number: (number, *some) for number, some in enumerate(above)})
    found = multi_label_accuracy(codes, sets, top, ks=_ranks(top))
    several = SeveralLabels("ancestors", found, {}, 0, float(sets.counts.mean()))
    pairs, counts = np.unique(codes.astype(np.int64) * (int(top.max()) + 1) + top[:, 0], return_counts=True)
    own, groups = np.divmod(pairs, int(top.max()) + 1)
    stands_for = [agreement.match.mapping.get(group, _NOTHING) for group in groups.tolist()]
    same = own == stands_for
    upper = np.array([name in above[label] for name, label in zip(stands_for, own.tolist(), strict=True)])
    depths = tree.depths(names)[own]
    return several, tuple(
        _accuracy_at(int(depth), depths == depth, counts, same, same | upper, own)
        for depth in np.unique(depths)
    )


def _accuracy_at(
    depth: int,
    here: NDArray[np.bool_],
    counts: NDArray[np.int64],
    same: NDArray[np.bool_],
    right: NDArray[np.bool_],
    codes: NDArray[np.int32],
) -> DepthAccuracy:
    n_images = int(counts[here].sum())
    return DepthAccuracy(
        depth=depth,
        n_classes=len(np.unique(codes[here])),
        n_images=n_images,
        accuracy=int(counts[here & same].sum()) / n_images,
        accuracy_ancestors=int(counts[here & right].sum()) / n_images,
    )


def _keys(run: Run) -> pa.Array:
    return run.assignments["key"].cast(pa.large_string()).combine_chunks()


def _ranked_groups(run: Run, rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the best groups of some images (n, up to 5), the best first, −1 for none."""
    lists = run.assignments["top_clusters"].combine_chunks()
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    starts = np.cumsum(counts) - counts
    width = max(1, min(_RANKS, int(counts.max(initial=0))))
    found = np.full((len(rows), width), _NOTHING, dtype=np.int32)
    for rank in range(width):
        there = np.flatnonzero(counts[rows] > rank)
        found[there, rank] = flat[starts[rows[there]] + rank]
    # Where a run was made without ranked groups, an image still has the one that it is in.
    found[:, 0] = run.labels[rows]
    return found


def _ranks(top: NDArray[np.int32]) -> tuple[int, ...]:
    return tuple(range(1, top.shape[1] + 1))


def _record(run: Run, evaluation: Evaluation) -> None:
    with lock_directory(run.path):
        manifest = read_manifest(run.path)
        if not have_same_groups(run.manifest, manifest):  # another process showed another level meanwhile
            raise InputError(f"the groups of {run.path} have changed while they were judged; evaluate again")
        manifest.metrics = evaluation.as_dict()
        write_manifest(run.path, manifest)
