"""The method that was asked for, checked before anything long begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from kinfold.compute import resolve_device, resolve_precision
from kinfold.errors import InputError, count_of, nearest_name
from kinfold.language import NounFeatures
from kinfold.methods import Auto, get_method, preset_parameters

DEFAULT_METHOD = "icce"
_OWN_ARGUMENTS = ("n_clusters", "random_state", "device")
_WORDS = ("noun_features", "nouns")  # what the pipeline reads with the text tower
_NONE_IS_A_CHOICE = ("centres", "distillation")  # but the command line reads none as None
_NEIGHBORS = ("n_neighbors", "min_neighbors")  # what methods call the least number of neighbours
MOST_SEED = 2**32 - 1  # NumPy takes no larger one


@dataclass(frozen=True)
class Method:
    """A method and its parameters.

    Attributes
    ----------
    name : str
        As ``--method`` takes it.
    estimator : estimator
        Not fitted; never fitted itself, see :meth:`build`.
    n_clusters : int
        Groups.
    random_state : int
        Seed.
    preset : str or None
        Named parameters that it was built from, where that was asked for.
    """

    name: str
    estimator: Any
    n_clusters: int
    random_state: int
    preset: str | None = None

    @property
    def needs_graph(self) -> bool:
        """Whether the method learns from a neighbour graph."""
        return bool(self.estimator.needs_graph)

    @property
    def needs_nouns(self) -> bool:
        """Whether the method learns from the features of nouns."""
        return _WORDS[0] in self.estimator.get_params(deep=False)

    def build(self, nouns: NounFeatures | None = None) -> Any:
        """Return a new estimator with these parameters, and with the nouns that it needs."""
        words = {} if nouns is None else dict(zip(_WORDS, (nouns.features, nouns.nouns), strict=True))
        return type(self.estimator)(**{**self.estimator.get_params(), **words})

    def graphs(self, n_samples: int) -> dict[str, dict[str, Any]]:
        """Return how ``knn_graph`` makes the graph of N samples, by the name of the method that needs it."""
        if isinstance(self.estimator, Auto):
            return self.estimator.candidate_graphs(n_samples)
        return {self.name: self.estimator.graph_options(n_samples)} if self.needs_graph else {}

    def describe(self, n_samples: int) -> dict[str, Any]:
        """Return all that decides the result besides the features and the graph, JSON-ready."""
        parameters = self.estimator.get_params(deep=False)
        own = {name: value for name, value in parameters.items() if name not in (*_OWN_ARGUMENTS, *_WORDS)}
        graph = self.graphs(n_samples).get(self.name, {})
        own |= {name: graph["n_neighbors"] for name in _NEIGHBORS if name in own and graph}
        own |= {"max_neighbors": graph["max_neighbors"]} if "max_neighbors" in graph else {}
        described = {
            "n_clusters": self.n_clusters,
            "method": self.name,
            "random_state": self.random_state,
            "method_parameters": json.loads(json.dumps(own)),
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
    _check_whole("n_clusters", n_clusters, 1)
    _check_whole("random_state", random_state, 0, MOST_SEED)
    resolve_precision(precision, resolve_device(device))
    estimator_class = get_method(name)
    known = list(estimator_class().get_params())
    given = dict(parameters or {})
    given |= {key: "none" for key in _NONE_IS_A_CHOICE if key in given and given[key] is None}
    for key in given:
        if key in _OWN_ARGUMENTS or (key in _WORDS and key in known):
            raise InputError(f"{key} is no parameter to be set here: it is given by itself, or found")
        if key not in known:
            free = [parameter for parameter in known if parameter not in (*_OWN_ARGUMENTS, *_WORDS)]
            raise InputError(
                f"method {name!r} has no parameter {key!r}{nearest_name(key, free)}; it has {', '.join(free)}"
            )
    if n_neighbors is not None:
        _check_whole("n_neighbors", n_neighbors, 1)
    values = _read_preset(name, preset, given, n_neighbors, estimator_class)
    shared = {"precision": precision, **dict.fromkeys(_NEIGHBORS, n_neighbors)}
    values |= {key: value for key, value in shared.items() if key in known and value is not None}
    estimator = estimator_class(
        n_clusters=int(n_clusters), random_state=int(random_state), device=device, **{**values, **given}
    )
    estimator.check_parameters()
    return Method(name, estimator, int(n_clusters), int(random_state), preset)


def _read_preset(
    name: str, preset: str | None, given: dict[str, Any], n_neighbors: int | None, estimator_class: type[Any]
) -> dict[str, Any]:
    """Return the preset's parameters; those of candidates are merged into what was given for them."""
    if preset is None:
        return {}
    if estimator_class is not Auto:
        return preset_parameters(name, preset)
    own = Auto(**given)
    own.check_candidates()
    values = preset_parameters(name, preset, candidates=tuple(own.candidates))
    merged = dict(own.parameters or {})
    for candidate, named in values["parameters"].items():
        free = {key: value for key, value in named.items() if n_neighbors is None or key not in _NEIGHBORS}
        merged[candidate] = {**free, **merged.get(candidate, {})}
    given["parameters"] = merged
    return {}


def check_n_samples(n_clusters: int, n_samples: int, noun: str, where: str) -> None:
    """Refuse more groups than samples, and no samples at all; ``noun`` is what one sample is called."""
    if n_samples == 0:
        raise InputError(f"there are no {noun}s in {where}; give a source that holds some")
    if n_clusters > n_samples:
        raise InputError(
            f"n_clusters is {n_clusters}, but there {'is' if n_samples == 1 else 'are'} only "
            f"{count_of(n_samples, noun)} in {where}; ask for at most {count_of(n_samples, 'group')}"
        )


def _check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if most is not None and int(value) > most:
        raise InputError(f"{name} must be at most {most}, not {value!r}")
