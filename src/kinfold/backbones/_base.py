"""The interface that every backbone keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from kinfold.backbones._card import BackboneCard
from kinfold.errors import InputError, nearest_name


class Backbone(ABC):
    """A frozen map from images to vectors.

    ``transform`` runs in the loader's workers and turns a decoded RGB image into an array of a fixed shape;
    ``embed`` takes stacks of such arrays.

    Attributes
    ----------
    card : BackboneCard
        What it is.
    spec : str
        What :func:`load_backbone` was given, with absolute paths: it loads the same backbone again.
    variants : Mapping of str to int
        The vectors that it can give, with their dimensions.
    transform : callable
        Picklable; Pillow image → array.
    min_side : int or None
        The shorter side that decoding must keep, in pixels (JPEGs may be decoded at a smaller scale);
        None keeps all.
    """

    card: BackboneCard
    spec: str
    variants: Mapping[str, int]
    transform: Callable[[Image.Image], NDArray[Any]]
    min_side: int | None

    @abstractmethod
    def embed(self, images: NDArray[Any], variants: Sequence[str] = ("cls",)) -> dict[str, NDArray[Any]]:
        """Return the vectors of a batch.

        Parameters
        ----------
        images : array of shape (B, …)
            Stacked outputs of ``transform``.
        variants : sequence of str
            Which vectors; all come from one pass.

        Returns
        -------
        dict of str to array of shape (B, dim), float32
            One entry per variant.

        Raises
        ------
        InputError
            A variant is not offered.
        """

    @abstractmethod
    def find_batch_size(self) -> int:
        """Return the number of images to embed at once: the same on every call on one machine."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return the SHA-256 of weights, preprocessing and precision, whatever the variant and device."""

    def describe(self) -> dict[str, Any]:
        """Return what a manifest records, as JSON-ready data.

        ``spec`` and ``precision`` load the same backbone again, ``fingerprint`` tells whether it is the same,
        and ``batch_size`` is what :meth:`find_batch_size` gives; besides, ``card``, ``variants``, ``device``.
        """
        return {
            "spec": self.spec,
            "card": asdict(self.card),
            "variants": dict(self.variants),
            "precision": "float32",
            "device": "cpu",
            "batch_size": self.find_batch_size(),
            "fingerprint": self.fingerprint(),
        }

    def check_variants(self, variants: Sequence[str]) -> None:
        """Raise :class:`InputError` if one of ``variants`` is not offered."""
        for name in variants:
            if name not in self.variants:
                offered = ", ".join(self.variants)
                hint = nearest_name(name, list(self.variants))
                raise InputError(
                    f"backbone {self.card.name} has no variant {name!r}{hint}; it has: {offered}"
                )
