"""Training of many heads: ours beside the textbook loop over heads, same shapes, same run.

The reference is one small PyTorch module per head, called in a loop, in float32, with PyTorch's own
AdamW: the way the method is usually written. It is measured in alternation with ours, next to the
machine's matrix-product and copy rates.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from kinfold.compute import resolve_device, resolve_precision
from kinfold.heads import MultiHeadNetwork, Schedule, TemiObjective, Trainer, pair_agreement, temi_loss
from perf.ceilings import Ceilings, measure_ceilings
from perf.table import Table, median_ratio

HIDDEN, BOTTLENECK = 512, 256


@dataclass(frozen=True)
class Shape:
    """What is trained."""

    n_samples: int = 50_000
    n_features: int = 1280
    n_clusters: int = 10
    n_heads: int = 16
    batch_size: int = 1024

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.n_samples // self.batch_size

    @property
    def flops_per_step(self) -> float:
        """Multiply-adds of the matrix products, times two: student and teacher forward, student backward.

        The first layer needs no gradient of its input, so it counts three products, the others four.
        """
        first = self.n_features * HIDDEN
        rest = HIDDEN * BOTTLENECK + BOTTLENECK * self.n_clusters
        return 2.0 * 2 * self.batch_size * self.n_heads * (3 * first + 4 * rest)


class LoopedHead(nn.Module):
    """One head as the textbook has it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(shape.n_features, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, BOTTLENECK)
        )
        self.last = weight_norm(nn.Linear(BOTTLENECK, shape.n_clusters, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K)."""
        return self.last(functional.normalize(self.body(x), dim=1))


class LoopedReference:
    """The loop over heads, trained on the same objective."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape = shape
        self.students = nn.ModuleList(LoopedHead(shape) for _ in range(shape.n_heads)).to(device)
        self.teachers = copy.deepcopy(self.students).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.students.parameters(), lr=4e-4, weight_decay=1e-4)
        self.marginal = torch.full((shape.n_heads, shape.n_clusters), 1 / shape.n_clusters, device=device)

    def step(self, batch: Tensor) -> None:
        """Make one update."""
        with torch.no_grad():
            teacher = torch.stack([head(batch) for head in self.teachers])
        student = torch.stack([head(batch) for head in self.students])
        log_student = torch.log_softmax(student / 0.1, dim=2)
        log_teacher = torch.log_softmax(teacher / 0.1, dim=2)
        self.marginal = 0.9 * self.marginal + 0.1 * log_teacher.exp().mean(dim=1)
        weights = pair_agreement(*log_teacher.chunk(2, 1)) / self.shape.n_heads
        loss = temi_loss(*log_student.chunk(2, 1), *log_teacher.chunk(2, 1), self.marginal, weights).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for target, source in zip(self.teachers.parameters(), self.students.parameters(), strict=True):
                target.mul_(0.996).add_(0.004 * source)


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6, help="steps per turn")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    shape = Shape(n_heads=options.heads, batch_size=options.batch_size)
    device = resolve_device(options.device)
    dtype = resolve_precision("auto", device)
    ours, reference = _make_trainer(shape, device, dtype), LoopedReference(shape, device)
    batches = [torch.randn(2 * shape.batch_size, shape.n_features, device=device) for _ in range(2)]
    times: dict[str, list[float]] = {"ours": [], "reference": []}
    rates: list[Ceilings] = []
    for turn in range(options.turns + 1):
        rates.append(measure_ceilings(device, dtype))
        taken = {
            "ours": _time(
                lambda i: ours.step(batches[i % 2], shape.batch_size, 100, 0.5), options.steps, device
            ),
            "reference": _time(lambda i: reference.step(batches[i % 2]), options.steps, device),
        }
        if turn:  # the first turn warms up
            for name, seconds in taken.items():
                times[name].append(seconds)
    return _table(shape, times, rates[1:], dtype)


def _make_trainer(shape: Shape, device: torch.device, dtype: torch.dtype) -> Trainer:
    network = MultiHeadNetwork(
        shape.n_features, shape.n_clusters, shape.n_heads, generator=torch.Generator().manual_seed(0)
    )
    schedule = Schedule(n_epochs=1, learning_rate=4e-4, warmup_steps=0, frozen_steps=0)
    objective = TemiObjective(shape.n_heads, shape.n_clusters)
    return Trainer(network, objective, schedule, device=device, dtype=dtype)


def _time(step: Any, steps: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for index in range(steps):
        step(index)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / steps


def _table(shape: Shape, times: dict[str, list[float]], rates: list[Ceilings], dtype: torch.dtype) -> Table:
    table = Table(
        f"TEMI heads: N = {shape.n_samples:,}, D = {shape.n_features}, K = {shape.n_clusters}, "
        f"H = {shape.n_heads}, B = {shape.batch_size}, {str(dtype).removeprefix('torch.')}",
        ("", "s per epoch", "share of matrix-product rate", "time ÷ reference"),
    )
    for name, label in (("ours", "Kinfold"), ("reference", "looped heads, float32")):
        seconds = sorted(times[name])[len(times[name]) // 2]
        shares = [shape.flops_per_step / t / r.matmul for t, r in zip(times[name], rates, strict=True)]
        table.add(
            label,
            f"{seconds * shape.steps_per_epoch:.1f}",
            f"{sorted(shares)[len(shares) // 2]:.0%}",
            f"{median_ratio(times[name], times['reference']):.2f}",
        )
    table.note_ceilings(rates)
    return table
