from __future__ import annotations

import numpy as np
import pytest

from kinfold import ICCE, TAC, TURTLE
from kinfold.errors import InputError
from kinfold.methods.protocol import Machine, Shape
from kinfold.pipeline import Estimate, StageEstimate, cluster, estimate
from kinfold.pipeline._estimate import check_disk


def test_every_stage_of_a_run_is_estimated(photos):
    found = estimate(photos, 3, backbone="pixels", n_workers=0)
    assert [stage.name for stage in found.stages] == ["embed", "neighbors", "fit", "assign"]
    assert found.seconds > 0
    assert found.memory_bytes > 100 << 20
    assert found.disk_bytes > 0
    assert found.as_dict()["seconds"] == found.seconds
    assert "GiB of memory" in str(found)


def test_estimating_writes_nothing(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    estimate(photos, 3, backbone="pixels", method="kmeans")
    assert sorted(tmp_path.rglob("*")) == before


def test_more_rows_take_more_of_everything(tmp_path):
    for n in (1000, 100_000):
        np.save(tmp_path / f"{n}.npy", np.ones((n, 16), np.float32))
    few, many = (estimate(tmp_path / f"{n}.npy", 3) for n in (1000, 100_000))
    assert many.seconds > few.seconds
    assert many.memory_bytes > few.memory_bytes
    assert many.disk_bytes > few.disk_bytes


def test_disk_use_is_foreseen_within_a_factor_of_two(photos, tmp_path):
    expected = []
    run = cluster(
        photos,
        3,
        out=tmp_path / "out",
        backbone="pixels",
        n_workers=0,
        method="kmeans",
        on_estimate=expected.append,
        report=False,
    )
    written = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    assert written / 2 < expected[0].disk_bytes < written * 2 + 100_000


def test_what_is_done_is_not_estimated_again(photos, tmp_path):
    seen: list[Estimate] = []
    for n_clusters in (3, 3, 4):
        cluster(
            photos,
            n_clusters,
            method="kmeans",
            out=tmp_path / "out",
            backbone="pixels",
            n_workers=0,
            on_estimate=seen.append,
            report=False,
        )
    assert [[stage.name for stage in found.stages] for found in seen] == [
        ["embed", "fit", "assign"],
        [],
        ["fit", "assign"],
    ]
    assert str(seen[1]) == "nothing is left to be done"


MACHINE = Machine(rate=1e10, bandwidth=1e10)


def seconds(method, n=100_000, dim=64):
    return method.cost(Shape(n, dim), MACHINE).seconds


def test_every_neighbour_of_a_smoothed_target_is_a_product_of_the_teacher():
    one, two, five = (
        seconds(ICCE(n_clusters=10, consensus=False, self_training=False, smoothing_neighbors=m))
        for m in (1, 2, 5)
    )
    assert two / one == pytest.approx(5 / 4)
    assert five / one == pytest.approx(8 / 4)


def test_every_share_of_the_heads_takes_a_consensus_but_the_best_head_alone():
    none, all_heads, best, both = (
        seconds(
            ICCE(
                n_clusters=10,
                consensus=bool(shares),
                consensus_shares=shares or (1.0,),
                graph_labelings=False,
            )
        )
        for shares in ((), (1.0,), (0.0,), (1.0, 0.5, 0.0))
    )
    assert none == best < all_heads < both
    assert both - none < 2 * (all_heads - none)


def test_labelings_of_the_graph_take_time_and_spare_heads():
    alone, joined = (seconds(ICCE(n_clusters=10, graph_labelings=joins)) for joins in (False, True))
    heads = {"n_clusters": 10, "n_heads": 8}
    few_alone, few_joined = (seconds(ICCE(**heads, graph_labelings=joins)) for joins in (False, True))
    assert few_alone < few_joined == joined < alone


@pytest.mark.parametrize("n_clusters", [10, 500, 2000])
def test_turtles_batches_are_those_of_its_plan(n_clusters):
    open_ = TURTLE(n_clusters=n_clusters)
    planned = open_._plan(100_000, (64,)).batch_size
    assert seconds(open_) == seconds(TURTLE(n_clusters=n_clusters, batch_size=planned))


def test_a_disk_that_is_too_small_is_told_before_the_work(tmp_path):
    huge = Estimate((StageEstimate("embed", 1.0, 1, 1 << 60),))
    with pytest.raises(InputError, match=r"GiB are free; make room"):
        check_disk(huge, tmp_path)


def test_unreadable_images_do_not_stop_the_estimate(photos):
    for file in photos.rglob("*.png"):
        file.write_bytes(b"")
    embed, *others = estimate(photos, 3, backbone="pixels", method="kmeans").stages
    assert (embed.name, [stage.name for stage in others]) == ("embed", ["fit", "assign"])
    assert 0 < embed.seconds < 60  # the time to find out that each is unreadable


@pytest.mark.parametrize("n_clusters", [91, 10_000])
def test_more_groups_than_rows_are_refused_as_cluster_does(features_file, n_clusters):
    with pytest.raises(InputError, match=f"n_clusters is {n_clusters}, but there are only 90 images"):
        estimate(features_file, n_clusters, method="kmeans")


@pytest.mark.parametrize("n", [1_000, 50_000])
def test_tac_with_training_is_expected_to_take_longer_and_more_centres_too(n):
    quick, plain, many = (
        seconds(TAC(n_clusters=10, **parameters), n, 512)
        for parameters in ({"train": False}, {}, {"n_centres": n // 2})
    )
    assert 0 < quick < plain < many
