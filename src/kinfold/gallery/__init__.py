"""Results as HTML files of images that open without a network: reports and sheets."""

from __future__ import annotations

from kinfold.gallery.report import Shown, write_report
from kinfold.gallery.sheet import Moves, write_sheet

__all__ = ["Moves", "Shown", "write_report", "write_sheet"]
