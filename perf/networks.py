"""Forward passes by every engine: the small network beside its reference implementation, vision transformers.

Run as ``python -m perf.networks [--images N] [--turns R] [--networks NAME …]``. Ready pixels of 224 × 224 go
through each network in batches as ``kinfold embed`` makes them; sides alternate. Operations are counted by
PyTorch's own counter. The reference of the small network (``efficientnet-lite-pytorch``, part of the extra
``test``) runs as its authors give it, in float32 and PyTorch's default memory format. Transformers have
random weights, which cost the same as trained ones. With ``KINFOLD_DATA`` set, the vectors of 200 photographs
of Tiny-ImageNet are compared too. Shares are by processor time, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from kinfold.backbones import Backbone, load_backbone, usable_engines
from kinfold.compute import resolve_device, resolve_precision
from kinfold.errors import InputError
from perf.ceilings import Ceilings, measure_ceilings
from perf.table import Table, median_ratio

_SIDE = 224
_SMALL = "efficientnet-lite0"
_REFERENCE = f"{_SMALL}, reference"
_VITS = {"ViT-S/14": (384, 12, 6), "ViT-B/14": (768, 12, 12)}  # width, depth, heads
_N_PHOTOGRAPHS = 200
_PRODUCT_SIDE = 2048


@dataclass
class Side:
    """What is timed, with the operations of an image, seconds to load, and what was measured."""

    run: Callable[[np.ndarray], np.ndarray]
    operations: float
    loading: float
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def make_vit(folder: Path, width: int, depth: int, heads: int) -> Path:
    """Write a vision transformer of DINOv2's shape with random weights as transformers does."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, patch_size=14, image_size=_SIDE
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder


def embed_all(backbone: Backbone) -> Callable[[np.ndarray], np.ndarray]:
    """Return what embeds images in batches of the backbone's own size."""
    size = backbone.find_batch_size()
    return lambda images: np.concatenate(
        [backbone.embed(images[start : start + size])["cls"] for start in range(0, len(images), size)]
    )


def reference_side(batch_size: int, operations: float) -> Side:
    """Return the reference implementation of the small network."""
    from efficientnet_lite_pytorch import EfficientNet

    from kinfold.backbones._efficientnet_lite import find_weights

    network = EfficientNet.from_pretrained(_SMALL, weights_path=str(find_weights())).eval()

    def run(images: np.ndarray) -> np.ndarray:
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                pixels = torch.from_numpy(images[start : start + batch_size]).permute(0, 3, 1, 2)
                vectors.append(
                    network.extract_features((pixels.float() - 127) / 128).mean(dim=(2, 3)).numpy()
                )
        return np.concatenate(vectors)

    return Side(run, operations, 0.0)


def count_operations(backbone: Backbone) -> float:
    """Return the floating-point operations of one image."""
    with FlopCounterMode(display=False) as counter:
        backbone.embed(np.zeros((1, _SIDE, _SIDE, 3), np.uint8))
    return float(counter.get_total_flops())


def make_sides(networks: list[str], scratch: Path) -> dict[str, Side]:
    """Load every network in both precisions by every engine that has them."""
    sides: dict[str, Side] = {}
    for network in networks:
        place = _SMALL if network == _SMALL else make_vit(scratch / network[:5], *_VITS[network])
        operations = count_operations(load_backbone(place, device="cpu"))
        for precision in ("float32", "bfloat16"):
            for engine in usable_engines():
                started = time.process_time()
                try:
                    backbone = load_backbone(place, device="cpu", precision=precision, engine=engine)
                except InputError:  # an engine without bfloat16, or without it on this processor
                    continue
                loading = time.process_time() - started
                name = f"{network}, {precision}, {engine}"
                sides[name] = Side(embed_all(backbone), operations, loading)
                if network == _SMALL and _REFERENCE not in sides:
                    sides[_REFERENCE] = reference_side(backbone.find_batch_size(), operations)
    return sides


def product_rate() -> float:
    """Return the floating-point operations of a large product in float32 per processor second."""
    a, b = (torch.randn(_PRODUCT_SIDE, _PRODUCT_SIDE) for _ in range(2))
    out = torch.empty_like(a)
    taken = []
    for _ in range(3):
        started = time.process_time()
        torch.mm(a, b, out=out)
        taken.append(time.process_time() - started)
    return 2 * _PRODUCT_SIDE**3 / min(taken)


def read_photographs(folder: Path) -> np.ndarray:
    """Return validation images of Tiny-ImageNet, spread over all, as pixels for the small network."""
    transform = load_backbone(_SMALL, device="cpu").transform
    with tarfile.open(folder / "tiny_imagenet_100.tar") as archive:
        names = sorted(name for name in archive.getnames() if "val/images/" in name)
        chosen = names[:: len(names) // _N_PHOTOGRAPHS][:_N_PHOTOGRAPHS]
        files = [archive.extractfile(name) for name in chosen]
        return np.stack(
            [transform(Image.open(io.BytesIO(file.read())).convert("RGB")) for file in files if file]
        )


def compare_vectors(sides: dict[str, Side], photographs: np.ndarray) -> Table:
    """Hold the small network's vectors of photographs against the reference's."""
    wanted = sides[_REFERENCE].run(photographs)
    table = Table(
        f"Vectors of {len(photographs)} photographs beside the reference's, largest value {wanted.max():.1f}",
        ("network", "largest difference", "least cosine", "mean cosine"),
    )
    lengths = np.linalg.norm(wanted, axis=1)
    for name, side in sides.items():
        if not name.startswith(_SMALL) or name == _REFERENCE:
            continue
        found = side.run(photographs)
        cosines = (found * wanted).sum(axis=1) / (np.linalg.norm(found, axis=1) * lengths)
        difference = np.abs(found - wanted).max()
        table.add(name, f"{difference:.1e}", f"{cosines.min():.4f}", f"{cosines.mean():.4f}")
    return table


def main(arguments: list[str] | None = None) -> list[Table]:
    """Measure, and return the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=[_SMALL, *_VITS], default=[_SMALL, *_VITS])
    options = parser.parse_args(arguments)
    images = np.random.default_rng(0).integers(0, 256, (options.images, _SIDE, _SIDE, 3), dtype=np.uint8)
    device = resolve_device("cpu")
    ceilings: list[Ceilings] = []
    rates: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        sides = make_sides(options.networks, Path(scratch))
    for turn in range(options.turns + 1):
        ceilings.append(measure_ceilings(device, resolve_precision("float32", device)))
        rates.append(product_rate())
        for side in sides.values():
            wall, cpu = time.perf_counter(), time.process_time()
            side.run(images)
            if turn:  # the first warms up
                side.wall.append(time.perf_counter() - wall)
                side.cpu.append(time.process_time() - cpu)
    table = Table(
        f"Forward passes of {options.images} images of {_SIDE} × {_SIDE}, threads: {torch.get_num_threads()}",
        (
            "network",
            "images/s",
            "images per processor second",
            "GFLOP per image",
            "share of the float32 matrix-product rate",
            "loading, processor s",
        ),
    )
    for name, side in sides.items():
        speed = options.images / median(side.cpu)
        table.add(
            name,
            f"{options.images / median(side.wall):.1f}",
            f"{speed:.1f}",
            f"{side.operations / 1e9:.2f}",
            f"{speed * side.operations / median(rates):.0%}",
            f"{side.loading:.1f}" if side.loading else "",
        )
    table.note_ceilings(ceilings)
    table.notes.append(f"By processor time {median(rates) / 1e9:,.0f} GFLOP/s.")
    tables = [table]
    if _REFERENCE in sides:
        ratio = median_ratio(sides[f"{_SMALL}, float32, torch"].cpu, sides[_REFERENCE].cpu)
        table.notes.append(
            f"The small network takes {ratio:.2f} of its reference's processor time (float32)."
        )
        if folder := os.environ.get("KINFOLD_DATA"):
            tables.append(compare_vectors(sides, read_photographs(Path(folder))))
    return tables


if __name__ == "__main__":
    for measured in main():
        print(measured.markdown())
