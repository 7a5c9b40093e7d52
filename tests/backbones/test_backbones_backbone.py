from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from kinfold.backbones import Preprocessing, load_backbone
from kinfold.errors import InputError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXELS = "cfeb5b194b9a570e04fcb78a63619dbeb8978706a4012877ee8e95c54159e09b"


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return something smooth with edges in it, as photographs are."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    image.paste((250, 20, 30), (width // 3, height // 3, width // 2, height // 2))
    return image


def test_output_is_uint8_of_a_fixed_shape_for_any_image():
    preprocessing = Preprocessing(height=32, width=24, resize=40)
    for size in ((1, 1), (1, 5000), (5000, 1), (40, 40), (7, 300)):
        for mode in ("RGB", "L", "P"):
            pixels = preprocessing(Image.new(mode, size))
            assert pixels.shape == (32, 24, 3)
            assert pixels.dtype == np.uint8


def test_a_long_strip_needs_no_more_memory_than_its_middle():
    strip = photo(4000, 20)
    preprocessing = Preprocessing(height=32, width=32, resize=40)
    middle = strip.crop((1960, 0, 2040, 20))
    np.testing.assert_array_equal(preprocessing(strip), preprocessing(middle))


def test_it_travels_to_workers_by_pickle_and_compares_by_value():
    preprocessing = Preprocessing(mean=CLIP_MEAN)
    assert pickle.loads(pickle.dumps(preprocessing)) == preprocessing
    with pytest.raises(AttributeError):
        preprocessing.height = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [{"interpolation": "cubic"}, {"height": 0}, {"resize": 0}, {"resize": None, "squash": (0, 3)}],
    ids=["filter", "size", "shorter side", "squashed size"],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        Preprocessing(**wrong)


def test_a_crop_that_is_larger_than_the_image_is_filled_with_black():
    white = Image.new("RGB", (20, 10), "white")
    pixels = Preprocessing(height=15, width=12, resize=10)(white)
    assert (pixels[[0, 1, 2, 13, 14]] == 0).all()  # the odd row goes above, as in transformers
    assert (pixels[3:13] == 255).all()
    pixels = Preprocessing(height=15, width=12, resize=10, crop_rounds=True)(white)
    assert (pixels[[0, 1, 12, 13, 14]] == 0).all()  # and below in torchvision


@pytest.mark.parametrize("size", [(4001, 20), (20, 4001), (1000, 1), (1, 999), (70000, 3), (203, 40)])
@pytest.mark.parametrize("filter_name", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_the_middle_of_a_strip_is_what_resizing_all_of_it_gives(size, filter_name):
    strip = photo(*size)
    preprocessing = Preprocessing(height=31, width=32, resize=40, interpolation=filter_name)
    scale = 40 / min(size)
    width, height = (40 if side == min(size) else int(side * scale) for side in size)
    whole = strip.resize((width, height), Image.Resampling[filter_name.upper()])
    left, top = (width - 32) // 2, (height - 31) // 2
    expected = np.asarray(whole.crop((left, top, left + 32, top + 31)), dtype=int)
    assert np.abs(preprocessing(strip).astype(int) - expected).max() <= 1


def test_settings_that_came_later_leave_older_fingerprints_as_they_were():
    older = ("height", "width", "resize", "interpolation", "mean", "std", "rescale")
    assert tuple(Preprocessing().facts()) == older
    assert tuple(Preprocessing(crop_rounds=True).facts()) == older
    assert "bgr" in Preprocessing(bgr=True).facts()
    assert Preprocessing(resize=None, squash=(9, 9)).facts()["squash"] == (9, 9)
    # As computed before those settings were known.
    assert load_backbone("pixels").fingerprint() == PIXELS


def test_channels_can_be_turned_round():
    red = Image.new("RGB", (40, 40), (200, 20, 10))
    assert Preprocessing(8, 8, 8, bgr=True)(red)[0, 0].tolist() == [10, 20, 200]
