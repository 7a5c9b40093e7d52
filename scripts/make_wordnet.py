"""Make the package's copy of WordNet's nouns from the database files: ``python scripts/make_wordnet.py``.

The files are those of Debian's ``wordnet-base`` (WordNet 3.0; format: ``man 5 wndb``). What is kept of
``data.noun`` and ``index.noun``: offsets, words in their order, hypernyms, instance hypernyms and sense
numbers. No glosses. The same files give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import kinfold.hierarchy
from kinfold.errors import InputError
from kinfold.storage import atomic_file

SOURCE = Path("/usr/share/wordnet")
TARGET = Path(kinfold.hierarchy.__file__).parent / "data"
FORMAT_VERSION = 1
N_SYNSETS = 82_115
N_NOUNS = 119_034


@dataclass(frozen=True)
class Synset:
    """A line of ``data.noun``: offset, nouns with spaces, offsets above it by ``@`` and by ``@i``."""

    offset: int
    nouns: list[str]
    hypernyms: list[int]
    instance_hypernyms: list[int]


def main(arguments: list[str] | None = None) -> int:
    """Read the database and write data and licence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder with data.noun and index.noun")
    parser.add_argument("--target", type=Path, default=TARGET, help="folder to write to")
    options = parser.parse_args(arguments)
    synsets = read_synsets(options.source / "data.noun")
    columns = pack(synsets, read_senses(options.source / "index.noun"))
    data = options.target / "wordnet-3.0-nouns.npz"
    with atomic_file(data) as partial:
        np.savez_compressed(partial, allow_pickle=False, **columns)
    with atomic_file(options.target / "WORDNET-LICENSE.txt") as partial:
        partial.write_text(read_licence(options.source / "data.noun"), encoding="utf-8")
    sys.stdout.write(f"{data}: {len(synsets)} synsets, {data.stat().st_size} bytes\n")
    return 0


def read_synsets(path: Path) -> list[Synset]:
    """Return the synsets of ``data.noun`` in its order, which is that of offsets."""
    with path.open(encoding="utf-8") as lines:
        return [_read_synset(line) for line in lines if not line.startswith("  ")]


def _read_synset(line: str) -> Synset:
    fields = line.partition(" | ")[0].split()
    n_words = int(fields[3], 16)
    pointers = fields[5 + 2 * n_words :]
    above: dict[str, list[int]] = {"@": [], "@i": []}
    for symbol, offset in zip(pointers[::4], pointers[1::4], strict=True):
        if symbol in above:
            above[symbol].append(int(offset))
    nouns = [word.replace("_", " ") for word in fields[4 : 4 + 2 * n_words : 2]]
    return Synset(int(fields[0]), nouns, above["@"], above["@i"])


def read_senses(path: Path) -> dict[str, list[int]]:
    """Return the offsets of every lower-case noun of ``index.noun``, most frequent sense first."""
    senses = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith("  "):
                fields = line.split()
                senses[fields[0].replace("_", " ")] = [int(offset) for offset in fields[-int(fields[2]) :]]
    return senses


def read_licence(path: Path) -> str:
    """Return the text that heads the file, without its line numbers."""
    with path.open(encoding="utf-8") as lines:
        head = [line[5:].rstrip() for line in lines if line.startswith("  ")]
    return "\n".join(head).strip() + "\n"


def pack(synsets: list[Synset], senses: dict[str, list[int]]) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of the data file; :mod:`kinfold.hierarchy` says what they are."""
    nouns = sorted({noun for synset in synsets for noun in synset.nouns})
    if (len(synsets), len(nouns)) != (N_SYNSETS, N_NOUNS):
        raise InputError(
            f"the source has {len(synsets)} noun synsets and {len(nouns)} nouns, WordNet 3.0 has {N_SYNSETS} "
            f"and {N_NOUNS}: take the files of Debian's wordnet-base 3.0"
        )
    number_of = {noun: number for number, noun in enumerate(nouns)}
    row_of = {synset.offset: row for row, synset in enumerate(synsets)}
    pairs = [(synset.offset, noun) for synset in synsets for noun in synset.nouns]
    return {
        "format_version": np.array(FORMAT_VERSION),
        "offsets": np.array([synset.offset for synset in synsets], dtype=np.int32),
        "nouns": np.frombuffer("\n".join(nouns).encode(), dtype=np.uint8),
        "lemma_counts": np.array([len(synset.nouns) for synset in synsets], dtype=np.uint8),
        "lemmas": np.array([number_of[noun] for _, noun in pairs], dtype=np.int32),
        "senses": np.array([senses[noun.lower()].index(offset) for offset, noun in pairs], dtype=np.uint8),
        **_pack_links("hypernym", [synset.hypernyms for synset in synsets], row_of),
        **_pack_links("instance_hypernym", [synset.instance_hypernyms for synset in synsets], row_of),
    }


def _pack_links(name: str, lists: list[list[int]], row_of: dict[int, int]) -> dict[str, NDArray[np.generic]]:
    return {
        f"{name}_counts": np.array([len(offsets) for offsets in lists], dtype=np.uint8),
        f"{name}s": np.array([row_of[offset] for offsets in lists for offset in offsets], dtype=np.int32),
    }


if __name__ == "__main__":
    raise SystemExit(main())
