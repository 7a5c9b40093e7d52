"""Whether weights fit a model, and in plain words how they don't."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from kinfold.errors import FormatError

# A weight's name, its shape in the file, and the shape that the model has for it.
Misfit = tuple[str, Sequence[int], Sequence[int]]


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
