from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from kinfold.backbones import load_backbone
from kinfold.errors import InputError

NAMES = ("pixels", "hog")


def embed(name, pictures):
    backbone = load_backbone(name)
    return backbone.embed(np.stack([backbone.transform(p) for p in pictures]), ("cls",))["cls"]


def neighbour_purity(vectors, labels, k):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argpartition(-similarity, k, axis=1)[:, :k]
    return (labels[nearest] == labels[:, None]).mean()


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_float32_finite_and_the_same_on_every_call(name, pictures):
    first, second = embed(name, pictures), embed(name, pictures)
    assert first.dtype == np.float32
    assert first.shape == (len(pictures), load_backbone(name).variants["cls"])
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0)])
def test_no_image_gives_a_zero_vector(name, colour):
    vectors = embed(name, [Image.new("RGB", (8, 8), colour)])
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors) > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_any_size_and_mode_works(name):
    pictures = [Image.new(mode, size, 1) for mode in ("RGB", "L", "P") for size in ((1, 1), (8, 8), (1, 400))]
    assert len(embed(name, pictures)) == 9


@pytest.mark.parametrize(("name", "least"), [("pixels", 0.95), ("hog", 0.95)])
def test_neighbours_of_digits_share_the_digit(name, least):
    from sklearn.datasets import load_digits

    data, labels = load_digits(return_X_y=True)
    pictures = [
        Image.fromarray((row.reshape(8, 8) * 255 / 16).round().astype(np.uint8)).convert("RGB")
        for row in data[:900]
    ]
    assert neighbour_purity(embed(name, pictures), labels[:900], 5) >= least


def test_hog_tells_colours_of_the_same_shape_apart_and_shapes_of_the_same_colour():
    def picture(colour, upright):
        image = Image.new("RGB", (64, 64), (200, 200, 200))
        image.paste(colour, (28, 8, 36, 56) if upright else (8, 28, 56, 36))
        return image

    red, blue, lying = embed(
        "hog", [picture((255, 0, 0), True), picture((0, 0, 255), True), picture((255, 0, 0), False)]
    )

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    assert cosine(red, lying) < cosine(red, blue) < 0.999


@pytest.mark.parametrize("name", NAMES)
def test_a_descriptor_says_what_a_manifest_needs(name):
    import json

    described = json.loads(json.dumps(load_backbone(name).describe()))
    assert described["spec"] == name
    assert described["precision"] == "float32"
    assert len(described["fingerprint"]) == 64
    assert described["batch_size"] == load_backbone(name).find_batch_size() > 0


def test_fingerprints_differ_between_descriptors_and_stay():
    assert load_backbone("pixels").fingerprint() != load_backbone("hog").fingerprint()
    assert load_backbone("hog").fingerprint() == load_backbone("hog", device="cpu").fingerprint()


@pytest.mark.parametrize("name", NAMES)
def test_transforms_travel_to_workers_by_pickle(name, pictures):
    transform = load_backbone(name).transform
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(transform))(pictures[0]), transform(pictures[0]))


def test_unknown_variants_and_wrong_shapes_are_refused():
    backbone = load_backbone("pixels")
    with pytest.raises(InputError, match="it has: cls"):
        backbone.embed(np.zeros((2, 768), np.float32), ("cls+patches",))
    with pytest.raises(InputError, match="shape"):
        backbone.embed(np.zeros((2, 5), np.float32), ("cls",))
