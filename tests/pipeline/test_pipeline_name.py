"""From a finished run to names in its files and on its page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import kinfold
from kinfold.backbones import load_backbone
from kinfold.corrections import Corrections, Merge, Move, Rename
from kinfold.errors import FormatError, InputError
from kinfold.language import TextEncoder, embed_nouns, embed_words, load_text_encoder, name_clusters
from kinfold.levels import open_levels
from kinfold.pipeline import cluster, evaluate, name, predict, report
from kinfold.run import Run, read_manifest, write_manifest
from kinfold.storage import hash_file
from support import text_models

NOUNS = ("cat", "dog", "horse", "crane", "tree", "house", "truck", "violin")
FILES = ("manifest.json", "names.parquet", "assignments.parquet")
PREPROCESSING = {"do_resize": True, "size": {"shortest_edge": 32}, "crop_size": 32, "image_mean": [0.5] * 3}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "clip"
    text_models.make_clip(folder)
    content = {**PREPROCESSING, "image_std": [0.5] * 3, "image_processor_type": "CLIPImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def encoder(clip: Path) -> TextEncoder:
    return load_text_encoder(clip, device="cpu", precision="float32")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KINFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def vectors(tmp_path: Path, encoder: TextEncoder) -> Path:
    """Features of 120 images in groups around the texts of four nouns."""
    texts = embed_words(encoder, NOUNS[:4])
    random = np.random.default_rng(0)
    path = tmp_path / "vectors.npy"
    np.save(path, np.repeat(texts, 30, axis=0) + 0.01 * random.normal(size=(120, encoder.dim)))
    return path


@pytest.fixture
def run(vectors: Path, tmp_path: Path) -> Run:
    return cluster(vectors, 4, method="kmeans", out=tmp_path / "run", device="cpu")


def name_it(run, model=None, **more):
    options = {"text_model": model, "nouns": NOUNS, "device": "cpu", "precision": "float32", "n_workers": 1}
    return name(run, **(options | more))


def state(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.is_file()}


def test_groups_get_their_words_in_the_run_its_table_and_its_page(run, clip):
    found = name_it(run, clip)
    truth = {int(np.bincount(run.labels[30 * i : 30 * i + 30]).argmax()): NOUNS[i] for i in range(4)}
    assert dict(enumerate(found.nouns)) == truth
    again = Run.open(run.path)
    assert again.names == found
    assert again.names[0].names[0].path[-1] == "entity"
    assert again.assignments["name"].to_pylist() == [truth[label] for label in run.labels.tolist()]
    assert pq.read_table(run.path / "assignments.parquet")["name"].null_count == 0
    page = run.report_path.read_text()
    assert all(f"{noun} <span>group {group}</span>" in page for group, noun in truth.items())
    assert "4 of 4" in page
    assert again.manifest["naming"]["n_named"] == 4
    assert again.manifest["naming"]["features"] == "own"


def test_naming_again_and_clustering_again_change_nothing(run, clip, vectors):
    name_it(run, clip)
    before = state(run.path)
    times = {file: (run.path / file).stat().st_mtime_ns for file in FILES}
    name_it(run, clip)
    cluster(vectors, 4, method="kmeans", out=run.path, device="cpu")
    assert state(run.path) == before
    assert {file: (run.path / file).stat().st_mtime_ns for file in FILES[1:]} == {
        file: times[file] for file in FILES[1:]
    }


def test_other_nouns_give_other_names(run, clip):
    name_it(run, clip)
    found = name_it(run, clip, nouns=["a cat", "a dog", "a horse", "a crane"])
    assert all(noun.startswith("a ") for noun in found.nouns if noun)
    assert Run.open(run.path).names == found


def test_a_new_fit_drops_the_names_and_says_so(run, clip, vectors, caplog):
    name_it(run, clip)
    assert "dropped" not in caplog.text
    fresh = cluster(vectors, 3, method="kmeans", out=run.path, device="cpu")
    assert "the names of the groups are dropped" in caplog.text
    assert fresh.names == {}
    assert not (run.path / "names.parquet").exists()
    assert "naming" not in fresh.manifest
    assert fresh.assignments["name"].null_count == 120
    assert "<span>group" not in fresh.report_path.read_text()


def test_predictions_are_named_where_the_run_is(run, clip, vectors, tmp_path):
    plain = predict(run.path, vectors, tmp_path / "p.parquet")
    assert plain["name"].null_count == len(plain)
    found = name_it(run, clip)
    table = predict(run.path, vectors, tmp_path / "p.parquet")
    assert table["name"].to_pylist() == [found[group].noun for group in table["cluster"].to_pylist()]


def test_evaluation_and_the_page_keep_working_and_names_survive_them(run, clip):
    found = name_it(run, clip)
    evaluate(run.path, {str(row): "xyzw"[row // 30] for row in range(120)})
    report(run.path)
    assert Run.open(run.path).names == found
    assert "crane <span>group" in run.report_path.read_text()
    assert name_it(run, clip) == found


def test_groups_that_no_word_fits_have_no_name_and_the_page_says_why(run, clip):
    found = name_it(run, clip, min_separation=1.0, nouns=["violin", "truck"])
    assert found.nouns == (None,) * 4
    page = run.report_path.read_text()
    assert page.count("no name fits") == 4
    assert "is needed" in page
    assert Run.open(run.path).assignments["name"].null_count == 120


def test_words_are_escaped_on_the_page(run, clip):
    name_it(run, clip, nouns=["<b>cat</b>", "<script>dog", "horse\u202e&", "crane"], min_separation=0)
    page = run.report_path.read_text()
    assert "<b>cat" not in page
    assert "<script>dog" not in page
    assert "\u202e" not in page
    assert "&lt;b&gt;cat&lt;/b&gt;" in page


def test_an_older_run_without_the_column_opens_and_can_be_named(run, clip):
    file = run.path / "assignments.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["name"]), file)
    manifest = read_manifest(run.path)
    manifest.stages["assign"]["outputs"][file.name] = hash_file(file)
    write_manifest(run.path, manifest)
    older = Run.open(run.path)
    assert older.assignments["name"].null_count == 120
    assert older.names == {}
    assert name_it(run, clip).nouns.count(None) == 0


def test_images_are_embedded_beside_a_run_whose_backbone_knows_no_words(photos, tmp_path, clip):
    (photos / "red" / "broken.png").write_bytes(b"")
    run = cluster(photos, 3, method="kmeans", backbone="pixels", out=tmp_path / "run", n_workers=1)
    with pytest.raises(InputError, match="--text-model clip-vit-b32"):
        name_it(run)
    found = name_it(run, clip, min_separation=0)
    assert run.manifest["backbone"]["card"]["name"] == "pixels"
    named = Run.open(run.path)
    assert named.manifest["naming"]["features"] == "language-features"
    store = kinfold.FeatureStore.open(run.path / "language-features")
    backbone = load_backbone(clip, device="cpu", precision="float32")
    assert store.manifest.backbone_fingerprint == backbone.fingerprint()
    assert len(store.rows) == len(named.labels) == 45
    assert found.nouns.count(None) == 0
    again = cluster(photos, 3, method="kmeans", backbone="pixels", out=tmp_path / "run", n_workers=1)
    assert again.names == found


def test_images_that_cannot_be_read_any_more_do_not_count(photos, tmp_path, clip, caplog):
    run = cluster(photos, 3, method="kmeans", backbone="pixels", out=tmp_path / "run", n_workers=1)
    (photos / "blue" / "0.png").write_bytes(b"")
    found = name_it(run, clip, min_separation=0)
    assert "1 image of the run can't be read" in caplog.text
    labels = run.labels[1:]
    store = kinfold.FeatureStore.open(run.path / "language-features")
    nouns = embed_nouns(load_text_encoder(clip, device="cpu", precision="float32"), NOUNS)
    expected = name_clusters(
        store.matrix("cls"),
        labels,
        3,
        nouns.features,
        NOUNS,
        logit_scale=found.parameters["logit_scale"],
        min_separation=0,
        device="cpu",
    )
    assert found == expected


def test_a_siglip_model_names_too(photos, tmp_path):
    model = tmp_path / "siglip"
    text_models.make_siglip(model)
    content = {"size": {"height": 32, "width": 32}, "image_processor_type": "SiglipImageProcessor"}
    (model / "preprocessor_config.json").write_text(json.dumps(content))
    run = cluster(photos, 3, method="kmeans", backbone=model, out=tmp_path / "run", n_workers=1)
    found = name_it(run, min_separation=0)
    assert found.nouns.count(None) == 0
    encoder = load_text_encoder(model, device="cpu", precision="float32")
    assert found.parameters["logit_scale"] == pytest.approx(encoder.logit_scale)


def test_features_of_a_joint_space_serve_themselves(photos, tmp_path, clip):
    run = cluster(
        photos, 3, method="kmeans", backbone=clip, precision="float32", out=tmp_path / "run", n_workers=1
    )
    found = name_it(run, min_separation=0)
    assert found == name_it(run, clip, min_separation=0)
    moved = clip.rename(clip.with_name("moved"))
    try:
        assert name_it(run, moved, min_separation=0) == found
    finally:
        moved.rename(clip)
    assert not (run.path / "language-features").exists()


def test_what_cannot_be_named_says_what_to_do(run, photos, tmp_path, features_file, clip):
    with pytest.raises(InputError, match=r"which isn't known of .*--text-model"):
        name_it(run)
    with pytest.raises(InputError, match="no run"):
        name_it(photos)
    other = cluster(features_file, 3, method="kmeans", out=tmp_path / "other")
    with pytest.raises(InputError, match="24 dimensions, the images' features 8"):
        name_it(other, clip)
    assert Run.open(other.path).names == {}
    images = cluster(photos, 3, method="kmeans", backbone="pixels", out=tmp_path / "gone", n_workers=1)
    photos.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="--source"):
        name_it(images, clip)
    assert len(name_it(images, clip, source=tmp_path / "moved", min_separation=0)) == 3


def test_damaged_names_say_how_to_mend_them(run, clip):
    name_it(run, clip)
    (run.path / "names.parquet").write_bytes(b"")
    with pytest.raises(FormatError, match=r"names.parquet is damaged.*kinfold name"):
        _ = Run.open(run.path).names
    assert name_it(run, clip).nouns.count(None) == 0


# Loads everything once, then forks a process for each number that it reads. It names the run, and kills
# itself before so many renames since it began to keep the names.
SERVER = """
import os, signal, sys, traceback
import kinfold.pipeline._language as module
import torch._dynamo, transformers, kinfold.methods, kinfold.gallery
from transformers import CLIPModel, CLIPTokenizerFast

keep, replace = module._keep, os.replace

def work(step, run, clip, *nouns):
    left = [int(step)]

    def counting(*paths):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        replace(*paths)

    def armed(*arguments):
        os.replace = counting
        keep(*arguments)
        os.replace = replace

    module._keep = armed
    module.name(run, text_model=clip, nouns=nouns, device="cpu", precision="float32")

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            work(line.strip(), *sys.argv[1:])
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_kill_at_any_moment_leaves_the_old_names_or_the_new(run, clip, vectors):
    earlier = {"nouns": ["a cat", "a dog", "a horse", "a crane"], "min_separation": 0}
    old, new = name_it(run, clip, **earlier), None
    is_old = []
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(run.path), str(clip), *NOUNS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as server:
        for step in range(20):
            server.stdin.write(f"{step}\n")
            code = int(server.stdout.readline())
            found = Run.open(run.path)
            assert found.assignments["name"].to_pylist() == [
                found.names[c].noun for c in found.labels.tolist()
            ]
            is_old.append(found.names == old)
            new = new or (None if is_old[-1] else found.names)
            assert found.names in (old, new)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            if not is_old[-1]:
                cluster(vectors, 4, method="kmeans", out=run.path, device="cpu")
                assert Run.open(run.path).names == new
                assert not (run.path / ".next").exists()
                name_it(run, clip, **earlier)
        server.stdin.close()
    assert is_old == sorted(is_old, reverse=True)
    assert is_old[:3] == [True] * 3
    assert is_old[-2:] == [False] * 2
    assert name_it(run, clip) == new


def test_corrected_groups_are_named_and_those_merged_away_are_not(run, clip):
    truth = {i: int(np.bincount(run.labels[30 * i : 30 * i + 30]).argmax()) for i in range(4)}
    with Corrections.open(run) as corrections:
        corrections.apply(Move(list(range(30)), None))  # the cats, into a new group 4
        corrections.apply(Merge([truth[0], truth[1]], truth[2]))
        corrections.apply(Rename(truth[3], "birds"))
    found = name_it(run, clip)
    assert len(found) == 5
    assert found[4].noun == "cat"
    assert found[truth[0]].noun is None
    again = Run.open(run.path)
    assert again.names == found
    # The table has the groups of the method, called as what they became.
    names = dict(zip(again.labels.tolist(), again.assignments["name"].to_pylist(), strict=True))
    assert names[truth[0]] == names[truth[1]] == names[truth[2]] == found[truth[2]].noun
    page = again.report_path.read_text()
    assert "birds" in page
    assert "120 images in 3 groups" in page or "120 samples in 3 groups" in page
    before = state(run.path)
    name_it(run, clip)
    assert state(run.path) == before
    table = predict(again, run.path.parent / "vectors.npy", run.path.parent / "p.parquet")
    assert set(table["cluster"].to_pylist()) == {truth[2], truth[3]}
    with Corrections.open(again) as corrections:
        for _ in range(3):
            corrections.undo()
    assert "in 4 groups" in report(again).read_text()


def test_further_levels_are_named_too_and_show_their_names_at_once(run, clip, monkeypatch):
    from kinfold.pipeline import _language

    finest = open_levels(run).levels.n_parts
    found = name_it(run, clip, levels=[2, 4, finest])
    assert Run.open(run.path).names == found == name_it(run, clip)
    before = state(run.path)
    assert {"names-level-2.parquet", f"names-level-{finest}.parquet"} <= before.keys()
    assert "names-level-fit.parquet" not in before

    def refuse(*arguments, **options):
        raise AssertionError("was named before")

    monkeypatch.setattr(_language, "name_clusters", refuse)
    name_it(run, clip, levels=(finest, 2))  # the same again changes nothing
    assert state(run.path) == before
    for level in (2, finest):
        with Corrections.open(Run.open(run.path)) as corrections:
            corrections.apply(Rename(0, f"mine before {level}"))
        change = kinfold.level(run.path, level)
        assert "words" not in change.left
        there = Run.open(run.path)
        assert len(there.names) == level
        nouns = [one.noun for one in there.names.values() if one.noun]
        assert len(set(nouns)) == len(nouns) == there.manifest.naming["n_named"] > 0
        assert there.assignments["name"].to_pylist() == [there.names[c].noun for c in there.labels.tolist()]
        assert kinfold.check(run.path).is_whole
        kinfold.level(run.path, None)
        again = Run.open(run.path)
        assert again.names == found
        with Corrections.open(again, write=False) as corrections:
            assert corrections.state.groups[0].name == f"mine before {level}"


def test_names_of_a_level_are_those_that_it_gets_when_it_is_shown(run, clip):
    name_it(run, clip, levels=[2])
    kinfold.level(run.path, 2)
    ahead = Run.open(run.path)
    before = state(run.path)
    assert name_it(run.path, clip) == ahead.names
    assert state(run.path) == before
    name_it(run.path, clip, levels=[4])  # the groups of the fit, as long as they aren't shown
    (run.path / "names-level-fit.parquet").write_bytes(b"")
    name_it(run.path, clip, levels=[4])
    assert kinfold.check(run.path).is_whole
    with pytest.raises(InputError, match="none of 999"):
        name_it(run.path, clip, levels=[999])
