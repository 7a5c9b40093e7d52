"""From a name to a backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kinfold.backbones._base import Backbone
from kinfold.backbones._card import BackboneCard, Preprocessing
from kinfold.backbones._catalogue import CARDS, DEFAULT_BACKBONE
from kinfold.backbones._descriptors import HogDescriptor, PixelDescriptor
from kinfold.errors import InputError, nearest_name

if TYPE_CHECKING:
    import torch

_DESCRIPTORS = {"pixels": PixelDescriptor, "hog": HogDescriptor}


def load_backbone(
    name_or_path: str | Path = DEFAULT_BACKBONE,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
) -> Backbone:
    """Load a backbone.

    Parameters
    ----------
    name_or_path : str or Path
        One of: a name of the catalogue (``"dinov2-small"``, ``"hog"``); a local directory in the hub's
        layout; any hub id (``"facebook/dinov2-base"``); ``"CARD:FILE"`` for an original checkpoint
        (``"ibot-vitb16:checkpoint_teacher.pth"``); ``"timm:NAME"``; ``"open_clip:ARCH/PRETRAINED"`` (a
        tag or a local file).
    device : str or torch.device
        ``"auto"`` (CUDA, else MPS, else CPU) or a device's name. Descriptors run on the CPU whatever it says.
    precision : str
        ``"auto"`` (bfloat16 where the device has units for it), ``"float32"`` or ``"bfloat16"``.

    Raises
    ------
    InputError
        There is no such backbone; the nearest right name is in the message.
    HubUnavailableError
        The weights aren't cached and the hub can't be reached.
    MissingExtraError
        timm or open_clip is needed.
    FormatError
        Weights or configuration are damaged.
    """
    import torch  # not above: the loader's workers import this package for its transforms alone

    # Libraries draw weights at random before they overwrite them; the caller's generator must not notice.
    with torch.random.fork_rng(devices=[]):
        return _load(name_or_path, device, precision)


def _load(name_or_path: str | Path, device: str | torch.device, precision: str) -> Backbone:
    name = str(name_or_path)
    if isinstance(name_or_path, str):
        if name in _DESCRIPTORS:
            return _DESCRIPTORS[name]()
        if name in CARDS:
            return _load_card(CARDS[name], device, precision)
        prefix, _, rest = name.partition(":")
        if prefix == "timm" and rest:
            from kinfold.backbones._timm import load_timm

            return load_timm(rest, device=device, precision=precision)
        if prefix == "open_clip" and rest:
            from kinfold.backbones._open_clip import load_open_clip

            return load_open_clip(rest, device=device, precision=precision)
        if prefix in CARDS and rest:
            return _load_file(CARDS[prefix], Path(rest), device, precision)
    path = Path(name).expanduser()
    if path.is_dir():
        return _load_directory(path, _directory_card(path.resolve()), None, device, precision)
    if path.is_file():
        raise InputError(
            f"{name} is a file; name the card that it belongs to, as in ibot-vitb16:{name}, "
            "or give a directory"
        )
    return _load_hub_id(name, device, precision)


def _load_card(card: BackboneCard, device: str | torch.device, precision: str) -> Backbone:
    if card.adapter == "checkpoint":
        raise InputError(
            f"{card.name} has no weights on the hub: download the checkpoint from {card.source} and use "
            f"{card.name}:FILE"
        )
    from kinfold.backbones._hub import fetch_model

    folder = fetch_model(card.source, card.revision)
    return _load_directory(folder, card, card.preprocessing, device, precision)


def _load_hub_id(name: str, device: str | torch.device, precision: str) -> Backbone:
    by_source = {card.source: card for card in CARDS.values() if card.adapter == "transformers"}
    if name in by_source:
        return _load_card(by_source[name], device, precision)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = [*CARDS, "timm:", "open_clip:"]
        raise InputError(
            f"there is no backbone {name!r}{nearest_name(name, known)}; "
            "nor is it a local directory or a hub id"
        )
    from kinfold.backbones._hub import fetch_model

    try:
        folder = fetch_model(name, None, with_processor=True)
    except InputError as error:
        raise InputError(f"{error}{nearest_name(name, list(by_source))}") from error
    return _load_directory(folder, BackboneCard(name, "custom", name), None, device, precision)


def _load_directory(
    folder: Path,
    card: BackboneCard,
    preprocessing: Preprocessing | None,
    device: str | torch.device,
    precision: str,
) -> Backbone:
    from kinfold.backbones._network import NetworkBackbone
    from kinfold.backbones._transformers import load_directory

    loaded = load_directory(folder, preprocessing)
    card = replace(card, preprocessing=loaded.preprocessing, dim=loaded.tower.dim)
    spec = card.source if card.family == "custom" else card.name
    return NetworkBackbone(
        card, loaded.tower, spec=spec, device=device, precision=precision, unread=loaded.unread
    )


def _load_file(card: BackboneCard, file: Path, device: str | torch.device, precision: str) -> Backbone:
    from kinfold.backbones._checkpoints import load_checkpoint
    from kinfold.backbones._network import NetworkBackbone

    file = file.expanduser().resolve()
    tower = load_checkpoint(file, card)
    return NetworkBackbone(card, tower, spec=f"{card.name}:{file}", device=device, precision=precision)


def _directory_card(path: Path) -> BackboneCard:
    return BackboneCard(path.name or str(path), "custom", str(path))
