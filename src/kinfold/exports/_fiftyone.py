"""FiftyOne's ``FiftyOneImageClassificationDataset``: images in ``data/``, labels in ``labels.json``."""

from __future__ import annotations

import json
from typing import Any

from kinfold.exports._job import Job
from kinfold.exports._takeaway import UNSORTED

LABELS_NAME = "labels.json"
_ATTRIBUTES = ("row", "key", "cluster", "name", "original_cluster", "mark", "by_hand")


def write_fiftyone(job: Job) -> None:
    """Write ``data/`` and ``labels.json``.

    A label is a number in ``classes``. What is in no group has the word ``unsorted``, which is no class: an
    image without label could carry no mark.
    """
    groups = job.takeaway.groups
    numbers = {group.id: number for number, group in enumerate(groups)}
    between = "\n"
    with (job.target / LABELS_NAME).open("w", encoding="utf-8") as stream:
        stream.write(f'{{"classes": {json.dumps([group.label for group in groups])},\n"labels": {{')
        for record, file, _ in job.number_images("data"):
            name = file.with_suffix("").as_posix()
            stream.write(f"{between}{json.dumps(name)}: {json.dumps(_label(record, numbers))}")
            between = ",\n"
        stream.write("}}\n")


def _label(record: dict[str, Any], numbers: dict[int, int]) -> dict[str, Any]:
    return {
        "label": numbers.get(record["cluster"], UNSORTED),
        "confidence": record["confidence"],
        "attributes": {name: record[name] for name in _ATTRIBUTES},
    }
