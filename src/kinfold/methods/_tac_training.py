"""How TAC trains: its plan, and the batches and the learner that the trainer gets."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinfold.compute import Runtime
from kinfold.heads import DualBatches, DualHeads, DualSettings, DualTraining, PairSampler, Trainer
from kinfold.methods._rows import fingerprint_columns
from kinfold.neighbors import NeighborGraph
from kinfold.storage import hash_json

MANY_CLUSTERS = 100
_LEAST_STEPS = 500


@dataclass(frozen=True)
class TacPlan:
    """How long and how fast to train.

    Attributes
    ----------
    n_epochs : int
        Passes over the data.
    batch_size : int
        Samples per step, at most N.
    steps_per_epoch : int
        Whole batches in N samples.
    learning_rate : float
        Of Adam.
    temperature : float
        τ of the distillation.
    """

    n_epochs: int
    batch_size: int
    steps_per_epoch: int
    learning_rate: float
    temperature: float


def plan_tac(
    n_samples: int,
    n_clusters: int,
    *,
    n_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float = 1e-3,
    temperature: float | None = None,
) -> TacPlan:
    """Choose what was left open.

    The paper's 20 epochs of batches of 512 at τ = 0.5; from 100 clusters on its 100 epochs of batches of
    8,192 at τ = 5. Where that is fewer than 500 steps, epochs are added up to 500: small folders would
    hardly be trained.

    Parameters
    ----------
    n_samples, n_clusters : int
        N and K.
    n_epochs, batch_size, learning_rate, temperature : optional
        What the user fixed.
    """
    many = n_clusters >= MANY_CLUSTERS
    size = min(int(batch_size or (8192 if many else 512)), n_samples)
    steps_per_epoch = n_samples // size
    if n_epochs is None:
        n_epochs = max(100 if many else 20, math.ceil(_LEAST_STEPS / steps_per_epoch))
    if temperature is None:
        temperature = 5.0 if many else 0.5
    return TacPlan(int(n_epochs), size, steps_per_epoch, float(learning_rate), float(temperature))


def train_dual(
    images: Any,
    texts: Any,
    graphs: tuple[NeighborGraph, NeighborGraph],
    n_clusters: int,
    plan: TacPlan,
    settings: DualSettings,
    *,
    seed: int,
    runtime: Runtime,
    checkpoint: Path | None = None,
) -> DualTraining:
    """Train both heads, in this process alone.

    Parameters
    ----------
    images, texts : array or row matrix (N, D)
        Both at unit length.
    graphs : pair of NeighborGraph
        Neighbours among images, and among texts.
    n_clusters : int
        K.
    plan : TacPlan
        Length and rate.
    settings : DualSettings
        The loss.
    seed : int
        Of initial weights and batches.
    runtime : Runtime
        Where to train, and the type of matrix products.
    checkpoint : Path, optional
        As in :meth:`~kinfold.heads.Trainer.fit`.
    """
    samplers = [
        PairSampler(
            rows,
            graph,
            batch_size=plan.batch_size,
            seed=seed + number,
            device=runtime.device,
            order_seed=seed + 2,
        )
        for number, (rows, graph) in enumerate(zip((images, texts), graphs, strict=True))
    ]
    learner = DualHeads(
        int(images.shape[1]),
        n_clusters,
        settings,
        n_epochs=plan.n_epochs,
        learning_rate=plan.learning_rate,
        generator=torch.Generator().manual_seed(seed),
        device=runtime.device,
        dtype=runtime.dtype,
    )
    identity = hash_json(
        {
            "plan": asdict(plan),
            "seed": seed,
            "rows": [fingerprint_columns(rows) for rows in (images, texts)],
            "graphs": [[len(g.indices), int(g.indices.sum(dtype=np.int64))] for g in graphs],
        }
    )
    trainer = Trainer(learner, identity=identity)
    return trainer.fit(DualBatches(*samplers), progress=runtime.progress, checkpoint=checkpoint)
