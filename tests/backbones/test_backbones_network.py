from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from kinfold.backbones import load_backbone
from kinfold.backbones._network import NetworkBackbone
from kinfold.errors import InputError


@pytest.fixture
def backbone(tiny):
    return load_backbone(tiny.save(tiny.make("dinov2"), "model"), device="cpu", precision="float32")


def images(backbone, n, seed=0):
    side = backbone.card.preprocessing.height
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "family",
    [
        "dinov2",
        "dinov2_with_registers",
        "vit",
        "dinov3_vit",
        "clip_vision_model",
        "siglip_vision_model",
        "vit_mae",
        "ijepa",
    ],
)
def test_bfloat16_gives_float32_vectors_close_to_those_of_float32(family, tiny):
    folder = tiny.save(tiny.make(family), family)
    exact = load_backbone(folder, device="cpu", precision="float32")
    coarse = load_backbone(folder, device="cpu", precision="bfloat16")
    batch = images(exact, 3)
    for name, expected in exact.embed(batch, list(exact.variants)).items():
        got = coarse.embed(batch, [name])[name]
        assert got.dtype == np.float32
        assert not np.array_equal(got, expected)
        cosine = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosine.min() > 0.99


def test_vectors_of_an_image_do_not_depend_on_its_companions(backbone):
    batch = images(backbone, 7)
    together = backbone.embed(batch, ("cls",))["cls"]
    alone = np.concatenate([backbone.embed(batch[i : i + 1], ("cls",))["cls"] for i in range(7)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_read_only_images_and_empty_batches_work(backbone, recwarn):
    batch = images(backbone, 2)
    batch.flags.writeable = False
    assert backbone.embed(batch, ("cls",))["cls"].shape == (2, 32)
    assert not [w for w in recwarn if "not writable" in str(w.message)]
    assert backbone.embed(batch[:0], ("cls",))["cls"].shape == (0, 32)


@pytest.mark.parametrize("wrong", ["float", "size"])
def test_images_of_another_kind_are_refused(backbone, wrong):
    batch = images(backbone, 2)
    batch = batch.astype(np.float32) if wrong == "float" else batch[:, :-1]
    with pytest.raises(InputError, match="uint8 arrays of shape"):
        backbone.embed(batch, ("cls",))


def test_an_unknown_variant_gets_the_nearest_right_one(backbone):
    with pytest.raises(InputError, match="did you mean 'last4'"):
        backbone.embed(images(backbone, 1), ("last5",))


def test_the_batch_size_is_a_rule_and_not_a_measurement(backbone, tiny, monkeypatch):
    first = backbone.find_batch_size()
    again = load_backbone(backbone.spec, device="cpu", precision="float32").find_batch_size()
    assert first == again == 16
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"total": 1 << 21})())
    small = load_backbone(backbone.spec, device="cpu", precision="float32").find_batch_size()
    assert 1 <= small < 16
    assert small & (small - 1) == 0


def test_a_batch_too_large_for_the_gpu_is_halved_and_says_so(backbone, monkeypatch, caplog):
    batch = images(backbone, 11)
    expected = backbone.embed(batch, ("cls",))["cls"]
    forward, sizes = backbone._forward, []

    def scarce(pixels, variants):
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise torch.cuda.OutOfMemoryError("no memory left")
        return forward(pixels, variants)

    monkeypatch.setattr(backbone, "_forward", scarce)
    with caplog.at_level(logging.WARNING):
        got = backbone.embed(batch, ("cls",))["cls"]
    assert sizes == [11, 5, 2, 2, 2, 2, 2, 1]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert "going on with 5" in caplog.text


def test_not_even_one_image_fitting_is_an_error_with_a_way_out(backbone, monkeypatch):
    def none_fits(pixels, variants):
        raise torch.cuda.OutOfMemoryError("no memory left")

    monkeypatch.setattr(backbone, "_forward", none_fits)
    with pytest.raises(InputError, match="smaller backbone"):
        backbone.embed(images(backbone, 4), ("cls",))


def test_other_runtime_errors_are_not_swallowed(backbone, monkeypatch):
    def broken(pixels, variants):
        raise RuntimeError("something else")

    monkeypatch.setattr(backbone, "_forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        backbone.embed(images(backbone, 1), ("cls",))


def test_the_fingerprint_follows_weights_preprocessing_and_precision_only(tiny):
    model = tiny.make("vit")
    base = load_backbone(tiny.save(model, "a"), device="cpu", precision="float32")
    copy = load_backbone(tiny.save(model, "b"), device="cpu", precision="float32")
    assert base.fingerprint() == copy.fingerprint()
    coarse = load_backbone(base.spec, device="cpu", precision="bfloat16")
    config = tiny.root / "b" / "preprocessor_config.json"
    config.write_text(json.dumps({"size": {"height": 32, "width": 32}}))
    squashed = load_backbone(tiny.root / "b", device="cpu", precision="float32")
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] += 1e-3
    other = load_backbone(tiny.save(model, "c"), device="cpu", precision="float32")
    prints = [b.fingerprint() for b in (base, coarse, squashed, other)]
    assert len(set(prints)) == 4


def test_weights_that_are_made_up_anew_stay_out_of_the_fingerprint(tiny):
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=5,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        decoder_num_hidden_layers=1,
        decoder_hidden_size=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    folder = tiny.save(transformers.ViTMAEForPreTraining(config), "pretraining")
    first = load_backbone(folder, device="cpu", precision="float32")
    second = load_backbone(folder, device="cpu", precision="float32")
    assert first.fingerprint() == second.fingerprint()
    np.testing.assert_array_equal(
        first.embed(images(first, 2))["cls"], second.embed(images(second, 2))["cls"]
    )


def test_what_it_says_of_itself_is_json_and_loads_it_again(backbone):
    described = json.loads(json.dumps(backbone.describe()))
    again = load_backbone(described["spec"], device="cpu", precision=described["precision"])
    assert isinstance(again, NetworkBackbone)
    assert again.fingerprint() == described["fingerprint"]
    assert described["batch_size"] == backbone.find_batch_size()
    assert described["card"]["preprocessing"]["height"] == 32
    assert described["device"] == "cpu"


def test_weights_never_learn(backbone):
    assert not any(parameter.requires_grad for parameter in backbone._tower.model.parameters())
    assert not backbone._tower.model.training
