"""What an evaluation tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SeveralLabels:
    """Accuracy where several labels are right for an image.

    Attributes
    ----------
    kind : str
        "drawn": the map comes from one label per image drawn at random; "listed": from the image's first
        label; "ancestors": from its label, and what lies above it in the tree is right too.
    accuracies : Mapping of int to float
        Share of images for which one of the k best groups stands for a right label: top-kL.
    deviations : Mapping of int to float
        Standard deviation over draws; empty where nothing was drawn.
    n_draws : int
        Maps that were drawn; 0 where the map is one.
    mean_labels : float
        Right labels per image.
    """

    kind: str
    accuracies: Mapping[int, float]
    deviations: Mapping[int, float]
    n_draws: int
    mean_labels: float


@dataclass(frozen=True)
class DepthAccuracy:
    """Accuracy of the images whose labels lie equally deep in the tree.

    Attributes
    ----------
    depth : int
        Steps to the nearest root; roots have 0.
    n_classes, n_images : int
        Labels at that depth, and their images.
    accuracy : float
        Share of them whose group stands for their label.
    accuracy_ancestors : float
        Share whose group stands for their label or something above it.
    """

    depth: int
    n_classes: int
    n_images: int
    accuracy: float
    accuracy_ancestors: float


@dataclass(frozen=True)
class Evaluation:
    """How well the groups of a run agree with known labels.

    Figures that need one label per image are None where images have several and none is the first.

    Attributes
    ----------
    accuracy : float or None
        Share of labeled images whose group stands for their class under the best one-to-one map; all
        images of leftover groups count as wrong. 0 to 1.
    accuracy_majority : float or None
        The same with each leftover group given to its majority class.
    mean_class_accuracy : float or None
        Mean over classes of the share of their images that are right, one-to-one.
    nmi, ami : float or None
        Normalised and adjusted mutual information, arithmetic average.
    ari : float or None
        Adjusted Rand index, at most 1.
    purity : float or None
        Share of images that are of their group's majority class.
    top_k : Mapping of int to float
        Share of images of which one of the k best groups stands for their class, for the k up to 5 that the
        run keeps.
    calibration_error : float or None
        Expected calibration error of the confidences, over 15 bins.
    several : SeveralLabels or None
        Where several labels are right.
    by_depth : tuple of DepthAccuracy
        Where a tree was given.
    n_classes, n_groups : int
        Distinct labels and non-empty groups among the matched images.
    n_matched : int
        Images with a group and a label: what the figures are about.
    n_without_label : int
        Images with a group but no label.
    n_without_image : int
        Labels whose key is not among the grouped images (skipped images are such).
    labels_without_image : tuple of str
        The first few keys of such labels.
    classes : Mapping of int to str
        Class that each matched group stands for.
    """

    accuracy: float | None
    accuracy_majority: float | None
    mean_class_accuracy: float | None
    nmi: float | None
    ami: float | None
    ari: float | None
    purity: float | None
    top_k: Mapping[int, float]
    calibration_error: float | None
    several: SeveralLabels | None
    by_depth: tuple[DepthAccuracy, ...]
    n_classes: int
    n_groups: int
    n_matched: int
    n_without_label: int
    n_without_image: int
    labels_without_image: tuple[str, ...]
    classes: Mapping[int, str]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data, as the manifest records it."""
        return dict(_text_keys(asdict(self)))


def _text_keys(value: Any) -> Any:
    """Return nested data as JSON has it: keys are texts, tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): _text_keys(some) for key, some in value.items()}
    return [_text_keys(some) for some in value] if isinstance(value, (list, tuple)) else value
