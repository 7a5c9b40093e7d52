"""The neighbour graph that a run was fitted with, found again beside its features or in the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinfold.errors import FormatError
from kinfold.features import Features
from kinfold.run import Run

if TYPE_CHECKING:
    from kinfold.neighbors import NeighborGraph

logger = logging.getLogger(__name__)

_FOLDER = "neighbors"


def find_graph(run: Run, features: Features | None = None) -> NeighborGraph | None:
    """Return the graph of a run, mapped from disk; None where the method needed none, or it is gone.

    Graphs are kept beside the features or in the run, under names made of their options. The run's own is
    the one that describes itself as the manifest does; of several (``auto``) the first that is there.

    Parameters
    ----------
    run : Run
        The run.
    features : Features, optional
        What it was made from; without them only the run's own folder is looked into.
    """
    from kinfold.neighbors import NeighborGraph  # brings PyTorch, which a gallery can begin without

    wanted = _descriptions(run)
    if not wanted:
        return None
    for path in _folders(run, features):
        try:
            graph = NeighborGraph.open(path)
        except FormatError as error:
            logger.warning("a neighbour graph is left out: %s", error)
            continue
        if graph.n_samples == len(run.labels) and graph.describe() in wanted:
            return graph
    return None


def _descriptions(run: Run) -> list[dict[str, Any]]:
    """Return what the manifest says of the graph, or of each one where there are several."""
    described = run.manifest.neighbors or {}
    if "n_samples" in described:
        return [described]
    return [one for one in described.values() if isinstance(one, dict)]


def _folders(run: Run, features: Features | None) -> Iterator[Path]:
    homes = [run.path / _FOLDER]
    if features is not None and features.neighbors_path is not None:
        homes.insert(0, features.neighbors_path)
    for home in homes:
        yield from sorted(
            path.parent for path in home.glob("*/graph.json") if not path.parent.name.startswith(".")
        )
