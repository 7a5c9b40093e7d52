"""How many groups there are: draws of a known number of classes, ours beside what others do.

``python -m studies.levels run --half developed`` (what chose the limits) or ``--half judged`` (what didn't),
``python -m studies.levels show``. Draws that are done are kept in ``studies/levels.jsonl`` and not repeated.
Labels make the draws and judge them; no rule sees them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.gallery.explore._levels import SUGGESTED_FACTOR, space_numbers
from kinfold.levels import count_level_parts, estimate_levels
from kinfold.neighbors import knn_graph
from studies.photographs import load_photographs
from studies.report import grid

RESULTS = Path(__file__).with_name("levels.jsonl")
STRONG = 0.75  # purity of 10 neighbours from which a number is expected to be found
_NULL = 1  # classes of a draw without groups
# Seeds 10 to 12 judged an earlier rule; what they showed led to this one, so others judge it.
_SEEDS = {"developed": range(3), "judged": range(20, 23)}
_TASNIF_DIMENSIONS, _TASNIF_MOST = 16, 30
_SILHOUETTE_SAMPLES = 3_000
_MOST_SAMPLES = {"HDBSCAN": 4_000, "silhouette": 10_000}  # beyond, a peer takes many minutes


@dataclass(frozen=True)
class Draw:
    """Classes drawn from a data set.

    Attributes
    ----------
    source : str
        ``"digits"``, ``"cifar"`` (MobileNetV2's features), ``"tiny-imagenet"`` (EfficientNet-Lite0's), or a
        sample without groups: ``"gaussian"``, ``"sphere"``, ``"one class"``, ``"copies"``.
    n_classes, n_samples : int
        True K, and rows.
    imbalance : float
        Size of the largest class over that of the smallest.
    seed : int
        Of the classes and of the rows.
    half : str
        ``"developed"`` or ``"judged"``.
    """

    source: str
    n_classes: int
    n_samples: int
    imbalance: float
    seed: int
    half: str


def draws(half: str) -> Iterator[Draw]:
    """Yield the draws of a half: other classes of Tiny-ImageNet, other rows of CIFAR-10, other seeds."""
    for seed in _SEEDS[half]:
        for imbalance in (1.0, 10.0):
            for n_classes, n_samples in ((2, 350), (3, 500), (5, 850), (10, 1700)):
                if n_classes > 2 or imbalance == 1:
                    yield Draw("digits", n_classes, n_samples, imbalance, seed, half)
                    yield Draw("cifar", n_classes, 2000, imbalance, seed, half)
            for n_classes in (3, 5, 10, 20, 50):
                n_samples = (200 if imbalance == 1 else 100) * n_classes
                yield Draw("tiny-imagenet", n_classes, n_samples, imbalance, seed, half)
    for seed in _SEEDS[half][:2]:
        for source, n_samples in (("gaussian", 2000), ("sphere", 2000), ("one class", 2000), ("copies", 500)):
            yield Draw(source, _NULL, n_samples, 1, seed, half)
    if half == "judged":
        for n_samples in (500, 2_000, 8_000, 32_000):
            yield Draw("cifar-drift", 10, n_samples, 1, _SEEDS[half][0], half)
        for n_samples in (450, 900, 1797):
            yield Draw("digits-drift", 10, n_samples, 1, _SEEDS[half][0], half)


def load_draw(draw: Draw, folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features and classes of a draw."""
    random = np.random.default_rng([draw.seed, draw.n_classes, draw.n_samples, int(draw.imbalance)])
    if draw.n_classes == _NULL:
        null = _draw_null(draw, folder, random)
        return null, np.zeros(len(null), dtype=np.int64)
    if draw.source == "cifar-drift":  # more than one half has
        parts = [_load("cifar", half, folder) for half in _SEEDS]
        X, y = (np.concatenate(both) for both in zip(*parts, strict=True))
    else:
        X, y = _load(draw.source.removesuffix("-drift"), draw.half, folder)
    chosen = random.permutation(np.unique(y))[: draw.n_classes]
    shares = draw.imbalance ** (-np.arange(draw.n_classes) / max(1, draw.n_classes - 1))
    sizes = shares / shares.sum() * draw.n_samples
    sizes *= min(1, min(np.sum(y == one) / size for one, size in zip(chosen, sizes, strict=True)))
    rows = np.sort(
        np.concatenate(
            [
                random.choice(np.flatnonzero(y == one), max(5, int(size)), replace=False)
                for one, size in zip(chosen, sizes, strict=True)
            ]
        )
    )
    return np.asarray(X[rows], dtype=np.float32), np.asarray(y[rows], dtype=np.int64)


def _load(source: str, half: str, folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    if source == "digits":
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        return digits.data.astype(np.float32), digits.target
    if source == "cifar":
        part = "train" if half == "developed" else "test"
        with np.load(folder / f"cifar10_mobilenetv2_{part}.npz") as file:
            return file["features"], file["labels"]
    (X, y), _ = load_photographs(folder)
    mine = y % 2 == (0 if half == "developed" else 1)
    return X[mine], y[mine]


def _draw_null(draw: Draw, folder: Path, random: np.random.Generator) -> NDArray[np.float32]:
    """Return a sample without groups."""
    n_samples = draw.n_samples
    if draw.source == "sphere":
        return random.standard_normal((n_samples, (3, 64)[draw.seed % 2])).astype(np.float32)
    if draw.source == "copies":
        one = random.standard_normal(64)
        return (one + 1e-3 * random.standard_normal((n_samples, 64))).astype(np.float32)
    X, y = _load("cifar", draw.half, folder)
    if draw.source == "one class":
        rows = np.flatnonzero(y == (0, 3)[draw.seed % 2])[:n_samples]
        return X[rows].astype(np.float32)
    X = X[random.choice(len(X), 4000, replace=False)].astype(np.float32)
    _, scales, axes = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    drawn = random.standard_normal((n_samples, len(scales))) * (scales / math.sqrt(len(X)))
    return (X.mean(axis=0) + drawn @ axes).astype(np.float32)


Rule = Callable[[NDArray[np.float32], int], "tuple[int | None, dict[str, Any]]"]


def _ours(X: NDArray[np.float32], seed: int) -> tuple[int | None, dict[str, Any]]:
    found = estimate_levels(X, random_state=seed)
    return found.recommended, found.as_dict()


def _tasnif(X: NDArray[np.float32], seed: int) -> tuple[int | None, dict[str, Any]]:
    """Return the number of the best silhouette of k-means in 16 principal components, up to 30, as tasnif."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    Z = PCA(min(_TASNIF_DIMENSIONS, *X.shape), random_state=seed).fit_transform(X)
    scores = {}
    for k in range(2, _TASNIF_MOST + 1):
        labels = KMeans(k, n_init=1, random_state=seed).fit_predict(Z)
        n_seen = min(len(Z), _SILHOUETTE_SAMPLES)
        scores[k] = silhouette_score(Z, labels, sample_size=n_seen, random_state=seed)
    return max(scores, key=lambda k: scores[k]), {}


def _hdbscan(X: NDArray[np.float32], seed: int) -> tuple[int | None, dict[str, Any]]:
    """Return how many clusters HDBSCAN finds by its defaults on unit rows; None for one or none."""
    from sklearn.cluster import HDBSCAN

    units = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
    labels = HDBSCAN(copy=True).fit_predict(units)
    n_found = int(labels.max()) + 1
    return (n_found if n_found > 1 else None), {"in_none": float(np.mean(labels < 0))}


def _evoc(X: NDArray[np.float32], seed: int) -> tuple[int | None, dict[str, Any]]:
    """Return how many clusters the most persistent layer of EVoC has; None for one or none."""
    from evoc import EVoC

    labels = EVoC(random_state=seed).fit_predict(X)
    n_found = int(labels.max()) + 1
    return (n_found if n_found > 1 else None), {"in_none": float(np.mean(labels < 0))}


RULES: dict[str, Rule] = {"ours": _ours, "silhouette": _tasnif, "HDBSCAN": _hdbscan, "EVoC": _evoc}


def is_right(n_classes: int, found: int | None) -> bool:
    """Tell whether a number is within 20 %, or within one up to ten classes."""
    if found is None:
        return False
    return abs(found - n_classes) <= max(0.2 * n_classes, 1 if n_classes <= 10 else 0)


def run(half: str, folder: Path, rules: list[str]) -> None:
    """Run the draws of a half that aren't done."""
    done = {(line["rule"], _key(line["draw"])) for line in _read()}
    for draw in draws(half):
        open_rules = [
            rule
            for rule in rules
            if (rule, _key(asdict(draw))) not in done
            and draw.n_samples <= _MOST_SAMPLES.get(rule, draw.n_samples)
        ]
        if not open_rules:
            continue
        X, y = load_draw(draw, folder)
        purity = _purity(X, y)
        for rule in open_rules:
            started = time.process_time()
            found, more = RULES[rule](X, draw.seed)
            seconds = round(time.process_time() - started, 2)
            line = {"rule": rule, "draw": asdict(draw), "found": found, "purity": purity, "seconds": seconds}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, **more}, sort_keys=True) + "\n")


def show() -> str:
    """Return the tables as Markdown."""
    lines = _read()
    parts = []
    for half in ("developed", "judged"):
        mine = [line for line in lines if line["draw"]["half"] == half]
        if mine:
            parts += [f"### Draws that {'chose' if half == 'developed' else 'judged'}", _table(mine)]
    drift = [line for line in lines if line["draw"]["source"].endswith("-drift")]
    if drift:
        parts += ["### Ten classes at growing numbers of images", _drift_table(drift)]
    return "\n\n".join(parts)


def _table(lines: list[dict[str, Any]]) -> str:
    rows = []
    for rule in RULES:
        own = [
            line for line in lines if line["rule"] == rule and not line["draw"]["source"].endswith("-drift")
        ]
        if not own:
            continue
        true = [line for line in own if line["draw"]["n_classes"] > _NULL]
        strong = [line for line in true if line["purity"] >= STRONG]
        weak = [line for line in true if line["purity"] < STRONG]
        null = [line for line in own if line["draw"]["n_classes"] == _NULL]
        said = [line for line in true if line["found"] is not None]
        shown = [_is_shown(line) for line in weak if "candidates" in line]
        errors = [abs(math.log2(line["found"] / line["draw"]["n_classes"])) for line in said]
        rows.append(
            [
                rule,
                _share([_right(line) for line in strong]),
                _share([_right(line) for line in strong if line["found"] is not None]),
                _share([_right(line) or line["found"] is None for line in weak]),
                _share(shown),
                _share([line["found"] is None for line in null]),
                f"{np.mean(errors):.2f}" if errors else "–",
                f"{np.mean([line['seconds'] for line in own]):.0f}",
            ]
        )
    heads = [
        "rule",
        "purity ≥ 0.75: right",
        "… of those where a number is said",
        "purity < 0.75: right or no number",
        "… the true number among the levels shown",
        "no groups: no number",
        "mean abs log₂ error of numbers said",
        "CPU s",
    ]
    return grid(heads, rows)


def _drift_table(lines: list[dict[str, Any]]) -> str:
    sources = sorted({(line["draw"]["source"], line["draw"]["n_samples"]) for line in lines})
    rows = []
    for rule in RULES:
        found = {
            (line["draw"]["source"], line["draw"]["n_samples"]): line["found"]
            for line in lines
            if line["rule"] == rule
        }
        if found:
            rows.append(
                [rule, *(str(found.get(place) or "none") if place in found else "–" for place in sources)]
            )
    return grid(["rule", *(f"{source.removesuffix('-drift')}, {n:,}" for source, n in sources)], rows)


def _right(line: dict[str, Any]) -> bool:
    return is_right(line["draw"]["n_classes"], line["found"])


def _is_shown(line: dict[str, Any]) -> bool:
    """Tell whether a level that the page offers is right."""
    n_classes, n_samples = line["draw"]["n_classes"], line["draw"]["n_samples"]
    finest = round(count_level_parts(n_samples, line["chosen"]))
    offered = {*line["candidates"], line["chosen"], *space_numbers(2, finest, SUGGESTED_FACTOR)}
    return any(is_right(n_classes, number) for number in offered)


def _share(values: list[bool]) -> str:
    return f"{sum(values)} of {len(values)}" if values else "–"


def _key(draw: dict[str, Any]) -> str:
    return json.dumps(draw, sort_keys=True)


def _purity(X: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    graph = knn_graph(X, n_neighbors=min(10, len(X) - 1), zero_rows="isolate")
    owners = np.repeat(y, graph.degrees)
    return round(float(np.mean(y[np.asarray(graph.indices)] == owners)), 4)


def _read() -> list[dict[str, Any]]:
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Run or show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("--half", choices=("developed", "judged"), default="judged")
    parser.add_argument("--data", type=Path, default=os.environ.get("KINFOLD_DATA"))
    parser.add_argument("--rule", nargs="+", choices=tuple(RULES))
    order = parser.parse_args()
    if order.what == "show":
        print(show())
        return
    if order.data is None:
        parser.error("say where the data are: --data or KINFOLD_DATA")
    installed = [rule for rule in RULES if rule != "EVoC" or importlib.util.find_spec("evoc")]
    run(order.half, Path(order.data), order.rule or installed)


if __name__ == "__main__":
    main()
