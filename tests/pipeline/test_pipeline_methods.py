"""What every method's fit leaves in a run: criteria, tables, graphs, presets."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from kinfold.errors import InputError
from kinfold.gallery._text import collect_facts
from kinfold.methods import METHODS, Criteria, assess, get_method, load_model, preset_parameters
from kinfold.neighbors import NeighborGraph, knn_graph
from kinfold.pipeline import cluster, estimate
from kinfold.pipeline._method import prepare_method
from kinfold.run import Run
from support import text_models

HEADS = {"n_heads": 3, "n_epochs": 4}
QUICK = {
    "auto": {"candidates": ["kmeans", "temi"], "parameters": {"temi": HEADS}},
    "graph": {"restarts": [0.1]},
    "icce": {**HEADS, "self_training_iterations": 20},
    "kmeans": {},
    "scan": HEADS,
    "tac": {"n_epochs": 4},
    "temi": HEADS,
    "turtle": {"n_steps": 10},
}


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Return what a method needs besides features: for TAC, nouns and a text tower in their space."""
    monkeypatch.setenv("KINFOLD_CACHE", str(tmp_path / "cache"))

    def find(method):
        if method != "tac":
            return {}
        text_models.make_clip(tmp_path / "clip", dim=8)
        return {"text_model": tmp_path / "clip", "nouns": [f"noun {number}" for number in range(20)]}

    return find


def group(features_file, out, method, **more) -> Run:
    options = {"method_parameters": QUICK[method], "random_state": 2, "report": False}
    return cluster(features_file, 3, method=method, out=out, **(options | more))


def prepare(name, *, n_neighbors=None, parameters=None, preset=None):
    return prepare_method(name, 3, 0, "cpu", "float32", n_neighbors, parameters, preset)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_fit_is_judged_without_labels(features_file, tmp_path, method, words):
    run = group(features_file, tmp_path / "out", method, **words(method))
    found = Criteria(**run.manifest["criteria"])
    assert found.n_clusters == 3
    assert found.live_clusters == len(set(run.labels.tolist()))
    assert -1 <= found.neighbor_agreement <= 1
    fitted = run.manifest["fit"].get("chosen", method)
    assert (fitted in ("icce", "scan", "temi")) == (found.head_nmi is not None)
    titles = [facts.title for facts in collect_facts(run.manifest)]
    assert "Without labels" in titles


def test_the_criteria_are_those_of_the_library(features_file, tmp_path):
    run = group(features_file, tmp_path / "out", "temi")
    X = np.load(features_file)
    model = get_method("temi")(n_clusters=3, random_state=2, **HEADS)
    graph = knn_graph(X, **model.needs(len(X)).graphs[model.name], zero_rows="isolate")
    expected = assess(model.fit(X, graph=graph), X, graph=graph, seed=2)
    assert Criteria(**run.manifest["criteria"]) == expected


def test_icce_is_the_default_and_tells_what_its_choices_were_made_by(features_file, tmp_path):
    run = cluster(features_file, 3, out=tmp_path / "out", method_parameters=QUICK["icce"], report=False)
    assert run.manifest["parameters"]["method"] == "icce"
    fit = run.manifest["fit"]
    assert {entry["name"] for entry in fit["candidates"]} >= {"best head", "mcla", "alignment"}
    told = [entry for entry in fit["candidates"] if entry["mean_nmi"] is not None]
    assert max(told, key=lambda entry: entry["mean_nmi"])["name"] == fit["consensus"]
    assert all(set(entry) == {"learning_rate", "dims", "agreement"} for entry in fit["self_training"])
    assert len(fit["self_training"]) == 5
    assert fit["n_rounds"] <= 4


def test_criteria_of_an_earlier_fit_are_forgotten_with_it(features_file, tmp_path):
    group(features_file, tmp_path / "out", "icce")
    run = group(features_file, tmp_path / "out", "kmeans")
    assert run.manifest["criteria"]["head_nmi"] is None
    assert run.manifest["fit"] == {}


def test_auto_keeps_the_chosen_method_and_the_table(features_file, tmp_path):
    run = group(features_file, tmp_path / "out", "auto")
    fit = run.manifest["fit"]
    assert set(fit["methods"]) == {"kmeans", "temi"}
    assert fit["methods"][fit["chosen"]] == run.manifest["criteria"]
    model = load_model(run.path)
    assert type(model) is get_method(fit["chosen"])
    alone = group(features_file, tmp_path / "alone", fit["chosen"])
    assert alone.assignments.equals(run.assignments)


def test_auto_keeps_one_graph_for_each_way_of_making_it(features_file, tmp_path, caplog):
    caplog.set_level(logging.INFO, "kinfold")
    candidates = {"temi": HEADS, "scan": HEADS, "icce": QUICK["icce"]}
    options = {"method_parameters": {"candidates": list(candidates), "parameters": candidates}}
    run = group(features_file, tmp_path / "out", "auto", **options)
    assert len(list((run.path / "neighbors").glob("*/graph.json"))) == 2
    assert set(run.manifest["neighbors"]) == {"temi", "scan", "icce"}
    assert run.manifest["neighbors"]["icce"]["threshold"] is not None
    caplog.clear()
    group(features_file, tmp_path / "out", "auto", **options)
    assert not [record for record in caplog.records if record.msg == "stage %s: starts"]
    group(features_file, tmp_path / "out", "temi")
    assert len(list((run.path / "neighbors").glob("*/graph.json"))) == 2


def test_a_changed_threshold_finds_neighbours_anew(features_file, tmp_path):
    for threshold in (None, "auto", 0.9):
        parameters = {**QUICK["icce"], "similarity_threshold": threshold}
        run = group(features_file, tmp_path / "out", "icce", method_parameters=parameters)
    assert len(list((run.path / "neighbors").glob("*/graph.json"))) == 3
    assert run.manifest["neighbors"]["threshold"] == pytest.approx(0.9)


def test_n_neighbors_is_the_least_number_for_icce(features_file, tmp_path):
    run = group(features_file, tmp_path / "out", "icce", n_neighbors=4)
    assert run.manifest["neighbors"]["n_neighbors"] == 4
    assert run.manifest["parameters"]["method_parameters"]["min_neighbors"] == 4
    (folder,) = (path.parent for path in (run.path / "neighbors").glob("*/graph.json"))
    assert NeighborGraph.open(folder).degrees.min() >= 4


@pytest.mark.parametrize("method", ["temi", "scan", "icce", "auto"])
def test_n_neighbors_reaches_every_graph(method):
    graphs = prepare(method, n_neighbors=7).graphs(500)
    assert graphs
    assert {options["n_neighbors"] for options in graphs.values()} == {7}


def test_checkpoints_of_parts_and_of_processes_are_kept_for_the_next_start(
    features_file, tmp_path, monkeypatch
):
    group(features_file, tmp_path / "out", "kmeans")
    seen = []

    def look(order, *_):
        first = order.checkpoint
        for name in ("", ".icce", ".icce.1-of-2", ".0-of-2.next"):
            first.with_name(first.name + name).write_bytes(b"")
        seen.append({path.name.removeprefix(first.name) for path in first.parent.glob("checkpoint-*")})
        raise InputError("stopped")

    monkeypatch.setattr("kinfold.pipeline._method.FitOrder.run", look)
    (tmp_path / "out" / "checkpoint-0123456789ab.temi").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(InputError, match="stopped"):
            group(features_file, tmp_path / "out", "icce")
    assert seen == [{"", ".icce", ".icce.1-of-2", ".0-of-2.next"}] * 2
    monkeypatch.undo()
    run = group(features_file, tmp_path / "out", "icce")
    assert not list(run.path.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("turtle", {"space_dims": "8;8"}),
        ("icce", {"self_training_dims": "8;8"}),
        ("icce", {"self_training_dims": 0}),
    ],
)
def test_widths_that_are_no_numbers_are_refused_before_any_work(name, parameters):
    with pytest.raises(InputError, match=r"(positive whole numbers|an integer of at least 1), like \[8, 8\]"):
        prepare(name, parameters=parameters)


class TestPresets:
    def test_the_papers_parameters_reach_the_estimator(self):
        found = prepare("temi", preset="paper").estimator.get_params()
        assert found.items() >= preset_parameters("temi", "paper").items()

    def test_what_is_given_wins(self):
        method = prepare("temi", n_neighbors=9, parameters={"n_heads": 3}, preset="paper")
        found = method.estimator.get_params()
        assert (found["n_heads"], found["n_neighbors"], found["n_epochs"]) == (3, 9, 200)

    def test_what_is_given_for_candidates_wins(self):
        given = {"parameters": {"temi": {"n_heads": 3}}}
        method = prepare("auto", n_neighbors=9, parameters=given, preset="paper")
        built = method.estimator.build(0)
        assert (built["temi"].n_heads, built["temi"].n_neighbors, built["temi"].n_epochs) == (3, 9, 200)
        assert (built["icce"].n_heads, built["icce"].min_neighbors) == (50, 9)

    def test_the_manifest_names_it(self, features_file, tmp_path):
        run = group(features_file, tmp_path / "out", "kmeans", preset="paper")
        assert run.manifest["parameters"]["preset"] == "paper"
        assert run.manifest["parameters"]["method_parameters"]["tol"] == 0

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"candidates": 3}, "must be a list of .*each the name of a method"),
            ({"candidates": "icce"}, "must be a list of .*each the name of a method"),
            ({"candidates": ["icce", ["temi"]]}, "must be a list of .*each the name of a method"),
            ({"candidates": ["icce", "icce"]}, "more than once"),
            ({"parameters": ["icce"]}, "parameters must be a mapping"),
            ({"parameters": {"icce": 3}}, "parameters of 'icce' must be a mapping"),
            ({"parameters": {"turtle": {}}}, "'turtle', which is no candidate"),
        ],
    )
    @pytest.mark.parametrize("preset", [None, "paper"])
    def test_malformed_candidates_are_refused_with_a_preset_as_without(self, given, words, preset):
        with pytest.raises(InputError, match=words):
            prepare("auto", parameters=given, preset=preset)

    def test_an_unknown_one_is_refused_before_anything_is_written(self, features_file, tmp_path):
        with pytest.raises(InputError, match="did you mean 'paper'"):
            group(features_file, tmp_path / "out", "temi", preset="papers")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_is_estimated(features_file, method, words):
    found = estimate(features_file, 3, method=method, **words(method))
    graph = ["neighbors"] if prepare(method).graphs(500) else []
    nouns = ["nouns"] if prepare(method).needs_nouns else []
    assert [stage.name for stage in found.stages] == [*nouns, *graph, "fit", "assign"]
    few, many = (
        estimate(features_file, n_clusters, method=method, **words(method)).stages[-2]
        for n_clusters in (3, 30)
    )
    assert 0 < few.seconds < many.seconds
    assert few.disk_bytes < many.disk_bytes


def test_presets_and_more_candidates_are_expected_to_take_longer(features_file):
    short, paper = (estimate(features_file, 3, method="icce", preset=preset) for preset in (None, "paper"))
    assert paper.seconds > short.seconds
    alone, all_three = (estimate(features_file, 3, method=method) for method in ("kmeans", "auto"))
    assert all_three.seconds > alone.seconds
    assert json.dumps(all_three.as_dict())
