"""Claims about features that the user brings along."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from kinfold.errors import FormatError, InputError
from kinfold.features import ArrayFeatures, is_features, open_features


@pytest.fixture(name="X")
def made_features():
    return np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)


def write(path, X, kind):
    if kind == "npy":
        np.save(path / "f.npy", X)
    elif kind == "npz":
        np.savez(path / "f.npz", features=X, labels=np.arange(len(X)))
    elif kind == "safetensors":
        save_file({"features": X, "more": X[:2].copy()}, path / "f.safetensors")
    elif kind == "parquet":
        pq.write_table(
            pa.table({"embedding": list(X), "name": ["x"] * len(X)}), path / "f.parquet", row_group_size=7
        )
    elif kind == "fixed":
        column = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
        pq.write_table(pa.table({"embedding": column}), path / "f.parquet")
    return next(path.glob("f.*"))


KINDS = ["npy", "npz", "safetensors", "parquet", "fixed"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_same_features(tmp_path, X, kind):
    file = write(tmp_path, X, kind)
    assert is_features(file)
    features = open_features(file)
    assert isinstance(features, ArrayFeatures)
    np.testing.assert_array_equal(features.matrix()[:], X)
    np.testing.assert_array_equal(features.matrix("cls")[:], X)
    assert (features.n_rows, features.variants, features.path) == (30, ("cls",), file)
    assert features.keys.to_pylist() == [str(row) for row in range(30)]
    assert features.rows.tolist() == list(range(30))
    assert features.skipped.num_rows == 0
    assert features.source_uri is None
    assert features.neighbors_path is None


@pytest.mark.parametrize("kind", KINDS)
def test_bad_rows_are_skipped_and_shift_nobody(tmp_path, X, kind):
    X[3] = 0
    X[11, 2] = np.nan
    X[29, 0] = np.inf
    features = open_features(write(tmp_path, X, kind))
    rows = [row for row in range(30) if row not in (3, 11, 29)]
    assert features.n_rows == 30
    assert len(features.keys) == 30
    assert features.rows.tolist() == rows
    np.testing.assert_array_equal(features.matrix()[:], X[rows])
    np.testing.assert_array_equal(features.matrix()[np.array([26, 3, 3])], X[[28, 4, 4]])
    assert features.skipped.to_pylist() == [
        {"row": 3, "key": "3", "reason": "all zero"},
        {"row": 11, "key": "11", "reason": "not finite"},
        {"row": 29, "key": "29", "reason": "not finite"},
    ]


def test_an_npy_file_stays_on_disk(tmp_path, X):
    assert isinstance(open_features(write(tmp_path, X, "npy")).matrix(), np.memmap)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float64, np.bool_])
def test_types_are_kept(tmp_path, X, dtype):
    features = open_features(write(tmp_path, np.abs(X * 9 + 1).astype(dtype), "npy"))
    assert features.matrix().dtype == dtype


def test_fortran_order_and_big_endian_are_read(tmp_path, X):
    np.save(tmp_path / "f.npy", np.asfortranarray(X).astype(">f4"))
    np.testing.assert_array_equal(open_features(tmp_path / "f.npy").matrix()[2:9], X[2:9])


@pytest.mark.parametrize("name", ["keys", "paths"])
@pytest.mark.parametrize("kind", ["U", "S"])
def test_keys_of_an_npz_are_taken(tmp_path, X, name, kind):
    keys = np.array([f"d/{i}.jpg" for i in range(30)]).astype(kind)
    np.savez(tmp_path / "f.npz", features=X, **{name: keys})
    assert open_features(tmp_path / "f.npz").keys.to_pylist() == [f"d/{i}.jpg" for i in range(30)]


def test_keys_of_a_parquet_file_are_taken(tmp_path, X):
    pq.write_table(pa.table({"key": list(range(100, 130)), "e": list(X)}), tmp_path / "f.parquet")
    assert open_features(tmp_path / "f.parquet").keys.to_pylist() == [str(i) for i in range(100, 130)]


def test_a_number_of_keys_that_differs_is_refused(tmp_path, X):
    np.savez(tmp_path / "f.npz", features=X, keys=np.array(["a"]))
    with pytest.raises(InputError, match="30 rows, but 1 keys"):
        open_features(tmp_path / "f.npz")


def test_missing_keys_are_refused(tmp_path, X):
    pq.write_table(pa.table({"key": [None] + ["a"] * 29, "e": list(X)}), tmp_path / "f.parquet")
    with pytest.raises(InputError, match="without a key"):
        open_features(tmp_path / "f.parquet")


def test_the_column_is_named_where_there_are_several(tmp_path, X):
    table = pa.table({"a": list(X), "b": list(2 * X), "text": ["t"] * 30})
    pq.write_table(table, tmp_path / "f.parquet")
    np.testing.assert_array_equal(open_features(tmp_path / "f.parquet", column="b").matrix()[:], 2 * X)
    with pytest.raises(InputError, match="several columns of vectors: a, b"):
        open_features(tmp_path / "f.parquet")
    with pytest.raises(InputError, match="did you mean 'text'"):
        open_features(tmp_path / "f.parquet", column="txet")
    with pytest.raises(InputError, match="holds string"):
        open_features(tmp_path / "f.parquet", column="text")


def test_missing_lists_and_numbers_in_parquet_are_skipped_rows(tmp_path):
    table = pa.table({"e": pa.array([[1, 2], None, [3, None], [4, 5]], pa.list_(pa.int64()))})
    pq.write_table(table, tmp_path / "f.parquet")
    features = open_features(tmp_path / "f.parquet")
    assert features.rows.tolist() == [0, 3]
    assert features.skipped.column("reason").to_pylist() == ["not finite"] * 2


def test_missing_fixed_size_lists_shift_nobody(tmp_path):
    table = pa.table({"e": pa.array([None, [1.0, 2.0], None, [4.0, 5.0]], pa.list_(pa.float32(), 2))})
    pq.write_table(table, tmp_path / "f.parquet")
    features = open_features(tmp_path / "f.parquet")
    assert features.rows.tolist() == [1, 3]
    np.testing.assert_array_equal(features.matrix()[:], [[1, 2], [4, 5]])


def test_vectors_of_several_lengths_are_refused_by_row(tmp_path):
    pq.write_table(pa.table({"e": [[1.0, 2.0], [1.0, 2.0], [1.0]]}), tmp_path / "f.parquet")
    with pytest.raises(InputError, match="differ in length: row 2"):
        open_features(tmp_path / "f.parquet")


def test_the_only_matrix_of_a_safetensors_file_is_found(tmp_path, X):
    save_file({"e": X, "scale": np.ones(3, np.float32)}, tmp_path / "f.safetensors")
    np.testing.assert_array_equal(open_features(tmp_path / "f.safetensors").matrix()[:], X)
    save_file({"a": X, "b": X}, tmp_path / "f.safetensors")
    with pytest.raises(InputError, match="it holds a, b"):
        open_features(tmp_path / "f.safetensors")


def test_bfloat16_is_read(tmp_path, X):
    save_torch({"features": torch.from_numpy(X).bfloat16()}, tmp_path / "f.safetensors")
    matrix = open_features(tmp_path / "f.safetensors").matrix()
    np.testing.assert_array_equal(matrix[:], torch.from_numpy(X).bfloat16().float().numpy())


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(4),
        np.zeros((2, 2, 2)),
        np.zeros((0, 4)),
        np.zeros((4, 0)),
        np.ones((2, 2), complex),
        np.array([["a"]]),
    ],
    ids=lambda a: f"{a.shape}-{a.dtype}",
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_what_is_no_feature_matrix_is_refused(tmp_path, array, kind):
    with pytest.raises(InputError):
        open_features(write(tmp_path, array, kind))


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_objects_are_never_unpickled(tmp_path, kind):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    array = np.array([[Bomb()]], dtype=object)
    file = tmp_path / f"f.{kind}"
    if kind == "npy":
        np.save(file, array, allow_pickle=True)
    else:
        np.savez(file, features=array)
    with pytest.raises(InputError, match="Python objects"):
        open_features(file)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_file_is_named(tmp_path, X, kind, damage):
    file = write(tmp_path, np.tile(X, (50, 1)), kind)
    whole = file.read_bytes()
    content = {"cut": whole[: len(whole) // 2], "noise": bytes(range(256)) * 20, "empty": b""}[damage]
    file.write_bytes(content)
    with pytest.raises(FormatError, match=rf"{file.name}"):
        open_features(file)


def test_an_npz_without_features_is_refused(tmp_path, X):
    np.savez(tmp_path / "f.npz", x=X)
    with pytest.raises(InputError, match="no array named 'features'; it holds x"):
        open_features(tmp_path / "f.npz")


def test_a_wrong_variant_is_refused_with_those_there_are(tmp_path, X):
    features = open_features(write(tmp_path, X, "npy"))
    for ask in (features.matrix, features.fingerprint):
        with pytest.raises(InputError, match="it has: cls"):
            ask("last4")


def test_nothing_usable_is_an_error(tmp_path):
    features = open_features(write(tmp_path, np.zeros((4, 2)), "npy"))
    with pytest.raises(InputError, match="no row"):
        features.matrix()


def test_the_fingerprint_changes_with_content_and_keys(tmp_path, X):
    def fingerprint(**arrays):
        np.savez(tmp_path / "f.npz", **arrays)
        return open_features(tmp_path / "f.npz").fingerprint()

    keys = np.array([f"{i}" for i in range(30)])
    first = fingerprint(features=X)
    assert first == fingerprint(features=X, labels=np.arange(30))
    assert len({first, fingerprint(features=X + 1), fingerprint(features=X, keys=keys)}) == 3


def test_images_and_other_things_are_no_features(tmp_path, X):
    image = pa.table({"image": [{"bytes": b"x", "path": "p"}], "bbox": [[1.0, 2.0]]})
    pq.write_table(image, tmp_path / "images.parquet")
    pq.write_table(pa.table({"path": ["a.jpg"]}), tmp_path / "paths.parquet")
    (tmp_path / "noise.parquet").write_bytes(b"noise")
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    for name in (
        "images.parquet",
        "paths.parquet",
        "noise.parquet",
        "a.jpg",
        "folder",
        "missing.npy",
        "*.jpg",
        "a\0b",
    ):
        assert not is_features(str(tmp_path / name))


def test_nothing_there_an_unknown_form_and_a_needless_column_are_refused(tmp_path, X):
    with pytest.raises(InputError, match="nothing at"):
        open_features(tmp_path / "missing.npy")
    (tmp_path / "f.csv").write_text("1,2")
    with pytest.raises(InputError, match="not a feature file"):
        open_features(tmp_path / "f.csv")
    with pytest.raises(InputError, match="Parquet files only"):
        open_features(write(tmp_path, X, "npy"), column="e")
    with pytest.raises(InputError, match="Parquet files only"):
        open_features(tmp_path, column="e")
