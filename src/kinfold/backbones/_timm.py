"""Models of timm, an extra: ``timm:NAME``, or ``timm:NAME:FILE`` with weights from a local file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kinfold.backbones._card import BackboneCard, Preprocessing
from kinfold.backbones._checkpoints import read_checkpoint
from kinfold.backbones._extras import import_extra
from kinfold.backbones._fit import fill_model
from kinfold.backbones._hub import cache_only_if_unreachable
from kinfold.backbones._network import NetworkBackbone
from kinfold.backbones._tower import Tokens, Tower
from kinfold.errors import HubUnavailableError, InputError, nearest_name


def load_timm(spec: str, *, device: str | torch.device, precision: str) -> NetworkBackbone:
    """Load a model of timm without its classifier.

    Parameters
    ----------
    spec : str
        ``NAME`` (pretrained weights from the hub) or ``NAME:FILE``.
    device, precision : str
        As for :func:`load_backbone`.
    """
    timm = import_extra(f"The backbone timm:{spec}", "timm", "timm", "timm")
    name, file = _split(spec)
    if not name.startswith("hf") and not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}{nearest_name(name, timm.list_models())}")
    model = _create(timm, name, file)
    config = timm.data.resolve_model_data_config(model)
    tower = make_timm_tower(model)
    card = BackboneCard(
        f"timm:{name}",
        "timm",
        spec,
        parse_data_config(config),
        tower.dim,
        licence=str(getattr(model, "pretrained_cfg", {}).get("license") or ""),
        adapter="timm",
    )
    again = f"timm:{name}:{file}" if file else f"timm:{name}"
    return NetworkBackbone(card, tower, spec=again, device=device, precision=precision)


def parse_data_config(config: Mapping[str, Any]) -> Preprocessing:
    """Translate timm's data configuration; its ``crop_pct`` is the crop's share of the resized side."""
    _, height, width = config["input_size"]
    squash = config.get("crop_mode", "center") == "squash"
    interpolation = config.get("interpolation", "bicubic")
    return Preprocessing(
        height,
        width,
        None if squash else math.floor(max(height, width) / float(config.get("crop_pct") or 0.875)),
        interpolation if interpolation in ("bilinear", "bicubic", "lanczos", "nearest") else "bicubic",
        tuple(float(value) for value in config["mean"]),
        tuple(float(value) for value in config["std"]),
    )


def make_timm_tower(model: Any) -> Tower:
    """Wrap a timm model: plain transformers are read token by token, others by their own pooling."""
    tokens = None
    blocks = getattr(model, "blocks", None)
    norm = getattr(model, "norm", None)
    if isinstance(norm, nn.Identity):
        norm = getattr(model, "fc_norm", None)
    n_prefix = getattr(model, "num_prefix_tokens", None)
    if (
        isinstance(blocks, (nn.Sequential, nn.ModuleList))
        and isinstance(norm, nn.Module)
        and n_prefix is not None
    ):
        has_cls = getattr(model, "cls_token", None) is not None
        tokens = Tokens(blocks, norm, int(n_prefix), has_cls, int(model.embed_dim))
    if tokens is not None and tokens.has_cls and getattr(model, "global_pool", None) == "token":
        return Tower(model, model.forward_features, tokens, None, tokens.width)

    def pooled(output: torch.Tensor) -> torch.Tensor:
        vector: torch.Tensor = model.forward_head(output, pre_logits=True)
        return vector

    dim = getattr(model, "head_hidden_size", None) or model.num_features
    return Tower(model, model.forward_features, tokens, pooled, int(dim))


def _split(spec: str) -> tuple[str, Path | None]:
    head, colon, tail = spec.rpartition(":")
    if colon and not head.startswith(("hf-hub", "hf_hub")):
        return head, Path(tail).expanduser().resolve()
    return spec, None


def _create(timm: Any, name: str, file: Path | None) -> Any:
    if file is not None:
        model = timm.create_model(name, pretrained=False, num_classes=0)
        fill_model(model, read_checkpoint(file), weights=str(file), name=name)
        return model
    with cache_only_if_unreachable() as reachable:
        try:
            return timm.create_model(name, pretrained=True, num_classes=0)
        except Exception as error:
            if "No pretrained weights" in str(error):
                raise InputError(f"timm can't load {name}: {error}") from error
            if reachable:
                raise
            raise HubUnavailableError(
                f"the weights of timm:{name} aren't in the local cache and the hub can't be reached: "
                f"give them as timm:{name}:FILE, or use a descriptor, as in --backbone hog"
            ) from error
