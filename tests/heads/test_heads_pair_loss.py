"""The loss with its hand-written gradient against autograd of the definitions, in float64."""

import pytest
import torch

from kinfold.heads import pseudo_label_loss, scan_loss, temi_loss
from kinfold.heads._pair_loss import pair_loss

H, B, K = 3, 5, 4


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
def test_loss_and_gradient_equal_the_definitions(
    scale, beta, weighted, label_weight, entropy_weight, dtype, block, monkeypatch
):
    monkeypatch.setattr("kinfold.heads._pair_loss._BLOCK_BYTES", block)
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(H, 2 * B, K, generator=generator, dtype=torch.float64)
    targets = torch.log_softmax(scale * torch.randn(H, 2 * B, K, generator=generator).double(), 2)
    marginal = torch.rand(H, K, generator=generator).double() + 0.1 if beta < 1 else torch.ones(H, K).double()
    weights = torch.rand(B, generator=generator).double() if weighted else None
    upstream = torch.randn(H, generator=generator).double()
    leaf = logits.clone().requires_grad_()
    expected = defined(leaf, targets, 0.5, beta, marginal, weights, label_weight, entropy_weight)
    (expected_gradient,) = torch.autograd.grad(expected, leaf, upstream)
    ours = logits.to(dtype).requires_grad_()
    loss = pair_loss(
        ours,
        targets.to(dtype),
        temperature=0.5,
        beta=beta,
        log_marginal=marginal.to(dtype).log() if beta < 1 else None,
        weights=weights if weights is None else weights.to(dtype),
        label_weight=label_weight,
        entropy_weight=entropy_weight,
    )
    (gradient,) = torch.autograd.grad(loss, ours, upstream.to(dtype))
    tolerance = 1e-10 if dtype is torch.float64 else 2e-5
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_give_finite_numbers(size):
    logits = torch.zeros(1, 2 * B, K)
    logits[:, :, 0] = size
    logits.requires_grad_()
    targets = torch.log_softmax(-logits.detach(), 2)
    loss = pair_loss(logits, targets, temperature=0.1, beta=0.6, label_weight=1.0, entropy_weight=5.0)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(gradient).all())


def test_the_gradient_is_given_once():
    logits = torch.randn(1, 2 * B, K).requires_grad_()
    loss = pair_loss(logits, torch.log_softmax(torch.randn(1, 2 * B, K), 2), temperature=0.1).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="taken before"):
        loss.backward()
