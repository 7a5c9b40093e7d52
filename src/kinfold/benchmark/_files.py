"""A benchmark on disk: what every class becomes, labels by key, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold._version import __version__
from kinfold.benchmark._catalogue import Entry
from kinfold.benchmark._labels import ClassCounts, LabelTable
from kinfold.benchmark._maps import ClassMap, odd_counts
from kinfold.benchmark._trees import OpenedTree
from kinfold.errors import FormatError, InputError
from kinfold.storage import atomic_directory, check_format_version, hash_file, read_json, write_json

FORMAT = "kinfold-benchmark"
FORMAT_VERSION = 1
FACTS_NAME = "benchmark.json"
LABELS_NAME = "labels.parquet"
CLASSES_NAME = "classes.parquet"
_TABLES = (CLASSES_NAME, LABELS_NAME)
_ROW_GROUP_SIZE = 1 << 17
_MOST_NAMED = 20
CLASSES_SCHEMA = pa.schema([("class", pa.string()), ("label", pa.string()), ("count", pa.int64())])
LABELS_SCHEMA = pa.schema([("key", pa.string()), ("label", pa.string()), ("split", pa.string())])
SEVERAL_SCHEMA = LABELS_SCHEMA.append(pa.field("labels", pa.list_(pa.string())))


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

    @classmethod
    def make(
        cls,
        entry: Entry,
        parameters: Mapping[str, Any],
        found: ClassMap,
        counts: ClassCounts,
        *,
        table: LabelTable | None = None,
        rows: NDArray[np.bool_] | None = None,
        opened: OpenedTree | None = None,
        n_outside: int = 0,
    ) -> Benchmark:
        """Apply what becomes of every class to the labels, and describe it."""
        dropped: list[str] = []
        labels = None
        if table is not None:
            found, dropped = _without_lonely(found, table) if entry.builder == "relabelled" else (found, [])
            labels = _apply(found, table, rows, opened if entry.builder == "ancestors" else None)
        stay = odd_counts(counts) if entry.builder == "odd" else counts.counts
        columns = [counts.classes, found.labels, counts.counts]
        classes = pa.Table.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, CLASSES_SCHEMA, strict=True)],
            schema=CLASSES_SCHEMA,
        )
        result = _result(found, stay, labels)
        published = dict(entry.published)
        if "depth" in parameters and str(parameters["depth"]) in published.get("by_depth", {}):
            published["n_classes"] = published["by_depth"][str(parameters["depth"])]
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
            "counts": {
                "n_classes": len(counts.classes),
                "n_empty": counts.n_empty,
                "n_samples": counts.n_samples,
                "fingerprint": counts.fingerprint(),
            },
            "labels": None if table is None else _describe_labels(table, n_outside),
            "result": result,
            "left_out": {"n_classes": int((~found.kept).sum()), "not_in_every_split": dropped[:_MOST_NAMED]},
            "published": published,
            "differences": compare_published(published, result),
        }
        return cls(facts, classes, labels)

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
        if path.exists() and not _may_replace(path):
            raise InputError(
                f"{path} holds something that `kinfold benchmark` didn't write; it was left as it is. "
                "Choose a new or empty folder (out=, --out)"
            )
        with atomic_directory(path) as partial:
            files = {}
            for name, table in ((CLASSES_NAME, self.classes), (LABELS_NAME, self.labels)):
                if table is not None:
                    file = partial / name
                    pq.write_table(
                        table, file, compression="zstd", row_group_size=_ROW_GROUP_SIZE, store_schema=False
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
        facts = read_facts(path)
        tables: dict[str, pa.Table] = {}
        for name in _TABLES:
            if (expected := facts["sha256"].get(name)) is None:
                continue
            try:
                if hash_file(path / name) != expected:
                    raise FormatError(
                        f"{path / name} is not the file that was written; make the benchmark again"
                    )
                tables[name] = pq.read_table(path / name)
            except (OSError, pa.ArrowException) as error:
                raise FormatError(
                    f"{path / name} is missing or damaged ({error}); make the benchmark again"
                ) from error
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
        raise FormatError(f"{file} is no benchmark of Kinfold")
    check_format_version(file, facts.get("format_version"), FORMAT_VERSION)
    if not isinstance(facts.get("sha256"), dict) or CLASSES_NAME not in facts["sha256"]:
        raise FormatError(f"{file} is damaged: it names no files; make the benchmark again")
    return facts


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
    columns = [table.keys.cast(pa.string()), names.take(pa.array(table.labels)), splits.take(codes)]
    if opened is None:
        return pa.Table.from_arrays(columns, schema=LABELS_SCHEMA)
    lists = pa.array([[name, *opened.tree.ancestors(name)] for name in table.classes], pa.list_(pa.string()))
    return pa.Table.from_arrays([*columns, lists.take(pa.array(table.labels))], schema=SEVERAL_SCHEMA)


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
