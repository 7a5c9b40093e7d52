"""The method of a run: checked before anything long begins, then fitted by one or several processes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from kinfold.errors import InputError, count_of
from kinfold.features import Features, open_features
from kinfold.language import NounFeatures, open_nouns
from kinfold.methods import Criteria, assess, configure
from kinfold.methods.protocol import Clusterer
from kinfold.neighbors import NeighborGraph
from kinfold.progress import Progress

DEFAULT_METHOD = "icce"
HOW_MANY = (
    "how many groups? Say it with -k (n_clusters=): 10, for example. It is the number of kinds that you "
    "expect; if you don't know it, try two or three (each with its own --out, out=) and look at the reports, "
    "and rather take more than fewer: groups that belong together are merged with one click, a mixed one has "
    "to be taken apart. `kinfold embed` makes the vectors once for all tries. A choice of the number by "
    "itself, at several levels, comes in a later version"
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
