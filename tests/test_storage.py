"""Files that are whole or not there."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import numpy as np
import pytest

from kinfold.storage import write_array


@pytest.mark.parametrize("shape", [(0, 3), (5, 3), (4,), (70_000, 40)])
def test_arrays_are_written_to_the_byte_as_numpy_does(tmp_path, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with (tmp_path / "a.npy").open("wb") as stream:
        write_array(stream, array)
    expected = io.BytesIO()
    np.save(expected, array)
    assert (tmp_path / "a.npy").read_bytes() == expected.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which only Linux has")
@pytest.mark.parametrize("rows", [100, 100_000])
def test_a_full_disk_says_so_while_an_array_is_written(rows):
    with pytest.raises(OSError, match="space") as caught, open("/dev/full", "wb") as stream:
        write_array(stream, np.ones((rows, 40), np.float32))
    assert caught.value.errno == errno.ENOSPC
