"""Claims about stores whose folder of images has changed: what is kept, mended, removed and never adopted."""

from __future__ import annotations

import os

import numpy as np
import pytest

import kinfold
from kinfold.backbones import load_backbone
from kinfold.features import FeatureStore, Known, continue_store, extract_features, hash_files
from kinfold.features.store import StoreManifest
from kinfold.images import open_source
from support.image_folders import write_images


@pytest.fixture
def photos(tmp_path):
    write_images(tmp_path / "photos", 12)
    return tmp_path / "photos"


def embed(photos, out):
    return kinfold.embed(photos, out, backbone="pixels", n_workers=0)


def place_of_shard(store):
    return (store.path / "variants" / "cls" / "00000.npy").stat().st_ino


def damage(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def leave_ready(photos, out, monkeypatch, change):
    """Kill a renewal when all is written and nothing is in its place yet."""
    change()
    with monkeypatch.context() as patch:

        def killed(place):
            if (place / "renewed").exists():
                raise KeyboardInterrupt

        patch.setattr("kinfold.features.extraction._take_over", killed)
        with pytest.raises(KeyboardInterrupt):
            embed(photos, out)
    assert StoreManifest.read(out / "renewed").complete


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_hashes_of_files_that_are_damaged_cost_no_embedding_and_are_mended(photos, tmp_path, caplog, how):
    store = embed(photos, tmp_path / "store")
    file, before = store.path / "contents.parquet", place_of_shard(store)
    whole = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        damage(file)
    again = embed(photos, store.path)
    assert place_of_shard(again) == before
    assert file.read_bytes() == whole
    again.verify()
    assert "contents.parquet is damaged or missing" in caplog.text


def test_a_damaged_matrix_is_told_where_the_folder_changed_too(photos, tmp_path, caplog):
    store = embed(photos, tmp_path / "store")
    damage(store.path / "variants" / "cls" / "00000.npy")
    write_images(photos, 15)
    again = embed(photos, store.path)
    again.verify()
    assert "extracting again" in caplog.text
    assert "00000.npy is damaged" in caplog.text


def test_a_renewed_store_that_is_damaged_never_takes_the_place_of_a_whole_one(
    photos, tmp_path, monkeypatch, caplog
):
    store = embed(photos, tmp_path / "store")
    leave_ready(photos, store.path, monkeypatch, lambda: write_images(photos, 15))
    damage(store.path / "renewed" / "variants" / "cls" / "00000.npy")
    backbone, embedded = load_backbone("pixels"), []
    embed_images = backbone.embed
    monkeypatch.setattr(
        backbone,
        "embed",
        lambda images, variants: (embedded.append(len(images)), embed_images(images, variants))[1],
    )
    again = kinfold.embed(photos, store.path, backbone=backbone, n_workers=0)
    again.verify()
    assert again.n_rows == 15
    assert sum(embedded) == 3
    assert "it is removed" in caplog.text
    assert not (store.path / "renewed").exists()


def test_a_renewed_store_that_is_whole_is_not_made_twice(photos, tmp_path, monkeypatch):
    store = embed(photos, tmp_path / "store")
    leave_ready(photos, store.path, monkeypatch, lambda: write_images(photos, 15))
    ready = place_of_shard(FeatureStore.open(store.path / "renewed"))
    assert place_of_shard(embed(photos, store.path)) == ready


def test_an_unfinished_renewal_is_removed_once_the_folder_is_as_it_was(photos, tmp_path, monkeypatch):
    store = embed(photos, tmp_path / "store")
    first = next(photos.rglob("*.png")).read_bytes()
    new = [photos / f"new{number}.png" for number in range(2)]
    with monkeypatch.context() as patch:

        def killed(*_):
            raise KeyboardInterrupt

        patch.setattr("kinfold.features.extraction._write_renewed", killed)
        for file in new:
            file.write_bytes(first + b" ")
        with pytest.raises(KeyboardInterrupt):
            embed(photos, store.path)
    assert (store.path / "renewed").is_dir()
    for file in new:
        os.remove(file)
    before = place_of_shard(store)
    assert place_of_shard(embed(photos, store.path)) == before
    assert not (store.path / "renewed").exists()


def test_shards_that_stay_the_same_are_linked_and_the_store_is_what_it_would_be_without(
    photos, tmp_path, monkeypatch
):
    backbone = load_backbone("pixels")
    source = open_source(photos)
    given = {"batch_size": 2, "shard_rows": 4, "n_workers": 0}
    store = extract_features(source, backbone, tmp_path / "store", **given)
    file = next(iter(sorted((photos / "red").glob("*.png"))))
    file.write_bytes(file.read_bytes() + b"more")
    source = open_source(photos)
    row = list(source.keys).index(f"red/{file.name}")
    contents, kept = hash_files(source), np.arange(len(source))
    kept[row] = -1
    known = Known.of_rows(store, kept, contents, {})
    assert known.new.tolist() == [place == row for place in range(len(source))]
    linked = continue_store(source, backbone, tmp_path / "linked", known, "cls", n_workers=0)
    shards = [place / "variants" / "cls" / "00000.npy" for place in (store.path, linked.path)]
    assert shards[0].stat().st_ino == shards[1].stat().st_ino
    monkeypatch.setattr(os, "link", refuse)
    copied = continue_store(source, backbone, tmp_path / "copied", known, "cls", n_workers=0)
    assert copied.fingerprint() == linked.fingerprint()
    linked.verify()
    copied.verify()


def refuse(*_):
    raise OSError
