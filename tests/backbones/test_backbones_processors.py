"""Kinfold's preprocessing against transformers' own image processors, pixel by pixel.

``pytest tests/backbones/test_backbones_processors.py -k families -o log_cli=true --log-cli-level=INFO``
shows how many families are compared and the largest difference.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kinfold.backbones import Preprocessing
from kinfold.backbones._processors import parse_processor, read_preprocessing
from kinfold.errors import FormatError, InputError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)

logger = logging.getLogger(__name__)

# Processors whose own settings must be obeyed; those of all other families must be refused.
OBEYED = (
    *("Beit", "Bit", "Blip", "CLIP", "ChineseCLIP", "ConvNext", "DPT", "DeiT", "EfficientNet", "Levit"),
    *("MobileNetV1", "MobileNetV2", "MobileViT", "PoolFormer", "Pvt", "Segformer", "Siglip", "ViT"),
)
# Settings that are tried on every processor, whether it heeds them or not.
SETTINGS: list[dict[str, Any]] = [
    {"do_normalize": False},
    {"do_rescale": False},
    {"rescale_factor": 1 / 127.5},
    {"do_normalize": False, "do_rescale": False},
    {"rescale_offset": True, "rescale_factor": 1 / 127.5},
    {"rescale_offset": True, "rescale_factor": 1 / 127.5, "do_normalize": False},
    {"include_top": False},
    {"include_top": True, "do_normalize": False},
    {"do_flip_channel_order": True},
    {"do_flip_channel_order": False},
    {"image_mean": [0.1, 0.5, 0.9], "image_std": [0.3, 0.25, 0.2]},
    {"image_mean": 0.4, "image_std": 0.3},
    {"size": 64},
    {"size": 64, "crop_size": 56},
    {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 48}},
    {"size": {"shortest_edge": 65}, "crop_size": {"height": 56, "width": 48}, "crop_pct": 0.8},
    {"size": {"shortest_edge": 48}, "crop_size": {"height": 56, "width": 61}, "do_center_crop": True},
    {"size": {"height": 64, "width": 48}},
    {"size": {"height": 64, "width": 48}, "do_center_crop": False},
    {"size": {"height": 64, "width": 48}, "do_center_crop": True, "crop_size": {"height": 41, "width": 41}},
    {"size": {"height": 64, "width": 64}, "crop_pct": 0.7, "do_center_crop": True, "crop_size": 60},
    {"size": {"shortest_edge": 400}, "crop_size": {"height": 384, "width": 384}},
    {"size": {"shortest_edge": 384}, "do_center_crop": False},
    {"size": {"shortest_edge": 383}, "crop_pct": 0.9, "do_center_crop": False},
    {"size": {"shortest_edge": 64, "longest_edge": 96}, "crop_size": 48},
    {"size": {"height": 64, "width": 48}, "ensure_multiple_of": 14},
    {"size": {"height": 64, "width": 48}, "keep_aspect_ratio": True},
    {"size": {"height": 64, "width": 48}, "do_pad": True, "size_divisor": 10},
    {"do_pad": True, "pad_size": {"height": 700, "width": 700}},
    {"do_center_crop": True},
    {"do_center_crop": False},
    {"do_resize": False},
    {"default_to_square": False, "size": 64, "crop_size": 48},
    *({"resample": code} for code in range(6)),
]
SHAPES = [(420, 300), (300, 420), (300, 300), (801, 257), (60, 90), (1, 1), (401, 1), (1, 37), (999, 30)]


def photo(width: int, height: int) -> Image.Image:
    """Return something smooth, with edges and without symmetry: crops, turns and swapped channels show."""
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    image.paste((250, 20, 130), (width // 3, height // 3, width // 2, height // 2))
    return image


def processor_class(name: str) -> Any:
    """Return transformers' own processor in the flavour that needs no torchvision."""
    import transformers

    for ending in ("Pil", ""):
        if hasattr(transformers, f"{name}ImageProcessor{ending}"):
            return getattr(transformers, f"{name}ImageProcessor{ending}")
    pytest.skip(f"transformers {transformers.__version__} has no {name}ImageProcessor")


def differ(ours: Preprocessing, theirs: np.ndarray, image: Image.Image, summary: Any = np.max) -> float:
    """Return the largest (or mean) difference, in grey levels of 255."""
    scaled = (ours(image) * ours.rescale - np.array(ours.mean)) / np.array(ours.std)
    assert theirs.shape == (3, *scaled.shape[:2])
    level = ours.rescale / np.array(ours.std)
    return float(summary(np.abs((scaled.transpose(2, 0, 1) - theirs) / level[:, None, None])))


def run(processor: Any, image: Image.Image) -> np.ndarray:
    return np.asarray(processor(images=image, return_tensors="np")["pixel_values"])[0]


def families() -> dict[str, str]:
    """Return the model types that Kinfold may load and that have an image processor, with its name."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    bare, found = transformers.AutoModel._model_mapping, {}
    for kind, names in IMAGE_PROCESSOR_MAPPING_NAMES.items():
        config = transformers.CONFIG_MAPPING[kind]
        if config not in bare:
            continue
        model = bare[config]
        model = model[0] if isinstance(model, tuple) else model
        composite = getattr(config(), "vision_config", None) is not None and kind not in ("clip", "siglip")
        if model.main_input_name == "pixel_values" and not composite:
            names = list(names.values()) if isinstance(names, dict) else names
            first = next(n for n in names if n) if isinstance(names, (tuple, list)) else names
            found[kind] = first.split("ImageProcessor")[0]
    return found


@pytest.mark.parametrize("name", OBEYED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_processor_with_its_own_settings_is_obeyed_to_a_grey_level(name, shape, tmp_path):
    made = {"size": {"shortest_edge": 224}} if name == "ConvNext" else {}
    for settings in ({}, made):
        processor = processor_class(name)(**settings)
        processor.save_pretrained(tmp_path)
        ours = read_preprocessing(tmp_path, Preprocessing())
        image = photo(*shape)
        assert differ(ours, run(processor, image), image) <= 1.01


@pytest.mark.parametrize("name", OBEYED)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_setting_is_obeyed_to_a_grey_level_or_refused_by_its_name(name, settings, tmp_path):
    processor = processor_class(name)(**settings)
    processor.save_pretrained(tmp_path)
    try:
        ours = read_preprocessing(tmp_path, Preprocessing())
    except InputError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert any(f"{key} is" in refusal for key in (*settings, "size", "do_center_crop", "pad_size"))
        assert str(tmp_path) in refusal
        return
    for shape in ((420, 301), (50, 77)):
        image = photo(*shape)
        try:
            theirs = run(processor, image)
        except (ValueError, TypeError):  # transformers makes nothing of it either
            return
        assert differ(ours, theirs, image) <= 1.01


@pytest.mark.parametrize("name", OBEYED)
def test_a_file_without_settings_means_the_processors_own_defaults(name, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": f"{name}ImageProcessor"})
    )
    other = Preprocessing(32, 32, 36, "nearest", (0.1, 0.2, 0.3), (0.1, 0.2, 0.3))
    image = photo(420, 300)
    assert differ(read_preprocessing(tmp_path, other), run(processor_class(name)(), image), image) <= 1.01


def test_all_families_that_may_be_loaded_are_compared_or_refused(tmp_path):
    obeyed, refused, largest = [], [], 0.0
    image = photo(420, 300)
    for kind, name in families().items():
        if name not in OBEYED and name != "DINOv3ViT":
            with pytest.raises(InputError, match=rf"image_processor_type|{name}"):
                parse_processor({"image_processor_type": f"{name}ImageProcessor"}, Preprocessing(), kind)
            with pytest.raises(InputError, match=name):
                parse_processor({}, Preprocessing(), kind)
            refused.append(kind)
            continue
        # The file names no processor: the type of the model tells.
        ours = parse_processor({}, Preprocessing(), kind)
        theirs = resize_as_dinov3(image) if name == "DINOv3ViT" else run(processor_class(name)(), image)
        largest = max(largest, differ(ours, theirs, image))
        obeyed.append(kind)
    logger.info("%d families compared, at most %.2f grey levels: %s", len(obeyed), largest, ", ".join(obeyed))
    logger.info("%d families refused: %s", len(refused), ", ".join(refused))
    assert largest <= 1.01
    assert {"dinov2", "vit", "mobilevit", "efficientnet", "swin", "convnext", "levit"} <= set(obeyed)
    assert len(obeyed) >= 30


def resize_as_dinov3(image: Image.Image) -> np.ndarray:
    """Return what DINOv3's processor gives: it is of torch alone, and resizes after rescaling."""
    pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255
    pixels = torch.nn.functional.interpolate(pixels, (224, 224), mode="bilinear", antialias=True)[0]
    mean, std = Preprocessing().mean, Preprocessing().std
    return ((pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)).numpy()


@pytest.mark.parametrize("name", [*OBEYED, "DINOv3ViT"])
def test_processors_of_torchvision_are_obeyed_too(name, tmp_path):
    import transformers

    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision isn't installed")
    for settings in ({}, {"size": {"shortest_edge": 224}} if name == "ConvNext" else {}):
        processor = getattr(transformers, f"{name}ImageProcessor")(**settings)
        processor.save_pretrained(tmp_path)
        ours = read_preprocessing(tmp_path, Preprocessing())
        for shape in ((420, 300), (257, 601), (60, 90)):
            image = photo(*shape)
            theirs = run(processor, image)
            # Its filters round otherwise where a hard edge overshoots, as some pixels show.
            assert differ(ours, theirs, image) <= 5.01
            assert differ(ours, theirs, image, np.mean) <= 0.3


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_pictures_of_any_mode_are_converted_as_transformers_does_it(mode):
    image = photo(90, 60).convert(mode)
    ours = parse_processor({"image_processor_type": "CLIPImageProcessor"}, Preprocessing())
    assert differ(ours, run(processor_class("CLIP")(), image), image) <= 1.01


@pytest.mark.parametrize(
    "ending", ["ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor"]
)
def test_a_processor_is_known_by_all_names_it_had(ending):
    key = "feature_extractor_type" if ending == "FeatureExtractor" else "image_processor_type"
    assert parse_processor({key: f"Levit{ending}"}, Preprocessing()).resize == 256


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"max_num_patches": 256, "patch_size": 16}, "max_num_patches is 256"),
        ({"image_processor_type": "Pix2StructImageProcessor"}, "Pix2StructImageProcessor"),
        ({"image_processor_type": "VideoMAEImageProcessor"}, "VideoMAEImageProcessor"),
        ({"image_processor_type": "SomeonesOwnProcessor"}, "SomeonesOwnProcessor"),
        ({"auto_map": {"AutoImageProcessor": "code.Processor"}}, "auto_map"),
        ({"size": {"longest_edge": 512}}, "size is"),
        ({"size": {"max_height": 512, "max_width": 512}}, "size is"),
        ({"size": {"shortest_edge": 224}}, "size is"),
        (
            {"do_center_crop": True, "size": 224, "image_processor_type": "ViTImageProcessor"},
            "do_center_crop",
        ),
        ({"do_resize": False}, "do_resize is False"),
        ({"resample": 9}, "resample is 9"),
        ({"do_grayscale": True}, "do_grayscale is True"),
        ({"do_thumbnail": True}, "do_thumbnail is True"),
        ({"gamma": 2.2, "image_processor_type": "ViTImageProcessor"}, "gamma is 2.2"),
        ({"crop_pct": 0.9}, "crop_pct is 0.9"),
        ({"do_pad": True, "pad_size": 300}, "pad_size is 300"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_understood_is_refused_by_its_name(config, named, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as caught:
        read_preprocessing(tmp_path, Preprocessing())
    assert named in str(caught.value)
    assert "preprocessor_config.json" in str(caught.value)
    assert "take another backbone" in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"size": -1},
        {"size": "large"},
        {"size": {"height": 0, "width": 3}},
        {"size": 10**9},
        {"size": 2.5},
        {"image_mean": [0.5, 0.5]},
        {"image_std": [0.0, 1.0, 1.0]},
        {"image_mean": ["a", "b", "c"]},
        {"rescale_factor": "1/255"},
        {"rescale_factor": 0},
        {"do_normalize": "no"},
        {"crop_pct": 0, "image_processor_type": "ConvNextImageProcessor", "size": 224},
    ],
    ids=str,
)
def test_impossible_values_are_called_damage_with_their_name(config):
    with pytest.raises(FormatError) as caught:
        parse_processor(config, Preprocessing(), origin="f.json")
    assert all(name in str(caught.value) for name in list(config)[:1])
    assert "f.json is damaged" in str(caught.value)


def test_settings_of_no_influence_are_passed_over():
    idle = {
        "_valid_processor_keys": ["images"],
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_reduce_labels": False,
        "do_thumbnail": False,
        "device": None,
        "pad_size": None,
        "image_seq_length": 5,
        "data_format": "channels_first",
    }
    kind = {"image_processor_type": "ViTImageProcessor"}
    assert parse_processor({**kind, **idle}, Preprocessing()) == parse_processor(kind, Preprocessing())


def test_the_processor_inside_a_processor_file_comes_first_as_in_transformers(tmp_path: Path):
    content = {"image_processor": {"size": {"height": 64, "width": 64}}, "processor_class": "X"}
    (tmp_path / "processor_config.json").write_text(json.dumps(content))
    assert read_preprocessing(tmp_path, Preprocessing()).height == 64
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 32}}))
    assert read_preprocessing(tmp_path, Preprocessing()).height == 64
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "X"}))
    assert read_preprocessing(tmp_path, Preprocessing()).height == 32


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
    convnext = {
        "size": 224,
        "crop_pct": 0.875,
        "resample": 2,
        "feature_extractor_type": "ConvNextFeatureExtractor",
    }
    parsed = parse_processor(convnext, base)
    assert (parsed.height, parsed.resize, parsed.interpolation) == (224, 256, "bilinear")
    squash_then_crop = {
        "size": {"height": 256, "width": 256},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
    }
    parsed = parse_processor(squash_then_crop, base)
    assert (parsed.height, parsed.resize, parsed.squash) == (224, None, (256, 256))


def test_what_a_processor_file_leaves_out_comes_from_the_default():
    default = Preprocessing(32, 32, 36, "bilinear", CLIP_MEAN, (0.1, 0.2, 0.3))
    parsed = parse_processor({}, default)
    assert (parsed.height, parsed.interpolation, parsed.mean, parsed.std) == (
        32,
        "bilinear",
        CLIP_MEAN,
        default.std,
    )


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
