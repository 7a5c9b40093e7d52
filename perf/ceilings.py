"""What the machine can do: the rates that every measurement is held against, taken in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ceilings:
    """Measured rates.

    Attributes
    ----------
    matmul : float
        Floating-point operations per second of a large square matrix product.
    copy : float
        Bytes per second of a large copy, read and written bytes both counted.
    """

    matmul: float
    copy: float


def measure_ceilings(device: torch.device, dtype: torch.dtype, repeats: int = 3) -> Ceilings:
    """Measure both rates; the best of several repeats."""
    side = 8192 if device.type == "cuda" else 3072
    a = torch.randn(side, side, device=device).to(dtype)
    b = torch.randn(side, side, device=device).to(dtype)
    out = torch.empty_like(a)
    source = torch.zeros(1 << 26, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    product = min(_seconds(lambda: torch.mm(a, b, out=out), device) for _ in range(repeats))
    copy = min(_seconds(lambda: target.copy_(source), device) for _ in range(repeats))
    return Ceilings(2 * side**3 / product, 2 * source.nbytes / copy)


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    action()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was asked; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
