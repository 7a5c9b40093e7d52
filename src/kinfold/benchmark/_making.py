"""Applying what becomes of every class to labels by key, and saying what came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinfold._version import __version__
from kinfold.benchmark._catalogue import Entry
from kinfold.benchmark._files import (
    CLASSES_SCHEMA,
    FORMAT,
    FORMAT_VERSION,
    LABELS_SCHEMA,
    SEVERAL_SCHEMA,
    Benchmark,
)
from kinfold.benchmark._maps import ClassMap, halve_odd, odd_counts
from kinfold.benchmark._trees import OpenedTree
from kinfold.errors import InputError
from kinfold.labels import ClassCounts, LabelTable

_MOST_NAMED = 20
_PIECE = 1 << 20


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
