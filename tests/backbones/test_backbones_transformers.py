from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kinfold.backbones import load_backbone
from kinfold.errors import InputError

WITH_CLS = ("dinov2", "dinov2_with_registers", "vit", "deit", "dinov3_vit", "vit_msn", "clip_vision_model")
PREFIX = {"dinov2_with_registers": 4, "dinov3_vit": 5, "deit": 2}
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def final_norm(model: Any) -> torch.nn.Module:
    model = getattr(model, "vision_model", model)
    for name in ("post_layernorm", "layernorm", "norm"):
        if hasattr(model, name):
            return getattr(model, name)
    raise AssertionError("no final norm")


def blocks(model: Any) -> torch.nn.ModuleList:
    return next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 5)


def run_by_hand(model: Any, pixels: torch.Tensor, **inputs: Any) -> tuple[Any, list[torch.Tensor]]:
    """Return the model's own output and the un-normed output of every block, recorded one by one."""
    states: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(
            lambda _m, _i, out: states.append(out if isinstance(out, torch.Tensor) else out[0])
        )
        for block in blocks(model)
    ]
    with torch.inference_mode():
        output = model(pixel_values=pixels, **inputs)
    for handle in handles:
        handle.remove()
    return output, states


def normalised(backbone: Any, images: np.ndarray) -> torch.Tensor:
    p = backbone.card.preprocessing
    scaled = images.astype(np.float64) * p.rescale
    return torch.tensor(
        ((scaled - np.array(p.mean)) / np.array(p.std)).transpose(0, 3, 1, 2), dtype=torch.float32
    )


def stack(backbone: Any, pictures: list[Any]) -> np.ndarray:
    return np.stack([backbone.transform(picture) for picture in pictures])


@pytest.mark.parametrize("family", WITH_CLS)
def test_variants_of_models_with_cls_equal_those_by_hand(family, tiny, pictures):
    model = tiny.make(family)
    backbone = load_backbone(tiny.save(model, family), device="cpu", precision="float32")
    images = stack(backbone, pictures)
    got = backbone.embed(images, ["cls", "cls+patches", "last4"])
    output, states = run_by_hand(model, normalised(backbone, images))
    norm, skip = final_norm(model), PREFIX.get(family, 1)
    with torch.inference_mode():
        cls = norm(states[-1])[:, 0]
        patches = norm(states[-1])[:, skip:].mean(1)
        last4 = torch.cat([norm(state)[:, 0] for state in states[-4:]], 1)
    np.testing.assert_allclose(got["cls"], cls, **TOLERANCE)
    np.testing.assert_allclose(got["cls+patches"], torch.cat([cls, patches], 1), **TOLERANCE)
    np.testing.assert_allclose(got["last4"], last4, **TOLERANCE)
    if family != "clip_vision_model":  # whose last_hidden_state isn't normed
        np.testing.assert_allclose(got["cls"], output.last_hidden_state[:, 0], **TOLERANCE)
        np.testing.assert_allclose(
            got["cls+patches"][:, 32:], output.last_hidden_state[:, skip:].mean(1), **TOLERANCE
        )
    assert (
        {k: v.shape[1] for k, v in got.items()}
        == dict(backbone.variants)
        == {"cls": 32, "cls+patches": 64, "last4": 128}
    )
    assert all(v.dtype == np.float32 for v in got.values())


def test_mae_gets_all_patches_in_order_and_equals_a_vit_of_the_same_weights(tiny, pictures):
    import transformers

    model = tiny.make("vit_mae")
    backbone = load_backbone(tiny.save(model, "mae"), device="cpu", precision="float32")
    images = stack(backbone, pictures)
    first = backbone.embed(images, ["cls", "cls+patches", "last4"])
    again = backbone.embed(images, ["cls", "cls+patches", "last4"])
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=5,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    vit = transformers.ViTModel(config, add_pooling_layer=False).eval()
    vit.load_state_dict(model.state_dict())
    output, states = run_by_hand(vit, normalised(backbone, images))
    hidden = output.last_hidden_state
    np.testing.assert_allclose(first["cls"], hidden[:, 0], **TOLERANCE)
    np.testing.assert_allclose(first["cls+patches"][:, 32:], hidden[:, 1:].mean(1), **TOLERANCE)
    with torch.inference_mode():
        last4 = torch.cat([vit.layernorm(state)[:, 0] for state in states[-4:]], 1)
    np.testing.assert_allclose(first["last4"], last4, **TOLERANCE)


def test_ijepa_has_no_cls_so_cls_is_the_mean_of_patches(tiny, pictures):
    model = tiny.make("ijepa")
    backbone = load_backbone(tiny.save(model, "ijepa"), device="cpu", precision="float32")
    images = stack(backbone, pictures)
    output, states = run_by_hand(model, normalised(backbone, images))
    got = backbone.embed(images, ["cls", "last4"])
    np.testing.assert_allclose(got["cls"], output.last_hidden_state.mean(1), **TOLERANCE)
    with torch.inference_mode():
        last4 = torch.cat([model.layernorm(state).mean(1) for state in states[-4:]], 1)
    np.testing.assert_allclose(got["last4"], last4, **TOLERANCE)
    assert "cls+patches" not in backbone.variants


def test_siglip_cls_is_the_attention_pooled_embedding(tiny, pictures):
    model = tiny.make("siglip_vision_model")
    backbone = load_backbone(tiny.save(model, "siglip"), device="cpu", precision="float32")
    images = stack(backbone, pictures)
    output, states = run_by_hand(model, normalised(backbone, images))
    got = backbone.embed(images, ["cls", "cls+patches", "last4"])
    np.testing.assert_allclose(got["cls"], output.pooler_output, **TOLERANCE)
    mean = output.last_hidden_state.mean(1)
    np.testing.assert_allclose(got["cls+patches"], torch.cat([output.pooler_output, mean], 1), **TOLERANCE)
    with torch.inference_mode():
        last4 = torch.cat([final_norm(model)(state).mean(1) for state in states[-4:]], 1)
    np.testing.assert_allclose(got["last4"], last4, **TOLERANCE)


def test_flexible_siglip2_gets_its_patches_as_its_own_processor_cuts_them(tiny, pictures):
    model = tiny.make("siglip2_vision_model")
    backbone = load_backbone(tiny.save(model, "siglip2"), device="cpu", precision="float32")
    images = stack(backbone, pictures)
    assert images.shape[1:] == (32, 32, 3)
    pixels = normalised(backbone, images).numpy()
    # rows of the grid, then columns; inside a patch rows, columns, channels
    patches = np.stack(
        [
            [
                pixel[:, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8].transpose(1, 2, 0).reshape(-1)
                for r in range(4)
                for c in range(4)
            ]
            for pixel in pixels
        ]
    )
    with torch.inference_mode():
        output = model(
            pixel_values=torch.tensor(patches),
            pixel_attention_mask=torch.ones(len(images), 16, dtype=torch.long),
            spatial_shapes=torch.tensor([[4, 4]] * len(images)),
        )
    np.testing.assert_allclose(backbone.embed(images)["cls"], output.pooler_output, **TOLERANCE)


def test_whole_clip_uses_its_vision_tower_and_its_joint_space(tiny, pictures):
    import transformers as tf

    torch.manual_seed(0)
    vision = tf.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=5,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=7,
    )
    text = tf.CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=50
    )
    model = tf.CLIPModel(
        tf.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=20)
    ).eval()
    folder = tiny.save(model, "clip")
    backbone = load_backbone(folder, device="cpu", precision="float32")
    images = stack(backbone, pictures)
    pixels = normalised(backbone, images)
    with torch.inference_mode():
        vision_output = model.vision_model(pixel_values=pixels)
        joint = model.visual_projection(vision_output.pooler_output)
        normed = model.vision_model.post_layernorm(vision_output.last_hidden_state)
    got = backbone.embed(images, ["cls", "cls+patches"])
    np.testing.assert_allclose(got["cls"], joint, **TOLERANCE)
    np.testing.assert_allclose(
        got["cls+patches"], torch.cat([normed[:, 0], normed[:, 1:].mean(1)], 1), **TOLERANCE
    )
    assert backbone.variants == {"cls": 20, "cls+patches": 64, "last4": 128}


def test_whole_siglip_uses_its_vision_tower(tiny, pictures):
    import transformers as tf

    torch.manual_seed(0)
    vision = tf.SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=5,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    text = tf.SiglipTextConfig(
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=50,
        projection_size=32,
    )
    model = tf.SiglipModel(tf.SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())).eval()
    backbone = load_backbone(tiny.save(model, "siglip"), device="cpu", precision="float32")
    images = stack(backbone, pictures)
    with torch.inference_mode():
        expected = model.vision_model(pixel_values=normalised(backbone, images)).pooler_output
    np.testing.assert_allclose(backbone.embed(images)["cls"], expected, **TOLERANCE)


def test_networks_without_tokens_give_their_pooled_vector(tiny, pictures):
    import transformers as tf

    torch.manual_seed(0)
    config = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model = tf.ResNetModel(config).eval()
    backbone = load_backbone(tiny.save(model, "resnet"), device="cpu", precision="float32")
    images = stack(backbone, pictures)
    with torch.inference_mode():
        expected = model(normalised(backbone, images)).pooler_output.flatten(1)
    np.testing.assert_allclose(backbone.embed(images)["cls"], expected, **TOLERANCE)
    assert backbone.variants == {"cls": 16}


FAMILIES = {
    "beit": lambda tf: tf.BeitConfig(**SMALL),
    "bit": lambda tf: tf.BitConfig(embedding_size=32, hidden_sizes=[32, 64], depths=[1, 1], num_groups=8),
    "convnext": lambda tf: tf.ConvNextConfig(depths=[1] * 4, hidden_sizes=[8, 16, 24, 32]),
    "deit": lambda tf: tf.DeiTConfig(**SMALL),
    "efficientnet": lambda tf: tf.EfficientNetConfig(
        width_coefficient=0.2, depth_coefficient=0.2, hidden_dim=256
    ),
    "levit": lambda tf: tf.LevitConfig(
        hidden_sizes=[16, 32, 48], num_attention_heads=[1, 2, 3], depths=[1, 1, 1], key_dim=[8, 8, 8]
    ),
    "mobilenet_v1": lambda tf: tf.MobileNetV1Config(depth_multiplier=0.25),
    "mobilevit": lambda tf: tf.MobileViTConfig(
        hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32]
    ),
    "poolformer": lambda tf: tf.PoolFormerConfig(depths=[1] * 4, hidden_sizes=[8, 16, 24, 32]),
    "regnet": lambda tf: tf.RegNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4
    ),
    "segformer": lambda tf: tf.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 3, 4]
    ),
    "swin": lambda tf: tf.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2]),
}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_reaches_a_network_is_what_its_own_processor_makes(family, tiny, pictures):
    import transformers as tf
    from transformers.models.auto.image_processing_auto import (
        IMAGE_PROCESSOR_MAPPING_NAMES,
        get_image_processor_class_from_name,
    )

    names = IMAGE_PROCESSOR_MAPPING_NAMES[family]
    if not isinstance(names, dict):
        pytest.skip(f"transformers {tf.__version__} has no processors that need no torchvision")
    processor = get_image_processor_class_from_name(names["pil"])()
    torch.manual_seed(0)
    folder = tiny.save(tf.AutoModel.from_config(FAMILIES[family](tf)).eval(), family)
    processor.save_pretrained(folder)
    backbone = load_backbone(folder, device="cpu", precision="float32")
    seen = []
    backbone._tower.model.register_forward_pre_hook(
        lambda _model, inputs, named: seen.append(named.get("pixel_values", *inputs[:1])), with_kwargs=True
    )
    vectors = backbone.embed(stack(backbone, pictures))["cls"]
    expected = processor(images=pictures, return_tensors="np")["pixel_values"]
    level = backbone.card.preprocessing.rescale / min(backbone.card.preprocessing.std)
    np.testing.assert_allclose(seen[0].numpy(), np.stack(expected), atol=1.01 * level)
    assert np.isfinite(vectors).all()
    assert vectors.shape == (len(pictures), backbone.variants["cls"])


def test_a_model_that_takes_another_size_than_its_processor_makes_is_refused(tiny):
    import json

    import transformers as tf

    config = tf.LevitConfig(
        hidden_sizes=[16, 32, 48], num_attention_heads=[1, 2, 3], depths=[1, 1, 1], key_dim=[8, 8, 8]
    )
    folder = tiny.save(tf.LevitModel(config), "levit")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 96, "width": 64}, "do_center_crop": False})
    )
    with pytest.raises(InputError, match="no vector of an image of 96 × 64 pixels"):
        load_backbone(folder, device="cpu")
