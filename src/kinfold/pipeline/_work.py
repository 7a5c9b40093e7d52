"""What each stage of a run does."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from kinfold.backbones import Backbone
from kinfold.compute import describe_machine, resolve_device
from kinfold.errors import FormatError, InputError
from kinfold.features import Features, extract_features, open_features
from kinfold.methods import diagnose, load_model, predict_top, save_model
from kinfold.pipeline._backbone import describe_backbone
from kinfold.pipeline._fitting import FitOrder
from kinfold.pipeline._graphs import GraphCache
from kinfold.pipeline._method import Method
from kinfold.pipeline._nouns import Guide
from kinfold.pipeline._report import REPORT_NAME, run_report_stage
from kinfold.pipeline._source import Source
from kinfold.pipeline._stages import Stages
from kinfold.pipeline._team import Team
from kinfold.progress import Progress
from kinfold.run import ASSIGNMENTS_NAME, SKIPPED_NAME, write_assignments, write_skipped
from kinfold.storage import hash_json

logger = logging.getLogger(__name__)

FEATURES_NAME = "features"
MODEL_FILES = ("model.json", "model.safetensors")
N_TOP = 5


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
    device : str
        Where to compute.
    n_workers : int or None
        Processes that decode.
    progress : Progress
        Shows every stage.
    team : Team
        The processes that fit together.
    guide : Guide or None
        The nouns of a method that needs some.
    """

    stages: Stages
    source: Source
    method: Method
    variant: str
    device: str
    n_workers: int | None
    progress: Progress
    team: Team
    guide: Guide | None = None

    def find_done(self, backbone: Backbone | None) -> frozenset[str]:
        """Return the stages that need not run again, as far as that can be told before any runs."""
        features = self.source.features
        done = set()
        if backbone is not None and self.stages.is_current("embed", self._embed_inputs(backbone)):
            features = _open_whole(self.stages.path / FEATURES_NAME)
            if features is not None:
                done.add("embed")
        if features is not None and self.stages.is_current("fit", self._fit_inputs(features)):
            done |= {"nouns", "neighbors", "fit"}
        return frozenset(done)

    def embed(self, backbone: Backbone) -> Features:
        """Embed the images into RUN/features."""
        images, path = self.source.images, self.stages.path / FEATURES_NAME
        assert images is not None
        inputs = self._embed_inputs(backbone)
        if self.stages.is_current("embed", inputs):
            if (whole := _open_whole(path)) is not None:
                return whole
            self.stages.forget("embed")

        def work() -> None:
            variants = (self.variant,)
            extract_features(
                images, backbone, path, variants=variants, n_workers=self.n_workers, progress=self.progress
            )

        self.stages.run("embed", inputs, (), work)
        return open_features(path)

    def fit(self, features: Features, backbone_spec: str | None) -> None:
        """Fit the method and keep its model; ``backbone_spec`` is what loads the backbone again."""
        inputs = self._fit_inputs(features)
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
        fitted = self.stages.manifest["stages"]["fit"]["outputs"]
        inputs = {"features": features.fingerprint(self.variant), "model": fitted, "n_top": N_TOP}

        def work() -> None:
            (path / REPORT_NAME).unlink(missing_ok=True)  # it shows other groups
            # The saved model, not the one still in memory: so a resumed run, and predict, do the same sums.
            top = predict_top(
                load_model(path, device=self.device), features.matrix(self.variant), n_top=N_TOP
            )
            keys = features.keys.take(pa.array(features.rows))
            write_assignments(path / ASSIGNMENTS_NAME, features.rows, keys, top)
            write_skipped(path / SKIPPED_NAME, features.skipped)
            found = diagnose(top.clusters[:, 0], self.method.n_clusters)
            self.stages.manifest["diagnosis"] = _as_json(asdict(found))

        self.stages.run("assign", inputs, (ASSIGNMENTS_NAME, SKIPPED_NAME), work)
        for message in self.stages.manifest["diagnosis"].get("messages", ()):
            logger.warning("%s", message)

    def report(self) -> None:
        """Write the page."""
        run_report_stage(self.stages, self.progress)

    def _declare(self, features: Features, backbone_spec: str | None) -> None:
        described = self.source.describe(self.variant)
        self.stages.declare(
            source={**described, "n_usable": len(features.rows), "n_skipped": features.skipped.num_rows},
            backbone=describe_backbone(features, backbone_spec),
            features=self._describe_features(features),
            parameters={**self.method.describe(len(features.rows)), "variant": self.variant},
            seed=self.method.random_state,
            machine=describe_machine(resolve_device(self.device)),
            language=None if self.guide is None else self.guide.describe(),
        )

    def _embed_inputs(self, backbone: Backbone) -> dict[str, Any]:
        assert self.source.images is not None
        return {
            "source": self.source.images.fingerprint(),
            "backbone": backbone.fingerprint(),
            "variant": self.variant,
        }

    def _fit_inputs(self, features: Features) -> dict[str, Any]:
        words = {} if self.guide is None else {"nouns": self.guide.nouns.fingerprint}
        return {
            **words,
            "features": features.fingerprint(self.variant),
            "parameters": self.method.describe(len(features.rows)),
            "graphs": self.method.graphs(len(features.rows)),
            "device": resolve_device(self.device).type,
        }

    def _order(self, features: Features, checkpoint: Path) -> FitOrder:
        """Return what the fit needs, its graphs found."""
        wanted = self.method.graphs(len(features.rows))
        cache = GraphCache(self.stages, features, self.variant, self.device, self.progress)
        return FitOrder(
            method=self.method,
            features=Path(features.path).absolute(),
            variant=self.variant,
            checkpoint=checkpoint.absolute(),
            graphs={name: path.absolute() for name, path in cache.find(wanted).items()} if wanted else {},
            options=dict(self.source.options) if self.source.features is not None else {},
            nouns=self._read_nouns(),
        )

    def _read_nouns(self) -> Path | None:
        """Read the nouns of a method that needs some, and return where their features are."""
        if self.guide is None:
            return None
        nouns, inputs = self.guide.nouns, {"nouns": self.guide.nouns.fingerprint}
        if not nouns.is_sound():
            self.stages.forget("nouns")  # what was read is no longer in the cache, or damaged there
        self.stages.run("nouns", inputs, (), lambda: nouns.embed(self.progress))
        return nouns.path

    def _fit(self, features: Features, order: FitOrder) -> None:
        estimator = self.team.fit(order, features, self.progress)
        criteria = order.assess(estimator, features).as_dict()
        self.stages.manifest |= {"criteria": criteria, "fit": estimator.facts()}
        save_model(estimator, self.stages.path)

    def _clear_checkpoints(self, keep: Path | None = None) -> None:
        """Remove checkpoints but those of ``keep``: its parts have its name and an ending each."""
        for left in self.stages.path.glob("checkpoint-*"):
            if keep is None or left.name.partition(".")[0] != keep.name:
                left.unlink()

    def _describe_features(self, features: Features) -> dict[str, Any]:
        own = self.stages.path / FEATURES_NAME
        path = Path(features.path)
        return {
            "path": FEATURES_NAME if path == own else str(path.absolute()),
            "column": self.source.options.get("column"),
            "variant": self.variant,
            "dim": int(features.matrix(self.variant).shape[1]),
            "fingerprint": features.fingerprint(self.variant),
        }


def _open_whole(path: Path) -> Features | None:
    """Open the features of the run; None, with a warning, if they are gone or damaged."""
    try:
        return open_features(path)
    except (FormatError, InputError) as error:
        logger.warning("embedding again: %s", error)
        return None


def _as_json(content: dict[str, Any]) -> dict[str, Any]:
    """Turn NumPy values and tuples into what JSON knows."""
    plain: dict[str, Any] = {}
    for name, value in content.items():
        if hasattr(value, "tolist"):
            plain[name] = value.tolist()
        elif isinstance(value, tuple):
            plain[name] = [entry.item() if hasattr(entry, "item") else entry for entry in value]
        else:
            plain[name] = value
    return plain
