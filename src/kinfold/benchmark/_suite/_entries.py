"""What a suite consists of, as its file says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PROBE = "probe"  # an upper bound that learns from labels, beside the methods
ZERO_SHOT = "zero-shot"  # classes by their names: no clustering either
OF_CLASSES = (PROBE, ZERO_SHOT)
"""What isn't a method of clustering: it knows the classes, so K is their number, and takes no parameters."""
METRICS: Mapping[str, str] = {
    "acc": "ACC",
    "acc_majority": "ACC, majority",
    "nmi": "NMI",
    "nmi_geometric": "NMI, geometric",
    "ami": "AMI",
    "ari": "ARI",
    "purity": "purity",
    "top5": "top-5",
    "ece": "ECE",
    "live": "live clusters",
}
"""What a suite may ask for, and how tables call it. All are shares but ``live``, which counts."""


@dataclass(frozen=True)
class FeatureEntry:
    """``[features.NAME]``: where vectors come from.

    Attributes
    ----------
    name, title : str
        As the file and as tables call it.
    path, test : str or None
        Features that are there: a feature store, ``.npy``, ``.npz``, ``.safetensors``, Parquet.
    images, test_images, backbone : str or None
        Images to embed, and with what.
    builtin : str or None
        ``"digits"``: scikit-learn's, 64 pixels.
    column, variant : str or None
        Which vectors of a Parquet file, and of a store.
    scale : float
        What the vectors are multiplied by.
    text_model : str or None
        What reads words in this space, for zero-shot classification and for methods that need nouns.
    """

    name: str
    title: str
    path: str | None = None
    test: str | None = None
    images: str | None = None
    test_images: str | None = None
    backbone: str | None = None
    builtin: str | None = None
    column: str | None = None
    variant: str | None = None
    scale: float = 1.0
    text_model: str | None = None

    @property
    def is_tested(self) -> bool:
        """Whether there are features of test images apart."""
        return self.test is not None or self.test_images is not None


@dataclass(frozen=True)
class MethodEntry:
    """``[methods.NAME]``: an estimator and its parameters.

    Attributes
    ----------
    name, title : str
        As the file and as tables call it.
    method : str
        As ``kinfold cluster --method`` takes it, or ``"probe"`` or ``"zero-shot"``.
    preset : str or None
        Named parameters; those given win over them.
    parameters : mapping
        Everything else stays at its default.
    features, benchmarks : tuple of str or None
        Run on these alone.
    """

    name: str
    title: str
    method: str
    preset: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] | None = None
    benchmarks: tuple[str, ...] | None = None


@dataclass(frozen=True)
class BenchmarkEntry:
    """``[benchmarks.NAME]``: which images are fitted on, and their classes, which only the judging reads.

    Attributes
    ----------
    name, title : str
        As the file and as tables call it.
    labels, test_labels : str
        A file of keys and labels, a folder that ``kinfold benchmark build`` wrote, ``"folder"``, or
        ``"column:NAME"``, what stands beside the vectors.
    test_split : str or None
        The split that is judged; by default ``val``, else ``test``, where there is one.
    k : tuple of int or None
        Numbers of clusters; None: that of the classes.
    rows : int or None
        Training rows that the seed draws; None: all.
    depth, window : float or None
        Place on the axes of the figures: levels of Coarse(d), percentiles around the median frequency.
    names : mapping or None
        What zero-shot classification calls a class, where it isn't called as its label (or, an id of WordNet,
        as its first lemma).
    features : tuple of str or None
        Run on these alone.
    """

    name: str
    title: str
    labels: str
    test_labels: str | None = None
    test_split: str | None = None
    k: tuple[int, ...] | None = None
    rows: int | None = None
    depth: float | None = None
    window: float | None = None
    names: Mapping[str, str] | None = None
    features: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Published:
    """``[[published]]``: figures that a paper prints.

    Attributes
    ----------
    source : str
        Paper and table.
    benchmark, metric : str
        What was measured.
    values : mapping
        Method → figure in percent, as printed.
    features : str or None
        None: whatever the features.
    k : int or None
        Clusters, where they aren't the classes.
    """

    source: str
    benchmark: str
    metric: str
    values: Mapping[str, float]
    features: str | None = None
    k: int | None = None


@dataclass(frozen=True)
class Suite:
    """A suite as its file says it, checked; placeholders still stand.

    Attributes
    ----------
    name, title, note : str
        The note says what data and weights are needed.
    origin : str
        The file, for messages.
    folder : str
        What relative paths start from.
    features, methods, benchmarks : mapping
        Entries by name, in the order of the file.
    seeds : tuple of int
        One fit each.
    metrics : tuple of str
        Columns of the tables, of :data:`METRICS`.
    published : tuple of Published
        Shown beside ours.
    """

    name: str
    title: str
    note: str
    origin: str
    folder: str
    features: Mapping[str, FeatureEntry]
    methods: Mapping[str, MethodEntry]
    benchmarks: Mapping[str, BenchmarkEntry]
    seeds: tuple[int, ...] = (0, 1, 2)
    metrics: tuple[str, ...] = ("acc", "nmi", "ari")
    published: tuple[Published, ...] = ()
