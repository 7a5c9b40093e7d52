"""Stages that run once: each is recorded with a hash of its inputs and of its outputs."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kinfold._version import __version__
from kinfold.errors import InputError
from kinfold.locks import LOCK_NAME, lock_directory
from kinfold.run.level_names import list_level_names
from kinfold.run.manifest import (
    MANIFEST_NAME,
    Manifest,
    finish_replacing,
    is_run,
    read_manifest,
    remove_unnamed,
    replace_files,
    stage_files,
    write_manifest,
)
from kinfold.run.run import GIVEN_PREFIX
from kinfold.run.tables import NAMES_NAME
from kinfold.storage import PARTIAL_PREFIX, check_folder, hash_file, hash_json, remove_partials

logger = logging.getLogger(__name__)

STAGES = (
    "embed",
    "choose",
    "nouns",
    "neighbors",
    "fit",
    "assign",
    "levels",
    "typicality",
    "level",
    "name",
    "report",
)
# Part of every hash of inputs: raise it when a stage computes something else from the same inputs, and all
# stages of older runs are repeated.
STAGE_VERSION = 1

_LIBRARIES = ("numpy", "pyarrow", "pillow", "safetensors", "scikit-learn", "scipy", "torch", "transformers")
_FORMER = "former_fit"  # section of the manifest while the groups are made anew: the inputs of the last fit
_RESULT = STAGES.index("fit")  # forgetting an earlier stage keeps the result: the same inputs give the same


class Stages:
    """The stages of one run directory, which is locked by this process.

    Attributes
    ----------
    path : Path
        The run directory.
    manifest : Manifest
        What manifest.json says.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    def is_current(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Tell whether a stage has run on these inputs and its files are whole."""
        record = self.manifest.stages.get(name)
        if not record or record["inputs"] != hash_inputs(name, inputs):
            return False
        files = ((self.path / file, sha256) for file, sha256 in record["outputs"].items())
        return all(file.is_file() and hash_file(file) == sha256 for file, sha256 in files)

    def was_made_of(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Tell whether a stage has run on these inputs, be its files whole or not: it would make the same."""
        return self._last_inputs(name) == hash_inputs(name, inputs)

    def knows_groups(self) -> bool:
        """Tell whether the run has groups, or had them when they began to be made anew."""
        return "assign" in self.manifest.stages or self._last_inputs("fit") is not None

    def _last_inputs(self, name: str) -> str | None:
        """Return the hash of the inputs that a stage last ran on; of the fit also where it was forgotten."""
        record = self.manifest.stages.get(name)
        if record is None:
            former = self.manifest.get(_FORMER) if name == "fit" else None
            return former if isinstance(former, str) else None
        return str(record["inputs"])

    def run(
        self, name: str, inputs: Mapping[str, Any], outputs: tuple[str, ...], work: Callable[[], object]
    ) -> bool:
        """Run a stage unless it is current, then record it.

        Parameters
        ----------
        name : str
            One of ``STAGES``.
        inputs : Mapping
            All that the outputs depend on, as JSON-ready data.
        outputs : tuple of str
            Files that ``work`` leaves in the run directory, each whole or not there; they are hashed.
        work : callable
            Does it. May change sections of the manifest, which are saved with the record.

        Returns
        -------
        bool
            Whether it ran.
        """
        if self.is_current(name, inputs):
            logger.info("stage %s: up to date", name)
            return False
        self.forget(name)  # first: after a kill in the midst of the work nothing claims its files
        logger.info("stage %s: starts", name)
        started = time.monotonic()
        work()
        hashes = {file: hash_file(self.path / file) for file in outputs}
        self._record(name, inputs, hashes, time.monotonic() - started)
        self.save()
        return True

    def replace(
        self,
        name: str,
        inputs: Mapping[str, Any],
        writers: Mapping[str, Callable[[Path], None]],
        started: float,
        *,
        kept: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        **sections: Any,
    ) -> None:
        """Record a stage whose work is done, with its files and sections of the manifest, all at one moment.

        Parameters
        ----------
        name, inputs
            As for :meth:`run`.
        writers : Mapping
            File name to what writes it. A file of an earlier stage stays that stage's: its hash is renewed.
        started : float
            When the work began, by ``time.monotonic``.
        kept : Mapping
            Records of later stages that hold: the others are forgotten.
        sections
            Of the manifest; None takes one away.
        """
        staged = stage_files(self.path, writers)
        stages = self.manifest.stages
        hashes = dict(stages.get(name, {}).get("outputs", {}))  # those of its files that stay as they are
        hashes |= {file: hash_file(path) for file, path in staged.items()}
        for later in STAGES[STAGES.index(name) :]:
            stages.pop(later, None)
        stages.update({stage: dict(record) for stage, record in kept.items()})
        # Files of other stages that are written anew (assignments get names) stay theirs, with a new hash.
        for record in stages.values():
            record["outputs"] |= {file: hashes.pop(file) for file in record["outputs"] if file in hashes}
        for section, content in sections.items():
            if content is None:
                self.manifest.pop(section, None)
            else:
                self.manifest[section] = content
        self._record(name, inputs, hashes, time.monotonic() - started)
        self._sum_up()
        replace_files(self.path, self.manifest, tuple(writers))

    def declare(self, **sections: Any) -> None:
        """Set sections of the manifest."""
        if any(self.manifest.get(name) != content for name, content in sections.items()):
            self.manifest.update(sections)
            self.save()

    def forget(self, name: str) -> None:
        """Forget a stage, and with the model or the assignments all that was made of them."""
        first = STAGES.index(name)
        gone = STAGES[first:] if first >= _RESULT else (name,)
        if name in ("levels", "typicality"):  # the groups stay, and with them the level and the names
            gone = (*STAGES[first : STAGES.index("level")], "report")
        if "fit" in gone and (inputs := self._last_inputs("fit")) is not None:
            self.manifest[_FORMER] = inputs  # by which corrected groups are told from others after a kill
        for stage in gone:
            self.manifest.stages.pop(stage, None)
        if "fit" in gone:
            self.manifest.criteria = {}
            self.manifest.fit = {}
            self.manifest.pop("updates", None)  # rows and groups are those of the source again
        if "assign" in gone:
            self.manifest.metrics = {}
            self.manifest.diagnosis = {}
        if "level" in gone and self.manifest.pop("level", None):
            logger.warning("the groups are those of the fit again; `kinfold level` chooses another level")
        if "name" in gone and self.manifest.pop("naming", None):
            logger.warning("the names of the groups are dropped; `kinfold name` finds new ones")
        self.save()
        if "name" in gone:  # after the manifest: a reader must not be told of a file that isn't there
            (self.path / NAMES_NAME).unlink(missing_ok=True)
        if "level" in gone:
            for file in list_level_names(self.path):
                file.unlink(missing_ok=True)

    def save(self) -> None:
        """Write the manifest, with the timings of its stages."""
        self._sum_up()
        write_manifest(self.path, self.manifest)

    def _record(self, name: str, inputs: Mapping[str, Any], outputs: dict[str, str], seconds: float) -> None:
        inputs_hash = hash_inputs(name, inputs)
        recorded = self.manifest.stages
        if name == "assign":
            self.manifest.pop(_FORMER, None)
        recorded[name] = {"inputs": inputs_hash, "outputs": outputs, "seconds": round(seconds, 3)}
        self.manifest.stages = {stage: recorded[stage] for stage in STAGES if stage in recorded}
        self.manifest.kinfold, self.manifest.libraries = __version__, dict(_library_versions())
        logger.info("stage %s: done in %.1f s", name, seconds)

    def _sum_up(self) -> None:
        stages = self.manifest.stages
        timings = {f"{name}_seconds": record["seconds"] for name, record in stages.items()}
        self.manifest.timings = {**timings, "total_seconds": round(sum(timings.values()), 3)}


@contextmanager
def open_stages(out: Path, source: Mapping[str, Any]) -> Iterator[Stages]:
    """Open the run directory ``out`` for work, new or to be resumed, and lock it.

    Parameters
    ----------
    out : Path
        The directory.
    source : mapping
        What the manifest says of the images or features, among them ``uri`` and ``fingerprint``.

    Raises
    ------
    InputError
        ``out`` holds something else, a run of another source, or is being written by another process.
    """
    _check_free(out)
    with lock_directory(out, create=True):
        _check_free(out)  # again: another process may have written here before the lock was ours
        if (out / MANIFEST_NAME).exists():
            finish_replacing(out)
            manifest = read_manifest(out)
            _check_same_source(out, manifest.source, source)
        else:
            manifest = Manifest.of({"source": dict(source), "stages": {}})
        remove_partials(out)
        stages = Stages(out, manifest)
        stages.save()
        try:
            yield stages
        finally:
            # A run that was refused before its first stage left anything leaves no folder behind.
            if not stages.manifest.stages and all(_is_beginning(file.name) for file in out.iterdir()):
                (out / MANIFEST_NAME).unlink(missing_ok=True)


@contextmanager
def open_run_stages(path: Path) -> Iterator[Stages]:
    """Open the stages of a run that there is, and lock it.

    Raises
    ------
    InputError
        There is no run at ``path``, or it is being written by another process.
    """
    read_manifest(path)
    with lock_directory(path):
        finish_replacing(path)
        remove_partials(path)
        manifest = read_manifest(path)
        remove_unnamed(path, manifest)
        yield Stages(path, manifest)


def _check_free(out: Path) -> None:
    if is_run(out):
        return
    if (out / MANIFEST_NAME).is_file():
        read_manifest(out)  # says what is wrong with it
    try:
        check_folder(out, "a run of Kinfold", lambda name: name != MANIFEST_NAME and _is_beginning(name))
    except InputError:
        if not is_run(out):  # another process may have begun a run between the two looks
            raise


def _is_beginning(name: str) -> bool:
    """Tell whether a file of this name may be in a run before its first stage."""
    return (
        name in (MANIFEST_NAME, LOCK_NAME)
        or name.startswith(GIVEN_PREFIX)
        or (name.startswith(PARTIAL_PREFIX) and name.endswith((MANIFEST_NAME, "-lock")))
    )


def _check_same_source(out: Path, recorded: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    if recorded.get("uri") != described["uri"] and recorded.get("fingerprint") != described["fingerprint"]:
        raise InputError(
            f"{out} is a run of {recorded.get('uri')}, not of {described['uri']}; it was left as it is. "
            "Choose another folder (out=, --out), or remove that one"
        )


@functools.cache
def _library_versions() -> Mapping[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return MappingProxyType(found)


def hash_inputs(name: str, inputs: Mapping[str, Any]) -> str:
    """Return the hash of the inputs of a stage, as its record has it."""
    return hash_json({"stage": name, "version": STAGE_VERSION, **inputs})
