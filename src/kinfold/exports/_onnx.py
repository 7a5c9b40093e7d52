"""The classifier of a run as an ONNX file: features in, probabilities and groups out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinfold._version import __version__
from kinfold.errors import FormatError, InputError, MissingExtraError
from kinfold.exports._job import Job
from kinfold.exports._takeaway import Takeaway
from kinfold.storage import as_plain, read_json

if TYPE_CHECKING:
    from kinfold.methods.protocol import Clusterer
    from kinfold.run import Run

Tensors = Mapping[str, NDArray[Any]]

# Keeps the length of an all-zero row from dividing by 0; below, a probability is 0.
_TINY = float(np.finfo(np.float32).tiny)
# constants of the methods that their models don't store; write_onnx compares its predictions with theirs
_HEAD_TEMPERATURE = 0.1
_JOINT_TEMPERATURE = 0.1

logger = logging.getLogger(__name__)

OPSET = 17  # of 2022: every runtime of the last years has it, and the methods need nothing newer
_IR_VERSION = 8  # the one that came with operator set 17
_PRODUCER = "kinfold"
_CHECKED_ROWS = 8  # the reference evaluator is slow, and a wrong graph differs on any row
_MOST_DIFFERENCE = 1e-3  # of a probability: float32 in another order of operations differs by less


class Graph:
    """Nodes and constants of an ONNX graph; each call appends one operation.

    Values are named by strings. Only operations of operator set 17 are used, so that older runtimes work.
    """

    def __init__(self) -> None:
        from onnx import helper

        self._make_node = helper.make_node
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        """Return the name of a constant."""
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        array = np.ascontiguousarray(value, dtype=dtype)
        self.constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def __call__(self, kind: str, *values: str | float, out: str | None = None, **attributes: Any) -> str:
        """Append an operation and return the name of its output; numbers become constants."""
        names = [value if isinstance(value, str) else self.constant(value) for value in values]
        result = out or f"value{len(self.nodes)}"
        self.nodes.append(self._make_node(kind, names, [result], **attributes))
        return result

    def linear(self, x: str, weight: NDArray[Any], bias: NDArray[Any] | None = None) -> str:
        """Return ``x · weightᵀ + bias``."""
        product = self("MatMul", x, self.constant(weight.T))
        return product if bias is None else self("Add", product, self.constant(bias.reshape(-1)))

    def length(self, x: str, least: float) -> str:
        """Return the lengths (n, 1) of rows, at least ``least``."""
        return self("Max", self("ReduceL2", x, axes=[1], keepdims=1), least)

    def unit(self, x: str) -> str:
        """Return rows at unit length, divided by their largest entry first: squares can't overflow."""
        largest = self("ReduceMax", self("Abs", x), axes=[1], keepdims=1)
        scaled = self("Div", x, self("Max", largest, _TINY))
        return self("Div", scaled, self.length(scaled, _TINY))

    def softmax(self, logits: str) -> str:
        """Return the softmax of every row."""
        return self("Softmax", logits, axis=1)


def add_method(graph: Graph, method: str, config: Mapping[str, Any], tensors: Tensors, x: str) -> str:
    """Append the prediction of a method; return the name of its probabilities (n, K).

    Parameters
    ----------
    graph : Graph
        The graph to append to.
    method : str
        Name of the method.
    config, tensors : Mapping
        As ``model.json`` and ``model.safetensors`` hold them.
    x : str
        Features (n, D), float32.
    """
    if method == "kmeans":
        return _add_kmeans(graph, config, tensors, x)
    # ICCE without its third stage is a head.
    add = _add_classifier if "self_training" in config else _METHODS[method]
    own = add(graph, config, tensors, x)
    return _add_temperature(graph, own, float(config.get("temperature", 1.0)))


def _add_temperature(graph: Graph, probabilities: str, temperature: float) -> str:
    """Append ``p^(1/T)`` of every row, scaled to sum 1; T is 1 in models saved before there was any."""
    if temperature == 1:
        return probabilities
    known = graph("GreaterOrEqual", probabilities, _TINY)  # what rounds to 0 stays 0
    logs = graph("Where", known, graph("Log", probabilities), -np.inf)
    return graph.softmax(graph("Div", logs, temperature))


def _add_kmeans(graph: Graph, config: Mapping[str, Any], tensors: Tensors, x: str) -> str:
    similarities = graph.linear(graph.unit(x), tensors["cluster_centers"])
    return graph.softmax(graph("Div", similarities, float(config["temperature"])))


def _add_head(graph: Graph, config: Mapping[str, Any], tensors: Tensors, x: str) -> str:
    """Append one head of ``heads.MultiHeadNetwork``: linear, GELU, linear, unit length, prototypes."""
    normal = graph("Mul", graph("Sub", x, graph.constant(tensors["mean"])), graph.constant(tensors["scale"]))
    hidden = graph.linear(normal, tensors["weight1"], tensors["bias1"])
    half = graph("Mul", hidden, 0.5)
    hidden = graph("Mul", half, graph("Add", graph("Erf", graph("Mul", hidden, 2**-0.5)), 1.0))
    code = graph.linear(hidden, tensors["weight2"][0].T, tensors["bias2"])
    prototypes = tensors["gain"][0] * _unit_rows(tensors["direction"][0])
    logits = graph("Div", graph.linear(code, prototypes), graph.length(code, 1e-12))
    return graph.softmax(graph("Div", logits, _HEAD_TEMPERATURE))


def _add_classifier(graph: Graph, config: Mapping[str, Any], tensors: Tensors, x: str) -> str:
    normal = graph("Div", graph("Sub", x, graph.constant(tensors["mean"])), graph.constant(tensors["scale"]))
    return graph.softmax(graph.linear(normal, tensors["weight"], tensors["bias"]))


def _add_turtle(graph: Graph, config: Mapping[str, Any], tensors: Tensors, x: str) -> str:
    """Append the mean of the predictions of all spaces, each of its own columns."""
    widths = [int(width) for width in config["space_dims"]]
    factors = np.repeat(tensors["factors"].astype(np.float32), widths)
    rows, start, parts = graph("Mul", x, graph.constant(factors)), 0, []
    for space, width in enumerate(widths):
        first, last, axis = (graph.constant([place], np.int64) for place in (start, start + width, 1))
        weight = tensors[f"gain{space}"] * _unit_rows(tensors[f"direction{space}"])
        part = graph.linear(graph("Slice", rows, first, last, axis), weight, tensors[f"bias{space}"])
        parts.append(graph.softmax(part))
        start += width
    return graph("Div", graph("Sum", *parts), float(len(parts)))


def _add_tac(graph: Graph, config: Mapping[str, Any], tensors: Tensors, x: str) -> str:
    unit = graph.unit(x)
    if "centroids" not in tensors:
        weights = [tensors[f"image.{name}"] for name in ("weight1", "bias1", "weight2", "bias2")]
        hidden = graph("Relu", graph.linear(unit, *weights[:2]))
        return graph.softmax(graph.linear(hidden, *weights[2:]))
    nouns = tensors["noun_features"]
    scaled = graph("Div", unit, float(config["retrieval_temperature"]))
    counterparts = graph.linear(graph.softmax(graph.linear(scaled, nouns)), nouns.T)
    counterparts = graph("Div", counterparts, graph.length(counterparts, 1e-12))
    joint = graph("Concat", unit, counterparts, axis=1)
    joint = graph("Div", joint, graph.length(joint, 1e-12))
    return graph.softmax(graph("Div", graph.linear(joint, tensors["centroids"]), _JOINT_TEMPERATURE))


_METHODS: dict[str, Callable[[Graph, Mapping[str, Any], Tensors, str], str]] = {
    "graph": _add_classifier,
    "temi": _add_head,
    "scan": _add_head,
    "icce": _add_head,
    "turtle": _add_turtle,
    "tac": _add_tac,
}


def _unit_rows(matrix: NDArray[Any]) -> NDArray[Any]:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.maximum(lengths, 1e-12))


@dataclass(frozen=True)
class Outputs:
    """How the K clusters of the model map to the groups as corrected.

    Attributes
    ----------
    groups : ndarray (G,) int64
        Numbers of the groups that have an output.
    column : ndarray (K,) int64
        Index of the output that each cluster adds to.
    unpredicted : tuple of int
        Groups made by corrections, which the model can't predict.
    """

    groups: NDArray[np.int64]
    column: NDArray[np.int64]
    unpredicted: tuple[int, ...]

    @property
    def is_plain(self) -> bool:
        """Tell whether every cluster is still its own group."""
        return bool(np.array_equal(self.groups, np.arange(len(self.column))))


def write_onnx(job: Job) -> None:
    """Write the run's model as ONNX.

    Input: ``features`` (n, D) float32, as embedded. Outputs: ``probabilities`` (n, G) of the groups as
    corrected, ``group`` (n,) int64, the number of the most probable group, and ``cluster_probabilities``
    (n, K) of the model's own clusters. The probability of a merged group is the sum over its clusters. Groups
    that were split or made by hand can't be predicted; the metadata list them.

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
    # the method that predicts: model.json of ``auto`` names the chosen one
    estimator, method = run.model, str(read_json(run.path / "model.json")["method"])
    outputs = map_clusters(job.takeaway, groups_of_clusters(run, int(estimator.n_clusters_)))
    if outputs.unpredicted:
        logger.warning(
            "the model can't predict the groups %s: they were made by corrections",
            ", ".join(map(str, outputs.unpredicted)),
        )
    model = build_model(method, estimator, outputs)
    for name, text in _metadata(job.takeaway, method, outputs).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    onnx.checker.check_model(model, full_check=True)
    _compare(model, estimator)
    job.target.write_bytes(model.SerializeToString())


def build_model(method: str, estimator: Clusterer, outputs: Outputs) -> Any:
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
        told = np.flatnonzero(outputs.column >= 0)
        table[told, outputs.column[told]] = 1
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


def groups_of_clusters(run: Run, n_clusters: int) -> NDArray[np.int64]:
    """Return the group (K,) that holds each cluster of the model at the level that a run shows, −1 for none.

    Raises
    ------
    InputError
        A group of that level is a part of a cluster: the file gives probabilities of whole ones.
    """
    if run.level is None:
        return np.arange(n_clusters)
    from kinfold.levels import open_levels

    levels = open_levels(run).levels
    if run.level > levels.n_live:
        raise InputError(
            f"the {run.level} groups that {run.path} shows lie within those of the fit, which ONNX can't "
            f"tell apart; show {levels.n_live} or fewer first: kinfold level -k {levels.n_live}"
        )
    held = np.full(n_clusters, -1, np.int64)
    held[levels.part_clusters] = levels.groups(run.level)
    return held


def map_clusters(takeaway: Takeaway, held: NDArray[np.int64]) -> Outputs:
    """Return which group each cluster of the model adds to: its own, or the one it was merged into.

    A group that was merged adds to the group of most of its images that no person moved; one without images
    stays its own. ``held`` has the group (K,) of each cluster before any correction, −1 for none.
    """
    alive, target = set(takeaway.names), held.copy()
    n_clusters = takeaway.run.n_clusters
    table = takeaway.table
    original = table["original_cluster"].to_numpy()
    moved = table["by_hand"].to_numpy() | (takeaway.clusters < 0)
    for cluster in sorted(set(range(n_clusters)) - alive):
        mine = original == cluster
        for members in (takeaway.clusters[mine & ~moved], takeaway.clusters[mine & (takeaway.clusters >= 0)]):
            if len(members):
                target[held == cluster] = np.bincount(members).argmax()
                break
    groups = np.unique(np.concatenate([target[target >= 0], [one for one in alive if one < n_clusters]]))
    unpredicted = tuple(sorted(group for group in alive if group not in set(groups.tolist())))
    column = np.where(target >= 0, np.searchsorted(groups, target), -1)
    return Outputs(groups.astype(np.int64), column.astype(np.int64), unpredicted)


def is_our_onnx(path: Path) -> bool:
    """Tell whether a file is an ONNX model that Kinfold made."""
    try:
        import onnx

        return str(onnx.load(path, load_external_data=False).producer_name) == _PRODUCER
    except Exception:  # what protobuf raises isn't a public class
        return False


def _metadata(takeaway: Takeaway, method: str, outputs: Outputs) -> dict[str, str]:
    """Return the metadata of the file: names of its columns, and which features it takes."""
    manifest = takeaway.run.manifest
    backbone = manifest.backbone
    labels = takeaway.labels
    told = [int(group) for group in outputs.groups]
    content: dict[str, Any] = {
        "groups": [
            {"id": group, "label": labels.get(group, f"group {group}"), "name": takeaway.names.get(group, "")}
            for group in told
        ],
        "clusters": [told[column] if column >= 0 else -1 for column in outputs.column],
        "groups_not_told": list(outputs.unpredicted),
        "corrections": takeaway.version,
        "method": method,
        "run": takeaway.run.path.name,
        "features": {name: manifest.features.get(name) for name in ("variant", "dim")},
        "backbone": {name: backbone.get(name) for name in ("card", "fingerprint")} if backbone else None,
    }
    return {f"kinfold.{name}": json.dumps(value, default=as_plain) for name, value in content.items()}


def _compare(model: Any, estimator: Any) -> None:
    """Compare the graph with the estimator on a few rows, by the reference evaluator of ONNX.

    Raises
    ------
    FormatError
        They differ, so the file would predict other groups than ``kinfold predict``.
    """
    from onnx.reference import ReferenceEvaluator

    rows = np.random.default_rng(0).standard_normal((_CHECKED_ROWS, int(estimator.n_features_in_)))
    rows = rows.astype(np.float32)
    with np.errstate(divide="ignore"):  # the logarithm of a probability that rounds to 0 is meant to be −∞
        found = ReferenceEvaluator(model).run(["cluster_probabilities"], {"features": rows})[0]
    difference = float(np.abs(found - estimator.predict_proba(rows)).max())
    if not difference <= _MOST_DIFFERENCE:
        raise FormatError(
            f"the probabilities of the ONNX file differ from the model's by {difference:.3g}; nothing was "
            "written. This is a bug of Kinfold: please report it with the run's model.json"
        )
