"""The losses against naive float64 loops, their fused form against autograd of them, and the objectives."""

import numpy as np
import pytest
import torch

from kinfold.heads import (
    ScanObjective,
    TemiObjective,
    pair_agreement,
    pseudo_label_loss,
    scan_loss,
    sinkhorn,
    temi_loss,
)
from kinfold.heads.objectives import half_cosine, pair_loss_gradient

H, B, K = 3, 5, 4


def naive_temi(student_a, student_b, teacher_a, teacher_b, marginal, beta, weighted):
    """The formulas, one number at a time, in float64."""
    heads, batch, clusters = student_a.shape
    losses = []
    for h in range(heads):
        total = 0.0
        for i in range(batch):
            weight = 1.0
            if weighted:
                weight = sum(
                    teacher_a[g, i, c] * teacher_b[g, i, c] for g in range(heads) for c in range(clusters)
                )
                weight /= heads
            pmi = 0.0
            for q, p in ((teacher_a, student_b), (teacher_b, student_a)):
                inner = sum((q[h, i, c] * p[h, i, c]) ** beta / marginal[h, c] for c in range(clusters))
                pmi += np.log(inner)
            total += weight * pmi
        losses.append(-0.5 * total / batch)
    return np.array(losses)


@pytest.fixture
def made():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64) * 2
    probabilities = torch.softmax(logits, dim=3)
    marginal = torch.softmax(torch.randn(3, 6, generator=generator, dtype=torch.float64), dim=1)
    return probabilities, marginal


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("beta", [0.6, 1.0])
def test_temi_loss_equals_the_formula(made, beta, weighted):
    probabilities, marginal = made
    logs = probabilities.log()
    weights = pair_agreement(*logs[2:]).mean(dim=0) if weighted else None
    got = temi_loss(*logs, marginal, weights, beta=beta)
    expected = naive_temi(*probabilities.numpy(), marginal.numpy(), beta, weighted)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


def naive_scan(student_a, student_b, teacher_a, teacher_b, entropy_weight):
    heads, batch, clusters = student_a.shape
    losses = []
    for h in range(heads):
        total = 0.0
        for i in range(batch):
            for q, p in ((teacher_a, student_b), (teacher_b, student_a)):
                total += np.log(sum(q[h, i, c] * p[h, i, c] for c in range(clusters)))
        entropy = 0.0
        for view in (student_a, student_b):
            for c in range(clusters):
                mean = sum(view[h, i, c] for i in range(batch)) / batch
                entropy += mean * np.log(mean)
        losses.append(-0.5 * total / batch + entropy_weight * 0.5 * entropy)
    return np.array(losses)


def naive_pseudo_label(student_a, student_b, teacher_a, teacher_b):
    heads, batch, _ = student_a.shape
    losses = []
    for h in range(heads):
        total = 0.0
        for i in range(batch):
            total -= np.log(student_b[h, i, int(np.argmax(teacher_a[h, i]))])
            total -= np.log(student_a[h, i, int(np.argmax(teacher_b[h, i]))])
        losses.append(0.5 * total / batch)
    return np.array(losses)


def naive_sinkhorn(logits, rounds):
    """The matrix scaled as the words say, in float64."""
    q = np.exp(logits)
    rows, clusters = q.shape
    q /= q.sum()
    for _ in range(rounds):
        q /= q.sum(axis=0, keepdims=True) * clusters
        q /= q.sum(axis=1, keepdims=True) * rows
    return q * rows


def test_scan_loss_equals_the_formula(made):
    probabilities, _ = made
    got = scan_loss(*probabilities.log(), entropy_weight=5.0)
    np.testing.assert_allclose(got.numpy(), naive_scan(*probabilities.numpy(), 5.0), rtol=1e-12)


def test_pseudo_label_loss_equals_the_formula(made):
    probabilities, _ = made
    got = pseudo_label_loss(*probabilities.log())
    np.testing.assert_allclose(got.numpy(), naive_pseudo_label(*probabilities.numpy()), rtol=1e-12)


@pytest.mark.parametrize("shape", [(12, 5), (3, 7), (1, 4), (6, 1)])
def test_sinkhorn_equals_scaling_by_turns_also_with_fewer_rows_than_clusters(shape):
    logits = np.random.default_rng(0).normal(size=shape) * 3
    got = sinkhorn(torch.from_numpy(logits)[None])[0].exp().numpy()
    np.testing.assert_allclose(got, naive_sinkhorn(logits, 3), rtol=1e-10)


def test_sinkhorn_balances_clusters_and_survives_any_logit():
    logits = torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(0)) * 3 + torch.tensor(
        [9.0, 0, 0, -9]
    )
    totals = sinkhorn(logits, n_rounds=50).exp().sum(dim=1)
    torch.testing.assert_close(totals, torch.full((2, 4), 16.0), rtol=1e-3, atol=0)
    extreme = torch.tensor([[[1e6, -1e6, 0.0], [1e6, -1e6, 0.0]]])
    balanced = sinkhorn(extreme).exp()
    assert bool(torch.isfinite(balanced).all())
    torch.testing.assert_close(balanced.sum(dim=2), torch.ones(1, 2))


def test_half_cosine_rises_from_0_to_1():
    values = [half_cosine(share_done) for share_done in (-1.0, 0.0, 0.5, 1.0, 2.0)]
    assert values == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])


@pytest.mark.parametrize("loss", ["temi", "scan", "pseudo-label"])
def test_gradients_equal_finite_differences(made, loss):
    probabilities, marginal = made
    logits_a = probabilities[0].log().clone().requires_grad_()
    logits_b = probabilities[1].log().clone().requires_grad_()
    teachers = probabilities[2:].log()
    losses = {
        "temi": lambda *logs: temi_loss(*logs, marginal, pair_agreement(*teachers).mean(dim=0)),
        "scan": scan_loss,
        "pseudo-label": pseudo_label_loss,
    }

    def total(a, b):
        return losses[loss](torch.log_softmax(a, 2), torch.log_softmax(b, 2), *teachers).sum()

    assert torch.autograd.gradcheck(total, (logits_a, logits_b))


def test_what_a_head_says_of_a_pair_lies_between_0_and_1(made):
    probabilities, _ = made
    agreement = pair_agreement(*probabilities[2:].log())
    assert agreement.shape == (3, 5)
    assert bool(((agreement >= 0) & (agreement <= 1)).all())


@pytest.mark.parametrize("loss", ["temi", "scan", "pseudo-label"])
def test_losses_are_symmetric_in_the_pair(made, loss):
    probabilities, marginal = made
    student_a, student_b, teacher_a, teacher_b = probabilities.log()
    losses = {
        "temi": lambda *logs: temi_loss(*logs, marginal),
        "scan": scan_loss,
        "pseudo-label": pseudo_label_loss,
    }
    torch.testing.assert_close(
        losses[loss](student_a, student_b, teacher_a, teacher_b),
        losses[loss](student_b, student_a, teacher_b, teacher_a),
    )


@pytest.mark.parametrize("loss", ["temi", "scan", "pseudo-label"])
def test_losses_stay_finite_at_extreme_logits(loss):
    logits = torch.tensor([[[1e4, -1e4, 0.0]]]).requires_grad_()
    log_probabilities = torch.log_softmax(logits, dim=2)
    marginal = torch.tensor([[1.0 - 2e-30, 1e-30, 1e-30]])
    losses = {
        "temi": lambda *logs: temi_loss(*logs, marginal),
        "scan": scan_loss,
        "pseudo-label": pseudo_label_loss,
    }
    value = losses[loss](*[log_probabilities] * 2, *[log_probabilities.detach()] * 2)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(logits.grad).all()


def defined(logits, targets, temperature, beta, marginal, weights, label_weight, entropy_weight):
    a, b = torch.log_softmax(logits / temperature, 2).chunk(2, 1)
    for_a, for_b = targets.chunk(2, 1)  # what p(·|x) is held against is the teacher's on x'
    loss = temi_loss(a, b, for_b, for_a, marginal, weights, beta=beta)
    loss = loss + label_weight * pseudo_label_loss(a, b, for_b, for_a)
    alone = scan_loss(a, b, for_b, for_a, entropy_weight=0.0)
    return loss + scan_loss(a, b, for_b, for_a, entropy_weight=entropy_weight) - alone


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("beta", [0.6, 1.0])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("label_weight", "entropy_weight"), [(0.0, 0.0), (0.7, 0.0), (0.0, 5.0), (0.3, 2.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block", [2 << 20, 4 * H * K * 3])
def test_the_fused_loss_and_gradient_equal_the_equations(
    scale, beta, weighted, label_weight, entropy_weight, dtype, block, monkeypatch
):
    monkeypatch.setattr("kinfold.heads.objectives._BLOCK_BYTES", block)
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(H, 2 * B, K, generator=generator, dtype=torch.float64)
    targets = torch.log_softmax(scale * torch.randn(H, 2 * B, K, generator=generator).double(), 2)
    marginal = torch.rand(H, K, generator=generator).double() + 0.1 if beta < 1 else torch.ones(H, K).double()
    weights = torch.rand(B, generator=generator).double() if weighted else None
    upstream = torch.randn(H, generator=generator).double()
    leaf = logits.clone().requires_grad_()
    expected = defined(leaf, targets, 0.5, beta, marginal, weights, label_weight, entropy_weight)
    (expected_gradient,) = torch.autograd.grad(expected, leaf, upstream)
    loss, gradient = pair_loss_gradient(
        logits.to(dtype),
        targets.to(dtype),
        temperature=0.5,
        beta=beta,
        log_marginal=marginal.to(dtype).log() if beta < 1 else None,
        weights=weights if weights is None else weights.to(dtype),
        label_weight=label_weight,
        entropy_weight=entropy_weight,
    )
    gradient *= upstream.to(dtype).view(-1, 1, 1)
    tolerance = 1e-10 if dtype is torch.float64 else 2e-5
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_give_finite_numbers(size):
    logits = torch.zeros(1, 2 * B, K)
    logits[:, :, 0] = size
    targets = torch.log_softmax(-logits, 2)
    loss, gradient = pair_loss_gradient(
        logits, targets, temperature=0.1, beta=0.6, label_weight=1.0, entropy_weight=5.0
    )
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(gradient).all())


def made_logits(n_views=2, seed=0):
    return torch.randn(H, n_views * B, K, generator=torch.Generator().manual_seed(seed))


def test_marginal_takes_in_the_batch_before_it_is_used():
    objective = TemiObjective(H, K, temperature=1.0, momentum=0.9)
    student, teacher = made_logits(seed=0), made_logits(seed=1)
    every = slice(0, H)
    targets = objective.observe(teacher, B, every)
    probabilities = torch.softmax(teacher, dim=2)
    expected = 0.9 / K + 0.1 * probabilities.mean(dim=1)
    torch.testing.assert_close(objective.state()["marginal"], expected)
    log_student, log_teacher = torch.log_softmax(student, 2), probabilities.log()
    weights = pair_agreement(log_teacher[:, :B], log_teacher[:, B:]).mean(dim=0)
    torch.testing.assert_close(objective.agreement(targets).mean(dim=0), weights)
    torch.testing.assert_close(
        objective.loss_and_gradient(student, targets, weights, every, 0.0)[0],
        temi_loss(
            log_student[:, :B], log_student[:, B:], log_teacher[:, :B], log_teacher[:, B:], expected, weights
        ),
    )


def test_heads_seen_tile_by_tile_give_the_same_as_all_at_once():
    student, teacher = made_logits(seed=0), made_logits(seed=1)
    whole, tiled = (TemiObjective(H, K, balanced=True, cross_entropy_weight=1.0) for _ in range(2))
    expected_targets = whole.observe(teacher, B, slice(0, H))
    agreement = whole.agreement(expected_targets)
    weights = agreement.mean(dim=0)
    expected, gradient = whole.loss_and_gradient(student, expected_targets, weights, slice(0, H), 0.5)
    tiles = [slice(h, h + 1) for h in range(H)]
    targets = [tiled.observe(teacher[tile], B, tile) for tile in tiles]
    torch.testing.assert_close(torch.cat([tiled.agreement(part) for part in targets]), agreement)
    parts = [
        tiled.loss_and_gradient(student[tile], part, weights, tile, 0.5)
        for tile, part in zip(tiles, targets, strict=True)
    ]
    torch.testing.assert_close(torch.cat([loss for loss, _ in parts]), expected)
    torch.testing.assert_close(torch.cat([part for _, part in parts]), gradient)
    torch.testing.assert_close(tiled.marginal, whole.marginal)


def test_balanced_targets_are_sinkhorn_of_each_view():
    objective = TemiObjective(H, K, teacher_temperature=0.5, balanced=True)
    teacher = made_logits()
    targets = objective.observe(teacher, B, slice(0, H))
    torch.testing.assert_close(targets[:, :B], sinkhorn(teacher[:, B:] / 0.5))
    torch.testing.assert_close(targets[:, B:], sinkhorn(teacher[:, :B] / 0.5))


@pytest.mark.parametrize("n_views", [2, 6])
def test_jointly_balanced_targets_are_sinkhorn_of_all_views_together(n_views):
    objective = TemiObjective(H, K, teacher_temperature=0.5, balanced="joint")
    teacher = made_logits(n_views=n_views)
    targets = objective.observe(teacher.clone(), B, slice(0, H)).exp()
    for head in range(H):
        q = naive_sinkhorn(teacher[head].double().numpy() / 0.5, 3).reshape(n_views, B, K)
        for of, views in (
            (slice(0, B), [1, *range(2, n_views, 2)]),
            (slice(B, None), [0, *range(3, n_views, 2)]),
        ):
            np.testing.assert_allclose(targets[head, of], q[views].mean(axis=0), rtol=1e-4, atol=1e-6)


def test_smoothed_targets_are_the_mean_over_neighbours():
    objective = TemiObjective(H, K, temperature=1.0)
    teacher = made_logits(n_views=6)
    q = torch.softmax(teacher, dim=2).split(B, dim=1)
    targets = objective.observe(teacher, B, slice(0, H)).exp()
    torch.testing.assert_close(targets[:, :B], (q[1] + q[2] + q[4]) / 3)
    torch.testing.assert_close(targets[:, B:], (q[0] + q[3] + q[5]) / 3)


def test_the_cross_entropy_comes_in_with_progress():
    objective = TemiObjective(H, K, cross_entropy_weight=2.0)
    student = made_logits(seed=0)
    targets = objective.observe(made_logits(seed=1), B, slice(0, H))
    start, middle, end = (
        objective.loss_and_gradient(student, targets, None, slice(0, H), p)[0] for p in (0.0, 0.5, 1.0)
    )
    torch.testing.assert_close(middle - start, (end - start) / 2)
    assert bool((end > start).all())


def test_scan_objective_is_its_loss_at_its_temperature():
    objective = ScanObjective(entropy_weight=3.0, temperature=0.5)
    student, teacher = made_logits(seed=0), made_logits(seed=1)
    targets = objective.observe(teacher, B, slice(0, H))
    a, b = torch.log_softmax(student / 0.5, 2).chunk(2, 1)
    q_a, q_b = torch.log_softmax(teacher / 0.5, 2).chunk(2, 1)
    torch.testing.assert_close(
        objective.loss_and_gradient(student, targets, None, slice(0, H), 0.0)[0],
        scan_loss(a, b, q_a, q_b, entropy_weight=3.0),
    )
    assert not objective.weighted
