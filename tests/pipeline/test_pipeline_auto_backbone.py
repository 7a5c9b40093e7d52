"""Claims about the backbone that is taken where none is named."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import kinfold
from kinfold.backbones import _efficientnet_lite, _hub

pytestmark = pytest.mark.skipif(
    not _efficientnet_lite.is_installed(), reason="the small network isn't installed"
)


@pytest.fixture
def photographs(tmp_path):
    """Twenty squares cut out of each of two photographs."""
    rng = np.random.default_rng(0)
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            left, top = int(rng.integers(0, 440)), int(rng.integers(0, 220))
            cut = Image.fromarray(pixels[top : top + 200, left : left + 200])
            cut.save(tmp_path / "photos" / name / f"{number:02d}.jpg")
    return tmp_path / "photos"


def fit(photographs, out, **more):
    return kinfold.cluster(
        photographs, 2, method="kmeans", out=out, device="cpu", precision="float32", report=False, **more
    )


def test_without_a_hub_the_small_network_sorts_photographs(photographs, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(_hub, "_has_answer_about", lambda source, timeout: False)
    run = fit(photographs, tmp_path / "run")
    assert run.manifest.backbone["spec"] == "efficientnet-lite0"
    evaluation = kinfold.evaluate(run, "folder")
    assert evaluation.accuracy == 1.0
    assert sum("embedded by efficientnet-lite0" in record.getMessage() for record in caplog.records) == 1


def test_a_run_stays_with_its_backbone_when_the_hub_is_back(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(_hub, "_has_answer_about", lambda source, timeout: False)
    out = tmp_path / "run"
    first = fit(photographs, out)
    asked = []
    monkeypatch.setattr(_hub, "_has_answer_about", lambda source, timeout: asked.append(source) or True)
    again = fit(photographs, out)
    assert asked == []
    assert again.manifest.backbone["spec"] == "efficientnet-lite0"
    assert np.array_equal(again.labels, first.labels)
    store = kinfold.embed(photographs, out / "features", device="cpu", precision="float32")
    assert (asked, store.backbone["card"]["name"]) == ([], "efficientnet-lite0")
