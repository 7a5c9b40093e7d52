"""Every method by its name: its class, its presets, the options of a run, and fitted models on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from kinfold.compute import Runtime, resolve_device
from kinfold.errors import FormatError, InputError, nearest_name
from kinfold.methods._auto import SINGLE_METHODS, Auto, check_names, find_named
from kinfold.methods._base import RUN_PARAMETERS, fitted_clusters
from kinfold.methods._heads import PAPER_MOMENTUM
from kinfold.methods._self_training import PAPER_ITERATIONS
from kinfold.methods._tac import TAC
from kinfold.methods._turtle_training import PAPER_BATCH, PAPER_RATE, PAPER_STEPS
from kinfold.methods.protocol import Clusterer, Model
from kinfold.reading import check_regular, reason_of
from kinfold.rows import RowMatrix
from kinfold.storage import atomic_file, check_format_version, read_json, write_json
from kinfold.validation import SEED, Choice, Integer, check, check_integer

FORMAT = "kinfold-model"
FORMAT_VERSION = 1
_SAVED: dict[str, type[Any]] = {**SINGLE_METHODS, "tac": TAC}
METHODS: dict[str, type[Any]] = {**_SAVED, "auto": Auto}  # of "auto" the chosen method is saved

_BLOCK_VALUES = 16 << 20  # of float32 per block, 64 MiB: of rows, or of probabilities where K is larger
_MEND = "repeat the `kinfold cluster` command with the same --out to write it anew"

_RATE = 1e-4 / 256  # per sample of a batch: the papers scale the rate with the batch


def _train_heads(n_heads: int, n_epochs: int, batch_size: int) -> dict[str, Any]:
    """Return what the presets of all methods with heads share.

    The papers' warm-up (20 epochs, a tenth of shorter trainings) and frozen first epoch are those of
    :func:`~kinfold.methods.plan_training` anyway.
    """
    return {
        "n_heads": n_heads,
        "n_epochs": n_epochs,
        "batch_size": batch_size,
        "learning_rate": _RATE * batch_size,
        "momentum": PAPER_MOMENTUM,
        "tol": 0,  # the papers make all epochs
        "head_choice": "loss",
    }


def _icce(n_epochs: int, batch_size: int) -> dict[str, Any]:
    """Return ICCE's settings: section 4.2 and Table 1 with all components.

    Values that the paper doesn't give: the rate (here TEMI's), the weight of the cross-entropy (here 1, so
    that the term is there), the teacher's temperature and the number of neighbours in smoothing (here the
    defaults), the rates of self-training (here those of DINOv2's linear evaluation, which it follows).
    Enriched features are chosen by the variant, ``cls+patches``; ``self_training_blocks`` names the feature
    variants of stage 3, which depend on the columns of X.
    """
    return {
        **_train_heads(50, n_epochs, batch_size),
        "similarity_threshold": 0.3,
        "min_neighbors": 50,
        "max_neighbors": 2000,
        "batch_norm": True,
        "sinkhorn": "joint",
        "cross_entropy_weight": 1.0,
        "consensus": True,
        "consensus_shares": (1.0,),
        "graph_labelings": False,
        "self_training": True,
        "self_training_iterations": PAPER_ITERATIONS,
        "self_training_rates": "dinov2",
    }


_TEMI = {"n_neighbors": 50, "beta": 0.6, "weighted": True}
_SCAN = {"n_neighbors": 50, "entropy_weight": 5.0}
_TAC = {
    "centres": "kmeans",
    "samples_per_centre": 300,
    "nouns_per_centre": 5,
    "retrieval_temperature": 0.005,
    "n_neighbors": 50,
    "balance_weight": 5.0,
    "learning_rate": 1e-3,
    "separate_moments": True,
    "initialization": "truncated_normal",
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "icce": {
        "paper": _icce(400, 1024),
        "cifar": _icce(400, 256),
        "cifar20": _icce(800, 256),
        "stl10": _icce(800, 1024),
    },
    "kmeans": {"paper": {"tol": 0}},
    "scan": {
        "paper": {**_SCAN, **_train_heads(32, 50, 4096)},
        "imagenet1k": {**_SCAN, **_train_heads(32, 50, 4096)},
        "imagenet21k": {**_SCAN, **_train_heads(32, 25, 4096)},
    },
    "tac": {
        "paper": {**_TAC, "n_epochs": 20, "batch_size": 512, "temperature": 0.5},
        "ucf101": {**_TAC, "n_epochs": 100, "batch_size": 8192, "temperature": 5.0},
        "imagenet1k": {**_TAC, "n_epochs": 100, "batch_size": 8192, "temperature": 5.0},
    },
    "temi": {
        "paper": {**_TEMI, **_train_heads(50, 200, 512)},
        "imagenet1k": {**_TEMI, **_train_heads(32, 50, 512)},
        "imagenet21k": {**_TEMI, **_train_heads(32, 25, 512)},
    },
    "turtle": {
        "paper": {
            "n_steps": PAPER_STEPS,
            "batch_size": PAPER_BATCH,
            "n_inner_steps": 10,
            "gamma": 10.0,
            "learning_rate": PAPER_RATE,
            "inner_learning_rate": PAPER_RATE,
            "feature_scale": 1.0,
        }
    },
}
"""Method → preset → parameters.

``paper`` is the paper that introduced the method: TEMI (H = 50, 200 epochs), SCANv2 as the scaling paper
trains it on ImageNet-1K, ICCE, TAC (its five classic data sets and DTD), TURTLE; spherical k-means runs until
no label changes. ``imagenet1k`` and ``imagenet21k`` of TEMI and SCANv2 are the scaling paper's, which tells
SCANv2's batch for ImageNet-1K alone: it stands for both.
"""


def get_method(name: str) -> type[Any]:
    """Return the estimator class behind a method's name.

    Raises
    ------
    InputError
        The name is unknown; the error names the nearest one.
    """
    return find_named(METHODS, name)


def preset_parameters(
    method: str, preset: str, *, candidates: Mapping[str, Any] | tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return a method's parameters under a preset.

    Parameters
    ----------
    method : str
        As ``--method`` takes it. For "auto" the parameters are those of its candidates which have the preset.
    preset : str
        "paper", or another one that the method has.
    candidates : names, optional
        What "auto" compares.

    Raises
    ------
    InputError
        The method has no such preset; the error names the nearest one.

    Examples
    --------
    >>> preset_parameters("temi", "paper")["n_heads"]
    50
    """
    if method == "auto":
        found = {name: PRESETS[name][preset] for name in candidates if preset in PRESETS.get(name, {})}
        if found:
            return {"parameters": {name: dict(values) for name, values in found.items()}}
        known = sorted({name for candidate in candidates for name in PRESETS.get(candidate, {})})
    else:
        known = list(PRESETS.get(method, {}))
        if preset in known:
            return dict(PRESETS[method][preset])
    raise InputError(
        f"method {method!r} has no preset {preset!r}{nearest_name(str(preset), known)}; "
        f"it has {', '.join(known) or 'none'}"
    )


def configure(
    name: str,
    *,
    n_clusters: int,
    random_state: int,
    device: str = "auto",
    precision: str = "auto",
    n_neighbors: int | None = None,
    parameters: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> Clusterer:
    """Return the unfitted estimator that the options of a run describe, its parameters checked.

    Parameters
    ----------
    name : str
        As ``--method`` takes it.
    n_clusters, random_state, device, precision
        As every method takes them.
    n_neighbors : int, optional
        Least neighbours per sample, for methods that learn from a graph.
    parameters : mapping of str to object, optional
        The method's own parameters; they win over those of the preset and over ``n_neighbors``. None stands
        for "none" where that is a choice: the command line can't tell them apart.
    preset : str, optional
        See :func:`preset_parameters`.

    Raises
    ------
    InputError
        The method, the preset or a parameter is unknown, or a value is impossible.
    """
    check({"n_clusters": Integer(), "random_state": SEED}, n_clusters=n_clusters, random_state=random_state)
    Runtime.resolve(device, precision)
    kind = get_method(name)
    given = _read_parameters(kind, parameters or {})
    if n_neighbors is not None:
        check_integer(n_neighbors=n_neighbors)
    values = {} if preset is None else _read_preset(kind, name, preset, given, n_neighbors)
    values["precision"] = precision
    if n_neighbors is not None and kind.neighbors_parameter is not None:
        values[kind.neighbors_parameter] = n_neighbors
    estimator: Clusterer = kind(
        n_clusters=int(n_clusters), random_state=int(random_state), device=device, **{**values, **given}
    )
    estimator.check_parameters()
    return estimator


def _read_parameters(kind: type[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's own parameters as a run gives them, all of them known."""
    elsewhere = (*RUN_PARAMETERS, *kind.noun_parameters)
    for key in parameters:
        if key in elsewhere:
            raise InputError(f"{key} can't be set through method_parameters; pass it as its own argument")
    check_names(kind, parameters, left_out=elsewhere)
    given = dict(parameters)
    for key, value in parameters.items():
        rule = kind.constraints.get(key)
        if value is None and isinstance(rule, Choice) and "none" in rule.options:
            given[key] = "none"
    return given


def _read_preset(
    kind: type[Any], name: str, preset: str, given: dict[str, Any], n_neighbors: int | None
) -> dict[str, Any]:
    """Return the preset's parameters; those of candidates are merged into what was given for them."""
    if kind is not Auto:
        return preset_parameters(name, preset)
    own = Auto(**given)
    own.check_candidates()
    values = preset_parameters(name, preset, candidates=tuple(own.candidates))
    merged = dict(own.parameters or {})
    for candidate, named in values["parameters"].items():
        # The number of neighbours that a run names wins over the preset's, as it does for a method alone.
        replaced = () if n_neighbors is None else (get_method(candidate).neighbors_parameter,)
        free = {key: value for key, value in named.items() if key not in replaced}
        merged[candidate] = {**free, **merged.get(candidate, {})}
    given["parameters"] = merged
    return {}


def save_model(estimator: Clusterer, directory: Path) -> None:
    """Write ``model.safetensors`` and ``model.json``, which together are enough to predict.

    Of :class:`~kinfold.methods.Auto` the chosen method is saved, under its own name, with the table of
    candidates that it was chosen by.

    Parameters
    ----------
    estimator : Clusterer
        A fitted one.
    directory : Path
        An existing folder; each file is replaced as a whole.
    """
    model = estimator.to_model()
    tensors = {key: np.ascontiguousarray(value) for key, value in model.tensors.items()}
    with atomic_file(directory / "model.safetensors") as partial:
        partial.write_bytes(save(tensors))
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "method": model.method,
        "n_features": model.n_features,
        "config": model.config,
        **model.extra,
    }
    write_json(directory / "model.json", content)


def load_model(directory: Path, *, device: str = "auto") -> Clusterer:
    """Return the estimator saved in a directory, ready to predict.

    Parameters
    ----------
    directory : Path
        Where :func:`save_model` wrote.
    device : str, default "auto"
        Where it predicts.

    Raises
    ------
    FormatError
        A file is missing, damaged, or of a newer format version; nothing in it can run code.
    InputError
        There is no such device.
    """
    resolve_device(device)  # a wrong device is no damage to the model: it is told before files are read
    description, weights = directory / "model.json", directory / "model.safetensors"
    for path in (description, weights):
        if not path.is_file():
            raise FormatError(f"{path} is missing: the run has no model; {_MEND}")
    check_regular(weights, _MEND)
    try:
        content = read_json(description)
    except FormatError as error:
        raise FormatError(f"{error}; {_MEND}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError(f"{description} does not describe a model of Kinfold; {_MEND}")
    check_format_version(description, content.get("format_version"), FORMAT_VERSION)
    try:
        model = Model(
            method=content["method"],
            n_features=content["n_features"],
            config=content["config"],
            tensors=load(weights.read_bytes()),  # not mapped, which some file systems refuse
        )
        # A model that was edited may lack anything: whatever its class misses there is damage.
        loaded: Clusterer = find_named(_SAVED, model.method).from_model(model, device=device)
        return loaded
    except Exception as error:
        raise FormatError(
            f"{weights} is damaged or does not fit {description.name} ({reason_of(error)}); {_MEND}"
        ) from error


@dataclass(frozen=True)
class TopClusters:
    """The best clusters of every row.

    Attributes
    ----------
    clusters : ndarray (N, k) int32
        Best first; the lower id on ties.
    probabilities : ndarray (N, k) float32
        Their probabilities, descending.
    """

    clusters: NDArray[np.int32]
    probabilities: NDArray[np.float32]


def predict_top(estimator: Clusterer, X: RowMatrix, n_top: int = 5) -> TopClusters:
    """Return the best ``n_top`` clusters of every row of X, in blocks of bounded memory.

    Parameters
    ----------
    estimator : Clusterer
        A fitted one.
    X : RowMatrix (N, D)
        Features.
    n_top : int, default 5
        How many clusters, cut to K.
    """
    n_clusters = fitted_clusters(estimator)
    n_top = min(n_top, n_clusters)
    size = max(1, _BLOCK_VALUES // max(n_clusters, int(X.shape[1])))
    clusters, probabilities = [], []
    for start in range(0, X.shape[0], size):
        block = estimator.predict_proba(X[start : start + size])
        order = np.argsort(-block, axis=1, kind="stable")[:, :n_top]  # stable: the lower id first on ties
        clusters.append(order.astype(np.int32))
        probabilities.append(np.take_along_axis(block, order, axis=1))
    return TopClusters(np.concatenate(clusters), np.concatenate(probabilities))
