"""How fast images become vectors, and what the whole way costs beyond decoding and forward passes.

Run as ``python -m perf.embedding [--images N] [--repeats R]``. A ViT-S/14 of DINOv2-small's shape (random
weights cost the same) embeds JPEGs of 500 × 375 pixels. Decoding (read, decode, resize, crop, in worker
processes) and the forward pass are timed alone, each with all cores; their sum is what the images cost on
these cores when nothing overlaps. The share is that sum over the time of ``extract_features``; the three
alternate, so that a busy machine disturbs them alike.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageFilter

from kinfold.backbones import Backbone, load_backbone
from kinfold.compute import resolve_device, resolve_precision
from kinfold.features import extract_features
from kinfold.images import ImageLoader, ImageSource, decode_image, open_source
from perf.ceilings import Ceilings, measure_ceilings
from perf.table import Table, median_ratio

SIZE = (500, 375)
WIDTH, DEPTH, TOKENS = 384, 12, 257
# Multiply-adds of the blocks and of the patch embedding, twice.
FLOPS = 2 * (DEPTH * (12 * WIDTH**2 * TOKENS + 2 * TOKENS**2 * WIDTH) + (TOKENS - 1) * 14 * 14 * 3 * WIDTH)


class Bench:
    """Photos, a network, and the three things that are timed."""

    def __init__(self, root: Path, n: int) -> None:
        self.root, self.n = root, n
        self.source = make_photos(root / "photos", n)
        self.backbone = make_backbone(root / "model")
        self.batch_size = min(n, self.backbone.find_batch_size())
        self.prepared = np.stack(
            [self.backbone.transform(decode_image(self.source.read(row))) for row in range(self.batch_size)]
        )
        self.backbone.embed(self.prepared, ("cls",))

    def decode(self) -> None:
        """Read and prepare every photo, as the pipeline does."""
        backbone = self.backbone
        with ImageLoader(self.source, backbone.transform, min_side=backbone.min_side) as loader:
            for _ in loader.batches(range(self.n), self.batch_size):
                pass

    def forward(self) -> None:
        """Embed as many prepared images."""
        for start in range(0, self.n, self.batch_size):
            self.backbone.embed(self.prepared[: min(self.batch_size, self.n - start)], ("cls",))

    def extract(self) -> None:
        """Take the public way from files to a feature store."""
        with tempfile.TemporaryDirectory(dir=self.root) as out:
            extract_features(self.source, self.backbone, Path(out) / "features", batch_size=self.batch_size)


def make_photos(folder: Path, n: int) -> ImageSource:
    """Write ``n`` JPEGs with the file size of photographs (about 60 kB)."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        picture = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
        grain = Image.fromarray(generator.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
        detail = np.asarray(grain.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.int16) - 128
        mixed = np.clip(picture + detail, 0, 255).astype(np.uint8)
        Image.fromarray(mixed).save(folder / f"{i:05d}.jpg", quality=88)
    return open_source(folder)


def make_backbone(folder: Path) -> Backbone:
    """Load a ViT-S/14 of DINOv2's shape with random weights by the public way."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=6, patch_size=14, image_size=224
    )
    Dinov2Model(config).save_pretrained(folder)
    return load_backbone(folder)


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    n, device = options.images, resolve_device("auto")
    times: dict[str, list[float]] = {"decode": [], "forward": [], "extract": []}
    rates: list[Ceilings] = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), n)
        for _ in range(options.repeats):
            rates.append(measure_ceilings(device, resolve_precision("auto", device)))
            for name, taken in times.items():
                taken.append(seconds_of(getattr(bench, name)))
    table = Table(
        f"Embedding {n} JPEGs of {SIZE[0]} × {SIZE[1]}, ViT-S/14, batches of {bench.batch_size}",
        ("part", "seconds", "images/s"),
    )
    added = [a + b for a, b in zip(times["decode"], times["forward"], strict=True)]
    rows = {"decoding alone": times["decode"], "forward alone": times["forward"], "both, added": added}
    for label, taken in {**rows, "the whole pipeline": times["extract"]}.items():
        table.add(label, f"{median(taken):.2f}", f"{n / median(taken):.1f}")
    reached = FLOPS * n / median(times["forward"]) / median(rate.matmul for rate in rates)
    table.notes.append(f"The pipeline reaches {median_ratio(added, times['extract']):.0%} of both, added.")
    table.notes.append(f"The forward pass runs at {reached:.0%} of the machine's matrix-product rate.")
    table.note_ceilings(rates)
    return table


if __name__ == "__main__":
    print(main().markdown())
