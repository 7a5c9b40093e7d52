"""Importing extras that need torchvision, which is often missing or made for another PyTorch."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import torch

from kinfold.errors import InputError, MissingExtraError


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
