"""Pictures given apart from features, or in a folder that has changed: joined with a run's rows by key."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinfold.errors import InputError, count_of
from kinfold.images import EXTENSIONS, ImageSource, KeyList, SkipReason, UnusableImage
from kinfold.paths import normalize_name
from kinfold.storage import hash_array, hash_json

logger = logging.getLogger(__name__)

_FEWEST = 0.5  # share of a run's own pictures that must be there
_NAMED = 3  # keys that a message shows
GONE_DETAIL = "it was no longer among the images when the run was updated"


class JoinedPictures(ImageSource):
    """The rows of a run, each with its picture from a source in another order.

    Parameters
    ----------
    images : ImageSource
        The pictures.
    keys : sequence of str
        Key of every row of the run.
    places : NDArray of int64
        For every row of the run its row in ``images``, −1 for none.
    gone : NDArray of bool, optional
        Rows whose image an update found gone.
    """

    def __init__(
        self,
        images: ImageSource,
        keys: Sequence[str],
        places: NDArray[np.int64],
        gone: NDArray[np.bool_] | None = None,
    ) -> None:
        self.kind, self.uri = images.kind, images.uri
        self._gone = np.zeros(len(places), bool) if gone is None else gone
        self.keys = keys if isinstance(keys, KeyList) else KeyList(keys)
        self._images, self._places = images, places

    def read(self, row: int) -> bytes:
        """Return the bytes of one image file; raises :class:`UnusableImage`."""
        return self._images.read(self._place(row))

    def fingerprint(self) -> str:
        """Return a hash of the fingerprint of the pictures and of which row has which."""
        return hash_json([self._images.fingerprint(), hash_array(self._places)])

    def path(self, row: int) -> Path | None:
        """Return the image's own file, or None where there is none."""
        place = int(self._places[row])
        return None if place < 0 else self._images.path(place)

    def locate(self, row: int) -> Any:
        """Return what the reader needs for this row; raises :class:`UnusableImage`."""
        return self._images.locate(self._place(row))

    def reader(self) -> Any:
        """Return a reader for another process."""
        return self._images.reader()

    def _place(self, row: int) -> int:
        place = int(self._places[row])
        if self._gone[row]:
            raise UnusableImage(SkipReason.GONE, GONE_DETAIL)
        if place < 0:
            raise UnusableImage(SkipReason.MISSING, f"there is no picture of this key in {self.uri}")
        return place


def join_pictures(
    images: ImageSource,
    keys: pa.Array | pa.ChunkedArray,
    where: str,
    *,
    moved: bool = False,
    gone: NDArray[np.bool_] | None = None,
) -> ImageSource:
    """Return pictures in the order of the rows of features, joined by key.

    Keys are the same, or one is the end of the other at a slash (``/data/photos/red/1.png`` and
    ``red/1.png``), with or without the suffix of an image. Features without keys, whose rows are merely
    numbered, take the pictures in their natural order if they are as many. What finds no partner is counted
    in a warning; a row without a picture has none.

    Parameters
    ----------
    images : ImageSource
        The pictures.
    keys : pyarrow.Array of string
        Key of every row.
    where : str
        What has these rows, for messages.
    moved : bool, default False
        Whether the rows were made from these pictures, so that keys are the same to the letter, and half of
        them at least must be there: else other photographs with some names in common would pass.
    gone : NDArray of bool, optional
        Rows whose image was gone at an update: they have no picture, whatever bears their key now.

    Raises
    ------
    InputError
        No row, or too few, have a picture; or there are no keys and the numbers differ.
    """
    ours = [str(key) for key in keys.to_pylist()]
    theirs = list(images.keys)
    left = np.zeros(len(ours), bool) if gone is None else gone
    n_ours = len(ours) - int(left.sum())
    if ours == theirs and n_ours == len(ours):
        return images
    if not moved and ours == [str(row) for row in range(len(ours))]:
        return _join_by_order(images, ours, where)
    places = np.full(len(ours), -1, np.int64)
    rows = np.flatnonzero(~left)
    places[rows] = _match([ours[row] for row in rows.tolist()], theirs, by_end=not moved)
    n_found = int((places >= 0).sum())
    if not n_found or (moved and n_found < _FEWEST * n_ours):
        raise InputError(
            f"the images at {images.uri} aren't those that {where} was made from: {n_found:,} of its "
            f"{count_of(n_ours, 'key')} (like {_some(ours)}) {'is' if n_found == 1 else 'are'} among the "
            f"{len(theirs):,} there (like {_some(theirs)}); say where its own images are (source=, --source)"
        )
    n_left = len(theirs) - n_found
    if n_found < n_ours or n_left:
        logger.warning(
            "%s and %s were joined by key: %s found, %s of the first without a picture, %s of the second in "
            "no row",
            where,
            images.uri,
            f"{n_found:,}",
            f"{n_ours - n_found:,}",
            f"{n_left:,}",
        )
    return JoinedPictures(images, ours, places, left)


def _join_by_order(images: ImageSource, ours: list[str], where: str) -> ImageSource:
    if len(images) != len(ours):
        raise InputError(
            f"{where} has {len(ours):,} vectors without keys, but there are {len(images):,} images in "
            f"{images.uri}, "
            "so which belongs to which can't be told. Give the vectors keys: a column key in Parquet, or an "
            "array "
            "keys in .npz, with the path of each image"
        )
    logger.warning(
        "the vectors of %s have no keys: they are taken in the order of the images in %s, from %r to %r",
        where,
        images.uri,
        images.keys[0],
        images.keys[-1],
    )
    return JoinedPictures(images, ours, np.arange(len(ours)))


def _some(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys[:_NAMED]))


def _match(ours: list[str], theirs: list[str], *, by_end: bool) -> NDArray[np.int64]:
    """Return for each of our keys the place of its partner, −1 where there is none or more than one."""
    exact = {key: place for place, key in enumerate(theirs)}
    places = np.array([exact.get(key, -1) for key in ours], np.int64)
    if not by_end:
        return places
    taken = set(places[places >= 0].tolist())
    by_name: dict[str, list[int]] = {}
    for place, key in enumerate(theirs):
        if place not in taken:
            by_name.setdefault(_name_of(_plain(key)), []).append(place)
    found: dict[int, list[int]] = {}
    for row in np.flatnonzero(places < 0).tolist():
        ending = _plain(ours[row])
        fits = [
            place for place in by_name.get(_name_of(ending), ()) if _is_end(ending, _plain(theirs[place]))
        ]
        if len(fits) == 1:
            found.setdefault(fits[0], []).append(row)
    for place, rows in found.items():
        if len(rows) == 1:
            places[rows[0]] = place
    return places


def _plain(key: str) -> str:
    """Return a key as it is compared, tidied and without the suffix of an image."""
    key = normalize_name(key)
    stem, suffix = os.path.splitext(key)
    return stem if suffix.lower() in EXTENSIONS else key


def _name_of(plain: str) -> str:
    return plain.rsplit("/", 1)[-1]


def _is_end(one: str, other: str) -> bool:
    """Tell whether one path is the other's end, at a slash."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    return longer == shorter or longer.endswith(f"/{shorter}")
