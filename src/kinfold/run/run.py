"""A finished run, read back from its directory."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError, KinfoldError
from kinfold.run.manifest import (
    MANIFEST_NAME,
    Manifest,
    have_same_groups,
    locate_file,
    locate_whole,
    read_manifest,
)
from kinfold.run.tables import (
    ASSIGNMENTS_NAME,
    ASSIGNMENTS_SCHEMA,
    NAMES_NAME,
    SKIPPED_NAME,
    SKIPPED_SCHEMA,
    TYPICALITY_NAME,
    TYPICALITY_SCHEMA,
    read_names,
    read_table,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kinfold.backbones import Backbone
    from kinfold.features import Features
    from kinfold.images import ImageSource
    from kinfold.language import ClusterName

GIVEN_PREFIX = "given-"  # names of files in a run that hold what was given in memory
_MEND = "repeat the `kinfold cluster` command with the same --out to write it anew"
_RENAME = "name the groups anew: `kinfold name`"
_MODEL_FILES = ("model.json", "model.safetensors")
_IF_MOVED = "if they were moved, say where they are now (source=, --source)"


class Run:
    """A finished run: groups, model and facts, read from its directory when they are asked for.

    Open one with :meth:`open`. It stays what the run was then: when another level or another fit gave the run
    other groups, what was read before is of the old ones, and reading more is refused. Commands that take a
    run, like :func:`kinfold.export`, take it as it is now (:meth:`latest`).

    Attributes
    ----------
    path : Path
        The run directory.
    manifest : Manifest
        What ``manifest.json`` says, a section per attribute; see docs/formats.md.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.manifest = Manifest.of(manifest)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open the run at ``path``.

        Raises
        ------
        InputError
            There is no run at ``path``, or it isn't finished.
        FormatError
            It is damaged, or of a newer format version; the message names the file and how to mend it.
        """
        path = Path(path)
        manifest = read_manifest(path)
        stages = manifest.stages
        if "assign" not in stages:
            done = ", ".join(stages) or "none"
            raise InputError(
                f"{path} isn't finished (stages done: {done}); "
                "repeat the `kinfold cluster` command with the same --out to go on"
            )
        for stage in ("fit", "assign"):
            for name in stages.get(stage, {}).get("outputs", {}):
                if not locate_file(path, manifest, name).exists():
                    raise FormatError(f"{path / name} is missing; {_MEND}")
        try:
            int(manifest.parameters["n_clusters"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"{path / MANIFEST_NAME} is damaged: it names no n_clusters; {_MEND}"
            ) from error
        return cls(path, manifest)

    @classmethod
    def latest(cls, run: Run | str | Path) -> Run:
        """Return a run as it is now: the one given, or opened again where groups or names have changed.

        Parameters
        ----------
        run : Run or path
            A finished run.

        Raises
        ------
        InputError, FormatError
            As :meth:`open`.
        """
        found = cls.open(run.path if isinstance(run, Run) else run)
        if not isinstance(run, Run):
            return found
        named = [one.manifest.stages.get("name") for one in (run, found)]
        same = named[0] == named[1] and have_same_groups(run.manifest, found.manifest)
        return run if same else found

    @cached_property
    def assignments(self) -> pa.Table:
        """The usable images in row order; docs/formats.md has the columns. ``name`` is null before naming."""
        path = self._locate(ASSIGNMENTS_NAME, _MEND)
        return read_table(path, ASSIGNMENTS_SCHEMA, _MEND)

    @cached_property
    def names(self) -> Mapping[int, ClusterName]:
        """What each group is called, by its number, with the words, scores and paths; empty before naming.

        Of a named run all groups are there; where no word fits, ``names[group].noun`` is None and
        ``names[group].reason`` says why.
        """
        if "name" not in self.manifest.stages:
            return {}
        path = self._locate(NAMES_NAME, _RENAME)
        parameters = (self.manifest.naming or {}).get("parameters", {})
        return read_names(path, self.n_clusters, parameters, _RENAME)

    @property
    def skipped(self) -> pa.Table:
        """The images that could not be used: row, key, reason."""
        return self._without_group.filter(pc.invert(self._is_gone))

    @property
    def gone(self) -> pa.Table:
        """The images that `kinfold update` no longer found: row, last key, reason."""
        return self._without_group.filter(self._is_gone)

    @cached_property
    def _without_group(self) -> pa.Table:
        path = locate_whole(self.path, self.manifest, SKIPPED_NAME, _MEND)
        return read_table(path, SKIPPED_SCHEMA, _MEND)

    @property
    def _is_gone(self) -> pa.ChunkedArray:
        from kinfold.images import SkipReason

        return pc.starts_with(self._without_group["reason"], SkipReason.GONE.value)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Group of every usable image, 0 to ``n_clusters - 1``, in the order of :attr:`assignments`."""
        labels: NDArray[np.int32] = self.assignments["cluster"].to_numpy()
        labels.flags.writeable = False
        return labels

    @cached_property
    def closeness(self) -> NDArray[np.float32] | None:
        """How close every usable image is to others, in the order of :attr:`assignments`.

        It is the mean cosine similarity to the five nearest, NaN where it isn't known; None in runs of
        Kinfold before it knew it.
        """
        if "typicality" not in self.manifest.stages:
            return None
        path = locate_whole(self.path, self.manifest, TYPICALITY_NAME, _MEND)
        table = read_table(path, TYPICALITY_SCHEMA, _MEND)
        known, rows = table["row"].to_numpy(), self.assignments["row"].to_numpy()
        if not len(known) or (np.diff(known) <= 0).any():
            raise FormatError(f"{path} is damaged: its rows don't rise; {_MEND}")
        places = np.searchsorted(known, rows).clip(0, len(known) - 1)
        values = table["closeness"].to_numpy()[places]
        return np.where(known[places] == rows, values, np.float32(np.nan))

    @property
    def typicality(self) -> NDArray[np.float32] | None:
        """Share of the images of its group that are less close to others, for every usable image, in (0, 1).

        Equals count half. The groups are those of :attr:`labels`. None in runs of Kinfold before it knew
        it; the same `kinfold cluster` command adds it to them, and keeps the groups.
        """
        return self.typicality_in(self.labels)

    def typicality_in(self, groups: NDArray[np.integer]) -> NDArray[np.float32] | None:
        """Return the typicality in other groups of the same images, as corrected for instance.

        Parameters
        ----------
        groups : ndarray (N,) of int
            The group of every usable image; −1 for none gives NaN.
        """
        from kinfold.metrics import GroupRanks

        if self.closeness is None:
            return None
        return GroupRanks.of(self.closeness, groups).shares(self.closeness, groups, members=True)

    @property
    def n_clusters(self) -> int:
        """Number of groups, at the level that the run shows; some may be empty."""
        level = self.manifest.level
        return int(level["n_clusters"] if level else self.manifest.parameters["n_clusters"])

    @property
    def level(self) -> int | None:
        """How many groups with images `kinfold level` chose; None where the groups are those of the fit."""
        return int(self.manifest.level["n_groups"]) if self.manifest.level else None

    def at_level(self, level: dict[str, int] | None, assignments: pa.Table) -> Run:
        """Return this run as it would be at another level; nothing is written.

        Parameters
        ----------
        level : dict or None
            As :attr:`Manifest.level`.
        assignments : pyarrow.Table
            Its groups there.
        """
        manifest = Manifest.of(dict(self.manifest))
        manifest.level = level
        manifest.stages = {name: record for name, record in manifest.stages.items() if name != "name"}
        found = Run(self.path, manifest)
        vars(found)["assignments"] = assignments
        return found

    @property
    def metrics(self) -> dict[str, Any]:
        """Agreement with known labels, as last evaluated; empty if that never happened."""
        return dict(self.manifest.metrics)

    @property
    def report_path(self) -> Path:
        """Where the report page is, or would be."""
        return self.path / "report.html"

    @cached_property
    def model(self) -> Any:
        """The fitted estimator, which predicts groups of new features."""
        return self.load_model()

    def load_model(self, *, device: str = "auto") -> Any:
        """Load the fitted estimator, after comparing its files with the hashes that were recorded of them.

        Parameters
        ----------
        device : str, default "auto"
            Where to compute.

        Raises
        ------
        FormatError
            A file is missing, or isn't what was written.
        InputError
            There is no such device.
        """
        from kinfold.methods import load_model

        for name in _MODEL_FILES:
            locate_whole(self.path, self.manifest, name, _MEND)
        return load_model(self.path, device=device)

    def features(self, source: str | Path | None = None) -> Features:
        """Open the features that the run was made from.

        Parameters
        ----------
        source : path, optional
            Where they are now, if they were moved.

        Raises
        ------
        InputError
            They aren't there, or the features found are other ones.
        """
        from kinfold.features import open_features

        recorded = self.manifest.features
        path = Path(source) if source is not None else self.path / recorded["path"]
        try:
            features = open_features(path, column=recorded.get("column"))
        except FormatError:
            raise
        except KinfoldError as error:
            raise InputError(
                f"the features of this run can't be opened at {path} ({error}); {_IF_MOVED}; of kinfold "
                "explore the option is --features"
            ) from error
        if features.fingerprint(recorded["variant"]) != recorded["fingerprint"]:
            raise InputError(
                f"the features at {path} aren't those that {self.path} was made from; {_IF_MOVED}, else "
                "cluster again"
            )
        return features

    def images(self, source: str | Path | None = None) -> ImageSource | None:
        """Open the images that the run was made from; None where it was made from features of unknown origin.

        They are joined with the run's rows by key, so that it doesn't matter in which order they are, nor
        that some are gone or new: a warning counts these.

        Parameters
        ----------
        source : path, optional
            Where they are now, if they were moved.

        Raises
        ------
        InputError
            They aren't there, or the images found there are other ones.
        """
        from kinfold.images import open_source
        from kinfold.run._pictures import join_pictures

        recorded = self.manifest.source
        where = source if source is not None else recorded.get("images")
        if where is None:
            return None
        if (
            source is None
            and (own := self.path / Path(where).name).name.startswith(GIVEN_PREFIX)
            and own.exists()
        ):
            where = own  # what was given in memory lies in the run, wherever that is now
        # Of features these are options of theirs; images beside them in a table have some of their own.
        name = "image_options" if recorded.get("kind") == "features" else "options"
        options = recorded.get(name, {})
        try:
            images = open_source(where, **options)
        except InputError as error:
            raise InputError(
                f"the images of this run can't be opened at {where} ({error}); {_IF_MOVED}"
            ) from error
        apart = recorded.get("kind") == "features"
        keys = self._keys()
        gone = np.zeros(len(keys), bool)
        gone[self.gone["row"].to_numpy()] = True
        return join_pictures(images, keys, str(self.path), moved=not apart, gone=gone)

    def backbone(
        self, backbone: str | Path | Backbone | None = None, *, device: str = "auto", engine: str = "torch"
    ) -> Backbone:
        """Load the backbone that the run's images were embedded with.

        Parameters
        ----------
        backbone : str, path or Backbone, optional
            Where it is now, if it was moved.
        device : str, default "auto"
            Where to compute.
        engine : {"auto", "torch", "onnxruntime", "openvino"}, default "torch"
            What runs a network, as for :func:`~kinfold.backbones.load_backbone`. For a run whose images were
            embedded in bfloat16 it is the run's own: other engines round otherwise there.

        Raises
        ------
        InputError
            The run was made from ready features, the backbone isn't there, or the one found is another one.
        """
        from kinfold.backbones import Backbone, load_backbone

        recorded = self.manifest.backbone
        if not recorded:
            raise InputError(
                f"{self.path} was made from ready features, so how to embed images isn't known; "
                "give features of the new images, made the same way"
            )
        if isinstance(backbone, Backbone):
            loaded = backbone
        else:
            if backbone is None and recorded["spec"]:
                self._check_local(recorded["spec"])
            where = backbone if backbone is not None else recorded["spec"]
            precision = recorded.get("precision", "auto")
            if precision == "bfloat16":
                engine = recorded.get("engine", "torch")
            loaded = load_backbone(where, device=device, precision=precision, engine=engine)
        if loaded.fingerprint() != recorded["fingerprint"]:
            raise InputError(
                f"the backbone {loaded.card.name} isn't the one that {self.path} was made with: its weights, "
                "preprocessing, precision or engine differ. Say where the same one is (backbone=, --backbone)"
            )
        return loaded

    def _check_local(self, spec: str) -> None:
        """Refuse a backbone that was a directory or ``CARD:FILE`` of this machine and is gone."""
        card, _, file = spec.partition(":")
        for place, option in ((spec, "DIR"), (file, f"{card}:FILE")):
            if Path(place).is_absolute() and not Path(place).exists():
                raise InputError(
                    f"{self.path} needs the model that was at {place}, where nothing is now; if it was "
                    f"moved, say where it is (backbone=, --backbone {option})"
                )

    def _locate(self, name: str, mend: str) -> Path:
        """Return where a file about the groups is; :class:`InputError` if it is of later ones than these."""
        found, latest = locate_whole(self.path, self.manifest, name, mend), read_manifest(self.path)
        if latest.hash_of(name) != self.manifest.hash_of(name) and not have_same_groups(
            self.manifest, latest
        ):
            raise InputError(
                f"{self.path} has other groups than when it was opened (a level, an update, a new fit); "
                "open it again: Run.open"
            )
        return found

    def _keys(self) -> pa.Array:
        """Return the key of every row of the source."""
        tables = (self.assignments, self._without_group)
        both = pa.concat_tables([table.select(["row", "key"]) for table in tables])
        return both.sort_by("row")["key"]

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the groups as corrected, the largest first."""
        import kinfold  # the front door: corrections, and what shows them, stand below this room

        return str(kinfold.view_run(self))

    def __repr__(self) -> str:
        method = self.manifest.parameters.get("method", "?")
        return f"Run({str(self.path)!r}: {self.n_clusters} groups by {method})"
