from __future__ import annotations

import importlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kinfold.backbones import Preprocessing
from kinfold.backbones._transformers import parse_processor, read_preprocessing
from kinfold.errors import InputError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


def pil_processor(model: str, name: str) -> Any:
    """Return transformers' own processor in the flavour that needs no torchvision."""
    home = "transformers.models"
    try:
        module = importlib.import_module(f"{home}.{model}.image_processing_pil_{model}")
        return getattr(module, f"{name}Pil")
    except ModuleNotFoundError:
        return getattr(importlib.import_module(f"{home}.{model}.image_processing_{model}"), name)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return something smooth with edges in it, as photographs are."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    image.paste((250, 20, 30), (width // 3, height // 3, width // 2, height // 2))
    return image


PROCESSORS = [
    (
        "bit",
        "BitImageProcessor",
        {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
    ),
    ("bit", "BitImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 56}}),
    ("clip", "CLIPImageProcessor", {}),
    ("vit", "ViTImageProcessor", {"size": {"height": 224, "width": 224}}),
    ("vit", "ViTImageProcessor", {"size": {"height": 40, "width": 30}, "do_normalize": False}),
    ("siglip", "SiglipImageProcessor", {"size": {"height": 128, "width": 128}}),
]


@pytest.mark.parametrize(("model", "name", "settings"), PROCESSORS)
@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (300, 300), (801, 257), (60, 90)])
def test_output_equals_the_processor_of_transformers(model, name, settings, shape, tmp_path):
    processor = pil_processor(model, name)(**settings)
    processor.save_pretrained(tmp_path)
    ours = read_preprocessing(tmp_path, Preprocessing())
    image = photo(*shape)
    theirs = np.asarray(processor(images=image, return_tensors="np")["pixel_values"])[0]
    pixels = ours(image)
    assert pixels.dtype == np.uint8
    scaled = (pixels * ours.rescale - np.array(ours.mean)) / np.array(ours.std)
    # one grey level of 255 at the most, at the scale of the normalised values
    np.testing.assert_allclose(scaled.transpose(2, 0, 1), theirs, atol=1.01 / 255 / min(ours.std))


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
    [{"interpolation": "cubic"}, {"height": 0}, {"resize": 100}],
    ids=["filter", "size", "crop larger than image"],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        Preprocessing(**wrong)


def test_old_and_new_ways_to_write_sizes_are_read():
    base = Preprocessing()
    feature_extractor = {"size": 384, "do_resize": True, "do_normalize": True}
    assert (
        parse_processor(feature_extractor, base).height,
        parse_processor(feature_extractor, base).resize,
    ) == (384, None)
    old_clip = {"size": 224, "crop_size": 224, "do_center_crop": True, "resample": 3, "image_mean": CLIP_MEAN}
    parsed = parse_processor(old_clip, base)
    assert (parsed.height, parsed.width, parsed.resize, parsed.mean) == (224, 224, 224, CLIP_MEAN)
    convnext = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 2}
    parsed = parse_processor(convnext, base)
    assert (parsed.height, parsed.resize, parsed.interpolation) == (224, 256, "bilinear")
    flexible = {"patch_size": 16, "max_num_patches": 256, "resample": 2}
    assert parse_processor(flexible, base).height == 256
    squash_then_crop = {
        "size": {"height": 256, "width": 256},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
    }
    parsed = parse_processor(squash_then_crop, base)
    assert (parsed.height, parsed.resize) == (224, 256)


def test_what_a_processor_file_leaves_out_comes_from_the_default():
    default = Preprocessing(32, 32, 36, "bilinear", CLIP_MEAN, (0.1, 0.2, 0.3))
    parsed = parse_processor({}, default)
    assert (parsed.height, parsed.interpolation, parsed.mean, parsed.std) == (
        32,
        "bilinear",
        CLIP_MEAN,
        default.std,
    )


def test_a_size_that_is_not_fixed_is_refused():
    with pytest.raises(InputError, match="fixed size"):
        parse_processor({"size": {"longest_edge": 512}}, Preprocessing())


def test_the_processor_inside_a_processor_file_is_found(tmp_path: Path):
    content = {"image_processor": {"size": {"height": 64, "width": 64}}, "processor_class": "X"}
    (tmp_path / "processor_config.json").write_text(json.dumps(content))
    assert read_preprocessing(tmp_path, Preprocessing()).height == 64


def test_a_directory_without_processor_file_warns_and_takes_the_default(tmp_path, caplog):
    default = Preprocessing(32, 32, 32)
    assert read_preprocessing(tmp_path, default) == default
    assert "preprocessor_config.json" in caplog.text


@pytest.mark.parametrize(
    ("resize", "says"),
    [
        (50, "resized to 50 pixels, the centre cropped to 32 × 48 pixels"),
        (None, "squashed to 32 × 48 pixels"),
    ],
)
def test_a_guessed_preprocessing_is_said_in_words(resize, says, tmp_path, caplog):
    default = Preprocessing(32, 48, resize, "bilinear", (0.5, 0.4, 0.25), (0.1, 0.2, 0.3))
    read_preprocessing(tmp_path, default)
    assert says in caplog.text
    assert "(bilinear)" in caplog.text
    assert "mean 0.5, 0.4, 0.25, deviation 0.1, 0.2, 0.3" in caplog.text
    assert "Preprocessing(" not in caplog.text
