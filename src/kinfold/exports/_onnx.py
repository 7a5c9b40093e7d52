"""The classifier of a run as an ONNX file: features in, probabilities and groups out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold._version import __version__
from kinfold.errors import FormatError, MissingExtraError
from kinfold.exports._graph import Graph, add_method
from kinfold.exports._job import Job
from kinfold.exports._takeaway import Takeaway
from kinfold.storage import as_plain, read_json

logger = logging.getLogger(__name__)

OPSET = 17
_IR_VERSION = 8
_PRODUCER = "kinfold"
_CHECKED_ROWS = 8
_MOST_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class Outputs:
    """How the model's K clusters become the groups that there are now.

    Attributes
    ----------
    groups : ndarray (G,) int64
        Groups that have an output, by number.
    column : ndarray (K,) int64
        The output that each cluster counts for.
    untold : tuple of int
        Groups that corrections made and that the model knows nothing of.
    """

    groups: NDArray[np.int64]
    column: NDArray[np.int64]
    untold: tuple[int, ...]

    @property
    def is_plain(self) -> bool:
        """Tell whether every cluster is its own group still."""
        return bool(np.array_equal(self.groups, np.arange(len(self.column))))


def write_onnx(job: Job) -> None:
    """Write the run's model as ONNX.

    Input ``features`` (n, D) float32, as embedded. Outputs: ``probabilities`` (n, G) of the groups that
    there are, ``group`` (n,) int64, the number of the most probable one, and ``cluster_probabilities`` (n, K)
    of the model's own clusters. A merged group's probability is the sum over what was merged into it; groups
    that were split or made by hand can't be told from features, which the metadata say.

    Raises
    ------
    MissingExtraError
        The package onnx isn't installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("Writing ONNX", "onnx", "onnx") from error
    run = job.takeaway.run
    estimator, method = run.model, _method_of(run.path)
    outputs = map_clusters(job.takeaway, int(estimator.n_clusters_))
    if outputs.untold:
        logger.warning(
            "the model can't tell the groups %s from others: they were made by corrections",
            ", ".join(map(str, outputs.untold)),
        )
    model = build_model(method, estimator, outputs)
    for name, text in _metadata(job.takeaway, method, outputs).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    onnx.checker.check_model(model, full_check=True)
    _compare(model, estimator)
    job.target.write_bytes(model.SerializeToString())


def build_model(method: str, estimator: Any, outputs: Outputs) -> Any:
    """Return the ONNX model of a fitted estimator."""
    from onnx import TensorProto, helper

    graph, dim, k = Graph(), int(estimator.n_features_in_), len(outputs.column)
    model = estimator.to_model()
    own = add_method(graph, method, model.config, model.tensors, "features")
    graph("Identity", own, out="cluster_probabilities")
    if outputs.is_plain:
        graph("Identity", own, out="probabilities")
    else:
        table = np.zeros((k, len(outputs.groups)), np.float32)
        table[np.arange(k), outputs.column] = 1
        graph("MatMul", own, graph.constant(table), out="probabilities")
    best = graph("ArgMax", "probabilities", axis=1, keepdims=0)
    graph("Gather", graph.constant(outputs.groups, np.int64), best, out="group")
    value = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "kinfold",
            [value("features", TensorProto.FLOAT, ["n", dim])],
            [
                value("probabilities", TensorProto.FLOAT, ["n", len(outputs.groups)]),
                value("group", TensorProto.INT64, ["n"]),
                value("cluster_probabilities", TensorProto.FLOAT, ["n", k]),
            ],
            graph.constants,
        ),
        producer_name=_PRODUCER,
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
    )


def map_clusters(takeaway: Takeaway, n_clusters: int) -> Outputs:
    """Say which group each cluster of the model counts for: itself, or where it was merged into.

    A merged cluster is where most of its images are that nobody moved; one without images is left as it was.
    """
    alive, target = set(takeaway.names), np.arange(n_clusters)
    table = takeaway.table
    original = table["original_cluster"].to_numpy()
    moved = table["by_hand"].to_numpy() | (takeaway.clusters < 0)
    for cluster in sorted(set(range(n_clusters)) - alive):
        mine = original == cluster
        for members in (takeaway.clusters[mine & ~moved], takeaway.clusters[mine & (takeaway.clusters >= 0)]):
            if len(members):
                target[cluster] = np.bincount(members).argmax()
                break
    groups = np.unique(np.concatenate([target, [group for group in alive if group < n_clusters]]))
    untold = tuple(sorted(group for group in alive if group not in set(groups.tolist())))
    return Outputs(groups.astype(np.int64), np.searchsorted(groups, target).astype(np.int64), untold)


def is_our_onnx(path: Path) -> bool:
    """Tell whether a file is an ONNX model that Kinfold made."""
    try:
        import onnx

        return str(onnx.load(path, load_external_data=False).producer_name) == _PRODUCER
    except Exception:  # what protobuf raises isn't a public class
        return False


def _method_of(path: Path) -> str:
    """Return the name of the method that predicts: of ``auto`` the chosen one."""
    return str(read_json(path / "model.json")["method"])


def _metadata(takeaway: Takeaway, method: str, outputs: Outputs) -> dict[str, str]:
    """Return what the file says of itself: what its columns are called, and what to feed it with."""
    manifest = takeaway.run.manifest
    labels = takeaway.labels
    told = [int(group) for group in outputs.groups]
    content: dict[str, Any] = {
        "groups": [
            {"id": group, "label": labels.get(group, f"group {group}"), "name": takeaway.names.get(group, "")}
            for group in told
        ],
        "clusters": [told[column] for column in outputs.column],
        "groups_not_told": list(outputs.untold),
        "corrections": takeaway.version,
        "method": method,
        "run": takeaway.run.path.name,
        "features": {name: manifest.features.get(name) for name in ("variant", "dim")},
        "backbone": _backbone(manifest.backbone),
    }
    return {f"kinfold.{name}": json.dumps(value, default=as_plain) for name, value in content.items()}


def _backbone(backbone: Mapping[str, Any] | None) -> Any:
    return {name: backbone.get(name) for name in ("card", "fingerprint")} if backbone else None


def _compare(model: Any, estimator: Any) -> None:
    """Compare the graph with the estimator on a few rows, by ONNX's own slow evaluator.

    Raises
    ------
    FormatError
        They differ: the file would say other things than ``kinfold predict``.
    """
    from onnx.reference import ReferenceEvaluator

    rows = np.random.default_rng(0).standard_normal((_CHECKED_ROWS, int(estimator.n_features_in_)))
    rows = rows.astype(np.float32)
    found = ReferenceEvaluator(model).run(["cluster_probabilities"], {"features": rows})[0]
    difference = float(np.abs(found - estimator.predict_proba(rows)).max())
    if not difference <= _MOST_DIFFERENCE:
        raise FormatError(
            f"the ONNX file would differ from the model by {difference:.3g}; nothing was written. Please "
            "report this with the run's model.json"
        )
