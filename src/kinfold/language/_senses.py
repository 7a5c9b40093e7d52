"""Which of its senses a word has where it names a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kinfold.hierarchy import WordNet
from kinfold.rows.readers import UnitRows


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
        """Return the sense of each word for a group.

        Of several synsets it is the one whose other lemmas, and those of its hypernyms, have the highest mean
        cosine with the centre; equal ones go by WordNet's order. Where the nouns hold no such word for one of
        the senses they can't be compared, and the first one, the most frequent, is taken.

        Parameters
        ----------
        numbers : sequence of int
            Which of the nouns.
        centre : Tensor (D,)
            The group's centre.
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
