"""Images of a suite become features once, before any cell is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kinfold.benchmark._suite._entries import FeatureEntry, Suite
from kinfold.errors import InputError
from kinfold.progress import Progress

_STORES = "store"


def check_embeddings(suite: Suite) -> None:
    """Raise :class:`InputError` unless features are there, and images and their backbones can be had."""
    for entry in suite.features.values():
        try:
            for path in (entry.path, entry.test):
                if path is not None and not Path(path).exists():
                    raise InputError(f"there is nothing at {path}")
            if entry.images is not None:
                _check_images(entry)
        except ValueError as error:
            raise InputError(f"{suite.origin} [features.{entry.name}]: {error}") from error


def embed_images(suite: Suite, folder: Path, progress: Progress) -> Suite:
    """Embed what is given as images, or go on with it, and return the suite with the features' paths."""
    features = {
        name: entry if entry.images is None else _embed(entry, folder / _STORES, progress)
        for name, entry in suite.features.items()
    }
    return replace(suite, features=features)


def _check_images(entry: FeatureEntry) -> None:
    from kinfold.backbones import load_backbone
    from kinfold.images import open_source

    for source in (entry.images, entry.test_images):
        if source is not None:
            open_source(source)
    load_backbone(str(entry.backbone)).check_variants([entry.variant or "cls"])


def _embed(entry: FeatureEntry, folder: Path, progress: Progress) -> FeatureEntry:
    from kinfold.backbones import load_backbone
    from kinfold.features import extract_features
    from kinfold.images import open_source

    backbone = load_backbone(str(entry.backbone))
    variants = (entry.variant or "cls",)
    made: list[str | None] = []
    for source, name in ((entry.images, entry.name), (entry.test_images, f"{entry.name}-test")):
        if source is None:
            made.append(None)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        store = folder / name
        extract_features(open_source(source), backbone, store, variants=variants, progress=progress)
        made.append(str(store.absolute()))
    return replace(entry, path=made[0], test=made[1], images=None, test_images=None, backbone=None)
