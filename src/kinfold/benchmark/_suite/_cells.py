"""Cells: one fit each, with a key that stands for everything that decides its result."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kinfold import __version__
from kinfold.benchmark._suite._data import fingerprint_of, load_task, open_part, texts_of
from kinfold.benchmark._suite._entries import (
    OF_CLASSES,
    ZERO_SHOT,
    BenchmarkEntry,
    FeatureEntry,
    MethodEntry,
    Suite,
)
from kinfold.errors import InputError, nearest_name
from kinfold.storage import hash_json

PROTOCOL = 1  # raise it when a cell measures something else than before: all cells run again
_OWN = ("n_clusters", "random_state", "device", "noun_features", "nouns")
_READERS = ("tac", ZERO_SHOT)  # what needs a text model
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_PATHS = ("path", "test", "images", "test_images", "labels", "test_labels")


@dataclass(frozen=True)
class Cell:
    """One fit.

    Attributes
    ----------
    features, method, benchmark : entry
        With paths that are paths.
    n_clusters : int
        K.
    n_classes : int
        Classes of the training rows.
    seed : int
        Of the fit, and of the draw of rows.
    key : str
        Hash of everything that decides the result but the seed and the machine.
    data_key : str
        Hash of the training vectors and which rows of them are taken.
    """

    features: FeatureEntry
    method: MethodEntry
    benchmark: BenchmarkEntry
    n_clusters: int
    n_classes: int
    seed: int
    key: str
    data_key: str

    @property
    def title(self) -> str:
        """Name for people."""
        parts = [self.features.name, self.benchmark.name, self.method.name]
        if self.n_clusters != self.n_classes:
            parts.append(f"K = {self.n_clusters}")
        return " · ".join([*parts, f"seed {self.seed}"])

    def describe(self) -> dict[str, Any]:
        """Return what a line of the results says of the cell, JSON-ready."""
        return {
            "key": self.key,
            "seed": self.seed,
            "features": self.features.name,
            "benchmark": self.benchmark.name,
            "method": self.method.name,
            "estimator": self.method.method,
            "preset": self.method.preset,
            "parameters": given_parameters(self.method),
            "n_clusters": self.n_clusters,
            "n_classes": self.n_classes,
            "depth": self.benchmark.depth,
            "window": self.benchmark.window,
        }

    def order(self, work: Path, metrics: Sequence[str]) -> dict[str, Any]:
        """Return what the process that fits it is told, JSON-ready."""
        return {
            "features": dataclasses.asdict(self.features),
            "method": dataclasses.asdict(self.method),
            "benchmark": dataclasses.asdict(self.benchmark),
            "n_clusters": self.n_clusters,
            "seed": self.seed,
            "data_key": self.data_key,
            "work": str(work),
            "metrics": list(metrics),
        }


def select(suite: Suite, only: Sequence[str] | None, seeds: Sequence[int] | None) -> Suite:
    """Return the suite with the named features, methods and benchmarks alone, and with other seeds.

    A kind of which nothing is named stays whole.
    """
    if seeds is not None:
        suite = replace(suite, seeds=tuple(seeds))
    if not only:
        return suite
    kinds = ("features", "methods", "benchmarks")
    known = [name for kind in kinds for name in getattr(suite, kind)]
    for name in only:
        if name not in known:
            raise InputError(
                f"{suite.origin} has nothing named {name!r}{nearest_name(name, known)}; it has "
                f"{', '.join(known)}"
            )
    chosen: dict[str, Any] = {}
    for kind in kinds:
        entries = getattr(suite, kind)
        named = {name: entry for name, entry in entries.items() if name in only}
        chosen[kind] = named or entries
    return replace(suite, **chosen)


def resolve_paths(suite: Suite, environment: Mapping[str, str] = os.environ) -> Suite:
    """Fill placeholders like ``${KINFOLD_DATA}`` and make relative paths start at the suite's folder."""

    def resolve(section: str, entry: Any) -> Any:
        changes = {}
        for one in dataclasses.fields(entry):
            value = getattr(entry, one.name)
            if isinstance(value, str) and one.name not in ("name", "title"):
                filled = _fill(
                    value, f"{suite.origin} [{section}.{entry.name}] {one.name}", suite, environment
                )
                changes[one.name] = _absolute(filled, suite.folder) if one.name in _PATHS else filled
        return replace(entry, **changes)

    sections: dict[str, Any] = {
        section: {name: resolve(section, entry) for name, entry in getattr(suite, section).items()}
        for section in ("features", "benchmarks")
    }
    return replace(suite, **sections)


def check_methods(suite: Suite) -> None:
    """Raise :class:`InputError` for parameters that no data can mend, before anything is read."""
    for entry in suite.methods.values():
        place = f"{suite.origin} [methods.{entry.name}]"
        try:
            if entry.method in OF_CLASSES:
                _check_bare(entry)
            else:
                make_estimator(entry, 2, 0).check_parameters()
        except (InputError, TypeError) as error:
            raise InputError(f"{place}: {error}") from error
        if entry.method in _READERS:
            for features in _allowed(entry.features, suite.features):
                if suite.features[features].text_model is None:
                    raise InputError(
                        f"{suite.origin} [features.{features}]: text_model is missing, which {entry.name!r} "
                        "needs; name what reads words in this space, or give the method features = […]"
                    )


def _check_bare(entry: MethodEntry) -> None:
    """Refuse parameters and a preset: the probe's grid is its own, and zero-shot classification has none."""
    if entry.parameters or entry.preset:
        raise InputError(f"{entry.method} takes no parameters and no preset")


def make_estimator(entry: MethodEntry, n_clusters: int, seed: int, **words: Any) -> Any:
    """Return the unfitted estimator of a method.

    Raises
    ------
    InputError
        A parameter or the preset is unknown.
    """
    from kinfold.methods import get_method

    kind = get_method(entry.method)
    known = [name for name in kind().get_params(deep=False) if name not in _OWN]
    for name in entry.parameters:
        if name not in known:
            raise InputError(
                f"method {entry.method!r} has no parameter {name!r}{nearest_name(name, known)}; it has "
                f"{', '.join(known)}"
            )
    return kind(n_clusters=n_clusters, random_state=seed, **given_parameters(entry), **words)


def given_parameters(entry: MethodEntry) -> dict[str, Any]:
    """Return the parameters of a method that aren't at their defaults: the preset's, and those given."""
    from kinfold.methods import Auto, preset_parameters

    given = dict(entry.parameters)
    if entry.preset is None:
        return given
    candidates = tuple(Auto(**given).candidates) if entry.method == "auto" else ()
    return {**preset_parameters(entry.method, entry.preset, candidates=candidates), **given}


def make_cells(suite: Suite) -> list[Cell]:
    """Return all cells, by seed first, so that a part of the table is there early and on the same seeds.

    Opens features and labels of every combination.

    Raises
    ------
    InputError
        Data are missing or don't fit; the message names the entry.
    """
    prints = {name: _told(suite, f"features.{name}", fingerprint_of, entry) for name, entry in _used(suite)}
    cells = []
    for seed in suite.seeds:
        for features, benchmark in _pairs(suite):
            place = f"features.{features.name}] with [benchmarks.{benchmark.name}"
            task = _told(suite, place, load_task, features, benchmark, seed)
            data_key = hash_json([prints[features.name], task.identity])[:16]
            for method in suite.methods.values():
                if not _takes_part(suite, method, features, benchmark):
                    continue
                counts = benchmark.k or (task.n_classes,)
                if method.method in OF_CLASSES:
                    counts = (task.n_classes,)
                if method.method == ZERO_SHOT:
                    _told(suite, place, texts_of, task.classes, benchmark.names)
                for n_clusters in counts:
                    _check_count(suite, place, n_clusters, len(task.train.y))
                    key = _key(suite, data_key, features, method, benchmark, n_clusters)
                    cells.append(
                        Cell(features, method, benchmark, n_clusters, task.n_classes, seed, key, data_key)
                    )
    open_part.cache_clear()  # the fits read on their own
    if not cells:
        raise InputError(f"{suite.origin}: no method is to be run on these features and benchmarks")
    return cells


def _takes_part(suite: Suite, method: MethodEntry, features: FeatureEntry, benchmark: BenchmarkEntry) -> bool:
    return features.name in _allowed(method.features, suite.features) and benchmark.name in _allowed(
        method.benchmarks, suite.benchmarks
    )


def _check_count(suite: Suite, place: str, n_clusters: int, n_rows: int) -> None:
    if n_clusters > n_rows:
        raise InputError(
            f"{suite.origin} [{place}]: k is {n_clusters}, but there are only {n_rows:,} training rows"
        )


def _key(
    suite: Suite,
    data_key: str,
    features: FeatureEntry,
    method: MethodEntry,
    benchmark: BenchmarkEntry,
    n_clusters: int,
) -> str:
    if method.method in OF_CLASSES:
        parameters: dict[str, Any] = {}
    else:
        found = make_estimator(method, n_clusters, 0).get_params(deep=False)
        parameters = {name: value for name, value in found.items() if name not in _OWN}
    identity = {
        "protocol": PROTOCOL,
        "version": __version__.split(".")[:2],
        "data": data_key,
        "method": method.method,
        "parameters": parameters,
        "words": features.text_model if method.method in _READERS else None,
        "n_clusters": n_clusters,
        "ami": "ami" in suite.metrics,  # slow with many clusters, so only where it is asked for
    }
    if method.method == ZERO_SHOT:
        identity["names"] = dict(benchmark.names or {})
    return hash_json(identity)[:16]


def _pairs(suite: Suite) -> Iterator[tuple[FeatureEntry, BenchmarkEntry]]:
    for benchmark in suite.benchmarks.values():
        for name in _allowed(benchmark.features, suite.features):
            yield suite.features[name], benchmark


def _used(suite: Suite) -> list[tuple[str, FeatureEntry]]:
    used = {features.name for features, _ in _pairs(suite)}
    return [(name, entry) for name, entry in suite.features.items() if name in used]


def _allowed(wanted: Sequence[str] | None, entries: Iterable[str]) -> list[str]:
    return [name for name in entries if wanted is None or name in wanted]


def _told(suite: Suite, place: str, work: Any, *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except ValueError as error:
        raise InputError(f"{suite.origin} [{place}]: {error}") from error


def _fill(text: str, place: str, suite: Suite, environment: Mapping[str, str]) -> str:
    for name in _PLACEHOLDER.findall(text):
        if not environment.get(name):
            note = f". The suite says: {suite.note}" if suite.note else ""
            raise InputError(f"{place} needs the environment variable {name}, which isn't set{note}")
    return _PLACEHOLDER.sub(lambda found: environment[found.group(1)], text)


def _absolute(text: str, folder: str) -> str:
    if text == "folder" or text.startswith("column:"):
        return text
    return text if Path(text).is_absolute() else str(Path(folder) / text)
