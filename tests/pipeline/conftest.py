from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.image_folders import write_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 45 images of three kinds."""
    folder = tmp_path / "photos"
    write_images(folder)
    return folder


@pytest.fixture(scope="session")
def features_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ready features of 90 rows in three groups."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 8))
    path = tmp_path_factory.mktemp("ready") / "vectors.npy"
    np.save(path, np.repeat(centers, 30, axis=0) + 0.1 * rng.normal(size=(90, 8)))
    return path
