"""A run taken away: tables, folders, pages and models that other programs read.

The room isn't called ``export/`` because ``kinfold.export(...)`` is the function.
"""

from __future__ import annotations

from kinfold.exports._export import FORMATS, Exported, Format, export, find_format

__all__ = ["FORMATS", "Exported", "Format", "export", "find_format"]
