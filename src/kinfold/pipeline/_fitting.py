"""One fit: what takes part in it, and what is told of it afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from kinfold.features import Features, open_features
from kinfold.language import open_nouns
from kinfold.methods import Auto, Criteria, assess
from kinfold.neighbors import NeighborGraph
from kinfold.pipeline._method import Method
from kinfold.progress import Progress

_SHOWN_NOUNS = 30  # the surest, as many as the paper shows (TAC, appendix B)


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

    def run(self, progress: Progress, features: Features | None = None) -> Any:
        """Fit and return the estimator; ``features`` are those at the path, where they are open already."""
        features = features or open_features(self.features, **self.options)
        estimator = self.method.build(None if self.nouns is None else open_nouns(self.nouns))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the diagnosis says it, with advice
            estimator.fit(
                features.matrix(self.variant),
                graph=self._open_graphs(estimator),
                progress=progress,
                checkpoint=self.checkpoint,
            )
        return estimator

    def assess(self, estimator: Any, features: Features) -> Criteria:
        """Return the criteria of what was fitted."""
        if isinstance(estimator, Auto):
            return estimator.table_[estimator.method_]
        graphs = self._open_graphs(estimator)
        seed, device = self.method.random_state, estimator.device
        return assess(estimator, features.matrix(self.variant), graph=graphs, seed=seed, device=device)

    def _open_graphs(self, estimator: Any) -> Any:
        graphs = {name: NeighborGraph.open(path) for name, path in self.graphs.items()}
        return graphs if isinstance(estimator, Auto) else graphs.get(self.method.name)


def describe_fit(estimator: Any) -> dict[str, Any]:
    """Return what the manifest tells of a fit: the tables that its choices were made by, JSON-ready."""
    content: dict[str, Any] = {}
    if isinstance(estimator, Auto):
        content["chosen"] = estimator.method_
        content["methods"] = {name: found.as_dict() for name, found in estimator.table_.items()}
        estimator = estimator.chosen_
    if (history := getattr(estimator, "history_", None)) is not None:
        content["n_rounds"] = len(history)
    if (found := getattr(estimator, "consensus_", None)) is not None:
        content["consensus"] = found.method
        content["candidates"] = [asdict(candidate) for candidate in found.candidates]
    if (classifier := getattr(estimator, "self_training_", None)) is not None:
        content["self_training"] = [
            {"learning_rate": rate, "dims": list(dims), "agreement": agreement}
            for rate, dims, agreement in classifier.table
        ]
    if (nouns := getattr(estimator, "selected_nouns_", None)) is not None:
        content["n_nouns"] = len(nouns)
        content["nouns"] = nouns[:_SHOWN_NOUNS].tolist()
    return content
