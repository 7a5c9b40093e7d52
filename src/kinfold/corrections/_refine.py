"""Train a classifier on the corrections, and keep the changes that it proposes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.corrections._edits import MARKS, Accept, Rows
from kinfold.corrections._state import State, hash_base
from kinfold.errors import FormatError, InputError, OtherGroupsError
from kinfold.paths import arrow_path
from kinfold.progress import SILENT, Progress
from kinfold.reading import check_regular, parse_json, reading
from kinfold.run import lock_directory, read_table
from kinfold.storage import as_plain, atomic_file, check_format_version
from kinfold.validation import Number, check, check_integer

if TYPE_CHECKING:
    from kinfold.corrections._held_out import HeldOut
    from kinfold.run import Run

PROPOSALS_NAME = "proposals.parquet"
PROPOSALS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("from_cluster", pa.int32()),
        ("to_cluster", pa.int32()),
        ("confidence", pa.float32()),
    ]
)
_FORMAT = "kinfold-proposals"
_FORMAT_VERSION = 1
_METADATA = b"kinfold"
_MEND = "refine again: `kinfold refine`"  # proposals can always be computed again

N_ROUNDS = 3  # each spreads corrections to the next similar images, and makes the classifiers overconfident
LEAST_AGREEMENT = 0.7  # held-out agreement with the groups; below it, features hardly tell the groups apart
FEWEST_TRIED = 10  # images placed by hand; a share of fewer has an error of more than 15 points
_NOTHING_PLACED = (
    "No image was moved, confirmed or marked wrong by hand yet, so nothing is proposed: what a classifier "
    "would change in the model's own groups is as often wrong as right. Correct some images with "
    "`kinfold explore` first"
)
logger = logging.getLogger(__name__)

_WRONG, _NOISE = (1 + MARKS.index(mark) for mark in ("wrong", "noise"))


@dataclass(frozen=True, eq=False)
class Proposals:
    """Images that a classifier would put into another group, in row order.

    Attributes
    ----------
    rows : ndarray (n,) int64
        Their rows in the source.
    groups : ndarray (n,) int32
        The group proposed for each.
    confidences : ndarray (n,) float32
        Probability of that group by the classifier, 0 to 1.
    from_groups : ndarray (n,) int32
        The current group of each, also of images marked "wrong".
    facts : dict
        What the classifier was trained on: ``version`` of the state, ``n_images``, ``n_learned``,
        ``n_by_hand``, ``n_groups``, ``n_free`` (images that may change), ``agreement`` (held-out accuracy on
        images that weren't placed by hand), ``found_by_hand`` (the same for those placed by hand; None where
        they are too few), ``random_state``. Where nothing was corrected by hand there are no proposals, and
        ``agreement`` is None.
    """

    rows: NDArray[np.int64]
    groups: NDArray[np.int32]
    confidences: NDArray[np.float32]
    from_groups: NDArray[np.int32]
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Rows | None = None, *, min_confidence: float = 0.0) -> Accept:
        """Return the edit that accepts proposals: all, those of some rows, or those of enough confidence.

        Raises
        ------
        InputError
            No proposal is selected, or ``min_confidence`` is not in [0, 1].
        """
        check_confidence(min_confidence)
        taken = self.confidences >= np.float32(min_confidence)
        if rows is not None:
            taken &= np.isin(self.rows, np.asarray(rows))
        if not taken.any():
            raise InputError("no proposal is selected; lower min_confidence or give other rows")
        return Accept(self.rows[taken], self.groups[taken])


def check_confidence(min_confidence: float) -> None:
    """Raise :class:`InputError` unless a confidence is in [0, 1]."""
    check({"min_confidence": Number(least=0, most=1)}, min_confidence=min_confidence)


def write_proposals(run: Run, proposals: Proposals) -> Path:
    """Write ``RUN/proposals.parquet``, whole or not at all, and return its path."""
    path = run.path / PROPOSALS_NAME
    places = np.searchsorted(run.assignments["row"].to_numpy(), proposals.rows)
    head = {"format": _FORMAT, "format_version": _FORMAT_VERSION, "base": hash_base(run)}
    text = json.dumps({**head, "facts": proposals.facts}, sort_keys=True, default=as_plain)
    columns = [
        pa.array(proposals.rows),
        run.assignments["key"].take(pa.array(places)),
        pa.array(proposals.from_groups),
        pa.array(proposals.groups),
        pa.array(proposals.confidences),
    ]
    table = pa.table(columns, schema=PROPOSALS_SCHEMA.with_metadata({_METADATA: text.encode()}))
    with lock_directory(run.path, wait=True), atomic_file(path) as partial:
        pq.write_table(table, arrow_path(partial, "wb"), compression="zstd")
    return path


def read_proposals(run: Run) -> Proposals | None:
    """Read the proposals that :func:`write_proposals` wrote last; None where there are none.

    Raises
    ------
    FormatError
        The file is damaged, of a newer format, or of other groups than the run has now.
    """
    path = run.path / PROPOSALS_NAME
    check_regular(path)
    if not path.is_file():
        return None
    table = read_table(path, PROPOSALS_SCHEMA, _MEND)
    head = _read_head(path)
    if head.get("base") != hash_base(run):
        raise OtherGroupsError(f"{path} holds proposals for other groups than this run has; {_MEND}")
    return Proposals(
        table["row"].to_numpy(),
        table["to_cluster"].to_numpy(),
        table["confidence"].to_numpy(),
        table["from_cluster"].to_numpy(),
        dict(head.get("facts", {})),
    )


def _read_head(path: Path) -> dict[str, Any]:
    with reading(path, _MEND):
        head = parse_json((pq.read_schema(arrow_path(path)).metadata or {}).get(_METADATA, b"{}"))
    if not isinstance(head, dict) or head.get("format") != _FORMAT:
        raise FormatError(f"{path} isn't a file of Kinfold's proposals; {_MEND}")
    check_format_version(path, head.get("format_version"), _FORMAT_VERSION)
    return head


def refine(
    run: Run,
    state: State,
    *,
    random_state: int = 0,
    unguided: bool = False,
    source: str | Path | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Proposals:
    """Train a linear classifier on the corrected groups, and propose changes for the other images.

    The clusters of the model are noisy labels, and a classifier that was trained on the wrong label of an
    image mostly reproduces it. So multinomial logistic regression (standardized columns, stochastic gradient
    descent) is trained with four folds at once, and every image gets the held-out prediction of the
    classifier that wasn't trained on it. Images placed by hand are certain: all classifiers are trained on
    them, and they are drawn more often, so that those of a group together weigh as much as a group of average
    size, however few they are; fifty corrections would otherwise have no effect among a thousand labels of
    the model. The predictions then replace the labels of the model, in three rounds, so that corrections
    spread step by step to similar images. Classifiers that are trained on their own predictions become
    overconfident: the confidence of a proposal is the mean of its probability in the first and the last
    round.

    Images marked "wrong" or "noise" are not trained on. Images placed by hand, marked "noise" or in locked
    groups never change, and locked groups take none. Where no image was moved, confirmed or marked
    wrong, nothing is trained and nothing is proposed. For an image marked "wrong" the best other group is
    proposed. Where the held-out accuracy of the first round is below 70 %, a warning says that the features
    are too weak. With ten or more images placed by hand, their held-out accuracy is measured too. Groups that
    were merged, split or newly made are classes like all others.

    Parameters
    ----------
    run : Run
        The run, whose features are read in batches: they may be larger than memory.
    state : State
        The groups as corrected.
    random_state : int, default 0
        Seed of folds and order, 0 or more; the same seed gives the same proposals on the same machine.
    unguided : bool, default False
        Propose changes also where nothing was placed by hand: where the classifier disagrees with the model's
        own groups, which is as often wrong as right.
    source : path, optional
        Where the features are now, if they were moved.
    device : str, default "auto"
        Device to train on.
    progress : Progress
        Shows the steps of training.

    Returns
    -------
    Proposals

    Raises
    ------
    InputError
        Fewer than two groups have images to train on, the features are missing, or ``random_state`` is
        negative.

    References
    ----------
    Held-out predictions as a remedy for wrong labels: Northcutt et al. (2021), "Confident
    Learning". Self-training on a classifier's own predictions: Scudder (1965), "Probability of
    error of some adaptive pattern-recognition machines".
    """
    check_integer(0, random_state=random_state)
    classes = _Classes.of(state)
    features, variant = run.features(source), run.manifest.features["variant"]
    features.verify(variant)
    matrix = features.matrix(variant)
    if matrix.shape[0] != len(state.labels):
        raise InputError(
            f"the features have {matrix.shape[0]} rows, but the run has {len(state.labels)} images; say "
            "where the features of this run are (source=, --source)"
        )
    if not unguided and not (state.by_hand.any() or (state.marks == _WRONG).any()):
        logger.warning(_NOTHING_PLACED)
        return _nothing(run, state, classes, random_state)
    # imports PyTorch, which opening and correcting a run doesn't need
    from kinfold.corrections._held_out import FoldClassifiers, TrainingSet

    learned = state.marks == 0
    wrong = state.marks == _WRONG
    training_set = TrainingSet(len(classes.groups), learned, learned & state.by_hand, wrong)
    classifiers = FoldClassifiers(matrix, training_set, device=device, progress=progress)
    rounds: list[HeldOut] = []
    labels = classes.labels
    for number in range(N_ROUNDS):
        rounds.append(classifiers.predict(np.where(wrong, classes.labels, labels), random_state + number))
        found = rounds[-1].classes
        # from the current groups each time, so that a wrong prediction of one round can be taken back
        labels = np.where(classes.free & classes.open[found], found, classes.labels)
    changed = np.flatnonzero(labels != classes.labels)
    confidences = [one.probabilities(changed, labels[changed]) for one in (rounds[0], rounds[-1])]
    agreement = _share(rounds[0], classes.labels, learned & ~state.by_hand)
    hand, tried = training_set.certain, None
    if hand.sum() >= FEWEST_TRIED:
        held_out = classifiers.predict(classes.labels, random_state, spare_certain=False)
        tried = _share(held_out, classes.labels, hand)
    _warn(agreement)
    facts = {
        "version": state.version,
        "n_images": len(labels),
        "n_groups": len(classes.groups),
        "n_learned": int(learned.sum()),
        "n_by_hand": int(training_set.certain.sum()),
        "n_free": int(classes.free.sum()),
        "agreement": agreement,
        "found_by_hand": tried,
        "random_state": random_state,
    }
    return Proposals(
        run.assignments["row"].to_numpy()[changed],
        classes.groups[labels[changed]],
        np.mean(confidences, axis=0, dtype=np.float32),
        state.labels[changed],
        facts,
    )


def _share(predictions: HeldOut, classes: NDArray[np.int64], asked: NDArray[np.bool_]) -> float:
    """Return the held-out accuracy on the images asked for; 1 where none is asked for."""
    return float((predictions.classes == classes)[asked].mean()) if asked.any() else 1.0


def _nothing(run: Run, state: State, classes: _Classes, random_state: int) -> Proposals:
    """Return no proposals, with the facts that don't need a classifier."""
    facts = {
        "version": state.version,
        "n_images": len(state.labels),
        "n_groups": len(classes.groups),
        "n_learned": 0,
        "n_by_hand": 0,
        "n_free": int(classes.free.sum()),
        "agreement": None,
        "found_by_hand": None,
        "random_state": random_state,
    }
    empty = np.empty(0, np.int32)
    rows = run.assignments["row"].to_numpy()[:0]
    return Proposals(rows, empty, np.empty(0, np.float32), empty, facts)


def _warn(agreement: float) -> None:
    if agreement < LEAST_AGREEMENT:
        logger.warning(
            "The classifier predicts the group of only %.0f %% of the images that it wasn't trained on: "
            "these features hardly tell the groups apart, and the proposals mean little; use a stronger "
            "backbone",
            100 * agreement,
        )


@dataclass(frozen=True)
class _Classes:
    """Groups as classes 0 … K−1 of a classifier, and which images and classes may change.

    Attributes
    ----------
    groups : ndarray (K,) int32
        Groups with images that aren't marked, ascending.
    labels : ndarray (N,) int64
        Class of every image; K for images of groups that have only marked images.
    free : ndarray (N,) bool
        Images that may change.
    open : ndarray (K,) bool
        Classes that may take images.
    """

    groups: NDArray[np.int32]
    labels: NDArray[np.int64]
    free: NDArray[np.bool_]
    open: NDArray[np.bool_]

    @classmethod
    def of(cls, state: State) -> _Classes:
        sizes = state.counts()
        groups = np.flatnonzero(sizes).astype(np.int32)
        if len(groups) < 2:
            raise InputError("refining needs at least two groups with unmarked images; split a group first")
        class_of = np.full(len(sizes), len(groups), np.int64)
        class_of[groups] = np.arange(len(groups))
        locked = np.zeros(len(sizes), bool)
        locked[[number for number, group in state.groups.items() if group.locked]] = True
        free = ~state.by_hand & ~locked[state.labels] & (state.marks != _NOISE)
        return cls(groups, class_of[state.labels], free, ~locked[groups])
