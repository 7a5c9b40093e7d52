"""Images as data URIs."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from kinfold.gallery._html import embed_images


def test_thumbnails_keep_the_limit_even_for_noise(make_images):
    found = embed_images(make_images(noisy=True), [5, 1, 5], 144, 1200)
    assert sorted(found) == [1, 5]
    for thumbnail in found.values():
        data = base64.b64decode(thumbnail.uri.split(",", 1)[1])
        assert len(data) <= 1200
        image = Image.open(io.BytesIO(data))
        assert max(image.size) <= 144
        assert image.width / image.height == pytest.approx(4 / 3, rel=0.1)


def test_thumbnails_name_the_size_they_have(make_images):
    (thumbnail,) = embed_images(make_images(noisy=True), [0], 100, 700).values()
    image = Image.open(io.BytesIO(base64.b64decode(thumbnail.uri.split(",", 1)[1])))
    assert image.size == (thumbnail.width, thumbnail.height)


def test_panoramas_are_not_cropped(make_images):
    class Panorama:
        def read(self, row):
            stream = io.BytesIO()
            Image.new("RGB", (900, 100)).save(stream, format="PNG")
            return stream.getvalue()

    assert embed_images(Panorama(), [0], 96, 5000)[0].is_oblong
    assert not embed_images(make_images(), [0], 96, 5000)[0].is_oblong


def test_an_image_that_is_no_image_says_so():
    class Text:
        def read(self, row):
            return b"hello"

    thumbnail = embed_images(Text(), [0], 96, 5000)[0]
    assert thumbnail.uri == ""
    assert thumbnail.reason.startswith("not an image")
