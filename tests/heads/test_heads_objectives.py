import numpy as np
import pytest
import torch

from kinfold.heads import TemiObjective, temi_loss, temi_weights


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
    got = temi_loss(*probabilities.log(), marginal, beta=beta, weighted=weighted)
    expected = naive_temi(*probabilities.numpy(), marginal.numpy(), beta, weighted)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


def test_temi_gradient_equals_finite_differences(made):
    probabilities, marginal = made
    logits_a = probabilities[0].log().clone().requires_grad_()
    logits_b = probabilities[1].log().clone().requires_grad_()

    def loss(a, b):
        return temi_loss(
            torch.log_softmax(a, 2), torch.log_softmax(b, 2), *probabilities[2:].log(), marginal
        ).sum()

    assert torch.autograd.gradcheck(loss, (logits_a, logits_b))


def test_teacher_weights_carry_no_gradient_and_lie_between_0_and_1(made):
    probabilities, _ = made
    weights = temi_weights(probabilities[0].log(), probabilities[1].log())
    assert weights.shape == (5,)
    assert bool(((weights >= 0) & (weights <= 1)).all())


def test_temi_loss_is_symmetric_in_the_pair(made):
    probabilities, marginal = made
    student_a, student_b, teacher_a, teacher_b = probabilities.log()
    torch.testing.assert_close(
        temi_loss(student_a, student_b, teacher_a, teacher_b, marginal),
        temi_loss(student_b, student_a, teacher_b, teacher_a, marginal),
    )


def test_temi_loss_stays_finite_at_extreme_logits():
    logits = torch.tensor([[[1e4, -1e4, 0.0]]]).requires_grad_()
    log_probabilities = torch.log_softmax(logits, dim=2)
    marginal = torch.tensor([[1.0 - 2e-30, 1e-30, 1e-30]])
    loss = temi_loss(*[log_probabilities] * 2, *[log_probabilities.detach()] * 2, marginal)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()


def test_marginal_takes_in_the_batch_before_it_is_used():
    objective = TemiObjective(2, 3, temperature=1.0, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 8, 3, generator=generator)
    loss = objective(student, teacher)
    probabilities = torch.softmax(teacher, dim=2)
    expected = 0.9 / 3 + 0.1 * probabilities.mean(dim=1)
    torch.testing.assert_close(objective.state()["marginal"], expected)
    log_student, log_teacher = torch.log_softmax(student, 2), probabilities.log()
    torch.testing.assert_close(
        loss,
        temi_loss(log_student[:, :4], log_student[:, 4:], log_teacher[:, :4], log_teacher[:, 4:], expected),
    )
