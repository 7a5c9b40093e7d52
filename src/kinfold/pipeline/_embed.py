"""From images to features on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kinfold.backbones import DEFAULT_BACKBONE, Backbone
from kinfold.bars import choose_progress
from kinfold.compute import Runtime
from kinfold.errors import InputError
from kinfold.features import FeatureStore, extract_features, lock_store
from kinfold.pipeline._estimate import Estimate, estimate_embed
from kinfold.pipeline._given import kept_source
from kinfold.pipeline._source import SourceLike, as_backbone, resolve_source
from kinfold.progress import SILENT, Progress
from kinfold.storage import check_place


def embed(
    source: SourceLike,
    out: str | Path,
    *,
    backbone: str | Path | Backbone = DEFAULT_BACKBONE,
    variants: Sequence[str] = ("cls",),
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    batch_size: int | None = None,
    n_workers: int | None = None,
    source_options: Mapping[str, Any] | None = None,
    verbose: bool = False,
    on_estimate: Callable[[Estimate], None] | None = None,
    progress: Progress = SILENT,
) -> FeatureStore:
    """Embed images into a feature store, which every later step can take in place of the images.

    Parameters
    ----------
    source : path, ImageSource or images in memory
        A folder, a glob pattern, a zip or tar archive, a table of images; or as :func:`~kinfold.cluster`
        takes them, which are kept in a file beside the store.
    out : path
        The feature store. An unfinished one is resumed.
    backbone : str, path or Backbone, default "dinov2-small"
        A card's name, a model's directory, or a loaded backbone.
    variants : sequence of str, default ("cls",)
        The vectors to keep of each image.
    device, precision : str, default "auto"
        Where and how exactly to compute.
    engine : {"auto", "torch", "onnxruntime", "openvino"}, default "auto"
        What runs a network that embeds images, on a CPU. "auto" is the fastest that is installed, if it gives
        the same vectors (in float32) and there are at least 500 images, else PyTorch.
    batch_size : int, optional
        Images per batch; by default the backbone finds it.
    n_workers : int, optional
        Processes that decode; by default as many as there are cores.
    source_options : Mapping, optional
        For tables: ``path_column``, ``image_column``, ``key_column``.
    on_estimate : callable, optional
        Called once, before long work starts, with what the work is expected to take if all is still to
        be done; a few images are embedded to know it.
    verbose : bool, default False
        Show bars, in a terminal or a notebook.
    progress : Progress
        Wins over ``verbose``; shows images done and images per second.

    Returns
    -------
    FeatureStore

    Raises
    ------
    InputError
        Source, backbone or ``out`` can't be used, or no image can be read.
    HubUnavailableError
        The backbone's files are neither cached nor to be had.
    """
    out = Path(out)
    check_place(out)
    with kept_source(source, source_options, out, prefix=f"{out.name}-") as given:
        opened = resolve_source(given.source, given.options)
        if opened.images is None:
            raise InputError(f"{opened.uri} holds features already; there is nothing to embed")
        runtime = Runtime.resolve(
            device,
            precision,
            n_workers=n_workers,
            progress=choose_progress(progress, verbose),
            engine=engine,
        )
        with lock_store(out):  # before the backbone is loaded, so that a second writer is told at once
            loaded = as_backbone(backbone, runtime, out, opened.n_rows)
            loaded.check_variants(variants)
            if on_estimate is not None:
                on_estimate(Estimate((estimate_embed(opened.images, loaded, variants, runtime),)))
            return extract_features(
                opened.images,
                loaded,
                out,
                variants=tuple(variants),
                batch_size=batch_size,
                n_workers=runtime.n_workers,
                progress=runtime.progress,
            )
