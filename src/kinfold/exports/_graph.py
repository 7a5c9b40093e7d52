"""The prediction of every method as an ONNX graph, from its saved configuration and tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]

_TINY = float(np.finfo(np.float32).tiny)
_HEAD_TEMPERATURE = 0.1
_JOINT_TEMPERATURE = 0.1


class Graph:
    """Nodes and constants of an ONNX graph, put together one call after the other.

    Values are named by strings. Only operations of operator set 17 are used, so that old runtimes do.
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
        """Add an operation and return the name of what it gives; numbers become constants."""
        names = [value if isinstance(value, str) else self.constant(value) for value in values]
        result = out or f"value{len(self.nodes)}"
        self.nodes.append(self._make_node(kind, names, [result], **attributes))
        return result

    def linear(self, x: str, weight: NDArray[Any], bias: NDArray[Any] | None = None) -> str:
        """Return ``x · weightᵀ + bias``."""
        product = self("MatMul", x, self.constant(weight.T))
        return product if bias is None else self("Add", product, self.constant(bias.reshape(-1)))

    def length(self, x: str, least: float) -> str:
        """Return the lengths (n, 1) of rows, ``least`` at the least."""
        return self("Max", self("ReduceL2", x, axes=[1], keepdims=1), least)

    def unit(self, x: str) -> str:
        """Return rows at unit length, by their largest entry first: huge ones keep their direction."""
        largest = self("ReduceMax", self("Abs", x), axes=[1], keepdims=1)
        scaled = self("Div", x, self("Max", largest, _TINY))
        return self("Div", scaled, self.length(scaled, _TINY))

    def softmax(self, logits: str) -> str:
        """Return probabilities of every row."""
        return self("Softmax", logits, axis=1)


def add_method(graph: Graph, method: str, config: Mapping[str, Any], tensors: Tensors, x: str) -> str:
    """Add a method's prediction; return the name of its probabilities (n, K).

    Parameters
    ----------
    graph : Graph
        What is added to.
    method : str
        Name of the method.
    config, tensors : Mapping
        As ``model.json`` and ``model.safetensors`` hold them.
    x : str
        Features (n, D), float32.
    """
    if method == "icce" and "self_training" in config:
        return _add_classifier(graph, tensors, x)
    return _METHODS[method](graph, config, tensors, x)


def _add_kmeans(graph: Graph, config: Mapping[str, Any], tensors: Tensors, x: str) -> str:
    similarities = graph.linear(graph.unit(x), tensors["cluster_centers"])
    return graph.softmax(graph("Div", similarities, float(config["temperature"])))


def _add_head(graph: Graph, config: Mapping[str, Any], tensors: Tensors, x: str) -> str:
    """Linear, GELU, linear, unit length, prototypes: of one head of ``heads.MultiHeadNetwork``."""
    normal = graph("Mul", graph("Sub", x, graph.constant(tensors["mean"])), graph.constant(tensors["scale"]))
    hidden = graph.linear(normal, tensors["weight1"], tensors["bias1"])
    half = graph("Mul", hidden, 0.5)
    hidden = graph("Mul", half, graph("Add", graph("Erf", graph("Mul", hidden, 2**-0.5)), 1.0))
    code = graph.linear(hidden, tensors["weight2"][0].T, tensors["bias2"])
    prototypes = tensors["gain"][0] * _unit_rows(tensors["direction"][0])
    logits = graph("Div", graph.linear(code, prototypes), graph.length(code, 1e-12))
    return graph.softmax(graph("Div", logits, _HEAD_TEMPERATURE))


def _add_classifier(graph: Graph, tensors: Tensors, x: str) -> str:
    normal = graph("Div", graph("Sub", x, graph.constant(tensors["mean"])), graph.constant(tensors["scale"]))
    return graph.softmax(graph.linear(normal, tensors["weight"], tensors["bias"]))


def _add_turtle(graph: Graph, config: Mapping[str, Any], tensors: Tensors, x: str) -> str:
    """Mean over the spaces of what each gives its columns."""
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
    "kmeans": _add_kmeans,
    "temi": _add_head,
    "scan": _add_head,
    "icce": _add_head,
    "turtle": _add_turtle,
    "tac": _add_tac,
}


def _unit_rows(matrix: NDArray[Any]) -> NDArray[Any]:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.maximum(lengths, 1e-12))
