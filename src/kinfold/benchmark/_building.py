"""Build a benchmark from labels by key, describe it, save it and open it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold._version import __version__
from kinfold.benchmark import _maps
from kinfold.benchmark._catalogue import BUILDERS, BY_DEPTH, CATALOGUE, WINDOWS, Entry, find_entry
from kinfold.benchmark._maps import ClassMap, halve_odd, odd_counts
from kinfold.benchmark._trees import PUBLISHED, RULES, WORDNET, OpenedTree, class_list, open_tree
from kinfold.errors import FormatError, InputError, nearest_name
from kinfold.hierarchy import ClassTree, load_wordnet
from kinfold.labels import ClassCounts, LabelTable
from kinfold.paths import arrow_path
from kinfold.reading import reading
from kinfold.storage import (
    atomic_directory,
    check_format_version,
    check_own,
    check_place,
    hash_file,
    hold_output,
    read_json,
    write_json,
)

FORMAT = "kinfold-benchmark"
FORMAT_VERSION = 1
FACTS_NAME = "benchmark.json"
LABELS_NAME = "labels.parquet"
CLASSES_NAME = "classes.parquet"
_TABLES = (CLASSES_NAME, LABELS_NAME)
# Fixed, and not left to the library: the same input must give the same bytes. A reader of some columns or
# rows loads little at a time, and millions of keys still make few groups.
_ROW_GROUP_SIZE = 1 << 17
CLASSES_SCHEMA = pa.schema([("class", pa.string()), ("label", pa.string()), ("count", pa.int64())])
LABELS_SCHEMA = pa.schema([("key", pa.string()), ("label", pa.string()), ("split", pa.string())])
SEVERAL_SCHEMA = LABELS_SCHEMA.append(pa.field("labels", pa.list_(pa.string())))
_MOST_NAMED = 20  # enough to see what they have in common; benchmark.json stays readable
_PIECE = 1 << 20  # keys that are cast at a time: short texts of tens of megabytes, not all of them twice
_CHOICES = ("first", "shortest", "longest")
_IMAGENET_21K = "imagenet21k"
_AS_THEY_ARE = ("all", "cifar20", "list", "odd")


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A benchmark, made or read back.

    Attributes
    ----------
    facts : dict
        How it was made and what it is; what ``benchmark.json`` says, see docs/formats.md.
    classes : pyarrow.Table
        Columns class, label (null: left out) and count (training samples of the class), in the order of
        classes.
    labels : pyarrow.Table or None
        Columns key, label and split (null: none), by key; with several labels per image also ``labels``, the
        label itself first. None where it was made from counts alone.
    """

    facts: dict[str, Any]
    classes: pa.Table
    labels: pa.Table | None

    @property
    def n_classes(self) -> int:
        """Number of different labels."""
        return int(self.facts["result"]["n_classes"])

    def save(self, path: str | Path) -> None:
        """Write it, whole or not at all; the same input gives the same bytes.

        Raises
        ------
        InputError
            There is something else at ``path``.
        """
        path = Path(path)
        check_place(path)
        with hold_output(path), atomic_directory(path) as partial:
            if path.exists() and not _may_replace(path):
                raise InputError(
                    f"{path} holds something that `kinfold benchmark` didn't write; it was left as it is. "
                    "Choose a new or empty folder (out=, --out)"
                )
            files = {}
            for name, table in ((CLASSES_NAME, self.classes), (LABELS_NAME, self.labels)):
                if table is not None:
                    file = partial / name
                    pq.write_table(
                        table,
                        arrow_path(file, "wb"),
                        compression="zstd",
                        row_group_size=_ROW_GROUP_SIZE,
                        store_schema=False,
                    )
                    files[name] = hash_file(file)
            write_json(partial / FACTS_NAME, {**self.facts, "sha256": files})

    @classmethod
    def open(cls, path: str | Path) -> Benchmark:
        """Read a benchmark back.

        Raises
        ------
        InputError
            There is none at ``path``.
        FormatError
            It is damaged, or of a newer format version.
        """
        path = Path(path)
        check_own(path)
        facts = read_facts(path)
        tables: dict[str, pa.Table] = {}
        for name in _TABLES:
            if (expected := facts["sha256"].get(name)) is None:
                continue
            with reading(path / name, "make the benchmark again"):
                if hash_file(path / name) != expected:
                    raise FormatError(
                        f"{path / name} is not the file that was written; make the benchmark again"
                    )
                tables[name] = pq.read_table(arrow_path(path / name))
        return cls(facts, tables[CLASSES_NAME], tables.get(LABELS_NAME))


def is_benchmark(path: Path) -> bool:
    """Say whether ``path`` is a folder that a benchmark was written to."""
    try:
        return (path / FACTS_NAME).is_file() and bool(read_facts(path))
    except (FormatError, InputError):
        return False


def _may_replace(path: Path) -> bool:
    """Say whether nothing but an earlier benchmark is at ``path``."""
    if not path.is_dir():
        return False
    others = {entry.name for entry in path.iterdir()} - {FACTS_NAME, *_TABLES}
    return not others and (is_benchmark(path) or not any(path.iterdir()))


def read_facts(path: Path) -> dict[str, Any]:
    """Return what ``benchmark.json`` says.

    Raises
    ------
    InputError
        There is no benchmark.
    FormatError
        The file is damaged, or of a newer format version.
    """
    file = path / FACTS_NAME
    if not file.is_file():
        raise InputError(f"there is no benchmark at {path}; {FACTS_NAME} is missing")
    facts = read_json(file)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise FormatError(
            f"{file} is no benchmark of Kinfold; name a folder that kinfold benchmark build wrote"
        )
    check_format_version(file, facts.get("format_version"), FORMAT_VERSION)
    if not isinstance(facts.get("sha256"), dict) or CLASSES_NAME not in facts["sha256"]:
        raise FormatError(f"{file} is damaged: it names no files; make the benchmark again")
    return facts


def make_benchmark(
    entry: Entry,
    parameters: Mapping[str, Any],
    found: ClassMap,
    counts: ClassCounts,
    *,
    table: LabelTable | None,
    opened: OpenedTree | None,
    n_outside: int,
) -> Benchmark:
    """Apply what becomes of every class, and describe what comes out.

    Parameters
    ----------
    entry, parameters
        What was asked for.
    found : ClassMap
        What becomes of every class.
    counts : ClassCounts
        Training images of every class.
    table : LabelTable or None
        Labels by key of the same classes, if there are any.
    opened : OpenedTree or None
        The tree that was used.
    n_outside : int
        Images of other classes, which were left out before.
    """
    labels = None
    dropped: list[str] = []
    if table is not None:
        if entry.builder == "relabelled":
            found, dropped = _without_lonely(found, table)
        rows = halve_odd(table, seed=parameters["seed"]) if entry.builder == "odd" else None
        labels = _apply(found, table, rows, opened if entry.builder == "ancestors" else None)
    columns = zip((counts.classes, found.labels, counts.counts), CLASSES_SCHEMA, strict=True)
    classes = pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in columns], schema=CLASSES_SCHEMA
    )
    stay = odd_counts(counts) if entry.builder == "odd" else counts.counts
    result = _result(found, stay, labels)
    published = _published(entry, parameters)
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kinfold_version": __version__,
        "name": entry.name,
        "title": entry.title,
        "builder": entry.builder,
        "parameters": dict(parameters),
        "universe": entry.universe,
        "tree": None if opened is None else opened.describe(),
        "counts": counts.describe(),
        "labels": None if table is None else _describe_labels(table, n_outside),
        "result": result,
        "left_out": {"n_classes": int((~found.kept).sum()), "not_in_every_split": dropped[:_MOST_NAMED]},
        "published": published,
        "differences": compare_published(published, result),
    }
    return Benchmark(facts, classes, labels)


def _published(entry: Entry, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was published about an entry, for these parameters."""
    published = dict(entry.published)
    by_depth = published.pop("by_depth", {})
    if (n_classes := by_depth.get(str(parameters.get("depth")))) is not None:
        published["n_classes"] = n_classes
    return published


def compare_published(published: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Return in words where numbers differ from the published ones; those of splits where there are any."""
    differences = []
    n_classes = published.get("n_classes")
    if n_classes is not None and n_classes != result["n_classes"]:
        differences.append(f"classes: {n_classes:,} published, {result['n_classes']:,} here")
    expected, here = published.get("splits", {}), result["splits"]
    if not expected or not here:
        return differences
    if set(here) == {""}:
        total, n_here = sum(expected.values()), here[""]["n_samples"]
        return [
            *differences,
            f"no splits: {total:,} images published in {', '.join(expected)}, {n_here:,} here",
        ]
    for name, size in expected.items():
        found = here.get(name, {"n_samples": 0, "least": 0, "most": 0})
        if found["n_samples"] != size:
            differences.append(f"{name}: {size:,} images published, {found['n_samples']:,} here")
        each = published.get("per_class", {}).get(name)
        if each is not None and not found["least"] == found["most"] == each:
            differences.append(
                f"{name}: {each:,} images per class published, {found['least']:,} to {found['most']:,} here"
            )
    return differences


def _describe_labels(table: LabelTable, n_outside: int) -> dict[str, Any]:
    return {
        "n_rows": len(table),
        "n_without_label": table.n_without_label,
        "n_of_other_classes": n_outside,
        "fingerprint": table.fingerprint(),
    }


def _without_lonely(found: ClassMap, table: LabelTable) -> tuple[ClassMap, list[str]]:
    """Leave out labels that a split lacks: they can't be learned, or not be tested (Appendix C.1)."""
    n_classes = len(table.classes)
    present = np.zeros((len(table.splits) + 1, n_classes), dtype=bool)
    present[table.split_codes + 1, table.labels] = True
    whole: list[bool] = np.all(present[present.any(axis=1)], axis=0).tolist()
    there: list[bool] = np.any(present, axis=0).tolist()
    pairs = list(zip(found.labels, whole, there, strict=True))
    labels = tuple(label if everywhere else None for label, everywhere, _ in pairs)
    gone = [str(label) for label, everywhere, somewhere in pairs if somewhere and not everywhere]
    return ClassMap(found.classes, labels), gone


def _apply(
    found: ClassMap, table: LabelTable, rows: NDArray[np.bool_] | None, opened: OpenedTree | None
) -> pa.Table:
    kept = found.kept[table.labels]
    if rows is not None:
        kept &= rows
    if not kept.any():
        raise InputError("no image is left: the classes that stay have none")
    table = table.take(kept)
    names = pa.array(found.labels, pa.string())
    splits = pa.array(table.splits, pa.string())
    codes = pa.array(table.split_codes, pa.int32(), mask=table.split_codes < 0)
    columns = [_in_pieces(table.keys), names.take(pa.array(table.labels)), splits.take(codes)]
    if opened is None:
        return pa.Table.from_arrays(columns, schema=LABELS_SCHEMA)
    lists = pa.array([[name, *opened.tree.ancestors(name)] for name in table.classes], pa.list_(pa.string()))
    return pa.Table.from_arrays([*columns, lists.take(pa.array(table.labels))], schema=SEVERAL_SCHEMA)


def _in_pieces(keys: pa.Array) -> pa.ChunkedArray:
    """Return large texts as plain ones, in pieces that stay below the 2 GiB of one plain array."""
    pieces = [keys[start : start + _PIECE].cast(pa.string()) for start in range(0, len(keys), _PIECE)]
    return pa.chunked_array(pieces, pa.string())


def _result(found: ClassMap, stay: NDArray[np.int64], labels: pa.Table | None) -> dict[str, Any]:
    n_classes = found.n_labels if labels is None else len(labels["label"].unique())
    splits: dict[str, Any] = {}
    if labels is not None:
        pairs = labels.group_by(["split", "label"]).aggregate([([], "count_all")]).to_pylist()
        sizes: dict[str, list[int]] = {}
        for pair in pairs:
            sizes.setdefault(pair["split"] or "", []).append(pair["count_all"])
        splits = {name: _describe_sizes(sizes[name]) for name in sorted(sizes)}
    return {"n_classes": n_classes, "n_training_samples": int(stay[found.kept].sum()), "splits": splits}


def _describe_sizes(sizes: list[int]) -> dict[str, int]:
    return {"n_samples": sum(sizes), "n_classes": len(sizes), "least": min(sizes), "most": max(sizes)}


def build_benchmark(
    name: str,
    data: LabelTable | ClassCounts,
    *,
    tree: str | Path | ClassTree | None = None,
    rule: str = "nearest-ancestor",
    classes: Sequence[str] | None = None,
    accuracies: Sequence[Mapping[str, float]] = (),
    parameters: Mapping[str, Any] | None = None,
) -> Benchmark:
    """Make a benchmark.

    Parameters
    ----------
    name : str
        One of the catalogue, or a builder for one's own classes.
    data : LabelTable or ClassCounts
        Labels by key. Counts alone give the classes of the benchmark, but no file of keys and labels.
    tree : str, Path, ClassTree or None, default None
        See :func:`open_tree`; by default the published tree for ImageNet-21K and WordNet for anything else.
    rule : {"nearest-ancestor", "direct"}, default "nearest-ancestor"
        For WordNet.
    classes : sequence of str or None, default None
        The list of classes to keep, for the builder ``list``; of a benchmark of the catalogue its own by
        default.
    accuracies : sequence of mappings, default ()
        Accuracy per class of one model (``top``) or several (``union``).
    parameters : mapping or None, default None
        Of the builder, in place of those of the catalogue.

    Returns
    -------
    Benchmark

    Raises
    ------
    InputError
        The name or a parameter is unknown, something that is needed is missing, or the data don't fit.
    """
    entry = find_entry(name)
    chosen = _parameters(entry, parameters or {})
    table = data if isinstance(data, LabelTable) else None
    counts = data if isinstance(data, ClassCounts) else data.counts()
    n_outside = 0
    if entry.universe is not None:
        universe = class_list(entry.universe)
        if table is not None:
            inside = table.within(universe)
            n_outside, table, counts = len(table) - len(inside), inside, inside.counts()
        else:
            counts, n_outside = _within(counts, universe)
    if table is None and "labels" in BUILDERS[entry.builder].needs:
        raise InputError(
            f"{name} is made of labels by key; counts alone don't suffice (labels=, --labels, --source)"
        )
    opened = None
    if "tree" in BUILDERS[entry.builder].needs:
        default = PUBLISHED if entry.universe == "imagenet21k" else WORDNET
        opened = open_tree(default if tree is None else tree, counts.classes, rule=rule)
    wanted = classes if classes is not None else class_list(entry.classes) if entry.classes else None
    found = make_map(
        entry.builder, counts, opened=opened, wanted=wanted, accuracies=accuracies, parameters=chosen
    )
    return make_benchmark(entry, chosen, found, counts, table=table, opened=opened, n_outside=n_outside)


def make_map(
    builder: str,
    counts: ClassCounts,
    *,
    opened: OpenedTree | None = None,
    wanted: Sequence[str] | None = None,
    accuracies: Sequence[Mapping[str, float]] = (),
    parameters: Mapping[str, Any],
) -> ClassMap:
    """Return what a builder makes of every class."""
    names = counts.classes
    if builder in ("coarse", "class-leaf"):
        if opened is None:
            raise InputError(f"{builder} needs a tree (tree=, --tree)")
        if builder == "coarse":
            own = {name: parameters[name] for name in ("choice", "steps")}
            return _maps.coarse(names, opened.tree, parameters["depth"], **own)
        return _maps.class_leaves(names, opened.tree)
    if builder in ("top", "union"):
        if not accuracies or (builder == "top" and len(accuracies) > 1):
            wanted_tables = "one table" if builder == "top" else "one table or more"
            raise InputError(
                f"{builder} needs {wanted_tables} of accuracies per class (accuracies=, --accuracies)"
            )
        return _maps.union(_maps.top_classes(names, one, parameters["n_classes"]) for one in accuracies)
    if builder == "list":
        if wanted is None:
            raise InputError("list needs the classes to keep (classes=, --classes)")
        return _maps.named_classes(names, wanted)
    makers = {
        "window": lambda: _maps.frequency_window(counts, parameters["spread"]),
        "imbalanced": lambda: _maps.imbalanced(counts, parameters["spread"], parameters["top"]),
        "centered": lambda: _maps.centered(counts, _own_size(parameters["n_classes"])),
        "wordnet-leaf": lambda: _maps.wordnet_leaves(names),
        "random": lambda: _maps.random_classes(names, parameters["n_classes"], seed=parameters["seed"]),
        "cifar20": lambda: _maps.cifar20(names),
    }
    if builder in makers:
        return makers[builder]()
    return ClassMap(names, names)


def _own_size(n_classes: Any) -> int | None:
    return None if n_classes == BUILDERS["centered"].parameters["n_classes"] else n_classes


def _parameters(entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    builder = BUILDERS[entry.builder]
    known = list(builder.parameters)
    for name in given:
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InputError(f"{entry.name} has no parameter {name!r}{nearest_name(name, known)}; {takes}")
    chosen = {**builder.parameters, **entry.parameters, **given}
    if missing := [name for name, value in chosen.items() if value is None]:
        raise InputError(
            f"{entry.name} needs a value for {', '.join(missing)} (parameters=, --set {missing[0]}=…)"
        )
    return chosen


def _within(counts: ClassCounts, universe: Sequence[str]) -> tuple[ClassCounts, int]:
    inside = counts.of(universe)
    if not inside.n_samples:
        raise InputError(
            f"none of the counted classes (like {counts.classes[0]!r}) is one of the {len(universe):,} "
            f"classes (like {universe[0]!r})"
        )
    return inside, counts.n_samples - inside.n_samples


def describe_benchmark(
    name: str | None = None,
    *,
    data: LabelTable | ClassCounts | None = None,
    tree: str | Path | ClassTree | None = None,
    rule: str | None = None,
) -> dict[str, Any]:
    """Say what a benchmark is, and what trees and histograms make of its classes.

    Parameters
    ----------
    name : str or None, default None
        A benchmark or builder; None: one's own classes, those of ``data`` or of ``tree``.
    data : LabelTable, ClassCounts or None, default None
        The sizes of windows, of the imbalanced and of the centred set are told; with labels by key and a data
        set's name also how what is there differs from what was published.
    tree : str, Path, ClassTree or None, default None
        See :func:`open_tree`. By default, for ImageNet-21K, its published tree; else none.
    rule : {"nearest-ancestor", "direct"} or None, default None
        For WordNet.

    Returns
    -------
    dict
        JSON-ready. Beside what the catalogue says: ``n_classes``; where all classes are in WordNet,
        ``wordnet_leaf``; where there is a tree, ``class_leaf``, ``coarse`` (depth → number of classes) and
        ``tree``. For ImageNet-21K ``trees`` holds the same for the published tree and for both rules over
        WordNet, and ``published`` the paper's figures.
    """
    entry = None if name is None else find_entry(name)
    counts = data.counts() if isinstance(data, LabelTable) else data
    found: dict[str, Any] = {} if entry is None else entry.as_dict()
    classes = _classes_of(entry, counts, tree)
    if classes is None:
        if entry is None:
            raise InputError("give a benchmark, or counts or a tree of your own (--counts, --tree)")
        return {**found, "parameters_of_builder": dict(BUILDERS[entry.builder].parameters)}
    found["n_classes"] = len(classes)
    wordnet = load_wordnet()
    if all(one in wordnet for one in classes):
        found["wordnet_leaf"] = _maps.wordnet_leaves(classes).n_labels
    is_21k = entry is not None and entry.universe == _IMAGENET_21K
    spec = PUBLISHED if tree is None and is_21k else tree
    if spec is not None:
        found |= describe_tree(open_tree(spec, classes, rule=rule or RULES[0]), classes)
    if is_21k:
        found["trees"] = _all_trees(classes)
        found["coarse_one_step"] = one_step_counts(open_tree(PUBLISHED, classes).tree, classes)
        found["published"] = {**found["published"], **_published_figures()}
    if counts is not None:
        found["frequencies"] = describe_counts(counts.of(classes))
    is_compared = entry is not None and entry.published and entry.builder in _AS_THEY_ARE
    if entry is not None and is_compared and isinstance(data, LabelTable):
        found["on_disk"] = _compare(entry, data)
    return found


def _classes_of(
    entry: Entry | None, counts: ClassCounts | None, tree: str | Path | ClassTree | None
) -> tuple[str, ...] | None:
    """Return the classes that are spoken of: a benchmark's own, else those counted, else the tree's."""
    known = None if entry is None else entry.classes or entry.universe
    if known is not None:
        return class_list(known)
    if counts is not None:
        return counts.classes
    if tree is None or str(tree) in (WORDNET, PUBLISHED):
        return None
    return open_tree(tree, ()).tree.ids


def describe_tree(opened: OpenedTree, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return leaves and coarse counts of some classes in a tree; roots have depth 0."""
    tree = opened.tree
    return {
        "tree": opened.describe(),
        "class_leaf": _maps.class_leaves(classes, tree).n_labels,
        "n_roots": len(tree.roots),
        "coarse": coarse_counts(tree, classes),
        "coarse_by_choice": {choice: coarse_counts(tree, classes, choice) for choice in _CHOICES[1:]}
        if int(tree.parent_links.counts.max()) > 1
        else {},
    }


def coarse_counts(tree: ClassTree, classes: tuple[str, ...], choice: str = "first") -> dict[str, int]:
    """Return how many labels Coarse(d) leaves of some classes, for every d from 0 to the deepest."""
    numbers = tree.numbers(classes)
    depths = tree.tree_depths(choice)  # type: ignore[arg-type]
    deepest = int(depths[numbers].max())
    return {
        str(depth): len(np.unique(tree.coarsen(depth, choice=choice)[numbers]))  # type: ignore[arg-type]
        for depth in range(deepest + 1)
    }


def one_step_counts(tree: ClassTree, classes: tuple[str, ...]) -> dict[str, int]:
    """Return :func:`coarse_counts` where deeper classes go up one step; the classes are ids of WordNet."""
    above = _maps.coarse(classes, tree, 0, steps="one").labels
    depths = tree.tree_depths()[tree.numbers(classes)].tolist()
    rows = list(zip(classes, above, depths, strict=True))
    return {
        str(d): len({up if depth > d else name for name, up, depth in rows}) for d in range(max(depths) + 1)
    }


def describe_counts(counts: ClassCounts) -> dict[str, Any]:
    """Return how many classes and samples windows, the imbalanced and the centred set keep."""
    sets = {name: _maps.frequency_window(counts, spread) for name, (spread, _, _) in WINDOWS.items()}
    sets["imbalanced"] = _maps.imbalanced(counts)
    sets["centered"] = _maps.centered(counts)
    present = counts.counts[counts.counts > 0]
    return {
        **counts.describe(),
        "least": int(present.min()),
        "median": float(np.median(present)),
        "most": int(present.max()),
        "sets": {
            name: {"n_classes": one.n_labels, "n_samples": int(counts.counts[one.kept].sum())}
            for name, one in sets.items()
        },
    }


def _compare(entry: Entry, table: LabelTable) -> dict[str, Any]:
    facts = build_benchmark(entry.name, table).facts
    splits = {name: one["n_samples"] for name, one in facts["result"]["splits"].items()}
    return {
        "n_classes": facts["result"]["n_classes"],
        "splits": splits,
        "n_of_other_classes": facts["labels"]["n_of_other_classes"],
        "n_without_label": facts["labels"]["n_without_label"],
        "differences": facts["differences"],
    }


def _all_trees(classes: tuple[str, ...]) -> dict[str, Any]:
    found: Mapping[str, OpenedTree] = {
        PUBLISHED: open_tree(PUBLISHED, classes),
        **{rule: open_tree(WORDNET, classes, rule=rule) for rule in RULES},
    }
    return {name: describe_tree(opened, classes) for name, opened in found.items()}


def _published_figures() -> dict[str, Any]:
    return {
        "wordnet_leaf": 7353,
        "class_leaf": 8153,
        "coarse": BY_DEPTH,
        "windows": {name: n for name, (_, n, _) in WINDOWS.items()},
        "imbalanced": 2113,
        "centered": 2113,
    }


def list_benchmarks() -> dict[str, list[dict[str, Any]]]:
    """Return the benchmarks known by name, and the builders for one's own classes, JSON-ready."""
    builders = [
        {"name": one.name, "title": one.title, "parameters": dict(one.parameters), "needs": list(one.needs)}
        for one in BUILDERS.values()
    ]
    entries: list[Entry] = list(CATALOGUE.values())
    return {"benchmarks": [one.as_dict() for one in entries], "builders": builders}
