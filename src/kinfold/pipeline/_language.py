"""Where images and words meet: nouns that guide a method, and names of groups."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.backbones import Backbone, load_backbone
from kinfold.compute import Runtime
from kinfold.errors import InputError, count_of
from kinfold.features import Features, extract_features
from kinfold.images import ImageSource
from kinfold.language import (
    ClusterNames,
    PreparedNouns,
    TextEncoder,
    fill,
    load_text_encoder,
    name_clusters,
    prepare_nouns,
    read_words,
)
from kinfold.language.naming import MIN_SEPARATION, N_NAMES
from kinfold.levels import check_levels, open_tree
from kinfold.pipeline._corrected import CorrectedGroups
from kinfold.pipeline._method import Method
from kinfold.pipeline._report import run_report_stage
from kinfold.pipeline._source import Source, describe_backbone
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix
from kinfold.run import (
    ASSIGNMENTS_NAME,
    NAMES_NAME,
    Run,
    Stages,
    hash_inputs,
    level_names_name,
    open_run_stages,
    read_level_names,
    write_level_names,
    write_named_assignments,
    write_names,
)
from kinfold.storage import hash_file

NounsLike: TypeAlias = "str | Path | Sequence[str] | None"
WORDNET = "WordNet 3.0"
LANGUAGE_FEATURES_NAME = "language-features"

logger = logging.getLogger(__name__)

_JOINT_VARIANT = "cls"  # the one that two-tower models project into their joint space
_SAMPLE_WORDS = 64  # timed before all are read: about a batch, spread over the list since lengths differ
_ADVICE = (
    "Groups of any run of images can be named: give a vision-language model, for instance "
    "--text-model clip-vit-b32 or a model's directory, and the images are embedded with it beside the run"
)
_Keep: TypeAlias = (
    "Callable[[Stages, CorrectedGroups, Mapping[str, Any], ClusterNames, Mapping[str, Any], float], None]"
)
_compute: Any = pc  # its functions have no types


def find_text_spec(text_model: str | Path | None, backbone: Mapping[str, Any] | None, where: str) -> str:
    """Return what loads the text tower: what was asked for, else the backbone of the features.

    Parameters
    ----------
    text_model : str, path or None
        What the user named.
    backbone : mapping or None
        What a manifest says of the backbone.
    where : str
        What the features are of, for the message.

    Raises
    ------
    InputError
        Neither is known.
    """
    if text_model is not None:
        return str(Path(text_model).absolute()) if Path(text_model).is_dir() else str(text_model)
    spec = (backbone or {}).get("spec")
    if not spec:
        raise InputError(
            f"words need the text tower of the model that made the features, which isn't known of {where}; "
            "name it (text_model=, --text-model)"
        )
    return str(spec)


def open_text_encoder(spec: str, dim: int, runtime: Runtime) -> TextEncoder:
    """Load a text tower whose texts lie in the space of features of ``dim`` values.

    Raises
    ------
    InputError
        There is no such model, it has no text tower, or its texts have another dimension.
    HubUnavailableError, MissingExtraError, FormatError
        As :func:`~kinfold.language.load_text_encoder`.
    """
    encoder = load_text_encoder(spec, device=runtime.device, precision=runtime.precision)
    if encoder.dim != dim:
        raise InputError(
            f"the texts of {encoder.name} have {encoder.dim} dimensions, the images' features {dim}: both "
            "must come from one and the same vision-language model (text_model=, --text-model)"
        )
    return encoder


def open_text_encoder_of(
    source: Source,
    backbone: Backbone | None,
    variant: str | None,
    text_model: str | Path | None,
    runtime: Runtime,
) -> TextEncoder:
    """Load the text tower for a source: that of the loaded backbone, or of the model that made its features.

    ``variant`` is as for :meth:`~kinfold.features.Features.matrix`.
    The errors are those of :func:`find_text_spec` and :func:`open_text_encoder`.
    """
    if backbone is not None:
        known: Mapping[str, Any] | None = {"spec": backbone.spec}
        dim = backbone.variants[variant or _JOINT_VARIANT]
    else:
        assert source.features is not None
        known = describe_backbone(source.features, None)
        dim = int(source.features.matrix(variant).shape[1])
    spec = find_text_spec(text_model, known, source.uri)
    return open_text_encoder(spec, dim, runtime)


@dataclass(frozen=True)
class Guide:
    """Nouns and what reads them.

    Attributes
    ----------
    encoder : TextEncoder
        The text tower.
    nouns : PreparedNouns
        The words, and where their features are or will be.
    source : str
        Where the words are from: "WordNet 3.0", a file, or "given".
    """

    encoder: TextEncoder
    nouns: PreparedNouns
    source: str

    def describe(self) -> dict[str, Any]:
        """Return what the manifest records, JSON-ready."""
        return {
            "text_encoder": self.encoder.describe(),
            "nouns": {
                "source": self.source,
                "n_words": len(self.nouns.words),
                "prompts": list(self.nouns.prompts),
                "fingerprint": self.nouns.fingerprint,
            },
        }

    def estimate_seconds(self) -> float:
        """Return how long the nouns will take to read, from some of them; 0 where that is done."""
        n_texts = self.nouns.count_texts()
        if not n_texts:
            return 0.0
        step = max(1, len(self.nouns.words) // _SAMPLE_WORDS)
        texts = fill(self.nouns.prompts, self.nouns.words[::step][:_SAMPLE_WORDS])
        self.encoder.encode(texts[:1])
        started = time.perf_counter()
        self.encoder.encode(texts)
        return n_texts * (time.perf_counter() - started) / len(texts)


def prepare_guide(
    method: Method,
    nouns: NounsLike,
    text_model: str | Path | None,
    source: Source,
    backbone: Backbone | None,
    variant: str,
    runtime: Runtime,
) -> Guide | None:
    """Find the nouns and load the text encoder of a method that needs them; None for one that doesn't.

    Raises
    ------
    InputError
        Nouns are given to a method that takes none, or no text encoder fits these features.
    """
    if not method.needs_nouns:
        for name, value in (("nouns", nouns), ("text_model", text_model)):
            if value is not None:
                raise InputError(
                    f"{name} applies to method 'tac' only; method {method.name!r} takes no nouns"
                )
        return None
    words, origin = read_nouns(nouns)
    encoder = open_text_encoder_of(source, backbone, variant, text_model, runtime)
    return Guide(encoder, prepare_nouns(encoder, words), origin)


def read_nouns(nouns: NounsLike) -> tuple[Sequence[str] | None, str]:
    """Return the words, None for those of WordNet, and where they are from."""
    if nouns is None:
        return None, WORDNET
    if isinstance(nouns, str | Path):
        return read_words(nouns), str(Path(nouns).absolute())
    return nouns, "given"


@dataclass(frozen=True)
class JointSpace:
    """Where a run's images and words meet.

    Attributes
    ----------
    run : Run
        The run.
    encoder : TextEncoder
        The text tower.
    source : path or None
        Where the images, or the ready features, are now.
    images : ImageSource or None
        What is embedded beside the run; None where its own features serve.
    backbone : Backbone or None
        What embeds it.
    """

    run: Run
    encoder: TextEncoder
    source: str | Path | None = None
    images: ImageSource | None = None
    backbone: Backbone | None = None

    def describe(self) -> dict[str, Any]:
        """Return what the manifest records, JSON-ready."""
        return {
            "text_encoder": self.encoder.describe(),
            "features": "own" if self.backbone is None else LANGUAGE_FEATURES_NAME,
            "backbone_fingerprint": None if self.backbone is None else self.backbone.fingerprint(),
        }

    @property
    def images_at(self) -> str | Path | None:
        """Where the images are, if they were moved."""
        return None if _is_features(self.run, self.source) else self.source

    def read(self, runtime: Runtime) -> tuple[RowMatrix, NDArray[np.int64], str]:
        """Return features of images, the place of each among the run's (−1 for none), and their fingerprint.

        Images are embedded into RUN/language-features, from where an earlier call was interrupted.
        """
        if self.backbone is None:
            moved = self.source if _is_features(self.run, self.source) else None
            features, variant = self.run.features(moved), self.run.manifest.features["variant"]
            features.verify(variant)
        else:
            assert self.images is not None
            variant = _JOINT_VARIANT
            features = extract_features(
                self.images,
                self.backbone,
                self.run.path / LANGUAGE_FEATURES_NAME,
                variants=(variant,),
                n_workers=runtime.n_workers,
                progress=runtime.progress,
            )
        return features.matrix(variant), _places_of(self.run, features), features.fingerprint(variant)


def find_joint_space(
    run: Run, text_model: str | Path | None, source: str | Path | None, runtime: Runtime
) -> JointSpace:
    """Find out where the run's images and words can meet, and load what is needed for it.

    Parameters
    ----------
    run : Run
        A finished run.
    text_model : str, path or None
        A vision-language model; None takes the one that made the run's features.
    source : path or None
        Where the images, or the features, are now.
    runtime : Runtime
        Where and how exactly to compute.

    Raises
    ------
    InputError
        The run's features don't lie in a joint space and no model, or no images, are given to mend that.
    """
    own = run.manifest.features
    dim, variant, recorded = int(own["dim"]), own["variant"], run.manifest.backbone or {}
    guided = ((run.manifest.language or {}).get("text_encoder") or {}).get("spec")

    def serve_itself(spec: str) -> JointSpace:
        encoder = open_text_encoder(spec, dim, runtime)
        return JointSpace(run, encoder, source)

    if text_model is None:
        try:
            return serve_itself(guided or find_text_spec(None, recorded, str(run.path)))
        except InputError as error:
            raise InputError(f"{error}. {_ADVICE}") from error
    spec = find_text_spec(text_model, None, str(run.path))
    if variant == _JOINT_VARIANT and spec in (guided, recorded.get("spec")):
        return serve_itself(spec)
    images = run.images(None if _is_features(run, source) else source)
    if images is None:
        return serve_itself(spec)
    backbone = load_backbone(spec, device=runtime.device, precision=runtime.precision)
    if variant == _JOINT_VARIANT and backbone.fingerprint() == recorded.get("fingerprint"):
        return serve_itself(spec)
    width = int(backbone.variants[_JOINT_VARIANT])
    encoder = open_text_encoder(spec, width, runtime)
    return JointSpace(run, encoder, source, images, backbone)


def _is_features(run: Run, source: str | Path | None) -> bool:
    """Tell whether ``source`` says where features are: so it is for runs that know of no images."""
    return source is not None and run.manifest.source.get("images") is None


def _places_of(run: Run, features: Features) -> NDArray[np.int64]:
    """Return the place among the run's images of every line of the features, by key; −1 where it has none."""
    keys = features.keys.take(pa.array(features.rows))
    ours = run.assignments["key"].combine_chunks()
    if len(keys) == len(ours) and keys.equals(ours):
        return np.arange(len(ours))
    places = _compute.fill_null(_compute.index_in(keys, value_set=ours), -1)
    places = np.asarray(places.to_numpy(zero_copy_only=False), np.int64)
    n_missing = len(ours) - len(np.unique(places[places >= 0]))
    if n_missing == len(ours):
        raise InputError(f"none of the images of {run.path} is at {features.path}: the keys are other ones")
    if n_missing:
        logger.warning("%s of the run can't be read here and don't count", count_of(n_missing, "image"))
    return places


_VERSION = 1  # of the rule; a new number makes naming run again


def name(
    run: Run | str | Path,
    *,
    text_model: str | Path | None = None,
    nouns: NounsLike = None,
    n_names: int = N_NAMES,
    min_separation: float = MIN_SEPARATION,
    levels: Sequence[int] = (),
    source: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    n_workers: int | None = None,
    progress: Progress = SILENT,
) -> ClusterNames:
    """Name the groups of a finished run, as corrected, by the nouns that fit them and tell them apart.

    The names go into ``names.parquet``, into the column ``name`` of ``assignments.parquet``, and onto the
    report page if the run has one. Interrupted anywhere, the run is as before or named; the same call goes
    on. A call that would find the same changes nothing. Names that a person gave stay, and are shown instead.

    Parameters
    ----------
    run : Run or path
        A finished run.
    text_model : str or path, optional
        A vision-language model, by the name of its card or by its directory. By default the one that made the
        run's features. Another one than that embeds the run's images into ``RUN/language-features`` first.
        For ready features of unknown origin it is the one that made them.
    nouns : path or sequence of str, optional
        The nouns that may be used, or a file with one per line; by default those of WordNet. Their features
        are kept in the user's cache (:func:`kinfold.language.cache_folder`).
    n_names : int, default 5
        Words per group at most.
    min_separation : float, default 0.6
        How well a word must tell a group from those beside it; see :func:`~kinfold.language.name_clusters`.
    levels : sequence of int, default none
        Numbers of groups of further levels to name too, from the same features: :func:`kinfold.level` shows
        them with their names at once.
    source : path, optional
        Where the images are now (or the ready features), if they were moved.
    device, precision : str, default "auto"
        Where and how exactly to compute.
    n_workers : int, optional
        Processes that decode; by default as many as there are cores.
    progress : Progress
        Shows the work.

    Returns
    -------
    ClusterNames
        Also as ``Run.open(path).names``.

    Raises
    ------
    InputError
        The run's features don't lie in a space with words and ``text_model`` doesn't mend that, its images or
        features are gone, or there is no such level.
    HubUnavailableError
        The model's files are neither cached nor to be had.

    Examples
    --------
    >>> import kinfold
    >>> kinfold.name("photos.kinfold").nouns  # doctest: +SKIP
    """
    path = run.path if isinstance(run, Run) else Path(run)
    runtime = Runtime.resolve(device, precision, n_workers=n_workers, progress=progress)
    Run.open(path)  # refuses what isn't finished
    with open_run_stages(path) as stages:
        opened = Run(path, stages.manifest)
        further = _view_levels(opened, levels)
        space = find_joint_space(opened, text_model, source, runtime)
        words, origin = read_nouns(nouns)
        prepared = prepare_nouns(space.encoder, words)
        X, places, fingerprint = space.read(runtime)

        def find(
            corrected: CorrectedGroups, is_current: Callable[[dict[str, Any]], bool], keep: _Keep
        ) -> None:
            started, level = time.monotonic(), corrected.run.level
            inputs = {
                "version": _VERSION,
                "assign": stages.manifest.stages["assign"]["inputs"],
                "features": fingerprint,
                "nouns": prepared.fingerprint,
                "n_names": n_names,
                "min_separation": min_separation,
                **({} if level is None else {"level": level}),
                **corrected.describe(),
            }
            if is_current(inputs):  # the same call again changes nothing
                return
            read = prepared.embed(progress)
            found = name_clusters(
                X,
                np.where(places >= 0, corrected.labels[places], -1),
                max(corrected.state.groups) + 1,
                read.features,
                read.nouns,
                n_names=n_names,
                logit_scale=space.encoder.logit_scale,
                min_separation=min_separation,
                device=str(runtime.device),
                progress=progress,
            )
            naming = {
                **space.describe(),
                "nouns": {"source": origin, "n_words": len(read)},
                "n_named": sum(noun is not None for noun in found.nouns),
                "parameters": dict(found.parameters),
            }
            keep(stages, corrected, inputs, found, naming, started)

        find(CorrectedGroups.of(opened), partial(stages.is_current, "name"), _keep)
        for run_there in further:
            find(CorrectedGroups.of(run_there), partial(_has_names, run_there), _keep_for_later)
        if opened.report_path.exists():
            run_report_stage(stages, progress, space.images_at)
    names = Run.open(path).names
    assert isinstance(names, ClusterNames)
    return names


def _view_levels(run: Run, levels: Sequence[int]) -> list[Run]:
    """Return the run as it would be at further levels than the one that it shows."""
    tree = open_tree(run, levels)
    if tree is None:
        return []
    table = run.assignments
    found = []
    for n_groups in check_levels(levels):
        section = tree.levels.describe(n_groups)
        if section != run.manifest.level:
            column = pa.array(tree.labels(n_groups), pa.int32())
            place = table.schema.get_field_index("cluster")
            found.append(run.at_level(section, table.set_column(place, table.schema.field(place), column)))
    return found


def _has_names(run: Run, inputs: Mapping[str, Any]) -> bool:
    """Tell whether a level that isn't shown was named from these inputs, and its file is whole."""
    file = level_names_name(run.level)
    recorded = run.manifest.hash_of(file)
    if recorded is None or not (run.path / file).is_file() or hash_file(run.path / file) != recorded:
        return False
    record = read_level_names(run.path / file, run.n_clusters)[1]
    return bool(record["inputs"] == hash_inputs("name", inputs))


def _keep_for_later(
    stages: Stages,
    corrected: CorrectedGroups,
    inputs: Mapping[str, Any],
    names: ClusterNames,
    naming: Mapping[str, Any],
    started: float,
) -> None:
    """Put names of a level that isn't shown into the run."""
    seconds = round(time.monotonic() - started, 3)
    record = {"inputs": hash_inputs("name", inputs), "seconds": seconds, "naming": dict(naming)}
    recorded = stages.manifest.stages
    stages.replace(
        "level",
        {"level": stages.manifest.level, "levels": recorded["levels"]["outputs"]},
        {level_names_name(corrected.run.level): partial(write_level_names, names=names, record=record)},
        started,
        kept={stage: recorded[stage] for stage in ("name", "report") if stage in recorded},
    )


def _keep(
    stages: Stages,
    corrected: CorrectedGroups,
    inputs: Mapping[str, Any],
    names: ClusterNames,
    naming: Mapping[str, Any],
    started: float,
) -> None:
    """Put names into the run, all at one moment."""
    assignments = corrected.run.assignments
    # The table has the method's groups: one that was merged away is called as what continues it.
    nouns = [names.nouns[heir] for heir in corrected.first_heirs().tolist()]
    writers = {
        ASSIGNMENTS_NAME: partial(write_named_assignments, assignments=assignments, nouns=nouns),
        NAMES_NAME: partial(write_names, names=names),
    }
    stages.replace("name", inputs, writers, started, naming=dict(naming))
