"""From a source to a finished run, in stages that can be interrupted anywhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kinfold.backbones import DEFAULT_BACKBONE, Backbone
from kinfold.corrections import CORRECTIONS_NAME, Corrections
from kinfold.distributed import current_workers
from kinfold.errors import FormatError
from kinfold.pipeline._backbone import as_backbone, as_spec
from kinfold.pipeline._estimate import Estimate, check_disk, estimate_work
from kinfold.pipeline._method import DEFAULT_METHOD, check_n_samples, prepare_method
from kinfold.pipeline._nouns import NounsLike, prepare_guide
from kinfold.pipeline._source import SourceLike, default_out, resolve_source
from kinfold.pipeline._stages import open_stages
from kinfold.pipeline._team import Team
from kinfold.pipeline._work import Work
from kinfold.progress import SILENT, Progress
from kinfold.run import Run

logger = logging.getLogger(__name__)


def cluster(
    source: SourceLike,
    n_clusters: int,
    *,
    method: str = DEFAULT_METHOD,
    out: str | Path | None = None,
    backbone: str | Path | Backbone = DEFAULT_BACKBONE,
    variant: str = "cls",
    random_state: int = 0,
    device: str = "auto",
    precision: str = "auto",
    n_neighbors: int | None = None,
    n_workers: int | None = None,
    method_parameters: Mapping[str, Any] | None = None,
    preset: str | None = None,
    text_model: str | Path | None = None,
    nouns: NounsLike = None,
    source_options: Mapping[str, Any] | None = None,
    report: bool = True,
    on_estimate: Callable[[Estimate], None] | None = None,
    progress: Progress = SILENT,
) -> Run:
    """Sort images into ``n_clusters`` groups and write a run directory.

    The work goes on where it was interrupted: call it again with the same arguments. With the same seed
    on the same machine the result is the same to the byte, interrupted or not.

    Started by ``torchrun``, the first process does the work and writes, and all join for the fit; each gets
    the run.

    Parameters
    ----------
    source : path, ImageSource or Features
        A folder, a glob pattern, a zip or tar archive, a table of images; or a feature store or ready
        features.
    n_clusters : int
        Groups to find, at most the number of usable images.
    method : {"icce", "temi", "scan", "turtle", "kmeans", "tac", "auto"}, default "icce"
        How to group. "tac" lets nouns guide the groups, and needs the backbone of a vision-language model;
        "auto" fits k-means, TEMI and ICCE and keeps what looks best without labels.
    out : path, optional
        The run directory; by default ``<source name>.kinfold`` in the current folder. It must be new,
        empty, or a run of the same source.
    backbone : str, path or Backbone, default "dinov2-small"
        What embeds the images; not used if ``source`` is features.
    variant : str, default "cls"
        Which vectors of the backbone or the feature store.
    random_state : int, default 0
        Seed.
    device, precision : str, default "auto"
        Where and how exactly to compute.
    n_neighbors : int, optional
        Neighbours of each image in the graph, for methods that learn from one (for ICCE at least); by
        default the method's own choice.
    n_workers : int, optional
        Processes that decode images; by default as many as there are cores.
    method_parameters : Mapping, optional
        More parameters of the method, ``{"n_heads": 8}``.
    preset : str, optional
        Named parameters, like "paper" for those that the method's authors report; see
        :func:`~kinfold.methods.preset_parameters`. What is given explicitly wins.
    text_model : str or path, optional
        For "tac": what reads the nouns, where it isn't the text tower of the backbone; needed for ready
        features of unknown origin.
    nouns : path or sequence of str, optional
        For "tac": the nouns that may be used, or a file with one per line; by default those of WordNet. Their
        features are kept in the user's cache (:func:`kinfold.language.cache_folder`).
    source_options : Mapping, optional
        For tables: ``path_column``, ``image_column``, ``key_column``; for features in Parquet: ``column``.
    report : bool, default True
        Write ``report.html``.
    on_estimate : callable, optional
        Called once, before long work starts, with what the work is expected to take.
    progress : Progress
        Shows every stage.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        An argument or the source can't be used, ``out`` holds something else, or the disk is too small;
        as far as that can be known, before anything is written.
    HubUnavailableError
        The backbone's files are neither cached nor to be had.

    Examples
    --------
    >>> import kinfold
    >>> run = kinfold.cluster("photos/", n_clusters=10)  # doctest: +SKIP
    """
    workers = current_workers()
    team = Team(workers)
    if not workers.is_first:
        return Run.open(team.follow(source))
    with team.leading():
        prepared = prepare_method(
            method, n_clusters, random_state, device, precision, n_neighbors, method_parameters, preset
        )
        opened = resolve_source(source, source_options)
        check_n_samples(n_clusters, opened.n_rows, "image", opened.uri)
        out = Path(out) if out is not None else default_out(opened)
        loaded = None
        if opened.images is not None:
            loaded = as_backbone(backbone, device, precision)
            loaded.check_variants([variant])
        guide = prepare_guide(prepared, nouns, text_model, opened, loaded, variant, device, precision)
        with open_stages(out, opened, variant) as stages:
            work = Work(stages, opened, prepared, variant, device, n_workers, progress, team, guide)
            _announce(work, loaded, on_estimate)
            features = opened.features if loaded is None else work.embed(loaded)
            assert features is not None
            check_n_samples(n_clusters, len(features.rows), "usable image", opened.uri)
            work.fit(features, None if loaded is None else as_spec(backbone))
            work.assign(features)
            if report:
                work.report()
        team.finish(out.absolute())
    run = Run.open(out)
    _mind_corrections(run)
    return run


def _mind_corrections(run: Run) -> None:
    """Warn where corrections of groups that are gone lie in the run."""
    if not (run.path / CORRECTIONS_NAME).exists():
        return
    try:
        Corrections.open(run, write=False).close()
    except FormatError as error:
        logger.warning("%s", error)


def _announce(work: Work, backbone: Backbone | None, on_estimate: Callable[[Estimate], None] | None) -> None:
    """Tell what the work is expected to take, and refuse what won't fit on the disk."""
    expected = estimate_work(
        work.source,
        work.method,
        work.variant,
        backbone,
        device=work.device,
        n_workers=work.n_workers,
        done=work.find_done(backbone),
        guide=work.guide,
    )
    logger.info("%s", expected)
    if on_estimate is not None:
        on_estimate(expected)
    check_disk(expected, work.stages.path)
