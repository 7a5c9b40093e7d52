from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from kinfold.errors import InputError
from kinfold.features.unit_rows import UnitRows
from kinfold.hierarchy import load_wordnet
from kinfold.language import _words
from kinfold.language._words import SenseChooser, reached_by_chance
from kinfold.language.naming import name_clusters

DIM = 32


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def made(n_groups=6, per_group=40, n_nouns=300, seed=0, spread=0.8):
    """Groups of images around directions of their own, and nouns, of which the first are those directions."""
    rng = np.random.default_rng(seed)
    nouns = rng.normal(size=(n_nouns, DIM))
    labels = np.repeat(np.arange(n_groups), per_group)
    noise = rng.normal(size=(len(labels), DIM))
    X = unit(nouns)[labels] * rng.uniform(0.5, 2, (len(labels), 1)) + spread / math.sqrt(DIM) * noise
    return X.astype(np.float32), labels, nouns.astype(np.float32), [f"word {i}" for i in range(n_nouns)]


def naive(X, labels, k, features, nouns, *, n_names=5, n_candidates=64, n_rivals=5, scale=100.0, needed=0.0):
    """The rule in float64, one group at a time, with no regard to distinct names."""
    X, features = unit(X), unit(features)
    alive = [c for c in range(k) if (labels == c).any()]
    centres = {c: unit(X[labels == c].mean(0)[None])[0] for c in alive}
    found = {}
    for c in alive:
        others = sorted((other for other in alive if other != c), key=lambda o: -(centres[o] @ centres[c]))
        rivals = others[:n_rivals]
        logits = scale * features @ centres[c]
        candidates = np.argsort(-logits)[:n_candidates]
        total = math.log(sum(math.exp(value - logits.max()) for value in logits)) + logits.max()
        rows = []
        for v in candidates:
            among = [logits[v], *(scale * features[v] @ centres[r] for r in rivals)]
            score = (logits[v] - total) + (logits[v] - np.logaddexp.reduce(among))
            aucs = []
            for r in rivals:
                own, theirs = X[labels == c] @ features[v], X[labels == r] @ features[v]
                truth = np.r_[np.ones(len(own)), np.zeros(len(theirs))]
                aucs.append(roc_auc_score(truth, np.r_[own, theirs]))
            rows.append((nouns[v], score, logits[v] / scale, np.mean(aucs)))
        rows.sort(key=lambda row: -row[1])
        found[c] = [row for row in rows if row[3] >= needed][:n_names]
    return found


@pytest.mark.parametrize(("spread", "scale"), [(0.8, 100.0), pytest.param(3.0, 20.0, marks=pytest.mark.slow)])
def test_scores_and_separations_are_those_of_a_naive_float64_loop(spread, scale):
    X, labels, features, nouns = made(spread=spread)
    expected = naive(X, labels, 6, features, nouns, n_rivals=3, scale=scale)
    found = name_clusters(
        X, labels, 6, features, nouns, n_rivals=3, logit_scale=scale, min_separation=0, device="cpu"
    )
    for c, rows in expected.items():
        assert found[c].noun == f"word {c}"
        assert [name.noun for name in found[c].names] == [row[0] for row in rows]
        got = [(name.score, name.similarity, name.separation) for name in found[c].names]
        np.testing.assert_allclose(got, [row[1:] for row in rows], atol=2e-4)


def test_the_right_words_are_found_and_no_group_shares_its_first():
    X, labels, features, nouns = made(n_groups=40, n_nouns=2000)
    found = name_clusters(X, labels, 40, features, nouns, device="cpu")
    assert found.nouns == tuple(nouns[:40])
    assert all(0.6 <= name.separation <= 1 for one in found.values() for name in one.names)


def test_blocks_and_memory_maps_change_nothing(tmp_path, monkeypatch):
    X, labels, features, nouns = made(spread=3.0)
    expected = name_clusters(X, labels, 6, features, nouns, min_separation=0, device="cpu")
    for name, array in (("X", X), ("nouns", features)):
        np.save(tmp_path / f"{name}.npy", array)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("X", "nouns")]
    monkeypatch.setattr(_words, "_IMAGE_BLOCK_BYTES", 4000)
    monkeypatch.setattr(_words, "_WORD_BLOCK_BYTES", 8000)
    monkeypatch.setattr(_words, "_CENTRES_AT_ONCE", 4)
    found = name_clusters(mapped[0], labels, 6, mapped[1], nouns, min_separation=0, device="cpu")
    assert_same(found, expected)


def assert_same(found, expected, place=lambda cluster: cluster):
    """Compare names; sums in another order differ in their last digits."""
    for cluster, one in expected.items():
        other = found[place(cluster)]
        assert [name.noun for name in other.names] == [name.noun for name in one.names]
        assert [name.synset for name in other.names] == [name.synset for name in one.names]
        numbers = [[(n.score, n.similarity, n.separation) for n in group.names] for group in (other, one)]
        np.testing.assert_allclose(*numbers, atol=1e-4)


def test_permuted_rows_and_groups_permute_the_names_also_of_large_groups():
    X, labels, features, nouns = made(n_groups=5, per_group=700, spread=3.0)
    expected = name_clusters(X, labels, 5, features, nouns, device="cpu")
    random = np.random.default_rng(1)
    rows, groups = random.permutation(len(X)), random.permutation(5)
    found = name_clusters(X[rows], groups[labels[rows]], 5, features, nouns, device="cpu")
    assert_same(found, expected, lambda cluster: int(groups[cluster]))
    again = name_clusters(X, labels, 5, features, nouns, device="cpu")
    assert again == expected


def test_a_large_group_is_judged_by_a_sample_that_the_seed_chooses():
    X, labels, features, nouns = made(n_groups=3, per_group=900, spread=4.0)
    options = {"min_separation": 0, "device": "cpu"}
    exact = naive(X, labels, 3, features, nouns)
    found = [name_clusters(X, labels, 3, features, nouns, random_state=s, **options) for s in (0, 1)]
    assert found[0] != found[1]
    for names in found:
        for cluster, rows in exact.items():
            assert [n.noun for n in names[cluster].names] == [row[0] for row in rows]
            gaps = [n.separation - row[3] for n, row in zip(names[cluster].names, rows, strict=True)]
            assert np.abs(gaps).max() < 0.06  # three deviations of a sample of 256


@pytest.mark.parametrize(("size", "most"), [(2, 0), (5, 0.2), (20, 0.05), (200, 0.0)])
def test_random_groups_of_the_same_images_hardly_ever_get_names_unless_they_are_tiny(size, most):
    X, labels, features, nouns = made(n_groups=20, per_group=200, n_nouns=2000, spread=2.0)
    n_groups = min(50, len(X) // size)
    random = np.random.default_rng(3)
    named = total = 0
    for _ in range(4):
        rows = random.permutation(len(X))[: n_groups * size]
        groups = np.arange(len(rows)) % n_groups
        found = name_clusters(X[rows], groups, n_groups, features, nouns, device="cpu")
        named += sum(noun is not None for noun in found.nouns)
        total += n_groups
    assert named / total <= most
    true = name_clusters(X, labels, 20, features, nouns, device="cpu")
    assert true.nouns == tuple(nouns[:20])


def test_the_bound_of_chance_holds_for_random_groups_by_simulation():
    random = np.random.default_rng(0)
    for n_own, n_other in ((3, 40), (6, 30), (30, 30), (200, 200)):
        values = random.random((20_000, n_own + n_other)) if n_own < 100 else random.random((2000, 400))
        order = values.argsort(axis=1).argsort(axis=1)
        separations = (order[:, :n_own].sum(axis=1) - n_own * (n_own - 1) / 2) / (n_own * n_other)
        for n_words in (1, 16):
            reached = (separations >= reached_by_chance(n_own, [n_other], n_words)).mean()
            assert reached <= 1.5 * 0.05 / n_words
    assert reached_by_chance(2, [5, 5], 64) == math.inf
    assert reached_by_chance(0, [5], 1) == math.inf
    bounds = [reached_by_chance(n, [n] * 5, 64) for n in (5, 10, 20, 50, 100, 256)]
    assert bounds == sorted(bounds, reverse=True)
    assert 0.5 < bounds[-1] < 0.6


def test_groups_without_images_or_direction_have_no_name_and_a_reason():
    X, labels, features, nouns = made(n_groups=3)
    X = np.vstack([X, np.zeros((4, DIM)), [X[0], -X[0]], X[:2]]).astype(np.float32)
    labels = np.r_[labels, [3] * 4, [5] * 2, -1, 0]
    X[0] = 0
    found = name_clusters(X, labels, 7, features, nouns, device="cpu")
    assert found.nouns == ("word 0", "word 1", "word 2", None, None, None, None)
    assert found[4].reason == found[6].reason == "it has no images"
    assert found[3].reason == found[5].reason == "its images have no common direction"
    assert found[0].reason == ""
    assert name_clusters(np.zeros((3, DIM)), [0, 0, 1], 2, features, nouns).nouns == (None, None)


def test_one_group_alone_and_groups_of_one_image_have_no_name_unless_asked_for():
    X, labels, features, nouns = made(n_groups=4, spread=0.3)
    one = name_clusters(X[:40], labels[:40], 1, features, nouns, device="cpu")
    assert one[0].reason == "there is no other group to tell it from"
    assert name_clusters(X[:40], labels[:40], 1, features, nouns, min_separation=0)[0].noun == "word 0"
    single = name_clusters(X[::40], labels[::40], 4, features, nouns, device="cpu")
    assert single.nouns == (None,) * 4
    assert "too few images" in single[0].reason
    asked = name_clusters(X[::40], labels[::40], 4, features, nouns, min_separation=0, device="cpu")
    assert asked.nouns == tuple(nouns[:4])


def test_equal_images_everywhere_separate_nothing():
    _, _, features, nouns = made()
    X = np.tile(features[3] / 3, (120, 1))
    found = name_clusters(X, np.arange(120) % 4, 4, features, nouns, device="cpu")
    assert found.nouns == (None,) * 4
    assert "reaches a separation of 0.50" in found[0].reason


def test_a_noun_that_stands_twice_counts_once():
    X, labels, features, nouns = made()
    twice = np.vstack([features, features[::-1]])
    expected = name_clusters(X, labels, 6, features, nouns, device="cpu")
    assert name_clusters(X, labels, 6, twice, [*nouns, *nouns[::-1]], device="cpu") == expected
    cased = name_clusters(X, labels, 6, twice, [*nouns, *map(str.upper, nouns[::-1])], device="cpu")
    assert cased.nouns == expected.nouns
    for one in cased.values():
        assert len({name.noun.lower() for name in one.names}) == len(one.names)


def test_a_word_is_kept_by_the_group_that_it_names_best():
    X, labels, features, nouns = made(n_groups=4, spread=1.5)
    split = labels.copy()
    split[:15] = 4  # a part of group 0
    found = name_clusters(X, split, 5, features, nouns, min_separation=0, device="cpu")
    firsts = [noun for noun in found.nouns if noun]
    assert len(set(firsts)) == len(firsts) == 5
    wanting = [one for one in found.values() if "word 0" in [name.noun for name in one.names]]
    assert {one.cluster for one in wanting} >= {0, 4}
    holder = next(one for one in wanting if one.noun == "word 0")
    scores = [name.score for one in wanting for name in one.names if name.noun == "word 0"]
    assert next(name.score for name in holder.names if name.noun == "word 0") == max(scores)
    few = name_clusters(X, split, 5, features[:2], nouns[:2], min_separation=0, device="cpu")
    assert sorted(filter(None, few.nouns)) == ["word 0", "word 1"]
    assert [one.reason for one in few.values() if not one.names] == [
        "every word that fits it names another group better"
    ] * 3


def senses_of(word):
    """Nouns that hold the word and all that its senses are compared by."""
    wordnet = load_wordnet()
    related = {word}
    for synset in wordnet.synsets(word):
        for node in (synset, *wordnet.parents(synset)):
            related.update(wordnet.lemmas(node))
    return wordnet, sorted(related)


@pytest.mark.parametrize(
    ("word", "meant", "name"), [("crane", "wading bird", "crane"), ("crane", "lifting device", "crane")]
)
def test_the_sense_is_the_one_whose_neighbours_in_wordnet_fit_the_group(word, meant, name):
    wordnet, nouns = senses_of(word)
    random = np.random.default_rng(0)
    features = unit(random.normal(size=(len(nouns), 64))).astype(np.float32)
    rows = UnitRows(features, torch.device("cpu"))
    chooser = SenseChooser(nouns, rows, wordnet)
    centre = torch.from_numpy(features[nouns.index(meant)])
    sense = chooser.choose([nouns.index(word)], centre)[0]
    assert meant in [lemma for parent in wordnet.parents(sense.synset) for lemma in wordnet.lemmas(parent)]
    assert sense.noun == name
    assert sense.path[0] == wordnet.name(sense.synset)
    assert sense.path[-1] == "entity"
    fits = {}
    for synset in wordnet.synsets(word):
        words = {*wordnet.lemmas(synset)}
        for parent in wordnet.parents(synset):
            words.update(wordnet.lemmas(parent))
        words = [one for one in words if one.lower() != word]
        fits[synset] = np.mean([features[nouns.index(one)] @ centre.numpy() for one in words])
    assert sense.synset == max(fits, key=fits.get)


def test_the_spelling_is_that_of_the_sense():
    wordnet, nouns = senses_of("turkey")
    features = unit(np.random.default_rng(0).normal(size=(len(nouns), 64))).astype(np.float32)
    chooser = SenseChooser(nouns, UnitRows(features, torch.device("cpu")), wordnet)
    bird = torch.from_numpy(features[nouns.index("domestic fowl")])
    assert chooser.choose([nouns.index("Turkey")], bird)[0].noun == "turkey"


def test_words_outside_wordnet_have_no_path_and_undecided_ones_their_commonest_sense():
    X, labels, features, _ = made(n_groups=4)
    nouns = ["crane", "flurbish", "Domestic_Dog", *(f"word {i}" for i in range(297))]
    found = name_clusters(X, labels, 4, features, nouns, device="cpu")
    assert found.nouns[:3] == ("crane", "flurbish", "Domestic_Dog")
    assert found[0].names[0].synset == load_wordnet().synsets("crane")[0]
    assert found[1].names[0].synset is None
    assert found[1].names[0].path == ()
    assert found[2].names[0].synset == "n02084071"


def test_what_does_not_fit_is_refused_by_name():
    X, labels, features, nouns = made()
    refused = [
        ({"labels": labels[:-1]}, "labels must be 240 integers"),
        ({"labels": labels + 1}, "labels must lie in -1"),
        ({"labels": labels / 2}, "integers"),
        ({"nouns": nouns[:-1]}, "299 nouns and 300 features"),
        ({"nouns": "word"}, "list of words"),
        ({"noun_features": features[:, :-1]}, "32 dimensions, the nouns 31"),
        ({"noun_features": np.zeros_like(features)}, "nouns: "),
        ({"X": np.full_like(X, np.nan)}, "row 0 of the images"),
        ({"n_clusters": 0}, "n_clusters must be"),
        ({"n_names": 0}, "n_names must be"),
        ({"n_candidates": 1.5}, "n_candidates must be"),
        ({"n_rivals": True}, "n_rivals must be"),
        ({"min_separation": 1.2}, "min_separation must be a number in .0, 1."),
        ({"min_separation": float("nan")}, "min_separation must be a number in .0, 1."),
        ({"logit_scale": 0.0}, "logit_scale must be"),
    ]
    given = {"X": X, "labels": labels, "n_clusters": 6, "noun_features": features, "nouns": nouns}
    for change, message in refused:
        with pytest.raises(InputError, match=message):
            name_clusters(**(given | change), device="cpu")


@pytest.mark.parametrize("random_state", [-1, 0.5, None, True])
def test_a_seed_that_is_none_is_refused(random_state):
    with pytest.raises(InputError, match="random_state must be"):
        name_clusters(np.eye(4), [0, 0, 1, 1], 2, np.eye(4), list("abcd"), random_state=random_state)
