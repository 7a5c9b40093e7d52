"""COCO: images with their sizes, a category per group, one annotation of the whole image each."""

from __future__ import annotations

import io
import json
import shutil
from typing import IO, Any

from PIL import Image

from kinfold._version import __version__
from kinfold.exports._images import Original
from kinfold.exports._job import Job, Missing
from kinfold.images import SkipReason

ANNOTATIONS_NAME = "annotations.json"
_IMAGES = "images"


def write_coco(job: Job) -> None:
    """Write ``images/`` and ``annotations.json``.

    Ids of images are rows. Ids of categories are groups plus one, and those of annotations rows plus one:
    0 means "nothing" to COCO's tools. An image in no group has no annotation. Width and height are those of
    the stored pixels, as COCO's tools read them, whatever an orientation tag says.
    """
    aside = job.target / "annotations.part"
    with (
        (job.target / ANNOTATIONS_NAME).open("w", encoding="utf-8") as stream,
        aside.open("w+", encoding="utf-8") as annotations,
    ):
        stream.write(f'{{"info": {json.dumps(_info(job))},\n"licenses": [],\n"images": [')
        _write_images(job, stream, annotations)
        stream.write('],\n"annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, stream)
        stream.write(f'],\n"categories": {json.dumps(_categories(job))}}}\n')
    aside.unlink()


def _write_images(job: Job, images: IO[str], annotations: IO[str]) -> None:
    """Write all images, and aside their annotations, each a line of a list."""
    between, between_annotations = "\n", "\n"
    for record, file, original in job.number_images(_IMAGES):
        size = _measure(original)
        if size is None:
            (job.target / _IMAGES / file).unlink()
            reason = f"{SkipReason.CORRUPT.value}: its width and height can't be read"
            job.missing.append(Missing(record["row"], record["key"], reason))
            continue
        line = {"id": record["row"], "file_name": file.as_posix(), "width": size[0], "height": size[1]}
        images.write(between + json.dumps({**line, "key": record["key"], "mark": record["mark"]}))
        between = ",\n"
        if record["cluster"] >= 0:
            annotations.write(between_annotations + json.dumps(_annotate(record, size)))
            between_annotations = ",\n"


def _info(job: Job) -> dict[str, str]:
    return {"description": f"Groups of {job.takeaway.run.path.name}", "version": f"kinfold {__version__}"}


def _categories(job: Job) -> list[dict[str, Any]]:
    return [
        {"id": group.id + 1, "name": group.label, "supercategory": "", "cluster": group.id}
        for group in job.takeaway.groups
    ]


def _annotate(record: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    return {
        "id": record["row"] + 1,
        "image_id": record["row"],
        "category_id": record["cluster"] + 1,
        "bbox": [0, 0, *size],
        "area": size[0] * size[1],
        "iscrowd": 0,
        "score": record["confidence"],
        "original_cluster": record["original_cluster"],
        "by_hand": record["by_hand"],
    }


def _measure(original: Original) -> tuple[int, int] | None:
    """Return width and height from the header alone."""
    try:
        with Image.open(original.path or io.BytesIO(original.data)) as image:
            return int(image.width), int(image.height)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
