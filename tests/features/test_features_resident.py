import warnings

import numpy as np
import pytest
import torch

from kinfold.features import resident as module
from kinfold.features.resident import resident_rows

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def torch_warns_always():
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_warn_always(False)


def read_only(dtype=np.float32):
    X = np.arange(12, dtype=dtype).reshape(4, 3)
    X.flags.writeable = False
    return X


@pytest.mark.usefixtures("torch_warns_always")
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8])
def test_an_array_in_memory_is_shared_even_where_it_is_read_only(dtype):
    X = read_only(dtype)
    rows = resident_rows(X, CPU)
    assert rows.data_ptr() == X.ctypes.data
    np.testing.assert_array_equal(rows.numpy(), X)


def test_what_is_on_disk_stays_there(tmp_path):
    np.save(tmp_path / "x.npy", read_only())
    assert resident_rows(np.load(tmp_path / "x.npy", mmap_mode="r"), CPU) is None


def test_a_tensor_is_taken_as_it_is():
    tensor = torch.ones(4, 3)
    assert resident_rows(tensor, CPU) is tensor


@pytest.mark.usefixtures("torch_warns_always")
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float32, torch.float32),
        (np.float16, torch.float16),
        (np.float64, torch.float32),
        (">f4", torch.float32),
    ],
)
def test_an_accelerator_takes_what_fits_half_of_its_memory(dtype, expected, tmp_path, monkeypatch):
    X = read_only(dtype)
    np.save(tmp_path / "x.npy", X)
    needed = X.size * expected.itemsize
    for given in (X, np.load(tmp_path / "x.npy", mmap_mode="r")):
        monkeypatch.setattr(module, "_total_memory", lambda _: 2 * needed)
        rows = resident_rows(given, META)
        assert (rows.shape, rows.dtype, rows.device) == (X.shape, expected, META)
        monkeypatch.setattr(module, "_total_memory", lambda _: 2 * needed - 1)
        assert resident_rows(given, META) is None
