import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kinfold.errors import InputError
from kinfold.features import ShardedMatrix
from kinfold.methods._rows import column_moments
from kinfold.methods._self_training import cross_validated_agreement, fit_self_training
from kinfold.methods.linear import (
    MOMENTUM,
    SoftmaxStack,
    StandardRows,
    cross_entropy_gradient,
)

CPU = torch.device("cpu")


def blobs(n=300, k=4, dim=12, spread=0.5, seed=0):
    random = np.random.default_rng(seed)
    truth = np.arange(n) % k
    centers = random.normal(size=(k, dim))
    return (centers[truth] + spread * random.normal(size=(n, dim))).astype(np.float32), truth


def predict(model, X):
    return model.logits(torch.from_numpy(np.asarray(X))).argmax(dim=1).numpy()


def naive_descent(batches, rate, n_classes, width, factors, kept=None, divisor=None):
    """Multinomial logistic regression by momentum descent, sample by sample in float64."""
    divisor = divisor or width
    weight, bias = np.zeros((n_classes, width)), np.zeros(n_classes)
    speed, bias_speed = np.zeros_like(weight), np.zeros_like(bias)
    for number, (rows, labels) in enumerate(batches):
        gradient, bias_gradient = np.zeros_like(weight), np.zeros_like(bias)
        used = [i for i in range(len(rows)) if kept is None or kept[number][i]]
        for i in used:
            exponent = np.exp(weight @ rows[i, :width] + bias)
            pull = exponent / exponent.sum()
            pull[labels[i]] -= 1
            gradient += np.outer(pull, rows[i, :width]) / len(used)
            bias_gradient += pull / len(used)
        speed, bias_speed = MOMENTUM * speed + gradient, MOMENTUM * bias_speed + bias_gradient
        weight -= factors[number] * rate / divisor * speed
        bias -= factors[number] * rate * bias_speed
    return weight, bias


@pytest.mark.parametrize("with_folds", [False, True])
def test_every_stacked_classifier_follows_the_naive_loop(with_folds):
    random = np.random.default_rng(0)
    batches = [(random.normal(size=(9, 6)), random.integers(3, size=9)) for _ in range(5)]
    kept = [random.random((9, 2)) < 0.6 for _ in batches]
    rates, factors = (0.7, 20.0), (1.0, 0.8, 0.5, 0.3, 0.1)
    stack = SoftmaxStack((4, 6), rates, torch.ones(2, 3, dtype=torch.bool), CPU)
    for (rows, labels), factor, keep in zip(batches, factors, kept, strict=True):
        chosen = torch.from_numpy(keep) if with_folds else None
        stack.step(torch.from_numpy(rows).float(), torch.from_numpy(labels), factor, chosen)
    for part, width in enumerate((4, 6)):
        for setting, rate in enumerate(rates):
            keep = [k[:, setting] for k in kept] if with_folds else None
            expected = naive_descent(batches, rate, 3, width, factors, keep)
            for got, want in zip(stack.classifier(part, setting), expected, strict=True):
                np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def test_a_part_may_see_any_columns_at_rates_that_are_not_divided():
    random = np.random.default_rng(0)
    batches = [(random.normal(size=(9, 6)), random.integers(3, size=9)) for _ in range(5)]
    factors, columns = (1.0, 0.8, 0.5, 0.3, 0.1), [1, 4, 5]
    members = torch.ones(1, 3, dtype=torch.bool)
    stack = SoftmaxStack([torch.tensor(columns), 6], (0.05,), members, CPU, per_column=True)
    for (rows, labels), factor in zip(batches, factors, strict=True):
        stack.step(torch.from_numpy(rows).float(), torch.from_numpy(labels), factor)
    for part, seen in enumerate((columns, range(6))):
        chosen = [(rows[:, list(seen)], labels) for rows, labels in batches]
        expected = naive_descent(chosen, 0.05, 3, len(seen), factors, divisor=1)
        for got, want in zip(stack.classifier(part, 0), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def test_the_gradient_is_that_of_pytorchs_cross_entropy():
    logits = torch.randn(7, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 4, 4, 1, 2, 3, 0])
    logits.requires_grad_()
    loss = sum(torch.nn.functional.cross_entropy(logits[:, s], labels) for s in range(2))
    torch.autograd.backward(loss)
    torch.testing.assert_close(cross_entropy_gradient(logits.detach(), labels), logits.grad)


def test_columns_are_standardised_in_float64(monkeypatch):
    monkeypatch.setattr("kinfold.methods._rows._READ_BYTES", 4 * 3 * 70)
    X = (1e4 + np.random.default_rng(0).normal(size=(500, 3))).astype(np.float32)
    X[:, 1] = 7.1
    mean, deviation = column_moments(X)
    np.testing.assert_allclose(mean, X.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation[[0, 2]], X.astype(np.float64).std(axis=0)[[0, 2]], rtol=1e-9)
    assert deviation[1] == 0
    rows = StandardRows(X, CPU).take(torch.tensor([3, 1]))
    np.testing.assert_allclose(rows, (X[[3, 1]] - mean) / [deviation[0], 1, deviation[2]], atol=1e-3)


def test_it_predicts_new_samples_as_well_as_scikit_learns_logistic_regression():
    X, y = load_digits(return_X_y=True)
    train, test = np.arange(len(X)) % 3 > 0, np.arange(len(X)) % 3 == 0
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(X[train], y[train])
    model = fit_self_training(X[train], y[train], 10, seed=0, device="cpu")
    ours, theirs = (predict(model, X[test]) == y[test]).mean(), reference.score(X[test], y[test])
    assert ours >= theirs - 0.015
    assert model.agreement == pytest.approx(ours, abs=0.04)


def test_cross_validation_agrees_with_scikit_learns():
    X, y = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    order = random.permutation(len(X))
    X, y = X[order], y[order]
    noisy = np.where(random.random(len(y)) < 0.3, random.integers(10, size=len(y)), y)
    for labels in (y, noisy):
        reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        theirs = cross_val_score(reference, X, labels, cv=10).mean()
        assert cross_validated_agreement(X, labels, 10, seed=0, device="cpu") >= theirs - 0.02


def test_no_fold_sees_its_own_labels():
    random = np.random.default_rng(0)
    X, labels = random.normal(size=(200, 400)), random.integers(4, size=200)
    assert predict(fit_self_training(X, labels, 4, seed=0, device="cpu"), X).tolist() == labels.tolist()
    assert cross_validated_agreement(X, labels, 4, seed=0, device="cpu") < 0.4


def test_cross_validation_draws_rows_of_a_large_matrix():
    X, truth = blobs(n=3000)
    got = cross_validated_agreement(X, truth, 4, seed=0, device="cpu", max_rows=500)
    assert got == cross_validated_agreement(X, truth, 4, seed=0, device="cpu", max_rows=500)
    assert got == pytest.approx(cross_validated_agreement(X, truth, 4, seed=0, device="cpu"), abs=0.03)


def test_wrong_pseudo_labels_are_outvoted():
    X, truth = blobs(n=2000, spread=0.4)
    random = np.random.default_rng(0)
    noisy = np.where(random.random(2000) < 0.3, random.integers(4, size=2000), truth)
    assert (predict(fit_self_training(X, noisy, 4, seed=0, device="cpu"), X) == truth).mean() > 0.98


def test_the_table_shows_every_setting_and_the_best_one_is_chosen():
    X, truth = blobs(spread=1.0)
    model = fit_self_training(X, truth, 4, dims=(4, 8), learning_rates=(5.0, 0.01), seed=0, device="cpu")
    settings = [row[:2] for row in model.table]
    assert settings == [(0.01, (4,)), (5.0, (4,)), (0.01, (4, 8)), (5.0, (4, 8))]
    best = max(model.table, key=lambda row: row[2])
    assert (model.learning_rate, model.dims, model.agreement) == best
    assert best[1] == (4, 8)


def test_dinov2s_grid_is_its_thirteen_rates_for_the_batch_that_is_used():
    X, y = load_digits(return_X_y=True)
    train, test = np.arange(len(X)) % 3 > 0, np.arange(len(X)) % 3 == 0
    model = fit_self_training(
        X[train],
        y[train],
        10,
        learning_rates="dinov2",
        batch_size=128,
        n_iterations=600,
        seed=0,
        device="cpu",
    )
    decades = [rate * 10.0**power for power in range(-5, -1) for rate in (1, 2, 5)]
    assert [row[0] for row in model.table] == pytest.approx([rate / 2 for rate in [*decades, 0.1]])
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(X[train], y[train])
    assert (predict(model, X[test]) == y[test]).mean() >= reference.score(X[test], y[test]) - 0.02


def test_feature_variants_may_be_any_blocks_of_columns():
    X, truth = blobs()
    noise = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)
    blocks = [[1, 2], [2], [0], [0, 2]]
    given = np.concatenate([noise[:, :4], noise[:, 4:], X], axis=1)
    model = fit_self_training(
        given, truth, 4, dims=(4, 3, 12), blocks=blocks, learning_rates=(3.0,), seed=0, device="cpu"
    )
    assert [row[1] for row in model.table] == [(4,), (12,), (3, 12), (4, 12)]  # the narrowest first
    assert model.dims == (12,)
    assert not model.weight[:, :7].any()
    alone = fit_self_training(X, truth, 4, learning_rates=(3.0,), seed=0, device="cpu")
    np.testing.assert_allclose(model.weight[:, 7:], alone.weight, rtol=1e-4, atol=1e-6)


def test_leading_blocks_are_the_variants_where_none_are_named():
    X, truth = blobs(spread=1.0)
    named = fit_self_training(
        X, truth, 4, dims=(4, 3, 5), blocks=[[0], [1, 0], [0, 1, 2]], seed=0, device="cpu"
    )
    left_open = fit_self_training(X, truth, 4, dims=(4, 3, 5), seed=0, device="cpu")
    assert named.table == left_open.table
    np.testing.assert_array_equal(named.weight, left_open.weight)


def test_columns_that_only_disturb_are_left_out():
    X, truth = blobs(n=200)
    wide = np.concatenate([X, 10 * np.random.default_rng(0).normal(size=(200, 2000))], axis=1)
    model = fit_self_training(wide, truth, 4, dims=(12, 2000), seed=0, device="cpu")
    assert model.dims == (12,)
    assert model.weight.shape == (4, 2012)
    assert not model.weight[:, 12:].any()


def test_ties_go_to_the_narrower_and_slower_setting():
    X, truth = blobs(spread=0.01)
    model = fit_self_training(X, truth, 4, dims=(6, 6), learning_rates=(10.0, 1.0), seed=0, device="cpu")
    assert {row[2] for row in model.table} == {1.0}
    assert (model.learning_rate, model.dims) == (1.0, (6,))


def test_classes_without_members_never_win():
    X, truth = blobs()
    model = fit_self_training(X, truth + 2, 9, seed=0, device="cpu")
    far = 100 * np.random.default_rng(1).normal(size=(500, 12)).astype(np.float32)
    assert set(predict(model, far)) <= {2, 3, 4, 5}
    np.testing.assert_array_equal(predict(model, X), truth + 2)
    assert cross_validated_agreement(X, truth + 2, 9, seed=0, device="cpu") > 0.98


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64])
def test_every_type_and_place_of_rows_gives_the_same_bytes(dtype, tmp_path):
    X = (20 * blobs()[0] + 100).clip(0, 255).astype(dtype)
    labels = blobs()[1]
    parts = [tmp_path / "a.npy", tmp_path / "b.npy"]
    np.save(parts[0], X[:170])
    np.save(parts[1], X[170:])
    np.save(tmp_path / "x.npy", X)
    sharded = ShardedMatrix(parts, [170, 130], 12, X.dtype)
    expected = fit_self_training(X, labels, 4, seed=3, device="cpu")
    for given in (X, np.load(tmp_path / "x.npy", mmap_mode="r"), sharded):
        model = fit_self_training(given, labels, 4, seed=3, device="cpu")
        np.testing.assert_array_equal(model.weight, expected.weight)
        assert model.table == expected.table
        assert cross_validated_agreement(given, labels, 4, seed=3, device="cpu") > 0.9


def test_another_seed_holds_out_other_samples_and_nothing_is_changed():
    X, truth = blobs(spread=1.5)
    before, labels = X.copy(), truth.copy()
    first = fit_self_training(X, truth, 4, seed=0, device="cpu")
    assert first.table != fit_self_training(X, truth, 4, seed=1, device="cpu").table
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(truth, labels)


@pytest.mark.parametrize(
    ("X", "labels", "n_clusters"),
    [
        (np.ones((30, 4)), np.arange(30) % 3, 3),
        (np.zeros((1, 4)), np.zeros(1, int), 1),
        (np.eye(2), np.arange(2), 2),
        (np.eye(2) * 1e18, np.arange(2), 5),
        (np.repeat(np.eye(4), [180, 10, 5, 5], axis=0), np.repeat(np.arange(4), [180, 10, 5, 5]), 4),
        (np.random.default_rng(0).normal(size=(600, 8)), np.arange(600) % 500, 500),
        (np.random.default_rng(0).normal(size=(1001, 8)), np.arange(1001) // 1000, 2),
    ],
    ids=["all equal", "one", "two", "two far", "duplicates", "more classes than pairs", "1000:1"],
)
def test_degenerate_input_ends_in_finite_numbers(X, labels, n_clusters):
    model = fit_self_training(X, labels, n_clusters, n_iterations=60, seed=0, device="cpu")
    for part in (model.weight, model.bias, model.mean, model.scale):
        assert np.isfinite(part).all()
    assert np.isfinite(model.logits(torch.from_numpy(X)).numpy()).all()
    assert 0 <= model.agreement <= 1
    assert 0 <= cross_validated_agreement(X, labels, n_clusters, seed=0, device="cpu") <= 1


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"dims": (4, 4)}, "add up to 8, but X has 12 features"),
        ({"dims": (12, 0)}, "dims must be .*a list of 1 or more values, each an integer of at least 1"),
        ({"learning_rates": ()}, "learning_rates must be None or 'dinov2' or a list of 1 or more"),
        (
            {"learning_rates": (1.0, -1.0)},
            "learning_rates must be .* each a number above 0",
        ),
        ({"learning_rates": "dino"}, "learning_rates must be None or 'dinov2'"),
        ({"blocks": [[0], [1]]}, r"blocks has the variant \[1\], but there are 1 blocks"),
        ({"blocks": [[0, 0]]}, "at most once"),
        ({"blocks": [[]]}, "blocks must be"),
        ({"blocks": [[-1]]}, "blocks must be"),
        ({"n_iterations": 0}, "n_iterations must be an integer of at least 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
    ],
)
def test_impossible_parameters_are_refused(parameters, words):
    X, truth = blobs()
    with pytest.raises(InputError, match=words):
        fit_self_training(X, truth, 4, seed=0, device="cpu", **parameters)
