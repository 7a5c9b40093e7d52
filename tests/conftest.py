"""What tests of every room share."""

import pytest


@pytest.fixture(params=["float32", "bfloat16"])
def precision(request, monkeypatch):
    """Both precisions, whatever units this machine has: what ``precision="auto"`` means in the test."""
    monkeypatch.setenv("KINFOLD_PRECISION", request.param)
    return request.param
