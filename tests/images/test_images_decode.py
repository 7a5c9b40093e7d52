from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from kinfold.images import SkipReason, UnusableImage, decode_image, make_thumbnail
from support import hostile_files
from support.hostile_files import encode, photo

WHOLE = hostile_files.whole_files()


def pixels(data: bytes, **options) -> np.ndarray:
    image = decode_image(data, **options)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def reason(data: bytes, **options) -> SkipReason:
    with pytest.raises(UnusableImage) as found:
        decode_image(data, **options)
    return found.value.reason


def attempt(data: bytes, **options) -> np.ndarray | UnusableImage:
    try:
        return pixels(data, **options)
    except UnusableImage as trouble:
        return trouble


def grey_ramp() -> np.ndarray:
    return np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("name", WHOLE)
def test_every_format_gives_the_picture(name):
    original = np.asarray(photo()).astype(int)
    lossless = name in ("plain.png", "lossless.webp", "plain.bmp", "raw.tif", "deflate.tif", "lzw.tif")
    if lossless:
        np.testing.assert_array_equal(pixels(WHOLE[name]), original)
    else:
        assert np.abs(pixels(WHOLE[name]) - original).mean() < 25


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_images_come_upright(kind, orientation):
    upright = np.zeros((24, 48, 3), np.uint8)
    upright[:8, :16] = 255  # the upper left corner is white, and only it
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    image = Image.fromarray(np.ascontiguousarray(stored))
    if kind == "HEIF":  # its writer turns EXIF's orientation into HEIF's own, which alone counts
        pytest.importorskip("pillow_heif").register_heif_opener()  # to write it; reading needs no such thing
        image.info["exif"] = exif.tobytes()
        data = encode(image, kind)
    else:
        data = encode(image, kind, exif=exif, **options)
    found = pixels(data)
    assert found.shape == upright.shape
    assert np.abs(found - upright).mean() < 3


def test_grey_of_16_bits_is_scaled_and_not_clipped():
    deep = (grey_ramp().astype(np.uint16) * 257).astype(np.uint16)
    expected = np.repeat(grey_ramp()[..., None], 3, -1)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels(encode(Image.fromarray(deep), kind)), expected)
    big_endian = Image.frombytes("I;16B", (16, 16), deep.astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels(encode(big_endian, "TIFF")), expected)


def test_colour_of_16_bits_keeps_its_high_bytes():
    deep = (np.arange(8 * 8 * 3).reshape(8, 8, 3) * 341).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    data = hostile_files.png(8, 8, 16, 2, zlib.compress(rows))
    np.testing.assert_array_equal(pixels(data), deep // 256)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (grey_ramp() / np.float32(255), grey_ramp()),
        (grey_ramp().astype(np.float32) * 7 - 3, grey_ramp()),
        (grey_ramp().astype(np.int32) * 100000, grey_ramp()),
        (np.full((16, 16), np.nan, np.float32), np.zeros((16, 16))),
        (np.full((16, 16), 7.0, np.float32), np.zeros((16, 16))),
    ],
)
def test_modes_without_a_range_are_stretched(values, expected):
    found = pixels(encode(Image.fromarray(values), "TIFF"))
    assert np.abs(found - expected[..., None]).max() <= 1


def test_floats_that_are_not_finite_are_black_or_white():
    values = np.array([[0.0, 1.0, np.nan, np.inf, -np.inf, 0.5]], np.float32)
    assert pixels(encode(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 255, 0, 255, 0, 128]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_lies_on_white(kind):
    rgba = np.zeros((4, 256, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 200, np.arange(256)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = pixels(encode(Image.fromarray(rgba), kind, **options))
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(found - expected).max() <= 1


def test_transparent_palettes_grey_and_single_colours_lie_on_white():
    grey = Image.fromarray(np.array([[10, 20]], np.uint8))
    la = Image.merge("LA", [grey, Image.fromarray(np.array([[0, 255]], np.uint8))])
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    palette.putpalette([200, 0, 0, 0, 200, 0])
    red_green = Image.fromarray(np.array([[[200, 0, 0], [0, 200, 0]]], np.uint8))
    assert pixels(encode(la, "PNG")).tolist() == [[[255] * 3, [20] * 3]]
    assert pixels(encode(palette, "PNG", transparency=0)).tolist() == [[[255] * 3, [0, 200, 0]]]
    assert pixels(encode(palette, "PNG", transparency=b"\x00\xff")).tolist() == [[[255] * 3, [0, 200, 0]]]
    assert pixels(encode(palette, "GIF", transparency=1)).tolist() == [[[200, 0, 0], [255] * 3]]
    assert pixels(encode(red_green, "PNG", transparency=(0, 200, 0))).tolist() == [[[200, 0, 0], [255] * 3]]
    assert pixels(encode(grey, "PNG", transparency=10)).tolist() == [[[255] * 3, [20] * 3]]


def test_one_bit_and_palette_images_keep_their_colours():
    bits = Image.fromarray(np.array([[True, False]]))
    assert pixels(encode(bits, "PNG")).tolist() == [[[255] * 3, [0] * 3]]
    assert pixels(encode(bits, "TIFF", compression="group4")).tolist() == [[[255] * 3, [0] * 3]]


def test_cmyk_is_read_with_and_without_the_mark_of_adobe():
    cmyk = photo().convert("CMYK")
    expected = np.asarray(cmyk.convert("RGB")).astype(int)
    with_mark = encode(cmyk, "JPEG", quality=95)
    assert b"Adobe" in with_mark
    assert np.abs(pixels(with_mark) - expected).mean() < 6
    at = with_mark.index(b"\xff\xee")
    without_mark = with_mark[:at] + with_mark[at + 16 :]  # by Adobe's convention too, as everyone reads it
    np.testing.assert_array_equal(pixels(without_mark), pixels(with_mark))


def test_lab_becomes_rgb():
    lab = Image.fromarray(np.full((4, 4, 3), (255, 0, 0), np.uint8), mode="LAB")
    assert (pixels(encode(lab, "TIFF")) >= 254).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_only_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(pixels(data) - np.array([255, 0, 0])).max() <= 2


@pytest.mark.parametrize("min_side", [10, 60, 99, 100, 101, 199, 200, 500])
def test_jpegs_are_decoded_smaller_but_never_below_the_shortest_side(min_side):
    data = encode(photo(600, 400), "JPEG")
    height, width, _ = pixels(data, min_side=min_side).shape
    scale = next(s for s in (8, 4, 2, 1) if 400 // s >= min_side or s == 1)
    assert (width, height) == (600 // scale, 400 // scale)


def test_reduced_jpegs_show_the_same_picture():
    data = encode(photo(600, 400), "JPEG")
    small = np.asarray(decode_image(data).reduce(4)).astype(int)
    assert np.abs(pixels(data, min_side=100) - small).mean() < 3


def test_other_formats_ignore_the_shortest_side():
    assert pixels(WHOLE["plain.png"], min_side=2).shape == (hostile_files.SIDE, hostile_files.SIDE, 3)


def test_the_pixel_limit_is_exact():
    data = encode(photo(20, 10), "PNG")
    assert decode_image(data, pixel_limit=200).size == (20, 10)
    assert reason(data, pixel_limit=199) is SkipReason.TOO_LARGE
    jpeg = encode(photo(20, 10), "JPEG")
    assert reason(jpeg, min_side=1, pixel_limit=199) is SkipReason.TOO_LARGE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_our_pixel_limit_rules_whatever_pillows_is(kind, monkeypatch):
    data = encode(photo(20, 10), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode_image(data, pixel_limit=200).size == (20, 10)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("percent", range(1, 100, 7))
@pytest.mark.parametrize("name", WHOLE)
def test_cut_files_are_truncated_or_whole_enough_to_show_the_picture(name, percent):
    data = WHOLE[name]
    cut = data[: max(2, len(data) * percent // 100)]
    outcome = attempt(cut)
    if isinstance(outcome, UnusableImage):
        assert outcome.reason is SkipReason.TRUNCATED
    else:
        np.testing.assert_array_equal(outcome, pixels(data))


@given(st.sampled_from(sorted(WHOLE)), st.integers(0, 10_000), st.binary(min_size=1, max_size=30))
@settings(deadline=None, max_examples=300)
def test_whatever_the_bytes_only_unusable_image_is_raised(name, place, noise):
    data = bytearray(WHOLE[name])
    place %= len(data)
    data[place : place + len(noise)] = noise
    outcome = attempt(bytes(data), pixel_limit=1_000_000)
    assert isinstance(outcome, np.ndarray) or str(outcome).startswith(outcome.reason.value)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_image(data):
    assert reason(data) in (SkipReason.EMPTY, SkipReason.NOT_AN_IMAGE, SkipReason.TRUNCATED)


def test_bombs_take_no_memory():
    files = [data for _, data, _ in hostile_files._bombs()]
    text = next(data for name, data, _ in hostile_files._corrupt() if name == "corrupt/text bomb.png")
    tracemalloc.start()
    for data in files:
        assert reason(data) is SkipReason.TOO_LARGE
    assert reason(text) is SkipReason.CORRUPT
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20


def test_a_tile_far_larger_than_its_image_is_refused():
    data = bytearray(encode(photo(), "TIFF", compression="tiff_lzw"))
    for old, new in ((278, 322), (284, 323)):  # rows per strip and planes become width and height of a tile
        at = next(
            i
            for i in range(len(data))
            if data[i : i + 2] == struct.pack("<H", old) and data[i + 4 : i + 8] == b"\1\0\0\0"
        )
        data[at : at + 12] = struct.pack("<HHII", new, 4, 1, 40000)
    assert reason(bytes(data)) in (SkipReason.TOO_LARGE, SkipReason.CORRUPT)


def test_reasons_begin_with_their_words():
    assert str(UnusableImage(SkipReason.EMPTY)) == "empty"
    assert (
        str(UnusableImage(SkipReason.TRUNCATED, "12 bytes are missing")) == "truncated: 12 bytes are missing"
    )


def test_heic_without_its_extra_names_it(monkeypatch):
    data = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(100)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnusableImage, match=r"pip install pillow-heif") as found:
        decode_image(data)
    assert found.value.reason is SkipReason.UNREADABLE


def test_no_warning_leaks_and_the_filters_come_back():
    large = hostile_files.png(10000, 10000, 1, 0, zlib.compress(bytes(1251 * 10000)))
    palette = photo().convert("P")
    shares = encode(palette, "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        threads = [
            threading.Thread(target=lambda: [decode_image(d) for d in (large, shares, WHOLE["raw.tif"])])
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before
    assert not caught


def test_importing_and_decoding_leave_pillows_settings_alone():
    code = (
        "from PIL import Image, ImageFile; before = Image.MAX_IMAGE_PIXELS\n"
        "import kinfold.images as images, sys\n"
        "try: images.decode_image(b'\\xff\\xd8\\xff', pixel_limit=3)\n"
        "except images.UnusableImage: pass\n"
        "assert Image.MAX_IMAGE_PIXELS == before and not ImageFile.LOAD_TRUNCATED_IMAGES\n"
        "assert not {'torch', 'pyarrow', 'pillow_heif'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_nothing_of_the_file_clings_to_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode_image(encode(photo(), "JPEG", exif=exif, icc_profile=b"profile"))
    again = Image.open(io.BytesIO(encode(image, "JPEG")))
    assert not again.getexif()
    assert "icc_profile" not in again.info


@pytest.mark.parametrize(
    ("size", "expected"), [((600, 400), (64, 43)), ((30, 20), (30, 20)), ((4000, 2), (64, 1))]
)
def test_thumbnails_fit_into_their_square(size, expected):
    image = make_thumbnail(encode(photo(*size), "JPEG"), 64)
    assert image.mode == "RGB"
    assert image.size == expected


def test_thumbnails_show_the_picture():
    data = encode(photo(512, 512), "PNG")
    reference = np.asarray(decode_image(data).resize((64, 64), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(np.asarray(make_thumbnail(data, 64)).astype(int) - reference).mean() < 2
