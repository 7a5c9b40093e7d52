"""Zero-shot classification: an image belongs to the class whose text feature has the highest cosine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from kinfold.compute import resolve_device
from kinfold.errors import InputError
from kinfold.hierarchy import Links
from kinfold.language._choice import (
    CLIP_LOGIT_SCALE,
    Chooser,
    check_directions,
    check_labels,
    check_logit_scale,
    read_blocks,
    unit_images,
    unit_texts,
)
from kinfold.language.encoders import TextEncoder, check_texts
from kinfold.language.nouns import embed_words, mean_direction
from kinfold.language.prompts import TEMPLATES
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix
from kinfold.rows.readers import UnitRows

# Rows, or their cosines, that are worked on at once: bounds memory whatever N and K.
_BLOCK_BYTES = 64 << 20


def embed_classes(
    encoder: TextEncoder,
    classes: Sequence[str | Sequence[str]],
    *,
    prompts: Sequence[str] = TEMPLATES,
    progress: Progress = SILENT,
) -> NDArray[np.float32]:
    """Return one text feature per class, at unit length.

    Parameters
    ----------
    encoder : TextEncoder
        The text tower.
    classes : sequence of str or of sequences of str
        A class's name, or several names of it; those count alike: the feature is the mean direction of the
        names' features.
    prompts : sequence of str, default the seven of CLIP
        Templates with one ``{}`` each.
    progress : Progress
        Receives progress.

    Returns
    -------
    array of shape (K, dim), float32

    Raises
    ------
    InputError
        A class has no name, or one that is empty.
    """
    names = _as_lists(classes)
    features = embed_words(
        encoder, [one for several in names for one in several], prompts=prompts, progress=progress
    )
    ends = np.cumsum([len(several) for several in names])
    parts = np.split(features, ends[:-1])
    return np.concatenate([part if len(part) == 1 else mean_direction(part[None]) for part in parts])


class ZeroShotClassifier:
    """Softmax of the cosines between an image and the texts of classes, times the logit scale.

    Parameters
    ----------
    class_features : array of shape (K, dim)
        One text feature per class (:func:`embed_classes`), of any length.
    logit_scale : float or None, default None
        Factor of the cosines, above 0: the encoder's ``logit_scale``. None takes CLIP's, 100. Probabilities
        depend on it, classes don't. SigLIP's bias is the same for all classes and cancels in a softmax.
    device : str or torch.device
        Where products are made.

    Raises
    ------
    InputError
        The features are no finite matrix, have rows of zeros, or the scale isn't positive.
    """

    def __init__(
        self,
        class_features: ArrayLike,
        logit_scale: float | None = None,
        *,
        device: str | torch.device = "auto",
    ) -> None:
        self.logit_scale = check_logit_scale(logit_scale)
        self.device = resolve_device(device)
        self._classes = unit_texts(class_features, None, self.device)

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return len(self._classes)

    def predict_proba(self, X: ArrayLike | RowMatrix) -> NDArray[np.float32]:
        """Return the probability of each class for each row.

        Parameters
        ----------
        X : row matrix of shape (N, dim)
            Image features of the joint space, of any length.

        Returns
        -------
        array of shape (N, K), float32

        Raises
        ------
        InputError
            Another dimension than the classes', or a row that is zero or not finite.
        """
        rows = self._rows(X)
        out = np.empty((rows.n_rows, self.n_classes), np.float32)
        for block, cosines in self._cosines(rows):
            out[block] = torch.softmax(self.logit_scale * cosines, dim=1).cpu().numpy()
        return out

    def predict(self, X: ArrayLike | RowMatrix) -> NDArray[np.int32]:
        """Return the number of the closest class for each row: int32 (N,), in blocks of bounded memory."""
        return self.classify(X)[0]

    def classify(self, X: ArrayLike | RowMatrix) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the closest class of each row, int32 (N,), and its probability, float32 (N,).

        As :meth:`predict_proba`, in blocks of bounded memory.
        """
        rows = self._rows(X)
        classes, probabilities = np.empty(rows.n_rows, np.int32), np.empty(rows.n_rows, np.float32)
        for block, cosines in self._cosines(rows):
            peak, best = cosines.max(dim=1, keepdim=True)
            # The largest probability of a softmax is 1 / Σ exp(s (cos − max)); nothing else is needed of it.
            total = cosines.sub_(peak).mul_(self.logit_scale).exp_().sum(dim=1)
            classes[block] = best[:, 0].cpu().numpy()
            probabilities[block] = total.reciprocal_().cpu().numpy()
        return classes, probabilities

    def _rows(self, X: ArrayLike | RowMatrix) -> UnitRows:
        return unit_images(X, int(self._classes.shape[1]), self.device)

    def _cosines(self, rows: UnitRows) -> Iterator[tuple[slice, torch.Tensor]]:
        size = max(1, _BLOCK_BYTES // (4 * max(rows.dim, self.n_classes)))
        for start in range(0, rows.n_rows, size):
            stop = min(rows.n_rows, start + size)
            block = rows.read(start, stop)
            check_directions(block, range(start, stop), "row")
            yield slice(start, stop), block @ self._classes.T


@dataclass(frozen=True)
class LemmaChoice:
    """Which name of each class zero-shot classification prefers for the class's own images.

    Parameters
    ----------
    lemmas : tuple of str
        The chosen one per class.
    features : array of shape (K, dim), float32
        Its text feature.
    votes : tuple of arrays
        Per class, how many of its images voted for each of its lemmas.
    """

    lemmas: tuple[str, ...]
    features: NDArray[np.float32]
    votes: tuple[NDArray[np.int64], ...]


def choose_lemmas_by_labels(
    encoder: TextEncoder,
    classes: Sequence[str | Sequence[str]],
    X: ArrayLike | RowMatrix,
    labels: NDArray[Any],
    *,
    prompts: Sequence[str] = TEMPLATES,
    progress: Progress = SILENT,
) -> LemmaChoice:
    """Choose one lemma per class by the vote of the class's own images. This reads labels.

    It belongs to relabelling and evaluation, never to clustering. Each image of a class is classified by
    zero-shot among the lemmas of its class alone; the lemma that most of them take is the class's. Equal
    votes, and classes without images, take the lemma that stands first.

    Parameters
    ----------
    encoder : TextEncoder
        The text tower.
    classes : sequence of str or of sequences of str
        The lemmas of each class, as of a WordNet synset, the commonest first.
    X : row matrix of shape (N, dim)
        Image features of the joint space.
    labels : array of int of shape (N,)
        The class of each row, 0 … K − 1; −1 for rows without one, which don't vote.
    prompts, progress
        As for :func:`embed_classes`.

    Raises
    ------
    InputError
        Labels don't fit the rows or the classes.

    References
    ----------
    Adaloglou et al., "Scaling Up Deep Clustering Methods Beyond ImageNet-1K", 2024, zero-shot experiments.
    """
    names = _as_lists(classes)
    # Checked before the words are read: a wrong width should not be found after minutes of work.
    unit_images(X, encoder.dim, encoder.device)
    flat = [one for several in names for one in several]
    features = embed_words(encoder, flat, prompts=prompts, progress=progress)
    return vote_for_lemmas(names, features, X, labels, device=encoder.device, progress=progress)


def vote_for_lemmas(
    classes: Sequence[str | Sequence[str]],
    features: NDArray[np.float32],
    X: ArrayLike | RowMatrix,
    labels: NDArray[Any],
    *,
    device: str | torch.device = "auto",
    progress: Progress = SILENT,
) -> LemmaChoice:
    """Choose one lemma per class as :func:`choose_lemmas_by_labels`, from features of the lemmas.

    Parameters
    ----------
    classes, X, labels, progress
        As for :func:`choose_lemmas_by_labels`.
    features : array of shape (number of all lemmas, dim), float32
        Text features of the lemmas at unit length, class after class.
    device : str or torch.device
        Where products are made.

    Raises
    ------
    InputError
        Labels don't fit the rows or the classes, or features not the lemmas or the rows.
    """
    names = _as_lists(classes)
    flat = [one for several in names for one in several]
    where = resolve_device(device)
    texts = unit_texts(features, len(flat), where)
    images = unit_images(X, int(texts.shape[1]), where)
    labels = check_labels(labels, images.n_rows, len(names))
    lemmas = Links.from_counts([len(several) for several in names], np.arange(len(flat)))
    counts = _count_votes(images, labels, texts, lemmas, progress)
    starts = lemmas.indptr
    votes = tuple(counts[a:b] for a, b in itertools.pairwise(starts))
    chosen = starts[:-1] + np.array([int(vote.argmax()) for vote in votes], dtype=np.int64)
    return LemmaChoice(tuple(flat[number] for number in chosen), features[chosen], votes)


def _count_votes(
    images: UnitRows, labels: NDArray[Any], texts: torch.Tensor, lemmas: Links, progress: Progress
) -> NDArray[np.int64]:
    """Return how many images vote for each lemma: (number of all lemmas,)."""
    counts = np.zeros(len(texts), np.int64)
    chooser = Chooser(texts, lemmas, CLIP_LOGIT_SCALE)
    # The scale changes probabilities and not which lemma is closest, so that CLIP's serves every model.
    for numbers, rows in read_blocks(images, np.flatnonzero(labels >= 0), "Choosing lemmas", progress):
        best, _ = chooser.choose(rows, np.arange(len(numbers)), labels[numbers])
        counts += np.bincount(best, minlength=len(counts))
    return counts


def _as_lists(classes: Sequence[str | Sequence[str]]) -> list[list[str]]:
    ordered = isinstance(classes, (Sequence, np.ndarray)) and not isinstance(classes, (str, bytes))
    if not ordered or not len(classes):
        raise InputError(f"classes must be a list of names, got {classes!r}")
    names = [[one] if isinstance(one, str) else one for one in classes]
    for place, several in enumerate(names):
        check_texts(several, f"names of class number {place}")
        if not len(several):
            raise InputError(f"class number {place} has no name")
    return [list(several) for several in names]
