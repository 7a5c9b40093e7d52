"""Read everything that Kinfold wrote into a folder, and compare it with the hashes that were recorded."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from kinfold import exports
from kinfold.benchmark import Benchmark, is_benchmark
from kinfold.corrections import (
    CORRECTIONS_NAME,
    PROPOSALS_NAME,
    Corrections,
    corrections_name,
    read_proposals,
)
from kinfold.errors import FormatError, InputError, KinfoldError, OtherGroupsError
from kinfold.features import FeatureStore
from kinfold.features.store import INDEX_NAME, StoreManifest, is_feature_store
from kinfold.language.cache import FEATURES_NAME as NOUNS_NAME
from kinfold.language.cache import NounHeader
from kinfold.neighbors import NeighborGraph
from kinfold.paths import arrow_path
from kinfold.pipeline._relabel import LABELS_NAME, REPORT_NAME, read_labels_table, read_report
from kinfold.reading import check_regular
from kinfold.run import ASSIGNMENTS_NAME, GIVEN_PREFIX, MANIFEST_NAME, Manifest, Run, is_run, read_manifest
from kinfold.run.manifest import locate_file
from kinfold.storage import check_own, hash_file, read_json

OK, READABLE, DAMAGED, MISSING = "ok", "readable", "damaged", "missing"
_GRAPH_NAME = "graph.json"
_NOUNS_FORMAT = "kinfold noun features"
_GIVEN = re.compile(rf"{GIVEN_PREFIX}[0-9a-f]{{16}}\.(parquet|npy|npz)")  # named after its content
_OTHER = "its content isn't what was written"
_BROKEN = (OSError, ValueError, KeyError, TypeError, pa.ArrowException, sqlite3.Error)


@dataclass(frozen=True)
class CheckedFile:
    """What was found of one file.

    Attributes
    ----------
    name : str
        Its path below the folder that was checked, or where it is, if elsewhere.
    state : {"ok", "readable", "damaged", "missing"}
        As the recorded hash says; "readable" where none is recorded and the content makes sense.
    reason : str
        Why it is damaged; empty otherwise.
    """

    name: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class Checked:
    """What was found in a folder.

    Attributes
    ----------
    path : Path
        The folder.
    kind : str
        What it holds: "run", "feature store", "neighbor graph", "benchmark", "relabeling", "export" or
        "noun features".
    files : tuple of CheckedFile
        All files, in the order in which they were read.
    """

    path: Path
    kind: str
    files: tuple[CheckedFile, ...]

    @property
    def is_whole(self) -> bool:
        """Whether no file is damaged or missing."""
        return all(file.state in (OK, READABLE) for file in self.files)


def check(path: str | Path) -> Checked:
    """Read a run, feature store, graph, benchmark or other folder of Kinfold in full, and compare all hashes.

    What opens such a folder compares sizes and the files that it reads whole; this reads everything, features
    and graphs inside a run too. Nothing is changed, but that SQLite merges its log into
    ``corrections.sqlite``.

    Parameters
    ----------
    path : path
        The folder.

    Returns
    -------
    Checked
        The state of each file; ``is_whole`` tells whether all is well.

    Raises
    ------
    InputError
        There is no folder of Kinfold at ``path``, or a link or pipe in it.
    FormatError
        The file that says what the folder holds is damaged, or of a newer format.
    """
    path = Path(path)
    if not path.is_dir():
        what = "is a file" if path.exists() else "doesn't exist"
        raise InputError(f"{path} {what}; give the folder of a run, a feature store or a graph")
    check_own(path)
    for kind, is_kind, find in _KINDS:
        if is_kind(path):
            return Checked(path, kind, tuple(find(path)))
    if (path / MANIFEST_NAME).is_file():
        read_manifest(path)  # says what is wrong with it
    raise InputError(
        f"{path} is no run, feature store, graph, benchmark, relabeling, export or noun features of Kinfold; "
        "name a folder that one of its commands wrote"
    )


def _check_run(path: Path) -> Iterator[CheckedFile]:
    manifest = read_manifest(path)
    yield CheckedFile(MANIFEST_NAME, READABLE)
    names = {name for record in manifest.stages.values() for name in record["outputs"]}
    hashes = {name: manifest.hash_of(name) for name in sorted(names)}
    compared = [_compare(locate_file(path, manifest, name), name, hashes[name]) for name in hashes]
    yield from compared
    yield from _check_given(path, manifest)
    yield from _check_features(path, manifest)
    yield from _check_graphs(path, "neighbors")
    for place in sorted([*path.glob("features*"), path / "language-features"]):
        if place.name != manifest.features.get("path") and is_feature_store(place):
            yield from _check_store(place, f"{place.name}/")
    if "assign" not in manifest.stages:
        yield CheckedFile(ASSIGNMENTS_NAME, MISSING, "the run isn't finished; cluster again to go on")
        return
    broken = [file.name for file in compared if file.name == ASSIGNMENTS_NAME and file.state != OK]
    run = Run(path, manifest)
    shown = corrections_name(run.level)
    for name, read in ((shown, _read_corrections), (PROPOSALS_NAME, read_proposals)):
        if (path / name).exists():
            unread = CheckedFile(name, READABLE, f"not read, because {ASSIGNMENTS_NAME} is damaged")
            try:
                yield unread if broken else _try(name, read, run)
            except OtherGroupsError as error:  # of another level or an earlier fit
                yield CheckedFile(name, READABLE, str(error))
    for file in sorted(path.glob(f"{Path(CORRECTIONS_NAME).stem}*.sqlite")):  # of other levels, or put aside
        if file.name != shown:
            yield _try(file.name, _read_database, file)
    for file in sorted(path.glob("*.parquet")):
        if file.name not in names and file.name != PROPOSALS_NAME and not _GIVEN.fullmatch(file.name):
            yield _try(file.name, pq.read_table, arrow_path(file))


def _check_given(path: Path, manifest: Manifest) -> Iterator[CheckedFile]:
    """Compare files of what was given in memory with the part of their hash that they are named after."""
    recorded = {manifest.features.get("path"), manifest.source.get("uri"), manifest.source.get("images")}
    named = {Path(place).name for place in recorded if place}
    found = {file.name for file in path.glob(f"{GIVEN_PREFIX}*")}
    for name in sorted(name for name in found | named if _GIVEN.fullmatch(name)):
        wanted = Path(name).stem.removeprefix(GIVEN_PREFIX)
        try:
            sha256 = hash_file(path / name)
        except FileNotFoundError:
            yield CheckedFile(name, MISSING, "what was given in memory is gone; give it again")
            continue
        yield CheckedFile(name, OK) if sha256.startswith(wanted) else CheckedFile(name, DAMAGED, _OTHER)


def _read_database(file: Path) -> None:
    """Let SQLite look through a file without writing to it."""
    check_regular(file)
    uri = f"file:{quote(os.fsencode(file.absolute()))}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise FormatError(str(said))


def _read_corrections(run: Run) -> None:
    Corrections.open(run, write=False).close()


def _check_features(path: Path, manifest: Manifest) -> Iterator[CheckedFile]:
    """Check the features that a run was made from, in it or elsewhere."""
    if not (recorded := manifest.features.get("path")):
        return
    if _GIVEN.fullmatch(str(recorded)):  # looked at already
        return
    place = path / recorded
    if not place.exists():
        yield CheckedFile(str(recorded), MISSING, "the features aren't where they were")
    elif place.is_dir():
        yield from _check_store(place, f"{str(recorded).rstrip('/')}/")
    else:
        yield _try(str(recorded), lambda run: run.features(), Run(path, manifest))


def _check_store(path: Path, prefix: str = "") -> Iterator[CheckedFile]:
    try:
        manifest = StoreManifest.read(path)
    except KinfoldError as error:
        yield CheckedFile(f"{prefix}{MANIFEST_NAME}", DAMAGED, str(error))
        return
    if not manifest.complete:
        reason = "the store isn't finished; embed again to go on"
        yield CheckedFile(f"{prefix}{INDEX_NAME}", MISSING, reason)
        return
    yield CheckedFile(f"{prefix}{MANIFEST_NAME}", READABLE)
    for file, sha256 in FeatureStore(path, manifest).hashes().items():
        yield _compare(file, f"{prefix}{file.relative_to(path).as_posix()}", sha256)
    yield from _check_graphs(path, f"{prefix}neighbors", "neighbors")


def _check_graphs(path: Path, prefix: str, folder: str = "neighbors") -> Iterator[CheckedFile]:
    for file in sorted((path / folder).glob(f"*/{_GRAPH_NAME}")):
        if not file.parent.name.startswith("."):
            yield from _check_graph(file.parent, f"{prefix}/{file.parent.name}/")


def _check_graph(path: Path, prefix: str = "") -> Iterator[CheckedFile]:
    yield _try(f"{prefix}{_GRAPH_NAME}", NeighborGraph.verify, path, OK)


def _check_benchmark(path: Path) -> Iterator[CheckedFile]:
    yield _try("benchmark.json", Benchmark.open, path, OK)


def _check_relabeling(path: Path) -> Iterator[CheckedFile]:
    yield _try(REPORT_NAME, read_report, path)
    yield _try(LABELS_NAME, read_labels_table, path / LABELS_NAME)
    if is_feature_store(path / "features"):
        yield from _check_store(path / "features", "features/")


def _check_export(path: Path) -> Iterator[CheckedFile]:
    recorded = (exports.read_manifest(path) or {}).get("files")
    if exports.fingerprint(path) == recorded:
        yield CheckedFile(MANIFEST_NAME, OK)
    else:
        yield CheckedFile(MANIFEST_NAME, DAMAGED, "files were added or removed since the export")


def _check_nouns(path: Path) -> Iterator[CheckedFile]:
    header = NounHeader.read(path)
    yield CheckedFile(MANIFEST_NAME, READABLE)
    if header.features_sha256:
        yield _compare(path / NOUNS_NAME, NOUNS_NAME, header.features_sha256)
    else:
        yield CheckedFile(NOUNS_NAME, MISSING, "not all nouns were read; `kinfold nouns build` goes on")


def _is_nouns(path: Path) -> bool:
    try:
        content = read_json(path / MANIFEST_NAME)
    except (OSError, FormatError):
        return False
    return isinstance(content, dict) and content.get("format") == _NOUNS_FORMAT


def _compare(file: Path, name: str, sha256: str | None) -> CheckedFile:
    """Compare a file with its recorded hash."""
    try:
        check_regular(file)
        if not file.is_file():
            return CheckedFile(name, MISSING)
        same = hash_file(file) == sha256
    except (OSError, KinfoldError) as error:
        return CheckedFile(name, DAMAGED, str(error))
    return CheckedFile(name, OK) if same else CheckedFile(name, DAMAGED, _OTHER)


def _try(name: str, read: Callable[..., object], what: object, state: str = READABLE) -> CheckedFile:
    """Read a file that has its own checks, or nothing to compare with."""
    try:
        read(what)
    except OtherGroupsError:
        raise
    except _BROKEN as error:
        return CheckedFile(name, DAMAGED, str(error).splitlines()[0] if str(error) else type(error).__name__)
    return CheckedFile(name, state)


# In this order: a run and a store are told apart by the format that their manifest names.
_KINDS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path], Iterator[CheckedFile]]], ...] = (
    ("run", is_run, _check_run),
    ("feature store", is_feature_store, _check_store),
    ("neighbor graph", lambda path: (path / _GRAPH_NAME).is_file(), _check_graph),
    ("benchmark", is_benchmark, _check_benchmark),
    ("relabeling", lambda path: (path / REPORT_NAME).is_file(), _check_relabeling),
    ("export", lambda path: exports.read_manifest(path) is not None, _check_export),
    ("noun features", _is_nouns, _check_nouns),
)
