import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from kinfold import SphericalKMeans
from kinfold.compute import sampled_products
from kinfold.distributed import Workers
from kinfold.errors import InputError
from kinfold.methods import predict_top
from kinfold.methods._kmeans_lloyd import (
    Assigned,
    Assigner,
    Step,
    _BlockState,
    _closest_on_accelerator,
    _product,
    _reaching,
    _slack,
    _Sums,
)
from kinfold.methods._kmeans_starts import _choose, _Pool, _similarities_of_many, _Single, choose_seeds
from kinfold.methods._rows import UnitBlocks
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


@pytest.mark.parametrize("n_clusters", [4, 40])
def test_the_result_is_a_fixed_point_of_the_naive_iteration(precision, n_clusters):
    X, _ = blobs(spread=1.0, dim=24)
    model = SphericalKMeans(n_clusters=n_clusters, n_init=1, tol=0, random_state=0).fit(X)
    labels, centers = naive_lloyd(X, model.cluster_centers_.astype(np.float64))
    np.testing.assert_array_equal(labels, model.labels_)
    np.testing.assert_allclose(centers, model.cluster_centers_, atol=1e-5)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    assert model.objective_ == pytest.approx((unit * centers[labels]).sum(axis=1).mean(), abs=1e-6)
    np.testing.assert_array_equal(model.predict(X), labels)


def test_both_precisions_end_in_the_same_clusters():
    X = load_digits().data
    found = [
        SphericalKMeans(n_clusters=10, n_init=3, precision=precision, random_state=0).fit(X)
        for precision in ("float32", "bfloat16")
    ]
    np.testing.assert_array_equal(found[0].labels_, found[1].labels_)
    np.testing.assert_allclose(found[0].objective_, found[1].objective_, atol=1e-7)
    np.testing.assert_array_equal(found[0].predict(X), found[1].predict(X))
    np.testing.assert_allclose(found[0].predict_proba(X), found[1].predict_proba(X), atol=1e-6)


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


def drifting_centers(X, k, n_steps):
    """Return the centroids of Lloyd iterations from random rows, with a jump in between."""
    unit = torch.from_numpy(X / np.linalg.norm(X, axis=1, keepdims=True)).float()
    random = np.random.default_rng(0)
    centers = [unit[random.choice(len(X), k, replace=False)]]
    for step in range(n_steps):
        labels = (unit @ centers[-1].T).argmax(dim=1)
        sums = torch.zeros_like(centers[0]).index_add_(0, labels, unit)
        sums[labels.bincount(minlength=k) == 0] = unit[0]
        fresh = torch.nn.functional.normalize(sums, dim=1)
        if step == n_steps // 2:
            fresh[3] = unit[7]
        centers.append(fresh)
    return unit, centers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block_bytes", [4 * 64 * 101, 64 << 20])
def test_bounds_and_rounding_never_change_an_assignment(dtype, block_bytes, monkeypatch):
    X = load_digits().data
    unit, centers = drifting_centers(X, 90, 14)
    monkeypatch.setattr("kinfold.methods._rows.BLOCK_BYTES", block_bytes)
    rows = UnitBlocks(X, torch.device("cpu"))
    assigner = Assigner(rows, 90, dtype, keep_bounds=True)
    exact = unit.double()
    for these in centers:
        found = torch.cat([assigned.labels for assigned in assigner.assign(these)])
        similarity = exact @ these.double().T
        lost = similarity.max(dim=1).values - similarity.gather(1, found[:, None])[:, 0]
        assert lost.max() < 1e-6
        plain = Assigner(rows, 90, torch.float32, keep_bounds=False)
        again = torch.cat([assigned.labels for assigned in plain.assign(these)])
        torch.testing.assert_close(found, again, rtol=0, atol=0)


def near_ties():
    """Return rows within the rounding of float32 products of one another, and some that are apart."""
    random = np.random.default_rng(0)
    rows = 1 + 1e-5 * random.normal(size=(400, 300))
    rows[:40] += random.normal(size=(40, 300))
    return rows


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("X", [load_digits().data, near_ties()], ids=["digits", "near ties"])
def test_free_memory_and_precision_change_no_bit_of_a_fit(X, monkeypatch):
    fits = []
    for n_bytes in (0, 1 << 40):
        monkeypatch.setattr("kinfold.methods._kmeans_lloyd.available_memory", lambda n_bytes=n_bytes: n_bytes)
        for precision in ("float32", "bfloat16"):
            model = SphericalKMeans(n_clusters=40, n_init=2, precision=precision, random_state=0).fit(X)
            fits.append(model)
    for model in fits[1:]:
        np.testing.assert_array_equal(model.labels_, fits[0].labels_)
        np.testing.assert_array_equal(model.cluster_centers_, fits[0].cluster_centers_)
        assert (model.objective_, model.n_iter_) == (fits[0].objective_, fits[0].n_iter_)


@pytest.mark.parametrize("keep_bounds", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dot_products_decide_where_nearly_everything_ties(keep_bounds, dtype):
    rows = UnitBlocks(near_ties(), torch.device("cpu"))
    (_, unit), *_ = rows.blocks()
    centers = unit[-60:]
    every = torch.arange(60).repeat(len(unit))
    dots = sampled_products(unit, centers, torch.arange(len(unit) + 1) * 60, every).view(len(unit), 60)
    similarities = dots.amax(dim=1)
    for assigned in Assigner(rows, 60, dtype, keep_bounds=keep_bounds).assign(centers):
        assert torch.equal(assigned.labels, (dots == similarities[:, None]).int().argmax(dim=1))
        assert torch.equal(assigned.similarities, similarities)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_lie_within_their_bound(dtype):
    generator = torch.Generator().manual_seed(0)
    # All terms of one sign and of about one size: rounding errors add up as badly as they can.
    unit = torch.nn.functional.normalize(1 + 0.1 * torch.rand(64, 4096, generator=generator), dim=1)
    error = _product(unit, unit, dtype, None).double() - unit.double() @ unit.double().T
    assert error.abs().max() < _slack(dtype, 4096)


def test_bounds_stay_above_all_similarities_while_some_centroids_rest():
    unit, centers = drifting_centers(load_digits().data, 90, 14)
    rests = torch.arange(90) % 3 == 0
    similarity, labels = (unit @ centers[0].T).max(dim=1)
    state = _BlockState()
    state.labels, state.similarities, state.bounds = labels, similarity, unit @ centers[0].T + 1e-5
    before = centers[0]
    for these in centers[1:]:
        these = torch.where(rests[:, None], before, these)
        step = Step(before, these)
        exact = unit.double() @ these.double().T
        own = exact.gather(1, labels[:, None])[:, 0].float()
        found = step.follow(state, own, unit.numel())
        assert (state.bounds.double() + state.drift - exact).min() > 0
        torch.testing.assert_close(state.bounds >= own[:, None] - state.drift, _mask(found, exact.shape))
        state.similarities, before = own, these


def _mask(pairs, shape):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[pairs[0], pairs[1]] = True
    return mask


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (33, 101), (64, 64)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.9, 1.0])
def test_what_reaches_a_threshold_is_found_and_nothing_else(shape, share):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    values[0, 0] = -torch.inf
    thresholds = torch.full(shape[:1], 1 - share)
    found = _reaching(values, thresholds, 5, torch.empty_like(values))
    expected = torch.nonzero(values >= thresholds[:, None]).T + torch.tensor([[5], [0]])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_candidates_from_a_pool_are_chosen_as_often_as_those_drawn_step_by_step():
    points = torch.nn.functional.normalize(torch.from_numpy(blobs(n=7, k=3, dim=3, spread=0.6)[0]).float())
    table = (points @ points.T).numpy()
    counts = np.zeros((2, 7, 7))
    for seed in range(2000):
        for row, kind in enumerate((_Single, _Pool)):
            source = kind(lambda chosen: table[chosen], np.random.RandomState(seed))
            _, second, third = _choose(source, 0, 3)
            counts[row, second, third] += 1
    often = counts.sum(axis=0) > 100
    spread = np.sqrt(counts.sum(axis=0)[often])
    assert often.sum() >= 4
    assert (np.abs(counts[0] - counts[1])[often] < 4 * spread).all()


@pytest.mark.parametrize("n_clusters", [5, 60, 700])
def test_seeds_are_different_rows_however_they_are_computed(n_clusters):
    rows = UnitBlocks(load_digits().data, torch.device("cpu"))
    seeds = choose_seeds(rows, n_clusters, np.random.RandomState(0))
    assert len(np.unique(seeds)) == n_clusters


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_pool_of_equal_rows_still_gives_as_many_seeds_as_asked():
    rows = UnitBlocks(np.ones((640, 4), dtype=np.float32), torch.device("cpu"))
    assert len(choose_seeds(rows, 20, np.random.RandomState(0))) == 20


def test_seeding_some_clusters_computes_few_of_all_similarities(monkeypatch):
    from kinfold.methods import _kmeans_starts as module

    computed = []

    def count(points, chosen):
        computed.append(len(chosen))
        return _similarities_of_many(points, chosen)

    monkeypatch.setattr(module, "_similarities_of_many", count)
    X, _ = blobs(n=3000, k=60, dim=24, spread=1.0)
    choose_seeds(UnitBlocks(X, torch.device("cpu")), 60, np.random.RandomState(0))
    assert 0 < sum(computed) < 1.3 * 60 * (2 + int(np.log(60)))
    assert len(computed) < 60 / 3


def test_most_similarities_are_never_computed(monkeypatch):
    from kinfold.methods import _kmeans_lloyd as module

    X, _ = blobs(n=4000, k=100, dim=40, spread=1.0)
    computed = {"products": 0, "dots": 0}
    product, dots = module._product, module._dots

    def count_product(block, centers, *rest):
        computed["products"] += len(block) * len(centers)
        return product(block, centers, *rest)

    def count_dots(block, centers, pairs):
        computed["dots"] += pairs.shape[1]
        return dots(block, centers, pairs)

    monkeypatch.setattr(module, "_product", count_product)
    monkeypatch.setattr(module, "_dots", count_dots)
    model = SphericalKMeans(n_clusters=100, n_init=1, max_iter=25, tol=0, random_state=0).fit(X)
    assert sum(computed.values()) < 0.5 * model.n_iter_ * X.shape[0] * 100


def test_labels_do_not_depend_on_threads():
    X = np.random.default_rng(0).normal(size=(3000, 48))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(SphericalKMeans(n_clusters=70, n_init=1, max_iter=12, random_state=0).fit(X).labels_)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_many_clusters_are_as_good_as_scikit_learns():
    X = load_digits().data
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    reference = KMeans(150, n_init=1, random_state=0).fit(unit)
    centers = reference.cluster_centers_ / np.linalg.norm(reference.cluster_centers_, axis=1, keepdims=True)
    model = SphericalKMeans(n_clusters=150, n_init=1, random_state=0).fit(X)
    assert model.objective_ >= (unit @ centers.T).max(axis=1).mean() - 1e-3


def test_the_objective_belongs_to_the_final_labels_and_centers_after_the_last_iteration():
    X = load_digits().data
    model = SphericalKMeans(n_clusters=80, n_init=1, max_iter=3, random_state=0).fit(X)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    similarity = unit @ model.cluster_centers_.T
    np.testing.assert_array_equal(model.labels_, model.predict(X))
    assert model.n_iter_ == 3
    assert model.objective_ == pytest.approx(similarity.max(axis=1).mean(), abs=1e-6)


def test_the_top_five_are_the_closest_centroids():
    X = load_digits().data
    model = SphericalKMeans(n_clusters=12, n_init=1, random_state=0).fit(X)
    unit = X[:200] / np.linalg.norm(X[:200], axis=1, keepdims=True)
    closest = np.argsort(-(unit @ model.cluster_centers_.T.astype(np.float64)), axis=1)[:, :5]
    np.testing.assert_array_equal(predict_top(model, X[:200], 5).clusters, closest)


def test_all_rows_equal_end_in_one_cluster_with_a_warning():
    X = np.ones((2000, 8), dtype=np.float32)
    with pytest.warns(ConvergenceWarning, match="clusters are empty"):
        model = SphericalKMeans(n_clusters=100, random_state=0).fit(X)
    assert len(np.unique(model.labels_)) == 1
    assert model.objective_ == pytest.approx(1, abs=1e-6)


def test_two_far_points_among_copies_get_their_own_clusters():
    X = np.zeros((1000, 6), dtype=np.float32)
    X[:, 0], X[17], X[503] = 1, [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]
    labels = SphericalKMeans(n_clusters=3, random_state=0).fit(X).labels_
    assert np.bincount(labels, minlength=3).tolist().count(1) == 2
    assert labels[17] != labels[503]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_ninety_percent_duplicates_leave_the_others_their_clusters():
    random = np.random.default_rng(0)
    X = np.concatenate([np.tile(random.normal(size=(1, 20)), (900, 1)), random.normal(size=(100, 20))])
    model = SphericalKMeans(n_clusters=80, random_state=0).fit(X)
    sizes = np.bincount(model.labels_, minlength=80)
    assert (sizes > 0).all()
    assert sizes.max() >= 900
    assert len(np.unique(model.labels_[:900])) == 1
    assert np.isfinite(model.cluster_centers_).all()


def test_almost_as_many_clusters_as_rows_fill_them_all():
    X = np.random.default_rng(0).normal(size=(600, 16))
    model = SphericalKMeans(n_clusters=500, n_init=1, random_state=0).fit(X)
    assert len(np.unique(model.labels_)) == 500
    assert model.n_iter_ < 100


def test_a_small_kind_beside_a_thousandfold_one_is_found():
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1], [5000, 5])
    X = np.eye(2, 10)[truth] + 0.02 * random.normal(size=(5005, 10))
    labels = SphericalKMeans(n_clusters=2, random_state=0).fit(X).labels_
    assert adjusted_rand_index(truth, labels) == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_accelerators_way_finds_the_closest_centroids(dtype):
    unit, centers = drifting_centers(load_digits().data, 60, 3)
    labels, similarities = _closest_on_accelerator(unit, centers[-1], dtype)
    exact = unit.double() @ centers[-1].double().T
    torch.testing.assert_close(
        similarities.double(), exact.gather(1, labels[:, None])[:, 0], rtol=0, atol=1e-6
    )
    lost = exact.max(dim=1).values - similarities.double()
    assert lost.max() < 1e-6


def test_centroids_that_bfloat16_cannot_tell_apart_are_told_apart_on_accelerators():
    generator = torch.Generator().manual_seed(0)
    center = torch.nn.functional.normalize(torch.randn(32, generator=generator), dim=0)
    near = torch.nn.functional.normalize(center + 1e-3 * torch.randn(40, 32, generator=generator), dim=1)
    labels, _ = _closest_on_accelerator(near, near, torch.bfloat16)
    torch.testing.assert_close(labels, torch.arange(40))


def test_sums_of_changes_are_the_sums_of_all_members():
    unit, centers = drifting_centers(load_digits().data, 60, 6)
    by_changes, anew = _Sums(centers[0]), _Sums(centers[0])
    anew._changes_only = False
    previous = None
    for these in centers:
        similarity, labels = (unit @ these.T).max(dim=1)
        totals = []
        for sums in (by_changes, anew):
            sums.begin()
            for rows in (slice(0, 700), slice(700, None)):
                before = None if previous is None else previous[rows]
                sums.add(Assigned(unit[rows], labels[rows], before, similarity[rows]))
            totals.append(sums.total(Workers()))
        torch.testing.assert_close(totals[0][0], totals[1][0], rtol=0, atol=1e-4)
        torch.testing.assert_close(totals[0][1], labels.bincount(minlength=60).double(), rtol=0, atol=0)
        torch.testing.assert_close(totals[1][1], totals[0][1], rtol=0, atol=0)
        assert totals[0][2] == (len(unit) if previous is None else int((labels != previous).sum()))
        previous = labels


def test_it_takes_the_place_of_scikit_learns():
    X = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    model = SphericalKMeans(5, random_state=0).fit(X)
    distances = model.transform(X)
    assert distances.shape == (300, 5)
    assert (distances.argmin(axis=1) == model.labels_).all()
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(distances, 1 - unit @ model.cluster_centers_.T, atol=1e-6)
    assert model.score(X) == pytest.approx(model.objective_, abs=1e-6)
    assert model.score(7 * X[:50]) == pytest.approx(1 - distances[:50].min(axis=1).mean(), abs=1e-6)
    again = SphericalKMeans(5, random_state=0).fit_transform(X)
    np.testing.assert_array_equal(again, distances)
    assert len(model.get_feature_names_out()) == 5
    assert "SphericalKMeans" in model._repr_html_()


@pytest.mark.parametrize("method", ["ICCE", "SCAN", "TAC", "TEMI", "TURTLE", "SphericalKMeans"])
def test_the_number_of_clusters_may_be_given_first(method):
    import kinfold

    assert getattr(kinfold, method)(5).n_clusters == 5
    with pytest.raises(TypeError):
        getattr(kinfold, method)(5, 3)
