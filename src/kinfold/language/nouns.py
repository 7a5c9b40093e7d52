"""Features of words: the mean of a text encoder's vectors over several prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.hierarchy import load_wordnet
from kinfold.language.cache import NounCache, NounEntry, NounKey, read_entry
from kinfold.language.encoders import TextEncoder, check_texts
from kinfold.language.prompts import TEMPLATES, check_templates, fill
from kinfold.progress import SILENT, Progress, ProgressTask
from kinfold.reading import check_regular
from kinfold.storage import hash_json

# Words that are embedded and written together: about a minute of work on one slow core, which is the most
# that an interruption costs. Part of the cache's key: another size would make all entries anew.
_CHUNK = 512


def read_words(path: str | Path) -> tuple[str, ...]:
    """Read a text file with one word or name per line, in UTF-8.

    Space around a word doesn't count, lines without one are left out.

    Raises
    ------
    InputError
        The file can't be read, isn't text, or holds no word.
    """
    path = Path(path)
    check_regular(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read as a list of words, one per line: {error}") from error
    if "\0" in text:
        raise InputError(f"{path} is no text file; give one word per line, in UTF-8")
    words = tuple(word for line in text.splitlines() if (word := line.strip()))
    if not words:
        raise InputError(f"{path} holds no words; give one per line")
    return words


@dataclass(frozen=True)
class NounFeatures:
    """Words and their features in a joint space.

    Parameters
    ----------
    nouns : tuple of str
        The words, different ones all.
    features : array of shape (n, dim), float32
        At unit length; mapped from the cache, read-only.
    fingerprint : str
        SHA-256 of the file of features.
    path : Path
        The entry in the cache.
    """

    nouns: tuple[str, ...]
    features: NDArray[np.float32]
    fingerprint: str
    path: Path

    def __len__(self) -> int:
        return len(self.nouns)


def embed_words(
    encoder: TextEncoder,
    words: Sequence[str],
    *,
    prompts: Sequence[str] = TEMPLATES,
    progress: Progress = SILENT,
) -> NDArray[np.float32]:
    """Return features of words: the mean of raw text features over the prompts, at unit length.

    Parameters
    ----------
    encoder : TextEncoder
        The text tower.
    words : sequence of str
        One or more, the same one twice if you like.
    prompts : sequence of str, default the seven of CLIP
        Templates with one ``{}`` each.
    progress : Progress
        Receives progress.

    Returns
    -------
    array of shape (n, dim), float32
        In the order of ``words``.

    Raises
    ------
    InputError
        A word is empty, there are none, or a template has no ``{}``.

    References
    ----------
    Li et al., "Image Clustering with External Guidance" (TAC), 2024; Radford et al. (CLIP), 2021.
    """
    _check(words, prompts)
    out = np.empty((len(words), encoder.dim), np.float32)
    with progress.task(f"Reading words with {encoder.name}", len(words) * len(prompts), "texts") as task:
        for chunk in _chunks(len(words)):
            out[chunk] = _embed_chunk(encoder, words[chunk], prompts, task)
    return out


def embed_nouns(
    encoder: TextEncoder,
    nouns: Sequence[str] | None = None,
    *,
    prompts: Sequence[str] = TEMPLATES,
    cache: NounCache | None = None,
    progress: Progress = SILENT,
) -> NounFeatures:
    """Return the features of many nouns from the cache, making them first if they aren't there.

    A call that is interrupted, also by SIGKILL, is resumed by the next one; of two processes that want
    the same features one waits for the other.

    Parameters
    ----------
    encoder : TextEncoder
        The text tower.
    nouns : sequence of str or None
        None takes the 119,034 nouns of WordNet 3.0. A noun that stands twice is taken once.
    prompts : sequence of str, default the seven of CLIP
        Templates with one ``{}`` each.
    cache : NounCache or None
        Where features are kept; None is the user's cache folder.
    progress : Progress
        Receives progress.

    Raises
    ------
    InputError
        As :func:`embed_words`; or the cache can't be written.
    """
    return prepare_nouns(encoder, nouns, prompts=prompts, cache=cache).embed(progress)


class PreparedNouns:
    """Nouns whose features are wanted, and their entry in the cache; get it from :func:`prepare_nouns`.

    Attributes
    ----------
    words : tuple of str
        Different ones all.
    prompts : tuple of str
        Templates.
    path : Path
        The entry in the cache.
    """

    def __init__(
        self, encoder: TextEncoder, words: tuple[str, ...], prompts: tuple[str, ...], cache: NounCache
    ) -> None:
        self.words, self.prompts = words, prompts
        self._encoder = encoder
        key = NounKey(encoder.fingerprint(), prompts, hash_json(list(words)), len(words), encoder.dim, _CHUNK)
        self._entry = cache.entry(key)
        self.path = self._entry.path

    @property
    def fingerprint(self) -> str:
        """Hash of words, prompts and encoder: equal ones give the same features."""
        return self.path.name

    def count_texts(self) -> int:
        """Return how many texts are still to be read; 0 where all features are there."""
        if self._entry.is_complete():
            return 0
        chunks = enumerate(_chunks(len(self.words)))
        missing = sum(
            chunk.stop - chunk.start for number, chunk in chunks if not self._entry.has_part(number)
        )
        return int(missing) * len(self.prompts)

    def is_sound(self) -> bool:
        """Tell whether all features are there and their bytes are those that were written."""
        return self._entry.read() is not None

    def embed(self, progress: Progress = SILENT) -> NounFeatures:
        """Return the features, making those that aren't there.

        Raises
        ------
        InputError
            The cache can't be written.
        """
        found = self._entry.read()
        if found is None:
            with self._entry.writing(self._encoder.name, self.words):
                found = self._entry.read()  # another process may have made them meanwhile
                if found is None:
                    _fill_entry(self._entry, self._encoder, self.words, self.prompts, progress)
                    found = self._entry.read()
        if found is None:
            raise InputError(f"{self.path} was changed while it was written; run the same again")
        return NounFeatures(self.words, *found, self.path)


def prepare_nouns(
    encoder: TextEncoder,
    nouns: Sequence[str] | None = None,
    *,
    prompts: Sequence[str] = TEMPLATES,
    cache: NounCache | None = None,
) -> PreparedNouns:
    """Check nouns and prompts and find their place in the cache; nothing is read or written by the encoder.

    The parameters are those of :func:`embed_nouns`.
    """
    words = _wordnet_nouns() if nouns is None else nouns
    _check(words, prompts)
    return PreparedNouns(encoder, tuple(dict.fromkeys(words)), tuple(prompts), cache or NounCache())


def open_nouns(path: Path) -> NounFeatures:
    """Open a complete entry of the cache by its folder.

    Raises
    ------
    FormatError
        It is missing, unfinished or damaged.
    """
    return NounFeatures(*read_entry(path), path)


def mean_direction(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean over the second axis at unit length: (n, m, dim) → (n, dim).

    Raises
    ------
    InputError
        A mean is zero or not finite.
    """
    # In double precision, as the mean of seven float32 vectors should not depend on their order.
    mean = features.mean(axis=1, dtype=np.float64)
    norms = np.linalg.norm(mean, axis=1, keepdims=True)
    if not np.all(np.isfinite(norms) & (norms > 0)):
        row = int(np.flatnonzero(~(np.isfinite(norms) & (norms > 0))[:, 0])[0])
        raise InputError(
            f"the text features of number {row} have no direction (zero, infinite or not a number): the "
            "model's weights are damaged, or its numbers don't fit the precision; try precision='float32'"
        )
    unit: NDArray[np.float32] = (mean / norms).astype(np.float32)
    return unit


def _fill_entry(
    entry: NounEntry, encoder: TextEncoder, words: Sequence[str], prompts: Sequence[str], progress: Progress
) -> None:
    """Make the parts of an entry that aren't there, and complete it."""
    n_texts = len(words) * len(prompts)
    with progress.task(f"Reading nouns with {encoder.name}", n_texts, "texts") as task:
        for number, chunk in enumerate(_chunks(len(words))):
            if entry.has_part(number):
                task.advance((chunk.stop - chunk.start) * len(prompts))
            else:
                entry.write_part(number, _embed_chunk(encoder, words[chunk], prompts, task))
    entry.finish(encoder.name)


class _Within:
    """Progress of a piece of work, shown on the bar of the whole."""

    def __init__(self, whole: ProgressTask) -> None:
        self._whole = whole

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "") -> Iterator[ProgressTask]:
        """Yield the bar of the whole."""
        yield self._whole


def _embed_chunk(
    encoder: TextEncoder, words: Sequence[str], prompts: Sequence[str], task: ProgressTask
) -> NDArray[np.float32]:
    raw = encoder.encode(fill(prompts, words), progress=_Within(task))
    return mean_direction(raw.reshape(len(words), len(prompts), -1))


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, _CHUNK):
        yield slice(start, min(n, start + _CHUNK))


def _check(words: Sequence[str], prompts: Sequence[str]) -> None:
    check_templates(prompts)
    check_texts(words, "words")
    if len(words) == 0:
        raise InputError("there are no words to embed")
    for place, word in enumerate(words):
        if not word.strip():
            raise InputError(f"word number {place} is empty; leave it out")


def _wordnet_nouns() -> tuple[str, ...]:
    return load_wordnet().nouns().strings
