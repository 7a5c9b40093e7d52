"""The image folder of Hugging Face ``datasets``: images, and what is known of them in ``metadata.jsonl``."""

from __future__ import annotations

import json

from kinfold.exports._job import Job

METADATA_NAME = "metadata.jsonl"
_IMAGES = "images"


def write_imagefolder(job: Job) -> None:
    """Write ``images/`` and ``metadata.jsonl``, for ``load_dataset("imagefolder", data_dir=…)``.

    Files are named by row: ``datasets`` takes words like *test* in a path for a split. Images without
    original have no line, those in no group have no label.
    """
    labels = job.takeaway.labels
    with (job.target / METADATA_NAME).open("w", encoding="utf-8", newline="\n") as stream:
        for record, file, _ in job.number_images(_IMAGES):
            label = labels[record["cluster"]] if record["cluster"] >= 0 else None
            line = {"file_name": f"{_IMAGES}/{file.as_posix()}", "label": label, **record}
            stream.write(json.dumps(line) + "\n")
