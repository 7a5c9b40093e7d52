"""Read a suite, a TOML file of features, methods, benchmarks and seeds; errors name the place in the file."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from kinfold.errors import InputError, nearest_name
from kinfold.reading import reading
from kinfold.validation import SEED, Integer

PROBE = "probe"  # an upper bound that learns from labels, beside the methods
ZERO_SHOT = "zero-shot"  # classes by their names: no clustering either
OF_CLASSES = (PROBE, ZERO_SHOT)
"""What isn't a method of clustering: it knows the classes, so K is their number, and takes no parameters."""
METRICS: Mapping[str, str] = {
    "acc": "ACC",
    "acc_majority": "ACC, majority",
    "nmi": "NMI",
    "nmi_geometric": "NMI, geometric",
    "ami": "AMI",
    "ari": "ARI",
    "purity": "purity",
    "top5": "top-5",
    "ece": "ECE",
    "live": "live clusters",
}
"""What a suite may ask for, and how tables call it. All are shares but ``live``, which counts."""


@dataclass(frozen=True)
class FeatureEntry:
    """``[features.NAME]``: where vectors come from.

    Attributes
    ----------
    name, title : str
        As the file and as tables call it.
    path, test : str or None
        Features that are there: a feature store, ``.npy``, ``.npz``, ``.safetensors``, Parquet.
    images, test_images, backbone : str or None
        Images to embed, and with what.
    builtin : str or None
        ``"digits"``: scikit-learn's, 64 pixels.
    column, variant : str or None
        Which vectors of a Parquet file, and of a store.
    scale : float
        What the vectors are multiplied by.
    text_model : str or None
        What reads words in this space, for zero-shot classification and for methods that need nouns.
    """

    name: str
    title: str
    path: str | None = None
    test: str | None = None
    images: str | None = None
    test_images: str | None = None
    backbone: str | None = None
    builtin: str | None = None
    column: str | None = None
    variant: str | None = None
    scale: float = 1.0
    text_model: str | None = None

    @property
    def is_tested(self) -> bool:
        """Whether there are features of test images apart."""
        return self.test is not None or self.test_images is not None


@dataclass(frozen=True)
class MethodEntry:
    """``[methods.NAME]``: an estimator and its parameters.

    Attributes
    ----------
    name, title : str
        As the file and as tables call it.
    method : str
        As ``kinfold cluster --method`` takes it, or ``"probe"`` or ``"zero-shot"``.
    preset : str or None
        Named parameters; those given win over them.
    parameters : mapping
        Everything else stays at its default.
    features, benchmarks : tuple of str or None
        Run on these alone.
    """

    name: str
    title: str
    method: str
    preset: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] | None = None
    benchmarks: tuple[str, ...] | None = None


@dataclass(frozen=True)
class BenchmarkEntry:
    """``[benchmarks.NAME]``: which images are fitted on, and their classes, which only the judging reads.

    Attributes
    ----------
    name, title : str
        As the file and as tables call it.
    labels, test_labels : str
        A file of keys and labels, a folder that ``kinfold benchmark build`` wrote, ``"folder"``, or
        ``"column:NAME"``, what stands beside the vectors.
    test_split : str or None
        The split that is judged; by default ``val``, else ``test``, where there is one.
    k : tuple of int or None
        Numbers of clusters; None: that of the classes.
    rows : int or None
        Training rows that the seed draws; None: all.
    depth, window : float or None
        Place on the axes of the figures: levels of Coarse(d), percentiles around the median frequency.
    names : mapping or None
        What zero-shot classification calls a class, where it isn't called as its label (or, an id of WordNet,
        as its first lemma).
    features : tuple of str or None
        Run on these alone.
    """

    name: str
    title: str
    labels: str
    test_labels: str | None = None
    test_split: str | None = None
    k: tuple[int, ...] | None = None
    rows: int | None = None
    depth: float | None = None
    window: float | None = None
    names: Mapping[str, str] | None = None
    features: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Published:
    """``[[published]]``: figures that a paper prints.

    Attributes
    ----------
    source : str
        Paper and table.
    benchmark, metric : str
        What was measured.
    values : mapping
        Method → figure in percent, as printed.
    features : str or None
        None: whatever the features.
    k : int or None
        Clusters, where they aren't the classes.
    """

    source: str
    benchmark: str
    metric: str
    values: Mapping[str, float]
    features: str | None = None
    k: int | None = None


@dataclass(frozen=True)
class Suite:
    """A suite as its file says it, checked; placeholders still stand.

    Attributes
    ----------
    name, title, note : str
        The note says what data and weights are needed.
    origin : str
        The file, for messages.
    folder : str
        What relative paths start from.
    features, methods, benchmarks : mapping
        Entries by name, in the order of the file.
    seeds : tuple of int
        One fit each.
    metrics : tuple of str
        Columns of the tables, of :data:`METRICS`.
    published : tuple of Published
        Shown beside ours.
    """

    name: str
    title: str
    note: str
    origin: str
    folder: str
    features: Mapping[str, FeatureEntry]
    methods: Mapping[str, MethodEntry]
    benchmarks: Mapping[str, BenchmarkEntry]
    seeds: tuple[int, ...] = (0, 1, 2)
    metrics: tuple[str, ...] = ("acc", "nmi", "ari")
    published: tuple[Published, ...] = ()


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SUITES = Path(__file__).parent / "suites"
_COUNT = Integer()  # of clusters
_TOP = ("name", "title", "note", "seeds", "metrics", "features", "methods", "benchmarks", "published")
_SECTIONS = ("features", "methods", "benchmarks")
_BUILTIN = ("digits",)
_TEXT: tuple[str, Any] = ("a string", str)
_KINDS: Mapping[str, tuple[str, Any]] = {
    "scale": ("a number", (int, float)),
    "depth": ("a number", (int, float)),
    "window": ("a number", (int, float)),
    "rows": ("an integer", int),
    "parameters": ("a table", dict),
    "values": ("a table of figures", dict),
    "names": ("a table of texts", dict),
    "features": ("a list of names", list),
    "benchmarks": ("a list of names", list),
}
_Entry = TypeVar("_Entry", FeatureEntry, MethodEntry, BenchmarkEntry)


def list_suites() -> dict[str, str]:
    """Return the suites that come with Kinfold: name → title."""
    return {path.stem: read_suite(path).title for path in sorted(_SUITES.glob("*.toml"))}


def read_suite(suite: str | Path) -> Suite:
    """Read a suite and check all that can be checked without its data.

    Parameters
    ----------
    suite : str or Path
        A TOML file, or the name of a suite that comes with Kinfold.

    Raises
    ------
    InputError
        There is no such suite, or its file says something that can't be; the message names the line.
    """
    shipped = [path.stem for path in sorted(_SUITES.glob("*.toml"))]
    path = _SUITES / f"{suite}.toml" if str(suite) in shipped else Path(suite)
    if not path.is_file():
        raise InputError(
            f"there is no suite {str(suite)!r}{nearest_name(str(suite), shipped)}; give a TOML file, or one "
            f"of {', '.join(shipped)}"
        )
    with reading(path, given=True):
        try:
            text = path.read_text(encoding="utf-8")
            content = tomllib.loads(text)
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no text in UTF-8: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{path} is no valid TOML: {error}") from error
        return _Reader(path, text).read(content)


class _Reader:
    """One file being read; knows on which line an entry stands."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines = text.splitlines()

    def read(self, content: Mapping[str, Any]) -> Suite:
        self._only(content, _TOP, "")
        for section in _SECTIONS:
            if not isinstance(content.get(section), dict) or not content[section]:
                self._fail("", f"there is no entry [{section}.NAME]; a suite needs one at least")
            for name, entry in content[section].items():
                if not isinstance(entry, dict):
                    self._fail(section, f"{name!r} must be a table: [{section}.{name}]", name)
        name = content.get("name", self.path.stem)
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            self._fail("", f"name must be letters, digits, '-', '_' and '.', not {name!r}", "name")
        for key in ("title", "note"):
            if not isinstance(content.get(key, ""), str):
                self._fail("", f"{key} must be a text", key)
        features = {key: self._features(key, one) for key, one in content["features"].items()}
        methods = {key: self._method(key, one) for key, one in content["methods"].items()}
        benchmarks = {key: self._benchmark(key, one) for key, one in content["benchmarks"].items()}
        self._references(features, methods, benchmarks)
        return Suite(
            name=name,
            title=content.get("title", name),
            note=content.get("note", "").strip(),
            origin=str(self.path),
            folder=str(self.path.parent.absolute()),
            features=features,
            methods=methods,
            benchmarks=benchmarks,
            seeds=self._seeds(content.get("seeds", [0, 1, 2])),
            metrics=self._metrics(content.get("metrics", ["acc", "nmi", "ari"])),
            published=self._published(content.get("published", []), features, methods, benchmarks),
        )

    def _features(self, name: str, content: Mapping[str, Any]) -> FeatureEntry:
        place = f"features.{name}"
        entry = self._entry(FeatureEntry, place, name, content)
        given = [key for key in ("path", "images", "builtin") if getattr(entry, key) is not None]
        if len(given) != 1:
            said = f", not {' and '.join(given)}" if given else ""
            self._fail(place, f"give one of path, images and builtin{said}")
        if entry.builtin is not None and entry.builtin not in _BUILTIN:
            self._fail(
                place, f"builtin must be one of {', '.join(_BUILTIN)}, not {entry.builtin!r}", "builtin"
            )
        if (entry.images is None) != (entry.backbone is None):
            self._fail(place, "images and backbone belong together: one of them is missing")
        for key, needed in (("test", "path"), ("test_images", "images")):
            if getattr(entry, key) is not None and getattr(entry, needed) is None:
                self._fail(place, f"{key} needs {needed}", key)
        return entry

    def _method(self, name: str, content: Mapping[str, Any]) -> MethodEntry:
        from kinfold.methods import METHODS

        place, known = f"methods.{name}", [*METHODS, *OF_CLASSES]
        entry = self._entry(MethodEntry, place, name, {"method": name, **content})
        if entry.method not in known:
            hint = nearest_name(entry.method, known)
            self._fail(
                place, f"method {entry.method!r} is unknown{hint}; known: {', '.join(known)}", "method"
            )
        return entry

    def _benchmark(self, name: str, content: Mapping[str, Any]) -> BenchmarkEntry:
        place = f"benchmarks.{name}"
        k = content.get("k", "classes")
        counts = None if k == "classes" else k if isinstance(k, list) else [k]
        if counts is not None and (not counts or any(not _COUNT.allows(one) for one in counts)):
            self._fail(
                place, f'k must be "classes", {_COUNT.describe()}, or a list of such integers; got {k!r}', "k"
            )
        rest = {key: value for key, value in content.items() if key != "k"}
        entry = self._entry(BenchmarkEntry, place, name, rest, k=None if counts is None else tuple(counts))
        if entry.names is not None and not all(_is_name(one) for one in entry.names.values()):
            self._fail(place, f"names must be a table of texts, not {dict(entry.names)!r}", "names")
        if entry.rows is not None and entry.rows < 1:
            self._fail(place, f"rows must be 1 or more, not {entry.rows}", "rows")
        return entry

    def _entry(
        self, kind: type[_Entry], place: str, name: str, content: Mapping[str, Any], **known: Any
    ) -> _Entry:
        """Make an entry of a table, whose keys are the fields but for the name."""
        named = {one.name: one for one in fields(kind) if one.name != "name"}
        self._only(content, list(named), place)
        for key, one in named.items():
            if one.default is MISSING and one.default_factory is MISSING and key not in ("title", *content):
                self._fail(place, f"{key} is missing")
        values = {key: self._value(place, key, value) for key, value in content.items()}
        return kind(**{"name": name, "title": name, **values, **known})

    def _value(self, place: str, key: str, value: Any) -> Any:
        said, wanted = _KINDS.get(key, _TEXT)
        if not isinstance(value, wanted) or isinstance(value, bool):
            self._fail(place, f"{key} must be {said}, not {value!r}", key)
        if wanted is list:
            if not value or not all(isinstance(one, str) for one in value):
                self._fail(place, f"{key} must be a list of names, not {value!r}", key)
            return tuple(value)
        if wanted is str and not value.strip() and key != "title":
            self._fail(place, f"{key} is empty", key)
        return value

    def _references(
        self,
        features: Mapping[str, FeatureEntry],
        methods: Mapping[str, MethodEntry],
        benchmarks: Mapping[str, BenchmarkEntry],
    ) -> None:
        for section, entries in (("methods", methods), ("benchmarks", benchmarks)):
            for name, entry in entries.items():
                for key, known in (("features", features), ("benchmarks", benchmarks)):
                    for wanted in getattr(entry, key, None) or ():
                        self._known(f"{section}.{name}", key, wanted, list(known))

    def _published(self, content: Any, features: Any, methods: Any, benchmarks: Any) -> tuple[Published, ...]:
        found = []
        if not isinstance(content, list):
            self._fail("published", "write [[published]], once for every set of figures")
        for number, one in enumerate(content):
            place = f"published#{number}"
            self._only(one, ("source", "benchmark", "metric", "features", "k", "values"), place)
            for key in ("source", "benchmark", "values"):
                if key not in one:
                    self._fail(place, f"{key} is missing")
            for key, known in (("benchmark", benchmarks), ("metric", METRICS), ("features", features)):
                if key in one:
                    self._known(place, key, one[key], list(known))
            values = self._value(place, "values", one["values"])
            for method, value in values.items():
                self._known(place, "values", method, list(methods))
                if isinstance(value, bool) or not isinstance(value, int | float):
                    self._fail(place, f"the figure of {method!r} must be a number, not {value!r}", "values")
            if "k" in one and not _COUNT.allows(one["k"]):
                self._fail(place, f"k must be {_COUNT.describe()}; got {one['k']!r}", "k")
            found.append(Published(**{"metric": "acc", **one}))
        return tuple(found)

    def _seeds(self, seeds: Any) -> tuple[int, ...]:
        if not isinstance(seeds, list) or not seeds or not all(SEED.allows(seed) for seed in seeds):
            self._fail(
                "", f"seeds must be a list of integers, each {SEED.describe()}; got {seeds!r}", "seeds"
            )
        if len(set(seeds)) < len(seeds):
            self._fail("", f"seeds name one twice: {seeds!r}", "seeds")
        return tuple(seeds)

    def _metrics(self, metrics: Any) -> tuple[str, ...]:
        if not isinstance(metrics, list) or not metrics:
            self._fail("", f"metrics must be a list of names, not {metrics!r}", "metrics")
        for metric in metrics:
            self._known("", "metrics", metric, list(METRICS))
        return tuple(dict.fromkeys(metrics))

    def _only(self, content: Any, known: Sequence[str], place: str) -> None:
        if not isinstance(content, dict):
            self._fail(place, "must be a table")
        for key in content:
            if key not in known:
                hint = nearest_name(key, list(known))
                self._fail(place, f"{key!r} is unknown{hint}; known: {', '.join(known)}", key)

    def _known(self, place: str, key: str, name: Any, known: list[str]) -> None:
        if name not in known:
            hint = nearest_name(str(name), known)
            self._fail(place, f"{key}: there is no {name!r}{hint}; there are {', '.join(known)}", key)

    def _fail(self, place: str, message: str, key: str | None = None) -> NoReturn:
        section = f" [{place.partition('#')[0]}]" if place else ""
        line = self._line(place, key)
        raise InputError(f"{self.path}{f', line {line}' if line else ''}{section}: {message}")

    def _line(self, place: str, key: str | None) -> int | None:
        """Return the line of a key below the heading of its table, else that of the heading."""
        name, _, number = place.partition("#")
        start, stop = 0, len(self.lines)
        if place:
            heads = [
                at
                for at, line in enumerate(self.lines)
                if re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line) and _heading(line) == name
            ]
            if len(heads) <= int(number or 0):
                return None
            start = heads[int(number or 0)]
        later = (at for at in range(start + 1, stop) if self.lines[at].lstrip().startswith("["))
        stop = next(later, stop)
        pattern = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]") if key else None
        for at in range(start, stop):
            if pattern and pattern.match(self.lines[at]):
                return at + 1
        return start + 1 if place else None


def _heading(line: str) -> str:
    """Return the dotted name of a TOML heading, without quotes."""
    return re.sub(r"[\"'\s]", "", line.split("]")[0].strip().lstrip("["))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
