"""names.parquet: what the groups of a run are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kinfold.errors import FormatError
from kinfold.run._tables import read_table, write_table

if TYPE_CHECKING:
    from kinfold.language import ClusterNames

NAMES_NAME = "names.parquet"
NAMES_SCHEMA = pa.schema(
    [
        ("cluster", pa.int32()),
        ("place", pa.int32()),
        ("noun", pa.string()),
        ("score", pa.float64()),
        ("similarity", pa.float64()),
        ("separation", pa.float64()),
        ("synset", pa.string()),
        ("path", pa.list_(pa.string())),
        ("reason", pa.string()),
    ]
)


def write_names(path: Path, names: ClusterNames) -> None:
    """Write the names of all groups: a line per name, the best first, or one with the reason for none."""
    lines: list[dict[str, Any]] = []
    for one in names.clusters:
        if not one.names:
            lines.append({"cluster": one.cluster, "reason": one.reason})
        for place, name in enumerate(one.names):
            lines.append({"cluster": one.cluster, "place": place, **vars(name), "path": list(name.path)})
    write_table(path, pa.Table.from_pylist(lines, schema=NAMES_SCHEMA))


def read_names(path: Path, n_clusters: int, parameters: Mapping[str, Any], mend: str) -> ClusterNames:
    """Read what :func:`write_names` wrote.

    Raises
    ------
    FormatError
        The file is missing or damaged; ``mend`` says what to do.
    """
    from kinfold.language import ClusterName, ClusterNames, Name

    names: list[list[Name]] = [[] for _ in range(n_clusters)]
    reasons = [""] * n_clusters
    for line in read_table(path, NAMES_SCHEMA, mend).to_pylist():
        cluster, place, reason = line.pop("cluster"), line.pop("place"), line.pop("reason")
        if cluster is None or not 0 <= cluster < n_clusters:
            raise FormatError(f"{path} is damaged: it names a group {cluster!r} of {n_clusters}; {mend}")
        if place is None:
            reasons[cluster] = reason or ""
        else:
            names[cluster].append(Name(**{**line, "path": tuple(line["path"] or ())}))
    clusters = (
        ClusterName(cluster, tuple(found), reason)
        for cluster, (found, reason) in enumerate(zip(names, reasons, strict=True))
    )
    return ClusterNames(tuple(clusters), parameters)
