"""The command line: ``kinfold``. One short file per command; what they do is in :mod:`kinfold.pipeline`."""

from __future__ import annotations

from kinfold.cli import (
    benchmark,
    check,
    cluster,
    demo,
    embed,
    evaluate,
    explore,
    export,
    info,
    level,
    name,
    nouns,
    predict,
    refine,
    relabel,
    report,
    update,
    zeroshot,
)
from kinfold.cli._app import app, main

__all__ = [
    "app",
    "benchmark",
    "check",
    "cluster",
    "demo",
    "embed",
    "evaluate",
    "explore",
    "export",
    "info",
    "level",
    "main",
    "name",
    "nouns",
    "predict",
    "refine",
    "relabel",
    "report",
    "update",
    "zeroshot",
]
