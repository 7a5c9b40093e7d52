"""Claims about figures: drawn where there are data, right, and the same every time."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from kinfold.benchmark import _suite_figures as figures
from kinfold.benchmark import read_suite
from kinfold.benchmark._suite_figures import new_figure, put_legend
from kinfold.benchmark._suite_results import given_parameters
from kinfold.errors import MissingExtraError
from support.suites import made_facts

pytest.importorskip("matplotlib")


def make_lines(name="scaling", benchmarks=None, methods=None, seeds=(0, 1), ks=(10,), n_classes=10):
    """Return lines as a run of a shipped suite would leave them."""
    suite = read_suite(name)
    lines = []
    for benchmark in suite.benchmarks.values():
        if benchmarks is not None and benchmark.name not in benchmarks:
            continue
        for features in benchmark.features or suite.features:
            for place, method in enumerate(suite.methods.values()):
                if methods is not None and method.name not in methods:
                    continue
                for k in ks:
                    for seed in seeds:
                        lines.append(
                            {
                                "benchmark": benchmark.name,
                                "features": features,
                                "method": method.name,
                                "estimator": method.method,
                                "parameters": {} if method.method == "probe" else given_parameters(method),
                                "n_clusters": k,
                                "n_classes": n_classes,
                                "depth": benchmark.depth,
                                "window": benchmark.window,
                                "seed": seed,
                                **made_facts((seed - 5 * place) / 100),
                                **(
                                    {"space": {"silhouette": 0.1, "davies_bouldin": 2.0, "alignment": 0.6}}
                                    if method.method == "probe"
                                    else {}
                                ),
                            }
                        )
    return suite, lines


def test_only_figures_with_data_are_drawn():
    suite, lines = make_lines("digits", ["digits"], ["kmeans"])
    drawn = dict(figures.draw_figures(suite, lines))
    assert set(drawn) == {"calibration-digits-pixels", "confidence-digits-pixels"}
    assert dict(figures.draw_figures(suite, [])) == {}


def test_depth_and_window_show_every_place_and_the_published_figures():
    suite, lines = make_lines(methods=["kmeans", "temi"])
    drawn = dict(figures.draw_figures(suite, lines))
    for name, n_places in (("depth", 9), ("window", 6)):
        axes = drawn[name].axes[0]
        assert len(axes.get_xticks()) == n_places
        labels = axes.get_legend_handles_labels()[1]
        assert {"k-means", "k-means, published", "TEMI", "TEMI, published"} <= set(labels)
    published = [line for line in drawn["depth"].axes[0].lines if line.get_label() == "k-means, published"]
    assert published[0].get_ydata()[0] == 19.44


def test_accuracies_are_means_over_seeds_in_percent():
    suite, lines = make_lines(methods=["kmeans"])
    axes = figures.draw_window(suite, lines).axes[0]
    assert np.allclose(axes.lines[0].get_ydata(), 80.5)


def test_batch_sizes_come_from_presets_too():
    suite, lines = make_lines(methods=["scan-1k", "scan-1k-512"], benchmarks=["imagenet1k"])
    axes = figures.draw_batch_size(suite, lines).axes[0]
    assert list(axes.lines[0].get_xdata()) == [512, 4096]


def test_other_numbers_of_clusters_are_shown_in_both_conventions():
    suite, lines = make_lines("digits", ["digits-wrong-k"], ["kmeans"], ks=(8, 10, 20))
    axes = figures.draw_clusters(suite, lines).axes[0]
    assert axes.get_xticks().tolist() == [8, 10, 20]
    assert axes.get_legend_handles_labels()[1] == ["k-means", "k-means, majority", "number of classes"]
    assert figures.draw_clusters(suite, [line for line in lines if line["n_clusters"] == 10]) is None


def test_probes_are_shown_against_every_measure_of_separability():
    suite, lines = make_lines(methods=["probe"], benchmarks=["clip-1k", "dinov2-1k", "sup-1k"])
    drawn = figures.draw_separability(suite, lines)
    assert [axes.get_xlabel() for axes in drawn.axes] == ["alignment", "Davies–Bouldin index", "silhouette"]
    assert all(len(axes.lines) == 3 for axes in drawn.axes)


def test_backbones_stand_side_by_side():
    suite, lines = make_lines(methods=["kmeans"], benchmarks=["imagenet1k"])
    lines += [{**line, "features": "imagenet1k-ibot"} for line in lines]
    axes = figures.draw_features(suite, lines).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["MAE-Refined ViT-H/14", "iBOT ViT-L/16"]


def test_calibration_pools_the_predictions_of_all_seeds_and_leaves_out_bins_of_few():
    suite, lines = make_lines("digits", ["digits"], ["kmeans"])
    lines[1] = {
        **lines[1],
        "calibration": {**lines[1]["calibration"], "accuracies": [None, 1.0, 0.75, 0.7, 0.9]},
    }
    axes = figures.draw_calibration(suite, lines).axes[0]
    curve = next(line for line in axes.lines if line.get_label().startswith("k-means"))
    assert np.allclose(curve.get_ydata(), [0.5, 0.7, 0.9])
    assert "ECE 10.0 %" in curve.get_label()


def test_the_same_lines_give_the_same_bytes(tmp_path):
    suite, lines = make_lines("digits", ["digits"], ["kmeans", "temi"])
    for name in ("a", "b"):
        figures.write_figures(tmp_path / name, suite, lines)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 4
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"kinfold\[figures\]"):
        figures.need_matplotlib()


@pytest.mark.parametrize("panels", [0, 1, 3])
def test_no_title_runs_into_the_legend(panels):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure, axes = new_figure("A title of many words that " * 4, panels=panels)
    first = axes[0] if panels else axes
    first.plot([0, 1], [0, 1], label="a method with a name")
    put_legend(figure, first)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    titles = [figure._suptitle] if panels else [first.title, first._left_title]
    right = max(one.get_window_extent(renderer).x1 for one in titles)
    assert right <= figure.legends[0].get_window_extent(renderer).x0
