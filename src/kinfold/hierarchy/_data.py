"""The data file of WordNet's nouns."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import FormatError
from kinfold.hierarchy._links import Links
from kinfold.storage import check_format_version

PATH = Path(__file__).parent / "data" / "wordnet-3.0-nouns.npz"
FORMAT_VERSION = 1


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
    try:
        with np.load(path, allow_pickle=False) as file:
            check_format_version(path, int(file["format_version"]), FORMAT_VERSION)
            return NounData(
                offsets=file["offsets"],
                nouns=tuple(file["nouns"].tobytes().decode().split("\n")),
                lemmas=Links.from_counts(file["lemma_counts"], file["lemmas"]),
                senses=file["senses"],
                hypernyms=Links.from_counts(file["hypernym_counts"], file["hypernyms"]),
                instance_hypernyms=Links.from_counts(
                    file["instance_hypernym_counts"], file["instance_hypernyms"]
                ),
            )
    except FormatError:
        raise
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FormatError(
            f"WordNet's data in {path} can't be read ({error}); install Kinfold anew: "
            "pip install --force-reinstall --no-deps kinfold"
        ) from error
