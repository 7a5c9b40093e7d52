"""A run's images in a space where words lie too: the run's own features, or others made beside them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.backbones import Backbone, load_backbone
from kinfold.errors import InputError, count_of
from kinfold.features import Features, extract_features
from kinfold.images import ImageSource
from kinfold.language import TextEncoder
from kinfold.pipeline._text import find_text_spec, open_text_encoder
from kinfold.progress import Progress
from kinfold.rows import RowMatrix
from kinfold.run import Run

logger = logging.getLogger(__name__)

LANGUAGE_FEATURES_NAME = "language-features"
_JOINT_VARIANT = "cls"  # the one that towers project into the joint space
_ADVICE = (
    "Groups of any run of images can be named: give a vision-language model, for instance "
    "--text-model clip-vit-b32 or a model's directory, and the images are embedded with it beside the run"
)
_compute: Any = pc  # its functions have no types


@dataclass(frozen=True)
class JointSpace:
    """Where a run's images and words meet.

    Attributes
    ----------
    run : Run
        The run.
    encoder : TextEncoder
        The text tower.
    source : path or None
        Where the images, or the ready features, are now.
    images : ImageSource or None
        What is embedded beside the run; None where its own features serve.
    backbone : Backbone or None
        What embeds it.
    """

    run: Run
    encoder: TextEncoder
    source: str | Path | None = None
    images: ImageSource | None = None
    backbone: Backbone | None = None

    def describe(self) -> dict[str, Any]:
        """Return what the manifest records, JSON-ready."""
        return {
            "text_encoder": self.encoder.describe(),
            "features": "own" if self.backbone is None else LANGUAGE_FEATURES_NAME,
            "backbone_fingerprint": None if self.backbone is None else self.backbone.fingerprint(),
        }

    @property
    def images_at(self) -> str | Path | None:
        """Where the images are, if they were moved."""
        return None if _is_features(self.run, self.source) else self.source

    def read(self, n_workers: int | None, progress: Progress) -> tuple[RowMatrix, NDArray[np.int64], str]:
        """Return the images' features, the group of each (−1 for none), and the features' fingerprint.

        Images are embedded into RUN/language-features, from where an earlier call was interrupted.
        """
        if self.backbone is None:
            moved = self.source if _is_features(self.run, self.source) else None
            features, variant = self.run.features(moved), self.run.manifest["features"]["variant"]
        else:
            assert self.images is not None
            variant = _JOINT_VARIANT
            features = extract_features(
                self.images,
                self.backbone,
                self.run.path / LANGUAGE_FEATURES_NAME,
                variants=(variant,),
                n_workers=n_workers,
                progress=progress,
            )
        return features.matrix(variant), _labels_of(self.run, features), features.fingerprint(variant)


def find_joint_space(
    run: Run, text_model: str | Path | None, source: str | Path | None, device: str, precision: str
) -> JointSpace:
    """Find out where the run's images and words can meet, and load what is needed for it.

    Parameters
    ----------
    run : Run
        A finished run.
    text_model : str, path or None
        A vision-language model; None takes the one that made the run's features.
    source : path or None
        Where the images, or the features, are now.
    device, precision : str
        As for :func:`~kinfold.backbones.load_backbone`.

    Raises
    ------
    InputError
        The run's features don't lie in a joint space and no model, or no images, are given to mend that.
    """
    own = run.manifest["features"]
    dim, variant, recorded = int(own["dim"]), own["variant"], run.manifest.get("backbone") or {}
    guided = ((run.manifest.get("language") or {}).get("text_encoder") or {}).get("spec")

    def serve_itself(spec: str) -> JointSpace:
        encoder = open_text_encoder(spec, dim=dim, device=device, precision=precision)
        return JointSpace(run, encoder, source)

    if text_model is None:
        try:
            return serve_itself(guided or find_text_spec(None, recorded, str(run.path)))
        except InputError as error:
            raise InputError(f"{error}. {_ADVICE}") from error
    spec = find_text_spec(text_model, None, str(run.path))
    if variant == _JOINT_VARIANT and spec in (guided, recorded.get("spec")):
        return serve_itself(spec)
    images = run.images(None if _is_features(run, source) else source)
    if images is None:
        return serve_itself(spec)
    backbone = load_backbone(spec, device=device, precision=precision)
    if variant == _JOINT_VARIANT and backbone.fingerprint() == recorded.get("fingerprint"):
        return serve_itself(spec)
    width = int(backbone.variants[_JOINT_VARIANT])
    encoder = open_text_encoder(spec, dim=width, device=device, precision=precision)
    return JointSpace(run, encoder, source, images, backbone)


def _is_features(run: Run, source: str | Path | None) -> bool:
    """Tell whether ``source`` says where features are: so it is for runs that know of no images."""
    return source is not None and run.manifest["source"].get("images") is None


def _labels_of(run: Run, features: Features) -> NDArray[np.int64]:
    """Return the group of every line of the features, matched by key; −1 where the run has no such image."""
    keys = features.keys.take(pa.array(features.rows))
    ours = run.assignments["key"].combine_chunks()
    if len(keys) == len(ours) and keys.equals(ours):
        return run.labels.astype(np.int64)
    places = _compute.fill_null(_compute.index_in(keys, value_set=ours), -1)
    places = np.asarray(places.to_numpy(zero_copy_only=False), np.int64)
    n_missing = len(ours) - len(np.unique(places[places >= 0]))
    if n_missing == len(ours):
        raise InputError(f"none of the images of {run.path} is at {features.path}: the keys are other ones")
    if n_missing:
        logger.warning("%s of the run can't be read here and don't count", count_of(n_missing, "image"))
    return np.where(places >= 0, run.labels[places], -1).astype(np.int64)
