"""Exports of a run for other programs: tables, folders of images, a page and an ONNX model.

The room isn't called ``export/`` because ``kinfold.export(...)`` is the function.
"""

from __future__ import annotations

from kinfold.exports._export import FORMATS, Exported, Format, export, find_format

__all__ = ["FORMATS", "Exported", "Format", "export", "find_format"]
