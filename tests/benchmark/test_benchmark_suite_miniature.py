"""A made ImageNet-21K in miniature: its real tree, benchmarks of it, and one suite over them."""

from __future__ import annotations

import numpy as np
import pytest

from kinfold.benchmark import LabelTable, build_benchmark, class_list, read_suite, run_suite
from kinfold.hierarchy import ClassTree

DIM, MOST = 32, 20
DEPTHS, WINDOWS = (2, 4), {"tiny": 5, "base": 25}
METHODS = "[methods.kmeans]\nparameters = { n_init = 1, max_iter = 10 }\n"


def made_rows(tree: ClassTree) -> tuple[list[str], list[str], np.ndarray]:
    """Return class and split of every row, sizes with a long tail, and vectors that follow the tree."""
    random = np.random.default_rng(0)
    centres = np.zeros((len(tree), DIM))
    main = tree.main_parents()
    for node in tree.topological_order:
        above = centres[main[node]] if main[node] >= 0 else 0
        centres[node] = above + random.normal(size=DIM)
    sizes = np.minimum(1 + random.pareto(1.0, len(tree)) * 2, MOST).astype(int)
    numbers = np.concatenate([np.repeat(np.arange(len(tree)), sizes), np.arange(len(tree))])
    splits = ["train"] * int(sizes.sum()) + ["val"] * len(tree)
    X = centres[numbers] + 0.3 * random.normal(size=(len(numbers), DIM))
    return [tree.ids[number] for number in numbers], splits, X.astype(np.float32)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_suite_runs_over_benchmarks_of_imagenet_21k_in_miniature(tmp_path):
    tree = ClassTree.from_wordnet(class_list("imagenet21k"))
    labels, splits, X = made_rows(tree)
    np.save(tmp_path / "made.npy", X)
    table = LabelTable.from_columns([str(row) for row in range(len(X))], labels, splits)
    text = f'name = "miniature"\nseeds = [0]\n[features.made]\npath = "made.npy"\n{METHODS}'
    built = {}
    for depth in DEPTHS:
        name = f"coarse-{depth}"
        built[name] = build_benchmark("imagenet21k-coarse", table, parameters={"depth": depth})
        text += f'[benchmarks.{name}]\nlabels = "{name}"\ndepth = {depth}\n'
    for name, window in WINDOWS.items():
        built[name] = build_benchmark(f"imagenet21k-{name}", table)
        text += f'[benchmarks.{name}]\nlabels = "{name}"\nwindow = {window}\n'
    for name, benchmark in built.items():
        benchmark.save(tmp_path / name)
    (tmp_path / "miniature.toml").write_text(text)
    found = run_suite(read_suite(tmp_path / "miniature.toml"), tmp_path / "out", threads=1)
    assert (found.n_done, found.n_failed, found.n_left) == (len(built), 0, 0)
    for row in found.summaries:
        assert row.n_clusters == built[row.benchmark].n_classes
        assert row.n_judged == built[row.benchmark].labels["split"].to_pylist().count("val")
        assert row.figures["acc"].mean > 10 / row.n_clusters  # far above chance
    assert [path.name for path in found.figures][:2] == ["depth", "window"]
