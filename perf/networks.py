"""Forward passes: the small network beside its reference implementation, and vision transformers.

Run as ``python -m perf.networks [--images N] [--turns R]``. Ready pixels of 224 × 224 go through each network
in batches as ``kinfold embed`` makes them; sides alternate. Operations are counted by PyTorch's own counter.
The reference of the small network (``efficientnet-lite-pytorch``, part of the extra ``test``) runs as its
authors give it, in float32 and PyTorch's default memory format. Random weights cost the same as trained ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from kinfold.backbones import Backbone, load_backbone
from kinfold.compute import resolve_device, resolve_precision
from perf.ceilings import Ceilings, measure_ceilings
from perf.table import Table, median_ratio

_SIDE = 224
_VITS = {"ViT-S/14": (384, 12, 6), "ViT-B/14": (768, 12, 12)}  # width, depth, heads


def make_vit(folder: Path, width: int, depth: int, heads: int, precision: str) -> Backbone:
    """Load a vision transformer of DINOv2's shape with random weights by the public way."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, patch_size=14, image_size=_SIDE
    )
    Dinov2Model(config).save_pretrained(folder)
    return load_backbone(folder, precision=precision)


def passes(backbone: Backbone, images: np.ndarray) -> Callable[[], object]:
    """Return what embeds all images in batches of the backbone's own size."""
    size = backbone.find_batch_size()
    return lambda: [backbone.embed(images[start : start + size]) for start in range(0, len(images), size)]


def reference_passes(images: np.ndarray, batch_size: int) -> Callable[[], object]:
    """Return what the reference implementation of the small network does with the same images."""
    from efficientnet_lite_pytorch import EfficientNet

    from kinfold.backbones._efficientnet_lite import find_weights

    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(find_weights())).eval()

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                pixels = torch.from_numpy(images[start : start + batch_size]).permute(0, 3, 1, 2)
                network.extract_features((pixels.float() - 127) / 128).mean(dim=(2, 3))

    return run


def count_operations(backbone: Backbone) -> float:
    """Return the floating-point operations of one image."""
    with FlopCounterMode(display=False) as counter:
        backbone.embed(np.zeros((1, _SIDE, _SIDE, 3), np.uint8))
    return float(counter.get_total_flops())


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args(arguments)
    images = np.random.default_rng(0).integers(0, 256, (options.images, _SIDE, _SIDE, 3), dtype=np.uint8)
    device = resolve_device("auto")
    sides: dict[str, Callable[[], object]] = {}
    operations: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for precision in ("float32", "bfloat16"):
            loaded = {"small": load_backbone("efficientnet-lite0", precision=precision)}
            for name, shape in _VITS.items():
                loaded[name] = make_vit(Path(scratch) / f"{name[:5]}-{precision}", *shape, precision)
            for name, backbone in loaded.items():
                sides[f"{name}, {precision}"] = passes(backbone, images)
                operations[f"{name}, {precision}"] = count_operations(backbone)
        sides["small, reference"] = reference_passes(images, loaded["small"].find_batch_size())
        operations["small, reference"] = operations["small, float32"]
        times: dict[str, list[float]] = {name: [] for name in sides}
        rates: list[Ceilings] = []
        for turn in range(options.turns + 1):
            rates.append(measure_ceilings(device, resolve_precision("float32", device)))
            for name, run in sides.items():
                started = time.perf_counter()
                run()
                if turn:  # the first warms up
                    times[name].append(time.perf_counter() - started)
    table = Table(
        f"Forward passes of {options.images} images of {_SIDE} × {_SIDE}",
        ("network", "images/s", "GFLOP per image", "share of the float32 matrix-product rate"),
    )
    rate = median(one.matmul for one in rates)
    for name, taken in times.items():
        speed = options.images / median(taken)
        table.add(
            name, f"{speed:.1f}", f"{operations[name] / 1e9:.2f}", f"{speed * operations[name] / rate:.0%}"
        )
    ratio = median_ratio(times["small, float32"], times["small, reference"])
    table.notes.append(f"The small network takes {ratio:.2f} of its reference's time, both in float32.")
    table.note_ceilings(rates)
    return table


if __name__ == "__main__":
    print(main().markdown())
