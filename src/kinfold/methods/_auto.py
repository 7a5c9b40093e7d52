"""Auto: several methods fitted on the same features, and the one kept that looks best without labels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from kinfold.compute import Runtime
from kinfold.distributed import current_workers
from kinfold.errors import InputError, nearest_name
from kinfold.methods._base import (
    RUN_PARAMETERS,
    SHARED_CONSTRAINTS,
    BaseClusterer,
    check_graph,
    make_graph,
)
from kinfold.methods._criteria import assess, warn_of_collapse, weigh_agreement
from kinfold.methods._graph import GraphClustering
from kinfold.methods._icce import ICCE
from kinfold.methods._kmeans import SphericalKMeans
from kinfold.methods._rows import check_rows
from kinfold.methods._temi_scan import SCAN, TEMI
from kinfold.methods._turtle import TURTLE
from kinfold.methods.protocol import Clusterer, Cost, Criteria, Graphs, Machine, Model, Needs, Rows, Shape
from kinfold.neighbors import NeighborGraph
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix
from kinfold.storage import hash_json
from kinfold.validation import (
    Constraint,
    Either,
    Integer,
    Listed,
    Nothing,
    Rule,
    check,
    check_parameters,
)

if TYPE_CHECKING:
    from typing_extensions import Self


logger = logging.getLogger(__name__)

# The methods that find clusters of images alone. TAC needs nouns, which differ from run to run: it can't be
# compared with others on equal terms.
SINGLE_METHODS: dict[str, type[Any]] = {
    method.name: method for method in (ICCE, GraphClustering, SphericalKMeans, SCAN, TEMI, TURTLE)
}
_COUNTS = ("n_clusters", "live_clusters", "largest_share")  # criteria whose high values are not good as such
_EXAMPLE = '{"icce": {"n_heads": 32}}'


def choose(criteria: Mapping[str, Criteria], *, by: str = "neighbor_agreement") -> str:
    """Return the name of the fit that looks best without labels.

    Collapsed fits (more than a tenth of the clusters dead, or one of them a giant) are out; where that is all
    of them, those with the most live clusters stay. The highest neighbour agreement times the share of live
    clusters wins, the earlier one of equals: a dead cluster counts against a fit by its share of all.

    Parameters
    ----------
    criteria : mapping of str to Criteria
        Of the fits by name, at least one.
    by : str, default "neighbor_agreement"
        The criterion that decides; another name of :class:`Criteria` whose high values are good compares
        other rules.

    Raises
    ------
    InputError
        There is nothing to choose from, or ``by`` is no criterion that all fits have.
    """
    if not criteria:
        raise InputError("there is no fit to choose from; give the criteria of one at least")
    known = [name for name in next(iter(criteria.values())).as_dict() if name not in _COUNTS]
    # A criterion that only methods with heads have would choose among those alone.
    if by not in known or any(getattr(found, by) is None for found in criteria.values()):
        raise InputError(
            f"fits can't be chosen by {by!r}{nearest_name(str(by), known)}: it must be one of "
            f"{', '.join(known)}, and known of all of them"
        )
    # Collapse comes first: few large clusters hold neighbours together without telling kinds apart.
    sound = {name: found for name, found in criteria.items() if not found.collapsed}
    if not sound:
        most = max(found.live_clusters for found in criteria.values())
        sound = {name: found for name, found in criteria.items() if found.live_clusters == most}

    def value(name: str) -> float:
        found = sound[name]
        return weigh_agreement(float(getattr(found, by)), found.live_clusters, found.n_clusters)

    return max(sound, key=value)


class Auto(BaseClusterer):
    """Fit several methods and keep the one that looks best without labels.

    Parameters
    ----------
    n_clusters : int or "auto", default 8
        K, at most the number of samples; "auto" estimates it (:func:`kinfold.levels.estimate_levels`).
    candidates : sequence of str, default ("kmeans", "graph", "temi", "icce")
        Names of methods, as ``--method`` takes them.
    parameters : mapping, optional
        More parameters of candidates: ``{"icce": {"n_heads": 32}}``.
    n_neighbors : int, optional
        Neighbours per sample in the graphs, at least, of candidates that learn from neighbours; by default
        each candidate's own choice.
    device : str, default "auto"
        "cpu", "cuda", "mps", or the best there is.
    precision : str, default "auto"
        Of matrix products: "float32", "bfloat16", or bfloat16 where the device has units for it.
    random_state : int, RandomState or None, default None
        Seed of every candidate; the same integer gives the same labels on the same machine.

    Attributes
    ----------
    chosen_ : estimator
        The fitted candidate that was chosen.
    method_ : str
        Its name.
    table_ : dict of str to Criteria
        What the choice was made by, of every candidate.
    labels_ : ndarray (N,) int32
        Cluster of every training sample, by the chosen candidate.
    criteria_ : Criteria
        That of the chosen one.
    n_clusters_ : int
        K as fitted.
    n_features_in_ : int
        D.

    Raises
    ------
    InputError
        From ``fit``: an unknown candidate or parameter, and what the candidates raise.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from kinfold.methods import Auto
    >>> X, _ = make_blobs(300, centers=3, n_features=16, random_state=0)
    >>> model = Auto(n_clusters=3, candidates=("kmeans", "turtle"), random_state=0).fit(X)
    >>> sorted(model.table_), model.predict(X[:5]).shape
    (['kmeans', 'turtle'], (5,))
    """

    name: ClassVar[str] = "auto"
    constraints: ClassVar[Mapping[str, Constraint]] = {
        **SHARED_CONSTRAINTS,
        "n_neighbors": Either(Integer(), Nothing()),
    }
    neighbors_parameter: ClassVar[str | None] = "n_neighbors"

    def __init__(
        self,
        n_clusters: int | str = 8,
        *,
        candidates: Sequence[str] = ("kmeans", "graph", "temi", "icce"),
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        n_neighbors: int | None = None,
        device: str = "auto",
        precision: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.candidates = candidates
        self.parameters = parameters
        self.n_neighbors = n_neighbors
        self.device = device
        self.precision = precision
        self.random_state = random_state

    def fit(
        self,
        X: Rows,
        y: object = None,
        *,
        graph: Graphs = None,
        progress: Progress = SILENT,
        checkpoint: Path | None = None,
        runtime: Runtime | None = None,
    ) -> Self:
        """Fit all candidates on X (N, D) and choose one.

        Parameters
        ----------
        X : array-like or row matrix (N, D)
            Features; memory maps and sharded matrices stay on disk.
        y : ignored
            Labels never reach a fit.
        graph : NeighborGraph or mapping of str to NeighborGraph, optional
            Neighbours of the N samples for all candidates, or for each one that needs them, by its name; made
            here where they are missing, once where candidates want the same.
        progress : Progress
            Shows the candidates' work.
        checkpoint : Path, optional
            Every candidate saves its training to this name with its own added, ``<checkpoint>.icce``, and
            continues from there.
        runtime : Runtime, optional
            Wins over ``device`` and ``progress``, and over ``precision``, that of candidates as well.

        Returns
        -------
        self
        """
        self.check_parameters()
        given = runtime
        runtime = self._resolve_runtime(runtime, progress)
        rows = check_rows(self, X, fitting=True)
        n_samples = int(rows.shape[0])
        self._settle_n_clusters(rows, runtime)
        self._check_graphs(graph, n_samples)
        seed = self._seed()
        graphs = self._make_graphs(rows, graph, runtime)
        # One graph judges all candidates: agreements on different ones don't compare.
        judge = next(iter(graphs.values()), None)
        fitted, table = {}, {}
        for name, estimator in self.build(seed).items():
            # A file each: a stop in one candidate must not cost what others have trained.
            file = checkpoint.with_name(f"{checkpoint.name}.{name}") if checkpoint else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # only that of the chosen one matters
                estimator.fit(rows, graph=graphs.get(name), progress=progress, checkpoint=file, runtime=given)
            fitted[name] = estimator
            table[name] = _assess(estimator, rows, judge, seed, runtime)
            logger.info("%s: %s", name, table[name])
        self.table_, self.method_ = table, choose(table)
        self.chosen_, self.criteria_ = fitted[self.method_], table[self.method_]
        self.labels_: NDArray[np.int32] = self.chosen_.labels_
        warn_of_collapse(self.labels_, self.n_clusters_)
        return self

    def predict(self, X: Rows) -> NDArray[np.int32]:
        """Return the most probable cluster of every row of X (N, D), int32, by the chosen candidate."""
        check_is_fitted(self, "chosen_")
        labels: NDArray[np.int32] = self.chosen_.predict(check_rows(self, X, fitting=False, any_scale=True))
        return labels

    def predict_proba(self, X: Rows) -> NDArray[np.float32]:
        """Return the chosen candidate's probabilities (N, K) for the rows of X (N, D)."""
        check_is_fitted(self, "chosen_")
        rows = check_rows(self, X, fitting=False, any_scale=True)  # the candidate knows what it can't take
        found: NDArray[np.float32] = self.chosen_.predict_proba(rows)
        return found

    def check_parameters(self) -> None:
        """Raise :class:`InputError` for a parameter that is impossible whatever the data."""
        check_parameters(self)
        self.check_candidates()
        for estimator in self.build(0).values():
            estimator.check_parameters()

    def check_candidates(self) -> None:
        """Raise :class:`InputError` unless candidates are methods, each once, and parameters are for them."""
        names = _read_names(self.candidates)
        if self.parameters is not None and not isinstance(self.parameters, Mapping):
            raise InputError(
                f"parameters must be a mapping of candidates, like {_EXAMPLE}; got {self.parameters!r}"
            )
        for name, own in (self.parameters or {}).items():
            if name not in names:
                raise InputError(
                    f"parameters are given for {name!r}, which is no candidate"
                    f"{nearest_name(str(name), names)}; candidates are {', '.join(names)}"
                )
            if not isinstance(own, Mapping):
                raise InputError(f"parameters of {name!r} must be a mapping, as in {_EXAMPLE}; got {own!r}")

    def build(self, seed: int) -> dict[str, Clusterer]:
        """Return the candidates, not fitted, by name and in order.

        Each is what it would be alone: its own parameters win over ``precision`` and ``n_neighbors``.
        """
        built: dict[str, Clusterer] = {}
        for name in self.candidates:
            method = find_named(SINGLE_METHODS, name)
            own = (self.parameters or {}).get(name, {})
            check_names(method, own, left_out=RUN_PARAMETERS)
            values: dict[str, Any] = {"precision": self.precision}
            if method.neighbors_parameter is not None and self.n_neighbors is not None:
                values[method.neighbors_parameter] = self.n_neighbors
            values |= own
            built[name] = method(n_clusters=self._k, random_state=seed, device=self.device, **values)
        return built

    def needs(self, n_samples: int) -> Needs:
        """Return what the candidates' fits of N samples take besides the rows."""
        candidates = self.build(0).values()
        return Needs(
            {key: options for one in candidates for key, options in one.needs(n_samples).graphs.items()}
        )

    def cost(self, shape: Shape, machine: Machine) -> Cost:
        """Return what all candidates are expected to take, one after another.

        Their weights are in memory one after another, but each keeps a checkpoint of its own on disk.
        """
        costs = [candidate.cost(shape, machine) for candidate in self.build(0).values()]
        sizes = [cost.model_bytes for cost in costs]
        return Cost(
            seconds=sum(cost.seconds for cost in costs),
            model_bytes=max(sizes),
            other_bytes=sum(sizes) - max(sizes),
            n_fits=len(costs),
        )

    def facts(self) -> dict[str, Any]:
        """Return what ``manifest.fit`` says of a fit: the chosen method's own, and why it was chosen."""
        return {"chosen": self.method_, "methods": self._describe_table(), **self.chosen_.facts()}

    def to_model(self) -> Model:
        """Return the chosen candidate's model, with the table of candidates that it was chosen by."""
        return replace(self.chosen_.to_model(), extra={"chosen_from": self._describe_table()})

    @classmethod
    def from_model(cls, model: Model, *, device: str = "auto") -> Self:
        """Raise :class:`InputError`: what is saved is the chosen candidate's own model."""
        raise InputError(f"a model of {model.method!r} is read by {model.method!r} itself, not by 'auto'")

    def _describe_table(self) -> dict[str, dict[str, Any]]:
        return {name: found.as_dict() for name, found in self.table_.items()}

    def _seed(self) -> int:
        """Return the candidates' seed: a given integer itself, so that each is what it would be alone."""
        # A generator draws once for all: candidates that draw in turn would depend on their order.
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return int(current_workers().broadcast(seed))

    def _check_graphs(self, given: Graphs, n_samples: int) -> None:
        """Raise :class:`InputError` unless these are graphs of N samples, of candidates if by name."""
        named = given if isinstance(given, Mapping) else dict.fromkeys(self.candidates, given)
        for name, graph in named.items():
            if name not in self.candidates:
                raise InputError(
                    f"a graph is given for {name!r}, which is no candidate"
                    f"{nearest_name(str(name), list(self.candidates))}; candidates are "
                    f"{', '.join(self.candidates)}"
                )
            check_graph(graph, n_samples)

    def _make_graphs(self, X: RowMatrix, given: Graphs, runtime: Runtime) -> dict[str, NeighborGraph]:
        """Return the graph of each candidate that needs one."""
        graphs: dict[str, NeighborGraph] = {}
        made: dict[str, NeighborGraph] = {}
        for name, options in self.needs(int(X.shape[0])).graphs.items():
            if isinstance(given, NeighborGraph):
                graphs[name] = given
            elif given is not None and name in given:
                graphs[name] = given[name]
            else:
                key = hash_json(options)  # the same neighbours are searched for once, which takes longest
                if key not in made:
                    made[key] = make_graph(X, options, runtime)
                graphs[name] = made[key]
        return graphs


def _assess(
    estimator: Clusterer, X: RowMatrix, graph: NeighborGraph | None, seed: int, runtime: Runtime
) -> Criteria:
    """Return the criteria, measured by the first process for all."""
    workers = current_workers()
    found = assess(estimator, X, graph=graph, seed=seed, device=runtime.device) if workers.is_first else None
    criteria: Criteria = workers.broadcast(found)
    return criteria


def find_named(table: dict[str, type[Any]], name: str) -> type[Any]:
    """Return the estimator class of a name.

    Raises
    ------
    InputError
        The name is unknown; the error names the nearest one.
    """
    if name not in table:
        raise InputError(
            f"method {name!r} is unknown{nearest_name(str(name), list(table))}; known: {', '.join(table)}"
        )
    return table[name]


def check_names(method: type[Any], given: Mapping[str, Any], *, left_out: Sequence[str]) -> None:
    """Raise :class:`InputError` for the first name that is no parameter of a method, or is left out here."""
    free = [name for name in method().get_params(deep=False) if name not in left_out]
    for name in given:
        if name not in free:
            raise InputError(
                f"method {method.name!r} has no parameter {name!r}{nearest_name(str(name), free)}; "
                f"it has {', '.join(free)}"
            )


def _read_names(candidates: Sequence[str]) -> list[str]:
    """Return the names of candidates; :class:`InputError` unless they are those of methods, each once."""
    known = f"the name of a method ({', '.join(SINGLE_METHODS)})"
    rule = Listed(Rule(lambda value: isinstance(value, str), known), example="['kmeans', 'icce']")
    check({"candidates": rule}, candidates=candidates)
    names = list(candidates)
    for number, name in enumerate(names):
        find_named(SINGLE_METHODS, name)
        if name in names[:number]:
            raise InputError(f"candidates name {name!r} more than once; every method is fitted once")
    return names
