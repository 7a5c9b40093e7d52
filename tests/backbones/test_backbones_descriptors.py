from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from kinfold.backbones import load_backbone
from kinfold.backbones._descriptors import oriented_gradients
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


def digits(n):
    from sklearn.datasets import load_digits

    data, labels = load_digits(return_X_y=True)
    pictures = [
        Image.fromarray((row.reshape(8, 8) * 255 / 16).round().astype(np.uint8)).convert("RGB")
        for row in data[:n]
    ]
    return pictures, labels[:n]


def noise(n, sides, *, n_channels=(3, 3)):
    """Random images, from two levels to all 256, each side and number of channels drawn from a range."""
    random = np.random.default_rng(0)
    for _ in range(n):
        shape = [int(random.integers(low, high + 1)) for low, high in (sides, sides, n_channels)]
        levels = int(random.integers(2, 257))
        yield (random.integers(0, levels, shape) * (255 // (levels - 1))).astype(np.uint8)


@pytest.mark.parametrize("kind", ["digits", "photographs", "noise", "any size", "one color"])
def test_oriented_gradients_are_those_of_scikit_image_to_the_bit(kind):
    from skimage.feature import hog
    from sklearn.datasets import load_sample_images

    images = {
        "digits": lambda: [load_backbone("hog").transform.preprocessing(each) for each in digits(200)[0]],
        "photographs": lambda: load_sample_images().images,
        "noise": lambda: noise(50, (64, 64)),
        "any size": lambda: noise(50, (16, 90), n_channels=(1, 4)),
        "one color": lambda: [np.full((64, 64, 3), level, np.uint8) for level in (0, 1, 128, 255)],
    }
    for image in images[kind]():
        expected = hog(image, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2), channel_axis=-1)
        np.testing.assert_array_equal(oriented_gradients(image), expected)


def test_an_edge_votes_for_its_orientation():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 30:] = 200  # dark to bright from left to right: 0°
    upright, lying = (
        oriented_gradients(each).reshape(-1, 9).sum(axis=0) for each in (image, image.transpose(1, 0, 2))
    )
    assert np.flatnonzero(upright).tolist() == [0]
    assert np.flatnonzero(lying).tolist() == [4]  # 80° to 100°


@pytest.mark.parametrize(("name", "least"), [("pixels", 0.95), ("hog", 0.95)])
def test_neighbours_of_digits_share_the_digit(name, least):
    pictures, labels = digits(900)
    assert neighbour_purity(embed(name, pictures), labels, 5) >= least


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
    # Features in stores are found by it: it may change only together with the numbers themselves.
    expected = "1d30ab84dc729ab38a93af934687f84d5e057a15096faed6de614f91901c9b24"
    assert load_backbone("hog").fingerprint() == expected


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
