import numpy as np
import pytest
import torch

from kinfold.heads import PairSampler
from kinfold.neighbors import NeighborGraph

CPU = torch.device("cpu")


def made_graph(degrees, n_samples):
    random = np.random.default_rng(0)
    indices = [random.choice(n_samples, size=degree, replace=False) for degree in degrees]
    flat = np.concatenate(indices).astype(np.int32) if sum(degrees) else np.zeros(0, np.int32)
    indptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
    return NeighborGraph(indptr, flat, np.ones(len(flat), np.float32))


@pytest.fixture
def numbered():
    """Features whose single column is the row number, so that a batch tells who was drawn."""
    degrees = [3, 0, 5, 1] * 10
    return np.arange(40, dtype=np.float32)[:, None], made_graph(degrees, 40)


def drawn(sampler, epoch):
    batches = [batch[:, 0].long().numpy() for batch in sampler.epoch(epoch)]
    half = sampler.batch_size
    return np.concatenate([b[:half] for b in batches]), np.concatenate([b[half:] for b in batches])


def test_every_sample_is_visited_once_and_the_partial_batch_dropped(numbered):
    sampler = PairSampler(*numbered, batch_size=12, seed=0, device=CPU)
    anchors, _ = drawn(sampler, 0)
    assert sampler.steps_per_epoch == 3
    assert len(anchors) == len(set(anchors)) == 36


def test_partners_are_neighbors_and_the_lonely_are_their_own(numbered):
    X, graph = numbered
    sampler = PairSampler(X, graph, batch_size=8, seed=0, device=CPU)
    for epoch in range(20):
        for anchor, partner in zip(*drawn(sampler, epoch), strict=True):
            own = graph.indices[graph.indptr[anchor] : graph.indptr[anchor + 1]]
            assert partner in own if len(own) else partner == anchor


def test_partners_are_drawn_uniformly():
    graph = made_graph([4] + [1] * 9, 10)
    sampler = PairSampler(np.arange(10.0)[:, None], graph, batch_size=10, seed=0, device=CPU)
    counts = np.zeros(10)
    for epoch in range(2000):
        anchors, partners = drawn(sampler, epoch)
        counts[partners[anchors == 0][0]] += 1
    own = counts[graph.indices[:4]]
    assert own.sum() == 2000
    assert np.abs(own - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_an_epoch_depends_on_seed_and_number_alone(numbered):
    first = PairSampler(*numbered, batch_size=8, seed=4, device=CPU)
    expected = drawn(first, 7)
    again = PairSampler(*numbered, batch_size=8, seed=4, device=CPU)
    np.testing.assert_array_equal(drawn(again, 7), expected)
    assert not np.array_equal(drawn(again, 8), expected)
    other = PairSampler(*numbered, batch_size=8, seed=5, device=CPU)
    assert not np.array_equal(drawn(other, 7), expected)


def test_a_memory_map_gives_the_same_batches(numbered, tmp_path):
    X, graph = numbered
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = drawn(PairSampler(X, graph, batch_size=8, seed=4, device=CPU), 0)
    np.testing.assert_array_equal(
        drawn(PairSampler(mapped, graph, batch_size=8, seed=4, device=CPU), 0), expected
    )


def test_integers_arrive_as_floats(numbered):
    X, graph = numbered
    sampler = PairSampler(X.astype(np.uint8), graph, batch_size=8, seed=4, device=CPU)
    assert next(sampler.epoch(0)).dtype is torch.float32


def test_a_graph_without_edges_pairs_everyone_with_themselves():
    sampler = PairSampler(np.arange(5.0)[:, None], made_graph([0] * 5, 5), batch_size=5, seed=0, device=CPU)
    anchors, partners = drawn(sampler, 0)
    np.testing.assert_array_equal(anchors, partners)


def test_further_targets_are_neighbors_of_both_members(numbered):
    X, graph = numbered
    sampler = PairSampler(X, graph, batch_size=8, seed=4, device=CPU, n_targets=3)
    for batch in sampler.epoch(0):
        views = batch[:, 0].long().numpy().reshape(6, 8)
        for origin, further in ((views[0], views[[1, 2, 4]]), (views[1], views[[3, 5]])):
            for i, sample in enumerate(origin):
                own = graph.neighbors(sample)
                assert all(x in own if len(own) else x == sample for x in further[:, i])


def test_the_draws_stay_the_same_from_release_to_release(numbered):
    sampler = PairSampler(*numbered, batch_size=20, seed=4, device=CPU)
    anchors, partners = drawn(sampler, 0)
    assert anchors[:6].tolist() == [9, 24, 14, 27, 39, 5]
    assert partners[:6].tolist() == [9, 10, 17, 31, 19, 5]


def test_rows_that_must_be_read_come_in_order_and_failures_come_through(numbered):
    class Slow:
        shape, dtype = (40, 1), np.dtype(np.float32)
        n_reads = 0

        def __getitem__(self, rows):
            Slow.n_reads += 1
            if Slow.n_reads == 4:
                raise OSError("the disk is gone")
            return numbered[0][rows]

    sampler = PairSampler(Slow(), numbered[1], batch_size=8, seed=4, device=CPU)
    expected = PairSampler(*numbered, batch_size=8, seed=4, device=CPU).epoch(0)
    read = sampler.epoch(0)
    for _ in range(3):
        assert torch.equal(next(read), next(expected))
    with pytest.raises(OSError, match="disk is gone"):
        next(read)
