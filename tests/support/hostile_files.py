"""Folders full of trouble, and folders full of odd images that are fine, for any test to use."""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from kinfold.images import SkipReason

SIDE = 96


def write_hostile_files(folder: Path) -> dict[str, SkipReason]:
    """Write at least sixty files, links and folders of which none can be used; return key -> reason."""
    expected: dict[str, SkipReason] = {}
    for group in (
        _empty,
        _truncated,
        _not_images,
        _corrupt,
        _bombs,
        _odd_names,
    ):
        for name, data, reason in group():
            expected[_place(folder, name, data)] = reason
    for special in (_links, _specials, _forbidden):
        expected.update(special(folder))
    return expected


def write_odd_but_good_files(folder: Path) -> list[str]:
    """Write one image of every odd mode, flavour and name that must be usable; return their keys."""
    return [_place(folder, name, data) for name, data in odd_images().items()]


def photo(width: int = SIDE, height: int = SIDE, seed: int = 0) -> Image.Image:
    """Return an RGB image with some structure, so that every codec has something to write."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(4, 20) + y / rng.uniform(4, 20) + rng.uniform(0, 6)) for _ in range(3)]
    noise = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray((np.stack(waves, -1) * 90 + 128 + noise).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def whole_files() -> dict[str, bytes]:
    """Return one file of every format and compression, by a name with its extension."""
    image = photo()
    files = {
        "baseline.jpg": encode(image, "JPEG"),
        "progressive.jpg": encode(image, "JPEG", progressive=True),
        "plain.png": encode(image, "PNG"),
        "lossy.webp": encode(image, "WEBP"),
        "lossless.webp": encode(image, "WEBP", lossless=True),
        "plain.gif": encode(image.convert("P"), "GIF"),
        "plain.bmp": encode(image, "BMP"),
        "raw.tif": encode(image, "TIFF"),
        "deflate.tif": encode(image, "TIFF", compression="tiff_adobe_deflate"),
        "lzw.tif": encode(image, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": encode(image, "TIFF", compression="jpeg"),
    }
    with contextlib.suppress(OSError, KeyError):
        files["plain.avif"] = encode(image, "AVIF")
    with contextlib.suppress(ImportError):
        files["plain.heic"] = _heic(image)
    return files


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with its right checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, body: bytes, *before: bytes) -> bytes:
    """Return a PNG file around already compressed pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", header, *before, png_chunk(b"IDAT", body), png_chunk(b"IEND", b"")]
    )


Files = Iterator[tuple[str | bytes, bytes, SkipReason]]


def _place(folder: Path, name: str | bytes, data: bytes) -> str:
    """Write a file; return its key (names in bytes come with their key behind a NUL)."""
    raw, _, key = (name.encode() if isinstance(name, str) else name).partition(b"\0")
    path = os.path.join(os.fsencode(folder), raw)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(data)
    return (key or raw).decode()


def _empty() -> Files:
    for name in ("nothing.jpg", "nothing.png", "nothing", "deep/er/and/deeper/nothing.webp"):
        yield f"empty/{name}", b"", SkipReason.EMPTY


def _truncated() -> Files:
    for name, data in whole_files().items():
        for percent in (20, 50, 90):
            yield f"truncated/{percent}-{name}", data[: len(data) * percent // 100], SkipReason.TRUNCATED
    jpeg, blank = encode(photo(), "JPEG"), encode(photo(), "PNG")
    yield "truncated/signature.jpg", jpeg[:2], SkipReason.TRUNCATED
    yield "truncated/signature.png", blank[:6], SkipReason.TRUNCATED
    yield "truncated/header.png", blank[:20], SkipReason.TRUNCATED
    yield "truncated/header.jpg", jpeg[:30], SkipReason.TRUNCATED
    yield "truncated/riff.webp", b"RIFF\x10\x00", SkipReason.TRUNCATED


def _not_images() -> Files:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a.txt", "hello")
    files = {
        "text.jpg": b"This is not a picture of a cat.\n" * 20,
        "html.png": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "zip.jpg": archive.getvalue(),
        "pdf.jpg": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
        "random.webp": random.Random(1).randbytes(5000),
        "random.jpg": random.Random(2).randbytes(64),
        "zeros.png": bytes(4096),
        "one byte.gif": b"G",
        "video.heic": struct.pack(">I", 24) + b"ftypisom\x00\x00\x02\x00isommp41" + bytes(400),
        "sound.webp": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(24),
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "labels.json": b'{"cat": 1}',
        "BMW.bmp": b"BMW is a maker of cars, and this is no bitmap.",
        "notes": "no extension, ünïcode".encode(),
    }
    for name, data in files.items():
        yield f"foreign/{name}", data, SkipReason.NOT_AN_IMAGE


def _corrupt() -> Files:
    image = photo()
    blank, jpeg = bytearray(encode(image, "PNG")), encode(image, "JPEG")
    pixels = blank.index(b"IDAT") + 4
    wrong_header = blank.copy()
    wrong_header[20] ^= 0xFF
    wrong_stream = blank.copy()
    wrong_stream[pixels : pixels + 40] = bytes(40)
    bitmap = bytearray(encode(image, "BMP"))
    bitmap[28:30] = struct.pack("<H", 77)
    webp = bytearray(encode(image, "WEBP"))
    webp[20:60] = b"\xff" * 40
    tiff = bytearray(encode(image, "TIFF", compression="tiff_lzw"))
    tiff[8:4008] = b"\xff" * 4000
    frame = jpeg.index(b"\xff\xc0")
    files = {
        "header.png": bytes(wrong_header),
        "stream.png": bytes(wrong_stream),
        "no size.png": png(0, 0, 8, 2, zlib.compress(b"")),
        "no chunks.png": b"\x89PNG\r\n\x1a\n" + b"\xff" * 200,
        "text bomb.png": png(
            8,
            8,
            8,
            0,
            zlib.compress(bytes(9 * 8)),
            png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200 << 20), 9)),
        ),
        "after the mark.jpg": b"\xff\xd8\xff" + b"\x11" * 300,
        "no frame.jpg": jpeg[:frame] + jpeg[frame + 19 :],
        "depth.bmp": bytes(bitmap),
        "stream.webp": bytes(webp),
        "stream.tif": bytes(tiff),
        "no frame.gif": b"GIF89a\x10\x00\x10\x00\x00\x00\x00;",
        "garbage.gif": b"GIF89a\x10\x00\x10\x00\x00\x00\x00" + b"\xee" * 50,
        "no tags.tif": b"II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    }
    for name, data in files.items():
        yield f"corrupt/{name}", data, SkipReason.CORRUPT


def _bombs() -> Files:
    black = zlib.compress(bytes(2501 * 20000), 9)
    jpeg = bytearray(encode(photo(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    bitmap = bytearray(encode(photo(), "BMP"))
    bitmap[18:26] = struct.pack("<ii", 30000, 30000)
    gif = bytearray(encode(photo().convert("P"), "GIF"))
    gif[6:10] = struct.pack("<HH", 60000, 60000)
    tiff = bytearray(encode(photo(), "TIFF", compression="tiff_lzw"))
    for tag in (256, 257):
        entry = tiff.index(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in tiff else -1
        kind = 4 if entry >= 0 else 3
        entry = tiff.index(struct.pack("<HHI", tag, kind, 1))
        tiff[entry : entry + 12] = struct.pack("<HHII", tag, 4, 1, 50000)
    canvas = struct.pack("<I", 16382)[:3] * 2
    body = encode(photo(), "WEBP", lossless=True)[12:]
    extended = b"WEBPVP8X" + struct.pack("<II", 10, 2) + canvas + b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    extended += b"ANMF" + struct.pack("<I", 16 + len(body)) + bytes(6) + struct.pack("<I", SIDE - 1)[:3] * 2
    extended += bytes(4) + body
    files = {
        "real.png": png(20000, 20000, 1, 0, black),
        "header.png": png(60000, 60000, 8, 2, zlib.compress(b"")),
        "header.jpg": bytes(jpeg),
        "header.bmp": bytes(bitmap),
        "header.gif": bytes(gif),
        "header.tif": bytes(tiff),
        "canvas.webp": b"RIFF" + struct.pack("<I", len(extended)) + extended,
    }
    for name, data in files.items():
        yield f"bombs/{name}", data, SkipReason.TOO_LARGE


def _odd_names() -> Files:
    for name in odd_names():
        yield b"names/" + name.replace(b"\0", b"\0names/"), b"no image", SkipReason.NOT_AN_IMAGE


def odd_names() -> list[bytes]:
    """Return odd file names, each with its key behind a NUL where that is another."""
    names = [
        b"with some spaces .jpg",
        b"with\na newline.jpg",
        "смешные 图像 \U0001f408.jpg".encode(),
        b"100%.jpg",
        b"a%20b.jpg\0a%2520b.jpg",
        b"'quotes\" & <b>.jpg",
        b"-rf",
    ]
    if os.name == "posix" and os.uname().sysname == "Linux":
        names += [b"caf\xe9.jpg\0caf%E9.jpg", b"\xff\xfe%41\0%FF%FE%2541"]
    return names


def _links(folder: Path) -> dict[str, SkipReason]:
    inner = folder / "links" / "inner"
    inner.mkdir(parents=True)
    try:
        (folder / "links" / "itself").symlink_to("itself")
    except OSError:
        return {}
    (folder / "links" / "nowhere.jpg").symlink_to("there is no such file.jpg")
    (folder / "links" / "nowhere").symlink_to(folder / "no" / "such" / "folder")
    (folder / "links" / "to itself").symlink_to(".")
    (inner / "up").symlink_to("..")
    (inner / "top").symlink_to(folder)
    return {
        "links/itself": SkipReason.BROKEN_LINK,
        "links/nowhere.jpg": SkipReason.BROKEN_LINK,
        "links/nowhere": SkipReason.BROKEN_LINK,
        "links/to itself": SkipReason.DIRECTORY_LOOP,
        "links/inner/up": SkipReason.DIRECTORY_LOOP,
        "links/inner/top": SkipReason.DIRECTORY_LOOP,
    }


def _specials(folder: Path) -> dict[str, SkipReason]:
    place = folder / "special"
    place.mkdir()
    found: dict[str, Callable[[Path], object]] = {}
    if hasattr(os, "mkfifo"):
        found["pipe.jpg"] = os.mkfifo
        found["link to a pipe.jpg"] = lambda path: path.symlink_to("pipe.jpg")
        found["socket"] = _bind
        found["null.png"] = lambda path: path.symlink_to("/dev/null")
        found["endless.png"] = lambda path: path.symlink_to("/dev/zero")
    for name, make in found.items():
        make(place / name)
    return {f"special/{name}": SkipReason.NOT_A_FILE for name in found}


def _bind(path: Path) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # a socket's path may have 100 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


def _forbidden(folder: Path) -> dict[str, SkipReason]:
    if os.name != "posix" or os.geteuid() == 0:
        return {}
    (folder / "forbidden" / "folder").mkdir(parents=True)
    (folder / "forbidden" / "file.jpg").write_bytes(encode(photo(), "JPEG"))
    for name in ("file.jpg", "folder"):
        (folder / "forbidden" / name).chmod(0)
    return {f"forbidden/{name}": SkipReason.UNREADABLE for name in ("file.jpg", "folder")}


def odd_images() -> dict[str | bytes, bytes]:
    """Return every odd kind of image that must be usable, by file name."""
    image = photo()
    grey, alpha = image.convert("L"), Image.linear_gradient("L").resize((SIDE, SIDE))
    with_alpha = image.copy()
    with_alpha.putalpha(alpha)
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    files: dict[str | bytes, bytes] = {f"good/{name}": data for name, data in whole_files().items()}
    files.update(
        {
            "good/cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
            "good/grey.jpg": encode(grey, "JPEG"),
            "good/grey.png": encode(grey, "PNG"),
            "good/grey 16.png": encode(deep, "PNG"),
            "good/grey 16.tif": encode(deep, "TIFF"),
            "good/float.tif": encode(Image.fromarray(np.asarray(grey) / np.float32(255)), "TIFF"),
            "good/integer.tif": encode(Image.fromarray(np.asarray(grey).astype(np.int32) * 1000), "TIFF"),
            "good/cmyk.tif": encode(image.convert("CMYK"), "TIFF"),
            "good/lab.tif": encode(_lab(), "TIFF"),
            "good/one bit.png": encode(image.convert("1"), "PNG"),
            "good/one bit.tif": encode(image.convert("1"), "TIFF", compression="group4"),
            "good/palette.png": encode(palette, "PNG"),
            "good/palette with transparency.png": encode(palette, "PNG", transparency=3),
            "good/palette with shares.png": encode(palette, "PNG", transparency=bytes(range(256))),
            "good/rgb with transparency.png": encode(image, "PNG", transparency=image.getpixel((0, 0))),
            "good/rgba.png": encode(with_alpha, "PNG"),
            "good/la.png": encode(with_alpha.convert("LA"), "PNG"),
            "good/rgba.webp": encode(with_alpha, "WEBP"),
            "good/rgba.tif": encode(with_alpha, "TIFF"),
            "good/moving.gif": encode(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
            "good/moving.png": encode(image, "PNG", save_all=True, append_images=[image.rotate(90)]),
            "good/moving.webp": encode(image, "WEBP", save_all=True, append_images=[image.rotate(90)]),
            "good/pages.tif": encode(image, "TIFF", save_all=True, append_images=[grey.convert("RGB")]),
            "good/two views.jpg": encode(image, "MPO", save_all=True, append_images=[image.rotate(90)]),
            "good/one pixel.png": encode(image.crop((0, 0, 1, 1)), "PNG"),
            "good/thin.jpg": encode(photo(4000, 1), "JPEG"),
            "good/wrong extension.txt": encode(image, "JPEG"),
            "good/no extension": encode(image, "WEBP"),
            "good/something behind.jpg": encode(image, "JPEG") + b"appended" * 100,
            "good/broken exif.jpg": encode(image, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f nonsense"),
        }
    )
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"good/turned {orientation}.jpg"] = encode(image, "JPEG", exif=exif)
    files.update({b"good/" + n.replace(b"\0", b"\0good/"): encode(image, "PNG") for n in odd_names()})
    return files


def _lab() -> Image.Image:
    y, x = np.mgrid[:SIDE, :SIDE]
    return Image.fromarray(np.stack([y * 2, x * 0 + 10, x * 0 + 240], -1).astype(np.uint8), mode="LAB")


def _heic(image: Image.Image) -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, format="HEIF")
    return buffer.getvalue()
