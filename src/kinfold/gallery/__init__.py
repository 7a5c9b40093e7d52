"""Results as pages of images: contact sheets of groups, and of refined labels, that open with no network."""

from __future__ import annotations

from kinfold.gallery.report import Shown, write_report
from kinfold.gallery.sheet import Moves, write_sheet

__all__ = ["Moves", "Shown", "write_report", "write_sheet"]
