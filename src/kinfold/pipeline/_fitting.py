"""One fit of a run: its method, features and graphs, in a form that can be sent to other processes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from kinfold.features import Features, open_features
from kinfold.language import open_nouns
from kinfold.methods import Criteria, assess
from kinfold.methods.protocol import Clusterer
from kinfold.neighbors import NeighborGraph
from kinfold.pipeline._method import Method
from kinfold.progress import Progress


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
