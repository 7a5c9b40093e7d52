"""A run as a page: contact sheets of its groups, in one file that opens with no network."""

from __future__ import annotations

from kinfold.gallery.report import write_report

__all__ = ["write_report"]
