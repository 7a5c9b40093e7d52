"""Run every measurement, or the named ones, and print the tables."""

from __future__ import annotations

import argparse
import importlib
import os

from kinfold.compute import describe_machine, resolve_device

MEASUREMENTS = (
    "heads",
    "schedule",
    "tac",
    "nouns",
    "naming",
    "neighbors",
    "kmeans",
    "embedding",
    "consensus",
    "corrections",
    "refine",
    "relabel",
    "judge",
    "evaluate",
    "probing",
    "benchmark",
    "explore",
    "map",
    "levels",
)


def main() -> None:
    """Entry point of ``python -m perf [NAME ...]``."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages, as the command line has them
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(MEASUREMENTS)}")
    names = parser.parse_args().names or MEASUREMENTS
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(MEASUREMENTS)}")
    facts = describe_machine(resolve_device("auto"))
    print("; ".join(f"{name} {value}" for name, value in facts.items()), end="\n\n")
    for name in names:
        print(importlib.import_module(f"perf.{name}").main([]).markdown(), flush=True)


if __name__ == "__main__":
    main()
