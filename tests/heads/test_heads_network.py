import numpy as np
import pytest
import torch
from scipy.special import erf

from kinfold.heads import MultiHeadNetwork


def naive_logits(network, x, head):
    """One head from its formula, in float64."""
    state = {name: value.double().numpy() for name, value in network.head_tensors(head).items()}
    x = (x - state["norm.mean"]) * state["norm.scale"]
    hidden = x @ state["weight1"].T + state["bias1"]
    hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    code = hidden @ state["weight2"][0] + state["bias2"][0]
    code /= np.linalg.norm(code, axis=1, keepdims=True)
    direction = state["direction"][0] / np.linalg.norm(state["direction"][0], axis=1, keepdims=True)
    return code @ (state["gain"][0] * direction).T


@pytest.fixture
def network():
    made = MultiHeadNetwork(20, 7, 3, generator=torch.Generator().manual_seed(0))
    made.norm.set(torch.randn(20), torch.rand(20) + 0.5)
    with torch.no_grad():
        made.gain.uniform_(0.5, 2)
        made.bias1.uniform_(-1, 1)
        made.bias2.uniform_(-1, 1)
    return made


def test_heads_equal_the_formula_of_one_head(network):
    x = np.random.default_rng(0).normal(size=(9, 20))
    logits = network(torch.from_numpy(x).float()).detach().numpy()
    assert logits.shape == (3, 9, 7)
    for head in range(3):
        np.testing.assert_allclose(logits[head], naive_logits(network, x, head), atol=2e-5)


def test_one_head_cut_out_gives_the_same_logits(network):
    x = torch.randn(5, 20)
    alone = MultiHeadNetwork(20, 7, 1, generator=torch.Generator())
    alone.load_state_dict(network.head_tensors(2))
    torch.testing.assert_close(alone(x)[0], network(x)[2])


def test_initial_weights_follow_the_specification():
    network = MultiHeadNetwork(300, 50, 4, generator=torch.Generator().manual_seed(1))
    for weight in (network.weight1, network.weight2):
        assert float(weight.detach().abs().max()) <= 0.04
        assert float(weight.detach().std()) == pytest.approx(0.02 * 0.8796, rel=0.02)  # truncated at 2 sigma
    assert float(network.direction.detach().abs().max()) <= 1 / 16
    assert float(network.direction.detach().std()) == pytest.approx(1 / 16 / np.sqrt(3), rel=0.02)
    assert bool((network.gain == 1).all())
    assert not network.bias1.any()
    assert not network.bias2.any()


def test_heads_start_different_and_seeds_repeat():
    first, again = (MultiHeadNetwork(8, 3, 2, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    torch.testing.assert_close(first.state_dict(), again.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.direction[0], first.direction[1])


def test_global_random_state_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    MultiHeadNetwork(8, 3, 2, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.rand(1), expected)


def test_constant_columns_are_only_centred(network):
    deviation = torch.ones(20)
    deviation[3] = 0
    network.norm.set(torch.zeros(20), deviation)
    assert bool(torch.isfinite(network(torch.randn(4, 20))).all())
    assert float(network.norm.scale[3]) == 1.0
