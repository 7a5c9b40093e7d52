"""Images that fit no group, and new kinds among new images: ours beside what others do.

``python -m studies.strays --half developed`` prints the tables that chose the measure, ``--half judged``
those of other data. Classes that are held out play what belongs nowhere; ``efficientnet-lite0`` embeds digits
among photographs. Labels hold classes out and judge; no measure sees them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import kinfold
from kinfold.levels import build_levels
from kinfold.methods import GraphClustering
from kinfold.metrics import GroupRanks
from kinfold.neighbors import nearest_rows
from kinfold.typicality import Reference, Typicality, find_new_kinds
from studies.photographs import BACKBONE, load_photographs
from studies.report import grid

HALVES = {"developed": ("digits", "even classes"), "judged": ("CIFAR-10", "odd classes")}
RATE = 0.01
_CIFAR_ROWS, _N_DIGITS, _DIGIT_SIDE = 6_000, 300, 64
_TRAINED = 0.75  # share of the images of known classes that a run is fitted on
_HELD_OUT = 5  # of so many classes one is held out
BATCHES = (  # new classes, images of each, which images of known classes come with them
    (2, 100, "all"),
    (2, 30, "all"),
    (0, 0, "all"),
    (0, 0, "three classes"),
    (0, 0, "mostly one class"),
)

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """A run of some classes, and new images.

    Attributes
    ----------
    model : GraphClustering
        Fitted on ``X``.
    X : ndarray (N, D)
        Features of the run's images.
    known : Typicality
        Of the run.
    closeness : ndarray (N,)
        Of the run's images.
    new, classes : ndarray (n, D), ndarray (n,)
        Features of images of known classes that the run hasn't seen, and their classes.
    strange, strange_classes
        The same of classes that the run doesn't know.
    """

    model: GraphClustering
    X: Matrix
    known: Typicality
    closeness: NDArray[np.float32]
    new: Matrix
    classes: NDArray[np.int64]
    strange: Matrix
    strange_classes: NDArray[np.int64]


def load(name: str, folder: Path) -> tuple[Matrix, NDArray[np.int64]]:
    """Return features and classes of a data set."""
    if name == "digits":
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        return digits.data.astype(np.float32), digits.target.astype(np.int64)
    if name == "CIFAR-10":
        with np.load(folder / "cifar10_mobilenetv2_train.npz") as file:
            X, y = file["features"], file["labels"]
        rows = np.sort(np.random.default_rng(0).choice(len(X), _CIFAR_ROWS, replace=False))
        return X[rows].astype(np.float32), y[rows].astype(np.int64)
    (X, y), _ = load_photographs(folder)
    mine = y % 2 == ("even classes", "odd classes").index(name)
    return X[mine], y[mine]


def hold_out(X: Matrix, y: NDArray[np.int64], n_held_out: int, seed: int) -> Setting:
    """Fit a run on three quarters of the images of all classes but some."""
    random = np.random.default_rng(seed)
    classes = random.permutation(np.unique(y))
    strange = np.flatnonzero(np.isin(y, classes[:n_held_out]))
    rows = random.permutation(np.flatnonzero(np.isin(y, classes[n_held_out:])))
    cut = int(_TRAINED * len(rows))
    seen, new = rows[:cut], rows[cut:]
    model = GraphClustering(len(classes) - n_held_out, random_state=seed).fit(X[seen])
    levels = build_levels(X[seen], model.labels_, len(classes) - n_held_out, seed=seed, device="cpu")
    parts = levels.find_parts(X[seen], model.labels_)
    reference = Reference.draw(X[seen], np.arange(len(seen)), parts)
    closeness = reference.closeness(X[seen], device="cpu")
    ranks = GroupRanks.of(closeness, model.labels_)
    known = Typicality(reference, model.labels_[reference.rows], ranks)
    return Setting(model, X[seen], known, closeness, X[new], y[new], X[strange], y[strange])


def embed_digits() -> Matrix:
    """Return features of drawn digits by the network that embedded the photographs."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "digits"
        folder.mkdir()
        for number, values in enumerate(digits.images[:_N_DIGITS]):
            image = Image.fromarray((255 - values * 15.9).astype(np.uint8)).resize((_DIGIT_SIDE,) * 2)
            image.convert("RGB").save(folder / f"{number:04d}.png")
        store = kinfold.embed(folder, Path(home) / "features", backbone=BACKBONE)
        return np.asarray(store.matrix()[:], dtype=np.float32)


Measure = Callable[[Setting, Matrix], NDArray[np.floating]]


def _softmax(setting: Setting, X: Matrix) -> NDArray[np.floating]:
    return setting.model.predict_proba(X).max(axis=1)


def _ranked_softmax(setting: Setting, X: Matrix) -> NDArray[np.floating]:
    ranks = GroupRanks.of(_softmax(setting, setting.X), setting.model.labels_)
    return ranks.shares(_softmax(setting, X), _groups(setting, X), members=False)


def _centroid(setting: Setting, X: Matrix) -> NDArray[np.floating]:
    labels = setting.model.labels_
    units = _units(setting.X)
    centers = np.stack([units[labels == group].mean(axis=0) for group in np.unique(labels)])
    return nearest_rows(centers, X, 1, device="cpu")[1][:, 0]


def _own_group(setting: Setting, X: Matrix) -> NDArray[np.floating]:
    groups = _groups(setting, X)
    found = np.zeros(len(X), dtype=np.float32)
    for group in np.unique(groups):
        mine, members = groups == group, setting.X[setting.model.labels_ == group]
        found[mine] = nearest_rows(members, X[mine], 5, device="cpu")[1].mean(axis=1)
    return found


def _typicality(setting: Setting, X: Matrix) -> NDArray[np.floating]:
    return setting.known.shares(X, _groups(setting, X), device="cpu")


MEASURES: dict[str, Measure] = {
    "max softmax": _softmax,
    "max softmax, ranked in its group": _ranked_softmax,
    "nearest centroid": _centroid,
    "5 nearest images": lambda setting, X: setting.known.reference.closeness(X, device="cpu"),
    "5 nearest images of its group": _own_group,
    "typicality": _typicality,
}
_RANKED = ("max softmax, ranked in its group", "typicality")  # below RATE means something


def compare_measures(name: str, settings: list[Setting]) -> list[list[str]]:
    """Return a line for each measure: AUROC of held-out classes and of digits, and what 1 % finds."""
    digits = embed_digits() if "classes" in name else None
    found: dict[str, list[list[float]]] = {measure: [] for measure in MEASURES}
    for setting in settings:
        for measure, score in MEASURES.items():
            new, strange = score(setting, setting.new), score(setting, setting.strange)
            far = np.nan if digits is None else auroc(new, score(setting, digits))
            rates = [float((one < RATE).mean()) if measure in _RANKED else np.nan for one in (new, strange)]
            found[measure].append([auroc(new, strange), far, *rates])
    lines = []
    for measure, values in found.items():
        held_out, far, alarms, caught = np.mean(values, axis=0)
        lines.append([name, measure, f"{held_out:.3f}", _or_dash(far, 3), _percent(alarms), _percent(caught)])
    return lines


def auroc(inside: NDArray[np.floating], outside: NDArray[np.floating]) -> float:
    """Return how often an image of a known class scores above one that belongs nowhere; ties count half."""
    ordered = np.sort(outside)
    below, up_to = (np.searchsorted(ordered, inside, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(outside))


def measure_kinds(name: str, settings: list[Setting]) -> Iterator[list[str]]:
    """Yield a line for each batch: what new kinds are found in it."""
    for n_new, n_each, which in BATCHES:
        values = [_kinds_of(setting, n_new, n_each, which, seed) for seed, setting in enumerate(settings)]
        alarms, wrong, n_kinds, n_right, precision, recall = np.nanmean(values, axis=0)
        yield [
            name,
            f"{n_new} × {n_each}" if n_new else "none",
            which,
            _percent(alarms),
            _percent(wrong),
            f"{n_kinds:.1f}",
            f"{n_right:.1f}" if n_new else "–",
            _or_dash(precision, 2),
            _or_dash(recall, 2),
        ]


def _kinds_of(setting: Setting, n_new: int, n_each: int, which: str, seed: int) -> list[float]:
    random = np.random.default_rng(seed)
    classes = np.unique(setting.classes)
    rows = np.arange(len(setting.new))
    if which == "three classes":
        rows = np.flatnonzero(np.isin(setting.classes, classes[:3]))
    elif which == "mostly one class":
        rows = np.concatenate(
            [np.flatnonzero(setting.classes == one)[: None if one == classes[0] else 10] for one in classes]
        )
    fresh = [
        random.choice(np.flatnonzero(setting.strange_classes == one), n_each, replace=False)
        for one in np.unique(setting.strange_classes)[:n_new]
    ]
    strange = np.concatenate(fresh).astype(int) if n_new else np.zeros(0, int)
    X = np.concatenate([setting.new[rows], setting.strange[strange]])
    y = np.concatenate([np.full(len(rows), -1), setting.strange_classes[strange]])
    found = find_new_kinds(setting.known, X, _groups(setting, X), random_state=seed, device="cpu")
    typicality = setting.known.shares(X, _groups(setting, X), device="cpu")
    is_new, inside = y >= 0, found.labels >= 0
    alarms = float(((found.p_values <= RATE) & (typicality < 0.3))[~is_new].mean())
    main = [np.bincount(y[found.labels == kind] + 1).argmax() - 1 for kind in range(len(found.sizes))]
    n_right = len({one for one in main if one >= 0})
    precision = float(is_new[inside].mean()) if inside.any() else np.nan
    recall = float(inside[is_new].mean()) if n_new else np.nan
    return [alarms, float(inside[~is_new].mean()), len(found.sizes), n_right, precision, recall]


def _groups(setting: Setting, X: Matrix) -> NDArray[np.intp]:
    groups: NDArray[np.intp] = setting.model.predict_proba(X).argmax(axis=1)
    return groups


def _units(X: Matrix) -> Matrix:
    return np.asarray(X / np.linalg.norm(X, axis=1, keepdims=True), dtype=np.float32)


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f} %"


def _or_dash(value: float, digits: int) -> str:
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


def main() -> None:
    """Print the tables of a half."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half", choices=tuple(HALVES), default="judged")
    parser.add_argument("--data", type=Path, default=os.environ.get("KINFOLD_DATA"))
    parser.add_argument("--seeds", type=int, default=3)
    order = parser.parse_args()
    if order.data is None:
        parser.error("say where the data are: --data or KINFOLD_DATA")
    measured, found = [], []
    for name in HALVES[order.half]:
        X, y = load(name, Path(order.data))
        n_held_out = len(np.unique(y)) // _HELD_OUT
        settings = [hold_out(X, y, n_held_out, seed) for seed in range(order.seeds)]
        measured += compare_measures(name, settings)
        found += measure_kinds(name, settings)
    heads = ["data", "measure", "held-out classes", "digits", "false alarms at 1 %", "found at 1 %"]
    print(grid(heads, measured), end="\n\n")
    heads = ["data", "new classes", "known classes", "suspected of these", "of these in a new kind"]
    heads += ["new kinds", "of them right", "precision", "recall"]
    print(grid(heads, found))


if __name__ == "__main__":
    main()
