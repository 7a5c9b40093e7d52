"""The hand-written passes through a tile against autograd, and the tiles themselves."""

import pytest
import torch

from kinfold.heads import MultiHeadNetwork
from kinfold.heads._tiles import Scratch, TilePass, tile_heads
from kinfold.heads.network import HeadWeights, head_logits

CPU = torch.device("cpu")
H, D, K, B = 5, 12, 6, 8


def made_network(n_clusters=K):
    generator = torch.Generator().manual_seed(3)
    network = MultiHeadNetwork(D, n_clusters, H, generator=generator)
    with torch.no_grad():
        network.gain.uniform_(0.5, 2, generator=generator)
        network.bias1.uniform_(-1, 1, generator=generator)
        network.bias2.uniform_(-1, 1, generator=generator)
    return network


@pytest.mark.parametrize("tile", [slice(0, H), slice(1, 2), slice(2, 5)])
def test_passes_equal_autograd_of_the_formula(tile):
    x = torch.randn(2 * B, D, generator=torch.Generator().manual_seed(0))
    exact = made_network().double()
    weights = HeadWeights(*(w.detach().requires_grad_() for w in exact.weights(tile)))
    expected = head_logits(x.double(), weights)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected_gradients = torch.autograd.grad(expected, list(weights), upstream.double())
    with torch.no_grad():
        one = TilePass(x, made_network().weights(tile), Scratch(CPU))
        torch.testing.assert_close(one.forward().double(), expected, atol=1e-5, rtol=1e-5)
        gradients = one.backward(upstream, frozen=False)
        for name, ours, theirs in zip(HeadWeights._fields, gradients, expected_gradients, strict=True):
            torch.testing.assert_close(ours.double(), theirs, atol=2e-5, rtol=1e-4, msg=name)
        torch.testing.assert_close(one.teach().double(), expected, atol=1e-5, rtol=1e-5)


def test_a_code_of_length_zero_gives_finite_gradients():
    network = MultiHeadNetwork(D, K, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one = TilePass(torch.zeros(4, D), network.weights(), Scratch(CPU))
        assert not one.forward().any()
        gradients = one.backward(torch.ones(1, 4, K), frozen=False)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_tiles_cover_all_heads_in_order_and_depend_on_shapes_alone():
    for n_heads, n_rows, n_clusters in [(1, 8, 2), (16, 2048, 10), (50, 256, 10), (32, 1024, 10_450)]:
        for device in (CPU, torch.device("cuda"), torch.device("meta")):
            tiles = tile_heads(n_heads, n_rows, n_clusters, device)
            assert [h for tile in tiles for h in range(tile.start, tile.stop)] == list(range(n_heads))
            assert max(t.stop - t.start for t in tiles) - min(t.stop - t.start for t in tiles) <= 1
    assert len(tile_heads(32, 1024, 10_450, CPU)) == 32
    assert len(tile_heads(50, 2048, 1000, torch.device("cuda"))) == 1


def test_scratch_is_used_again():
    scratch = Scratch(CPU)
    large = scratch.take("a", (4, 5), torch.float32)
    assert scratch.take("a", (2, 3), torch.float32).data_ptr() == large.data_ptr()
    assert scratch.take("a", (2, 3), torch.bfloat16).data_ptr() != large.data_ptr()
    assert scratch.cast("b", large, torch.float32) is large
