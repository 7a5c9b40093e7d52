"""Zero-shot classification: images into classes by the names of these alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinfold.backbones import Backbone
from kinfold.compute import Runtime
from kinfold.errors import InputError, nearest_name
from kinfold.features import Features
from kinfold.hierarchy import load_wordnet
from kinfold.labels import name_source, read_labels
from kinfold.language import (
    TextEncoder,
    ZeroShotClassifier,
    choose_lemmas_by_labels,
    embed_classes,
    read_words,
)
from kinfold.methods import TopClusters
from kinfold.pipeline._given import given_source
from kinfold.pipeline._language import WORDNET, open_text_encoder_of
from kinfold.pipeline._predict import check_table_place, embedded_beside, tell_skipped
from kinfold.pipeline._source import SourceLike, as_backbone, resolve_source
from kinfold.progress import SILENT, Progress
from kinfold.run import is_predictions, write_predictions
from kinfold.storage import hold_output

DEFAULT_BACKBONE = "clip-vit-b32"  # the fastest CLIP of the catalogue
VARIANT = "cls"  # the one that lies in the joint space
_SYNSET = re.compile(r"n\d{8}")  # an id of WordNet's nouns


@dataclass(frozen=True)
class ZeroShot:
    """What was found by names alone.

    Attributes
    ----------
    table : pyarrow.Table
        What was written: row, key, cluster (number of the class), confidence, name.
    classes : tuple of str
        The classes as they were given.
    texts : tuple of str
        What was read for each: its name, or the lemma of a synset.
    accuracy : float or None
        Share of labeled images that were put into their class; None without labels.
    n_labeled : int
        Images that have a label: what the accuracy is about.
    """

    table: pa.Table
    classes: tuple[str, ...]
    texts: tuple[str, ...]
    accuracy: float | None
    n_labeled: int


def zero_shot(
    source: SourceLike,
    classes: str | Path | Sequence[str],
    out: str | Path,
    *,
    backbone: str | Path | Backbone = DEFAULT_BACKBONE,
    text_model: str | Path | None = None,
    labels: str | Path | Mapping[Any, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    n_workers: int | None = None,
    source_options: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
) -> ZeroShot:
    """Put every image into the class whose name is closest to it in the space of a vision-language model.

    Nothing is learned from the images. A killed call is resumed by the same one.

    Parameters
    ----------
    source : path, ImageSource, Features, or images or vectors in memory
        Images, or features of them: a feature store, or a file or vectors with ``text_model``; see
        :func:`~kinfold.cluster`.
    classes : path or sequence of str
        Names of two classes or more, none twice, or a file with one per line. Ids of WordNet (``n02084071``)
        among them are called by their first lemma; with ``labels`` by the one that most of their own images
        are closest to.
    out : path
        The Parquet file to write: row, key, cluster (number of the class, from 0), confidence, name
        (the class). An
        earlier result is replaced, any other file is left alone.
    backbone : str, path or Backbone, default "clip-vit-b32"
        What embeds images; not used for features.
    text_model : str or path, optional
        What reads the names, where it isn't the text tower of the backbone.
    labels : path, "folder" or Mapping, optional
        Known classes of images, as :func:`evaluate` takes them, in the words of ``classes``: for the accuracy
        and for the choice of lemmas.
    device, precision : str, default "auto"
        Where and how exactly to compute.
    n_workers : int, optional
        Processes that decode.
    source_options : Mapping, optional
        For tables: ``path_column``, ``image_column``, ``key_column``; for features in Parquet: ``column``.
    progress : Progress
        Shows the work.

    Returns
    -------
    ZeroShot

    Raises
    ------
    InputError
        The source, the classes or the labels can't be used, or ``out`` is something else.
    HubUnavailableError
        The model's files are neither cached nor to be had.
    """
    out, names = Path(out), _read_classes(classes)
    check_table_place(out, is_predictions, "zeroshot")
    runtime = Runtime.resolve(device, precision, n_workers=n_workers, progress=progress)
    with given_source(source, source_options) as given:
        opened = resolve_source(given.source, given.options)
        loaded = as_backbone(backbone, runtime) if opened.images is not None else None
        encoder = open_text_encoder_of(opened, loaded, VARIANT, text_model, runtime)
        if loaded is None:
            assert opened.features is not None
            opened.features.verify(VARIANT)
            return _classify(opened.features, names, encoder, labels, out, progress)
        assert opened.images is not None
        with embedded_beside(out, opened.images, loaded, VARIANT, runtime) as features:
            return _classify(features, names, encoder, labels, out, progress)


def _read_classes(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    found = read_words(classes) if isinstance(classes, str | Path) else tuple(classes)
    if strange := [name for name in found if not isinstance(name, str)]:
        raise InputError(f"classes must be strings; got {strange[0]!r}")
    if len(found) < 2:
        raise InputError(f"zero-shot classification needs two classes or more; got {len(found)}")
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise InputError(f"the class {twice!r} is named twice; name each class once")
    wordnet = load_wordnet()
    if unknown := [name for name in found if _SYNSET.fullmatch(name) and name not in wordnet]:
        raise InputError(
            f"the class {unknown[0]!r} is no id of the nouns of {WORDNET}; correct it, or give the class "
            "by its words"
        )
    return found


def _classify(
    features: Features,
    classes: tuple[str, ...],
    encoder: TextEncoder,
    labels: str | Path | Mapping[Any, Any] | None,
    out: Path,
    progress: Progress,
) -> ZeroShot:
    X = features.matrix(VARIANT)
    keys = features.keys.take(pa.array(features.rows)).cast(pa.large_string())
    truth = None if labels is None else _find_truth(labels, keys, classes)
    texts, vectors = _embed(classes, encoder, X, truth, progress)
    classifier = ZeroShotClassifier(vectors, encoder.logit_scale, device=encoder.device)
    clusters, confidences = classifier.classify(X)
    top = TopClusters(clusters[:, None], confidences[:, None])
    with hold_output(out):
        check_table_place(out, is_predictions, "zeroshot")  # again: it may have been written to meanwhile
        tell_skipped(out, features)
        table = write_predictions(out, features.rows, keys, top, classes)
    known = np.zeros(0, bool) if truth is None else truth >= 0
    accuracy = None
    if truth is not None and known.any():
        accuracy = float((clusters[known] == truth[known]).mean())
    return ZeroShot(table, classes, texts, accuracy, int(known.sum()))


def _find_truth(
    labels: str | Path | Mapping[Any, Any], keys: pa.Array, classes: tuple[str, ...]
) -> NDArray[np.int64]:
    """Return the class of every image, −1 where it has no label."""
    rows = read_labels(labels, keys)
    known = np.append(rows.one_each(name_source(labels)), np.int32(-1))[rows.places_of(keys)]
    used = np.unique(known[known >= 0])
    number_of = {name: number for number, name in enumerate(classes)}
    if unknown := sorted({str(rows.values[code]) for code in used} - set(number_of)):
        raise InputError(
            f"the label {unknown[0]!r} is not among the classes, and labels must be written as "
            f"these are{nearest_name(unknown[0], list(classes))}"
        )
    if not len(used):
        raise InputError("none of the images has a label; the keys of the labels are not theirs")
    numbers = np.full(len(rows.values) + 1, -1, dtype=np.int64)
    numbers[used] = [number_of[str(rows.values[code])] for code in used]
    truth: NDArray[np.int64] = numbers[known]  # −1 is the last
    return truth


def _embed(
    classes: tuple[str, ...],
    encoder: TextEncoder,
    X: Any,
    truth: NDArray[np.int64] | None,
    progress: Progress,
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return what is read for every class, and its feature."""
    wordnet = load_wordnet()
    lemmas = [wordnet.lemmas(name) if name in wordnet else (name,) for name in classes]
    if truth is None:
        texts = tuple(several[0] for several in lemmas)
        return texts, embed_classes(encoder, texts, progress=progress)
    choice = choose_lemmas_by_labels(encoder, lemmas, X, truth, progress=progress)
    return choice.lemmas, choice.features
