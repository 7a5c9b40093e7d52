"""Groups for images that come later, by a finished run's model alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from kinfold.backbones import Backbone
from kinfold.errors import InputError
from kinfold.features import Features, FeatureStore
from kinfold.images import ImageSource
from kinfold.methods import load_model, predict_top
from kinfold.pipeline._beside import embedded_beside, tell_skipped
from kinfold.pipeline._place import check_predictions_place
from kinfold.pipeline._source import SourceLike, resolve_source
from kinfold.progress import SILENT, Progress
from kinfold.run import Run, write_predictions


def predict(
    run: Run | str | Path,
    source: SourceLike,
    out: str | Path,
    *,
    backbone: str | Path | Backbone | None = None,
    device: str = "auto",
    n_workers: int | None = None,
    source_options: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
) -> pa.Table:
    """Put new images into the groups of a finished run.

    Neither the features nor the images of the run are needed. Images are embedded as those of the run
    were: same backbone, preprocessing, variant and batch size. The images of the run themselves get the
    groups they have.

    Parameters
    ----------
    run : Run or path
        A finished run.
    source : path, ImageSource or Features
        New images, or their features made with the same backbone and variant.
    out : path
        The Parquet file to write, with the columns row, key, cluster, confidence, and name where the run has
        names, outside the run. Earlier predictions are replaced, any other file is left alone. Images that
        could not be used are listed in ``<out stem>.skipped.parquet`` beside it, if there are any.
    backbone : str, path or Backbone, optional
        Where the run's backbone is now, if it was moved; by default it is loaded from where it was.
    device : str, default "auto"
        Where to compute.
    n_workers : int, optional
        Processes that decode; by default as many as there are cores.
    source_options : Mapping, optional
        For tables: ``path_column``, ``image_column``, ``key_column``; for features in Parquet: ``column``.
    progress : Progress
        Shows the work.

    Returns
    -------
    pyarrow.Table
        What was written to ``out``.

    Raises
    ------
    InputError
        The source can't be used, its features are of another backbone, variant or dimension, or ``out`` is
        something else than earlier predictions.
    FormatError
        The model of the run is damaged.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    out = Path(out)
    check_predictions_place(run, out)
    model = load_model(run.path, device=device)  # before long work: it may be damaged
    opened = resolve_source(source, source_options)
    if opened.features is not None:
        _check_features(run, opened.features)
        return _write(run, model, opened.features, out)
    assert opened.images is not None
    loaded = run.backbone(backbone, device=device)
    return _predict_images(run, model, opened.images, out, loaded, n_workers, progress)


def _predict_images(
    run: Run,
    model: Any,
    images: ImageSource,
    out: Path,
    backbone: Backbone,
    n_workers: int | None,
    progress: Progress,
) -> pa.Table:
    """Embed as the run's images were, and predict."""
    with embedded_beside(
        out,
        images,
        backbone,
        run.manifest.features["variant"],
        batch_size=(run.manifest.backbone or {})["batch_size"],
        n_workers=n_workers,
        progress=progress,
    ) as features:
        _check_features(run, features)
        return _write(run, model, features, out)


def _write(run: Run, model: Any, features: Features, out: Path) -> pa.Table:
    matrix = features.matrix(run.manifest.features["variant"])
    top = predict_top(model, matrix, n_top=1)
    tell_skipped(out, features)
    nouns = [run.names[cluster].noun for cluster in range(run.n_clusters)] if run.names else None
    return write_predictions(out, features.rows, features.keys.take(pa.array(features.rows)), top, nouns)


def _check_features(run: Run, features: Features) -> None:
    """Refuse features that the run's model can't take, as far as that can be seen."""
    recorded = run.manifest.features
    variant = recorded["variant"]
    if variant not in features.variants:
        raise InputError(
            f"{features.path} has no variant {variant!r}, which {run.path} was made from; "
            f"it has {', '.join(features.variants)}"
        )
    if isinstance(features, FeatureStore) and run.manifest.backbone:
        expected, found = run.manifest.backbone, features.manifest
        if found.backbone_fingerprint != expected["fingerprint"]:
            raise InputError(
                f"{features.path} was made with the backbone {found.backbone['card']['name']}, which isn't "
                f"the one of {run.path} ({expected['card']['name']}), or has other weights, preprocessing "
                "or precision; embed the images with the same one"
            )
    dim = int(features.matrix(variant).shape[1])
    if dim != recorded["dim"]:
        raise InputError(
            f"the features at {features.path} have {dim} dimensions, but those of {run.path} have "
            f"{recorded['dim']}; embed the images with the same backbone and variant"
        )
