"""ReaL's protocol on ReaL's labels, which the timm package carries."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest

from kinfold.metrics import LabelSets, drawn_label_accuracy

N_CLASSES = 1000


@pytest.fixture(scope="module")
def real():
    """Labels of the 50,000 validation images, some with none."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        pytest.skip("ReaL's labels come with timm: pip install timm")
    path = Path(spec.origin).parent / "data" / "_info" / "imagenet_real_labels.json"
    return json.loads(path.read_text())


def guesses(real, qualities, seed):
    """Return ranked clusters and whether each is right: rank r in the set with its chance, else outside."""
    rng = random.Random(seed)
    names = rng.sample(range(N_CLASSES), N_CLASSES)
    clusters, right = [], []
    for some in real:
        hits = [bool(some) and rng.random() < quality for quality in qualities]
        wrong = iter([label for label in rng.sample(range(N_CLASSES), 40) if label not in some])
        clusters.append([names[rng.choice(some) if hit else next(wrong)] for hit in hits])
        if some:
            right.append(hits)
    return np.array(clusters), np.array(right)


@pytest.mark.parametrize("quality", [0.3, 0.75])
def test_fifty_draws_recover_the_quality_of_made_predictions(real, quality):
    clusters, hits = guesses(real, (quality, 0.2), seed=0)
    found = drawn_label_accuracy(LabelSets.from_lists(real), clusters, ks=(1, 2))
    assert len(real) == 50_000
    assert (found.n_draws, found.n_samples + found.n_without_label) == (50, 50_000)
    assert found.n_without_label == sum(not some for some in real)
    both = 1 - (1 - quality) * (1 - 0.2)
    for k, expected in ((1, quality), (2, both)):
        error = np.sqrt(expected * (1 - expected) / found.n_samples)
        assert abs(found.means[k] - expected) < 2 * error
        # Beside the very guesses that were made, only the draws are left to chance.
        assert abs(found.means[k] - hits[:, :k].any(axis=1).mean()) < 0.5 * error
        assert found.deviations[k] < error
