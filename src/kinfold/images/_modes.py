"""Every mode that Pillow knows, as upright RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_upright(image: Image.Image) -> Image.Image:
    """Return the image as its EXIF orientation wants it shown; damaged EXIF data counts as none."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF parsing raises anything from struct.error to TypeError
        return image
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image in mode RGB.

    Whatever is transparent lies on white. 16-bit grey is scaled from 0–65,535 to 0–255. Modes without a
    range of their own (32-bit integers and floats) are stretched from their least to their greatest value,
    except floats within 0–1, which are taken as shares of white.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _from_grey(np.asarray(image).astype(np.float32) / 65535)
    if image.mode in ("I", "F"):
        return _from_grey(_stretch(image))
    if image.mode == "LAB":
        return _from_lab(image)
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _from_grey(share: NDArray[np.floating[Any]]) -> Image.Image:
    return Image.fromarray((share * 255 + 0.5).astype(np.uint8)).convert("RGB")


def _stretch(image: Image.Image) -> NDArray[np.float32]:
    values = np.asarray(image)
    if image.mode == "I" and image.format == "PNG":  # how older Pillows hand over 16-bit grey
        return np.clip(values.astype(np.float32) / 65535, 0, 1)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, dtype=np.float32)
    low, high = float(values[finite].min()), float(values[finite].max())
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    share = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0), 0, 1).astype(np.float32)


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # it is None only when converting in place
    return converted


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white
