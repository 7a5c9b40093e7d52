"""Features of images that are wanted for one result alone: in a folder beside it, gone when it is written."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kinfold.backbones import Backbone
from kinfold.errors import count_of
from kinfold.features import Features, extract_features
from kinfold.images import ImageSource
from kinfold.pipeline._place import skipped_path
from kinfold.progress import Progress
from kinfold.run import lock_directory, write_skipped
from kinfold.storage import PARTIAL_PREFIX, hash_json

logger = logging.getLogger(__name__)


@contextmanager
def embedded_beside(
    out: Path,
    images: ImageSource,
    backbone: Backbone,
    variant: str,
    *,
    batch_size: int | None,
    n_workers: int | None,
    progress: Progress,
) -> Iterator[Features]:
    """Embed into a folder beside ``out`` that a restart goes on with; it is removed if all goes well.

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
    batch_size : int or None
        Images per batch; None lets the backbone find it.
    n_workers : int or None
        Processes that decode.
    progress : Progress
        Shows the work.
    """
    made_of = hash_json([images.fingerprint(), backbone.fingerprint(), variant])
    home = out.with_name(f"{PARTIAL_PREFIX}{out.name}-{made_of[:12]}")
    home.mkdir(parents=True, exist_ok=True)
    with lock_directory(home):
        yield extract_features(
            images,
            backbone,
            home / "features",
            variants=(variant,),
            batch_size=batch_size,
            n_workers=n_workers,
            progress=progress,
        )
        shutil.rmtree(home / "features")
    home.rmdir()


def tell_skipped(out: Path, features: Features) -> None:
    """List the images that could not be used beside ``out``, or remove the list of an earlier result."""
    skipped, n_skipped = skipped_path(out), features.skipped.num_rows
    if n_skipped:
        write_skipped(skipped, features.skipped)
        were = "was" if n_skipped == 1 else "were"
        logger.warning(
            "%d of %s %s skipped; see %s", n_skipped, count_of(features.n_rows, "image"), were, skipped
        )
    else:
        skipped.unlink(missing_ok=True)
