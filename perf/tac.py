"""TAC's training: ours beside a plain loop of the same formulas, same shapes, same run.

The reference is two small PyTorch modules, autograd, PyTorch's own Adam and the losses as
:mod:`kinfold.heads.dual` has them, on batches gathered by one index each: nothing is fused, nothing
is slowed down on purpose. It is measured in alternation with ours, next to the machine's matrix-product rate.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from kinfold.compute import resolve_device, resolve_precision
from kinfold.heads import DualBatches, DualHeads, DualSettings, PairSampler, dual_loss
from kinfold.neighbors import NeighborGraph
from perf.table import Table, median_ratio
from perf.turns import Side, alternate

N_NEIGHBORS = 50


@dataclass(frozen=True)
class Shape:
    """What is trained: CIFAR-10 in CLIP's space, unless told otherwise."""

    n_samples: int = 50_000
    n_features: int = 512
    n_clusters: int = 10
    batch_size: int = 512

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.n_samples // self.batch_size

    @property
    def flops_per_step(self) -> float:
        """Multiply-adds of the matrix products, times two.

        The first layer needs no gradient of its input: two products, the second layer three. Comparing
        2K columns of two pairs takes two products, one forward, one back.
        """
        rows, dim, k = 4 * self.batch_size, self.n_features, self.n_clusters
        heads = rows * (2 * dim * dim + 3 * dim * k)
        columns = 2 * 2 * (2 * k) ** 2 * self.batch_size
        return 2.0 * (heads + columns)


@dataclass(frozen=True)
class Data:
    """Unit rows of two modalities, and the neighbours of each sample in both."""

    rows: tuple[Tensor, Tensor]
    neighbors: tuple[Tensor, Tensor]


class PlainLoop:
    """The same training as one would write it first."""

    def __init__(self, shape: Shape, settings: DualSettings, data: Data, device: torch.device) -> None:
        self.shape, self.settings, self.data = shape, settings, data
        self.heads = nn.ModuleList(_module(shape) for _ in range(2)).to(device)
        self.optimizer = torch.optim.Adam(self.heads.parameters(), lr=1e-3, betas=(0.9, 0.99))

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches."""
        device = self.data.rows[0].device
        generator = torch.Generator(device).manual_seed(number)
        order = torch.randperm(self.shape.n_samples, generator=generator, device=device)
        for chosen in order.split(self.shape.batch_size):
            yield self._batch(chosen, 0, generator), self._batch(chosen, 1, generator)

    def step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Make one update."""
        p, q = (
            torch.softmax(head(rows), dim=1).chunk(2) for head, rows in zip(self.heads, batch, strict=True)
        )
        loss = dual_loss(p[0], q[0], p[1], q[1], self.settings)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()

    def _batch(self, chosen: Tensor, side: int, generator: torch.Generator) -> Tensor:
        rows, neighbors = self.data.rows[side], self.data.neighbors[side]
        drawn = torch.randint(N_NEIGHBORS, chosen.shape, generator=generator, device=chosen.device)
        return torch.cat([rows[chosen], rows[neighbors[chosen, drawn]]])


def _module(shape: Shape) -> nn.Module:
    d, k = shape.n_features, shape.n_clusters
    return nn.Sequential(nn.Linear(d, d), nn.BatchNorm1d(d), nn.ReLU(), nn.Linear(d, k))


class Ours:
    """What :class:`kinfold.TAC` trains with."""

    def __init__(
        self, shape: Shape, settings: DualSettings, data: Data, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.shape = shape
        samplers = [_sampler(shape, data, side, device) for side in (0, 1)]
        self.epoch = DualBatches(*samplers).epoch
        self.learner = DualHeads(
            shape.n_features,
            shape.n_clusters,
            settings,
            n_epochs=1,
            learning_rate=1e-3,
            generator=torch.Generator().manual_seed(0),
            device=device,
            dtype=dtype,
        )

    def step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Make one update."""
        self.learner.step(batch, self.shape.batch_size, 100, 0.5)


def _sampler(shape: Shape, data: Data, side: int, device: torch.device) -> PairSampler:
    n = shape.n_samples
    indices = data.neighbors[side].cpu().numpy().astype(np.int32).ravel()
    graph = NeighborGraph(
        np.arange(n + 1, dtype=np.int64) * N_NEIGHBORS, indices, np.ones(len(indices), np.float32)
    )
    return PairSampler(
        data.rows[side], graph, batch_size=shape.batch_size, seed=side, device=device, order_seed=2
    )


def _make_data(shape: Shape, device: torch.device) -> Data:
    generator = torch.Generator(device).manual_seed(0)
    sides = []
    for _ in range(2):
        rows = torch.randn(shape.n_samples, shape.n_features, device=device, generator=generator)
        size = (shape.n_samples, N_NEIGHBORS)
        neighbors = torch.randint(shape.n_samples, size, device=device, generator=generator)
        sides.append((nn.functional.normalize(rows, dim=1), neighbors))
    return Data((sides[0][0], sides[1][0]), (sides[0][1], sides[1][1]))


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    options = _parse(arguments)
    device = resolve_device(options.device)
    dtype = resolve_precision("auto", device)
    shape = Shape(options.n_samples, options.n_features, options.n_clusters, options.batch_size)
    settings, data = DualSettings(temperature=options.temperature), _make_data(shape, device)
    ours, plain = Ours(shape, settings, data, device, dtype), PlainLoop(shape, settings, data, device)
    reference = "plain loop, float32"
    sides = {"Kinfold": Side(ours.step, ours.epoch), reference: Side(plain.step, plain.epoch)}
    turns = alternate(sides, turns=options.turns, steps=options.steps, device=device, dtype=dtype)
    table = Table(
        f"TAC: N = {shape.n_samples:,}, D = {shape.n_features}, K = {shape.n_clusters:,}, "
        f"B = {shape.batch_size:,}, {str(dtype).removeprefix('torch.')} on {device.type}, "
        f"{torch.get_num_threads()} threads",
        (
            "",
            "ms per step",
            f"s per {options.epochs} epochs",
            "share of matrix-product rate",
            "time ÷ plain",
            "processor time ÷ plain",
        ),
    )
    for name, taken in turns.wall.items():
        shares = [shape.flops_per_step / t / r.matmul for t, r in zip(taken, turns.rates, strict=True)]
        table.add(
            name,
            f"{1e3 * median(taken):.1f}",
            f"{median(taken) * shape.steps_per_epoch * options.epochs:.0f}",
            f"{median(shares):.0%}",
            f"{median_ratio(taken, turns.wall[reference]):.2f}",
            f"{median_ratio(turns.cpu[name], turns.cpu[reference]):.2f}",
        )
    table.note_ceilings(turns.rates)
    return table


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in Shape().__dict__.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=20, help="steps per turn")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=20, help="whose time is told")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(main().markdown())
