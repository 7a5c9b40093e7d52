"""Real images among hostile files, through the whole way."""

import os
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kinfold.pipeline import cluster
from support.hostile_files import write_hostile_files, write_odd_but_good_files


def check_run(folder, good, out):
    """Cluster good images with hostile files beside them, and look at every row that comes out."""
    hostile = write_hostile_files(folder / "hostile")
    hostile = {f"hostile/{key}": reason for key, reason in hostile.items()}
    odd = [f"odd/{key}" for key in write_odd_but_good_files(folder / "odd")]
    run = cluster(folder, n_clusters=10, method="kmeans", backbone="pixels", out=out, random_state=0)

    skipped = pq.read_table(out / "skipped.parquet").to_pydict()
    found = dict(zip(skipped["key"], skipped["reason"], strict=True))
    assert len(hostile) >= 60
    assert set(found) == set(hostile)
    wrong = {key: found[key] for key, reason in hostile.items() if not found[key].startswith(reason.value)}
    assert not wrong

    assigned = run.assignments.to_pydict()
    assert sorted(assigned["key"]) == sorted([*good, *odd])
    rows = sorted(assigned["row"] + skipped["row"])
    assert rows == list(range(len(good) + len(odd) + len(hostile)))


def test_hostile_files_are_skipped_with_their_reason_and_nothing_else_is(tmp_path, photos):
    good = [path.relative_to(photos).as_posix() for path in photos.rglob("*.png")]
    check_run(photos, good, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.skipif("KINFOLD_DATA" not in os.environ, reason="KINFOLD_DATA names no folder of real images")
def test_five_thousand_real_images_and_sixty_hostile_files(tmp_path):
    with tarfile.open(Path(os.environ["KINFOLD_DATA"]) / "cifar10_images.tar") as archive:
        archive.extractall(tmp_path / "photos", filter="data")
    folder = tmp_path / "photos"
    good = [path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")]
    assert len(good) == 5000
    check_run(folder, good, tmp_path / "run")
