"""Score nouns as names of clusters, and choose the sense of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.errors import InputError
from kinfold.hierarchy import WordNet
from kinfold.progress import Progress
from kinfold.rows import RowMatrix
from kinfold.rows.readers import UnitRows

# Rows that are read at once: small beside the features, large enough to hide the cost of a read.
_IMAGE_BLOCK_BYTES = 64 << 20
# Multipliers of the SplitMix64 generator's output function, which spreads nearby values over all 64 bits.
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))

# Centres that are compared at once; bounds a block of cosines (1024 × 119,034 nouns are read in pieces).
_CENTRES_AT_ONCE = 1024
_WORD_BLOCK_BYTES = 64 << 20
# Cosines that are closer than this are equal: the last digits depend on a row's place in a matrix product.
_TIE = 1e-6
_CHANCE = 0.05  # share of random clusters that may get a name: the usual level of significance


@dataclass(frozen=True)
class ClusterSamples:
    """Clusters of rows: their sizes, their centres, and some rows that stand for each.

    Attributes
    ----------
    sizes : ndarray (K,) int64
        Rows of each cluster.
    members : ndarray (K,) int64
        Those of them that have a direction.
    centres : Tensor (K, D) float32
        Mean of the unit rows at unit length; zero where there is none.
    samples : tuple of K ndarrays, int64
        Rows that stand for each cluster, ascending; they have a direction.
    """

    sizes: NDArray[np.int64]
    members: NDArray[np.int64]
    centres: Tensor
    samples: tuple[NDArray[np.int64], ...]

    @property
    def alive(self) -> NDArray[np.int64]:
        """The clusters that have a centre, ascending."""
        return np.flatnonzero(torch.linalg.vector_norm(self.centres, dim=1).cpu().numpy() > 0.5)


def read_clusters(
    X: RowMatrix,
    labels: NDArray[np.int64],
    n_clusters: int,
    *,
    n_samples: int,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> ClusterSamples:
    """Read all rows once and return their clusters.

    Which rows stand for a cluster depends on the seed and on what is in the rows, not on where they are, so
    that the same rows in another order give the same clusters.

    Parameters
    ----------
    X : RowMatrix (N, D)
        Rows of any length. One that is zero has no direction and counts in ``sizes`` alone.
    labels : ndarray (N,) int64
        Group of each row, −1 for none.
    n_clusters : int
        K.
    n_samples : int
        Rows that stand for a cluster at most.
    seed : int
        Of the choice of rows.
    device : torch.device
        Where the centres end.
    progress : Progress
        Shows rows.

    Raises
    ------
    InputError
        A row isn't finite.
    """
    n, dim = int(X.shape[0]), int(X.shape[1])
    weights = np.random.default_rng(seed).integers(1, 2**63, dim, dtype=np.uint64) | np.uint64(1)
    # In double precision, so that the order of a million rows doesn't show in a centre.
    sums = torch.zeros((n_clusters, dim), dtype=torch.float64)
    marks = np.zeros(n, np.uint64)
    usable = np.zeros(n, np.bool_)
    step = max(1, _IMAGE_BLOCK_BYTES // (8 * dim))
    with progress.task("Finding the middle of groups", n, "images") as task:
        for start in range(0, n, step):
            rows = slice(start, min(n, start + step))
            block = np.asarray(X[rows])
            # On the CPU: index_add_ on CUDA adds in an order that changes from run to run.
            unit = UnitRows(block, device).read(0, len(block)).cpu()
            norms = torch.linalg.vector_norm(unit, dim=1)
            if not bool(torch.isfinite(norms).all()):
                row = start + int((~torch.isfinite(norms)).nonzero()[0])
                raise InputError(f"row {row} of the images holds values that are not finite")
            usable[rows] = (norms > 0.5).numpy() & (labels[rows] >= 0)
            kept = torch.from_numpy(np.flatnonzero(usable[rows]))
            sums.index_add_(0, torch.from_numpy(labels[rows])[kept], unit[kept].double())
            marks[rows] = _mark(block, weights)
            task.advance(len(block))
    chosen = np.where(usable, labels, -1)
    return ClusterSamples(
        sizes=np.bincount(labels[labels >= 0], minlength=n_clusters),
        members=np.bincount(chosen[chosen >= 0], minlength=n_clusters),
        centres=_directions(sums).to(device),
        samples=_choose(chosen, marks, n_clusters, n_samples),
    )


def _directions(sums: Tensor) -> Tensor:
    """Return sums at unit length; those that cancel out become zero."""
    norms = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    # 1e-9: far above rounding in double precision, far below any sum of rows that agree at all.
    return torch.where(norms > 1e-9, sums / norms.clamp_min(1e-9), 0.0).float()


def _mark(block: NDArray[Any], weights: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a random-looking number for each row that depends on its values alone."""
    with np.errstate(over="ignore", invalid="ignore"):
        words = np.ascontiguousarray(block, dtype=np.float32).view(np.uint32).astype(np.uint64)
        mark: NDArray[np.uint64] = words @ weights
        # A plain weighted sum would order similar rows alike for every seed; mixing breaks that.
        for factor in _MIX:
            mark = (mark ^ (mark >> np.uint64(31))) * factor
    return mark


def _choose(
    labels: NDArray[np.int64], marks: NDArray[np.uint64], n_clusters: int, n_samples: int
) -> tuple[NDArray[np.int64], ...]:
    """Return the rows of each cluster with the smallest marks."""
    order = np.lexsort((marks, labels))
    order = order[np.searchsorted(labels[order], 0) :]
    ends = np.cumsum(np.bincount(labels[order], minlength=n_clusters))
    starts = np.r_[0, ends[:-1]]
    return tuple(
        np.sort(order[start : min(end, start + n_samples)]) for start, end in zip(starts, ends, strict=True)
    )


@dataclass(frozen=True)
class Sense:
    """What a word means.

    Attributes
    ----------
    noun : str
        The word as this sense is written, where the nouns have it so (``turkey`` rather than ``Turkey``).
    synset : str or None
        Its synset; None for words that aren't in WordNet.
    path : tuple of str
        Names from the synset up to ``entity``.
    """

    noun: str
    synset: str | None = None
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class SenseChooser:
    """Chooses senses by what else belongs to them.

    Parameters
    ----------
    nouns : sequence of str
        The words.
    features : UnitRows (V, D)
        Their features.
    wordnet : WordNet
        Where senses are from.
    """

    nouns: Sequence[str]
    features: UnitRows
    wordnet: WordNet

    def choose(self, numbers: Sequence[int], centre: Tensor) -> list[Sense]:
        """Return the sense of each word for a cluster.

        Of several synsets it is the one whose other lemmas, and those of its hypernyms, have the highest mean
        cosine with the centre; equal ones go by WordNet's order. Where the nouns hold no such word for one of
        the senses they can't be compared, and the first one, the most frequent, is taken.

        Parameters
        ----------
        numbers : sequence of int
            Which of the nouns.
        centre : Tensor (D,)
            The cluster's centre.
        """
        senses = {number: self._senses(self.nouns[number]) for number in numbers}
        context = {
            synset: self._context(synset, self.nouns[number])
            for number in numbers
            for synset in senses[number]
            if len(senses[number]) > 1
        }
        fits = self._fits(context, centre)
        chosen = []
        for number in numbers:
            word, synsets = self.nouns[number], senses[number]
            if not synsets:
                chosen.append(Sense(word))
                continue
            best = synsets[0]
            if len(synsets) > 1 and all(synset in fits for synset in synsets):
                best = max(synsets, key=lambda synset: fits[synset])  # the first of equals
            path = tuple(self.wordnet.name(node) for node in self.wordnet.path_to_root(best))
            chosen.append(Sense(self._spell(word, best), best, path))
        return chosen

    def _senses(self, word: str) -> tuple[str, ...]:
        return self.wordnet.synsets(word) if as_key(word) in self._known else ()

    def _context(self, synset: str, word: str) -> tuple[int, ...]:
        """Return the numbers of the words that belong to a sense, ``word`` itself left out."""
        related = [*self.wordnet.lemmas(synset)]
        for parent in self.wordnet.parents(synset):
            related += self.wordnet.lemmas(parent)
        found = {self._number_of.get(as_key(lemma)) for lemma in related if as_key(lemma) != as_key(word)}
        return tuple(sorted(number for number in found if number is not None))

    def _fits(self, context: Mapping[str, Sequence[int]], centre: Tensor) -> dict[str, float]:
        """Return the mean cosine of each sense's words with the centre, of those that have any."""
        numbers = np.array(sorted({number for several in context.values() for number in several}), np.int64)
        if not len(numbers):
            return {}
        cosines: NDArray[np.float64] = (self.features.take(numbers) @ centre).double().cpu().numpy()
        return {
            synset: float(cosines[np.searchsorted(numbers, several)].mean())
            for synset, several in context.items()
            if several
        }

    def _spell(self, word: str, synset: str) -> str:
        """Return the word as it is written in a synset, if it stands so among the nouns."""
        for lemma in self.wordnet.lemmas(synset):
            if as_key(lemma) == as_key(word) and lemma in self._strings:
                return lemma
        return word

    @cached_property
    def _number_of(self) -> dict[str, int]:
        numbers: dict[str, int] = {}
        for number, noun in enumerate(self.nouns):
            numbers.setdefault(as_key(noun), number)
        return numbers

    @cached_property
    def _known(self) -> frozenset[str]:
        """The words of WordNet; asking it for another one makes it look for the nearest, which takes long."""
        return frozenset(as_key(noun) for noun in self.wordnet.nouns().strings)

    @cached_property
    def _strings(self) -> frozenset[str]:
        return frozenset(self.nouns)


def as_key(word: str) -> str:
    """Return what is the same for all ways to write a word."""
    return word.replace("_", " ").lower()


@dataclass(frozen=True)
class Words:
    """The words that lie closest to each of A clusters, the closest first.

    Attributes
    ----------
    clusters : ndarray (A,) int64
        The clusters.
    rivals : ndarray (A, R) int64
        The R clusters closest to each, by their numbers.
    nouns : ndarray (A, n) int64
        Numbers of the words.
    similarities : ndarray (A, n) float32
        Cosines of word and centre.
    scores : ndarray (A, n) float64
        log p(noun | cluster) + log p(cluster | noun, among the cluster and its rivals).
    separations : ndarray (A, n) float64
        Probability that an image of the cluster lies closer to the word than one of the rivals.
    """

    clusters: NDArray[np.int64]
    rivals: NDArray[np.int64]
    nouns: NDArray[np.int64]
    similarities: NDArray[np.float32]
    scores: NDArray[np.float64]
    separations: NDArray[np.float64]


def find_rivals(centres: Tensor, n_rivals: int) -> NDArray[np.int64]:
    """Return the places of the closest other centres, int64 (A, min(n_rivals, A − 1)), the closest first."""
    n = len(centres)
    found = np.empty((n, max(0, min(n_rivals, n - 1))), np.int64)
    if n < 2:
        return found
    for start in range(0, n, _CENTRES_AT_ONCE):
        cosines = centres[start : start + _CENTRES_AT_ONCE] @ centres.T
        own = torch.arange(len(cosines), device=cosines.device)
        cosines[own, start + own] = -math.inf  # a centre is no rival of its own
        found[start : start + len(cosines)] = cosines.topk(found.shape[1], dim=1).indices.cpu().numpy()
    return found


def find_words(
    clusters: ClusterSamples,
    X: RowMatrix,
    nouns: UnitRows,
    n_words: int,
    n_rivals: int,
    scale: float,
    progress: Progress,
) -> Words:
    """Return the closest words of every cluster that has a centre, with their scores and separations."""
    alive = clusters.alive
    centres = clusters.centres[torch.from_numpy(alive).to(clusters.centres.device)]
    rivals = find_rivals(centres, n_rivals)
    numbers, cosines, totals = _closest(nouns, centres, n_words, scale, progress)
    scores = np.empty(numbers.shape, np.float64)
    separations = np.empty(numbers.shape, np.float64)
    # "mps" has no float64, which the area under the curve is summed in.
    images = UnitRows(X, torch.device("cpu") if centres.device.type == "mps" else centres.device)
    with progress.task("Separating groups by words", len(alive), "groups") as task:
        for batch in _batches(
            len(alive), (1 + rivals.shape[1]) * max(map(len, clusters.samples), default=1) * nouns.dim
        ):
            words = nouns.take(numbers[batch].reshape(-1)).reshape(*numbers[batch].shape, -1)
            others = centres[torch.from_numpy(rivals[batch]).to(centres.device)]
            theirs = scale * (words @ others.transpose(1, 2)).cpu().double().numpy()
            own = scale * cosines[batch].astype(np.float64)
            among = np.logaddexp.reduce(np.concatenate([own[..., None], theirs], axis=2), axis=2)
            scores[batch] = (own - totals[batch, None]) + (own - among)
            sides = alive[np.c_[np.arange(len(alive))[batch], rivals[batch]]]
            separations[batch] = _separate(images, clusters.samples, sides, words)
            task.advance(len(sides))
    return Words(alive, alive[rivals], numbers, cosines, scores, separations)


def separation(own: Tensor, rivals: Sequence[Tensor]) -> Tensor:
    """Return how well words separate images from those of rivals, which weigh alike: float64 (n,).

    The area under the ROC curve: the probability that an image's cosine with the word is larger than that of
    a rival's image, equal ones counted half.

    Parameters
    ----------
    own : Tensor (m, n)
        Cosines of images and words.
    rivals : sequence of Tensors (r, n)
        The same of each rival's images, one or more.
    """
    # Sorted once per word, so that each image needs two binary searches and no comparison with all rivals.
    others, order = torch.cat(list(rivals)).T.contiguous().sort(dim=1)
    shares = [np.full(len(rival), 1 / (len(rivals) * len(rival))) for rival in rivals]
    weights = torch.from_numpy(np.concatenate(shares)).to(own.device)
    below = torch.zeros((others.shape[0], others.shape[1] + 1), dtype=torch.float64, device=own.device)
    torch.cumsum(weights[order], dim=1, out=below[:, 1:])
    values = own.T.contiguous()
    less = below.gather(1, torch.searchsorted(others, values - _TIE))
    upto = below.gather(1, torch.searchsorted(others, values + _TIE, right=True))
    return ((less + upto).mean(dim=1) / 2).clamp(0, 1)


def reached_by_chance(n_own: int, n_rivals: Sequence[int], n_words: int) -> float:
    """Return what the best word of a random cluster reaches in about one of twenty cases at most.

    The ranks of a random cluster's images among those of its rivals are like uniform numbers, so that a
    word's separation is like the mean of ``n`` of them, ``1/n = 1/m + 1/r + 1/(mr)``, where r counts the
    rivals' images by their weights. Of the two bounds of its tail,
    ``P(mean ≥ 1 − x) ≤ (nx)ⁿ / Γ(n + 1)`` for few and ``P(mean ≥ ½ + t) ≤ exp(−6 n t²)`` for many images,
    the tighter one is used; n_words of them are allowed for. That the words were chosen for being close to
    these images isn't, which matters in clusters of a few images alone.

    Returns
    -------
    float
        Above 1 where the images are too few to tell anything from chance: even of perfect separations there
        would be one in more than a twentieth of the cases.
    """
    if n_own == 0 or not n_rivals:
        return math.inf
    level = math.log(n_words / _CHANCE)
    m, r = n_own, sum(n_rivals)
    if math.lgamma(m + r + 1) - math.lgamma(m + 1) - math.lgamma(r + 1) < level:
        return math.inf
    weighed = len(n_rivals) ** 2 / sum(1 / n for n in n_rivals)
    n = m * weighed / (m + weighed + 1)
    few = 1 - math.exp((math.lgamma(n + 1) - level) / n) / n
    many = 0.5 + math.sqrt(level / (6 * n))
    return min(few, many)


def _closest(
    nouns: UnitRows, centres: Tensor, n_words: int, scale: float, progress: Progress
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]:
    """Return the closest words (A, n), their cosines, and log Σ exp(scale · cosine) over all words (A,)."""
    device, n_centres = centres.device, len(centres)
    n_words = min(n_words, nouns.n_rows)
    best = torch.full((n_centres, n_words), -math.inf, device=device)
    which = torch.zeros((n_centres, n_words), dtype=torch.int64, device=device)
    totals = torch.full((n_centres,), -math.inf, device=device)
    # At least n_words: each block gives its best n_words, of which the best over all blocks are kept.
    step = max(n_words, _WORD_BLOCK_BYTES // (8 * max(min(n_centres, _CENTRES_AT_ONCE), nouns.dim)))
    with progress.task("Looking for words", nouns.n_rows, "nouns") as task:
        for start in range(0, nouns.n_rows, step):
            block = nouns.read(start, min(nouns.n_rows, start + step))
            for first in range(0, n_centres, _CENTRES_AT_ONCE):
                part = slice(first, first + _CENTRES_AT_ONCE)
                cosines = centres[part] @ block.T
                top, places = cosines.topk(min(n_words, len(block)), dim=1)
                merged = torch.cat([best[part], top], dim=1)
                numbers = torch.cat([which[part], start + places], dim=1)
                best[part], order = merged.topk(n_words, dim=1)
                which[part] = numbers.gather(1, order)
                totals[part] = torch.logaddexp(totals[part], torch.logsumexp(scale * cosines, dim=1))
            task.advance(len(block))
    numbers_, cosines_ = which.cpu().numpy(), best.cpu().numpy()
    order_ = np.lexsort((numbers_, -cosines_), axis=1)  # the first of equals first
    return (
        np.take_along_axis(numbers_, order_, 1),
        np.take_along_axis(cosines_, order_, 1),
        totals.cpu().double().numpy(),
    )


def _separate(
    images: UnitRows, samples: Sequence[NDArray[np.int64]], sides: NDArray[np.int64], words: Tensor
) -> NDArray[np.float64]:
    """Return the separations (c, n) of each cluster in the first column of ``sides`` from those beside it."""
    found = np.full(words.shape[:2], 0.5)
    if sides.shape[1] < 2:
        return found
    rows = {int(cluster): samples[int(cluster)] for cluster in np.unique(sides)}
    unit = images.take(np.concatenate(list(rows.values())))
    parts = dict(zip(rows, torch.split(unit, [len(part) for part in rows.values()]), strict=True))
    for place, (own, *rivals) in enumerate(sides.tolist()):
        texts = words[place].to(unit.device).T
        cosines = [parts[cluster] @ texts for cluster in (own, *rivals)]
        found[place] = separation(cosines[0], cosines[1:]).cpu().numpy()
    return found


def _batches(n: int, values_each: int) -> Iterator[slice]:
    step = max(1, _WORD_BLOCK_BYTES // (4 * max(values_each, 1)))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))
