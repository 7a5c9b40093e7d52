"""Errors of the server other than wrong input; :mod:`_answers` gives each its HTTP status."""

from __future__ import annotations

from kinfold.errors import KinfoldError


class NotFoundError(KinfoldError):
    """There is no such row, group or file."""


class ConflictError(KinfoldError):
    """An edit isn't possible in the current state, which the page then loads again."""


class UnavailableError(KinfoldError):
    """The request needs something that is missing: features, a backbone, an optional package."""


class ForbiddenError(KinfoldError):
    """The server or the run is read-only."""
