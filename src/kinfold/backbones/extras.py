"""Models of two optional libraries: timm (``timm:NAME``) and open_clip (``open_clip:ARCH/PRETRAINED``)."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from kinfold.backbones._backbone import (
    CLIP_MEAN,
    CLIP_STD,
    INTERPOLATIONS,
    BackboneCard,
    Execution,
    Preprocessing,
)
from kinfold.backbones._hub import cache_only_if_unreachable
from kinfold.backbones._network import NetworkBackbone, Tokens, Tower
from kinfold.backbones.model_files import fill_model, read_checkpoint
from kinfold.errors import HubUnavailableError, InputError, MissingExtraError, nearest_name
from kinfold.storage import read_json


def import_extra(purpose: str, module: str, package: str, extra: str) -> ModuleType:
    """Import an optional package.

    Raises
    ------
    MissingExtraError
        It isn't installed.
    InputError
        It is installed but doesn't import, which is nearly always torchvision's doing.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(purpose, package, extra)
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise InputError(
            f"{package} is installed but can't be imported: {error}. It needs the torchvision that was built "
            f"for PyTorch {torch.__version__}"
        ) from error


def load_timm(spec: str, execution: Execution) -> NetworkBackbone:
    """Load a model of timm without its classifier.

    Parameters
    ----------
    spec : str
        ``NAME`` (pretrained weights from the hub) or ``NAME:FILE``.
    execution : Execution
        As for :func:`load_backbone`.
    """
    timm = import_extra(f"The backbone timm:{spec}", "timm", "timm", "timm")
    name, file = _split_timm(spec)
    # Names that begin with "hf" are resolved by the hub and aren't in timm's own list.
    if not name.startswith("hf") and not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}{nearest_name(name, timm.list_models())}")
    model = _create_timm(timm, name, file)
    own = None if file is None else _read_own_settings(file)
    if own is None:
        config = timm.data.resolve_model_data_config(model)
    else:
        config = timm.data.resolve_data_config({}, pretrained_cfg=own)
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
    return NetworkBackbone(card, tower, spec=again, execution=execution)


def parse_data_config(config: Mapping[str, Any]) -> Preprocessing:
    """Translate timm's data configuration; its ``crop_pct`` is the crop's share of the resized side.

    Raises
    ------
    InputError
        A setting asks for what Kinfold doesn't do to images.
    """
    channels, height, width = config["input_size"]
    if channels != 3:
        raise _refuse("timm", "input_size", config["input_size"], "Kinfold gives three channels")
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise _refuse("timm", "crop_mode", mode, "Kinfold doesn't pad images")
    if mode == "center" and height != width:
        raise _refuse("timm", "input_size", config["input_size"], "Kinfold crops squares alone")
    if config.get("crop_border_pixels"):
        raise _refuse("timm", "crop_border_pixels", config["crop_border_pixels"], "Kinfold trims no borders")
    share = float(config.get("crop_pct") or 0.875)
    enlarged = (math.floor(height / share), math.floor(width / share))
    squash = enlarged if mode == "squash" and enlarged != (height, width) else None
    return Preprocessing(
        height,
        width,
        None if mode == "squash" else enlarged[0],
        _filter("timm", config.get("interpolation") or "bicubic", tuple(INTERPOLATIONS)),
        _channels(config["mean"]),
        _channels(config["std"]),
        squash=squash,
        crop_rounds=True,
    )


def _refuse(package: str, name: str, value: Any, why: str) -> InputError:
    return InputError(
        f"{package}'s setting {name} = {value!r} of this model isn't supported: {why}. Take another backbone"
    )


def _filter(package: str, name: Any, known: tuple[str, ...]) -> str:
    if name == "random":  # in training; both libraries take bicubic to look at images
        return "bicubic"
    if name not in known:
        raise _refuse(package, "interpolation", name, f"the filters are {', '.join(known)}")
    return str(name)


def _channels(values: Any) -> tuple[float, ...]:
    values = list(values) if isinstance(values, (list, tuple)) else [values]
    return tuple(float(value) for value in (values if len(values) == 3 else values * 3))


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


def _split_timm(spec: str) -> tuple[str, Path | None]:
    if spec.startswith(("hf-hub:", "hf_hub:")):
        return spec, None
    name, _, file = spec.partition(":")  # the first one: a path may hold more
    return name, Path(file).expanduser().resolve() if file else None


def _read_own_settings(file: Path) -> dict[str, Any] | None:
    """Return how the model beside which a file of weights lies was trained to see images, if that is said."""
    config = file.parent / "config.json"
    content = read_json(config) if config.is_file() else None
    if not isinstance(content, dict) or "architecture" not in content:
        return None
    # Folders of before 2023 have the settings at the top.
    settings = content.get("pretrained_cfg", content)
    return settings if isinstance(settings, dict) and "input_size" in settings else None


def _create_timm(timm: Any, name: str, file: Path | None) -> Any:
    if file is not None:
        model = timm.create_model(name, pretrained=False, num_classes=0)
        # transformers puts a name of its own before timm's (TimmWrapperModel).
        tensors = {key.removeprefix("timm_model."): value for key, value in read_checkpoint(file).items()}
        fill_model(model, tensors, weights=str(file), name=name)
        return model
    with cache_only_if_unreachable() as reachable:
        try:
            return timm.create_model(name, pretrained=True, num_classes=0)
        except Exception as error:
            if "No pretrained weights" in str(error):
                raise InputError(f"timm can't load {name}: {error}") from error
            if reachable:
                raise InputError(f"timm can't load {name}: {error}") from error
            raise HubUnavailableError(
                f"the weights of timm:{name} aren't in the local cache and the hub can't be reached: "
                f"give them as timm:{name}:FILE, or use a descriptor, as in --backbone hog. "
                f"On a machine that reaches the hub, with `pip install -U huggingface_hub`:\n"
                f"    hf download timm/{name} --local-dir {name}\n"
                f"Copy the folder {name} here and give its weights:\n"
                f"    --backbone timm:{name}:./{name}/model.safetensors"
            ) from error


def load_open_clip(spec: str, execution: Execution) -> NetworkBackbone:
    """Load the image encoder of an open_clip model; ``cls`` is its embedding in the joint space.

    Parameters
    ----------
    spec : str
        ``ARCH/TAG`` (``ViT-B-32/laion2b_s34b_b79k``), ``ARCH/FILE`` or ``hf-hub:ORGANISATION/NAME``.
    execution : Execution
        As for :func:`load_backbone`.
    """
    created = create_open_clip(spec)
    visual, arch = created.model.visual, created.arch
    preprocessing = parse_preprocess_config(getattr(visual, "preprocess_cfg", {}), visual.image_size)
    tower = make_open_clip_tower(visual, preprocessing)
    card = BackboneCard(
        f"open_clip:{arch}",
        "OpenCLIP",
        spec,
        preprocessing,
        tower.dim,
        has_text_tower=True,
        adapter="open_clip",
    )
    return NetworkBackbone(card, tower, spec=created.spec, execution=execution)


@dataclass(frozen=True)
class OpenClipModel:
    """A whole model of open_clip: the package, the model, its architecture, and what loads it again."""

    package: Any
    model: Any
    arch: str
    spec: str


def create_open_clip(spec: str, *, part: str = "visual.") -> OpenClipModel:
    """Make a model of open_clip with its weights.

    Parameters
    ----------
    spec : str
        As for :func:`load_open_clip`.
    part : str
        A local file must hold the weights whose names begin with it.

    Raises
    ------
    MissingExtraError
        open_clip isn't installed.
    InputError
        It knows no such model or weights.
    HubUnavailableError
        The weights aren't cached and the hub can't be reached.
    """
    package = import_extra(f"The backbone open_clip:{spec}", "open_clip", "open_clip_torch", "open-clip")
    arch, pretrained = _split_open_clip(spec)
    if not arch.startswith("hf-hub:"):
        _check_names(package, arch, pretrained)
    again = f"open_clip:{arch}/{pretrained}" if pretrained else f"open_clip:{arch}"
    return OpenClipModel(package, _create_open_clip(package, arch, pretrained, part), arch, again)


def parse_preprocess_config(config: Mapping[str, Any], image_size: int | tuple[int, int]) -> Preprocessing:
    """Translate open_clip's preprocessing configuration.

    Raises
    ------
    InputError
        A setting asks for what Kinfold doesn't do to images.
    """
    size = config.get("size") or image_size
    height, width = (size, size) if isinstance(size, int) else (int(size[-2]), int(size[-1]))
    mode = config.get("resize_mode") or "shortest"
    if mode not in ("shortest", "squash"):
        raise _refuse("open_clip", "resize_mode", mode, "Kinfold doesn't pad images")
    if mode == "shortest" and height != width:
        raise _refuse("open_clip", "size", size, "Kinfold crops squares alone")
    if (config.get("mode") or "RGB") != "RGB":
        raise _refuse("open_clip", "mode", config["mode"], "Kinfold gives RGB")
    return Preprocessing(
        height,
        width,
        None if mode == "squash" else max(height, width),
        _filter("open_clip", config.get("interpolation") or "bicubic", ("bicubic", "bilinear")),
        _channels(config.get("mean") or CLIP_MEAN),
        _channels(config.get("std") or CLIP_STD),
        crop_rounds=True,
    )


def make_open_clip_tower(visual: Any, preprocessing: Preprocessing) -> Tower:
    """Wrap the image encoder of an open_clip model."""

    def pooled(output: Any) -> torch.Tensor:
        vector: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return vector

    with torch.inference_mode():
        visual.eval()
        dim = pooled(visual(torch.zeros(1, 3, preprocessing.height, preprocessing.width))).shape[1]
    tokens = None
    transformer = getattr(visual, "transformer", None)
    blocks, norm = getattr(transformer, "resblocks", None), getattr(visual, "ln_post", None)
    plain = getattr(visual, "attn_pool", None) is None and hasattr(visual, "class_embedding")
    if isinstance(blocks, nn.ModuleList) and isinstance(norm, nn.Module) and plain:
        batch_first = bool(getattr(transformer, "batch_first", False))
        tokens = Tokens(blocks, norm, 1, True, int(visual.class_embedding.shape[-1]), batch_first)
    return Tower(visual, visual, tokens, pooled, dim)


def _split_open_clip(spec: str) -> tuple[str, str]:
    """Return architecture and weights: a tag, or the absolute path of a file."""
    if spec.startswith("hf-hub:") or "/" not in spec:
        return spec, ""
    arch, pretrained = spec.split("/", 1)
    file = Path(pretrained).expanduser()
    return arch, str(file.resolve()) if file.is_file() else pretrained


def _check_names(open_clip: Any, arch: str, pretrained: str) -> None:
    if arch not in open_clip.list_models():
        raise InputError(f"open_clip has no model {arch!r}{nearest_name(arch, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if pretrained not in tags and not Path(pretrained).is_file():
        hint = nearest_name(pretrained, tags)
        raise InputError(
            f"open_clip has no weights {pretrained!r} for {arch}{hint}, nor is it a file; "
            f"it has: {', '.join(tags)}"
        )


def _create_open_clip(open_clip: Any, arch: str, pretrained: str, part: str) -> Any:
    file = Path(pretrained)
    if file.is_file():
        model = open_clip.create_model(arch)
        weights = {name.removeprefix("module."): value for name, value in read_checkpoint(file).items()}
        fill_model(model, weights, weights=str(file), name=arch, part=part)
        return model
    with cache_only_if_unreachable() as reachable:
        try:
            return open_clip.create_model(arch, pretrained=pretrained or None)
        except Exception as error:
            if reachable:
                raise
            raise HubUnavailableError(
                f"the weights of open_clip:{arch} aren't in the local cache and the hub can't be reached: "
                f"give them as open_clip:{arch}/FILE, or use a descriptor, as in --backbone hog"
            ) from error
