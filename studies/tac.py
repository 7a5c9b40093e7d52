"""What each part of TAC is for, on a made joint space that was fixed before anything was run on it.

``python -m studies.tac`` fits the variants of the paper's Tables 4 to 6 and prints a table.

The space (:func:`make_joint_space`) has what makes real ones hard for k-means and what lets words help:

- every class has a direction, and images lie in a narrow cone away from the nouns' (the modality gap);
- images vary by style more than by class: twelve directions that all classes share, each strong in some
  images, so that images group by style as well;
- classes have four nouns each, close to their direction; every style has nouns too, which mislead; most
  nouns mean nothing in these images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, pstdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold import TAC, SphericalKMeans
from kinfold.metrics import adjusted_rand_index, clustering_accuracy, normalized_mutual_info

DIM, N_STYLES, N_NOUNS = 64, 12, 2000
GAP, STYLE, NOISE, NOUN_NOISE = 1.5, 1.0, 0.8, 0.4

LOSSES: Mapping[str, Mapping[str, Any]] = {
    "TAC": {},
    "balance off": {"balance_weight": 0},
    "confidence off": {"confidence": False},
    "distillation off": {"distillation": "none"},
    "distillation alone": {"balance_weight": 0, "confidence": False},
    "text → image alone": {"distillation": "text_to_image"},
    "image → text alone": {"distillation": "image_to_text"},
}
SPACES: Mapping[str, Mapping[str, Any]] = {
    f"{title}{name}": {"centres": name, "train": train}
    for title, train in (("centres: ", True), ("no training, centres: ", False))
    for name in ("kmeans", "agglomerative", "spectral", "dbscan", "louvain", "none")
    if not (train and name == "kmeans")
}


@dataclass(frozen=True)
class JointSpace:
    """Images (N, 64) with their classes (N,), and nouns (V, 64)."""

    X: NDArray[np.float32]
    truth: NDArray[np.int64]
    nouns: NDArray[np.float32]


def make_joint_space(n_clusters: int, n_samples: int, seed: int) -> JointSpace:
    """Return a space made of independent standard normal draws, all directions at unit length.

    An image is ``GAP · a + c_k + STYLE · |z| · s_j + NOISE · e``: a the cone's axis, c_k the direction of its
    class, s_j that of a random style, z a standard normal number, e a random direction. A noun is
    ``GAP · b + d + NOUN_NOISE · e``: b the other cone's axis, d the direction of a class (four each), of a
    style (ten each), or a random one (all others).
    """
    random = np.random.default_rng(seed)

    def directions(n: int) -> NDArray[np.float64]:
        rows = random.normal(size=(n, DIM))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    classes, styles, axes = directions(n_clusters), directions(N_STYLES), directions(2)
    truth = np.arange(n_samples) % n_clusters
    style = styles[random.integers(N_STYLES, size=n_samples)]
    strength = np.abs(random.normal(size=(n_samples, 1)))
    X = GAP * axes[0] + classes[truth] + STYLE * strength * style + NOISE * directions(n_samples)
    meanings = np.concatenate([np.repeat(classes, 4, axis=0), np.repeat(styles, 10, axis=0)])
    meanings = np.concatenate([meanings, directions(N_NOUNS - len(meanings))])
    nouns = GAP * axes[1] + meanings + NOUN_NOISE * directions(N_NOUNS)
    return JointSpace(X.astype(np.float32), truth, nouns.astype(np.float32))


@dataclass(frozen=True)
class Outcome:
    """How one fit agrees with the classes, how many clusters live, and its processor seconds."""

    acc: float
    nmi: float
    ari: float
    live: float
    seconds: float


def fit(space: JointSpace, n_clusters: int, parameters: Mapping[str, Any] | None, seed: int) -> Outcome:
    """Fit k-means, where there are no parameters, or a variant of TAC."""
    model: Any
    if parameters is None:
        model = SphericalKMeans(n_clusters=n_clusters, random_state=seed, device="cpu")
    else:
        model = TAC(
            n_clusters=n_clusters, noun_features=space.nouns, random_state=seed, device="cpu", **parameters
        )
    started = time.process_time()
    labels = model.fit(space.X).labels_
    return Outcome(
        clustering_accuracy(space.truth, labels),
        normalized_mutual_info(space.truth, labels),
        adjusted_rand_index(space.truth, labels),
        len(np.unique(labels)),
        time.process_time() - started,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m studies.tac", description=__doc__)
    parser.add_argument("--n-clusters", type=int, default=10)
    parser.add_argument("--n-samples", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--losses-alone", action="store_true", help="leave the ways to centres out")
    options = parser.parse_args(arguments)
    rows: dict[str, Mapping[str, Any] | None] = {"k-means": None, **LOSSES}
    rows |= {"no training": {"train": False}} if options.losses_alone else SPACES
    print(f"K = {options.n_clusters}, N = {options.n_samples}, {options.seeds} seeds\n")
    print("|  | ACC | NMI | ARI | live clusters | CPU s |\n| --- | --- | --- | --- | --- | --- |")
    for name, parameters in rows.items():
        outcomes = [
            fit(make_joint_space(options.n_clusters, options.n_samples, s), options.n_clusters, parameters, s)
            for s in range(options.seeds)
        ]
        scores = [_show([getattr(o, key) for o in outcomes]) for key in ("acc", "nmi", "ari")]
        live, seconds = mean(o.live for o in outcomes), mean(o.seconds for o in outcomes)
        print(f"| {name} | {' | '.join(scores)} | {live:.1f} | {seconds:.0f} |", flush=True)


def _show(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ± {pstdev(values):.3f}"


if __name__ == "__main__":
    main()
