"""Model files in local folders: configurations, weights and checkpoints, and whether they fit a model."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kinfold.backbones._folders import find_folder, name_folder, refuse_foreign, say_format
from kinfold.backbones._hub import fetch_model, has_tokenizer
from kinfold.errors import FormatError, InputError
from kinfold.paths import utf8_path
from kinfold.storage import is_plain_name, read_json

# A weight's name, its shape in the file, and the shape that the model has for it.
Misfit = tuple[str, Sequence[int], Sequence[int]]

_SINGLE = {
    "model.safetensors": "model.safetensors.index.json",
    "pytorch_model.bin": "pytorch_model.bin.index.json",
}

# Where the weights lie in the files of the various projects; the teacher is what the papers evaluate.
_NESTS = ("teacher", "state_dict", "model", "student")

__all__ = [
    "fetch_model",
    "find_folder",
    "has_tokenizer",
    "hash_weights",
    "load_torch_file",
    "load_weights",
    "name_folder",
    "quiet_transformers",
    "read_config",
    "read_numbers",
]


def check_fit(
    weights: str, model: str, mend: str, *, missing: Iterable[str], misfits: Iterable[Misfit]
) -> None:
    """Refuse weights that a model lacks or has in other shapes.

    Parameters
    ----------
    weights : str
        The file or folder of the weights.
    model : str
        The model that they were meant for.
    mend : str
        What the user can do.
    missing : iterable of str
        Names of weights that the model needs and the file doesn't have.
    misfits : iterable of (str, shape, shape)
        Name, shape in the file and shape in the model of those that differ.

    Raises
    ------
    FormatError
        There are such weights.
    """
    differing, lacking = sorted(misfits, key=lambda misfit: misfit[0]), sorted(missing)
    # Differing shapes first: they mean another model, of which missing names are only a consequence.
    if differing:
        name, found, needed = differing[0]
        more = f", and {len(differing) - 1:,} more differ" if len(differing) > 1 else ""
        facts = f"{name} is {_say(found)} there, the model has {_say(needed)}{more}"
        raise FormatError(f"the weights in {weights} don't fit {model}: {facts}. {mend}")
    if lacking:
        more = f" and {len(lacking) - 3:,} more" if len(lacking) > 3 else ""
        raise FormatError(f"{weights} lacks weights of {model}: {', '.join(lacking[:3])}{more}. {mend}")


def fill_model(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], *, weights: str, name: str, part: str = ""
) -> None:
    """Copy tensors into a model by name; what it doesn't know is left out.

    Parameters
    ----------
    model : nn.Module
        The model.
    tensors : mapping
        Name to tensor.
    weights, name : str
        Where the tensors come from and what the model is called, for the error.
    part : str
        Only weights whose names begin with it have to be there.

    Raises
    ------
    FormatError
        Weights are missing or have other shapes.
    """
    mend = f"Give a checkpoint of {name} itself, or name the model that this one belongs to"
    try:
        missing = model.load_state_dict(tensors, strict=False).missing_keys
    except RuntimeError as error:
        own = model.state_dict()
        misfits = [
            (key, value.shape, own[key].shape)
            for key, value in tensors.items()
            if key in own and value.shape != own[key].shape
        ]
        if not misfits:
            raise FormatError(f"the weights in {weights} can't be read into {name}: {error}") from error
        check_fit(weights, name, mend, missing=(), misfits=misfits)
    else:
        needed = [key for key in missing if key.startswith(part)]
        check_fit(weights, name, mend, missing=needed, misfits=())


def _say(shape: Sequence[int]) -> str:
    return " × ".join(f"{length:,}" for length in shape) or "a single number"


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

    refuse_foreign(folder)
    content = read_json(folder / "config.json")
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError) as error:
        raise InputError(f"{folder / 'config.json'} can't be used: {_say_trouble(content, error)}") from error
    except Exception as error:  # configurations check their values with errors of several libraries
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
            f"{say_format(folder)}"
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
    except MemoryError:
        raise
    except ImportError as error:
        raise InputError(
            f"{folder} is of type {config.model_type!r}, which needs a package that isn't installed: {error}"
        ) from error
    except pickle.UnpicklingError as error:
        raise FormatError(_say_pickle(folder)) from error
    except Exception as error:  # safetensors, zip, torch and the models themselves share no base class
        if "safetensor" in type(error).__name__.lower():
            raise FormatError(f"the weights in {folder} are damaged: {error}") from error
        if "weights_only" in str(error) or "Unpickl" in str(error):
            raise FormatError(_say_pickle(folder)) from error
        raise FormatError(f"the weights in {folder} can't be loaded: {error}") from error
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


def load_torch_file(file: Path, *, mmap: bool | None = None) -> Any:
    """Read a file of PyTorch; weights only, as a pickle of anything else could run code."""
    with warnings.catch_warnings():
        # Of a newer pickle protocol than PyTorch's own: what it can't read raises an error all the same.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def read_checkpoint(file: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a ``.safetensors`` or torch file; tensors only, nothing in it can run code."""
    if not file.is_file():
        raise InputError(f"there is no checkpoint {file}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            with utf8_path(file) as place:
                return load_file(place)
        content = load_torch_file(file)
    except Exception as error:  # safetensors, pickle and zip errors have no common base
        raise FormatError(
            f"{file} can't be read as a file of weights only: {error}. "
            "If it holds more (arguments, an optimiser), save its state dict alone"
        ) from error
    return _find_tensors(content, file)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own bars and reports off the screen while weights load."""
    from transformers.utils import logging as hub_logging

    level, bar = hub_logging.get_verbosity(), hub_logging.is_progress_bar_enabled()
    hub_logging.set_verbosity_error()
    hub_logging.disable_progress_bar()
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)
        if bar:
            hub_logging.enable_progress_bar()


def _say_pickle(folder: Path) -> str:
    return (
        f"the weights in {folder} can't be read: pytorch_model.bin is damaged, or a pickle that holds more "
        "than weights and could run code, which Kinfold doesn't open. Get the model with model.safetensors, "
        "or, where you trust it, load it with transformers and write it anew with save_pretrained"
    )


def _say_trouble(config: Any, error: Exception) -> str:
    """Explain why a configuration isn't understood, in transformers' words only as a last resort."""
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
            content = read_json(folder / index)
            places = content.get("weight_map") if isinstance(content, dict) else None
            part = places.get(name, single) if isinstance(places, dict) else single
            if not is_plain_name(part):  # a model from elsewhere must not lead to other files
                raise FormatError(
                    f"{folder / index} is damaged: {part!r} is no name of a file beside it; download the "
                    "model again"
                )
            file = folder / part
        if not file.is_file():
            continue
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with utf8_path(file) as place, safe_open(place, framework="pt") as weights:
                return weights.get_tensor(name) if name in weights.keys() else None  # noqa: SIM118
        try:
            content = load_torch_file(file, mmap=True)
        except RuntimeError:  # a file in torch's older form can't be mapped
            content = load_torch_file(file)
        tensor: torch.Tensor | None = content.get(name)
        return tensor
    return None


def _hash_tensor(tensor: torch.Tensor) -> str:
    values = tensor.detach().to("cpu", torch.float32).contiguous()
    digest = hashlib.sha256(str(tuple(values.shape)).encode())
    digest.update(values.numpy().data)
    return digest.hexdigest()


def _find_tensors(content: Any, file: Path) -> dict[str, torch.Tensor]:
    while isinstance(content, Mapping):
        nest = next((key for key in _NESTS if isinstance(content.get(key), Mapping)), None)
        if nest is None:
            return {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
        content = content[nest]
    raise FormatError(f"{file} holds no mapping of weights")
