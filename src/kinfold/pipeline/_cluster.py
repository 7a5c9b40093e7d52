"""From a source to a finished run, in stages that can be interrupted anywhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kinfold.backbones import DEFAULT_BACKBONE, Backbone
from kinfold.bars import choose_progress
from kinfold.compute import Runtime, describe_machine
from kinfold.distributed import current_workers
from kinfold.errors import FormatError, InputError
from kinfold.features import Features, adopt_unchanged, extract_features, open_features
from kinfold.levels import LEVEL_FILES, build_levels, estimate_levels, open_levels, write_levels
from kinfold.methods import diagnose, load_model, predict_top, save_model
from kinfold.neighbors import NeighborGraph
from kinfold.pipeline._corrected import CorrectedGroups, check_replacing
from kinfold.pipeline._estimate import Estimate, check_disk, estimate_work
from kinfold.pipeline._given import kept_source
from kinfold.pipeline._language import Guide, NounsLike, prepare_guide
from kinfold.pipeline._method import (
    DEFAULT_METHOD,
    FitOrder,
    GraphCache,
    Method,
    check_n_samples,
    prepare_method,
)
from kinfold.pipeline._report import REPORT_NAME, run_report_stage
from kinfold.pipeline._source import (
    Source,
    SourceLike,
    as_backbone,
    as_spec,
    default_out,
    describe_backbone,
    resolve_source,
)
from kinfold.pipeline._team import Team
from kinfold.pipeline._update import why_other_images
from kinfold.progress import SILENT, Progress
from kinfold.run import (
    ASSIGNMENTS_NAME,
    GIVEN_PREFIX,
    N_TOP,
    SKIPPED_NAME,
    Run,
    Stages,
    is_run,
    open_stages,
    read_manifest,
    write_assignments,
    write_skipped,
)
from kinfold.storage import hash_file, hash_json
from kinfold.typicality import TYPICALITY_FILES, Reference, write_typicality

logger = logging.getLogger(__name__)

FEATURES_NAME = "features"
MODEL_FILES = ("model.json", "model.safetensors")


def cluster(
    source: SourceLike,
    n_clusters: int | str | None = None,
    *,
    method: str = DEFAULT_METHOD,
    out: str | Path | None = None,
    backbone: str | Path | Backbone = DEFAULT_BACKBONE,
    variant: str = "cls",
    random_state: int = 0,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    n_neighbors: int | None = None,
    n_workers: int | None = None,
    method_parameters: Mapping[str, Any] | None = None,
    preset: str | None = None,
    text_model: str | Path | None = None,
    nouns: NounsLike = None,
    source_options: Mapping[str, Any] | None = None,
    report: bool = True,
    force: bool = False,
    verbose: bool = False,
    on_estimate: Callable[[Estimate], None] | None = None,
    progress: Progress = SILENT,
) -> Run:
    """Sort images into groups and write a run directory.

    Interrupted work is resumed: call it again with the same arguments. With the same seed
    on the same machine the result is the same to the byte, interrupted or not.

    Started by ``torchrun``, the first process does the work and writes, and all join for the fit; each gets
    the run.

    Parameters
    ----------
    source : path, ImageSource, Features, or images or vectors in memory
        A folder, a glob pattern, a zip or tar archive, a table of images; a feature store or ready features;
        or from memory a list of paths or of PIL images, an array or tensor of vectors (N, D) or of images
        (N, height, width, 3), a DataFrame of pandas or polars with a column of paths, images or vectors, or a
        data set of Hugging Face. What was in memory is kept in the run as ``given-….parquet`` or ``.npy``.
    n_clusters : int or str, default "auto"
        Groups to find, at most the number of usable images. "auto" estimates their number
        (:func:`kinfold.levels.estimate_levels`), "5..50" does so within a range; where no number is clear it
        is one on the fine side. ``run.manifest.choice`` says why. Other levels are one call away:
        :func:`kinfold.level`.
    method : {"icce", "graph", "temi", "scan", "turtle", "kmeans", "tac", "auto"}, default "icce"
        How to group. "tac" lets nouns guide the groups, and needs the backbone of a vision-language model;
        "auto" fits k-means, TEMI and ICCE and keeps what looks best without labels.
    out : path, optional
        The run directory; by default ``<source name>.kinfold`` in the current folder, and for what is in
        memory ``images-….kinfold`` or ``vectors-….kinfold``, named after the content. It must be new,
        empty, or a run of the same source. A run that was corrected, or updated by :func:`kinfold.update`, is
        never replaced by other groups, unless by ``force``.
    backbone : str, path or Backbone, default "dinov2-small"
        What embeds the images; not used if ``source`` is features.
    variant : str, default "cls"
        Which vectors of the backbone or the feature store.
    random_state : int, default 0
        Seed.
    device, precision : str, default "auto"
        Where and how exactly to compute.
    engine : {"auto", "torch", "onnxruntime", "openvino"}, default "auto"
        What runs a network that embeds images, on a CPU. "auto" is the fastest that is installed, if it gives
        the same vectors (in float32) and there are at least 500 images, else PyTorch.
    n_neighbors : int, optional
        Neighbours of each image in the graph, for methods that learn from one (for ICCE at least); by
        default the method's own choice.
    n_workers : int, optional
        Processes that decode images; by default as many as there are cores.
    method_parameters : Mapping, optional
        More parameters of the method, ``{"n_heads": 8}``.
    preset : str, optional
        Named parameters, like "paper" for those that the method's authors report; see
        :func:`~kinfold.methods.preset_parameters`. What is given explicitly wins.
    text_model : str or path, optional
        For "tac": what reads the nouns, where it isn't the text tower of the backbone; needed for ready
        features of unknown origin.
    nouns : path or sequence of str, optional
        For "tac": the nouns that may be used, or a file with one per line; by default those of WordNet. Their
        features are kept in the user's cache (:func:`kinfold.language.cache_folder`).
    source_options : Mapping, optional
        For tables: ``path_column``, ``image_column``, ``key_column``; for features in Parquet: ``column``.
    report : bool, default True
        Write ``report.html``.
    force : bool, default False
        Replace the groups of a corrected or updated run; its corrections are kept, under another name.
    on_estimate : callable, optional
        Called once, before long work starts, with what the work is expected to take.
    verbose : bool, default False
        Show bars, in a terminal or a notebook.
    progress : Progress
        Shows every stage; wins over ``verbose``.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        An argument or the source can't be used, ``out`` holds something else or a corrected run that would
        get other groups, or the disk is too small; as far as that can be known, before anything is written.
    HubUnavailableError
        The backbone's files are neither cached nor to be had.

    Examples
    --------
    >>> import kinfold
    >>> run = kinfold.cluster("photos/", n_clusters=10)  # doctest: +SKIP
    """
    workers = current_workers()
    team = Team(workers)
    if not workers.is_first:
        return Run.open(team.follow(source))
    with team.leading():
        prepared = prepare_method(
            method, n_clusters, random_state, device, precision, n_neighbors, method_parameters, preset
        )
        runtime = Runtime.resolve(
            device,
            precision,
            n_workers=n_workers,
            progress=choose_progress(progress, verbose),
            engine=engine,
        )
        with kept_source(source, source_options, None if out is None else Path(out)) as given:
            opened = resolve_source(given.source, given.options)
            check_n_samples(prepared.wanted, opened.n_rows, "image", opened.uri)
            place = given.out if given.out is not None else default_out(opened)
            loaded = None
            if opened.images is not None:
                loaded = as_backbone(backbone, runtime, _own_features(place), opened.n_rows)
                loaded.check_variants([variant])
            guide = prepare_guide(prepared, nouns, text_model, opened, loaded, variant, runtime)
            with open_stages(place, opened.describe(variant)) as stages:
                work = Work(stages, opened, prepared, variant, runtime, team, guide).settled_before()
                if stages.manifest.updates and stages.knows_groups():
                    outdated = work.why_outdated(loaded)
                    if outdated is None:
                        logger.info("%s is up to date", place)
                        if report:
                            work.report()
                        team.finish(place.absolute())
                        return Run.open(place)
                    _check_restart(place, outdated, force=force)
                elif stages.knows_groups():
                    check_replacing(place, partial(work.why_replaced, loaded), force=force)
                _announce(work, loaded, on_estimate)
                features = opened.features if loaded is None else work.embed(loaded)
                assert features is not None
                check_n_samples(prepared.wanted, len(features.rows), "usable image", opened.uri)
                work = work.settle(features)
                work.fit(features, None if loaded is None else as_spec(backbone, loaded))
                work.assign(features)
                work.levels(features)
                work.typicality(features)
                if report:
                    work.report()
        team.finish(place.absolute())
    run = Run.open(place)
    CorrectedGroups.of(run)  # warns where corrections of groups that are gone lie in the run
    return run


def _own_features(place: Path) -> Path:
    """Return where the features of a run are, if they are its own: updates give them another name."""
    recorded = read_manifest(place).features.get("path") if is_run(place) else None
    own = isinstance(recorded, str) and recorded.startswith(f"{FEATURES_NAME}-")
    return place / (recorded if own and recorded is not None else FEATURES_NAME)


def _check_restart(place: Path, why: str, *, force: bool) -> None:
    """Refuse to replace the groups of an updated run; with ``force``, put its corrections aside."""
    if not force:
        raise InputError(
            f"{place} was updated since it was clustered, and {why}; it was left as it is. `kinfold update "
            f"{place}` takes in what became of its images and keeps the groups; for others choose another "
            "folder (out=, --out), or replace them (force=True, --force)"
        )
    check_replacing(place, lambda: why, force=True)


def _announce(work: Work, backbone: Backbone | None, on_estimate: Callable[[Estimate], None] | None) -> None:
    """Tell what the work is expected to take, and refuse what won't fit on the disk."""
    expected = estimate_work(
        work.source,
        work.method,
        work.variant,
        backbone,
        work.runtime,
        done=work.find_done(backbone),
        guide=work.guide,
    )
    logger.info("%s", expected)
    if on_estimate is not None:
        on_estimate(expected)
    check_disk(expected, work.stages.path)


@dataclass(frozen=True)
class Work:
    """The stages of one call, as methods in their order.

    Parameters
    ----------
    stages : Stages
        The open run directory.
    source : Source
        Images or features.
    method : Method
        How to group.
    variant : str
        Which vectors.
    runtime : Runtime
        Device, precision and decoding processes of this call, and what shows its progress.
    team : Team
        The processes that fit together.
    guide : Guide or None
        The nouns of a method that needs some.
    """

    stages: Stages
    source: Source
    method: Method
    variant: str
    runtime: Runtime
    team: Team
    guide: Guide | None = None

    def find_done(self, backbone: Backbone | None) -> frozenset[str]:
        """Return the stages that need not run again, as far as that can be told before any runs."""
        features = self.source.features
        done = {"choose"} if self.stages.manifest.choice else set()
        if backbone is not None and (features := self._find_embedded(backbone)) is not None:
            done.add("embed")
        if features is not None and self.stages.is_current("fit", self._fit_inputs_of(features)):
            done |= {"nouns", "neighbors", "fit"}
        return frozenset(done)

    def _find_embedded(self, backbone: Backbone) -> Features | None:
        """Return the features of RUN/features where they are those of the images as they are now."""
        path = self.stages.path / FEATURES_NAME
        if self.stages.is_current("embed", self._embed_inputs(backbone)):
            return _open_whole(path)
        assert self.source.images is not None
        return adopt_unchanged(self.source.images, backbone, path, (self.variant,))

    def why_outdated(self, backbone: Backbone | None) -> str | None:
        """Return how an updated run differs from what is asked for; None if it doesn't."""
        manifest, recorded = self.stages.manifest, self.stages.manifest.backbone or {}
        updates = manifest.updates or {}
        fitted = updates["fitted"]
        if not self.stages.was_made_of("fit", self._fit_inputs(fitted["features"], int(fitted["n_rows"]))):
            return "its parameters, its seed or the device are other ones"
        if backbone is not None and backbone.fingerprint() != recorded.get("fingerprint"):
            return "what embeds the images is another one"
        if self.source.features is not None:
            same = self.source.features.fingerprint(self.variant) == fitted["features"]
            return None if same else "the features have changed"
        assert self.source.images is not None
        for stage in ("fit", "assign", "levels"):
            for name, sha256 in manifest.stages.get(stage, {}).get("outputs", {}).items():
                file = self.stages.path / name
                if not file.is_file() or hash_file(file) != sha256:
                    return (
                        f"{name} is damaged or missing: put it back from a copy, or take the last update "
                        "back (`kinfold update --undo`)"
                    )
        return why_other_images(Run(self.stages.path, manifest), self.source.images)

    def why_replaced(self, backbone: Backbone | None) -> str | None:
        """Return why the run would get other groups; None if it would get the same."""
        manifest, features = self.stages.manifest, self.source.features
        if backbone is not None and not self.stages.was_made_of("embed", self._embed_inputs(backbone)):
            features = self._find_embedded(backbone)
            if features is None:
                return self._describe_change()
        if features is None:
            # The features may be damaged or gone: made anew of the same images, they are what they were.
            fingerprint, n_rows = manifest.features["fingerprint"], int(manifest.source["n_usable"])
        else:
            fingerprint, n_rows = features.fingerprint(self.variant), len(features.rows)
        if fingerprint != manifest.features["fingerprint"]:
            return "the features have changed"
        same = self.stages.was_made_of("fit", self._fit_inputs(fingerprint, n_rows))
        return None if same else "its parameters, its seed or the device are other ones"

    def _describe_change(self) -> str:
        """Return how the images differ from those of the run."""
        assert self.source.images is not None
        try:
            run = Run.open(self.stages.path)
            before = {*run.assignments["key"].to_pylist(), *run.skipped["key"].to_pylist()}
        except FormatError:
            return "the images, or what embeds them, have changed"
        now = set(self.source.images.keys)
        counts = {"gone": len(before - now), "new": len(now - before)}
        told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        return (
            f"the images have changed ({told})" if told else "the images, or what embeds them, have changed"
        )

    def embed(self, backbone: Backbone) -> Features:
        """Embed the images into RUN/features."""
        images, path = self.source.images, self.stages.path / FEATURES_NAME
        assert images is not None
        inputs = self._embed_inputs(backbone)
        if self.stages.is_current("embed", inputs):
            if (whole := _open_whole(path)) is not None and (
                self.stages.is_current("fit", self._fit_inputs_of(whole)) or _is_sound(whole, self.variant)
            ):
                return whole
            self.stages.forget("embed")

        def work() -> None:
            extract_features(
                images,
                backbone,
                path,
                variants=(self.variant,),
                n_workers=self.runtime.n_workers,
                progress=self.runtime.progress,
            )

        self.stages.run("embed", inputs, (), work)
        return open_features(path)

    def settled_before(self) -> Work:
        """Return the work with the number of groups that an earlier call found on the same features."""
        if self.method.is_settled:
            return self
        manifest = self.stages.manifest
        features = self.source.features
        fingerprint = features.fingerprint(self.variant) if features else manifest.features.get("fingerprint")
        if manifest.updates:
            fingerprint = manifest.updates["fitted"]["features"]
        if (
            fingerprint
            and manifest.choice
            and self.stages.was_made_of("choose", self._choice_inputs(fingerprint))
        ):
            return self._with_number(int(manifest.choice["chosen"]))
        return self

    def settle(self, features: Features) -> Work:
        """Return the work with its number of groups, found on the features where none was asked for."""
        manifest = self.stages.manifest
        if self.method.is_settled:
            self.stages.declare(choice=None)
            return self
        inputs = self._choice_inputs(features.fingerprint(self.variant))
        if not manifest.choice:
            self.stages.forget("choose")

        def work() -> None:
            wanted = self.method.wanted
            found = estimate_levels(
                features.matrix(self.variant),
                least=wanted.least,
                most=wanted.most,
                random_state=self.method.random_state,
                device=str(self.runtime.device),
                progress=self.runtime.progress,
            )
            manifest.choice = {**wanted.describe(), **found.as_dict()}

        self.stages.run("choose", inputs, (), work)
        assert manifest.choice is not None
        logger.info("%d groups: %s", manifest.choice["chosen"], manifest.choice["reason"])
        return self._with_number(int(manifest.choice["chosen"]))

    def _choice_inputs(self, fingerprint: str) -> dict[str, Any]:
        return {
            "features": fingerprint,
            **self.method.wanted.describe(),
            "random_state": self.method.random_state,
        }

    def _with_number(self, n_clusters: int) -> Work:
        return replace(self, method=self.method.settle(n_clusters))

    def fit(self, features: Features, backbone_spec: str | None) -> None:
        """Fit the method and keep its model; ``backbone_spec`` is what loads the backbone again."""
        inputs = self._fit_inputs_of(features)
        current = self.stages.is_current("fit", inputs)
        if not current:
            self.stages.forget("fit")  # before the manifest says what the new result is made of
        self._declare(features, backbone_spec)
        if not current:
            order = self._order(features, self.stages.path / f"checkpoint-{hash_json(inputs)[:12]}")
            self._clear_checkpoints(keep=order.checkpoint)
            self.stages.run("fit", inputs, MODEL_FILES, lambda: self._fit(features, order))
        self._clear_checkpoints()

    def assign(self, features: Features) -> None:
        """Write the groups of all usable images, and what was skipped."""
        path = self.stages.path
        fitted = self.stages.manifest.stages["fit"]["outputs"]
        inputs = {"features": features.fingerprint(self.variant), "model": fitted, "n_top": N_TOP}

        def work() -> None:
            (path / REPORT_NAME).unlink(missing_ok=True)  # it shows other groups
            # The saved model, not the one still in memory: so a resumed run, and predict, do the same sums.
            model = load_model(path, device=str(self.runtime.device))
            top = predict_top(model, features.matrix(self.variant), n_top=N_TOP)
            keys = features.keys.take(pa.array(features.rows))
            write_assignments(path / ASSIGNMENTS_NAME, features.rows, keys, top)
            write_skipped(path / SKIPPED_NAME, features.skipped)
            found = diagnose(top.clusters[:, 0], self.method.n_clusters)
            self.stages.manifest.diagnosis = found.as_dict()

        self.stages.run("assign", inputs, (ASSIGNMENTS_NAME, SKIPPED_NAME), work)
        for message in self.stages.manifest.diagnosis.get("messages", ()):
            logger.warning("%s", message)

    def levels(self, features: Features) -> None:
        """Write the tree of groups: coarser ones join those of the fit, finer ones lie within them."""
        manifest = self.stages.manifest
        inputs = {
            "features": features.fingerprint(self.variant),
            "model": manifest.stages["fit"]["outputs"],
            "random_state": self.method.random_state,
            "choice": manifest.choice,
        }

        def work() -> None:
            X = features.matrix(self.variant)
            model = load_model(self.stages.path, device=str(self.runtime.device))
            clusters = predict_top(model, X, n_top=1).clusters[:, 0]
            graphs = self._find_graphs(features)
            levels = build_levels(
                X,
                clusters,
                self.method.n_clusters,
                NeighborGraph.open(next(iter(graphs.values()))) if graphs else None,
                seed=self.method.random_state,
                device=str(self.runtime.device),
                progress=self.runtime.progress,
            )
            keys = features.keys.take(pa.array(features.rows))
            parts = levels.find_parts(X, clusters)
            write_levels(self.stages.path, levels, features.rows, keys, parts, manifest.choice)

        self.stages.run("levels", inputs, LEVEL_FILES, work)
        if not self._shows_a_level():
            logger.warning("the tree of groups isn't the one that the level shown was taken from")
            self.stages.forget("assign")
            self.assign(features)
            self.levels(features)

    def _shows_a_level(self) -> bool:
        """Tell whether the groups of a run that shows another level are those of the tree.

        A tree that was damaged and made anew may be another one, by other versions of the libraries say.
        """
        manifest = self.stages.manifest
        if manifest.level is None or self.stages.was_made_of(
            "level", {"level": manifest.level, "levels": manifest.stages["levels"]["outputs"]}
        ):
            return True
        run = Run(self.stages.path, manifest)
        tree, n_groups = open_levels(run), int(manifest.level["n_groups"])
        return n_groups <= tree.levels.n_parts and np.array_equal(tree.labels(n_groups), run.labels)

    def typicality(self, features: Features) -> None:
        """Write how typical every image is of its group, and what new images are compared with."""
        stages = self.stages
        inputs = {
            "features": features.fingerprint(self.variant),
            "levels": stages.manifest.stages["levels"]["outputs"],
        }

        def work() -> None:
            X = features.matrix(self.variant)
            tree = open_levels(Run.open(stages.path))
            reference = Reference.draw(X, features.rows, tree.parts)
            closeness = reference.closeness(X, device=str(self.runtime.device))
            keys = features.keys.take(pa.array(features.rows))
            labels = tree.levels.part_clusters[tree.parts]  # of the fit, whatever level the run shows
            write_typicality(stages.path, reference, features.rows, keys, closeness, labels)

        stages.run("typicality", inputs, TYPICALITY_FILES, work)

    def report(self) -> None:
        """Write the page."""
        run_report_stage(self.stages, self.runtime.progress)

    def _declare(self, features: Features, backbone_spec: str | None) -> None:
        described = self.source.describe(self.variant)
        self.stages.declare(
            source={**described, "n_usable": len(features.rows), "n_skipped": features.skipped.num_rows},
            backbone=describe_backbone(features, backbone_spec),
            features=self._describe_features(features),
            parameters={**self.method.describe(len(features.rows)), "variant": self.variant},
            seed=self.method.random_state,
            machine=describe_machine(self.runtime.device),
            language=None if self.guide is None else self.guide.describe(),
        )

    def _embed_inputs(self, backbone: Backbone) -> dict[str, Any]:
        assert self.source.images is not None
        return {
            "source": self.source.images.fingerprint(),
            "backbone": backbone.fingerprint(),
            "variant": self.variant,
        }

    def _fit_inputs_of(self, features: Features) -> dict[str, Any]:
        return self._fit_inputs(features.fingerprint(self.variant), len(features.rows))

    def _fit_inputs(self, features: str, n_rows: int) -> dict[str, Any]:
        words = {} if self.guide is None else {"nouns": self.guide.nouns.fingerprint}
        return {
            **words,
            "features": features,
            "parameters": self.method.describe(n_rows),
            "graphs": self.method.graphs(n_rows),
            "device": self.runtime.device.type,
        }

    def _order(self, features: Features, checkpoint: Path) -> FitOrder:
        """Return what the fit needs, its graphs found."""
        return FitOrder(
            method=self.method,
            features=Path(features.path).absolute(),
            variant=self.variant,
            checkpoint=checkpoint.absolute(),
            graphs={name: path.absolute() for name, path in self._find_graphs(features).items()},
            options=dict(self.source.options) if self.source.features is not None else {},
            nouns=self._read_nouns(),
        )

    def _find_graphs(self, features: Features) -> dict[str, Path]:
        """Return where the graphs of the method are; empty for one that learns from none."""
        wanted = self.method.graphs(len(features.rows))
        device, progress = str(self.runtime.device), self.runtime.progress
        cache = GraphCache(self.stages, features, self.variant, device, progress)
        return cache.find(wanted) if wanted else {}

    def _read_nouns(self) -> Path | None:
        """Read the nouns of a method that needs some, and return where their features are."""
        if self.guide is None:
            return None
        nouns, inputs = self.guide.nouns, {"nouns": self.guide.nouns.fingerprint}
        if not nouns.is_sound():
            self.stages.forget("nouns")  # what was read is no longer in the cache, or damaged there
        self.stages.run("nouns", inputs, (), lambda: nouns.embed(self.runtime.progress))
        return nouns.path

    def _fit(self, features: Features, order: FitOrder) -> None:
        if self.source.features is not None:  # the run's own are new, or were compared when they were opened
            features.verify(self.variant)
        estimator = self.team.fit(order, features, self.runtime.progress)
        criteria = order.assess(estimator, features).as_dict()
        self.stages.manifest.criteria = criteria
        self.stages.manifest.fit = estimator.facts()
        save_model(estimator, self.stages.path)

    def _clear_checkpoints(self, keep: Path | None = None) -> None:
        """Remove checkpoints but those of ``keep``: its parts have its name and an ending each."""
        for left in self.stages.path.glob("checkpoint-*"):
            if keep is None or left.name.partition(".")[0] != keep.name:
                left.unlink()

    def _describe_features(self, features: Features) -> dict[str, Any]:
        own = self.stages.path / FEATURES_NAME
        path = Path(features.path)
        given = path.name.startswith(GIVEN_PREFIX) and path.absolute().parent == self.stages.path.absolute()
        return {
            "path": FEATURES_NAME if path == own else path.name if given else str(path.absolute()),
            "column": self.source.options.get("column"),
            "variant": self.variant,
            "dim": int(features.matrix(self.variant).shape[1]),
            "fingerprint": features.fingerprint(self.variant),
        }


def _open_whole(path: Path) -> Features | None:
    """Open the features of the run; None, with a warning, if they are gone or damaged."""
    try:
        features = open_features(path)
        _ = features.rows  # the index is read in any case
        return features
    except (FormatError, InputError) as error:
        logger.warning("embedding again: %s", error)
        return None


def _is_sound(features: Features, variant: str) -> bool:
    """Tell, with a warning, whether features are what was written; a fit reads all of them anyway."""
    try:
        features.verify(variant)
        return True
    except FormatError as error:
        logger.warning("embedding again: %s", error)
        return False
