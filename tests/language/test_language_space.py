"""The text space against loops in float64."""

import math

import numpy as np
import pytest

from kinfold.errors import InputError
from kinfold.language.space import count_centres, select_nouns, text_counterparts


def made(n, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def naive_selection(nouns, centres, per_centre):
    """Return {centre: nouns, surest first} and the confidence of every noun."""
    own, confidence = {}, []
    for j, noun in enumerate(unit(nouns)):
        exponents = [math.exp(float(noun @ centre)) for centre in unit(centres)]
        best = exponents.index(max(exponents))
        confidence.append(exponents[best] / sum(exponents))
        own.setdefault(best, []).append(j)
    kept = {c: sorted(members, key=lambda j: (-confidence[j], j))[:per_centre] for c, members in own.items()}
    return kept, confidence


def naive_counterparts(X, nouns, temperature):
    nouns, found = unit(nouns), []
    for row in unit(X):
        scores = [float(row @ noun) / temperature for noun in nouns]
        weights = [math.exp(score - max(scores)) for score in scores]
        mean = sum(weight * noun for weight, noun in zip(weights, nouns, strict=True)) / sum(weights)
        found.append(mean / np.linalg.norm(mean))
    return np.array(found)


@pytest.mark.parametrize("per_centre", [1, 3, 100])
def test_selection_is_the_naive_loop(per_centre):
    nouns, centres = 3 * made(200), made(9, seed=1)
    selection = select_nouns(nouns, centres, per_centre=per_centre, device="cpu")
    kept, confidence = naive_selection(nouns, centres, per_centre)
    found = {}
    for index, centre in zip(selection.indices.tolist(), selection.centres.tolist(), strict=True):
        found.setdefault(centre, []).append(index)
    assert found == kept
    np.testing.assert_allclose(selection.confidences, np.array(confidence)[selection.indices], rtol=1e-5)
    assert (np.diff(selection.confidences) <= 0).all()
    assert len(set(selection.indices.tolist())) == len(selection.indices)


def test_selection_does_not_depend_on_pieces_of_the_centres(monkeypatch):
    nouns, centres = made(500), made(20, seed=1)
    centres[13] = centres[2]  # equal ones in two pieces: the first one gets the nouns
    whole = select_nouns(nouns, centres, device="cpu")
    monkeypatch.setattr("kinfold.language.space._CPU_COLUMNS", 6)
    pieces = select_nouns(nouns, centres, device="cpu")
    np.testing.assert_array_equal(pieces.indices, whole.indices)
    np.testing.assert_array_equal(pieces.centres, whole.centres)
    np.testing.assert_allclose(pieces.confidences, whole.confidences, rtol=1e-6)
    assert 2 in pieces.centres
    assert 13 not in pieces.centres


def test_selection_does_not_depend_on_blocks(monkeypatch):
    nouns, centres = made(500), made(20, seed=1)
    whole = select_nouns(nouns, centres, device="cpu")
    monkeypatch.setattr("kinfold.language.space._MOST_ROWS", 7)
    parts = select_nouns(nouns, centres, device="cpu")
    np.testing.assert_array_equal(parts.indices, whole.indices)


@pytest.mark.parametrize("temperature", [0.005, 0.1, 5.0])
def test_counterparts_are_the_naive_loop(temperature, monkeypatch):
    X, nouns = 7 * made(50), made(30, seed=1)
    expected = naive_counterparts(X, nouns, temperature)
    np.testing.assert_allclose(text_counterparts(X, nouns, temperature=temperature), expected, atol=2e-5)
    monkeypatch.setattr("kinfold.language.space._MOST_ROWS", 7)
    np.testing.assert_allclose(text_counterparts(X, nouns, temperature=temperature), expected, atol=2e-5)


def test_counterparts_are_written_where_they_are_wanted(tmp_path):
    X, nouns = made(20), made(5, seed=1)
    out = np.lib.format.open_memmap(tmp_path / "texts.npy", "w+", np.float32, X.shape)
    assert text_counterparts(X, nouns, out=out) is out
    np.testing.assert_array_equal(out, text_counterparts(X, nouns))
    with pytest.raises(InputError, match="float32 of shape"):
        text_counterparts(X, nouns, out=np.empty((20, 7), np.float32))


def test_one_noun_is_everybodys_counterpart():
    X, noun = made(20), made(1, seed=1)
    np.testing.assert_allclose(text_counterparts(X, noun), np.repeat(unit(noun), 20, axis=0), atol=1e-6)
    assert select_nouns(noun, made(3, seed=2)).indices.tolist() == [0]


def test_equal_nouns_take_places_in_order_and_weigh_together():
    noun = made(1, seed=1)
    nouns = np.repeat(noun, 6, axis=0)
    assert select_nouns(nouns, made(3, seed=2), per_centre=4).indices.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(text_counterparts(made(9), nouns), text_counterparts(made(9), noun), atol=1e-6)


def test_equal_centres_leave_all_nouns_to_the_first():
    centres = np.repeat(made(1, seed=3), 4, axis=0)
    assert set(select_nouns(made(30), centres).centres.tolist()) == {0}


def test_a_row_without_direction_gets_the_mean_noun():
    X, nouns = np.zeros((2, 8), np.float32), made(5, seed=1)
    mean = unit(nouns).mean(axis=0)
    np.testing.assert_allclose(text_counterparts(X, nouns)[1], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize(
    ("nouns", "centres", "words"),
    [
        (made(5, dim=7), made(3), "7 dimensions.*8"),
        (np.zeros((5, 8)), made(3), "nouns: .*zero"),
        (made(5), np.full((3, 8), np.nan), "centres: .*not finite"),
        (made(5).reshape(-1), made(3), "nouns: .*matrix"),
    ],
)
def test_what_has_no_direction_is_refused_by_name(nouns, centres, words):
    with pytest.raises(InputError, match=words):
        select_nouns(nouns, centres)


def test_images_that_are_not_finite_are_refused():
    X = made(5)
    X[3, 2] = np.inf
    with pytest.raises(InputError, match="not finite"):
        text_counterparts(X, made(3, seed=1))


@pytest.mark.parametrize(
    ("n_samples", "n_clusters", "expected"),
    [
        (50_000, 10, 167),
        (13_000, 10, 43),
        (3_000, 10, 10),
        (2_999, 10, 30),
        (3_760, 47, 141),
        (9_537, 101, 303),
        (1_281_167, 1000, 4271),
        (20, 10, 20),
        (450, 1, 2),
        (1, 1, 1),
    ],
)
def test_centres_are_one_per_300_samples_or_three_per_small_cluster(n_samples, n_clusters, expected):
    assert count_centres(n_samples, n_clusters) == expected
