"""What the server refuses besides wrong input, and with which status."""

from __future__ import annotations

from kinfold.errors import KinfoldError


class NotFoundError(KinfoldError):
    """There is no such row, group or file."""


class ConflictError(KinfoldError):
    """An edit isn't possible as things are now: the page reloads."""


class UnavailableError(KinfoldError):
    """What was asked for needs something that isn't there: features, a backbone, an extra."""


class ForbiddenError(KinfoldError):
    """The server was started for looking alone."""
