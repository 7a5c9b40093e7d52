"""The command line: ``kinfold``. Commands by theme; what they do is in :mod:`kinfold.pipeline`."""

from __future__ import annotations

from kinfold.cli import benchmark, clustering, language, results
from kinfold.cli._app import app, main

__all__ = ["app", "benchmark", "clustering", "language", "main", "results"]
