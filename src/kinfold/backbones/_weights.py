"""A model of transformers in a local directory: its configuration, its weights, and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kinfold.backbones._fit import check_fit
from kinfold.errors import FormatError, InputError
from kinfold.storage import read_json

_SINGLE = {
    "model.safetensors": "model.safetensors.index.json",
    "pytorch_model.bin": "pytorch_model.bin.index.json",
}


def read_config(folder: Path) -> Any:
    """Read the configuration of the model in a directory of the hub's layout.

    Raises
    ------
    InputError
        There is none, or this transformers doesn't know the architecture.
    FormatError
        It is damaged.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} isn't a model: it has no config.json")
    content = read_json(folder / "config.json")
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError) as error:
        raise InputError(f"{folder / 'config.json'} can't be used: {_say_trouble(content, error)}") from error
    except OSError as error:
        raise FormatError(f"{folder / 'config.json'} is damaged: {error}") from error


def load_weights(
    folder: Path, model_class: Any, config: Any, options: Mapping[str, Any], unread: Collection[str] = ()
) -> tuple[nn.Module, set[str]]:
    """Load the weights of a directory into a class of transformers.

    Parameters
    ----------
    folder : Path
        Holds the weights.
    model_class, config : Any
        The class, and the configuration to make it with.
    options : mapping
        Further arguments of the class.
    unread : collection of str
        Parts of the names of weights that may be missing, because no vector depends on them.

    Returns
    -------
    nn.Module
        The model.
    set of str
        Names of the weights that were missing.

    Raises
    ------
    FormatError
        Weights are missing, damaged, or of another model.
    """
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FormatError(
            f"{folder} has no weights: model.safetensors (or pytorch_model.bin) must lie beside config.json"
        )
    try:
        with quiet_transformers():
            model, info = model_class.from_pretrained(
                folder,
                config=config,
                output_loading_info=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are refused below, in our own words
                **options,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise FormatError(f"the weights in {folder} can't be loaded: {error}") from error
    except Exception as error:
        if "safetensor" not in type(error).__name__.lower():
            raise
        raise FormatError(f"the weights in {folder} are damaged: {error}") from error
    missing = set(info["missing_keys"])
    check_fit(
        str(folder),
        f"the {config.model_type} model that its config.json describes",
        "Put config.json and weights of one and the same model there, or save the model anew",
        missing=[name for name in missing if not any(part in name for part in unread)],
        misfits=info["mismatched_keys"],
    )
    return model, missing


def read_numbers(folder: Path, names: Iterable[str]) -> dict[str, float]:
    """Read weights that are single numbers, by name, without loading the others.

    Names that the directory's weights don't have are left out.
    """
    found: dict[str, float] = {}
    for name in names:
        tensor = _read_tensor(folder, name)
        if tensor is not None and tensor.numel() == 1:
            found[name] = float(tensor)
    return found


def hash_weights(model: nn.Module, unread: Collection[str] = ()) -> list[str]:
    """Return the sorted SHA-256 of a model's floating-point tensors, those named in ``unread`` left out.

    Tensors count by shape and content and not by name: releases of transformers rename them.
    """
    return sorted(
        _hash_tensor(tensor)
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and name not in unread
    )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own bars and reports off the screen while weights load."""
    from transformers.utils import logging as theirs

    level, bar = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bar:
            theirs.enable_progress_bar()


def _say_trouble(config: Any, error: Exception) -> str:
    """Say why a configuration isn't understood; what transformers says itself only if we know no better."""
    import transformers

    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind is None:
        return "it names no model_type, so it wasn't written by save_pretrained of transformers"
    if kind not in transformers.CONFIG_MAPPING:
        return (
            f"transformers {transformers.__version__} doesn't know models of type {kind!r}. "
            "Update transformers, or take another backbone"
        )
    return str(error)


def _read_tensor(folder: Path, name: str) -> torch.Tensor | None:
    for single, index in _SINGLE.items():
        file = folder / single
        if (folder / index).is_file():
            file = folder / read_json(folder / index).get("weight_map", {}).get(name, single)
        if not file.is_file():
            continue
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(file, framework="pt") as weights:
                return weights.get_tensor(name) if name in weights.keys() else None  # noqa: SIM118
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file in torch's older form can't be mapped
            content = torch.load(file, map_location="cpu", weights_only=True)
        tensor: torch.Tensor | None = content.get(name)
        return tensor
    return None


def _hash_tensor(tensor: torch.Tensor) -> str:
    values = tensor.detach().to("cpu", torch.float32).contiguous()
    digest = hashlib.sha256(str(tuple(values.shape)).encode())
    digest.update(values.numpy().data)
    return digest.hexdigest()
