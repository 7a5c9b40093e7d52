"""What a study consists of: tables of rows, and cells, which are a row with a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kinfold import TAC, methods
from kinfold.methods import GraphClustering, SphericalKMeans
from kinfold.storage import hash_json
from studies.baselines import BASELINES, Baseline
from studies.data import DATA_SETS
from studies.words import Words, ZeroShot

METHODS: dict[str, Any] = {**methods.METHODS, "tac": TAC, "zero-shot": ZeroShot, **BASELINES}

PROTOCOL = 1  # raise it when a cell measures something else than before: all cells run again
# Raise a method's number when its results change though its parameters don't: its cells run again.
REVISIONS: Mapping[str, int] = {"kmeans": 1, "temi": 1, "scan": 1, "icce": 1, "turtle": 1, "tac": 1}

# Parameters, and fields of a plan, that came after lines were recorded, with the value that means what was
# before: at this value they don't count, so that the lines stay valid: {"icce": {"new_switch": False}}.
LATER_PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "icce": {"self_training_rates": None, "self_training_blocks": None, "graph_labelings": False},
    "kmeans": {"precision": "auto"},
    "tac": {"separate_moments": False, "initialization": "uniform"},
}

# Defaults that changed though lines measure what they did, new and old: they count as the old one.
# Probabilities are no part of a line but for ``calibration``, which no earlier line has.
RENEWED_DEFAULTS: Mapping[str, Mapping[str, tuple[Any, Any]]] = {"kmeans": {"temperature": ("auto", 0.1)}}

# Besides these all parameters count; what is given of words is told by the data set.
_NOT_HASHED = ("random_state", "device", "noun_features", "nouns", "class_features")


@dataclass(frozen=True)
class Row:
    """One fit, but for its seed.

    Attributes
    ----------
    name : str
        As the table shows it.
    data : str
        One of :data:`~studies.data.DATA_SETS`.
    method : str
        One of :data:`METHODS`: those of Kinfold, zero-shot classification, and the baselines.
    parameters : mapping
        Of the estimator; everything else stays at its default.
    graph : mapping
        Where the neighbours come from, if not from the method itself: ``{"same_label": k}`` joins samples to
        k others of their class; ``{"similar_share": s}`` takes as threshold the similarity that the share s
        of all pairs exceeds.
    """

    name: str
    data: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    graph: Mapping[str, Any] = field(default_factory=dict)

    def make_estimator(self, seed: int | None = None, words: Words | None = None) -> Any:
        """Return the unfitted estimator, with the words that it needs where they are given."""
        n_clusters = DATA_SETS[self.data].n_clusters
        parameters = {**self.parameters, **(words.parameters(self.method) if words else {})}
        return METHODS[self.method](n_clusters=n_clusters, random_state=seed, **parameters)

    @cached_property
    def key(self) -> str:
        """Hash of everything that decides the result besides seed and machine."""
        return hash_json(self._identity())[:16]

    def _identity(self) -> dict[str, Any]:
        data, estimator = DATA_SETS[self.data], self.make_estimator()
        resolved = _resolve(estimator, data.n_samples, data.n_features)
        parameters = estimator.get_params(deep=False) | resolved.pop("parameters", {})
        for name, (new, old) in RENEWED_DEFAULTS.get(self.method, {}).items():
            parameters[name] = old if parameters.get(name) == new else parameters.get(name)
        identity = {
            "protocol": [PROTOCOL, REVISIONS.get(self.method, 1)],
            "data": dataclasses.asdict(data),
            "method": self.method,
            "parameters": {name: value for name, value in parameters.items() if name not in _NOT_HASHED},
            "graph": dict(self.graph),
            "resolved": resolved,
        }
        counted: dict[str, Any] = _without(identity, LATER_PARAMETERS.get(self.method, {}))
        return counted


@dataclass(frozen=True)
class Table:
    """Rows that are shown together.

    Attributes
    ----------
    name : str
        As the command line knows it.
    title, note : str
        Heading, and what a reader should know.
    rows : tuple of Row
        In the order of the table.
    view : str
        How it is shown, one of the views of :mod:`studies.report`.
    runs : bool
        Whether its cells are run unasked; not those of a table that is made of the lines of others.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    note: str = ""
    view: str = "stages"
    runs: bool = True


@dataclass(frozen=True)
class Cell:
    """A row of a table with a seed: what is fitted at once."""

    table: str
    row: Row
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """What tells whether it was done; rows of several tables that are the same fit share it."""
        return self.row.key, self.seed

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{self.table} · {self.row.data} · {self.row.name} · seed {self.seed}"

    def describe(self) -> dict[str, Any]:
        """Return what a line of the results says of the cell."""
        return {
            "key": self.row.key,
            "seed": self.seed,
            "table": self.table,
            "data": self.row.data,
            "row": self.row.name,
            "method": self.row.method,
            "parameters": dict(self.row.parameters),
            "graph_from": dict(self.row.graph),
        }


def make_cells(tables: Iterable[Table], seeds: Sequence[int]) -> Iterator[Cell]:
    """Yield all cells in the order of priority, each fit once: by table, then seed, then row."""
    seen = set()
    for table in tables:
        for seed in seeds:
            for row in table.rows:
                cell = Cell(table.name, row, seed)
                if cell.key not in seen:
                    seen.add(cell.key)
                    yield cell


def _resolve(estimator: Any, n_samples: int, n_features: int) -> dict[str, Any]:
    """Return what the parameters that were left open become, so that a changed default changes the key."""
    if isinstance(estimator, SphericalKMeans):
        return {"n_init": estimator._resolve_n_init(n_samples)}
    if isinstance(estimator, ZeroShot | Baseline):
        return {}
    if isinstance(estimator, GraphClustering):
        return {"graph": dict(estimator.needs(n_samples).graphs[estimator.name])}
    if isinstance(estimator, TAC):
        return {
            "plan": dataclasses.asdict(estimator.plan(n_samples)) if estimator.train else {},
            "graph": dict(estimator.needs(n_samples).graphs.get(estimator.name, {})),
            "n_centres": estimator.count_centres(n_samples),
        }
    graphs = estimator.needs(n_samples).graphs
    if not graphs:
        return {"plan": dataclasses.asdict(estimator._plan(n_samples, (n_features,)))}
    plan = dataclasses.asdict(estimator._plan(n_samples, n_features))
    return {
        "parameters": {"n_heads": plan.pop("n_heads")},  # the same fit, whether given or left open
        "plan": plan,
        "graph": dict(graphs[estimator.name]),
    }


def _without(content: Any, neutral: Mapping[str, Any]) -> Any:
    """Return nested mappings without the entries that have a neutral value."""
    if not isinstance(content, Mapping):
        return content
    kept = {name: value for name, value in content.items() if name not in neutral or neutral[name] != value}
    return {name: _without(value, neutral) for name, value in kept.items()}
