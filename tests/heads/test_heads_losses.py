import numpy as np
import pytest
import torch

from kinfold.heads import pair_agreement, pseudo_label_loss, scan_loss, sinkhorn, temi_loss
from kinfold.heads.losses import half_cosine


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
    values = [half_cosine(progress) for progress in (-1.0, 0.0, 0.5, 1.0, 2.0)]
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
