"""Named sets of parameters: the papers' settings, where ours adapt to the data.

Values that the papers' text lost stay at our defaults, and are told here. The papers' rate is
1e-4 · batch / 256; warm-up (20 epochs, a tenth of shorter trainings) and the frozen first epoch are those of
:func:`~kinfold.methods.plan_training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinfold.errors import InputError, nearest_name
from kinfold.methods._heads import PAPER_MOMENTUM
from kinfold.methods._self_training import PAPER_ITERATIONS
from kinfold.methods._turtle_training import PAPER_BATCH, PAPER_RATE, PAPER_STEPS

_RATE = 1e-4 / 256  # per sample of a batch


def _train(n_heads: int, n_epochs: int, batch_size: int) -> dict[str, Any]:
    """Return what all methods with heads share."""
    return {
        "n_heads": n_heads,
        "n_epochs": n_epochs,
        "batch_size": batch_size,
        "learning_rate": _RATE * batch_size,
        "momentum": PAPER_MOMENTUM,
        "tol": 0,
        "head_choice": "loss",
    }


def _icce(n_epochs: int, batch_size: int) -> dict[str, Any]:
    """Return ICCE's settings: section 4.2 and Table 1 with all components.

    Lost: the rate (here TEMI's), the weight of the cross-entropy (here 1, so that the term is there), the
    teacher's temperature and the number of neighbours in smoothing (here our defaults), the rates of
    self-training (here our grid). Enrichment of the features is a matter of the features: ``cls+patches``.
    """
    return {
        **_train(50, n_epochs, batch_size),
        "similarity_threshold": 0.3,
        "min_neighbors": 50,
        "max_neighbors": 2000,
        "batch_norm": True,
        "sinkhorn": True,
        "cross_entropy_weight": 1.0,
        "consensus": True,
        "consensus_shares": (1.0,),
        "self_training": True,
        "self_training_iterations": PAPER_ITERATIONS,
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
        "paper": {**_SCAN, **_train(32, 50, 4096)},
        "imagenet1k": {**_SCAN, **_train(32, 50, 4096)},
        "imagenet21k": {**_SCAN, **_train(32, 25, 4096)},
    },
    "tac": {
        "paper": {**_TAC, "n_epochs": 20, "batch_size": 512, "temperature": 0.5},
        "ucf101": {**_TAC, "n_epochs": 100, "batch_size": 8192, "temperature": 5.0},
        "imagenet1k": {**_TAC, "n_epochs": 100, "batch_size": 8192, "temperature": 5.0},
    },
    "temi": {
        "paper": {**_TEMI, **_train(50, 200, 512)},
        "imagenet1k": {**_TEMI, **_train(32, 50, 512)},
        "imagenet21k": {**_TEMI, **_train(32, 25, 512)},
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
