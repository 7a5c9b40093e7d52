"""Names for the groups of a finished run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kinfold.compute import Runtime
from kinfold.language import ClusterNames, name_clusters, prepare_nouns
from kinfold.language.naming import MIN_SEPARATION, N_NAMES
from kinfold.pipeline._language import NounsLike, find_joint_space, read_nouns
from kinfold.pipeline._report import run_report_stage
from kinfold.pipeline._stages import Stages, open_run_stages
from kinfold.progress import SILENT, Progress
from kinfold.run import ASSIGNMENTS_NAME, NAMES_NAME, Run, write_named_assignments, write_names

_VERSION = 1  # of the rule; a new number makes naming run again


def name(
    run: Run | str | Path,
    *,
    text_model: str | Path | None = None,
    nouns: NounsLike = None,
    n_names: int = N_NAMES,
    min_separation: float = MIN_SEPARATION,
    source: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    n_workers: int | None = None,
    progress: Progress = SILENT,
) -> ClusterNames:
    """Name the groups of a finished run by the nouns that fit them and tell them apart.

    The names go into ``names.parquet``, into the column ``name`` of ``assignments.parquet``, and onto the
    report page if the run has one. Interrupted anywhere, the run is as before or named; the same call goes
    on. A call that would find the same changes nothing.

    Parameters
    ----------
    run : Run or path
        A finished run.
    text_model : str or path, optional
        A vision-language model, by the name of its card or by its directory. By default the one that made the
        run's features. Another one than that embeds the run's images into ``RUN/language-features`` first.
        For ready features of unknown origin it is the one that made them.
    nouns : path or sequence of str, optional
        The nouns that may be used, or a file with one per line; by default those of WordNet. Their features
        are kept in the user's cache (:func:`kinfold.language.cache_folder`).
    n_names : int, default 5
        Words per group at most.
    min_separation : float, default 0.6
        How well a word must tell a group from those beside it; see :func:`~kinfold.language.name_clusters`.
    source : path, optional
        Where the images are now (or the ready features), if they were moved.
    device, precision : str, default "auto"
        Where and how exactly to compute.
    n_workers : int, optional
        Processes that decode; by default as many as there are cores.
    progress : Progress
        Shows the work.

    Returns
    -------
    ClusterNames
        Also as ``Run.open(path).names``.

    Raises
    ------
    InputError
        The run's features don't lie in a space with words and ``text_model`` doesn't mend that, or its images
        or features are gone.
    HubUnavailableError
        The model's files are neither cached nor to be had.

    Examples
    --------
    >>> import kinfold
    >>> kinfold.name("photos.kinfold").nouns  # doctest: +SKIP
    """
    path = run.path if isinstance(run, Run) else Path(run)
    runtime = Runtime.resolve(device, precision, n_workers=n_workers, progress=progress)
    Run.open(path)  # refuses what isn't finished
    with open_run_stages(path) as stages:
        opened, started = Run(path, stages.manifest), time.monotonic()
        space = find_joint_space(opened, text_model, source, runtime)
        words, origin = read_nouns(nouns)
        prepared = prepare_nouns(space.encoder, words)
        X, labels, fingerprint = space.read(runtime)
        inputs = {
            "version": _VERSION,
            "assign": stages.manifest.stages["assign"]["inputs"],
            "features": fingerprint,
            "nouns": prepared.fingerprint,
            "n_names": n_names,
            "min_separation": min_separation,
        }
        if not stages.is_current("name", inputs):
            read = prepared.embed(progress)
            found = name_clusters(
                X,
                labels,
                opened.n_clusters,
                read.features,
                read.nouns,
                n_names=n_names,
                logit_scale=space.encoder.logit_scale,
                min_separation=min_separation,
                device=str(runtime.device),
                progress=progress,
            )
            naming = {**space.describe(), "nouns": {"source": origin, "n_words": len(read)}}
            _keep(stages, opened, inputs, found, naming, started)
        if opened.report_path.exists():
            run_report_stage(stages, progress, space.images_at)
    names = Run.open(path).names
    assert isinstance(names, ClusterNames)
    return names


def _keep(
    stages: Stages,
    run: Run,
    inputs: Mapping[str, Any],
    names: ClusterNames,
    naming: Mapping[str, Any],
    started: float,
) -> None:
    """Put names into the run, all at one moment."""
    writers = {
        ASSIGNMENTS_NAME: partial(write_named_assignments, assignments=run.assignments, nouns=names.nouns),
        NAMES_NAME: partial(write_names, names=names),
    }
    n_named = sum(noun is not None for noun in names.nouns)
    facts = {**naming, "n_named": n_named, "parameters": dict(names.parameters)}
    stages.replace("name", inputs, writers, started, naming=facts)
