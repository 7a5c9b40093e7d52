"""Proposals for a run that people have corrected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kinfold.corrections import Corrections, Proposals, State, check_confidence, write_proposals
from kinfold.corrections import refine as refine_state
from kinfold.progress import SILENT, Progress
from kinfold.run import Run

CLIENT = "kinfold refine"


@dataclass(frozen=True)
class Refinement:
    """What a classifier that learned the corrections of a run would change.

    Attributes
    ----------
    path : Path
        ``RUN/proposals.parquet``.
    proposals : Proposals
        All of them.
    n_accepted : int
        How many were taken over.
    state : State
        The groups afterwards.
    """

    path: Path
    proposals: Proposals
    n_accepted: int
    state: State


def refine(
    run: Run | str | Path,
    *,
    accept: bool = False,
    min_confidence: float = 0.0,
    random_state: int = 0,
    source: str | Path | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Refinement:
    """Train a classifier on the corrected groups of a run and propose changes for the rest.

    The proposals are written to ``RUN/proposals.parquet``, where the page of ``kinfold explore`` finds them.

    Parameters
    ----------
    run : Run or path
        A finished run, corrected or not.
    accept : bool, default False
        Take the proposals over at once, as one edit that can be undone.
    min_confidence : float, default 0.0
        Take over those alone that the classifier is at least so sure of, 0 to 1.
    random_state : int, default 0
        Seed; the same corrections and seed give the same proposals on the same machine.
    source : path, optional
        Where the features are now, if they were moved.
    device : str, default "auto"
        Where to train.
    progress : Progress
        Shows the training.

    Returns
    -------
    Refinement

    Raises
    ------
    InputError
        The features aren't there, fewer than two groups have images, or the run can't be written to.
    FormatError
        ``corrections.sqlite`` is damaged or of other groups.
    """
    run = Run.latest(run)
    with Corrections.open(run) as corrections:
        corrections.check_writable()
        check_confidence(min_confidence)
        proposals = refine_state(
            run,
            corrections.state,
            random_state=random_state,
            source=source,
            device=device,
            progress=progress,
        )
        path = write_proposals(run, proposals)
        taken = proposals.confidences >= np.float32(min_confidence)
        n_accepted = 0
        if accept and taken.any():
            edit = proposals.select(min_confidence=min_confidence)
            version = corrections.apply(edit, client=CLIENT).version
            n_accepted = corrections.entry(version).n_rows
        return Refinement(path, proposals, n_accepted, corrections.state)
