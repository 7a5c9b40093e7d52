"""FiftyOne's ``FiftyOneImageClassificationDataset``: images in ``data/``, labels in ``labels.json``."""

from __future__ import annotations

import json
from typing import Any

from kinfold.exports._job import Job

LABELS_NAME = "labels.json"
_ATTRIBUTES = ("row", "key", "cluster", "name", "original_cluster", "mark", "by_hand")


def write_fiftyone(job: Job) -> None:
    """Write ``data/`` and ``labels.json``; an image in no group has no label there."""
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


def _label(record: dict[str, Any], numbers: dict[int, int]) -> dict[str, Any] | None:
    if record["cluster"] < 0:
        return None
    return {
        "label": numbers[record["cluster"]],
        "confidence": record["confidence"],
        "attributes": {name: record[name] for name in _ATTRIBUTES},
    }
