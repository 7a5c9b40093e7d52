"""Classes by their names, from image files or features to a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinfold.errors import InputError
from kinfold.hierarchy import load_wordnet
from kinfold.language import TextEncoder, embed_classes, load_text_encoder
from kinfold.pipeline import embed, zero_shot
from support import text_models

CLASSES = ("cat", "dog", "horse", "crane")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "clip"
    text_models.make_clip(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(clip: Path) -> TextEncoder:
    return load_text_encoder(clip, device="cpu", precision="float32")


@pytest.fixture
def vectors(tmp_path: Path, encoder: TextEncoder) -> Path:
    """Features of 40 images that lie around their classes' texts, class after class."""
    texts = embed_classes(encoder, CLASSES)
    random = np.random.default_rng(0)
    path = tmp_path / "vectors.npy"
    np.save(path, np.repeat(texts, 10, axis=0) + 0.01 * random.normal(size=(40, encoder.dim)))
    return path


def classify(source, classes, out, **more):
    return zero_shot(
        source, classes, out, **{"device": "cpu", "precision": "float32", "n_workers": 1, **more}
    )


def labels_of(numbers) -> dict[str, str]:
    return {str(row): CLASSES[number] for row, number in enumerate(numbers)}


def test_images_get_the_class_whose_text_is_closest(vectors, tmp_path, clip, encoder):
    found = classify(vectors, CLASSES, tmp_path / "out.parquet", text_model=clip)
    X, texts = np.load(vectors).astype(np.float64), embed_classes(encoder, CLASSES).astype(np.float64)
    cosines = (X / np.linalg.norm(X, axis=1, keepdims=True)) @ texts.T
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.equals(found.table)
    assert table.column_names == ["row", "key", "cluster", "confidence", "name"]
    assert table["cluster"].to_pylist() == cosines.argmax(axis=1).tolist()
    assert table["name"].to_pylist() == [CLASSES[number] for number in cosines.argmax(axis=1)]
    logits = encoder.logit_scale * cosines
    expected = np.exp(logits).max(axis=1) / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(table["confidence"].to_numpy(), expected, rtol=1e-4)
    assert (found.accuracy, found.n_labeled) == (None, 0)


def test_the_accuracy_is_that_of_the_labeled_images(vectors, tmp_path, clip):
    truth = np.repeat(np.arange(4), 10)
    names = {key: name for key, name in labels_of(truth).items() if int(key) < 30}
    keys = classify(vectors, CLASSES, tmp_path / "out.parquet", text_model=clip).table["key"].to_pylist()
    assert classify(
        vectors,
        CLASSES,
        tmp_path / "out.parquet",
        text_model=clip,
        labels={keys[int(row)]: name for row, name in names.items()},
    ).accuracy == pytest.approx(1.0)


def test_a_folder_of_images_is_embedded_and_nothing_is_left_beside_the_result(photos, tmp_path, clip):
    words = tmp_path / "names.txt"
    words.write_text("\n".join(CLASSES))
    out = tmp_path / "results" / "out.parquet"
    found = classify(photos, words, out, backbone=clip)
    assert found.table.num_rows == 45
    assert [file.name for file in out.parent.iterdir()] == ["out.parquet"]
    store = embed(photos, tmp_path / "store", backbone=clip, device="cpu", precision="float32", n_workers=1)
    again = classify(store.path, words, tmp_path / "again.parquet")
    assert again.table["cluster"].equals(found.table["cluster"])


def test_synsets_are_read_as_their_first_lemma_and_with_labels_as_their_best(
    vectors, tmp_path, clip, encoder
):
    wordnet = load_wordnet()
    ids = [wordnet.synsets(name)[0] for name in ("cat", "dog")]
    first = classify(vectors, ids, tmp_path / "out.parquet", text_model=clip)
    assert first.texts == tuple(wordnet.lemmas(one)[0] for one in ids)
    lemmas = [wordnet.lemmas(one) for one in ids]
    liked = [several[-1] for several in lemmas]
    file = tmp_path / "liked.npy"
    np.save(file, np.repeat(embed_classes(encoder, liked), 5, axis=0))
    keys = classify(file, ids, tmp_path / "b.parquet", text_model=clip).table["key"].to_pylist()
    labels = {key: ids[place // 5] for place, key in enumerate(keys)}
    found = classify(file, ids, tmp_path / "b.parquet", text_model=clip, labels=labels)
    assert list(found.texts) == liked
    assert found.accuracy == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["cat"]}, "two classes"),
        ({"classes": ["cat", "cat"]}, "named twice"),
        ({"classes": ["cat", " "]}, "empty"),
        ({"labels": {"0": "cta"}}, "did you mean 'cat'"),
        ({"labels": {"elsewhere": "cat"}}, "none of the images"),
        ({"text_model": None}, "--text-model"),
        ({"text_model": "hog"}, "text tower"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(vectors, tmp_path, clip, options, words):
    out = tmp_path / "sub" / "out.parquet"
    given = {"classes": CLASSES, "text_model": clip, **options}
    if options.get("labels") == {"0": "cta"}:
        keys = classify(vectors, CLASSES, tmp_path / "o.parquet", text_model=clip).table["key"].to_pylist()
        given["labels"] = {keys[0]: "cta"}
    with pytest.raises(InputError, match=words):
        classify(vectors, given.pop("classes"), out, **given)
    assert not out.exists()


def test_ids_and_words_stand_beside_each_other_and_unknown_ids_are_refused(vectors, tmp_path, clip):
    found = classify(vectors, ["n02084071", "red ship"], tmp_path / "out.parquet", text_model=clip)
    assert found.classes == ("n02084071", "red ship")
    assert found.texts == ("dog", "red ship")
    with pytest.raises(InputError, match="'n99999999' is no id of the nouns of WordNet"):
        classify(vectors, ["n99999999", "ship"], tmp_path / "out.parquet", text_model=clip)
    with pytest.raises(InputError, match="classes must be strings; got 3"):
        classify(vectors, ["ship", 3], tmp_path / "out.parquet", text_model=clip)


def test_labels_that_are_not_numbers_count_as_none(vectors, tmp_path, clip):
    table = pa.table({"key": ["0", "1", "2"], "label": [float("nan"), 1.0, float("nan")]})
    pq.write_table(table, tmp_path / "labels.parquet")
    given = {"text_model": clip, "labels": tmp_path / "labels.parquet"}
    assert classify(vectors, ["1.0", "2.0"], tmp_path / "out.parquet", **given).n_labeled == 1


def test_a_file_of_the_user_is_left_alone(vectors, tmp_path, clip):
    out = tmp_path / "mine.parquet"
    out.write_text("mine")
    with pytest.raises(InputError, match="wasn't written by `kinfold zeroshot`"):
        classify(vectors, CLASSES, out, text_model=clip)
    assert out.read_text() == "mine"


def test_a_table_by_another_format_s_name_is_refused(vectors, tmp_path, clip):
    with pytest.raises(InputError, match=r"end in \.parquet"):
        classify(vectors, CLASSES, tmp_path / "out.csv", text_model=clip)


def test_vectors_in_memory_are_classified_as_those_in_a_file(vectors, tmp_path, clip):
    found = classify(np.load(vectors), CLASSES, tmp_path / "memory.parquet", text_model=clip)
    assert found.table.equals(classify(vectors, CLASSES, tmp_path / "file.parquet", text_model=clip).table)
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} == {
        "memory.parquet",
        "file.parquet",
        vectors.name,
    }
