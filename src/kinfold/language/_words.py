"""Which words may name a group, and how well each of them does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.language._groups import Groups
from kinfold.progress import Progress
from kinfold.rows import RowMatrix
from kinfold.rows.readers import UnitRows

_CENTRES_AT_ONCE = 1024
_BLOCK_BYTES = 64 << 20
_TIE = 1e-6  # cosines that are closer than this are equal: the last digits depend on a row's place
_CHANCE = 0.05


@dataclass(frozen=True)
class Words:
    """The words that lie closest to each of A groups, the closest first.

    Attributes
    ----------
    groups : ndarray (A,) int64
        The groups.
    rivals : ndarray (A, R) int64
        The R groups closest to each, by their numbers.
    nouns : ndarray (A, n) int64
        Numbers of the words.
    similarities : ndarray (A, n) float32
        Cosines of word and centre.
    scores : ndarray (A, n) float64
        log p(noun | group) + log p(group | noun, among the group and its rivals).
    separations : ndarray (A, n) float64
        Probability that an image of the group lies closer to the word than one of the rivals.
    """

    groups: NDArray[np.int64]
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
        cosines[own, start + own] = -math.inf
        found[start : start + len(cosines)] = cosines.topk(found.shape[1], dim=1).indices.cpu().numpy()
    return found


def find_words(
    groups: Groups,
    X: RowMatrix,
    nouns: UnitRows,
    n_words: int,
    n_rivals: int,
    scale: float,
    progress: Progress,
) -> Words:
    """Return the closest words of every group that has a centre, with their scores and separations."""
    alive = groups.alive
    centres = groups.centres[torch.from_numpy(alive).to(groups.centres.device)]
    rivals = find_rivals(centres, n_rivals)
    numbers, cosines, totals = _closest(nouns, centres, n_words, scale, progress)
    scores = np.empty(numbers.shape, np.float64)
    separations = np.empty(numbers.shape, np.float64)
    images = UnitRows(X, nouns_device(centres))
    with progress.task("Separating groups by words", len(alive), "groups") as task:
        for batch in _batches(len(alive), (1 + rivals.shape[1]) * _most(groups.samples) * nouns.dim):
            words = nouns.take(numbers[batch].reshape(-1)).reshape(*numbers[batch].shape, -1)
            others = centres[torch.from_numpy(rivals[batch]).to(centres.device)]
            theirs = scale * (words @ others.transpose(1, 2)).cpu().double().numpy()
            own = scale * cosines[batch].astype(np.float64)
            among = np.logaddexp.reduce(np.concatenate([own[..., None], theirs], axis=2), axis=2)
            scores[batch] = (own - totals[batch, None]) + (own - among)
            sides = alive[np.c_[np.arange(len(alive))[batch], rivals[batch]]]
            separations[batch] = _separate(images, groups.samples, sides, words)
            task.advance(len(sides))
    return Words(alive, alive[rivals], numbers, cosines, scores, separations)


def nouns_device(centres: Tensor) -> torch.device:
    """Return where separations are computed: where the centres are, if there is double precision."""
    return torch.device("cpu") if centres.device.type == "mps" else centres.device


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
    """Return what the best word of a random group reaches in about one of twenty cases at most.

    The ranks of a random group's images among those of its rivals are like uniform numbers, so that a word's
    separation is like the mean of ``n`` of them, ``1/n = 1/m + 1/r + 1/(mr)``, where r counts the rivals'
    images by their weights. Of the two bounds of its tail,
    ``P(mean ≥ 1 − x) ≤ (nx)ⁿ / Γ(n + 1)`` for few and ``P(mean ≥ ½ + t) ≤ exp(−6 n t²)`` for many images,
    the tighter one is used; n_words of them are allowed for. That the words were chosen for being close to
    these images isn't, which tells in groups of a few images alone.

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
    step = max(n_words, _BLOCK_BYTES // (8 * max(min(n_centres, _CENTRES_AT_ONCE), nouns.dim)))
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
    """Return the separations (c, n) of each group in the first column of ``sides`` from those beside it."""
    found = np.full(words.shape[:2], 0.5)
    if sides.shape[1] < 2:
        return found
    rows = {int(group): samples[int(group)] for group in np.unique(sides)}
    unit = images.take(np.concatenate(list(rows.values())))
    parts = dict(zip(rows, torch.split(unit, [len(part) for part in rows.values()]), strict=True))
    for place, (own, *rivals) in enumerate(sides.tolist()):
        texts = words[place].to(unit.device).T
        cosines = [parts[group] @ texts for group in (own, *rivals)]
        found[place] = separation(cosines[0], cosines[1:]).cpu().numpy()
    return found


def _most(samples: Sequence[NDArray[np.int64]]) -> int:
    return max(map(len, samples), default=1)


def _batches(n: int, values_each: int) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // (4 * max(values_each, 1)))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))
