"""The errors that Kinfold raises: each message says what is wrong, where, and how to mend it."""

from __future__ import annotations


class KinfoldError(Exception):
    """Base of every error that Kinfold raises on purpose."""


class InputError(KinfoldError, ValueError):
    """The input or a parameter can't be used as it is."""


class UnwritableError(InputError):
    """A file can't be written now: open in another program, without permission, or on a full disk."""


class FormatError(KinfoldError, ValueError):
    """A file in one of Kinfold's formats is damaged, of another format, or of a newer format version."""


class NewerFormatError(FormatError):
    """A file was written by a newer version of Kinfold."""


class OtherGroupsError(FormatError):
    """Corrections belong to groups that the run no longer has."""


class MissingExtraError(KinfoldError, ImportError):
    """An optional package is needed for what was asked.

    Parameters
    ----------
    purpose : str
        What was asked, as the start of a sentence: ``"Reading HEIC images"``.
    package : str
        The package that is missing, as pip knows it.
    extra : str
        The extra of Kinfold that installs it.
    """

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'kinfold[{extra}]'")


class HubUnavailableError(KinfoldError, OSError):
    """A model's files are not in the local cache and can't be downloaded from the hub."""


def count_of(n: int, noun: str) -> str:
    """Return ``"1 image"`` or ``"2 images"``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def nearest_name(wrong: str, known: list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or an empty string."""
    import difflib

    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
