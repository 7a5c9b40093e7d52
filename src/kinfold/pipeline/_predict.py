"""Groups for images that come later, by a finished run's model; where such tables may be written."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from kinfold.backbones import Backbone
from kinfold.bars import choose_progress
from kinfold.compute import Runtime
from kinfold.errors import InputError, count_of
from kinfold.exports import (
    check_link,
    check_predicted_place,
    export_predicted,
    is_csv_of,
    take_out,
    write_csv_file,
)
from kinfold.features import Features, FeatureStore, extract_features
from kinfold.images import ImageSource, open_source
from kinfold.levels import Placing
from kinfold.methods import TopClusters
from kinfold.pipeline._corrected import CorrectedGroups
from kinfold.pipeline._given import given_source
from kinfold.pipeline._source import SourceLike, choose_engine, resolve_source
from kinfold.progress import SILENT, Progress
from kinfold.run import (
    NAMED_PREDICTIONS_SCHEMA,
    SKIPPED_SCHEMA,
    Run,
    add_levels,
    add_typicality,
    is_predictions,
    is_skipped,
    join_pictures,
    lock_directory,
    make_predictions,
    write_skipped,
    write_table,
)
from kinfold.storage import PARTIAL_PREFIX, check_own, check_place, hash_json, hold_output
from kinfold.typicality import Typicality, check_strays
from kinfold.validation import check_choice

logger = logging.getLogger(__name__)

_OTHER_FORMATS = (".csv", ".json", ".jsonl", ".tsv", ".txt")  # suffixes that would hide a Parquet file
PREDICTED_FORMS = ("parquet", "csv", "folders")


def predict(
    run: Run | str | Path,
    source: SourceLike,
    out: str | Path | None = None,
    *,
    to: str | None = None,
    levels: Sequence[int] = (),
    strays: float | None = None,
    backbone: str | Path | Backbone | None = None,
    device: str = "auto",
    engine: str = "auto",
    n_workers: int | None = None,
    source_options: Mapping[str, Any] | None = None,
    link: str = "auto",
    force: bool = False,
    verbose: bool = False,
    progress: Progress = SILENT,
) -> pa.Table:
    """Put new images into the groups of a finished run, at the level that it shows, as people corrected them.

    Neither the features nor the images of the run are needed, unless groups were split: then the features
    tell the parts apart. Images are embedded as those of the run were: same backbone, preprocessing, variant
    and batch size. The images of the run themselves get the groups they have, but for what was moved by hand.

    Parameters
    ----------
    run : Run or path
        A finished run.
    source : path, ImageSource, Features, or images or vectors in memory
        New images, or their features made with the same backbone and variant; see :func:`~kinfold.cluster`.
    out : path, optional
        What to write, outside the run; by default ``predictions.parquet``, ``predictions.csv`` or the folder
        ``predictions`` in the current folder. A table has the columns row, key, cluster, confidence, name
        (null for a group without) and typicality: the share of the group's images that are less typical, in
        (0, 1), null in runs that don't know it. Earlier predictions are replaced, any other file is left
        alone. Images that could not be used are listed in ``<out stem>.skipped.parquet`` (or ``.csv``) beside
        it, if there are any.
    to : {"parquet", "csv", "folders"}, optional
        What to write: a table, or a folder for each group with the images in it. By default what the suffix
        of ``out`` says, else Parquet.
    levels : sequence of int, default none
        Numbers of groups of further levels: the table gets a column ``level_K`` (int32) for each, from coarse
        to fine, with the groups there before any correction. Folders get one for each around those of the
        run's groups.
    strays : float, optional
        Images less typical than this share of their group fit none: their cluster is −1. It is the rate of
        false alarms: of new images of the run's own kinds about so many are taken for strays.
    backbone : str, path or Backbone, optional
        Where the run's backbone is now, if it was moved; by default it is loaded from where it was.
    device : str, default "auto"
        Where to compute.
    engine : {"auto", "torch", "onnxruntime", "openvino"}, default "auto"
        What runs the network on a CPU, as for :func:`~kinfold.cluster`. In bfloat16 "auto" is the run's own.
    n_workers : int, optional
        Processes that decode; by default as many as there are cores.
    source_options : Mapping, optional
        For tables: ``path_column``, ``image_column``, ``key_column``; for features in Parquet: ``column``.
    link : {"auto", "hard", "symlink", "copy"}, default "auto"
        How image files get into folders, as for :func:`~kinfold.export`.
    force : bool, default False
        Replace earlier folders of predictions.
    verbose : bool, default False
        Show bars, in a terminal or a notebook.
    progress : Progress
        Shows the work; wins over ``verbose``.

    Returns
    -------
    pyarrow.Table
        The predictions, as the table has them.

    Raises
    ------
    InputError
        The source can't be used, its features are of another backbone, variant or dimension, or ``out`` is
        something else than earlier predictions.
    FormatError
        The model or the corrections of the run are damaged.
    """
    run = Run.latest(run)
    placing = Placing.of(run, levels)
    check_strays(run, strays)
    form, out = find_predictions_place(out, to)
    if form == "folders":
        check_link(link)
        check_predicted_place(run, out, force=force)
        _check_skipped_place(out, form)
    else:
        check_predictions_place(run, out, form)
    runtime = Runtime.resolve(
        device, n_workers=n_workers, progress=choose_progress(progress, verbose), engine=engine
    )
    groups = CorrectedGroups.of(run)
    model = run.load_model(device=str(runtime.device))  # before long work: it may be damaged
    with given_source(source, source_options) as given:
        opened = resolve_source(given.source, given.options)
        pictures = opened.images
        if form == "folders" and pictures is None:
            assert opened.features is not None
            pictures = find_pictures(opened.features)
        writing = _Writing(groups, placing, out, form, pictures, link, force, strays, runtime)
        if opened.features is not None:
            _check_features(run, opened.features)
            opened.features.verify(run.manifest.features["variant"])
            return writing.write(model, opened.features)
        assert opened.images is not None
        loaded = run.backbone(
            backbone, device=str(runtime.device), engine=choose_engine(engine, opened.n_rows)
        )
        with embedded_beside(
            out,
            opened.images,
            loaded,
            run.manifest.features["variant"],
            runtime,
            # As for the run: the size of a batch changes the last bits of a vector, and with them a close
            # group.
            batch_size=(run.manifest.backbone or {})["batch_size"],
        ) as features:
            _check_features(run, features)
            return writing.write(model, features)


def find_predictions_place(out: str | Path | None, to: str | None) -> tuple[str, Path]:
    """Return what to write and where: the form by ``to`` or the suffix of ``out``.

    Raises
    ------
    InputError
        There is no such form, or the suffix is one of another.
    """
    if to is not None:
        check_choice(PREDICTED_FORMS, to=to)
    suffix = "" if out is None else Path(out).suffix.lower()
    form = to or ("csv" if suffix == ".csv" else "parquet")
    if out is None:
        return form, Path("predictions" if form == "folders" else f"predictions.{form}")
    wrong = {"csv": suffix != ".csv", "parquet": suffix in _OTHER_FORMATS, "folders": False}[form]
    if wrong:
        raise InputError(f"{out} would be {form} by another name; let it end in .{form} (out=, --out)")
    return form, Path(out)


def find_pictures(features: Features) -> ImageSource:
    """Return the images that features were made from.

    Raises
    ------
    InputError
        They aren't known, or no longer there.
    """
    if features.source_uri is None:
        raise InputError(
            f"folders need the images, and {features.path} doesn't say where they are; give the images "
            "themselves, or write a table (to='csv', --to csv)"
        )
    images = open_source(features.source_uri)
    return join_pictures(images, features.keys, str(features.path))


@dataclass(frozen=True)
class _Writing:
    """What is made of predictions."""

    groups: CorrectedGroups
    placing: Placing
    out: Path
    form: str
    images: ImageSource | None
    link: str
    force: bool
    strays: float | None
    runtime: Runtime

    def write(self, model: Any, features: Features) -> pa.Table:
        """Predict, and write the predictions."""
        matrix = features.matrix(self.groups.run.manifest.features["variant"])
        top = self.placing.place(model, matrix)
        clusters = self.groups.assign(top.clusters[:, 0], matrix)
        top = TopClusters(clusters[:, None], top.probabilities)
        names = self.groups.names
        listed = [names.get(group) or None for group in range(max(names, default=-1) + 1)]
        keys = features.keys.take(pa.array(features.rows))
        table = make_predictions(features.rows, keys, top, listed)
        known = Typicality.of(self.groups.run, self.groups.labels)
        device = str(self.runtime.device)
        typicality = None if known is None else known.shares(matrix, clusters, device=device)
        if typicality is not None and self.strays is not None:
            table = take_out(table, typicality < self.strays)
        table = add_typicality(table, typicality)
        table = add_levels(table, self.placing.columns(model, matrix))
        with hold_output(self.out):
            if self.form != "folders":  # an export looks again by itself
                check_predictions_place(self.groups.run, self.out, self.form)
            # The list of skipped images first: whoever finds the predictions finds what is missing in them.
            tell_skipped(self.out, features, self.form)
            if self.form == "folders":
                self._fill_folders(table, names)
            elif self.form == "csv":
                write_csv_file(table, self.out)
            else:
                write_table(self.out, table)
        logger.info("the predictions are in %s", self.out.absolute())
        return table

    def _fill_folders(self, table: pa.Table, names: Mapping[int, str]) -> None:
        assert self.images is not None
        missing = export_predicted(
            self.groups.run,
            table,
            names,
            self.images,
            self.out,
            version=self.groups.state.version,
            link=self.link,
            force=self.force,
            progress=self.runtime.progress,
        )
        if missing:
            logger.warning(
                "%s could not be found again and %s in no folder: see missing.csv",
                count_of(len(missing), "image"),
                "is" if len(missing) == 1 else "are",
            )


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


def check_predictions_place(run: Run, out: Path, form: str = "parquet") -> None:
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
    if form == "csv":
        _check_csv_place(out)
    else:
        check_table_place(out, is_predictions, "predict")


def _check_csv_place(out: Path) -> None:
    if out.is_dir():
        raise InputError(
            f"{out} is a folder; give the CSV file to write, or write folders (to=, --to folders)"
        )
    check_place(out)
    _refuse_others(out, lambda file: is_csv_of(file, NAMED_PREDICTIONS_SCHEMA.names), "predict")
    _check_skipped_place(out, "csv")


def _check_skipped_place(out: Path, form: str) -> None:
    def is_ours(file: Path) -> bool:
        return is_csv_of(file, SKIPPED_SCHEMA.names) if form == "csv" else is_skipped(file)

    _refuse_others(skipped_path(out, form), is_ours, "predict")


def _refuse_others(file: Path, is_ours: Callable[[Path], bool], command: str) -> None:
    if (file.exists() or file.is_symlink()) and not is_ours(file):
        raise InputError(
            f"{file} exists and wasn't written by `kinfold {command}`; it was left as it is. "
            "Choose another name (out=, --out)"
        )


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
    _refuse_others(out, is_ours, command)
    _refuse_others(skipped_path(out), is_skipped, command)


def skipped_path(out: Path, form: str = "parquet") -> Path:
    """Return the file that lists the images which could not be used for the predictions ``out``."""
    return out.with_name(f"{out.stem}.skipped.{'csv' if form == 'csv' else 'parquet'}")


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


def tell_skipped(out: Path, features: Features, form: str = "parquet") -> None:
    """Write the list of images that could not be used beside ``out``, or remove that of an earlier result."""
    skipped, n_skipped = skipped_path(out, form), features.skipped.num_rows
    if n_skipped:
        if form == "csv":
            write_csv_file(features.skipped.select(SKIPPED_SCHEMA.names), skipped)
        else:
            write_skipped(skipped, features.skipped)
        were = "was" if n_skipped == 1 else "were"
        logger.warning(
            "%d of %s %s skipped; see %s", n_skipped, count_of(features.n_rows, "image"), were, skipped
        )
    else:
        skipped.unlink(missing_ok=True)
