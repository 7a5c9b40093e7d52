"""Labels of images by key: read from files, folders, mappings; joined to images; counted by class."""

from __future__ import annotations

from kinfold.labels.join import (
    FOLDER,
    JoinedLabels,
    LabelRows,
    LabelsLike,
    Truth,
    join_truth,
    name_source,
    read_labels,
)
from kinfold.labels.table import (
    ClassCounts,
    LabelFile,
    LabelTable,
    label_by_folder,
    split_name,
)

__all__ = [
    "FOLDER",
    "ClassCounts",
    "JoinedLabels",
    "LabelFile",
    "LabelRows",
    "LabelTable",
    "LabelsLike",
    "Truth",
    "join_truth",
    "label_by_folder",
    "name_source",
    "read_labels",
    "split_name",
]
