"""The lines of figures that were measured, kept as those of suites are."""

from __future__ import annotations

from typing import Any

from kinfold.benchmark import Results

Line = dict[str, Any]

__all__ = ["Line", "Results"]
