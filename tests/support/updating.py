"""A run of a folder that changes, and what stays true of it whatever happens to its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

import kinfold
from kinfold.backbones import Backbone, load_backbone
from kinfold.corrections import Corrections
from kinfold.run import Run
from support.image_folders import write_images

N_IMAGES = 45
K = 3


def make_folder_run(home: Path, **options) -> Run:
    """Cluster 45 small drawn images of ``home/photos`` into three groups, in ``home/run``."""
    write_images(home / "photos", N_IMAGES)
    given = {"method": "kmeans", "backbone": "pixels", "n_workers": 1, "report": False, **options}
    return kinfold.cluster(home / "photos", K, out=home / "run", **given)


def counting_backbone() -> tuple[Backbone, list[int]]:
    """Return the backbone of these runs, and a list that gets the size of every batch that it embeds."""
    backbone, sizes = load_backbone("pixels"), []
    embed = backbone.embed

    def counted(images, *arguments, **options):
        sizes.append(len(images))
        return embed(images, *arguments, **options)

    backbone.embed = counted
    return backbone, sizes


def contents_of(run: Run, folder: Path) -> dict[int, str]:
    """Return the hash of the file of every row that has a group."""
    table = Run.open(run.path).assignments
    return {
        row: hashlib.sha256((folder / key).read_bytes()).hexdigest()
        for row, key in zip(table["row"].to_pylist(), table["key"].to_pylist(), strict=True)
    }


def corrected(run: Run) -> dict[int, tuple[int, int, bool]]:
    """Return group, mark and whether it was placed by hand of every row."""
    run = Run.open(run.path)
    with Corrections.open(run, write=False) as corrections:
        state = corrections.state
    found = zip(state.labels.tolist(), state.marks.tolist(), state.by_hand.tolist(), strict=True)
    return dict(zip(run.assignments["row"].to_pylist(), found, strict=True))


def add_images(folder: Path, n: int, seed: int) -> list[str]:
    """Write further images, one kind after the other, and return their keys."""
    spare = folder.parent / f"spare-{seed}"
    keys = []
    for key in write_images(spare, n, seed):
        target = folder / key.replace("/", f"/new-{seed}-")
        (spare / key).rename(target)
        keys.append(target.relative_to(folder).as_posix())
    return keys


def vectors_fit(run: Run, folder: Path) -> None:
    """Check that every row has the vector of the file that it names."""
    run = Run.open(run.path)
    features = run.features()
    np.testing.assert_array_equal(features.rows, run.assignments["row"].to_numpy())
    backbone = load_backbone("pixels")
    keys = features.keys.to_pylist()
    matrix = features.matrix()
    images = run.images(folder)
    from kinfold.images import ImageLoader

    with ImageLoader(images, backbone.transform, n_workers=1) as loader:
        for batch in loader.batches(features.rows.tolist(), 64):
            found = backbone.embed(batch.images, ["cls"])["cls"]
            places = np.searchsorted(features.rows, batch.rows)
            np.testing.assert_allclose(matrix[places], found, rtol=1e-4, atol=1e-5)
    assert len(keys) == features.n_rows
