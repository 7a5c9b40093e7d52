"""Whatever libraries raise while they read a file becomes an error that names it and says how to mend it."""

import io
import json
import os
import zipfile
import zlib
from contextlib import suppress

import numpy as np
import pytest

from kinfold.errors import FormatError, InputError
from kinfold.features import open_features
from kinfold.reading import check_fields, inflate, is_count, list_of, open_arrays, reading
from kinfold.rows import map_npy
from kinfold.storage import read_json

HEADERS = {
    "brace": b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), |",
    "negative": b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 64), }",
    "two negative": b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -2), }",
    "huge": b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 4), }",
    "large": b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 4), }",
    "no type": b"{'descr': '<q9', 'fortran_order': False, 'shape': (2, 2), }",
    "deep": b"(" * 5_000,
    "no key": b"{'descr': '<f4', 'shape': (2, 2), }",
    "call": b"__import__('os').system('true')",
    "bytes": b"\xff\xfe\0",
}


@pytest.mark.parametrize(
    "error", [RecursionError, MemoryError, KeyError, AssertionError, OverflowError, SyntaxError]
)
def test_any_error_of_a_library_names_the_file_and_the_mend(tmp_path, error):
    with (
        pytest.raises(FormatError, match=r"x\.bin is damaged: .+; copy it again$") as found,
        reading(tmp_path / "x.bin", "copy it again"),
    ):
        raise error("first\nsecond")
    assert "\n" not in str(found.value)
    with pytest.raises(InputError, match=r"x\.bin can't be read: "), reading(tmp_path / "x.bin", given=True):
        raise error


def test_own_errors_and_interruptions_pass_as_they_are(tmp_path):
    for error in (InputError("words"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as found, reading(tmp_path / "x"):
            raise error
        assert found.value is error


def test_what_may_not_be_read_is_not_called_damaged(tmp_path):
    with pytest.raises(InputError, match=r"can't be read: Permission denied"), reading(tmp_path / "x"):
        raise PermissionError(13, "Permission denied")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path):
    for name in ("x.json", "x.npy", "x.npz", "x.safetensors", "x.parquet"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(FormatError, match="no regular file"):
        read_json(tmp_path / "x.json")
    for name in ("x.npy", "x.npz", "x.safetensors", "x.parquet"):
        with pytest.raises(FormatError, match="no regular file"):
            open_features(tmp_path / name)


@pytest.mark.parametrize(
    "text", ['{"a":' * 100_000, '{"a": ' + "9" * 5_000 + "}", "\xff", "", "{", "[1,]", "\0"]
)
def test_json_that_python_can_not_parse_is_damage(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError, match=r"x\.json is damaged"):
        read_json(path)


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("version", [1, 2, 3, 9])
def test_a_damaged_header_of_npy_is_damage(tmp_path, header, version):
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + header + bytes(64))
    with pytest.raises(FormatError, match=r"x\.npy is damaged"):
        map_npy(path)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.write(path, "features.npy")
    with pytest.raises((FormatError, InputError), match=r"x\.npz"):
        open_features(tmp_path / "x.npz")


def test_every_wrong_byte_in_a_header_is_refused_or_read(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.ones((3, 2), np.float32))
    sound = path.read_bytes()
    for place in range(80):
        for bit in range(8):
            wrong = bytearray(sound)
            wrong[place] ^= 1 << bit
            path.write_bytes(wrong)
            with suppress(FormatError, InputError):  # and nothing else
                map_npy(path)


def save_member(path, name, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data)
    return path


@pytest.mark.parametrize("data", [b"hello", b"", b"\x93NUMPY", b"\x80\x04K\x01."])
def test_a_member_of_npz_that_is_no_array_is_named(tmp_path, data):
    with pytest.raises(InputError, match=r"'features' in .*x\.npz is no array of NumPy"):
        open_features(save_member(tmp_path / "x.npz", "features.npy", data))


def test_objects_in_an_npz_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", features=np.array([[{}]], dtype=object))
    with pytest.raises(InputError, match="holds Python objects"):
        open_features(tmp_path / "x.npz")


def test_a_member_that_would_not_fit_into_memory_is_refused_before_it_is_inflated(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", features=np.zeros((1000, 100), np.float32))
    monkeypatch.setattr("kinfold.reading.available_memory", lambda: 100_000)
    with pytest.raises(InputError, match=r"more than the memory that is free; save it as a \.npy file"):
        open_features(tmp_path / "x.npz")


def test_a_header_that_promises_more_than_the_member_holds_is_damage(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.ones((4, 4), np.float32))
    path = save_member(tmp_path / "x.npz", "features.npy", stream.getvalue()[:-4])
    with pytest.raises(FormatError, match="not as long as its header says"):
        open_features(path)


def test_keys_with_half_a_surrogate_pair_are_refused_by_row(tmp_path):
    keys = np.array(["a", "\ud800", "b"])
    np.savez(tmp_path / "x.npz", features=np.ones((3, 2)), keys=keys)
    with pytest.raises(InputError, match=r"row 1: .* is no text"):
        open_features(tmp_path / "x.npz")


def test_a_missing_npz_is_missing(tmp_path):
    with pytest.raises(FormatError, match="is missing; install"), open_arrays(tmp_path / "x.npz", "install"):
        pass


@pytest.mark.parametrize("dtype", [np.longdouble, ">f4", ">f8", ">i2", "<f4", np.float16, np.uint8, bool])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_type_of_real_numbers_is_read_in_one_that_pytorch_knows(tmp_path, dtype, order):
    import torch

    X = np.asarray([[1, 0, 3], [0, 1, 1]]).astype(dtype)
    np.save(tmp_path / "x.npy", np.asarray(X, order=order))
    matrix = open_features(tmp_path / "x.npy").matrix()
    assert torch.equal(torch.tensor(np.array(matrix[:])).double(), torch.tensor(X.astype(float)))
    assert np.array_equal(matrix[[1, 0]], X[::-1])


@pytest.mark.skipif(np.finfo(np.longdouble).maxexp <= 1024, reason="long doubles are doubles here")
def test_long_doubles_beyond_double_are_rows_to_skip(tmp_path):
    X = np.ones((4, 3), np.longdouble)
    X[2, 0] = np.longdouble(10) ** 400
    np.save(tmp_path / "x.npy", X)
    features = open_features(tmp_path / "x.npy")
    assert features.rows.tolist() == [0, 1, 3]
    assert features.skipped["reason"].to_pylist() == ["not finite"]


def test_nothing_inflates_beyond_its_limit():
    assert inflate(zlib.compress(b"abc"), 3) == b"abc"
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        inflate(zlib.compress(bytes(100_000)), 1_000)
    for wrong in (b"", b"x", zlib.compress(b"abc")[:-1]):
        with pytest.raises(ValueError):  # noqa: PT011 - zlib words some, Kinfold others
            inflate(wrong, 10)


def test_fields_of_a_wrong_type_are_named_by_their_path(tmp_path):
    kinds = {"a": is_count, "b?": {"c": (str, None)}, "d?": {"*": float}, "e?": list_of({"f": int})}
    check_fields(tmp_path, {"a": 0, "b": {"c": None}, "d": {"x": 1, "y": 0.5}, "e": [{"f": 1}]}, kinds)
    for content, name in (
        ({}, "'a' is missing"),
        ({"a": True}, "'a' can't be True"),
        ({"a": 1 << 70}, "'a' can't be"),
        ({"a": -1}, "'a' can't be -1"),
        ({"a": 1, "b": []}, "b is no JSON object"),
        ({"a": 1, "b": {"c": 1}}, "'b.c' can't be 1"),
        ({"a": 1, "d": {"x": "1"}}, "'d.x' can't be '1'"),
        ({"a": 1, "e": [{"f": 1}, {}]}, r"'e\[1\].f' is missing"),
        ({"a": 1, "e": {}}, "'e' can't be an object"),
        ([], "is no JSON object"),
    ):
        with pytest.raises(FormatError, match=name):
            check_fields(tmp_path, json.loads(json.dumps(content)), kinds, "mend it")
