"""Training steps of several sides, timed in alternation in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from perf.ceilings import Ceilings, measure_ceilings, wait

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Side(Generic[Batch]):
    """What is timed: a step, and the batches of an epoch by its number."""

    step: Callable[[Batch], object]
    epoch: Callable[[int], Iterator[Batch]]


@dataclass(frozen=True)
class Turns:
    """Seconds and processor seconds per step, turn by turn, of each side; the machine's rates beside."""

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]
    rates: list[Ceilings]


def alternate(
    sides: Mapping[str, Side[Batch]], *, turns: int, steps: int, device: torch.device, dtype: torch.dtype
) -> Turns:
    """Time so many steps of each side in every turn; a first turn warms up and isn't counted."""
    found = Turns({name: [] for name in sides}, {name: [] for name in sides}, [])
    for turn in range(turns + 1):
        rates = measure_ceilings(device, dtype)
        for name, side in sides.items():
            wall, cpu = _time(side.step, side.epoch(turn), steps, device)
            if turn:
                found.wall[name].append(wall)
                found.cpu[name].append(cpu)
        if turn:
            found.rates.append(rates)
    return found


def _time(
    step: Callable[[Batch], object], batches: Iterator[Batch], steps: int, device: torch.device
) -> tuple[float, float]:
    """Return seconds and processor seconds per step, drawing of batches included."""
    step(next(batches))  # draws the epoch, and refills the caches that the other side used
    wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step(next(batches))
    wait(device)
    return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps
