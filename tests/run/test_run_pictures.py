"""Claims about pictures that were given apart from features."""

from __future__ import annotations

import numpy as np
import pytest

import kinfold
from kinfold.errors import InputError
from kinfold.images import UnusableImage
from support.image_folders import write_images


@pytest.fixture
def photos(tmp_path):
    keys = write_images(tmp_path / "photos", 30)
    return tmp_path / "photos", keys


def make_run(tmp_path, keys, n=None):
    rows = np.random.default_rng(0).normal(size=(n or len(keys), 6)).astype(np.float32)
    if keys is None:
        np.save(tmp_path / "v.npy", rows)
    else:
        np.savez(tmp_path / "v.npz", features=rows, keys=np.array(keys))
    source = tmp_path / ("v.npy" if keys is None else "v.npz")
    return kinfold.cluster(source, 2, out=tmp_path / "run", method="kmeans", report=False)


@pytest.mark.parametrize(
    "rename",
    [
        str,
        lambda key: f"/data/elsewhere/photos/{key}",
        lambda key: f"photos\\{key}".replace("/", "\\"),
        lambda key: f"./{key}",
        lambda key: key.removesuffix(".png"),
        lambda key: key.rsplit("/")[-1],
    ],
    ids=["same", "absolute", "Windows", "dotted", "without suffix", "names alone"],
)
def test_pictures_are_joined_by_key_in_whatever_order(tmp_path, photos, rename):
    folder, keys = photos
    order = np.random.default_rng(1).permutation(30)
    run = make_run(tmp_path, [rename(keys[place]) for place in order])
    images = run.images(folder)
    for row, place in enumerate(order):
        assert images.read(row) == (folder / keys[place]).read_bytes()
        assert images.path(row) == folder / keys[place]


def test_rows_and_pictures_without_partner_are_counted(tmp_path, photos, caplog):
    folder, keys = photos
    run = make_run(tmp_path, [*reversed(keys[:25]), "gone/1.png", "gone/2.png"])
    images = run.images(folder)
    assert images.read(0) == (folder / keys[24]).read_bytes()
    with pytest.raises(UnusableImage, match="no picture of this key"):
        images.read(26)
    assert images.path(26) is None
    assert "25 found, 2 of the first without a picture, 5 of the second in no row" in caplog.text
    page = kinfold.report(run, source=folder).read_text()
    assert "data:image" in page


def test_names_that_fit_several_pictures_fit_none(tmp_path, caplog):
    write_images(tmp_path / "photos" / "a", 3)
    write_images(tmp_path / "photos" / "b", 3)
    run = make_run(tmp_path, ["blue/0.png", "a/green/1.png", "b/red/2.png"])
    images = run.images(tmp_path / "photos")
    with pytest.raises(UnusableImage):
        images.read(0)
    assert images.read(1) == (tmp_path / "photos" / "a" / "green" / "1.png").read_bytes()


def test_other_pictures_are_refused_with_examples(tmp_path, photos):
    run = make_run(tmp_path, [f"IMG_{number}.JPG" for number in range(30)])
    with pytest.raises(InputError, match=r"0 of its 30 keys \(like 'IMG_0.JPG'.*like 'blue/0.png'"):
        run.images(photos[0])


def test_vectors_without_keys_take_as_many_pictures_in_their_order(tmp_path, photos, caplog):
    folder, keys = photos
    run = make_run(tmp_path, None, 30)
    images = run.images(folder)
    assert images.read(7) == (folder / keys[7]).read_bytes()
    assert "have no keys: they are taken in the order" in caplog.text
    (folder / keys[0]).unlink()
    with pytest.raises(InputError, match="30 vectors without keys, but there are 29 images"):
        run.images(folder)


def test_an_export_takes_each_picture_of_its_key(tmp_path, photos):
    folder, keys = photos
    run = make_run(tmp_path, keys[::-1])
    kinfold.export(run, "folders", tmp_path / "sorted", source=folder)
    groups = dict(zip(run.assignments["key"].to_pylist(), run.labels.tolist(), strict=True))
    for key, group in groups.items():
        name = key.rsplit("/", 1)[-1]
        found = [f for f in (tmp_path / "sorted" / f"group {group}").iterdir() if f.name == name]
        assert [f.read_bytes() for f in found] == [(folder / key).read_bytes()]
