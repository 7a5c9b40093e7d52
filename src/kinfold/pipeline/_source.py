"""What a command starts from: images or features, and the backbone that embeds images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from kinfold.backbones import (
    AUTO_BACKBONES,
    DEFAULT_BACKBONE,
    Backbone,
    list_cards,
    load_backbone,
    usable_engines,
)
from kinfold.compute import Runtime
from kinfold.errors import FormatError, InputError
from kinfold.features import ArrayFeatures, Features, FeatureStore, is_features, open_features
from kinfold.features.store import StoreManifest, is_feature_store
from kinfold.images import ImageSource, PathTableSource, open_source

# Any: lists, frames, arrays and more, which kinfold.pipeline._given knows one by one
# An engine other than PyTorch takes seconds to start and saves milliseconds of every image.
_WORTH_AN_ENGINE = 500

SourceLike: TypeAlias = str | Path | ImageSource | Features | Any


@dataclass(frozen=True)
class Source:
    """Either images or features, opened.

    Attributes
    ----------
    images : ImageSource or None
        Where the images are; None if only features are known.
    features : Features or None
        Ready features; None if images are still to be embedded.
    options : Mapping
        How the source was opened (``path_column=…``), for whoever opens it again.
    """

    images: ImageSource | None
    features: Features | None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """Absolute path of the source, or the pattern that finds it."""
        if self.features is not None:
            return str(Path(self.features.path).absolute())
        assert self.images is not None
        return self.images.uri

    @property
    def kind(self) -> str:
        """Return "features", or the kind of image source."""
        return "features" if self.images is None else self.images.kind

    @property
    def n_rows(self) -> int:
        """Rows of the source, unusable ones counted."""
        if self.features is not None:
            return self.features.n_rows
        assert self.images is not None
        return len(self.images)

    def _describe_images_beside(self) -> dict[str, Any]:
        """Return how images that stand in one table with ready features are opened."""
        if not isinstance(self.features, ArrayFeatures) or not self.features.image_options:
            return {}
        return {"image_options": self.features.image_options}

    def fingerprint(self, variant: str) -> str:
        """Return a hash that changes when what is in the source does."""
        if self.features is not None:
            return self.features.fingerprint(variant)
        assert self.images is not None
        return self.images.fingerprint()

    def describe(self, variant: str) -> dict[str, Any]:
        """Return what the manifest records of the source."""
        images = self.features.source_uri if self.features is not None else self.uri
        return {
            "kind": self.kind,
            "uri": self.uri,
            "images": images,
            "options": dict(self.options),
            **self._describe_images_beside(),
            "n_rows": self.n_rows,
            "fingerprint": self.fingerprint(variant),
        }


def resolve_source(source: SourceLike, options: Mapping[str, Any] | None = None) -> Source:
    """Open what the user named: an image source or features, by path or already open.

    Raises
    ------
    InputError
        There is nothing that can be used, or options were given for something already open.
    """
    options = {name: value for name, value in (options or {}).items() if value is not None}
    if isinstance(source, ImageSource | Features):
        if options:
            raise InputError("source_options are for a source given by its path; this one is open already")
        if isinstance(source, ImageSource):
            return Source(source, None)
        return Source(None, source)
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"source is a {type(source).__name__}; give a path, an ImageSource or Features. "
            "An array of features can be saved as .npy and given by its path, or fitted directly by "
            "kinfold.SphericalKMeans or kinfold.TEMI"
        )
    source = Path(source) if isinstance(source, os.PathLike) else source
    if not str(source).strip():
        raise InputError("source is empty; give the path of images or features")
    # A table may hold images beside the vectors: naming a column of vectors says that these are meant.
    if is_features(source) or "column" in options:
        _refuse_options(source, options, {"column"})
        return Source(None, open_features(source, **options), options)
    _refuse_options(source, options, {"path_column", "image_column", "key_column", "base"})
    images = open_source(source, **options)
    if isinstance(images, PathTableSource) and images.base != os.path.dirname(images.uri):
        # Found from the current folder, perhaps: whoever opens the run elsewhere needs to know.
        options = {**options, "base": images.base}
    return Source(images, None, options)


def default_out(source: Source) -> Path:
    """Return ``<source name>.kinfold`` in the current folder."""
    # The deepest part that is there: "photos" of photos/**/*.jpg, "trip [2023]" of trip [2023]/*.jpg.
    place = Path(source.uri)
    while not place.exists() and place != place.parent:
        place = place.parent
    name = place.name or "run"
    if not place.is_dir():
        name = place.stem.removesuffix(".tar") or name
    return Path.cwd() / f"{name}.kinfold"


def _refuse_options(source: str | Path, options: Mapping[str, Any], known: set[str]) -> None:
    for name in options:
        if name not in known:
            raise InputError(f"{name} doesn't apply to {source}; what applies is {', '.join(sorted(known))}")


def as_backbone(
    backbone: str | Path | Backbone, runtime: Runtime, store: Path | None = None, n_images: int = 0
) -> Backbone:
    """Load a backbone, unless it is loaded already.

    Parameters
    ----------
    backbone : str, path or Backbone
        What the user gave.
    runtime : Runtime
        Where to load it.
    store : Path, optional
        Where features are to be written. ``"auto"`` stays with the backbone of those that are there, so that
        nothing is made anew because the hub can be reached today, or can't; and as engine it goes on with the
        one that an unfinished store was begun with.
    n_images : int, default 0
        How many are to be embedded: a few aren't worth the seconds that an engine takes to start.
    """
    if isinstance(backbone, Backbone):
        return backbone
    begun = _read_begun(store)
    if backbone == DEFAULT_BACKBONE and begun is not None:
        backbone = _recorded_backbone(begun) or backbone
    engine = choose_engine(runtime.engine, n_images)
    if runtime.engine == "auto" and begun is not None:
        engine = _recorded_engine(begun) or engine
    return load_backbone(backbone, device=runtime.device, precision=runtime.wanted_precision, engine=engine)


def choose_engine(engine: str, n_images: int) -> str:
    """Return what runs the network: "auto" is PyTorch where there are too few images to start another."""
    return "torch" if engine == "auto" and n_images < _WORTH_AN_ENGINE else engine


def _recorded_engine(begun: StoreManifest) -> str | None:
    """Return the engine that an unfinished feature store was begun with, if it is still installed."""
    engine = begun.backbone.get("engine")
    return engine if not begun.complete and engine in usable_engines() else None


def _recorded_backbone(begun: StoreManifest) -> str | None:
    """Return which of the backbones that "auto" may mean made a feature store; None for any other."""
    try:
        name = begun.backbone["card"]["name"]
    except (KeyError, TypeError):
        return None
    return name if name in AUTO_BACKBONES else None


def _read_begun(store: Path | None) -> StoreManifest | None:
    """Return the manifest of a feature store; None where there is none, or none that can be read."""
    if store is None or not is_feature_store(store):
        return None
    try:
        return StoreManifest.read(store)
    except (FormatError, InputError):
        return None  # whoever opens it says what is wrong


def as_spec(backbone: str | Path | Backbone, loaded: Backbone) -> str | None:
    """Return what loads this backbone again, from any folder; None if it was loaded by someone else."""
    if isinstance(backbone, Backbone):
        return None
    if backbone == DEFAULT_BACKBONE:
        return loaded.card.name
    return str(Path(backbone).absolute()) if Path(backbone).is_dir() else str(backbone)


def describe_backbone(features: Features, spec: str | None) -> dict[str, Any] | None:
    """Return what embeds later images in the same way; None for features of unknown origin.

    Parameters
    ----------
    features : Features
        A feature store knows its backbone.
    spec : str or None
        What ``load_backbone`` was given; None takes the card's name or source.
    """
    if not isinstance(features, FeatureStore):
        return None
    described = features.manifest.backbone
    card = described.get("card", {})
    known = {listed.name for listed in list_cards()}
    return {
        **described,
        "spec": spec or (card.get("name") if card.get("name") in known else card.get("source")),
        "fingerprint": features.manifest.backbone_fingerprint,
        "batch_size": features.manifest.batch_size,
    }
