"""The nouns of WordNet 3.0: synsets, lemmas, hypernyms and the data file that holds them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError, nearest_name
from kinfold.hierarchy._hierarchy import Choice, Hierarchy, Links, breadth_first
from kinfold.reading import open_arrays
from kinfold.storage import check_format_version
from kinfold.validation import check_integer

PATH = Path(__file__).parent / "data" / "wordnet-3.0-nouns.npz"
FORMAT_VERSION = 1  # of the data file; scripts/make_wordnet.py writes it
_MEND = "install Kinfold anew: pip install --force-reinstall --no-deps kinfold"


@dataclass(frozen=True, eq=False)
class NounData:
    """What the file holds; synsets are numbered by their offsets in the database, ascending.

    Attributes
    ----------
    offsets : ndarray of int32, shape (n_synsets,)
        Byte offsets in ``data.noun``: the digits of the ids.
    nouns : tuple of str
        The different nouns, case kept, with spaces; sorted by code points.
    lemmas : Links
        Numbers of the nouns of every synset, in WordNet's order.
    senses : ndarray of uint8, shape (n_lemmas,)
        Place of the synset among all senses of the lower-case noun, from 0; beside ``lemmas.indices``.
    hypernyms, instance_hypernyms : Links
        Synsets above every synset, by ``@`` and by ``@i``, in WordNet's order.
    """

    offsets: NDArray[np.int32]
    nouns: tuple[str, ...]
    lemmas: Links
    senses: NDArray[np.uint8]
    hypernyms: Links
    instance_hypernyms: Links


def read_nouns(path: Path = PATH) -> NounData:
    """Read the data file.

    Raises
    ------
    FormatError
        The file is missing or damaged.
    NewerFormatError
        It has a newer format version.
    """
    with open_arrays(path, _MEND) as file:
        check_format_version(path, int(file["format_version"]), FORMAT_VERSION)
        return NounData(
            offsets=file["offsets"],
            # One text with line breaks: an array of strings would pad each to the longest.
            nouns=tuple(file["nouns"].tobytes().decode().split("\n")),
            lemmas=Links.from_counts(file["lemma_counts"], file["lemmas"]),
            senses=file["senses"],
            hypernyms=Links.from_counts(file["hypernym_counts"], file["hypernyms"]),
            instance_hypernyms=Links.from_counts(
                file["instance_hypernym_counts"], file["instance_hypernyms"]
            ),
        )


@dataclass(frozen=True, eq=False)
class Nouns:
    """The different noun strings of WordNet.

    Attributes
    ----------
    strings : tuple of str
        Case kept (``"Turkey"`` and ``"turkey"`` are two), spaces where the database has underscores; sorted
        by code points.
    synset_links : Links
        Numbers of the synsets that each string is a lemma of, most frequent sense first.
    """

    strings: tuple[str, ...]
    synset_links: Links

    def __len__(self) -> int:
        return len(self.strings)


class WordNet(Hierarchy):
    """The noun synsets of WordNet 3.0 with their lemmas; get it from :func:`load_wordnet`.

    An id is that of ImageNet: ``n`` and the eight digits of the offset in the database, ``n02084071`` for
    dog. Synsets are numbered by ascending ids. WordNet tells kinds (``hypernyms``: a dog is a kind of canine)
    from instances (``instance_hypernyms``: Einstein is a physicist). Parents, children and all walks of
    :class:`Hierarchy` go by both, so that every synset lies below ``entity``, the only root; parents are
    named in WordNet's order, hypernyms first.

    Parameters
    ----------
    data : NounData
        What the data file holds.

    Attributes
    ----------
    hypernym_links, hyponym_links : Links
        Kinds alone, in both directions.
    instance_hypernym_links, instance_hyponym_links : Links
        Instances alone, in both directions.
    lemma_links : Links
        Numbers in ``nouns().strings`` of the lemmas of every synset, in WordNet's order.

    Notes
    -----
    WordNet 3.0, Copyright 2006 by Princeton University; the licence lies beside the data. Fellbaum (ed.),
    "WordNet: An Electronic Lexical Database", MIT Press 1998.

    Examples
    --------
    >>> wordnet = load_wordnet()
    >>> wordnet.synsets("dog")[0], wordnet.lemmas("n02084071")
    ('n02084071', ('dog', 'domestic dog', 'Canis familiaris'))
    >>> wordnet.path_text("n02084071", max_names=4)
    'dog > canine > carnivore > … > entity'
    >>> [wordnet.name(node) for node in wordnet.lowest_common_ancestors("n02084071", "n02121620")]
    ['carnivore']
    >>> wordnet.depth("n02084071"), wordnet.depth("n02084071", longest=True)
    (8, 13)
    """

    _what = "the nouns of WordNet 3.0"

    def __init__(self, data: NounData) -> None:
        self._data = data
        self.hypernym_links = data.hypernyms
        self.instance_hypernym_links = data.instance_hypernyms
        self.lemma_links = data.lemmas
        super().__init__(
            [f"n{offset:08d}" for offset in data.offsets.tolist()],
            _merge(data.hypernyms, data.instance_hypernyms),
        )

    @cached_property
    def hyponym_links(self) -> Links:
        """Kinds of every synset, ascending."""
        return self.hypernym_links.transpose()

    @cached_property
    def instance_hyponym_links(self) -> Links:
        """Instances of every synset, ascending."""
        return self.instance_hypernym_links.transpose()

    def hypernyms(self, synset: str) -> tuple[str, ...]:
        """Return what the synset is a kind of, in WordNet's order."""
        return self._names(self.hypernym_links[self.index(synset)])

    def hyponyms(self, synset: str) -> tuple[str, ...]:
        """Return the kinds of the synset, by ascending id."""
        return self._names(self.hyponym_links[self.index(synset)])

    def instance_hypernyms(self, synset: str) -> tuple[str, ...]:
        """Return what the synset is an instance of, in WordNet's order."""
        return self._names(self.instance_hypernym_links[self.index(synset)])

    def instance_hyponyms(self, synset: str) -> tuple[str, ...]:
        """Return the instances of the synset, by ascending id."""
        return self._names(self.instance_hyponym_links[self.index(synset)])

    def descendants(self, node: str, *, instances: bool = True) -> tuple[str, ...]:
        """Return all synsets below, nearest first, each once.

        Parameters
        ----------
        node : str
            Where to begin; not among the result.
        instances : bool, default True
            Go by instance relations too, not by kinds alone.
        """
        links = self.child_links if instances else self.hyponym_links
        return self._names(breadth_first(links, self.index(node)))

    def is_leaf(self, ids: Iterable[str] | None = None, *, instances: bool = True) -> NDArray[np.bool_]:
        """Say which synsets have nothing below them in WordNet, bool (n,).

        Parameters
        ----------
        ids : iterable of str or None, default None
            The synsets, or all in their order.
        instances : bool, default True
            Let instances count as something below.
        """
        return self._without_lists(self.child_links if instances else self.hyponym_links, ids)

    def lemmas(self, synset: str) -> tuple[str, ...]:
        """Return the words of the synset, in WordNet's order."""
        nouns = self._data.nouns
        return tuple(nouns[number] for number in self.lemma_links[self.index(synset)])

    def name(self, synset: str) -> str:
        """Return the first of :meth:`lemmas`."""
        return self.lemmas(synset)[0]

    def synsets(self, lemma: str, *, match_case: bool = False) -> tuple[str, ...]:
        """Return all senses of a noun, the most frequent first.

        Parameters
        ----------
        lemma : str
            The word; spaces and underscores are the same. Plural forms aren't reduced.
        match_case : bool, default False
            Take only synsets in which the word is written like this: ``"Turkey"`` the country alone.

        Raises
        ------
        InputError
            WordNet has no such noun; the nearest one is named.
        """
        word = lemma.replace("_", " ")
        numbers = self._nouns_of.get(word.lower(), [])
        if match_case:
            numbers = [number for number in numbers if self._data.nouns[number] == word]
        if not numbers:
            # Compared with nouns of like length and initial alone: looking among all 119,034 takes long.
            near = [noun for noun in self._data.nouns if _alike(noun, word)]
            raise InputError(f"{lemma!r} is not among {self._what}{nearest_name(word, near)}")
        starts, ends = self._noun_links.indptr[:-1], self._noun_links.indptr[1:]
        places = np.concatenate([np.arange(starts[number], ends[number]) for number in numbers])
        # Stable, so that senses of equal rank keep the order of the spellings.
        places = places[np.argsort(self._noun_senses[places], kind="stable")]
        # A synset may hold two spellings of the word ("Turkey", "turkey"): it is named once.
        return tuple(dict.fromkeys(self._names(self._noun_links.indices[places])))

    def nouns(self) -> Nouns:
        """Return the 119,034 different noun strings and their synsets."""
        return Nouns(self._data.nouns, self._noun_links)

    def path_text(self, synset: str, *, choice: Choice = "first", max_names: int | None = None) -> str:
        """Return the way up to ``entity`` in words.

        Parameters
        ----------
        synset : str
            Where to begin.
        choice : {"first", "shortest", "longest"}, default "first"
            Which parent is taken where there are several, see :meth:`Hierarchy.main_parents`.
        max_names : int, optional
            Show at most so many names, 2 or more, the root among them; ``…`` stands for those left out.
        """
        names = [self.name(node) for node in self.path_to_root(synset, choice=choice)]
        if max_names is not None:
            check_integer(2, max_names=max_names)
        if max_names is not None and len(names) > max_names:
            names = [*names[: max_names - 1], "…", names[-1]]
        return " > ".join(names)

    @cached_property
    def _nouns_of(self) -> dict[str, list[int]]:
        """Numbers of the nouns that are written alike but for case."""
        numbers: dict[str, list[int]] = {}
        for number, noun in enumerate(self._data.nouns):
            numbers.setdefault(noun.lower(), []).append(number)
        return numbers

    @cached_property
    def _by_noun(self) -> tuple[NDArray[np.int64], Links]:
        """Places in the lemma lists, ordered by noun and sense; and the synsets there, as lists per noun."""
        lemmas = self.lemma_links
        places = np.lexsort((self._data.senses, lemmas.indices))
        counts = np.bincount(lemmas.indices, minlength=len(self._data.nouns))
        return places, Links.from_counts(counts, lemmas.owners[places])

    @property
    def _noun_links(self) -> Links:
        return self._by_noun[1]

    @cached_property
    def _noun_senses(self) -> NDArray[np.uint8]:
        """Place among all senses, beside the indices of the lists per noun."""
        return self._data.senses[self._by_noun[0]]

    def _unknown(self, node: object) -> InputError:
        text = node if isinstance(node, str) else ""
        if text and text.lower().replace("_", " ") in self._nouns_of:
            ids = ", ".join(self.synsets(text)[:5])
            return InputError(f"{text!r} is a word, not an id; it is a lemma of {ids}")
        return InputError(f"{node!r} is not among {self._what}{self._nearest_id(str(node))}")

    def _nearest_id(self, text: str) -> str:
        """Return a hint at the id with most digits alike, the closest of those, unless three differ."""
        digits = "".join(letter for letter in text if letter in "0123456789")
        # Fewer or more digits are no mistyped offset, which has eight.
        if not 6 <= len(digits) <= 9:
            return ""
        digits = digits[:8].ljust(8, "0") if text.startswith("n") else digits[-8:].zfill(8)
        offset, offsets = int(digits), self._data.offsets
        powers = 10 ** np.arange(8)
        alike = ((offsets[:, None] // powers) % 10 == (offset // powers) % 10).sum(axis=1)
        best = np.lexsort((abs(offsets - offset), -alike))[0]
        return f"; did you mean {self.ids[best]!r}?" if alike[best] >= 6 else ""


# All callers share one: it is read-only, and reading it takes a fraction of a second.
@lru_cache(maxsize=1)
def load_wordnet() -> WordNet:
    """Return the nouns of WordNet 3.0; read once per process, in a fraction of a second.

    Raises
    ------
    FormatError
        The package's data file is missing or damaged.
    """
    return WordNet(read_nouns())


def _merge(first: Links, second: Links) -> Links:
    """Return for every node its first list followed by its second."""
    owners = np.concatenate([first.owners, second.owners])
    return Links.from_pairs(owners, np.concatenate([first.indices, second.indices]), len(first))


def _alike(noun: str, word: str) -> bool:
    """Say whether a noun is worth comparing with a word that isn't one."""
    return abs(len(noun) - len(word)) <= 2 and noun[:1].lower() == word[:1].lower()
