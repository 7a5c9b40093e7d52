"""A benchmark on disk: what every class becomes, labels by key, and how it was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kinfold.errors import FormatError, InputError
from kinfold.storage import atomic_directory, check_format_version, hash_file, read_json, write_json

FORMAT = "kinfold-benchmark"
FORMAT_VERSION = 1
FACTS_NAME = "benchmark.json"
LABELS_NAME = "labels.parquet"
CLASSES_NAME = "classes.parquet"
_TABLES = (CLASSES_NAME, LABELS_NAME)
_ROW_GROUP_SIZE = 1 << 17
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
