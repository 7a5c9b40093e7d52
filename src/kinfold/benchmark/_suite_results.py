"""Cells of a suite, the lines of results they leave, and their summary over seeds.

A cell is one fit. Its key covers all that decides its result, so that a finished cell is never run again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from kinfold import __version__
from kinfold.benchmark._suite_data import fingerprint_of, load_task, open_part, texts_of
from kinfold.benchmark._suite_file import (
    OF_CLASSES,
    ZERO_SHOT,
    BenchmarkEntry,
    FeatureEntry,
    MethodEntry,
    Published,
    Suite,
)
from kinfold.errors import InputError, nearest_name
from kinfold.reading import check_regular, is_count, parse_json
from kinfold.storage import hash_json

PROTOCOL = 1  # raise it when a cell measures something else than before: all cells run again
_OWN = ("n_clusters", "random_state", "device", "noun_features", "nouns")
_READERS = ("tac", ZERO_SHOT)  # what needs a text model
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_PATHS = ("path", "test", "images", "test_images", "labels", "test_labels")
Line = dict[str, Any]


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


class Results:
    """A file of JSON lines, read anew at every question, so that several runs may append to it.

    Every line has a ``key``, which stands for everything that decides it, and a ``seed``; one with
    ``failed`` says why there are no figures.

    Parameters
    ----------
    path : Path
        Need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: Line) -> None:
        """Add a line by one write; what a killed process left of one stays a line that nobody reads."""
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+", buffering=0) as stream:
            if stream.tell():
                stream.seek(-1, 2)
                if stream.read(1) != b"\n":
                    text = "\n" + text
            stream.write(text.encode())
            os.fsync(stream.fileno())

    def read(self) -> dict[tuple[str, int], Line]:
        """Return the newest line of every (key, seed); a failure never hides a success."""
        found: dict[tuple[str, int], Line] = {}
        for line in self._lines():
            key = line["key"], line["seed"]
            if "failed" not in line or "failed" in found.get(key, line):
                found[key] = line
        return found

    def _lines(self) -> Iterator[Line]:
        if not self.path.exists():
            return
        check_regular(self.path)
        for text in self.path.read_bytes().splitlines():
            try:
                line = parse_json(text)
            except ValueError:  # the rest of a line that was being written
                continue
            if isinstance(line, dict) and isinstance(line.get("key"), str) and is_count(line.get("seed")):
                yield line


@dataclass(frozen=True)
class Figure:
    """Mean and standard deviation over seeds.

    Attributes
    ----------
    mean : float
        In the metric's own unit.
    spread : float or None
        Standard deviation (divisor n − 1); None of one seed.
    """

    mean: float
    spread: float | None


@dataclass(frozen=True)
class Summary:
    """One row: features × benchmark × method × K.

    Attributes
    ----------
    features, benchmark, method : str
        Names in the suite.
    titles : mapping
        The same as tables call them.
    n_clusters, n_classes : int
        K, and the classes of the training rows.
    judged : {"test", "train", ""}
        Which rows the figures are of; empty without figures.
    n_judged : int
        How many these are.
    n_seeds, n_failed, n_wanted : int
        Fits with figures, failed ones, and those that the suite asks for.
    figures : mapping
        Metric → mean and spread.
    published : mapping
        Metric → (figure as printed, source).
    seconds, cpu_seconds, gib : float or None
        Mean wall and CPU time of a fit's process, and the largest memory.
    failure : str or None
        Why the last failed cell failed.
    """

    features: str
    benchmark: str
    method: str
    titles: Mapping[str, str]
    n_clusters: int
    n_classes: int
    judged: str
    n_judged: int
    n_seeds: int
    n_failed: int
    n_wanted: int
    figures: Mapping[str, Figure]
    published: Mapping[str, tuple[float, str]]
    seconds: float | None
    cpu_seconds: float | None
    gib: float | None
    failure: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return {
            "features": self.features,
            "benchmark": self.benchmark,
            "method": self.method,
            "n_clusters": self.n_clusters,
            "n_classes": self.n_classes,
            "judged": self.judged,
            "n_judged": self.n_judged,
            "n_seeds": self.n_seeds,
            "n_failed": self.n_failed,
            "metrics": {name: {"mean": one.mean, "sd": one.spread} for name, one in self.figures.items()},
            "published": {
                name: {"percent": value, "source": source} for name, (value, source) in self.published.items()
            },
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "gib": self.gib,
            "failure": self.failure,
        }


def summarize(
    suite: Suite, cells: Sequence[Cell], lines: Mapping[tuple[str, int], Line]
) -> tuple[Summary, ...]:
    """Return the rows in the order of the suite: benchmark, features, K, method."""
    groups: dict[tuple[str, str, int, str], list[Cell]] = {}
    for cell in cells:
        name = cell.benchmark.name, cell.features.name, cell.n_clusters, cell.method.name
        groups.setdefault(name, []).append(cell)
    orders = [list(suite.benchmarks), list(suite.features), None, list(suite.methods)]

    def place(name: tuple[str, str, int, str]) -> tuple[int, ...]:
        return tuple(
            part if order is None else order.index(part)  # type: ignore[arg-type, misc]
            for part, order in zip(name, orders, strict=True)
        )

    return tuple(_summarize(suite, groups[name], lines) for name in sorted(groups, key=place))


def judged_side(line: Line) -> str:
    """Return which rows a line's figures are of: those of the test set, where there is one."""
    return "test" if line.get("test") else "train"


def _summarize(suite: Suite, cells: Sequence[Cell], lines: Mapping[tuple[str, int], Line]) -> Summary:
    first = cells[0]
    found = [lines[cell.key, cell.seed] for cell in cells if (cell.key, cell.seed) in lines]
    done = [line for line in found if "failed" not in line]
    failed = [str(line["failed"]) for line in found if "failed" in line]
    side = judged_side(done[0]) if done else ""
    figures = {}
    for metric in suite.metrics:
        values = [line[side][metric] for line in done if line[side].get(metric) is not None]
        if values:
            figures[metric] = Figure(mean(values), stdev(values) if len(values) > 1 else None)
    return Summary(
        features=first.features.name,
        benchmark=first.benchmark.name,
        method=first.method.name,
        titles={
            "features": first.features.title,
            "benchmark": first.benchmark.title,
            "method": first.method.title,
        },
        n_clusters=first.n_clusters,
        n_classes=first.n_classes,
        judged=side,
        n_judged=int(done[0][f"n_{side}"]) if done else 0,
        n_seeds=len(done),
        n_failed=len(failed),
        n_wanted=len(cells),
        figures=figures,
        published={
            metric: value for metric in suite.metrics if (value := _published(suite.published, first, metric))
        },
        seconds=mean(line["total_seconds"] for line in done) if done else None,
        cpu_seconds=mean(line["cpu_seconds"] for line in done) if done else None,
        gib=max(line["peak_bytes"] for line in done) / 2**30 if done else None,
        failure=failed[-1] if failed else None,
    )


def _published(known: Sequence[Published], cell: Cell, metric: str) -> tuple[float, str] | None:
    for one in known:
        fits = one.benchmark == cell.benchmark.name and one.metric == metric
        fits &= one.features in (None, cell.features.name)
        fits &= cell.n_clusters == (cell.n_classes if one.k is None else one.k)
        if fits and cell.method.name in one.values:
            return float(one.values[cell.method.name]), one.source
    return None
