"""The method that was asked for, checked before anything long begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kinfold.errors import InputError, count_of
from kinfold.language import NounFeatures
from kinfold.methods import configure
from kinfold.methods.protocol import Clusterer

DEFAULT_METHOD = "icce"


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


def prepare_method(
    name: str,
    n_clusters: int,
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
        The method, the preset or a parameter is unknown, or a value is impossible.
    """
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
