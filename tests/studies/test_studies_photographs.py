"""Claims about the photographs of the studies: what is read of the archive, and how features are made."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from kinfold.errors import InputError
from kinfold.neighbors import knn_graph
from studies import photographs
from studies.criteria import purity
from studies.data import Split, load_data, what_is_missing
from studies.fit import mixed_graph

WNIDS = ("n02", "n01")


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(f"tiny-imagenet-100/{name}")
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def drawn_image(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An archive of two classes, three training images and a validation image each, and a quick backbone."""
    monkeypatch.setenv("KINFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(photographs, "BACKBONE", "hog")
    monkeypatch.setattr(photographs, "_PACKAGE", "kinfold")
    with tarfile.open(tmp_path / photographs.ARCHIVE, "w") as archive:
        for number, wnid in enumerate(WNIDS):
            add(archive, f"train/{wnid}/{wnid}_boxes.txt", b"boxes")
            for image in range(3):
                add(archive, f"train/{wnid}/images/{wnid}_{image}.JPEG", drawn_image(10 * number + image))
            add(archive, f"val/images/val_{number}.JPEG", drawn_image(100 + number))
        lines = "".join(f"val_{number}.JPEG\t{wnid}\t0\t0\t9\t9\n" for number, wnid in enumerate(WNIDS))
        add(archive, "val/val_annotations.txt", lines.encode())
    return tmp_path


def test_classes_come_from_folders_and_annotations_in_the_order_of_wordnet_ids(folder):
    (X, y), (tested, classes) = photographs.load_photographs(folder)
    assert (X.shape[0], X.dtype, tested.shape[0]) == (6, np.float32, 2)
    assert sorted(y) == [0, 0, 0, 1, 1, 1]
    assert sorted(classes) == [0, 1]
    again, _ = photographs.load_photographs(folder)  # from the cache
    np.testing.assert_array_equal(again[0], X)


def test_a_training_image_is_of_the_folder_above_and_a_validation_image_as_annotated():
    keys = ["top/train/n07/images/n07_1.JPEG", "top/val/images/val_3.JPEG"]
    names, held_out = photographs.read_classes(keys, {"val_3.JPEG": "n09"})
    assert names.tolist() == ["n07", "n09"]
    assert held_out.tolist() == [False, True]


def test_leading_directions_are_the_first_right_singular_vectors():
    X = (np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 9)).astype(np.float32)
    found = photographs.leading_directions(X, 3)
    expected = np.linalg.svd(X, full_matrices=False)[2][:3].T
    np.testing.assert_allclose(np.abs((found * expected).sum(axis=0)), 1, atol=1e-4)
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-5)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KINFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(photographs, "_PACKAGE", "no_such_package")
    assert "KINFOLD_DATA" in what_is_missing("tiny-imagenet-6000", None)
    assert "tiny_imagenet_100.tar is missing" in what_is_missing("tiny-imagenet-6000", tmp_path)
    (tmp_path / photographs.ARCHIVE).touch()
    assert "kinfold[small]" in what_is_missing("tiny-imagenet-6000", tmp_path)
    with pytest.raises(InputError, match=r"kinfold\[small\]"):
        load_data("tiny-imagenet-6000", 0, tmp_path)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_made_neighbours_are_of_the_class_in_the_share_asked_for_and_else_the_most_similar(share):
    random = np.random.default_rng(0)
    data = Split(random.normal(size=(60, 5)).astype(np.float32), np.arange(60) % 3)
    graph = mixed_graph(data, 8, share, seed=0)
    assert set(graph.degrees) == {8}
    assert purity(data.y, graph) == share
    ranked = knn_graph(data.X, 59)
    for row in range(60):
        # Those of knn_graph stand in the order of similarity.
        others = [j for j in ranked.neighbors(row) if data.y[j] != data.y[row]][: round(8 * (1 - share))]
        assert {j for j in graph.neighbors(row) if data.y[j] != data.y[row]} == set(others)
