"""The method that was asked for, checked before anything long begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from kinfold.compute import resolve_device, resolve_precision
from kinfold.errors import InputError, count_of, nearest_name
from kinfold.methods import default_n_neighbors, get_method

_OWN_ARGUMENTS = ("n_clusters", "random_state", "device")
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
    n_neighbors : int or None
        Neighbours per sample in the graph, where that was asked for.
    """

    name: str
    estimator: Any
    n_clusters: int
    random_state: int
    n_neighbors: int | None

    @property
    def needs_graph(self) -> bool:
        """Whether the method learns from a neighbour graph."""
        return bool(self.estimator.needs_graph)

    def build(self) -> Any:
        """Return a new estimator with these parameters."""
        return type(self.estimator)(**self.estimator.get_params())

    def graph_neighbors(self, n_samples: int) -> int:
        """Return the neighbours per sample of the graph."""
        if self.n_neighbors is not None:
            return self.n_neighbors
        return default_n_neighbors(n_samples, self.n_clusters)

    def describe(self, n_samples: int) -> dict[str, Any]:
        """Return all that decides the result besides the features, JSON-ready."""
        parameters = self.estimator.get_params()
        own = {name: value for name, value in parameters.items() if name not in _OWN_ARGUMENTS}
        if self.needs_graph:
            own["n_neighbors"] = self.graph_neighbors(n_samples)
        return {
            "n_clusters": self.n_clusters,
            "method": self.name,
            "random_state": self.random_state,
            "method_parameters": own,
        }


def prepare_method(
    name: str,
    n_clusters: int,
    random_state: int,
    device: str,
    precision: str,
    n_neighbors: int | None,
    parameters: Mapping[str, Any] | None,
) -> Method:
    """Check the method and its parameters.

    Raises
    ------
    InputError
        The method or a parameter is unknown, or a value is impossible.
    """
    _check_whole("n_clusters", n_clusters, 1)
    _check_whole("random_state", random_state, 0, MOST_SEED)
    resolve_precision(precision, resolve_device(device))
    estimator_class = get_method(name)
    known = list(estimator_class().get_params())
    given = dict(parameters or {})
    for key in given:
        if key in _OWN_ARGUMENTS:
            raise InputError(f"{key} is an argument of its own, not one of method_parameters")
        if key not in known:
            free = [parameter for parameter in known if parameter not in _OWN_ARGUMENTS]
            raise InputError(
                f"method {name!r} has no parameter {key!r}{nearest_name(key, free)}; it has {', '.join(free)}"
            )
    shared = {"precision": precision, "n_neighbors": n_neighbors}
    shared = {key: value for key, value in shared.items() if key in known and value is not None}
    values = {**shared, **given}
    if (neighbors := values.get("n_neighbors")) is not None:
        _check_whole("n_neighbors", neighbors, 1)
    estimator = estimator_class(
        n_clusters=int(n_clusters), random_state=int(random_state), device=device, **values
    )
    estimator.check_parameters()
    return Method(name, estimator, int(n_clusters), int(random_state), neighbors)


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
