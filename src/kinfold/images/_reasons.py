"""Why an image can't be used."""

from __future__ import annotations

from enum import Enum

from kinfold.errors import KinfoldError


class SkipReason(str, Enum):
    """The words that begin every reason in ``skipped.parquet``."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    NOT_AN_IMAGE = "not an image"
    CORRUPT = "corrupt"
    UNREADABLE = "unreadable"
    TOO_LARGE = "above the pixel limit"
    MISSING = "missing"
    BROKEN_LINK = "broken link"
    DIRECTORY_LOOP = "directory loop"
    NOT_A_FILE = "not a regular file"


class UnusableImage(KinfoldError):  # noqa: N818 - it is a finding about an image, not a failure
    """One image can't be used; the run goes on without it.

    Parameters
    ----------
    reason : SkipReason
        The kind of trouble.
    detail : str
        What exactly, for a person; may be empty.

    Examples
    --------
    >>> str(UnusableImage(SkipReason.TRUNCATED, "12 bytes are missing"))
    'truncated: 12 bytes are missing'
    """

    def __init__(self, reason: SkipReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[UnusableImage], tuple[SkipReason, str]]:
        return type(self), (self.reason, self.detail)
