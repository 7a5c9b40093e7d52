"""Claims about images of more than eight bits per value, and about files that Pillow can't read."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kinfold.images import SkipReason, UnusableImage, decode_image, describe_range, read_size
from support import hostile_files
from support.hostile_files import encode

RNG = np.random.default_rng(0)
SHAPE = (20, 30)


def tiff(values: np.ndarray, *, planar: bool = False, photometric: int | None = None, **tags: int) -> bytes:
    """Write an uncompressed TIFF of one strip (one per band if planar), values as they are."""
    bands = values.reshape(*values.shape[:2], -1)
    height, width, n_bands = bands.shape
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[values.dtype.kind]
    pixels = np.moveaxis(bands, -1, 0) if planar else bands
    data = pixels.astype(values.dtype.newbyteorder("<")).tobytes()
    n_strips = n_bands if planar else 1
    photometric = photometric if photometric is not None else (2 if n_bands == 3 else 1)
    entries = {256: width, 257: height, 258: [8 * values.dtype.itemsize] * n_bands, 259: 1, 262: photometric}
    entries |= {273: [0] * n_strips, 277: n_bands, 278: height, 279: [len(data) // n_strips] * n_strips}
    entries |= {284: 2 if planar else 1, 339: [kind] * n_bands, **{int(tag[1:]): tags[tag] for tag in tags}}
    directory = 2 + 12 * len(entries) + 4
    extra, table = bytearray(), bytearray()
    n_far = sum(4 * len(v) for v in entries.values() if isinstance(v, list) and len(v) > 1)
    start = 8 + directory + n_far
    entries[273] = [start + at * (len(data) // n_strips) for at in range(n_strips)]
    for tag in sorted(entries):
        value = entries[tag] if isinstance(entries[tag], list) else [entries[tag]]
        packed = struct.pack(f"<{len(value)}I", *value)
        if len(value) > 1:
            packed, far = struct.pack("<I", 8 + directory + len(extra)), packed
            extra += far
        table += struct.pack("<HHI", tag, 4, len(value)) + packed
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    return head + bytes(table) + bytes(4) + bytes(extra) + data


def png16(values: np.ndarray, *, bits: int | None = None) -> bytes:
    """Write a 16-bit PNG, grey or in colour, which may name its significant bits."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {2: 0, 3: 2 if values.shape[-1] == 3 else 6}[values.ndim]
    data = hostile_files.png(values.shape[1], values.shape[0], 16, colour, zlib.compress(rows))
    if bits is None:
        return data
    chunk = b"sBIT" + bytes([bits] * (1 if values.ndim == 2 else 3))
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:33] + chunk + data[33:]


def grey(data: bytes) -> np.ndarray:
    pixels = np.asarray(decode_image(data)).astype(int)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_few_values_of_16_bits_look_as_they_do_in_8(kind):
    values = RNG.integers(0, 111, SHAPE).astype(np.uint16)
    deep = Image.fromarray(values.astype(np.int32) if kind == "PPM" else values)
    np.testing.assert_array_equal(grey(encode(deep, kind)), values)
    assert "8-bit" in describe_range(encode(deep, kind))


@pytest.mark.parametrize(("top", "white"), [(1000, 1023), (4000, 4095), (16000, 16383), (60000, 65535)])
@pytest.mark.parametrize("colour", [False, True])
def test_white_is_that_of_the_sensor_that_the_values_are_from(top, white, colour):
    values = RNG.integers(0, top + 1, (*SHAPE, 3) if colour else SHAPE).astype(np.uint16)
    values[0, 0] = top
    for data in (png16(values), tiff(values)):
        found = np.asarray(decode_image(data)).astype(float)
        expected = values / white * 255
        assert np.abs(found - (expected if colour else expected[..., None])).max() <= 1
        assert bool(describe_range(data)) == (white < 65535)


def test_transparent_deep_colour_lies_on_white():
    values = np.full((8, 8, 4), 4000, np.uint16)
    values[..., 3] = 0
    values[0, 0] = [0, 2000, 4000, 65535]
    found = np.asarray(decode_image(png16(values)))
    assert found[0, 0].tolist() == [0, 125, 249]
    assert (found[1:] == 255).all()


def test_values_that_span_little_of_their_range_are_stretched():
    for low, high in ((30_000, 30_110), (0, 20), (65_000, 65_500)):
        values = RNG.integers(low, high + 1, SHAPE).astype(np.uint16)
        values[0, :2] = low, high
        found = grey(png16(values))
        assert found.min() == 0
        assert found.max() == 255
        assert "stretched" in describe_range(png16(values))


def test_shares_of_white_that_span_little_are_stretched_too():
    values = (RNG.random(SHAPE) * 0.002).astype(np.float32)
    assert grey(encode(Image.fromarray(values), "TIFF")).max() == 255
    assert "stretched" in describe_range(encode(Image.fromarray(values), "TIFF"))


def test_bits_that_a_file_names_count_and_are_no_guess():
    values = RNG.integers(0, 1001, SHAPE).astype(np.uint16)
    expected = values / 4095 * 255
    pgm = b"P5\n# a camera\n30 20\n4095\n" + values.astype(">u2").tobytes()
    plain = b"P2 30 20 4095\n" + b" ".join(b"%d" % value for value in values.ravel())
    for data in (png16(values, bits=12), tiff(values, t281=4095), pgm, plain):
        assert np.abs(grey(data) - expected).max() <= 1
        assert describe_range(data) == ""


def test_a_named_white_below_the_values_is_not_believed():
    values = np.array([[0, 60_000]], np.uint16)
    assert grey(tiff(values, t281=255)).tolist() == [[0, 233]]


def test_images_of_one_value_are_no_noise():
    for value in (0, 7, 40_000):
        found = grey(png16(np.full(SHAPE, value, np.uint16)))
        assert found.min() == found.max()
    assert describe_range(png16(np.zeros(SHAPE, np.uint16))) == ""


def test_images_of_eight_bits_have_no_range_to_guess():
    assert describe_range(encode(Image.fromarray(np.full((4, 4), 3, np.uint8)), "PNG")) == ""


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u4", "i2"])
@pytest.mark.parametrize("colour", [False, True])
def test_tiffs_of_halves_doubles_and_wide_integers_are_read(dtype, colour):
    share = RNG.random((*SHAPE, 3) if colour else SHAPE)
    share[0, 0], share[0, 1] = 0, 1
    values = (share if dtype[0] == "f" else share * 30_000).astype(dtype)
    found = np.asarray(decode_image(tiff(values)))
    assert np.abs(found - (share if colour else share[..., None]) * 255).max() <= 1
    assert read_size(tiff(values)) == (30, 20)


def test_planes_of_deep_colour_are_put_together():
    values = RNG.integers(0, 65_536, (*SHAPE, 3)).astype(np.uint16)
    values[0, 0] = 65_535
    assert np.abs(np.asarray(decode_image(tiff(values, planar=True))) - values / 257).max() <= 1


@pytest.mark.parametrize("predictor", [2, 3])
def test_packed_differences_of_deep_values_are_undone(predictor):
    from kinfold.images._tiff import read_deep_tiff  # Pillow reads these itself; a reference for our reader

    values = RNG.integers(0, 60_000, SHAPE).astype(np.uint16) if predictor == 2 else RNG.random(SHAPE)
    picture = Image.fromarray(values if predictor == 2 else values.astype(np.float32))
    data = encode(picture, "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: predictor})
    found = read_deep_tiff(data, 10**6)
    assert found is not None
    assert np.abs(found.share - (values / 65_535 if predictor == 2 else values)).max() < 1e-6


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff(np.zeros((8, 8, 7), np.uint16)), "7 bands of 16-bit integers"),
        (tiff(np.zeros((8, 8, 7), np.uint16), planar=True), "7 bands of 16-bit integers"),
        (tiff(np.zeros((8, 8), np.uint16), photometric=32803), "colour filter array"),
        (tiff(np.zeros((8, 8), np.complex64)), "complex numbers"),
        (tiff(np.zeros((8, 8), np.float64), t259=34887), "compressed by"),
    ],
)
def test_sound_tiffs_that_are_not_read_say_what_they_are(data, words):
    with pytest.raises(UnusableImage, match=words) as found:
        decode_image(data)
    assert found.value.reason is SkipReason.UNREADABLE
    assert read_size(data) == (8, 8)


@pytest.mark.parametrize("keep", [20, 100, 200, -1])
def test_tiffs_that_are_cut_are_not_called_unread(keep):
    with pytest.raises(UnusableImage) as found:
        decode_image(tiff(np.zeros((8, 8, 3), np.float64))[:keep])
    assert found.value.reason in (SkipReason.TRUNCATED, SkipReason.CORRUPT)


def test_the_pixel_limit_holds_for_deep_files_too():
    wide = b"P6 60000 60000 65535\n" + bytes(100)
    for data in (wide, tiff(np.zeros((8, 8), np.float64), t256=60_000, t257=60_000)):
        with pytest.raises(UnusableImage) as found:
            decode_image(data)
        assert found.value.reason in (SkipReason.TOO_LARGE, SkipReason.TRUNCATED, SkipReason.CORRUPT)


def test_netpbm_and_jpeg_2000_are_read():
    picture = hostile_files.photo()
    for kind, options in (("PPM", {}), ("JPEG2000", {}), ("JPEG2000", {"no_jp2": True})):
        found = np.asarray(decode_image(encode(picture, kind, **options))).astype(int)
        assert np.abs(found - np.asarray(picture)).mean() < 5
    assert decode_image(encode(picture.convert("1"), "PPM")).size == picture.size
    values = RNG.integers(0, 4096, (*SHAPE, 3)).astype(np.uint16)
    values[0, 0] = 4095
    deep = np.asarray(decode_image(b"P6 30 20 65535\n" + values.astype(">u2").tobytes()))
    assert np.abs(deep - values / 4095 * 255).max() <= 1
    shares = RNG.random((*SHAPE, 3)).astype("<f4")
    floats = np.asarray(decode_image(b"PF\n30 20\n-1.0\n" + shares.tobytes()))
    assert np.abs(floats[::-1] - shares * 255).max() <= 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(30), "zip archive"),
        (b"PAR1" + bytes(30), "Parquet"),
        (b"<!doctype html><p>", "web page"),
        (b"\x00\x00\x00\x20ftypmp42" + bytes(30), "video"),
        (b"P7\nWIDTH 3\n", "PAM"),
        (bytes(128) + b"DICM" + bytes(9), "DICOM"),
    ],
)
def test_what_is_no_image_is_named_with_what_helps(data, words):
    with pytest.raises(UnusableImage, match=words) as found:
        decode_image(data)
    assert found.value.reason is SkipReason.NOT_AN_IMAGE


def test_texts_that_begin_like_a_netpbm_file_are_no_images():
    for text in (b"P1 is the first of the probes", b"P5\n", b"P6", b"P2P"):
        with pytest.raises(UnusableImage) as found:
            decode_image(text)
        assert found.value.reason in (SkipReason.NOT_AN_IMAGE, SkipReason.TRUNCATED)
