"""What a fit and a prediction take as rows: memory maps are judged as arrays are."""

import numpy as np
import pyarrow as pa
import pytest

from kinfold import SphericalKMeans
from kinfold.features import ShardedMatrix

ROWS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)


def mapped(X, folder):
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


def words_of(action):
    with pytest.raises(ValueError, match=r".") as caught:
        action()
    return str(caught.value)


@pytest.mark.parametrize(
    "X",
    [np.ones(30), np.ones((4, 3, 2)), np.ones((5, 3), complex), np.array([["a", "b"]] * 4)],
    ids=["one axis", "three axes", "complex", "words"],
)
def test_a_map_that_is_no_matrix_of_numbers_is_refused_as_such_an_array(X, tmp_path):
    model = SphericalKMeans(n_clusters=2, random_state=0)
    assert words_of(lambda: model.fit(mapped(X, tmp_path))) == words_of(lambda: model.fit(X))
    model.fit(ROWS)
    assert words_of(lambda: model.predict(mapped(X, tmp_path))) == words_of(lambda: model.predict(X))


@pytest.mark.parametrize("dtype", [">f4", np.longdouble])
def test_maps_of_unusual_numbers_are_read(dtype, tmp_path):
    model = SphericalKMeans(n_clusters=2, random_state=0)
    expected = model.fit(ROWS).labels_
    np.testing.assert_array_equal(model.fit(mapped(ROWS.astype(dtype), tmp_path)).labels_, expected)


@pytest.mark.parametrize("kind", ["array", "map", "shards"])
def test_rows_without_names_forget_those_of_an_earlier_fit(kind, tmp_path):
    model = SphericalKMeans(n_clusters=2, random_state=0)
    model.fit(pa.table(list(ROWS.T), names=list("abcd")))
    assert list(model.feature_names_in_) == list("abcd")
    given = {"array": ROWS, "map": mapped(ROWS, tmp_path)}
    given["shards"] = ShardedMatrix([tmp_path / "x.npy"], [20], 4, np.float32)
    model.fit(given[kind])
    assert not hasattr(model, "feature_names_in_")
    assert model.n_features_in_ == 4
