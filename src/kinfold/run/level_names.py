"""Names of the groups of levels that a run doesn't show, kept until it shows them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from kinfold.errors import FormatError
from kinfold.paths import arrow_path
from kinfold.reading import check_fields, parse_json, reading
from kinfold.run.manifest import LEVEL_NAMES
from kinfold.run.tables import make_names, read_names, write_table

if TYPE_CHECKING:
    from kinfold.language import ClusterNames

_METADATA = b"kinfold"
_MEND = "name the groups anew: `kinfold name`"
_KINDS: dict[str, Any] = {"inputs": str, "seconds": float, "naming": dict}


def level_names_name(level: int | None) -> str:
    """Return the name of the file for a level of so many groups; None is that of the fit."""
    return f"names-level-{level or 'fit'}.parquet"


def list_level_names(path: Path) -> list[Path]:
    """Return all such files of the run at ``path``."""
    return sorted(file for file in path.glob("names-level-*.parquet") if LEVEL_NAMES.fullmatch(file.name))


def write_level_names(path: Path, names: ClusterNames, record: dict[str, Any]) -> None:
    """Write names with what the manifest says of them.

    Parameters
    ----------
    path : Path
        The file.
    names : ClusterNames
        Of all groups.
    record : dict
        ``inputs`` and ``seconds`` of the stage that found them, and the section ``naming``.
    """
    table = make_names(names)
    write_table(path, table.replace_schema_metadata({_METADATA: json.dumps(record, sort_keys=True).encode()}))


def read_level_names(path: Path, n_clusters: int) -> tuple[ClusterNames, dict[str, Any]]:
    """Read what :func:`write_level_names` wrote.

    Raises
    ------
    FormatError
        The file is missing or damaged.
    """
    with reading(path, _MEND):
        record = parse_json((pq.read_schema(arrow_path(path)).metadata or {}).get(_METADATA, b"{}"))
    check_fields(path, record, _KINDS, _MEND)
    parameters = record["naming"].get("parameters", {})
    if not isinstance(parameters, dict):
        raise FormatError(f"{path} is damaged: its parameters are none; {_MEND}")
    return read_names(path, n_clusters, parameters, _MEND), record
