from __future__ import annotations

import numpy as np
import pytest

from kinfold.errors import InputError
from kinfold.language import (
    PLAIN,
    ZeroShotClassifier,
    choose_lemmas_by_labels,
    embed_classes,
    embed_words,
    zero_shot,
)
from support.text_models import DIM


class OnDisk:
    """A matrix that gives rows for slices, and remembers the most that was asked for at once."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.most = array, 0
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        piece = self._array[rows]
        self.most = max(self.most, len(piece))
        return piece


@pytest.fixture
def space():
    generator = np.random.default_rng(0)
    return generator.normal(size=(500, DIM)).astype(np.float32), generator.normal(size=(7, DIM))


def naive(X: np.ndarray, classes: np.ndarray, scale: float) -> np.ndarray:
    X, classes = (a.astype(np.float64) / np.linalg.norm(a, axis=1, keepdims=True) for a in (X, classes))
    out = np.empty((len(X), len(classes)))
    for i, x in enumerate(X):
        weights = [np.exp(scale * float(np.dot(x, c))) for c in classes]
        out[i] = np.array(weights) / sum(weights)
    return out


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_probabilities_are_the_softmax_of_scaled_cosines(space, scale):
    X, classes = space
    classifier = ZeroShotClassifier(classes, scale, device="cpu")
    expected = naive(X, classes, scale)
    got = classifier.predict_proba(X)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(classifier.predict(X), expected.argmax(1))


def test_lengths_do_not_count_and_clips_scale_is_the_default(space):
    X, classes = space
    one = ZeroShotClassifier(classes, device="cpu").predict_proba(X)
    other = ZeroShotClassifier(classes * 7, 100.0, device="cpu").predict_proba(X * 0.01)
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


def test_rows_are_read_in_blocks_of_bounded_memory(space, monkeypatch):
    X, classes = space
    classifier = ZeroShotClassifier(classes, device="cpu")
    whole, labels = classifier.predict_proba(X), classifier.predict(X)
    monkeypatch.setattr(zero_shot, "_BLOCK_BYTES", 4 * DIM * 32)
    matrix = OnDisk(X)
    np.testing.assert_allclose(classifier.predict_proba(matrix), whole, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(classifier.predict(matrix), labels)
    assert matrix.most == 32


def test_bad_rows_scales_and_shapes_are_refused(space):
    X, classes = space
    classifier = ZeroShotClassifier(classes, device="cpu")
    for value, place in ((0.0, 3), (np.nan, 4), (np.inf, 5)):
        bad = X.copy()
        bad[place] = value
        with pytest.raises(InputError, match=f"row {place} has no direction"):
            classifier.predict(bad)
    with pytest.raises(InputError, match=r"5 dimensions, .*the same vision-language model"):
        classifier.predict(X[:, :5])
    with pytest.raises(InputError, match="class 1 has no direction"):
        ZeroShotClassifier(np.array([[1.0, 0.0], [0.0, 0.0]]))
    for scale in (0, -1, float("nan"), float("inf"), "3", True, [3]):
        with pytest.raises(InputError, match="logit_scale"):
            ZeroShotClassifier(classes, scale)


def test_a_class_is_the_mean_direction_of_its_names(encoder):
    names = ["cat", ["dog", "hound"], "fox"]
    got = embed_classes(encoder, names)
    words = embed_words(encoder, ["cat", "dog", "hound", "fox"]).astype(np.float64)
    middle = words[1] + words[2]
    expected = np.stack([words[0], middle / np.linalg.norm(middle), words[3]])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(embed_classes(encoder, ["cat"]), embed_words(encoder, ["cat"]))


@pytest.mark.parametrize(
    "classes",
    [
        [], "cat", ["cat", []], ["cat", " "], ["cat", [""]],
        None, [1], [None], {"cat": 0}, {"cat"}, ["cat", {"dog", "hound"}],
    ],
)  # fmt: skip
def test_classes_without_names_are_refused(encoder, classes):
    with pytest.raises(InputError):
        embed_classes(encoder, classes)


def test_each_classes_own_images_vote_for_its_lemma(encoder, monkeypatch):
    generator = np.random.default_rng(1)
    classes = [["cat", "dog", "fox"], ["horse"], ["truck", "ship"], ["crane", "crane"], ["brown", "lazy"]]
    X = generator.normal(size=(300, DIM)).astype(np.float32)
    labels = generator.integers(-1, 4, size=300)
    expected, votes = [], []
    for number, lemmas in enumerate(classes):
        texts = embed_words(encoder, lemmas, prompts=PLAIN).astype(np.float64)
        count = np.zeros(len(lemmas), int)
        for x in X[labels == number].astype(np.float64):
            count[np.argmax([x @ text for text in texts])] += 1
        expected.append(lemmas[int(np.argmax(count))])
        votes.append(count)
    monkeypatch.setattr(zero_shot, "_BLOCK_BYTES", 4 * DIM * 37)
    choice = choose_lemmas_by_labels(encoder, classes, OnDisk(X), labels, prompts=PLAIN)
    assert choice.lemmas == tuple(expected)
    assert choice.lemmas[4] == "brown"  # without images: the first
    for mine, theirs in zip(choice.votes, votes, strict=True):
        assert mine.sum() == theirs.sum()
        np.testing.assert_array_equal(np.sort(mine), np.sort(theirs))
    np.testing.assert_allclose(
        choice.features, embed_words(encoder, choice.lemmas, prompts=PLAIN), rtol=1e-5, atol=1e-6
    )
    order = generator.permutation(300)
    again = choose_lemmas_by_labels(encoder, classes, X[order], labels[order], prompts=PLAIN)
    assert again.lemmas == choice.lemmas


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2.0], [0, 1, 2], [0, 1, -2]])
def test_labels_that_do_not_fit_are_refused(encoder, labels):
    with pytest.raises(InputError, match="labels must"):
        choose_lemmas_by_labels(encoder, ["cat", "dog"], np.ones((3, DIM), np.float32), np.array(labels))
