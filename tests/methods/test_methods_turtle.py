import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from kinfold import TURTLE
from kinfold.errors import InputError
from kinfold.methods import load_model, save_model
from kinfold.methods._turtle_training import (
    InnerClassifiers,
    TaskEncoder,
    TurtleTraining,
    adam_state,
    classifier_gradient,
    labeling_loss,
    levelled_off,
    plan_turtle,
)
from kinfold.metrics import adjusted_rand_index, clustering_accuracy

CPU = torch.device("cpu")
QUICK = {"n_steps": 30, "random_state": 0, "device": "cpu"}


def blobs(n=240, k=3, dim=16, spread=0.3, seed=0):
    random = np.random.default_rng(seed)
    truth = np.arange(n) % k
    return (random.normal(size=(k, dim))[truth] + spread * random.normal(size=(n, dim))).astype(
        np.float32
    ), truth


def probabilities(shape, seed):
    exponent = np.exp(np.random.default_rng(seed).normal(size=shape))
    return exponent / exponent.sum(axis=-1, keepdims=True)


def naive_loss(log_classified, proposed, gamma):
    """The objective of the task encoder, entry by entry."""
    n_spaces, n_rows, n_clusters = proposed.shape
    total = 0.0
    for s in range(n_spaces):
        for b in range(n_rows):
            for k in range(n_clusters):
                label = sum(proposed[r][b][k] for r in range(n_spaces)) / n_spaces
                total -= label * log_classified[s][b][k] / n_rows
        for k in range(n_clusters):
            used = sum(proposed[s][b][k] for b in range(n_rows)) / n_rows
            total += gamma * used * np.log(used)
    return total


@pytest.mark.parametrize("n_spaces", [1, 3])
def test_the_objective_is_the_naive_loop_in_value_and_gradient(n_spaces):
    proposed = probabilities((n_spaces, 6, 4), 0)
    log_classified = np.log(probabilities((n_spaces, 6, 4), 1))
    parts = [torch.from_numpy(part).requires_grad_() for part in proposed]
    loss = labeling_loss([torch.from_numpy(part) for part in log_classified], parts, 10.0)
    assert float(loss.detach()) == pytest.approx(naive_loss(log_classified, proposed, 10.0), rel=1e-12)
    torch.autograd.backward(loss)
    random = np.random.default_rng(2)
    for _ in range(10):
        s, b, k = (int(random.integers(size)) for size in proposed.shape)
        step = np.zeros_like(proposed)
        step[s, b, k] = 1e-6
        ahead, behind = (naive_loss(log_classified, proposed + sign * step, 10.0) for sign in (1, -1))
        assert float(parts[s].grad[b, k]) == pytest.approx((ahead - behind) / 2e-6, rel=1e-5, abs=1e-7)


def test_a_label_that_nobody_uses_leaves_the_gradient_finite():
    part = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    torch.autograd.backward(labeling_loss([torch.full((2, 2), -0.7)], [part], 10.0))
    assert torch.isfinite(part.grad).all()


def test_the_inner_gradient_in_closed_form_is_autograds():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 5, generator=generator, dtype=torch.float64).float()
    bias = torch.randn(4, generator=generator)
    labels = torch.from_numpy(probabilities((9, 4), 0))
    leaves = [weight.double().requires_grad_(), bias.double().requires_grad_()]
    logits = torch.nn.functional.linear(rows, *leaves)
    torch.autograd.backward(torch.nn.functional.cross_entropy(logits, labels))
    for got, leaf in zip(
        classifier_gradient(rows.float(), weight, bias, labels.float()), leaves, strict=True
    ):
        torch.testing.assert_close(got.double(), leaf.grad, atol=1e-6, rtol=1e-5)


def test_inner_classifiers_follow_the_naive_adam_and_start_afresh():
    random = np.random.default_rng(0)
    rows, labels = random.normal(size=(20, 6)), probabilities((20, 3), 1)
    inner = InnerClassifiers((4, 2), 3, 0.05, CPU)
    spaces = [torch.from_numpy(part).float() for part in (rows[:, :4], rows[:, 4:])]
    for _ in range(2):  # the second time from the same start, although moments have grown meanwhile
        inner.restart(torch.Generator().manual_seed(5))
        weight, bias = (inner.weights[1].double().numpy().copy(), inner.biases[1].double().numpy().copy())
        inner.learn(spaces, torch.from_numpy(labels).float(), 7)
        first = [np.zeros((3, 2)), np.zeros(3)]
        second = [np.zeros((3, 2)), np.zeros(3)]
        for step in range(1, 8):
            exponent = np.exp(rows[:, 4:] @ weight.T + bias)
            pull = (exponent / exponent.sum(axis=1, keepdims=True) - labels) / 20
            for i, (value, gradient) in enumerate(((weight, pull.T @ rows[:, 4:]), (bias, pull.sum(axis=0)))):
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                slope = first[i] / (1 - 0.9**step)
                value -= 0.05 * slope / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(inner.weights[1], weight, atol=1e-4)
        np.testing.assert_allclose(inner.biases[1], bias, atol=1e-4)


def test_the_encoder_is_pytorchs_weight_normalised_linear_layer():
    encoder = TaskEncoder((4, 3), 5, torch.Generator().manual_seed(0), CPU)
    rows = torch.randn(7, 7, generator=torch.Generator().manual_seed(1))
    for space, part in enumerate((rows[:, :4], rows[:, 4:])):
        layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(part.shape[1], 5))
        with torch.no_grad():
            encoder.gains[space].mul_(1.7)
            layer.parametrizations.weight.original0.copy_(encoder.gains[space])
            layer.parametrizations.weight.original1.copy_(3 * encoder.directions[space])
            layer.bias.copy_(encoder.biases[space])
            torch.testing.assert_close(encoder(rows)[space], torch.softmax(layer(part), dim=1))


def test_an_outer_step_descends_the_objective_with_the_inner_classifiers_held_still():
    X, _ = blobs()
    plan = plan_turtle(
        240, 3, (16,), n_steps=1, batch_size=240, n_inner_steps=3, warm=False, gamma=10.0,
        learning_rate=1e-3, inner_learning_rate=1e-2,
    )  # fmt: skip
    made = [
        TurtleTraining(X, (16,), np.ones(1), 3, plan, seed=0, device=CPU, dtype=torch.float32)
        for _ in range(2)
    ]
    before = {name: value.detach().clone() for name, value in made[0].encoder.tensors().items()}
    loss = made[0].step(0)
    reference = made[1]
    rows = torch.from_numpy(X)
    proposed = reference.encoder(rows)
    inner = made[0]._inner  # as the step left it
    expected = labeling_loss(inner.log_probabilities([rows]), proposed, 10.0)
    torch.testing.assert_close(loss, expected.detach())
    torch.autograd.backward(expected)
    for name, value in reference.encoder.tensors().items():
        moved = made[0].encoder.tensors()[name].detach() - before[name]
        sure = value.grad.abs() > 1e-5
        torch.testing.assert_close(moved[sure], -1e-3 * value.grad.sign()[sure], atol=1e-5, rtol=0.01)


def test_cold_and_warm_starts_differ_as_they_should():
    X, _ = blobs()
    states = []
    for warm in (False, True):
        plan = plan_turtle(
            240, 3, (16,), n_steps=5, batch_size=100, n_inner_steps=2, warm=warm, gamma=10.0,
            learning_rate=None, inner_learning_rate=None,
        )  # fmt: skip
        training = TurtleTraining(X, (16,), np.ones(1), 3, plan, seed=0, device=CPU, dtype=torch.float32)
        for number in range(5):
            training.step(number)
        states.append(float(adam_state(training._inner.optimizer, "")["0.step"]))
    assert states == [2, 10]


def test_check_estimator_passes():
    check_estimator(TURTLE(n_steps=20, n_inner_steps=3))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_check_estimator_passes_with_all_defaults():
    check_estimator(TURTLE())


def test_clear_kinds_are_found_in_one_space_and_in_two():
    X, truth = blobs()
    for dims in (None, (10, 6)):
        model = TURTLE(n_clusters=3, space_dims=dims, n_steps=150, random_state=0).fit(X)
        assert adjusted_rand_index(truth, model.labels_) == 1.0
        assert model.generalization_score_ == 1.0


@pytest.mark.parametrize("inner_start", ["cold", pytest.param("warm", marks=pytest.mark.slow)])
def test_digits_are_sorted_and_the_score_is_high(inner_start):
    X, y = load_digits(return_X_y=True)
    model = TURTLE(n_clusters=10, inner_start=inner_start, n_steps=300, random_state=0).fit(X)
    assert clustering_accuracy(y, model.labels_) > 0.65
    assert model.generalization_score_ > 0.93


def test_training_ends_by_itself_when_the_objective_has_levelled_off():
    X, _ = blobs()
    model = TURTLE(n_clusters=3, random_state=0).fit(X)
    assert 8 <= len(model.history_) < 60
    assert levelled_off([np.float32([loss]) for loss in model.history_], model.plan_.tolerance)
    assert not levelled_off([np.float32([loss]) for loss in model.history_[:-1]], model.plan_.tolerance)
    assert len(TURTLE(n_clusters=3, n_steps=70, random_state=0).fit(X).history_) == 2


def test_labels_are_the_arg_max_of_the_mean_over_spaces():
    X, _ = blobs(spread=1.0)
    model = TURTLE(n_clusters=3, space_dims=(10, 6), **QUICK).fit(X)
    tensors = model.to_model().tensors
    expected = 0
    for space, columns in enumerate((slice(0, 10), slice(10, 16))):
        direction = tensors[f"direction{space}"].astype(np.float64)
        weight = tensors[f"gain{space}"] * direction / np.linalg.norm(direction, axis=1, keepdims=True)
        size = np.sqrt(np.square(X[:, columns].astype(np.float64)).mean())
        exponent = np.exp(X[:, columns] / size @ weight.T + tensors[f"bias{space}"])
        expected += exponent / exponent.sum(axis=1, keepdims=True) / 2
    powers = expected ** (1 / model.temperature_)
    calibrated = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X), calibrated, atol=1e-5)
    np.testing.assert_array_equal(model.labels_, model.predict_proba(X).argmax(axis=1))
    np.testing.assert_array_equal(model.predict(X[10:20]), model.labels_[10:20])


def test_features_enter_as_they_are_where_asked_and_the_default_ignores_a_constant_factor():
    X, _ = blobs(spread=1.0)
    plain = TURTLE(n_clusters=3, **QUICK).fit(X)
    scaled = TURTLE(n_clusters=3, **QUICK).fit(X * 1024)
    np.testing.assert_array_equal(plain.labels_, scaled.labels_)
    by_hand = TURTLE(n_clusters=3, feature_scale=float(plain.to_model().tensors["factors"][0]), **QUICK).fit(
        X
    )
    np.testing.assert_array_equal(plain.predict_proba(X), by_hand.predict_proba(X))
    saturated = TURTLE(n_clusters=3, feature_scale=1e12, **QUICK).fit(X)
    assert np.isfinite(saturated.predict_proba(X)).all()


def test_same_seed_same_bytes_and_input_not_changed():
    X, _ = blobs(spread=1.0)
    before = X.copy()
    first, again = (TURTLE(n_clusters=3, batch_size=100, **QUICK).fit(X).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(X, before)


def test_a_memory_map_gives_the_same_result(tmp_path):
    X, _ = blobs()
    np.save(tmp_path / "x.npy", X)
    options = {"n_clusters": 3, "batch_size": 100, **QUICK}
    mapped = TURTLE(**options).fit(np.load(tmp_path / "x.npy", mmap_mode="r"))
    np.testing.assert_array_equal(mapped.predict_proba(X), TURTLE(**options).fit(X).predict_proba(X))


@pytest.mark.parametrize("inner_start", ["cold", pytest.param("warm", marks=pytest.mark.slow)])
def test_a_resumed_fit_gives_the_same_bytes(inner_start, tmp_path, monkeypatch):
    X, _ = blobs(spread=1.0)
    options = {**QUICK, "n_clusters": 3, "batch_size": 100, "n_steps": 125, "inner_start": inner_start}
    expected = TURTLE(**options).fit(X)
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    whole = TurtleTraining.step
    monkeypatch.setattr(TurtleTraining, "step", lambda self, n: whole(self, n) if n != 120 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TURTLE(**options).fit(X, checkpoint=tmp_path / "checkpoint")
    taken = []
    monkeypatch.setattr(TurtleTraining, "step", lambda self, n: [taken.append(n), whole(self, n)][1])
    resumed = TURTLE(**options).fit(X, checkpoint=tmp_path / "checkpoint")
    assert taken[0] == 100
    np.testing.assert_array_equal(resumed.predict_proba(X), expected.predict_proba(X))
    np.testing.assert_array_equal(resumed.history_, expected.history_)
    TURTLE(**{**options, "gamma": 5.0}).fit(X, checkpoint=tmp_path / "checkpoint")
    assert taken[25] == 0


def test_a_saved_model_knows_its_spaces_and_score(tmp_path):
    X, _ = blobs()
    model = TURTLE(n_clusters=3, space_dims=(10, 6), **QUICK).fit(X)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert loaded.space_dims == (10, 6)
    assert loaded.generalization_score_ == model.generalization_score_
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("X", "n_clusters"),
    [
        (np.ones((30, 4)), 3),
        (np.zeros((5, 4)), 2),
        (np.array([[1.0, 1.0], [-1e18, 1e18]]), 2),
        (np.repeat(np.random.default_rng(0).normal(size=(21, 4)), [180, *[1] * 20], axis=0), 4),
        (np.random.default_rng(0).normal(size=(240, 8)), 200),
        (np.random.default_rng(0).normal(size=(1001, 8)) + 9 * (np.arange(1001) == 0)[:, None], 2),
        (np.random.default_rng(0).normal(size=(20, 4)) * 1e30, 2),
        (np.random.default_rng(0).normal(size=(20, 4)) * 1e-30, 2),
        (np.ones((1, 3)), 1),
    ],
    ids=["equal", "zero", "two far", "duplicates", "many", "1000:1", "huge", "tiny", "one"],
)
@pytest.mark.parametrize("inner_start", ["cold", "warm"])
def test_degenerate_input_ends_in_finite_probabilities(X, n_clusters, inner_start):
    model = TURTLE(n_clusters=n_clusters, inner_start=inner_start, **QUICK).fit(X)
    assert np.isfinite(model.predict_proba(X)).all()
    assert np.isfinite(model.history_).all()
    assert 0 <= model.generalization_score_ <= 1


def test_collapse_is_told_with_advice():
    with pytest.warns(ConvergenceWarning, match="clusters are empty"):
        TURTLE(n_clusters=5, **QUICK).fit(np.ones((50, 8)))


def test_half_precision_products_find_the_same_kinds():
    X, truth = blobs()
    model = TURTLE(n_clusters=3, precision="bfloat16", n_steps=150, random_state=0, device="cpu").fit(X)
    assert adjusted_rand_index(truth, model.labels_) == 1.0


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_values_that_float32_cannot_hold_are_refused(scale):
    with pytest.raises(InputError, match="features by a constant"):
        TURTLE(n_clusters=2, **QUICK).fit(np.random.default_rng(0).normal(size=(20, 4)) * scale)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_clusters": 31}, "more than n_samples=30"),
        ({"space_dims": (2, 3)}, "add up to 5, but X has 4 features"),
        ({"space_dims": (4, 0)}, "space_dims must be .* each an integer of at least 1"),
        ({"space_dims": "2;2"}, "space_dims must be .*like .8, 8."),
        ({"space_dims": [[2], [1, 1]]}, "space_dims must be .* each an integer of at least 1"),
        ({"space_dims": []}, "space_dims must be .* each an integer of at least 1"),
        ({"space_dims": 3}, "add up to 3, but X has 4 features"),
        ({"inner_start": "hot"}, "inner_start must be"),
        ({"n_inner_steps": 0}, "n_inner_steps must be .*an integer of at least 1"),
        ({"n_steps": -1}, "n_steps must be .*an integer of at least 1"),
        ({"batch_size": 1.5}, "batch_size must be .*an integer of at least 1"),
        ({"gamma": 0}, "gamma must be .*a number above 0"),
        ({"inner_learning_rate": "fast"}, "inner_learning_rate must be .*a number above 0"),
        ({"feature_scale": "unit"}, "feature_scale must be .*a number above 0"),
        ({"precision": "half"}, "precision must be one of .*; got 'half'"),
        ({"device": "tpu"}, "device must be one of .*; got 'tpu'"),
    ],
)
def test_impossible_parameters_are_refused(parameters, words):
    X = np.random.default_rng(0).normal(size=(30, 4))
    with pytest.raises(InputError, match=words):
        TURTLE(**{"n_clusters": 2, **QUICK, **parameters}).fit(X)


def test_widths_of_spaces_may_be_an_array():
    X = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    as_tuple, as_array = (
        TURTLE(n_clusters=2, n_steps=10, space_dims=dims, random_state=0).fit(X).labels_
        for dims in ((5, 3), np.array([5, 3]))
    )
    np.testing.assert_array_equal(as_tuple, as_array)
