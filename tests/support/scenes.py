"""Drawn scenes with the shapes of photographs: portrait, landscape and panorama, in folders by day."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SHAPES = {"portrait": (300, 400), "landscape": (400, 300), "panorama": (800, 200)}
SCENES = ("sea", "meadow", "city", "dunes", "forest", "snow")
_SKIES = {
    "sea": ((120, 170, 220), (225, 235, 240)),
    "meadow": ((90, 150, 225), (200, 225, 245)),
    "city": ((12, 14, 40), (70, 50, 90)),
    "dunes": ((235, 150, 90), (250, 215, 160)),
    "forest": ((150, 170, 150), (215, 225, 205)),
    "snow": ((170, 185, 205), (235, 238, 245)),
}
_GROUNDS = {
    "sea": (30, 90, 130),
    "meadow": (80, 140, 50),
    "city": (20, 20, 28),
    "dunes": (205, 130, 60),
    "forest": (40, 66, 36),
    "snow": (238, 240, 246),
}


def draw_scene(scene: str, size: tuple[int, int], seed: int) -> Image.Image:
    """Draw a sky, a sun or moon, hills, what stands on the ground, and the grain of a photograph."""
    rng = np.random.default_rng([SCENES.index(scene), seed])
    width, height = size
    horizon = int(height * rng.uniform(0.45, 0.65))
    top, low = (np.array(colour, float) for colour in _SKIES[scene])
    share = np.linspace(0, 1, height)[:, None, None]
    sky = np.broadcast_to(top + (low - top) * share, (height, width, 3))
    image = Image.fromarray(sky.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    x, y, radius = rng.uniform(0.15, 0.85) * width, rng.uniform(0.15, 0.4) * height, 0.06 * height
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(255, 246, 214))
    ground = np.array(_GROUNDS[scene], float)
    for layer in range(3):
        base = horizon + layer * (height - horizon) // 4
        waves = rng.uniform(0.004, 0.02, 3), rng.uniform(0, 6, 3)
        along = np.arange(width)
        swing = sum(np.sin(along * f + p) for f, p in zip(*waves, strict=True)) * height * 0.025
        flat = 0.08 if scene == "sea" else 1.0
        points = [(int(a), int(base + flat * s)) for a, s in zip(along, swing, strict=True)]
        shade = tuple(np.clip(ground * (1.25 - 0.2 * layer), 0, 255).astype(int))
        draw.polygon([*points, (width, height), (0, height)], fill=shade)
    _draw_things(draw, scene, rng, size, horizon)
    grain = rng.normal(0, 5, (height, width, 1))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8)), float)
    return Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8))


def _draw_things(
    draw: ImageDraw.ImageDraw, scene: str, rng: np.random.Generator, size: tuple[int, int], horizon: int
) -> None:
    width, height = size
    for _ in range(int(rng.integers(4, 9)) * max(1, width // height)):
        x, scale = rng.uniform(0, width), rng.uniform(0.1, 0.3) * height
        if scene == "city":
            draw.rectangle([x, horizon - scale, x + scale * 0.5, height], fill=(28, 28, 44))
            for row in range(4):
                spot = x + rng.uniform(0, scale * 0.4), horizon - scale * (0.9 - 0.2 * row)
                draw.rectangle([*spot, spot[0] + 4, spot[1] + 5], fill=(255, 214, 120))
        elif scene in ("forest", "snow", "meadow"):
            foot = horizon + rng.uniform(0, 0.3) * height
            leaf = {"forest": (24, 52, 28), "snow": (60, 84, 80), "meadow": (46, 96, 40)}[scene]
            draw.rectangle([x - 2, foot - scale * 0.2, x + 2, foot], fill=(70, 50, 36))
            draw.polygon(
                [(x, foot - scale), (x - scale * 0.25, foot - 6), (x + scale * 0.25, foot - 6)], leaf
            )
        elif scene == "sea":
            draw.polygon(
                [(x, horizon + 4), (x + 10, horizon + 4), (x + 5, horizon - scale * 0.3)], (250, 250, 250)
            )


def write_scenes(folder: Path, n: int = 72) -> None:
    """Write ``n`` scenes as JPEG below folders of days: every shape of every scene."""
    shapes = list(SHAPES.values())
    for number in range(n):
        scene = SCENES[number % len(SCENES)]
        size = shapes[number // len(SCENES) % len(shapes)]
        day = folder / "Holidays 2025" / f"2025-07-{1 + number // 12:02d} at the coast"
        day.mkdir(parents=True, exist_ok=True)
        draw_scene(scene, size, number).save(day / f"IMG_{4000 + number}.jpg", quality=85)
