"""The neighbour graphs of a run: made once for given features and options, kept, and shared between runs."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinfold.errors import FormatError
from kinfold.features import Features
from kinfold.neighbors import NeighborGraph, knn_graph
from kinfold.pipeline._stages import Stages
from kinfold.progress import Progress
from kinfold.run import lock_directory
from kinfold.storage import hash_json, remove_partials

logger = logging.getLogger(__name__)

NEIGHBORS_NAME = "neighbors"
_ZERO_ROWS = "isolate"


@dataclass(frozen=True)
class GraphCache:
    """Where the graphs of some features are.

    Parameters
    ----------
    stages : Stages
        The open run, which records the stage.
    features : Features
        What the graphs are of.
    variant : str
        Which vectors of them.
    device : str
        Where to compute.
    progress : Progress
        Shows the search.
    """

    stages: Stages
    features: Features
    variant: str
    device: str
    progress: Progress

    def find(self, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Path]:
        """Return the folders of the graphs, from where they are kept or newly made.

        Parameters
        ----------
        wanted : mapping of str to mapping
            By the name of the method that needs it, what ``knn_graph`` makes each graph with. Equal ones are
            made once.
        """
        fingerprint = self.features.fingerprint(self.variant)
        inputs = {"features": fingerprint, "graphs": wanted, "zero_rows": _ZERO_ROWS}
        home = self._home()
        places = {name: home / self._name(fingerprint, options) for name, options in wanted.items()}
        home.mkdir(parents=True, exist_ok=True)
        with lock_directory(home, wait=True):
            remove_partials(home)
            missing = {places[name]: wanted[name] for name in wanted if not _is_kept(places[name])}
            if missing or not self.stages.is_current("neighbors", inputs):
                self.stages.forget("neighbors")
                self.stages.run("neighbors", inputs, (), lambda: self._make(missing))
            self.stages.declare(neighbors=_describe(places))
        return places

    def _make(self, missing: Mapping[Path, Mapping[str, Any]]) -> None:
        matrix = self.features.matrix(self.variant)
        for path, options in missing.items():
            graph = knn_graph(
                matrix, **options, zero_rows=_ZERO_ROWS, device=self.device, progress=self.progress
            )
            graph.save(path)

    def _name(self, fingerprint: str, options: Mapping[str, Any]) -> str:
        made_of = {"features": fingerprint, **options, "zero_rows": _ZERO_ROWS}
        return f"{self.variant.replace('/', '-')}-{hash_json(made_of)[:12]}"

    def _home(self) -> Path:
        """Return where graphs of these features are kept: beside them where that can be written."""
        home, own = self.features.neighbors_path, self.stages.path / NEIGHBORS_NAME
        if home is None:
            return own
        nearest = next(folder for folder in (home, *home.parents) if folder.exists())
        return home if os.access(nearest, os.W_OK) else own


def _is_kept(path: Path) -> bool:
    """Tell whether a whole graph is there; a damaged one is removed."""
    if not path.exists():
        return False
    try:
        NeighborGraph.verify(path)
        return True
    except FormatError as error:
        logger.warning("finding neighbours again: %s", error)
        shutil.rmtree(path)
        return False


def _describe(places: Mapping[str, Path]) -> dict[str, Any]:
    """Return what the manifest says: of the graph, or of each one where there are several."""
    described = {name: NeighborGraph.open(path).describe() for name, path in places.items()}
    return next(iter(described.values())) if len(described) == 1 else described
