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
from kinfold.errors import FormatError, InputError
from kinfold.progress import SILENT, Progress
from kinfold.run import lock_directory, read_table
from kinfold.storage import as_plain, atomic_file, check_format_version

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
_MEND = "refine again: `kinfold refine`"

N_ROUNDS = 3
LEAST_AGREEMENT = 0.7
FEWEST_TRIED = 10  # images placed by hand, before a share of them says anything
logger = logging.getLogger(__name__)

_WRONG, _NOISE = (1 + MARKS.index(mark) for mark in ("wrong", "noise"))


@dataclass(frozen=True, eq=False)
class Proposals:
    """Images that had better be in another group, in row order.

    Attributes
    ----------
    rows : ndarray (n,) int64
        Their rows in the source.
    groups : ndarray (n,) int32
        The group proposed for each.
    confidences : ndarray (n,) float32
        How sure the classifier is of that group, 0 to 1.
    from_groups : ndarray (n,) int32
        The group each is in, also of images marked "wrong".
    facts : dict
        What the classifier learned from: ``version`` of the state, ``n_images``, ``n_learned``,
        ``n_by_hand``, ``n_groups``, ``n_free`` (images that could have been changed), ``agreement`` (share
        of images not placed by hand whose group is found by a classifier that hasn't learned from them),
        ``found_by_hand`` (the same of those placed by hand; None where they are too few), ``random_state``.
    """

    rows: NDArray[np.int64]
    groups: NDArray[np.int32]
    confidences: NDArray[np.float32]
    from_groups: NDArray[np.int32]
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Rows | None = None, *, min_confidence: float = 0.0) -> Accept:
        """Return the edit that takes proposals over: all, those of some rows, those that are sure enough.

        Raises
        ------
        InputError
            None is left, or ``min_confidence`` is not between 0 and 1.
        """
        check_confidence(min_confidence)
        taken = self.confidences >= np.float32(min_confidence)
        if rows is not None:
            taken &= np.isin(self.rows, np.asarray(rows))
        if not taken.any():
            raise InputError("no proposal is left to take over")
        return Accept(self.rows[taken], self.groups[taken])


def check_confidence(min_confidence: float) -> None:
    """Raise :class:`InputError` unless a confidence is between 0 and 1."""
    number = isinstance(min_confidence, int | float | np.floating) and not isinstance(min_confidence, bool)
    if not number or not 0 <= min_confidence <= 1:
        raise InputError(f"min_confidence must be between 0 and 1, not {min_confidence!r}")


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
        pq.write_table(table, partial, compression="zstd")
    return path


def read_proposals(run: Run) -> Proposals | None:
    """Read what :func:`write_proposals` wrote last; None where there is nothing.

    Raises
    ------
    FormatError
        The file is damaged, of a newer format, or of other groups than the run's.
    """
    path = run.path / PROPOSALS_NAME
    if not path.is_file():
        return None
    table = read_table(path, PROPOSALS_SCHEMA, _MEND)
    head = _read_head(path)
    if head.get("base") != hash_base(run):
        raise FormatError(f"{path} holds proposals for other groups than this run's; {_MEND}")
    return Proposals(
        table["row"].to_numpy(),
        table["to_cluster"].to_numpy(),
        table["confidence"].to_numpy(),
        table["from_cluster"].to_numpy(),
        dict(head.get("facts", {})),
    )


def _read_head(path: Path) -> dict[str, Any]:
    try:
        head = json.loads((pq.read_schema(path).metadata or {}).get(_METADATA, b"{}"))
    except ValueError as error:
        raise FormatError(f"{path} is damaged ({error}); {_MEND}") from error
    if not isinstance(head, dict) or head.get("format") != _FORMAT:
        raise FormatError(f"{path} isn't a file of Kinfold's proposals; {_MEND}")
    check_format_version(path, head.get("format_version"), _FORMAT_VERSION)
    return head


def refine(
    run: Run,
    state: State,
    *,
    random_state: int = 0,
    source: str | Path | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Proposals:
    """Train a linear classifier on the corrected groups, and propose changes for the images left.

    The model's groups are labels with mistakes in them, and a classifier that has learned an image's wrong
    label mostly gives it back. So multinomial logistic regression (standardised columns, stochastic
    gradient descent) is trained on four folds at once, and every image gets the prediction of the classifier
    that hasn't learned from it. Images placed by hand are certain: all classifiers learn from them, and
    they are drawn more often, so that those of a group together count as much as a group of average size,
    however few they are; fifty corrections would otherwise drown among a thousand labels of the model. The
    predictions then take the place of the model's labels, three times in all, so that what was corrected
    spreads to alike images step by step. Classifiers that learn from their own answers grow surer than they
    are right: the confidence of a proposal is the mean of its probability in the first round and the last.

    Images marked "wrong" or "noise" aren't learned from. Those placed by hand, those marked "noise" and
    those of locked groups never change, and locked groups take none. For an image marked "wrong" the best
    other group is proposed. Where the first classifiers agree with fewer than 70 % of the groups of images
    they haven't learned, a warning says that the features are too weak. With ten images placed by hand or
    more it is also tried how many of them the first classifiers find when they are left out. Groups that
    were merged, split or made anew are classes like all others.

    Parameters
    ----------
    run : Run
        The run, whose features are read in batches: they may be larger than memory.
    state : State
        The groups as corrected.
    random_state : int, default 0
        Seed of folds and order; the same seed gives the same proposals on the same machine.
    source : path, optional
        Where the features are now, if they were moved.
    device : str, default "auto"
        Where to train.
    progress : Progress
        Shows steps.

    Returns
    -------
    Proposals

    Raises
    ------
    InputError
        Fewer than two groups have images to learn from, or the features aren't there.

    References
    ----------
    Held-out predictions as a remedy for wrong labels: Northcutt et al. (2021),
    "Confident Learning". Rounds in which a classifier's own answers are the labels: Scudder (1965),
    "Probability of error of some adaptive pattern-recognition machines".
    """
    if isinstance(random_state, bool) or not isinstance(random_state, int) or random_state < 0:
        raise InputError(f"random_state must be a whole number of 0 or more, not {random_state!r}")
    classes = _Classes.of(state)
    matrix = run.features(source).matrix(run.manifest["features"]["variant"])
    if matrix.shape[0] != len(state.labels):
        raise InputError(f"the features have {matrix.shape[0]} rows, but the run {len(state.labels)} images")
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
        labels = np.where(classes.free & classes.open[found], found, classes.labels)
    changed = np.flatnonzero(labels != classes.labels)
    sure = [one.probabilities(changed, labels[changed]) for one in (rounds[0], rounds[-1])]
    agreement = _share(rounds[0], classes.labels, learned & ~state.by_hand)
    hand, tried = training_set.certain, None
    if hand.sum() >= FEWEST_TRIED:
        held_out = classifiers.predict(classes.labels, random_state, spare_certain=False)
        tried = _share(held_out, classes.labels, hand)
    _warn(agreement, guided=bool(state.by_hand.any() or wrong.any()))
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
        np.mean(sure, axis=0, dtype=np.float32),
        state.labels[changed],
        facts,
    )


def _share(predictions: HeldOut, classes: NDArray[np.int64], asked: NDArray[np.bool_]) -> float:
    """Return how many of the images asked for are held for their own class; 1 where none is asked for."""
    return float((predictions.classes == classes)[asked].mean()) if asked.any() else 1.0


def _warn(agreement: float, *, guided: bool) -> None:
    if agreement < LEAST_AGREEMENT:
        logger.warning(
            "Of images that it hasn't learned, the classifier gives only %.0f %% the group they are in: "
            "these features tell the groups badly apart, and the proposals mean little; a stronger backbone "
            "helps",
            100 * agreement,
        )
    if not guided:
        logger.warning(
            "No image was placed, confirmed or marked wrong by hand yet: the proposals are only where a "
            "classifier differs from the groups, and as often wrong as right. Correct some images first"
        )


@dataclass(frozen=True)
class _Classes:
    """Groups as classes 0 … K−1 of a classifier, and what may change.

    Attributes
    ----------
    groups : ndarray (K,) int32
        Groups with images that aren't marked, ascending.
    labels : ndarray (N,) int64
        Class of every image; K of those whose group is no class, all of them marked.
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
            raise InputError("refining needs two groups with images that aren't marked; split one first")
        class_of = np.full(len(sizes), len(groups), np.int64)
        class_of[groups] = np.arange(len(groups))
        locked = np.zeros(len(sizes), bool)
        locked[[number for number, group in state.groups.items() if group.locked]] = True
        free = ~state.by_hand & ~locked[state.labels] & (state.marks != _NOISE)
        return cls(groups, class_of[state.labels], free, ~locked[groups])
