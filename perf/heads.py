"""Training of many heads: ours beside the textbook loop over heads, same shapes, same run.

The reference is one small PyTorch module per head, called in a loop, in float32, with PyTorch's own
AdamW: the way the method is usually written. It is measured in alternation with ours, next to the
machine's matrix-product and copy rates.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from kinfold.compute import resolve_device, resolve_precision
from kinfold.heads import (
    MultiHeadNetwork,
    PairSampler,
    ScanObjective,
    Schedule,
    StudentTeacher,
    TemiObjective,
    pair_agreement,
    pseudo_label_loss,
    scan_loss,
    sinkhorn,
    temi_loss,
)
from kinfold.neighbors import NeighborGraph
from perf.table import Table, median_ratio
from perf.turns import Side, Turns, alternate

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


SHAPES = {
    "cifar10": Shape(),
    "imagenet": Shape(1_281_167, 2048, 1000, 50, 1024),
    "imagenet21k": Shape(1_281_167, 1024, 10_450, 32, 512),  # of as many samples as fit beside the heads
}


def make_objective(name: str, shape: Shape) -> TemiObjective | ScanObjective:
    """Return what is minimised: ``temi``, ``scan`` or ``icce``."""
    if name == "scan":
        return ScanObjective()
    if name == "icce":
        return TemiObjective(shape.n_heads, shape.n_clusters, balanced=True, cross_entropy_weight=1.0)
    return TemiObjective(shape.n_heads, shape.n_clusters)


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

    def __init__(self, shape: Shape, objective: str, device: torch.device) -> None:
        self.shape, self.objective = shape, objective
        self.students = nn.ModuleList(LoopedHead(shape) for _ in range(shape.n_heads)).to(device)
        self.teachers = copy.deepcopy(self.students).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.students.parameters(), lr=4e-4, weight_decay=1e-4)
        self.marginal = torch.full((shape.n_heads, shape.n_clusters), 1 / shape.n_clusters, device=device)

    def step(self, batch: Tensor) -> None:
        """Make one update."""
        with torch.no_grad():
            teacher = torch.stack([head(batch) for head in self.teachers])
        student = torch.stack([head(batch) for head in self.students])
        loss = self._loss(student / 0.1, teacher / 0.1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for target, source in zip(self.teachers.parameters(), self.students.parameters(), strict=True):
                target.mul_(0.996).add_(0.004 * source)

    def _loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        balanced = self.objective == "icce"
        p = torch.log_softmax(student, dim=2).chunk(2, 1)
        views = teacher.chunk(2, 1)
        q = [sinkhorn(view) if balanced else torch.log_softmax(view, dim=2) for view in views]
        if self.objective == "scan":
            return scan_loss(*p, *q)
        self.marginal = 0.9 * self.marginal + 0.1 * torch.cat(q, 1).exp().mean(dim=1)
        losses = temi_loss(*p, *q, self.marginal, pair_agreement(*q).mean(dim=0))
        return losses + 0.5 * pseudo_label_loss(*p, *q) if balanced else losses


@dataclass
class Tables:
    """Several tables, printed one after the other."""

    tables: list[Table]

    def markdown(self) -> str:
        """Return the tables."""
        return "\n".join(table.markdown() for table in self.tables)


def main(arguments: list[str] | None = None) -> Table | Tables:
    """Measure, and return the table; of a GPU, unless a shape is asked for, those of the ImageNet shapes."""
    options = _parse(arguments)
    device = resolve_device(options.device)
    if options.shape is None and device.type == "cuda":
        return Tables([_measure(options, SHAPES[name], device) for name in ("imagenet", "imagenet21k")])
    return _measure(options, SHAPES[options.shape or "cifar10"], device)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), help="what the sizes below change")
    for name in ("samples", "features", "clusters", "heads"):
        parser.add_argument(f"--n-{name}", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--objective", choices=("temi", "scan", "icce"), default="temi")
    parser.add_argument("--steps", type=int, default=6, help="steps per turn")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=400, help="whose time is told")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-reference", action="store_true", help="measure ours alone")
    return parser.parse_args(arguments)


def _measure(options: argparse.Namespace, shape: Shape, device: torch.device) -> Table:
    given = {name: getattr(options, name) for name in Shape.__dataclass_fields__ if getattr(options, name)}
    shape = replace(shape, **given)
    dtype = resolve_precision("auto", device)
    learner, sampler = _make_learner(shape, options.objective, device, dtype), _make_sampler(shape, device)
    steps: dict[str, Callable[[Tensor], object]]
    steps = {"ours": lambda batch: learner.step(batch, shape.batch_size, 100, 0.5)}
    if not options.no_reference:
        steps["reference"] = LoopedReference(shape, options.objective, device).step
    sides = {name: Side(step, sampler.epoch) for name, step in steps.items()}
    turns = alternate(sides, turns=options.turns, steps=options.steps, device=device, dtype=dtype)
    return _table(options, shape, turns, device, dtype)


def _make_learner(shape: Shape, objective: str, device: torch.device, dtype: torch.dtype) -> StudentTeacher:
    network = MultiHeadNetwork(
        shape.n_features, shape.n_clusters, shape.n_heads, generator=torch.Generator().manual_seed(0)
    )
    schedule = Schedule(n_epochs=1, learning_rate=4e-4, warmup_steps=0, frozen_steps=0)
    return StudentTeacher(network, make_objective(objective, shape), schedule, device=device, dtype=dtype)


def _make_sampler(shape: Shape, device: torch.device) -> PairSampler:
    """Return batches of features made on the device, with random neighbours."""
    generator = torch.Generator(device).manual_seed(0)
    X = torch.randn(shape.n_samples, shape.n_features, device=device, generator=generator)
    indices = np.random.default_rng(0).integers(shape.n_samples, size=10 * shape.n_samples, dtype=np.int32)
    indptr = np.arange(shape.n_samples + 1, dtype=np.int64) * 10
    graph = NeighborGraph(indptr, indices, np.ones(len(indices), np.float32))
    return PairSampler(X, graph, batch_size=shape.batch_size, seed=0, device=device)


def _table(
    options: argparse.Namespace, shape: Shape, turns: Turns, device: torch.device, dtype: torch.dtype
) -> Table:
    table = Table(
        f"{options.objective.upper()} heads: N = {shape.n_samples:,}, D = {shape.n_features:,}, "
        f"K = {shape.n_clusters:,}, H = {shape.n_heads}, B = {shape.batch_size:,}, "
        f"{str(dtype).removeprefix('torch.')} on {device.type}, {torch.get_num_threads()} threads",
        ("", "s per epoch", "share of matrix-product rate", "time ÷ reference", "processor time ÷ reference"),
    )
    labels = {"ours": "Kinfold", "reference": "looped heads, float32"}
    for name, wall in turns.wall.items():
        shares = [shape.flops_per_step / t / r.matmul for t, r in zip(wall, turns.rates, strict=True)]
        table.add(
            labels[name],
            f"{median(wall) * shape.steps_per_epoch:.1f}",
            f"{median(shares):.0%}",
            *(
                f"{median_ratio(times[name], times['reference']):.2f}" if "reference" in times else "–"
                for times in (turns.wall, turns.cpu)
            ),
        )
    hours = median(turns.wall["ours"]) * shape.steps_per_epoch * options.epochs / 3600
    table.notes.append(f"{options.epochs} epochs of Kinfold would take {hours:.1f} hours.")
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**30
        table.notes.append(f"Peak of the GPU's memory, both sides counted: {peak:.1f} GiB.")
    table.note_ceilings(turns.rates)
    return table


if __name__ == "__main__":
    print(main().markdown())
