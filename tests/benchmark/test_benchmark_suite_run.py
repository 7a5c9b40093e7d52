"""Claims about runs of suites: checked before, gone on with after any death, nothing done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image

from kinfold import SphericalKMeans
from kinfold.benchmark import Results, _suite_running, run_suite
from kinfold.errors import InputError
from kinfold.metrics import clustering_accuracy
from support.suites import SUITE, Inside, write_suite


@pytest.fixture
def inside(monkeypatch):
    stand_in = Inside()
    monkeypatch.setattr(_suite_running, "run_in_process", stand_in)
    return stand_in


def seeds_of(inside):
    return [order["seed"] for order in inside.orders]


def test_a_run_measures_what_the_library_measures(tmp_path, inside):
    found = run_suite(write_suite(tmp_path), tmp_path / "out", figures=False)
    X = np.load(tmp_path / "made.npy")
    truth = np.arange(240) % 4
    expected = []
    for seed in (0, 1):
        model = SphericalKMeans(n_clusters=4, random_state=seed).fit(X[:200])
        expected.append(clustering_accuracy(truth[200:], model.predict(X[200:])))
    row = found.summaries[0]
    assert row.figures["acc"].mean == pytest.approx(np.mean(expected), abs=1e-6)
    assert row.figures["acc"].spread == pytest.approx(np.std(expected, ddof=1), abs=1e-6)
    assert (row.judged, row.n_judged, row.n_seeds) == ("test", 40, 2)
    assert row.published["acc"] == (98.5, "A paper, Table 1")
    line = next(iter(Results(tmp_path / "out" / "results.jsonl").read().values()))
    assert {"seconds", "cpu_seconds", "peak_bytes", "machine", "version", "finished"} <= line.keys()


def test_a_second_run_does_only_what_is_left(tmp_path, inside):
    path = write_suite(tmp_path)
    assert run_suite(path, tmp_path / "out", seeds=[0], figures=False).n_run == 1
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    again = run_suite(path, tmp_path / "out", seeds=[0, 1], figures=False)
    assert (again.n_run, again.n_done, again.n_left) == (1, 2, 0)
    assert (tmp_path / "out" / "results.jsonl").read_bytes().startswith(before)
    assert seeds_of(inside) == [0, 1]


def test_what_decides_a_result_makes_it_run_again_and_nothing_else_does(tmp_path, inside):
    inside.real = False
    out = tmp_path / "out"
    changes = [
        (SUITE, 2),
        (SUITE.replace('title = "k-means"', 'title = "spherical"'), 0),
        (SUITE.replace("seeds", 'metrics = ["acc", "purity"]\nseeds'), 0),
        (SUITE.replace('title = "k-means"', "parameters = { max_iter = 7 }"), 2),
        (SUITE.replace('path = "made.npy"', 'path = "made.npy"\nscale = 2'), 2),
        (SUITE.replace('labels = "labels.csv"', 'labels = "labels.csv"\nk = 3'), 2),
        (SUITE.replace('labels = "labels.csv"', 'labels = "labels.csv"\nrows = 100'), 2),
    ]
    for text, expected in changes:
        assert run_suite(write_suite(tmp_path, text), out, figures=False).n_run == expected
    write_suite(tmp_path)
    labels = (tmp_path / "labels.csv").read_text(encoding="utf-8")
    (tmp_path / "labels.csv").write_text(labels.replace("0,class 0", "0,class 1", 1), encoding="utf-8")
    assert run_suite(tmp_path / "tiny.toml", out, figures=False).n_run == 2


def test_failures_are_told_and_run_again_when_asked(tmp_path, inside):
    inside.broken.add(1)
    path, out = write_suite(tmp_path), tmp_path / "out"
    found = run_suite(path, out, figures=False)
    assert (found.n_done, found.n_failed) == (1, 1)
    assert "ended by signal 9" in (out / "table.md").read_text(encoding="utf-8")
    inside.broken.clear()
    assert run_suite(path, out, figures=False).n_run == 0
    mended = run_suite(path, out, figures=False, retry=True)
    assert (mended.n_run, mended.n_failed) == (1, 0)
    assert "signal" not in (out / "table.md").read_text(encoding="utf-8")


def test_no_fit_is_started_that_would_end_too_late(tmp_path, inside):
    inside.real = False
    path, out = write_suite(tmp_path), tmp_path / "out"
    nothing = run_suite(path, out, minutes=0, figures=False)
    assert (nothing.n_run, nothing.n_left) == (0, 2)
    assert run_suite(path, out, minutes=0.5, figures=False).n_run == 1  # one takes a minute, as is known then
    assert run_suite(path, out, minutes=1.5, figures=False).n_run == 1


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('path = "made.npy"', 'path = "gone.npy"', r"\[features.made\]: there is nothing at"),
        ('labels = "labels.csv"', 'labels = "gone.csv"', r"\[benchmarks.four\]: there are no labels at"),
        ('labels = "labels.csv"', 'labels = "labels.csv"\nk = 999', "only 200 training rows"),
        ('title = "k-means"', "parameters = { maxiter = 3 }", "did you mean 'max_iter'"),
    ],
)
def test_nothing_is_run_and_nothing_written_where_something_is_wrong(tmp_path, inside, old, new, word):
    with pytest.raises(InputError, match=word):
        run_suite(write_suite(tmp_path, SUITE.replace(old, new)), tmp_path / "out", figures=False)
    assert inside.orders == []
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_what_no_suite_wrote_and_another_suite_are_left_alone(tmp_path, inside):
    inside.real = False
    path = write_suite(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="no suite wrote"):
        run_suite(path, other, figures=False)
    run_suite(path, tmp_path / "out", figures=False)
    with pytest.raises(InputError, match="holds the suite 'tiny'"):
        run_suite(write_suite(tmp_path, SUITE.replace('"tiny"', '"huge"')), tmp_path / "out", figures=False)


def test_several_k_and_the_probe_stand_side_by_side(tmp_path, inside):
    text = SUITE.replace('labels = "labels.csv"', 'labels = "labels.csv"\nk = [3, 4, 6]')
    text = text.replace("[benchmarks", "[methods.probe]\n[benchmarks")
    found = run_suite(write_suite(tmp_path, text), tmp_path / "out", seeds=[0], figures=False)
    assert [(row.n_clusters, row.method) for row in found.summaries] == [
        (3, "kmeans"),
        (4, "kmeans"),
        (4, "probe"),
        (6, "kmeans"),
    ]
    assert [bool(row.published) for row in found.summaries] == [False, True, False, False]
    probe = next(row for row in found.summaries if row.method == "probe")
    assert probe.figures["acc"].mean > 0.9


def test_entries_that_are_the_same_fit_share_it_under_their_own_names(tmp_path, inside):
    inside.real = False
    text = SUITE + '[benchmarks.same]\nlabels = "labels.csv"\nk = [3, 4]\n'
    found = run_suite(write_suite(tmp_path, text), tmp_path / "out", seeds=[0, 1])
    assert (found.n_run, found.n_done) == (4, 6)
    assert [(row.benchmark, row.n_clusters) for row in found.summaries] == [
        ("four", 4),
        ("same", 3),
        ("same", 4),
    ]
    names = {path.name for path in found.figures}
    assert {"clusters", "calibration-four-made", "calibration-same-made"} <= names


def test_fits_share_their_neighbours(tmp_path, inside):
    method = 'method = "temi"\nparameters = { n_heads = 1, n_epochs = 1, n_neighbors = 5 }'
    text = SUITE.replace('title = "k-means"', method)
    run_suite(write_suite(tmp_path, text), tmp_path / "out", figures=False)
    assert len(list((tmp_path / "out" / "graphs").glob("*.json"))) == 1


def start(path: Path, out: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "kinfold",
        "benchmark",
        "run",
        str(path),
        "--out",
        str(out),
        "--threads",
        "1",
    ]
    return subprocess.Popen([*command, "--no-figures", "--json"], env=environment, stdout=subprocess.PIPE)


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again_it_repeats_nothing(tmp_path):
    path, out = write_suite(tmp_path, SUITE.replace("[0, 1]", "[0, 1, 2]")), tmp_path / "out"
    process = start(path, out)
    lines = out / "results.jsonl"
    deadline = time.monotonic() + 200
    while not (lines.exists() and lines.read_bytes().count(b"\n") >= 1) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # the next one is under way
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() for child in children)
    done = lines.read_bytes().splitlines()
    assert 1 <= len(done) < 3
    answer = json.loads(start(path, out).communicate()[0])
    assert answer["cells"] == {"run": 3 - len(done), "done": 3, "failed": 0, "left": 0}
    assert lines.read_bytes().splitlines()[: len(done)] == done
    assert len(Results(lines).read()) == 3
    assert (out / "table.tex").exists()


def test_images_are_embedded_once_and_judged_by_their_folders(tmp_path, inside):
    random = np.random.default_rng(0)
    for split, n in (("train", 12), ("val", 6)):
        for row in range(n):
            colour = np.zeros(3)
            colour[row % 3] = 200
            pixels = np.clip(colour + random.normal(0, 12, (16, 16, 3)), 0, 255).astype(np.uint8)
            path = tmp_path / "photos" / split / "rgb"[row % 3] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    text = SUITE.replace('path = "made.npy"', 'images = "photos"\nbackbone = "pixels"')
    path = write_suite(tmp_path, text.replace('labels = "labels.csv"', 'labels = "folder"'))
    found = run_suite(path, tmp_path / "out", seeds=[0], figures=False)
    row = found.summaries[0]
    assert (row.judged, row.n_judged, row.n_clusters, row.figures["acc"].mean) == ("test", 6, 3, 1.0)
    assert run_suite(path, tmp_path / "out", seeds=[0], figures=False).n_run == 0
    wrong = path.read_text(encoding="utf-8").replace('backbone = "pixels"', 'backbone = "pixel"')
    with pytest.raises(InputError, match=r"\[features.made\].*pixels"):
        run_suite(write_suite(tmp_path, wrong), tmp_path / "other", figures=False)


def test_nouns_are_read_by_the_text_model_of_the_features(tmp_path, inside, monkeypatch):
    nouns = SimpleNamespace(features=6 * np.eye(4, 8, dtype=np.float32), nouns=("a", "b", "c", "d"))
    asked = []
    monkeypatch.setattr("kinfold.language.load_text_encoder", lambda name: asked.append(name) or name)
    monkeypatch.setattr("kinfold.language.embed_nouns", lambda encoder: nouns)
    text = SUITE.replace('title = "k-means"', 'method = "tac"\nparameters = { train = false }')
    text = text.replace('path = "made.npy"', 'path = "made.npy"\ntext_model = "clip-vit-b32"')
    found = run_suite(write_suite(tmp_path, text), tmp_path / "out", seeds=[0], figures=False)
    assert asked == ["clip-vit-b32"]
    assert found.summaries[0].figures["acc"].mean == 1.0


ZERO_SHOT = SUITE.replace('title = "k-means"', 'method = "zero-shot"').replace(
    'path = "made.npy"', 'path = "joint.npy"\ntext_model = "clip"'
)


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """A small CLIP model, and a folder of suites whose images lie around the texts of four names."""
    from kinfold.language import embed_classes, load_text_encoder
    from support import text_models

    home = tmp_path_factory.mktemp("joint")
    text_models.make_clip(home / "clip")
    texts = embed_classes(load_text_encoder(str(home / "clip")), ["cat", "dog", "ship", "horse"])
    texts = texts - texts.mean(axis=0)  # random weights put all texts side by side
    noise = np.random.default_rng(0).normal(size=(240, texts.shape[1]))
    np.save(home / "joint.npy", (texts[np.arange(240) % 4] + 0.01 * noise).astype(np.float32))
    return home


def zero_shot_suite(joint, tmp_path, names):
    """Write a suite of zero-shot classification whose classes are called so."""
    table = ", ".join(f'"class {number}" = "{name}"' for number, name in enumerate(names))
    text = ZERO_SHOT.replace('"joint.npy"', f'"{joint}/joint.npy"').replace('"clip"', f'"{joint}/clip"')
    text = text.replace('labels = "labels.csv"', f'labels = "labels.csv"\nnames = {{ {table} }}')
    return write_suite(tmp_path, text)


def test_zero_shot_answers_with_classes_and_no_map_mends_it(joint, tmp_path, inside):
    """The same suite with two names exchanged groups as well, but half of its answers are wrong."""
    right = zero_shot_suite(joint, tmp_path, ["cat", "dog", "ship", "horse"])
    found = run_suite(right, tmp_path / "right", seeds=[0], figures=False).summaries[0]
    assert (found.figures["acc"].mean, found.figures["nmi"].mean) == (1.0, pytest.approx(1.0))
    assert (found.n_clusters, found.judged, found.published["acc"][0]) == (4, "test", 98.5)
    swapped = zero_shot_suite(joint, tmp_path, ["cat", "dog", "horse", "ship"])
    run = run_suite(swapped, tmp_path / "right", seeds=[0], figures=False)
    assert run.n_run == 1  # other names are another cell
    assert run.summaries[0].figures["acc"].mean == 0.5
    assert run.summaries[0].figures["nmi"].mean == pytest.approx(1.0)
    right = zero_shot_suite(joint, tmp_path, ["cat", "dog", "ship", "horse"])
    assert run_suite(right, tmp_path / "right", seeds=[0], figures=False).n_run == 0


def test_zero_shot_is_that_of_the_library(joint, tmp_path, inside):
    from kinfold.language import ZeroShotClassifier, embed_classes, load_text_encoder

    names = ["cat", "ship", "dog", "horse"]
    path = zero_shot_suite(joint, tmp_path, names)
    run_suite(path, tmp_path / "out", seeds=[0], figures=False)
    [line] = [json.loads(text) for text in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    encoder = load_text_encoder(str(joint / "clip"))
    classifier = ZeroShotClassifier(embed_classes(encoder, names), encoder.logit_scale)
    X, truth = np.load(joint / "joint.npy")[200:], np.arange(200, 240) % 4
    probabilities = classifier.predict_proba(X)
    assert line["test"]["acc"] == pytest.approx((classifier.predict(X) == truth).mean())
    assert line["confidence"]["mean"] == pytest.approx(probabilities.max(axis=1).mean(), abs=1e-5)
    assert sum(line["calibration"]["counts"]) == 40
    assert line["test"]["top5"] == 1


def test_zero_shot_says_what_it_lacks(joint, tmp_path, inside):
    path = zero_shot_suite(joint, tmp_path, ["cat", "dog", "ship", "horse"])
    text = path.read_text(encoding="utf-8")
    for wrong, words in (
        (text.replace('"class 3" = "horse"', '"class 9" = "horse"'), "names: there is no class 'class 9'"),
        (text.replace('"class 3" = "horse"', '"class 3" = 3'), "names must be a table of texts"),
        (text.replace('method = "zero-shot"', 'method = "zero-shot"\npreset = "paper"'), "takes no"),
        (text.replace(f'text_model = "{joint}/clip"', ""), "text_model is missing"),
    ):
        with pytest.raises(InputError, match=words):
            run_suite(write_suite(tmp_path, wrong), tmp_path / "other", seeds=[0], figures=False)
    assert not inside.orders


def test_a_suite_that_begins_between_two_looks_is_not_taken_for_something_else(tmp_path, inside, monkeypatch):
    path, out = write_suite(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / ".partial-1234-suite.json").write_text("", encoding="utf-8")  # being written
    read, looks = _suite_running._read_mark, []

    def another_begins(place):
        found = read(place)
        if not looks:
            mark = {"format": "kinfold-suite", "format_version": 1, "suite": "tiny"}
            (out / "suite.json").write_text(json.dumps(mark), encoding="utf-8")
        looks.append(found)
        return found

    monkeypatch.setattr(_suite_running, "_read_mark", another_begins)
    inside.real = False
    run_suite(path, out, figures=False)
    assert looks[0] is None
