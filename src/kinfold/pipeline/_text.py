"""The text tower that belongs to features: found, loaded, and checked against them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinfold.backbones import Backbone
from kinfold.errors import InputError
from kinfold.language import TextEncoder, load_text_encoder
from kinfold.pipeline._backbone import describe_backbone
from kinfold.pipeline._source import Source

_JOINT_VARIANT = "cls"  # of backbones that have a joint space


def find_text_spec(text_model: str | Path | None, backbone: Mapping[str, Any] | None, where: str) -> str:
    """Return what loads the text tower: what was asked for, else the backbone of the features.

    Parameters
    ----------
    text_model : str, path or None
        What the user named.
    backbone : mapping or None
        What a manifest says of the backbone.
    where : str
        What the features are of, for the message.

    Raises
    ------
    InputError
        Neither is known.
    """
    if text_model is not None:
        return str(Path(text_model).absolute()) if Path(text_model).is_dir() else str(text_model)
    spec = (backbone or {}).get("spec")
    if not spec:
        raise InputError(
            f"words need the text tower of the model that made the features, which isn't known of {where}; "
            "name it (text_model=, --text-model)"
        )
    return str(spec)


def open_text_encoder(spec: str, *, dim: int, device: str, precision: str = "auto") -> TextEncoder:
    """Load a text tower whose texts lie in the space of features of ``dim`` values.

    Raises
    ------
    InputError
        There is no such model, it has no text tower, or its texts have another dimension.
    HubUnavailableError, MissingExtraError, FormatError
        As :func:`~kinfold.language.load_text_encoder`.
    """
    encoder = load_text_encoder(spec, device=device, precision=precision)
    if encoder.dim != dim:
        raise InputError(
            f"the texts of {encoder.name} have {encoder.dim} dimensions, the images' features {dim}: both "
            "must come from one and the same vision-language model (text_model=, --text-model)"
        )
    return encoder


def open_text_encoder_of(
    source: Source,
    backbone: Backbone | None,
    variant: str | None,
    text_model: str | Path | None,
    *,
    device: str,
    precision: str,
) -> TextEncoder:
    """Load the text tower for a source: that of the loaded backbone, or of the model that made its features.

    ``variant`` is as for :meth:`~kinfold.features.Features.matrix`.
    The errors are those of :func:`find_text_spec` and :func:`open_text_encoder`.
    """
    if backbone is not None:
        known: Mapping[str, Any] | None = {"spec": backbone.spec}
        dim = backbone.variants[variant or _JOINT_VARIANT]
    else:
        assert source.features is not None
        known = describe_backbone(source.features, None)
        dim = int(source.features.matrix(variant).shape[1])
    spec = find_text_spec(text_model, known, source.uri)
    return open_text_encoder(spec, dim=dim, device=device, precision=precision)
