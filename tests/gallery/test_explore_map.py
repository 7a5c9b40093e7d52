from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinfold.errors import FormatError, InputError, MissingExtraError
from kinfold.features import open_features
from kinfold.gallery.explore import _map_job
from kinfold.gallery.explore._map import (
    MAP_NAME,
    choose_n_epochs,
    compute_map,
    import_umap,
    lay_out,
    nearest_lists,
    read_map,
    start_positions,
)
from kinfold.gallery.explore._map_job import MapJob
from kinfold.gallery.explore._routes_images import narrow
from kinfold.gallery.explore._vectors import find_graph
from kinfold.neighbors import NeighborGraph, knn_graph
from kinfold.run import Run, read_manifest, write_manifest

pytest.importorskip("umap", reason="umap-learn isn't installed")

SUPPORT = Path(__file__).parent.parent / "support"


def digits(n: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.data[:n].astype(np.float32), data.target[:n]


def graph_of(lists: list[list[int]]) -> NeighborGraph:
    indptr = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    indices = np.array([k for one in lists for k in one], np.int32)
    similarities = (
        np.concatenate([1 - 0.1 * np.arange(1, len(one) + 1) for one in lists]) if len(indices) else []
    )
    return NeighborGraph.from_lists(indptr, indices, np.array(similarities, np.float32))


@pytest.fixture
def mapped_run(make_run, tmp_path):
    """Make a run of given features."""

    def make(X: np.ndarray, *, name: str = "run", **sections) -> Run:
        path = tmp_path / f"{name}.npy"
        np.save(path, X)
        features = open_features(path)
        recorded = {
            "path": str(path),
            "column": None,
            "variant": "cls",
            "fingerprint": features.fingerprint("cls"),
        }
        return make_run(n=len(X), k=min(3, len(X)), name=name, features=recorded, **sections)

    return make


@pytest.fixture(scope="module")
def layout():
    """Lay out 700 digits once."""
    X, labels = digits(700)
    graph = knn_graph(X, 15)
    start = start_positions(X, random_state=3)
    return X, labels, graph, start, lay_out(graph, start, random_state=3)


def test_neighbours_stay_neighbours(layout):
    from sklearn.manifold import trustworthiness

    X, _, _, start, points = layout
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    assert trustworthiness(X, points, n_neighbors=10) > 0.96
    assert trustworthiness(X, start, n_neighbors=10) < 0.9  # the start alone isn't enough: the test can fail


def test_digits_of_one_kind_lie_together(layout):
    _, labels, _, _, points = layout
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    nearest = np.argsort(distances, axis=1)[:, 1:6]
    assert (labels[nearest] == labels[:, None]).mean() > 0.93


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(layout):
    _, _, graph, start, points = layout
    again = lay_out(graph, start, random_state=3)
    other = lay_out(graph, start, random_state=4, n_epochs=30)
    assert again.tobytes() == points.tobytes()
    assert not np.allclose(other, lay_out(graph, start, random_state=3, n_epochs=30))


def test_progress_of_epochs_is_told(layout):
    _, _, graph, start, _ = layout
    told: list[int] = []
    lay_out(graph, start, n_epochs=40, on_epoch=told.append)
    assert told
    assert told == sorted(told)
    assert told[-1] <= 40


def test_lists_keep_the_nearest_of_each_row_and_say_where_there_are_fewer():
    graph = graph_of([[1, 2, 3], [0], [], [2, 0]])
    indices, distances = nearest_lists(graph, 2)
    assert indices.tolist() == [[0, 1, 2], [1, 0, -1], [2, -1, -1], [3, 2, 0]]
    np.testing.assert_allclose(distances, [[0, 0.1, 0.2], [0, 0.1, 0.1], [0, 0, 0], [0, 0.1, 0.2]], atol=1e-6)


def test_a_graph_of_uneven_degrees_is_laid_out_like_one_of_even_ones():
    X, labels = digits(300)
    adaptive = knn_graph(X, 4, threshold=0.9, max_neighbors=60)
    assert adaptive.degrees.min() < 15 < adaptive.degrees.max()
    points = lay_out(adaptive, start_positions(X), n_epochs=200)
    nearest = np.argsort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)[:, 1:4]
    assert np.isfinite(points).all()
    assert (labels[nearest] == labels[:, None]).mean() > 0.85


def test_images_without_neighbours_lie_below_all_others():
    X, _ = digits(120)
    X[[7, 50, 51]] = 0
    graph = knn_graph(X, 10, zero_rows="isolate")
    points = lay_out(graph, start_positions(X), n_epochs=50)
    alone = np.zeros(len(X), bool)
    alone[[7, 50, 51]] = True
    assert np.isfinite(points).all()
    assert points[alone, 1].max() < points[~alone, 1].min()
    assert len(np.unique(points[alone], axis=0)) == 3


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_handful_of_images_has_a_map(mapped_run, n):
    X = np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32)
    run = mapped_run(X)
    compute_map(run, n_epochs=20)
    found = read_map(run, n_epochs=20)
    assert found.points.shape == (n, 2)
    assert np.isfinite(found.points).all()
    assert len(np.unique(found.points, axis=0)) == n


def test_equal_features_have_a_map(mapped_run):
    run = mapped_run(np.ones((40, 3), np.float32))
    compute_map(run, n_epochs=20)
    points = read_map(run, n_epochs=20).points
    assert np.isfinite(points).all()
    assert len(np.unique(points, axis=0)) == 40


def test_features_of_one_column_have_a_map(mapped_run):
    run = mapped_run(np.array([[1], [-1]] * 5, np.float32))
    compute_map(run, n_epochs=20)
    assert np.isfinite(read_map(run, n_epochs=20).points).all()


def test_points_are_those_of_their_rows(mapped_run, tmp_path):
    """Two far groups in an order of their own: each point lies with its own kind."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 80)
    X = rng.normal(scale=0.05, size=(80, 6))
    X[:, 0] += np.where(kind, 1, -1)
    run = mapped_run(X.astype(np.float32))
    compute_map(run)
    found = read_map(run)
    assert found.rows.tolist() == run.assignments["row"].to_pylist()
    distances = np.linalg.norm(found.points[:, None] - found.points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (kind[distances.argmin(1)] == kind).all()
    left, low, right, high = found.bounds
    assert (found.points >= [left, low]).all()
    assert (found.points <= [right, high]).all()


def test_a_map_is_made_once_and_again_when_the_features_are_others(mapped_run):
    X = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    run = mapped_run(X)
    path = compute_map(run, n_epochs=20)
    first = path.stat().st_mtime_ns
    compute_map(run, n_epochs=20)
    assert path.stat().st_mtime_ns == first
    np.save(Path(run.manifest["features"]["path"]), X[::-1])
    manifest = read_manifest(run.path)
    manifest["features"]["fingerprint"] = open_features(manifest["features"]["path"]).fingerprint("cls")
    write_manifest(run.path, manifest)
    changed = Run.open(run.path)
    assert read_map(changed, n_epochs=20) is None
    compute_map(changed, n_epochs=20)
    assert read_map(changed, n_epochs=20) is not None
    assert path.stat().st_mtime_ns != first


@pytest.mark.parametrize("damage", ["text", "cut", "rows", "infinite", "header"])
def test_a_damaged_map_is_told_and_laid_out_again(mapped_run, damage):
    run = mapped_run(np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32))
    path = compute_map(run, n_epochs=20)
    whole = path.read_bytes()
    table = pq.read_table(path)
    if damage == "text":
        path.write_text("not a map")
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "rows":
        pq.write_table(table.set_column(0, table.schema.field(0), pa.array(range(5, 17), pa.int64())), path)
    elif damage == "infinite":
        pq.write_table(
            table.set_column(1, table.schema.field(1), pa.array([np.inf] * 12, pa.float32())), path
        )
    else:
        pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(FormatError, match=MAP_NAME):
        read_map(run, n_epochs=20)
    job = MapJob(run)
    assert job.map is None
    compute_map(run, n_epochs=20)
    assert path.read_bytes() == whole


def test_a_map_of_a_newer_format_is_refused(mapped_run):
    run = mapped_run(np.eye(4, dtype=np.float32))
    path = compute_map(run, n_epochs=20)
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[b"kinfold-map"]) | {"format_version": 99}
    pq.write_table(table.replace_schema_metadata({"kinfold-map": json.dumps(facts)}), path)
    with pytest.raises(FormatError, match="newer Kinfold"):
        read_map(run, n_epochs=20)


def test_the_runs_own_graph_is_found_and_used(mapped_run):
    X = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    graph = knn_graph(X, 7)
    run = mapped_run(X, neighbors=graph.describe())
    assert find_graph(run) is None
    (run.path / "neighbors" / "cls-broken").mkdir(parents=True)
    (run.path / "neighbors" / "cls-broken" / "graph.json").write_text("{")
    knn_graph(X, 9).save(run.path / "neighbors" / "cls-0000other")
    graph.save(run.path / "neighbors" / "cls-1111own")
    assert find_graph(run).fingerprint() == graph.fingerprint()
    compute_map(run, n_epochs=20)
    assert read_map(run, n_epochs=20).facts["graph_of"] == "run"


def test_one_of_several_graphs_is_found(mapped_run):
    X = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    graphs = {"temi": knn_graph(X, 5), "icce": knn_graph(X, 8)}
    run = mapped_run(X, neighbors={name: graph.describe() for name, graph in graphs.items()})
    graphs["icce"].save(run.path / "neighbors" / "cls-icce")
    assert find_graph(run).fingerprint() == graphs["icce"].fingerprint()


def test_other_features_are_refused(mapped_run, tmp_path):
    run = mapped_run(np.eye(6, dtype=np.float32))
    np.save(tmp_path / "other.npy", np.eye(6, dtype=np.float32)[::-1])
    with pytest.raises(InputError, match="aren't those"):
        compute_map(run, features=tmp_path / "other.npy")


def test_without_umap_the_map_says_what_to_install(mapped_run, monkeypatch):
    run = mapped_run(np.eye(6, dtype=np.float32))
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kinfold\[map\]'"):
        compute_map(run)
    job = MapJob(run)
    assert job.state.state == "unavailable"
    assert "pip install 'kinfold[map]'" in job.state.text
    assert job.start().state == "unavailable"


def test_fewer_epochs_for_more_images():
    epochs = [choose_n_epochs(n) for n in (10, 10_000, 50_000, 100_000, 400_000, 1_000_000, 10_000_000)]
    assert epochs == [500, 500, 200, 200, 100, 100, 100]


def test_row_numbers_are_sent_as_narrow_as_they_fit():
    assert narrow(np.array([0, 2**31 - 1])).dtype == np.int32
    assert narrow(np.array([0, 2**31])).dtype == np.int64


def wait_for(job: MapJob, *states: str) -> str:
    """Wait until the job stands otherwise than before; the test's own time limit ends what never does."""
    while job.state.state not in states:
        time.sleep(0.02)
    return job.state.state


def test_a_map_is_made_by_a_process_of_its_own(mapped_run):
    run = mapped_run(np.eye(3, dtype=np.float32))
    job = MapJob(run)
    assert job.state.state == "none"
    assert job.start().state == "running"
    assert wait_for(job, "ready", "none") == "ready", job.state.text
    assert job.map.rows.tolist() == [0, 1, 2]
    assert MapJob(Run.open(run.path)).state.state == "ready"


@pytest.fixture
def slow_worker(monkeypatch):
    monkeypatch.setattr(_map_job, "WORKER", "slow_map_worker")
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))


def test_the_process_ends_with_the_server(mapped_run, slow_worker):
    run = mapped_run(np.eye(6, dtype=np.float32))
    job = MapJob(run)
    job.start()
    process = job._process
    while job.state.progress != 0.25:
        time.sleep(0.02)
    assert job.state.state == "running"
    assert "Laying" in job.state.text
    assert job.start().state == "running"
    assert job._process is process  # one at a time
    job.stop()
    assert process.poll() is not None
    assert job.state.state == "none"
    assert not (run.path / MAP_NAME).exists()


@pytest.mark.parametrize(("how", "words"), [("die", "ended early"), ("say", "no space left")])
def test_a_failure_is_told_and_can_be_tried_again(mapped_run, slow_worker, monkeypatch, how, words):
    monkeypatch.setenv("SLOW_MAP_FAILS", how)
    job = MapJob(mapped_run(np.eye(6, dtype=np.float32)))
    job.start()
    assert wait_for(job, "none") == "none"
    assert words in job.state.text
    monkeypatch.delenv("SLOW_MAP_FAILS")
    assert job.start().state == "running"
    job.stop()


def test_a_worker_whose_server_is_gone_ends_and_leaves_nothing(mapped_run):
    run = mapped_run(np.eye(6, dtype=np.float32))
    process = subprocess.Popen([sys.executable, "-m", _map_job.WORKER], stdin=subprocess.PIPE, text=True)
    process.stdin.write(json.dumps({"run": str(run.path), "features": None}) + "\n")
    process.stdin.close()
    assert process.wait(timeout=60) == 1
    assert not (run.path / MAP_NAME).exists()


def test_a_run_for_reading_only_gets_no_map(mapped_run):
    job = MapJob(mapped_run(np.eye(6, dtype=np.float32)), writable=False)
    assert job.start().state == "unavailable"


FAKE_UMAP = """
import numba
if not numba.config.CACHE_DIR:
    raise RuntimeError("cannot cache function 'rdist': no locator available for file 'umap_.py'")
"""


@pytest.fixture
def umap_without_cache(tmp_path, monkeypatch):
    """A umap that compiles nothing, and raises as Numba does where no folder can be written to."""
    numba = pytest.importorskip("numba")
    package = tmp_path / "fake" / "umap"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "umap_.py").write_text(FAKE_UMAP)
    for name in [name for name in sys.modules if name.split(".")[0] == "umap"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    yield numba
    for name in [name for name in sys.modules if name.split(".")[0] == "umap"]:
        del sys.modules[name]


def test_without_a_home_compiled_code_is_kept_in_a_temporary_folder(umap_without_cache):
    found = import_umap()
    assert "fake" in found.__file__
    place = Path(umap_without_cache.config.CACHE_DIR)
    assert place.is_dir()
    assert place.parent == Path(tempfile.gettempdir())


def test_without_any_folder_for_compiled_code_the_variable_is_named(umap_without_cache, monkeypatch):
    def refuse(**options):
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(InputError, match="NUMBA_CACHE_DIR"):
        import_umap()


def test_another_error_of_the_import_is_not_hidden(umap_without_cache, tmp_path):
    (tmp_path / "fake" / "umap" / "umap_.py").write_text("raise RuntimeError('something else')")
    with pytest.raises(RuntimeError, match="something else"):
        import_umap()
