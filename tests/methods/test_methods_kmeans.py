import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from kinfold import SphericalKMeans
from kinfold.errors import InputError
from kinfold.metrics import adjusted_rand_index


def blobs(n=300, k=4, dim=12, spread=0.2, seed=0):
    random = np.random.default_rng(seed)
    truth = np.arange(n) % k
    centers = random.normal(size=(k, dim))
    return centers[truth] + spread * random.normal(size=(n, dim)), truth


def naive_lloyd(X, centers):
    """Textbook spherical k-means in float64 from given centroids until nothing changes."""
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    labels = None
    while True:
        fresh = (X @ centers.T).argmax(axis=1)
        if labels is not None and np.array_equal(fresh, labels):
            return labels, centers
        labels = fresh
        sums = np.stack([X[labels == k].sum(axis=0) for k in range(len(centers))])
        centers = sums / np.linalg.norm(sums, axis=1, keepdims=True)


def test_check_estimator_passes():
    check_estimator(SphericalKMeans())


def test_clear_kinds_are_found():
    X, truth = blobs()
    model = SphericalKMeans(n_clusters=4, random_state=0).fit(X)
    assert adjusted_rand_index(truth, model.labels_) == 1.0
    np.testing.assert_allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1, atol=1e-6)


def test_the_result_is_a_fixed_point_of_the_naive_iteration():
    X, _ = blobs(spread=1.0)
    model = SphericalKMeans(n_clusters=4, n_init=1, tol=0, random_state=0).fit(X)
    labels, centers = naive_lloyd(X, model.cluster_centers_.astype(np.float64))
    np.testing.assert_array_equal(labels, model.labels_)
    np.testing.assert_allclose(centers, model.cluster_centers_, atol=1e-5)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    assert model.objective_ == pytest.approx((unit * centers[labels]).sum(axis=1).mean(), abs=1e-6)


def test_the_objective_is_as_good_as_scikit_learns_on_unit_rows():
    X = load_digits().data
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    reference = KMeans(10, n_init=10, random_state=0).fit(unit)
    centers = reference.cluster_centers_ / np.linalg.norm(reference.cluster_centers_, axis=1, keepdims=True)
    model = SphericalKMeans(n_clusters=10, random_state=0).fit(X)
    assert model.objective_ >= (unit @ centers.T).max(axis=1).mean() - 1e-3


def test_only_the_direction_of_a_row_counts():
    X, _ = blobs(spread=0.8)
    scales = np.random.default_rng(0).uniform(1e-18, 1e18, size=(len(X), 1))
    plain = SphericalKMeans(n_clusters=4, random_state=0).fit(X)
    scaled = SphericalKMeans(n_clusters=4, random_state=0).fit(X * scales)
    np.testing.assert_array_equal(plain.labels_, scaled.labels_)


def test_probabilities_are_the_softmax_over_similarities():
    X, _ = blobs()
    model = SphericalKMeans(n_clusters=4, temperature=0.3, random_state=0).fit(X)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    exponent = np.exp(unit @ model.cluster_centers_.astype(np.float64).T / 0.3)
    got = model.predict_proba(X)
    np.testing.assert_allclose(got, exponent / exponent.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(got.argmax(axis=1), model.labels_)


def test_same_seed_same_labels_and_input_not_changed():
    X, _ = blobs(spread=1.5)
    before = X.copy()
    first, again = (SphericalKMeans(n_clusters=7, random_state=3).fit(X).labels_ for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(X, before)


def test_a_memory_map_in_small_blocks_gives_the_same_labels(tmp_path, monkeypatch):
    X = blobs(spread=0.5)[0].astype(np.float32)
    np.save(tmp_path / "x.npy", X)
    expected = SphericalKMeans(n_clusters=4, random_state=0).fit(X)
    monkeypatch.setattr("kinfold.methods._rows._free_bytes", lambda device: 0)
    monkeypatch.setattr("kinfold.methods._rows.BLOCK_BYTES", 4 * 12 * 17)
    mapped = SphericalKMeans(n_clusters=4, random_state=0).fit(np.load(tmp_path / "x.npy", mmap_mode="r"))
    np.testing.assert_array_equal(mapped.labels_, expected.labels_)
    assert mapped.objective_ == pytest.approx(expected.objective_, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused_by_number(value, tmp_path):
    X, _ = blobs()
    X[[7, 120]] = value
    np.save(tmp_path / "x.npy", X)
    for given in (X, np.load(tmp_path / "x.npy", mmap_mode="r")):
        with pytest.raises(InputError, match=r"2 rows \(7, 120\) of the 300"):
            SphericalKMeans(n_clusters=4).fit(given)


def test_zero_rows_are_named_and_disturb_nobody(caplog):
    X, truth = blobs()
    X[[7, 120]] = 0
    model = SphericalKMeans(n_clusters=4, random_state=0).fit(X)
    assert "2 rows (7, 120) of X have no direction" in caplog.text
    used = np.setdiff1d(np.arange(300), [7, 120])
    assert adjusted_rand_index(truth[used], model.labels_[used]) == 1.0


def test_more_clusters_than_samples_are_refused():
    with pytest.raises(InputError, match="n_clusters=5 is more than n_samples=4"):
        SphericalKMeans(n_clusters=5).fit(np.eye(4))


@pytest.mark.parametrize("n_clusters", [0, -1, 2.5, "3", True])
def test_impossible_numbers_of_clusters_are_refused(n_clusters):
    with pytest.raises(InputError, match="n_clusters must be"):
        SphericalKMeans(n_clusters=n_clusters).fit(np.eye(4))


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_directions_beyond_float32_are_kept(scale):
    X, truth = blobs()
    model = SphericalKMeans(n_clusters=4, random_state=0).fit(X * scale)
    assert adjusted_rand_index(truth, model.labels_) == 1.0
    assert np.isfinite(model.predict_proba(X * scale)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_taken_as_they_come_from_a_model(dtype):
    X, truth = blobs()
    tensor = torch.from_numpy(X).to(dtype).requires_grad_()
    model = SphericalKMeans(n_clusters=4, random_state=0).fit(tensor)
    assert adjusted_rand_index(truth, model.labels_) == 1.0


def test_duplicates_leave_clusters_empty_with_a_warning():
    X = np.repeat([[1.0, 0.0], [0.0, 1.0]], 20, axis=0)
    with pytest.warns(ConvergenceWarning, match="3 of 5 clusters are empty"):
        model = SphericalKMeans(n_clusters=5, random_state=0).fit(X)
    assert len(np.unique(model.labels_)) == 2
    assert np.isfinite(model.predict_proba(X)).all()


def test_as_many_clusters_as_samples_gives_each_its_own():
    X = np.random.default_rng(0).normal(size=(12, 20))
    labels = SphericalKMeans(n_clusters=12, random_state=0).fit(X).labels_
    assert len(np.unique(labels)) == 12


def test_one_cluster_holds_everything():
    X, _ = blobs()
    model = SphericalKMeans(n_clusters=1, random_state=0).fit(X)
    assert not model.labels_.any()
    np.testing.assert_array_equal(model.predict_proba(X), 1.0)


def test_opposite_rows_that_cancel_stay_finite():
    X = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    model = SphericalKMeans(n_clusters=1, random_state=0).fit(X)
    assert np.isfinite(model.cluster_centers_).all()
