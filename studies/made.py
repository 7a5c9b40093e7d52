"""Made joint spaces of images and nouns that were fixed before anything was run on them.

They have what makes real ones hard for k-means and what lets words help:

- every class has a direction, and images lie in a narrow cone away from the nouns' (the modality gap);
- images vary by style more than by class: twelve directions that all classes share, each strong in some
  images, so that images group by style as well;
- classes have four nouns each, close to their direction; every style has nouns too, which mislead; most
  nouns mean nothing in these images.

In two of them styles are three times as strong, and in one of these no noun names a style: words then tell
what is meant where looks do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DIM, N_STYLES, N_NOUNS = 64, 12, 2000
GAP, STYLE, NOISE, NOUN_NOISE = 1.5, 1.0, 0.8, 0.4
STRONG_STYLE = 3.0


@dataclass(frozen=True)
class MadeSpace:
    """Images (N, 64) with their classes (N,), and nouns (V, 64)."""

    X: NDArray[np.float32]
    y: NDArray[np.int64]
    noun_features: NDArray[np.float32]


def make_joint_space(
    n_clusters: int, n_samples: int, seed: int, *, style: float = STYLE, named_styles: bool = True
) -> MadeSpace:
    """Return a space made of independent standard normal draws, all directions at unit length.

    An image is ``GAP · a + c_k + style · |z| · s_j + NOISE · e``: a the cone's axis, c_k the direction of its
    class, s_j that of a random style, z a standard normal number, e a random direction. A noun is
    ``GAP · b + d + NOUN_NOISE · e``: b the other cone's axis, d the direction of a class (four each), of a
    style (ten each, if ``named_styles``), or a random one (all others).
    """
    random = np.random.default_rng(seed)

    def directions(n: int) -> NDArray[np.float64]:
        rows = random.normal(size=(n, DIM))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    classes, styles, axes = directions(n_clusters), directions(N_STYLES), directions(2)
    y = np.arange(n_samples) % n_clusters
    looks = styles[random.integers(N_STYLES, size=n_samples)]
    strength = np.abs(random.normal(size=(n_samples, 1)))
    X = GAP * axes[0] + classes[y] + style * strength * looks + NOISE * directions(n_samples)
    meanings = np.repeat(classes, 4, axis=0)
    if named_styles:
        meanings = np.concatenate([meanings, np.repeat(styles, 10, axis=0)])
    meanings = np.concatenate([meanings, directions(N_NOUNS - len(meanings))])
    nouns = GAP * axes[1] + meanings + NOUN_NOISE * directions(N_NOUNS)
    return MadeSpace(X.astype(np.float32), y, nouns.astype(np.float32))
