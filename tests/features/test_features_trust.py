"""Feature stores, graphs and relabelled folders that come from elsewhere, or that were damaged."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinfold.backbones import load_backbone
from kinfold.errors import FormatError, InputError
from kinfold.features import FeatureStore, extract_features, open_features
from kinfold.images import open_source
from kinfold.locks import lock_directory
from kinfold.neighbors import NeighborGraph, knn_graph
from support.image_folders import write_images


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("made")
    write_images(home / "photos", 12)
    extract(home, home / "store")
    return home


def extract(home, out, **options):
    source, backbone = open_source(home / "photos"), load_backbone("pixels")
    return extract_features(source, backbone, out, n_workers=1, **options)


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made / "store", tmp_path / "store")


NAMES = [
    "manifest.json",
    "index.parquet",
    "variants",
    "variants/cls",
    "variants/cls/00000.npy",
    "unfinished",
    ".new",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_link_in_a_store_is_refused_by_who_reads_and_by_who_writes(made, store, tmp_path, name):
    (tmp_path / "outside").mkdir()
    if (store / name).exists():
        shutil.move(store / name, tmp_path / "moved")
        (store / name).symlink_to(tmp_path / "moved")
    else:
        (store / name).symlink_to(tmp_path / "outside")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="is a link"):
        FeatureStore.open(store)
    with pytest.raises(InputError, match="is a link"):
        extract(made, store, batch_size=5)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unfinished_store_writes_through_no_link(made, store, tmp_path):
    (tmp_path / "outside").mkdir()
    manifest = json.loads((store / "manifest.json").read_text()) | {"complete": False}
    (store / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(store / "variants" / "cls")
    (store / "variants" / "cls").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="is a link"):
        extract(made, store)
    assert os.listdir(tmp_path / "outside") == []


@pytest.mark.parametrize("name", ["../../outside", "/tmp", "..", "a/b", ""])
def test_a_variant_is_a_plain_name(store, name):
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["variants"] = {name: manifest["variants"]["cls"]}
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="no name of a variant"):
        FeatureStore.open(store)


def write_index(file, how):
    table = pq.read_table(file)
    if how == "other keys":
        keys = [f"other-{number}.png" for number in range(len(table))]
        table = table.set_column(1, "key", pa.array(keys))
    elif how == "exchanged":
        table = table.set_column(1, "key", table["key"].take(pa.array(range(len(table))[::-1])))
    else:
        table = table.slice(1)
    pq.write_table(table, file)


@pytest.mark.parametrize("how", ["other keys", "exchanged", "shorter"])
def test_an_index_that_is_not_what_was_written_is_refused(store, how):
    write_index(store / "index.parquet", how)
    with pytest.raises(FormatError, match=r"index\.parquet is damaged"):
        _ = open_features(store).keys


def test_one_bit_of_a_matrix_is_found_and_mended_by_embedding_again(made, store):
    file = store / "variants" / "cls" / "00000.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    found = FeatureStore.open(store)  # the size is right
    with pytest.raises(FormatError, match=r"00000\.npy is damaged"):
        found.verify("cls")
    extract(made, store).verify()
    assert file.read_bytes() == whole


def test_a_store_that_is_being_written_is_refused_and_told(made, tmp_path):
    out = tmp_path / "store"
    out.mkdir()
    import threading

    seen = []

    def enter():
        try:
            extract(made, out)
        except InputError as error:
            seen.append(str(error))

    with lock_directory(out):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert "is being written by" in seen[0]
    assert os.listdir(out) == []


@pytest.mark.parametrize("name", ["indptr.npy", "graph.json", "new"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_link_or_pipe_in_a_graph_is_refused(tmp_path, name, kind):
    graph = tmp_path / "graph"
    knn_graph(np.random.default_rng(0).normal(size=(20, 4)), 3).save(graph)
    if (graph / name).exists():
        shutil.move(graph / name, tmp_path / "moved")
    if kind == "link":
        (graph / name).symlink_to(tmp_path / "moved")
    else:
        os.mkfifo(graph / name)
    with pytest.raises(InputError, match=f"{name} is (a link|no regular file)"):
        NeighborGraph.open(graph)


def test_a_link_in_the_place_of_a_benchmark_or_relabelling_is_refused(tmp_path):
    from kinfold.benchmark import Benchmark
    from kinfold.pipeline._relabel import check_out

    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="is a link"):
        check_out(tmp_path / "out")
    with pytest.raises(InputError, match="is a link"):
        Benchmark.open(tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "precious"
