"""From image files through a vision-language model to groups that nouns guided."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from kinfold.errors import FormatError, HubUnavailableError, InputError
from kinfold.language import NounCache, TextEncoder, load_text_encoder
from kinfold.methods import load_model
from kinfold.pipeline import cluster, embed, estimate, predict
from kinfold.pipeline import name as name_groups
from kinfold.run import Run
from support import text_models

NOUNS = [
    f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("cat", "ship", "fox", "hat")
]
QUICK = {"n_epochs": 20, "n_centres": 6}
PREPROCESSING = {"do_resize": True, "size": {"shortest_edge": 32}, "crop_size": 32, "image_mean": [0.5] * 3}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole models, saved as the hub has them."""
    root = tmp_path_factory.mktemp("models")
    for name, make in (("clip", text_models.make_clip), ("siglip", text_models.make_siglip)):
        make(root / name)
        processor = f"{name.replace('clip', 'CLIP').replace('sigCLIP', 'Siglip')}ImageProcessor"
        content = {**PREPROCESSING, "image_std": [0.5] * 3, "image_processor_type": processor}
        (root / name / "preprocessor_config.json").write_text(json.dumps(content))
    return {name: root / name for name in ("clip", "siglip")}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KINFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nouns"


def group(source, out, model=None, **more) -> Run:
    options = {"method_parameters": QUICK, "nouns": NOUNS, "device": "cpu", "n_workers": 1, "report": False}
    chosen = {} if model is None else {"backbone": model}
    return cluster(source, 3, method="tac", out=out, **(options | chosen | more))


def files_of(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ("assignments.parquet", "model.safetensors")}


@pytest.mark.parametrize("name", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
def test_a_folder_becomes_named_groups_by_its_model_alone_and_new_images_join_them(
    photos, tmp_path, models, name
):
    run = group(photos, tmp_path / "run", models[name], report=True)
    assert len(run.labels) == 45
    assert run.report_path.stat().st_size > 1000
    language = run.manifest["language"]
    assert language["text_encoder"]["spec"] == str(models[name])
    assert (language["nouns"]["source"], language["nouns"]["n_words"]) == ("given", 12)
    fit = run.manifest["fit"]
    assert set(fit["nouns"]) <= set(NOUNS)
    assert len(fit["nouns"]) == fit["n_nouns"]
    assert "noun_features" not in run.manifest["parameters"]["method_parameters"]
    found = name_groups(run, nouns=NOUNS, min_separation=0.3, device="cpu", n_workers=1)
    assert any(found.nouns)
    assert set(found.nouns) <= {*NOUNS, None}
    page = run.report_path.read_text(encoding="utf-8")
    assert all(noun in page for noun in found.nouns if noun)
    table = predict(run.path, photos, tmp_path / "new.parquet", device="cpu", n_workers=1)
    assert table["cluster"].to_pylist() == run.labels.tolist()
    assert table["name"].to_pylist() == [found.nouns[label] for label in run.labels]


def test_without_training_new_images_are_joined_with_the_nouns_that_the_model_keeps(photos, tmp_path, models):
    settings = {"train": False, "n_centres": 6}
    run = group(photos, tmp_path / "run", models["clip"], method_parameters=settings)
    assert set(load_model(run.path).selected_nouns_) == set(run.manifest["fit"]["nouns"])
    table = predict(run, photos, tmp_path / "new.parquet", device="cpu", n_workers=1)
    assert table["cluster"].to_pylist() == run.labels.tolist()


def test_the_same_call_finds_all_done_even_when_the_cache_is_gone(
    photos, tmp_path, models, cache, monkeypatch
):
    run = group(photos, tmp_path / "run", models["clip"])
    before = files_of(run.path)
    shutil.rmtree(cache)
    monkeypatch.setattr(TextEncoder, "encode", lambda *_, **__: pytest.fail("nouns were read again"))
    assert group(photos, tmp_path / "run", models["clip"]).path == run.path
    assert files_of(run.path) == before


def test_nouns_are_read_once_for_all_runs_and_again_when_the_cache_is_gone(photos, tmp_path, models, cache):
    first = group(photos, tmp_path / "a", models["clip"])
    read: list[int] = []
    encode = TextEncoder.encode

    def count(self, texts, **options):
        read.append(len(texts))
        return encode(self, texts, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextEncoder, "encode", count)
        second = group(photos, tmp_path / "b", models["clip"])
        assert read == []
        NounCache().clear()
        third = group(photos, tmp_path / "a", models["clip"], random_state=1)
        assert sum(read) > 0
    assert files_of(first.path)["assignments.parquet"] != b""
    np.testing.assert_array_equal(second.labels, Run.open(tmp_path / "b").labels)
    assert third.manifest["seed"] == 1


@pytest.mark.parametrize("file", ["features.npy", "words.json"])
def test_what_is_damaged_in_the_cache_is_mended_before_another_fit_of_the_run(
    photos, tmp_path, models, cache, file
):
    group(photos, tmp_path / "run", models["clip"])
    (damaged,) = cache.glob(f"*/{file}")
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"?")
    group(photos, tmp_path / "run", models["clip"], random_state=1)
    assert damaged.read_bytes() == whole


@pytest.mark.parametrize("choice", ["centres", "distillation"])
def test_none_is_a_choice_also_as_the_command_line_reads_it(photos, tmp_path, models, choice):
    asked = {**QUICK, choice: None}
    run = group(photos, tmp_path / "run", models["clip"], method_parameters=asked)
    assert run.manifest["parameters"]["method_parameters"][choice] == "none"


def test_other_nouns_are_another_fit(photos, tmp_path, models):
    group(photos, tmp_path / "run", models["clip"])
    again = group(photos, tmp_path / "run", models["clip"], nouns=NOUNS[:5])
    assert again.manifest["language"]["nouns"]["n_words"] == 5
    assert set(again.manifest["fit"]["nouns"]) <= set(NOUNS[:5])


def test_nouns_come_from_a_file_and_a_store_knows_its_model(photos, tmp_path, models):
    store = embed(photos, tmp_path / "store", backbone=models["clip"], device="cpu", n_workers=1)
    words = tmp_path / "nouns.txt"
    words.write_text("\n".join(NOUNS))
    run = group(store.path, tmp_path / "run", nouns=words)
    assert run.manifest["language"]["nouns"]["source"] == str(words)
    direct = group(photos, tmp_path / "direct", models["clip"])
    np.testing.assert_array_equal(run.labels, direct.labels)


def test_ready_features_need_the_name_of_the_text_model(tmp_path, models):
    file = tmp_path / "vectors.npy"
    encoder = load_text_encoder(models["clip"], device="cpu")
    random = np.random.default_rng(0)
    np.save(file, encoder.encode(NOUNS).repeat(5, axis=0) + 0.01 * random.normal(size=(60, encoder.dim)))
    with pytest.raises(InputError, match="--text-model"):
        group(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert len(group(file, tmp_path / "run", text_model=models["clip"]).labels) == 60


def test_models_without_texts_or_of_another_space_are_refused_before_anything_is_written(
    photos, tmp_path, models
):
    import transformers

    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "dino")
    wide = tmp_path / "wide"
    text_models.make_clip(wide, dim=20)
    out = tmp_path / "run"
    for options, words in (
        ({"model": tmp_path / "dino"}, "text tower"),
        ({"model": "hog"}, "text tower"),
        ({"model": models["clip"], "text_model": wide}, "20 dimensions, the images' features 24"),
        ({"model": models["clip"], "text_model": tmp_path / "dino"}, "text tower"),
        ({"model": models["clip"], "nouns": []}, "no words"),
        ({"model": models["clip"], "nouns": tmp_path / "missing.txt"}, "can't be read"),
        ({"model": models["clip"], "method_parameters": {"noun_features": [1]}}, "no parameter to be set"),
    ):
        with pytest.raises((InputError, FormatError), match=words):
            group(photos, out, **options)
        assert not out.exists()
    with pytest.raises(HubUnavailableError):
        group(photos, out, "clip-vit-b32")


@pytest.mark.parametrize("given", [{"nouns": NOUNS}, {"text_model": "clip-vit-b32"}])
def test_words_for_a_method_that_reads_none_are_refused(features_file, tmp_path, given):
    with pytest.raises(InputError, match="'kmeans' reads no words"):
        cluster(features_file, 3, method="kmeans", out=tmp_path / "run", **given)


def test_the_estimate_counts_the_nouns_until_they_are_read(photos, tmp_path, models):
    options = {"method": "tac", "backbone": models["clip"], "nouns": NOUNS, "device": "cpu"}
    before = [stage.name for stage in estimate(photos, 3, **options).stages]
    assert before == ["embed", "nouns", "neighbors", "fit", "assign"]
    group(photos, tmp_path / "run", models["clip"])
    after = estimate(photos, 3, **options)
    assert [stage.name for stage in after.stages] == ["embed", "neighbors", "fit", "assign"]


def test_the_groups_are_those_of_the_library(photos, tmp_path, models):
    from kinfold import TAC
    from kinfold.language import embed_nouns
    from kinfold.neighbors import knn_graph

    run = group(photos, tmp_path / "run", models["clip"])
    X = np.asarray(run.features().matrix("cls")[:])
    found = embed_nouns(load_text_encoder(models["clip"], device="cpu"), NOUNS)
    model = TAC(n_clusters=3, noun_features=found.features, nouns=found.nouns, random_state=0, device="cpu")
    model.set_params(**QUICK)
    graph = knn_graph(X, **model.needs(len(X)).graphs["tac"], zero_rows="isolate")
    np.testing.assert_array_equal(model.fit(X, graph=graph).labels_, run.labels)
    assert pq.read_table(run.path / "assignments.parquet")["cluster"].to_pylist() == run.labels.tolist()
