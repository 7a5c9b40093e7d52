"""Fitted methods on disk, and what everybody does with them: predict in blocks, see collapse."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from kinfold.compute import resolve_device
from kinfold.errors import FormatError
from kinfold.methods._auto import Auto
from kinfold.methods._base import fitted_clusters
from kinfold.methods._table import SINGLE_METHODS, find_named
from kinfold.methods._tac import TAC
from kinfold.storage import atomic_file, check_format_version, read_json, write_json

FORMAT = "kinfold-model"
FORMAT_VERSION = 1
_SAVED: dict[str, type[Any]] = {**SINGLE_METHODS, "tac": TAC}
METHODS: dict[str, type[Any]] = {**_SAVED, "auto": Auto}  # of "auto" the chosen method is saved

_BLOCK_VALUES = 16 << 20
_MEND = "repeat the `kinfold cluster` command with the same --out to write it anew"


def get_method(name: str) -> type[Any]:
    """Return the estimator class behind a method's name.

    Raises
    ------
    InputError
        The name is unknown; the error names the nearest one.
    """
    return find_named(METHODS, name)


def save_model(estimator: Any, directory: Path) -> None:
    """Write ``model.safetensors`` and ``model.json``, which together are enough to predict.

    Of :class:`~kinfold.methods.Auto` the chosen method is saved, under its own name, with the table of
    candidates that it was chosen by.
    """
    chosen = {}
    if isinstance(estimator, Auto):
        chosen["chosen_from"] = {name: found.as_dict() for name, found in estimator.table_.items()}
        estimator = estimator.chosen_
    name = next(name for name, known in _SAVED.items() if type(estimator) is known)
    tensors = {key: np.ascontiguousarray(value) for key, value in estimator.model_tensors().items()}
    with atomic_file(directory / "model.safetensors") as partial:
        partial.write_bytes(save(tensors))
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "method": name,
        "n_features": int(estimator.n_features_in_),
        "config": estimator.model_config(),
        **chosen,
    }
    write_json(directory / "model.json", content)


def load_model(directory: Path, *, device: str = "auto") -> Any:
    """Return the estimator saved in a directory, ready to predict.

    Raises
    ------
    FormatError
        A file is missing, damaged, or of a newer format version; nothing in it can run code.
    InputError
        There is no such device.
    """
    resolve_device(device)
    description, weights = directory / "model.json", directory / "model.safetensors"
    for path in (description, weights):
        if not path.is_file():
            raise FormatError(f"{path} is missing: the run has no model; {_MEND}")
    try:
        content = read_json(description)
    except FormatError as error:
        raise FormatError(f"{error}; {_MEND}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError(f"{description} does not describe a model of Kinfold; {_MEND}")
    check_format_version(description, content.get("format_version"), FORMAT_VERSION)
    try:
        tensors = load_file(weights)
        return find_named(_SAVED, content["method"]).from_model(content["config"], tensors, device=device)
    except (SafetensorError, LookupError, TypeError, ValueError, OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FormatError(
            f"{weights} is damaged or does not fit {description.name} ({reason}); {_MEND}"
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


def predict_top(estimator: Any, X: Any, n_top: int = 5) -> TopClusters:
    """Return the best ``n_top`` clusters (at most K) of every row of X, in blocks of bounded memory."""
    n_clusters = fitted_clusters(estimator)
    n_top = min(n_top, n_clusters)
    size = max(1, _BLOCK_VALUES // max(n_clusters, int(X.shape[1])))
    clusters, probabilities = [], []
    for start in range(0, X.shape[0], size):
        block = estimator.predict_proba(X[start : start + size])
        order = np.argsort(-block, axis=1, kind="stable")[:, :n_top]
        clusters.append(order.astype(np.int32))
        probabilities.append(np.take_along_axis(block, order, axis=1))
    return TopClusters(np.concatenate(clusters), np.concatenate(probabilities))
