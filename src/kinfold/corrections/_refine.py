"""Learning the corrections: a classifier that is sure of what was done by hand, and doubts the rest."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections._edits import MARKS
from kinfold.corrections._proposals import Proposals
from kinfold.corrections._state import State
from kinfold.errors import InputError
from kinfold.progress import SILENT, Progress

if TYPE_CHECKING:
    from kinfold.corrections._opinions import Opinions
    from kinfold.run import Run

N_ROUNDS = 3
LEAST_AGREEMENT = 0.7
FEWEST_TRIED = 10  # images placed by hand, before a share of them says anything
logger = logging.getLogger(__name__)

_WRONG, _NOISE = (1 + MARKS.index(mark) for mark in ("wrong", "noise"))


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
    gradient descent) is trained on four folds at once, and every image gets the opinion of the classifier
    that hasn't learned from it. Images placed by hand are certain: all classifiers learn from them, and
    they are drawn more often, so that those of a group together count as much as a group of average size,
    however few they are; fifty corrections would otherwise drown among a thousand labels of the model. The
    opinions then take the place of the model's labels, three times in all, so that what was corrected
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
    Opinions of classifiers that haven't seen an image, as a remedy for wrong labels: Northcutt et al. (2021),
    "Confident Learning". Rounds in which a classifier's own answers are the labels: Scudder (1965),
    "Probability of error of some adaptive pattern-recognition machines".
    """
    if isinstance(random_state, bool) or not isinstance(random_state, int) or random_state < 0:
        raise InputError(f"random_state must be a whole number of 0 or more, not {random_state!r}")
    classes = _Classes.of(state)
    matrix = run.features(source).matrix(run.manifest.features["variant"])
    if matrix.shape[0] != len(state.labels):
        raise InputError(f"the features have {matrix.shape[0]} rows, but the run {len(state.labels)} images")
    from kinfold.corrections._opinions import Jury, Lesson

    learned = state.marks == 0
    wrong = state.marks == _WRONG
    lesson = Lesson(len(classes.groups), learned, learned & state.by_hand, wrong)
    jury = Jury(matrix, lesson, device=device, progress=progress)
    rounds: list[Opinions] = []
    labels = classes.labels
    for number in range(N_ROUNDS):
        rounds.append(jury.opinions(np.where(wrong, classes.labels, labels), random_state + number))
        found = rounds[-1].classes
        labels = np.where(classes.free & classes.open[found], found, classes.labels)
    changed = np.flatnonzero(labels != classes.labels)
    sure = [one.probabilities(changed, labels[changed]) for one in (rounds[0], rounds[-1])]
    agreement = _share(rounds[0], classes.labels, learned & ~state.by_hand)
    hand, tried = lesson.certain, None
    if hand.sum() >= FEWEST_TRIED:
        tried = _share(jury.opinions(classes.labels, random_state, spare_certain=False), classes.labels, hand)
    _warn(agreement, guided=bool(state.by_hand.any() or wrong.any()))
    facts = {
        "version": state.version,
        "n_images": len(labels),
        "n_groups": len(classes.groups),
        "n_learned": int(learned.sum()),
        "n_by_hand": int(lesson.certain.sum()),
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


def _share(opinions: Opinions, classes: NDArray[np.int64], asked: NDArray[np.bool_]) -> float:
    """Return how many of the images asked for are held for their own class; 1 where none is asked for."""
    return float((opinions.classes == classes)[asked].mean()) if asked.any() else 1.0


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
