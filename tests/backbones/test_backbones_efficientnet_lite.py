"""Claims about the small network whose weights come by pip."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from kinfold.backbones import _efficientnet_lite as lite
from kinfold.backbones import get_card, list_cards, load_backbone
from kinfold.errors import FormatError, MissingExtraError

needs_weights = pytest.mark.skipif(
    not lite.is_installed(), reason=f"{lite.package_of(lite.NAME)} isn't installed"
)
reference = pytest.importorskip("efficientnet_lite_pytorch", reason="nothing to compare with")


def crops(n, size=224):
    """Return real pixels (n, size, size, 3): squares of different sizes cut out of two photographs."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    squares = []
    for number in range(n):
        photograph = photographs[number % len(photographs)]
        side = int(rng.integers(60, min(photograph.size)))
        left, top = (int(rng.integers(0, room - side)) for room in photograph.size)
        squares.append(np.asarray(photograph.crop((left, top, left + side, top + side)).resize((size, size))))
    return np.stack(squares)


def draw(name, path):
    """Return a reference network with random weights, which are written to a file like the package's."""
    torch.manual_seed(0)
    network = reference.EfficientNet.from_name(name).eval()
    for key, value in network.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif key.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
    torch.save(network.state_dict(), path)
    return network


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lite.pth"
    return path, draw(lite.NAME, path)


def pooled(network, pixels):
    return network.extract_features(pixels).mean(dim=(2, 3))


@pytest.mark.parametrize("name", [card.name for card in list_cards() if card.family == "EfficientNet-Lite"])
def test_vectors_are_those_of_the_reference_with_any_weights(name, tmp_path):
    network = draw(name, tmp_path / "lite.pth")
    side = get_card(name).preprocessing.height
    pixels = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        wanted, found = (
            pooled(network, pixels),
            lite.load_efficientnet_lite(name, tmp_path / "lite.pth").model(pixels),
        )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_weights_of_another_size_are_refused(drawn):
    with pytest.raises(FormatError, match="doesn't hold the weights of efficientnet-lite2"):
        lite.load_efficientnet_lite("efficientnet-lite2", drawn[0])


@needs_weights
def test_vectors_of_photographs_are_those_of_the_reference():
    backbone = load_backbone("efficientnet-lite0", device="cpu", precision="float32")
    network = reference.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(lite.find_weights())
    )
    images = crops(8)
    pixels = torch.from_numpy((images.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
    with torch.inference_mode():
        wanted = pooled(network.eval(), pixels).numpy()
    np.testing.assert_allclose(backbone.embed(images)["cls"], wanted, rtol=1e-4, atol=1e-4)


@needs_weights
def test_its_classifier_knows_a_photograph():
    tower = lite.load_efficientnet_lite()
    card = get_card("efficientnet-lite0")
    china = Image.fromarray(load_sample_images().images[0])
    mean, std = (np.float32(values) for values in (card.preprocessing.mean, card.preprocessing.std))
    pixels = (card.preprocessing(china) / np.float32(255) - mean) / std
    with torch.inference_mode():
        logits = tower.model.classifier(tower.model(torch.from_numpy(pixels).permute(2, 0, 1)[None]))[0]
    # ImageNet's classes 698 (palace), 668 (mosque), 497 (church), 663 (monastery), 832 (stupa)
    assert {int(one) for one in logits.topk(5).indices} & {698, 668, 497, 663, 832}


@pytest.mark.parametrize(("height", "width"), [(224, 224), (225, 97), (33, 64), (1, 1)])
def test_the_size_is_halved_and_rounded_up_at_every_stride(drawn, height, width):
    tower = lite.load_efficientnet_lite(path=drawn[0])
    with torch.inference_mode():
        hidden = tower.model.stem(torch.zeros(1, 3, height, width))
        assert hidden.shape[2:] == (-(-height // 2), -(-width // 2))
        assert tower.model.blocks(hidden).shape[2:] == (-(-height // 32), -(-width // 32))
        assert torch.isfinite(tower.model(torch.zeros(1, 3, height, width))).all()


@pytest.mark.parametrize(("name", "extra"), [("efficientnet-lite0", "small"), ("efficientnet-lite2", "lite")])
def test_without_the_package_the_message_names_the_extra(name, extra, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if "lite" in name else find_spec(name, *more)
    )
    assert not lite.is_installed(name)
    with pytest.raises(MissingExtraError, match=rf"pip install 'kinfold\[{extra}\]'"):
        load_backbone(name)


@pytest.mark.parametrize("harm", ["truncated", "a weight missing", "a weight of another shape", "no weights"])
def test_damaged_weights_are_refused_in_words(drawn, tmp_path, harm):
    path, network = drawn
    broken = tmp_path / "broken.pth"
    weights = dict(network.state_dict())
    if harm == "truncated":
        broken.write_bytes(path.read_bytes()[:100_000])
    else:
        if harm == "a weight missing":
            del weights["_blocks.3._bn1.running_var"]
        elif harm == "a weight of another shape":
            weights["_conv_head.weight"] = weights["_conv_head.weight"][:64]
        else:
            weights = {"other.weight": torch.zeros(3)}
        torch.save(weights, broken)
    with pytest.raises(FormatError, match=r"install it again|save its state dict"):
        lite.load_efficientnet_lite(path=broken)


@needs_weights
def test_loading_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lite.load_efficientnet_lite()


@needs_weights
def test_the_fingerprint_is_that_of_weights_preprocessing_and_precision():
    one, again = (load_backbone("efficientnet-lite0", device="cpu", precision="float32") for _ in range(2))
    other = load_backbone("efficientnet-lite0", device="cpu", precision="bfloat16")
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    assert one.variants == {"cls": 1280}
