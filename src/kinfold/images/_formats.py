"""Image formats by their first bytes, and how much of a damaged file is missing."""

from __future__ import annotations

import re
import struct

from kinfold.paths import IMAGE_SUFFIXES

_SIGNATURES = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("BMP", b"BM"),
    ("TIFF", b"II*\x00"),
    ("TIFF", b"MM\x00*"),
    ("TIFF", b"II+\x00"),
    ("TIFF", b"MM\x00+"),
    ("JPEG2000", b"\x00\x00\x00\x0cjP  \r\n\x87\n"),
    ("JPEG2000", b"\xff\x4f\xff\x51"),
)
# Letter and digit alone begin many texts: a number, or a comment before it, must follow.
_NETPBM = re.compile(rb"P(?:[1-6][ \t\r\n]+[#\d]|[fF][ \t\r\n]+\d)")
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"}
# Sizes of the headers that BMP has had; "BM" alone begins many texts.
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}

SNIFF_BYTES = 64
"""So many bytes from the start of a file are enough for :func:`sniff`."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM")
EXTENSIONS = IMAGE_SUFFIXES

# What lies in folders of images and is none, by its first bytes: what it is, and how it can be used.
_OTHERS = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of Git LFS; fetch the file itself: git lfs pull",
    ),
    (b"PK\x03\x04", "a zip archive (or a document); a zip of images is a source of its own"),
    (b"PAR1", "a Parquet file; one with images is a source of its own"),
    (b"ARROW1", "an Arrow file; save the data set as Parquet"),
    (b"\x93NUMPY", "a NumPy array; features are a source of their own"),
    (b"SIMPLE  =", "a FITS image, which isn't read; convert it to TIFF"),
    (b"\x89HDF", "an HDF5 file, which isn't read; save its images as files"),
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"BZh", "a bzip2 file; unpack it first"),
    (b"\xfd7zXZ", "an xz file; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"%PDF", "a PDF; save its pages as images"),
    (b"8BPS", "a Photoshop file, which isn't read; save it as PNG"),
    (b"P7\n", "a PAM image, which isn't read; convert it to PNG"),
    (b"\xff\x0a", "a JPEG XL image, which isn't read; convert it to JPEG"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image, which isn't read; convert it to JPEG"),
    (b"<svg", "an SVG drawing, which isn't read; save it as PNG"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM); save its frames as images"),
    (b"FUJIFILMCCD-RAW", "a raw photograph; develop it to TIFF or JPEG"),
    (b"<!DOCTYPE html", "a web page, as a failed download leaves it"),
    (b"<html", "a web page, as a failed download leaves it"),
)


def describe_other(data: bytes) -> str:
    """Return what content that is no image seems to be, and how it can be used, or an empty string."""
    if data[4:8] == b"ftyp":
        is_raw = data[8:11] == b"crx"
        return "a raw photograph; develop it to JPEG" if is_raw else "a video; save its frames as images"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "a video (AVI); save its frames as images"
    if data[257:262] == b"ustar":
        return "a tar archive; one of images is a source of its own"
    if data[128:132] == b"DICM":
        return "a DICOM file, which isn't read; convert it to PNG or TIFF"
    return next((what for mark, what in _OTHERS if data[: len(mark)].lower() == mark.lower()), "")


def sniff(data: bytes) -> str | None:
    """Return the format that the first bytes announce, one of :data:`FORMATS`, or None."""
    for name, signature in _SIGNATURES:
        if data.startswith(signature):
            return name if name != "BMP" or _is_bmp(data) else None
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _sniff_brands(data)
    return "PPM" if _NETPBM.match(data) else None


def is_cut_signature(data: bytes) -> bool:
    """Tell whether the whole file is only the beginning of a signature."""
    if len(data) < 2:
        return False
    if data[:4] == b"RIFF"[: len(data)] and len(data) < 12:
        return data[8:] == b"WEBP"[: max(0, len(data) - 8)]
    return any(signature.startswith(data) for _, signature in _SIGNATURES) or (
        len(data) < 16 and data[4:8] == b"ftyp"
    )


def missing_bytes(name: str, data: bytes) -> int | None:
    """Return how many bytes a file of format ``name`` lacks at its end at least; None if it is whole.

    Only the file's skeleton is read (chunks, segments, boxes, directories). A skeleton that makes no sense
    counts as whole: then the file is corrupt, not truncated. Where only the end mark is known to be missing
    the answer is 1.
    """
    try:
        missing = _CHECKS[name](data) if name in _CHECKS else 0
    except (struct.error, IndexError):
        return 1
    return missing if missing > 0 else None


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a WebP file; its decoder takes memory for them as soon as it is opened."""
    kind = data[12:16]
    if kind == b"VP8 " and len(data) >= 30 and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L" and len(data) >= 25 and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _is_bmp(data: bytes) -> bool:
    return len(data) < 18 or struct.unpack_from("<I", data, 14)[0] in _BMP_HEADERS


def _sniff_brands(data: bytes) -> str | None:
    size = min(struct.unpack_from(">I", data)[0], SNIFF_BYTES)
    brands = [data[8:12]] + [data[at : at + 4] for at in range(16, size, 4)]
    if _AVIF_BRANDS.intersection(brands):
        return "AVIF"
    return "HEIF" if _HEIF_BRANDS.intersection(brands) else None


def _jpeg(data: bytes) -> int:
    at = 2
    while True:
        if data[at] != 0xFF:
            return 0
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker == 0xD9:
            return 0
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        elif marker < 0xC0:
            return 0
        else:
            end = at + 2 + int(struct.unpack_from(">H", data, at + 2)[0])
            if end > len(data):
                return int(end - len(data))
            if marker == 0xDA:
                # Entropy-coded data have no lengths; the end mark can't occur inside them.
                return 0 if b"\xff\xd9" in data[end:] else 2
            at = end


def _png(data: bytes) -> int:
    at = 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isalpha() or length > 0x7FFFFFFF:
            return 0
        at += 12 + length
        if at > len(data):
            return int(at - len(data))
        if kind == b"IEND":
            return 0


def _webp(data: bytes) -> int:
    return 8 + int(struct.unpack_from("<I", data, 4)[0]) - len(data)


def _gif(data: bytes) -> int:
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while True:
        kind = data[at]
        if kind == 0x3B:
            return 0
        if kind == 0x21:
            at += 2
        elif kind == 0x2C:
            at += 10 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0) + 1
        else:
            return 0
        while data[at]:
            at += 1 + data[at]
        at += 1


def _bmp(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 2)[0]) - len(data)


def _tiff(data: bytes) -> int:
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\x00", b"\x00+"):
        return _tiff_directory(data, order, int(struct.unpack_from(f"{order}Q", data, 8)[0]), big=True)
    return _tiff_directory(data, order, int(struct.unpack_from(f"{order}I", data, 4)[0]), big=False)


_TIFF_WIDTHS = {1: (1, 2, 6, 7), 2: (8,), 4: (9, 11, 13), 8: (5, 10, 12, 17, 18)}
_TIFF_TYPES = {3: ("H", 2), 4: ("I", 4), 16: ("Q", 8)}  # those of offsets and lengths
_TIFF_TYPES |= {kind: ("", width) for width, kinds in _TIFF_WIDTHS.items() for kind in kinds}


def _tiff_directory(data: bytes, order: str, at: int, *, big: bool) -> int:
    if at >= len(data):
        return at + 2 - len(data)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    step, inline, pointer = (20, 8, "Q") if big else (12, 4, "I")
    if at + count * step > len(data):
        return int(at + count * step - len(data))
    values: dict[int, list[int]] = {}
    for entry in range(at, at + count * step, step):
        tag, kind, number = struct.unpack_from(f"{order}HH{pointer}", data, entry)
        code, width = _TIFF_TYPES.get(kind, ("", 0))
        place = entry + step - inline
        if number * width > inline:
            (place,) = struct.unpack_from(f"{order}{pointer}", data, place)
            if place + number * width > len(data):
                return int(place + number * width - len(data))
        if tag in (273, 279, 324, 325) and code:
            values[tag] = list(struct.unpack_from(f"{order}{number}{code}", data, place))
    offsets = values.get(273, []) + values.get(324, [])
    lengths = values.get(279, []) + values.get(325, [])
    return max([a + b for a, b in zip(offsets, lengths, strict=False)], default=0) - len(data)


def _jpeg2000(data: bytes) -> int:
    if data.startswith(b"\xff\x4f"):
        return 0 if data.endswith(b"\xff\xd9") else 2
    return _boxes(data) or int(b"jp2c" not in data)


def _boxes(data: bytes) -> int:
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isascii():
            return 0
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
        if size == 0:
            return 0
        if size < 8:
            return 0
        at += size
    return at - len(data)


_CHECKS = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": _tiff,
    "AVIF": _boxes,
    "HEIF": _boxes,
    "JPEG2000": _jpeg2000,
}
