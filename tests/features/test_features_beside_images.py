"""Claims about vectors in tables with images, in Arrow's odder types, and in folders of .npy files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinfold.errors import InputError
from kinfold.features import is_features, open_features
from kinfold.images import open_source
from kinfold.pipeline._source import resolve_source
from support.hostile_files import encode, photo

VECTORS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def write(path, **columns):
    rows = pa.array(VECTORS.tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.table({"emb": rows, **columns}), path)
    return path


@pytest.mark.parametrize("kind", [pa.binary(), pa.binary_view()])
@pytest.mark.parametrize("named", [False, True])
def test_naming_a_column_of_vectors_takes_them_and_keeps_the_images_for_the_page(tmp_path, kind, named):
    images = pa.array([encode(photo(8, 8), "PNG")] * 4, kind)
    keys = {"key": ["a", "b", "c", "d"]} if named else {}
    path = write(tmp_path / "t.parquet", image=images, **keys)
    source = resolve_source(path, {"column": "emb"})
    np.testing.assert_array_equal(source.features.matrix()[:], VECTORS)
    described = source.describe("cls")
    assert described["images"] == str(path)
    beside = open_source(described["images"], **described.get("image_options", {}))
    assert list(beside.keys) == source.features.keys.to_pylist()
    assert source.features.keys[0].as_py() == ("a" if named else "t.parquet/0")
    assert resolve_source(path).kind == "table"


def test_keys_that_repeat_do_not_keep_vectors_from_being_read(tmp_path):
    path = write(tmp_path / "t.parquet", image=[b"x"] * 4, key=["a"] * 4)
    assert resolve_source(path, {"column": "emb"}).features.keys.to_pylist()[1] == "t.parquet/1"


def test_a_column_that_holds_no_vectors_is_refused_by_name(tmp_path):
    path = write(tmp_path / "t.parquet", image=[b"x"] * 4)
    with pytest.raises(InputError, match=r"'image' .* not lists of numbers"):
        resolve_source(path, {"column": "image"})
    with pytest.raises(InputError, match="did you mean 'emb'"):
        resolve_source(path, {"column": "emp"})


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float16()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 3), "view"]
)
@pytest.mark.parametrize("key", [pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_vectors_and_keys_of_every_type_are_read(tmp_path, kind, key):
    kind = pa.list_view(pa.float32()) if kind == "view" else kind
    keys = pa.array(list("abcd")).cast(key) if pa.types.is_dictionary(key) else pa.array(list("abcd"), key)
    values = VECTORS.astype("f2") if "half" in str(kind) else VECTORS
    column = pa.array([list(row) for row in values], kind)
    pq.write_table(pa.table({"key": keys, "v": column}), tmp_path / "a.PQ")
    assert is_features(tmp_path / "a.PQ")
    features = open_features(tmp_path / "a.PQ")
    np.testing.assert_allclose(features.matrix()[:], values, rtol=1e-6)
    assert features.keys.to_pylist() == list("abcd")


def test_a_folder_of_npy_files_is_one_matrix_in_natural_order(tmp_path):
    np.save(tmp_path / "img_emb_2.npy", VECTORS[:3])
    np.save(tmp_path / "img_emb_10.npy", VECTORS[3:])
    (tmp_path / "stats.json").write_text("{}")
    assert is_features(tmp_path)
    features = open_features(tmp_path)
    np.testing.assert_array_equal(features.matrix()[:], VECTORS)
    assert len(features.fingerprint()) == 64
    assert features.keys.to_pylist() == ["0", "1", "2", "3"]


def test_npy_files_of_two_kinds_and_folders_of_other_things_are_no_matrix(tmp_path):
    np.save(tmp_path / "0.npy", VECTORS)
    np.save(tmp_path / "1.npy", VECTORS[:, :2])
    with pytest.raises(InputError, match=r"1\.npy holds vectors of 2"):
        open_features(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert not is_features(tmp_path)
