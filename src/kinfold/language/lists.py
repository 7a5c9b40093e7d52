"""Lists of words in text files: nouns, or names of classes."""

from __future__ import annotations

from pathlib import Path

from kinfold.errors import InputError


def read_words(path: str | Path) -> tuple[str, ...]:
    """Read a text file with one word or name per line, in UTF-8.

    Space around a word doesn't count, lines without one are left out.

    Raises
    ------
    InputError
        The file can't be read, isn't text, or holds no word.
    """
    path = Path(path)
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
