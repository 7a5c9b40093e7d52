"""The method of a run: checked before anything long begins, its neighbour graphs, and the order to fit it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from kinfold.errors import FormatError, InputError, count_of
from kinfold.features import Features, open_features
from kinfold.language import NounFeatures, open_nouns
from kinfold.methods import Criteria, assess, configure
from kinfold.methods.protocol import Clusterer
from kinfold.neighbors import NeighborGraph, knn_graph
from kinfold.progress import Progress
from kinfold.run import Stages, lock_directory
from kinfold.storage import check_own, hash_json, remove_partials

logger = logging.getLogger(__name__)

DEFAULT_METHOD = "icce"
NEIGHBORS_NAME = "neighbors"
_ZERO_ROWS = "isolate"  # in a graph a row without a direction has no neighbours, rather than ending the run
HOW_MANY = (
    "how many groups? Say it with -k (n_clusters=): 10, for example. It is the number of kinds that you "
    "expect; if you don't know it, try two or three (each with its own --out, out=) and look at the reports, "
    "and rather take more than fewer: groups that belong together are merged with one click, a mixed one has "
    "to be taken apart. `kinfold embed` makes the vectors once for all tries"
)


@dataclass(frozen=True)
class Method:
    """A method and its parameters.

    Attributes
    ----------
    name : str
        As ``--method`` takes it.
    estimator : Clusterer
        Not fitted; never fitted itself, see :meth:`build`.
    n_clusters : int
        Groups.
    random_state : int
        Seed.
    preset : str or None
        Named parameters that it was built from, where that was asked for.
    """

    name: str
    estimator: Clusterer
    n_clusters: int
    random_state: int
    preset: str | None = None

    @property
    def needs_nouns(self) -> bool:
        """Whether the method learns from the features of nouns."""
        return bool(self.estimator.noun_parameters)

    def build(self, nouns: NounFeatures | None = None) -> Clusterer:
        """Return a new estimator with these parameters, and with the nouns that it needs."""
        values = self.estimator.get_params()
        if nouns is not None:
            values |= zip(self.estimator.noun_parameters, (nouns.features, nouns.nouns), strict=True)
        return type(self.estimator)(**values)

    def graphs(self, n_samples: int) -> dict[str, dict[str, Any]]:
        """Return how ``knn_graph`` makes the graph of N samples, by the name of the method that needs it."""
        return {name: dict(options) for name, options in self.estimator.needs(n_samples).graphs.items()}

    def describe(self, n_samples: int) -> dict[str, Any]:
        """Return all that decides the result besides the features and the graph, JSON-ready."""
        described = {
            "n_clusters": self.n_clusters,
            "method": self.name,
            "random_state": self.random_state,
            # As JSON reads it again: tuples become lists, so that a resumed run compares equal.
            "method_parameters": json.loads(json.dumps(self.estimator.describe_parameters(n_samples))),
        }
        return {**described, "preset": self.preset} if self.preset else described


@dataclass(frozen=True)
class FitOrder:
    """All that a process needs to take part in a fit; small, so that it can be sent.

    Attributes
    ----------
    method : Method
        What is fitted.
    features : Path
        Where the features are.
    variant : str
        Which vectors of them.
    checkpoint : Path
        Where training is saved.
    graphs : mapping of str to Path
        Where the graphs are, by the name of the method that learns from each.
    options : mapping
        How the features are opened.
    nouns : Path or None
        Where the features of nouns are, for a method that needs some.
    """

    method: Method
    features: Path
    variant: str
    checkpoint: Path
    graphs: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    nouns: Path | None = None

    def run(self, progress: Progress, features: Features | None = None) -> Clusterer:
        """Fit and return the estimator; ``features`` are those at the path, where they are open already."""
        features = features or open_features(self.features, **self.options)
        estimator = self.method.build(None if self.nouns is None else open_nouns(self.nouns))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the diagnosis says it, with advice
            estimator.fit(
                features.matrix(self.variant),
                graph=self._open_graphs(),
                progress=progress,
                checkpoint=self.checkpoint,
            )
        return estimator

    def assess(self, estimator: Clusterer, features: Features) -> Criteria:
        """Return the criteria of what was fitted."""
        if estimator.criteria_ is not None:
            return estimator.criteria_  # the fit measured them itself, to choose by
        return assess(
            estimator,
            features.matrix(self.variant),
            graph=self._open_graphs().get(self.method.name),
            seed=self.method.random_state,
            device=estimator.device,
        )

    def _open_graphs(self) -> dict[str, NeighborGraph]:
        return {name: NeighborGraph.open(path) for name, path in self.graphs.items()}


def prepare_method(
    name: str,
    n_clusters: int | None,
    random_state: int,
    device: str,
    precision: str,
    n_neighbors: int | None,
    parameters: Mapping[str, Any] | None,
    preset: str | None = None,
) -> Method:
    """Check the method and its parameters: explicit ones win over those of the preset.

    Raises
    ------
    InputError
        The method, the preset or a parameter is unknown, a value is impossible, or K isn't said.
    """
    if n_clusters is None:
        raise InputError(HOW_MANY)
    estimator = configure(
        name,
        n_clusters=n_clusters,
        random_state=random_state,
        device=device,
        precision=precision,
        n_neighbors=n_neighbors,
        parameters=parameters,
        preset=preset,
    )
    return Method(name, estimator, int(n_clusters), int(random_state), preset)


def check_n_samples(n_clusters: int, n_samples: int, noun: str, where: str) -> None:
    """Refuse more groups than samples, and no samples at all; ``noun`` is what one sample is called."""
    if n_samples == 0:
        raise InputError(f"there are no {noun}s in {where}; give a source that holds some")
    if n_clusters > n_samples:
        raise InputError(
            f"n_clusters is {n_clusters}, but there {'is' if n_samples == 1 else 'are'} only "
            f"{count_of(n_samples, noun)} in {where}; ask for at most {count_of(n_samples, 'group')}"
        )


@dataclass(frozen=True)
class GraphCache:
    """The neighbour graphs of some features: found where they are kept, made where they are missing.

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
        with lock_directory(home, wait=True, create=True):
            check_own(home, depth=2)
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
