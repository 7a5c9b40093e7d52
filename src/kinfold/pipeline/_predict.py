"""Groups for images that come later, by a finished run's model; where such tables may be written."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from kinfold.backbones import Backbone
from kinfold.compute import Runtime
from kinfold.errors import InputError, count_of
from kinfold.features import Features, FeatureStore, extract_features
from kinfold.images import ImageSource
from kinfold.methods import predict_top
from kinfold.pipeline._source import SourceLike, resolve_source
from kinfold.progress import SILENT, Progress
from kinfold.run import Run, is_predictions, is_skipped, lock_directory, write_predictions, write_skipped
from kinfold.storage import PARTIAL_PREFIX, check_own, check_place, hash_json, hold_output

logger = logging.getLogger(__name__)

_OTHER_FORMATS = (".csv", ".json", ".jsonl", ".tsv", ".txt")  # suffixes that would hide a Parquet file


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
    runtime = Runtime.resolve(device, n_workers=n_workers, progress=progress)
    model = run.load_model(device=str(runtime.device))  # before long work: it may be damaged
    opened = resolve_source(source, source_options)
    if opened.features is not None:
        _check_features(run, opened.features)
        opened.features.verify(run.manifest.features["variant"])
        return _write(run, model, opened.features, out)
    assert opened.images is not None
    loaded = run.backbone(backbone, device=str(runtime.device))
    return _predict_images(run, model, opened.images, out, loaded, runtime)


def _predict_images(
    run: Run,
    model: Any,
    images: ImageSource,
    out: Path,
    backbone: Backbone,
    runtime: Runtime,
) -> pa.Table:
    """Embed as the run's images were, and predict."""
    with embedded_beside(
        out,
        images,
        backbone,
        run.manifest.features["variant"],
        runtime,
        # As for the run: the size of a batch changes the last bits of a vector, and with them a close group.
        batch_size=(run.manifest.backbone or {})["batch_size"],
    ) as features:
        _check_features(run, features)
        return _write(run, model, features, out)


def _write(run: Run, model: Any, features: Features, out: Path) -> pa.Table:
    matrix = features.matrix(run.manifest.features["variant"])
    top = predict_top(model, matrix, n_top=1)
    nouns = [run.names[cluster].noun for cluster in range(run.n_clusters)] if run.names else None
    with hold_output(out):
        check_predictions_place(run, out)  # again: it may have been written to meanwhile
        # The list of skipped images first: whoever finds the predictions finds also what is missing in them.
        tell_skipped(out, features)
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


def check_predictions_place(run: Run, out: Path) -> None:
    """Refuse to write predictions over anything but earlier predictions, or into the run itself.

    Raises
    ------
    InputError
        ``out``, or the list of skipped images beside it, is something else.
    """
    home = run.path.resolve()
    if not out.is_dir() and any(
        place.is_relative_to(home) for place in (out.resolve(), out.parent.resolve())
    ):
        raise InputError(
            f"{out} is inside the run {run.path}; write predictions to another folder (out=, --out)"
        )
    check_table_place(out, is_predictions, "predict")


def check_table_place(out: Path, is_ours: Callable[[Path], bool], command: str) -> None:
    """Refuse to write a table, and a list of skipped images beside it, over anything but earlier ones.

    Raises
    ------
    InputError
        There is something else.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder; give the Parquet file to write (out=, --out)")
    if out.suffix.lower() in _OTHER_FORMATS:
        raise InputError(
            f"{out} would be a Parquet file by another name; let it end in .parquet (out=, --out)"
        )
    check_place(out)
    for file, is_known in ((out, is_ours), (skipped_path(out), is_skipped)):
        if (file.exists() or file.is_symlink()) and not is_known(file):
            raise InputError(
                f"{file} exists and wasn't written by `kinfold {command}`; it was left as it is. "
                "Choose another name (out=, --out)"
            )


def skipped_path(out: Path) -> Path:
    """Return the file that lists the images which could not be used for the predictions ``out``."""
    return out.with_name(f"{out.stem}.skipped.parquet")


@contextmanager
def embedded_beside(
    out: Path,
    images: ImageSource,
    backbone: Backbone,
    variant: str,
    runtime: Runtime,
    *,
    batch_size: int | None = None,
) -> Iterator[Features]:
    """Yield features from a temporary store next to an output file.

    It is removed once the body has written that file. The name of the folder has a hash of what is embedded,
    so that a repeated call resumes it and one with other images doesn't.

    Parameters
    ----------
    out : Path
        The file that is written meanwhile.
    images : ImageSource
        What is embedded.
    backbone : Backbone
        By what.
    variant : str
        Which vectors.
    runtime : Runtime
        Processes that decode, and who is told how far it is.
    batch_size : int or None
        Images per batch; None lets the backbone find it.
    """
    made_of = hash_json([images.fingerprint(), backbone.fingerprint(), variant])
    home = out.with_name(f"{PARTIAL_PREFIX}{out.name}-{made_of[:12]}")
    if home.is_symlink():
        raise InputError(f"{home} is a link, but is written to as a folder; remove it")
    with lock_directory(home, create=True):
        check_own(home)
        yield extract_features(
            images,
            backbone,
            home / "features",
            variants=(variant,),
            batch_size=batch_size,
            n_workers=runtime.n_workers,
            progress=runtime.progress,
        )
        shutil.rmtree(home / "features")
    if home.is_dir() and not any(home.iterdir()):  # it was there before, with what a killed process had done
        home.rmdir()


def tell_skipped(out: Path, features: Features) -> None:
    """Write the list of images that could not be used beside ``out``, or remove that of an earlier result."""
    skipped, n_skipped = skipped_path(out), features.skipped.num_rows
    if n_skipped:
        write_skipped(skipped, features.skipped)
        were = "was" if n_skipped == 1 else "were"
        logger.warning(
            "%d of %s %s skipped; see %s", n_skipped, count_of(features.n_rows, "image"), were, skipped
        )
    else:
        skipped.unlink(missing_ok=True)
