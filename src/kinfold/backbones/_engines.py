"""Engines that run a network in PyTorch's place on a CPU: ONNX Runtime and OpenVINO.

The loaded network is written as ONNX into a temporary folder, read by the engine, and held against PyTorch on
drawn images before it embeds any other. In float32 an engine gives PyTorch's vectors up to rounding.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import itertools
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinfold.compute import ENGINES, resolve_precision
from kinfold.errors import InputError, MissingExtraError
from kinfold.validation import check_choice

if TYPE_CHECKING:  # kinfold.backbones is imported without PyTorch
    import torch
    from torch import Tensor, nn

# What "auto" tries for transformers, the fastest first (docs/performance.md); for others the other way round.
_FASTEST = ("openvino", "onnxruntime")
_EXPORTER = "onnx"  # the package that PyTorch writes the network with
_OPSET = 17  # of 2022: both engines have had it for years
_EXAMPLES = 2  # images that the network is traced with …
_CHECKED = 3  # … and that it is checked with: another number, since a trace can take the first for a constant
# Of the largest value of a vector. Rounding in another order makes 1e-5 at most; a wrong graph makes 1.
_MOST_DIFFERENCE = 1e-3
_LEAST_COSINE = 0.99  # in bfloat16, which rounds at other places in every engine
_TELEMETRY = "openvino_telemetry"
_REASON = 200  # characters of a library's error
_OTHERWISE = "use PyTorch (engine='torch', --engine torch)"

Forward: TypeAlias = "Callable[[Tensor], Sequence[Tensor]]"


def _missing_package(engine: str) -> str | None:
    """Return the first package that an engine needs and that isn't installed; None if all are.

    Parameters
    ----------
    engine : {"onnxruntime", "openvino"}
        Besides the package of this name it needs ``onnx``, with which PyTorch writes the network for it.
    """
    return next((name for name in (_EXPORTER, engine) if importlib.util.find_spec(name) is None), None)


def usable_engines() -> dict[str, str]:
    """Return the engines that are installed with all they need, PyTorch first, and their versions."""
    names = [name for name in _FASTEST if _missing_package(name) is None]
    return {name: _version_of(name) for name in ("torch", *names)}


def _version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # ONNX Runtime comes under several names
        return "unknown"


def resolve_engine(
    engine: str, precision: str, device: torch.device, *, is_transformer: bool = True
) -> tuple[tuple[str, ...], torch.dtype]:
    """Return the engines to try in their order, and the precision of matrix products.

    Parameters
    ----------
    engine : {"auto", "torch", "onnxruntime", "openvino"}
        ``"auto"`` is the fastest that is installed, on a CPU in float32, where all give the same vectors; and
        PyTorch otherwise.
    precision : {"auto", "float32", "bfloat16"}
        ``"auto"`` is float32 for ONNX Runtime, which has nothing else on a CPU.
    device : torch.device
        Where the network is.
    is_transformer : bool, default True
        Whether most of the network are products of matrices, and not convolutions.

    Raises
    ------
    InputError
        There is no such engine, or it has neither this device nor this precision.
    MissingExtraError
        It isn't installed.
    """
    import torch

    check_choice(ENGINES, engine=engine)
    dtype = resolve_precision(precision, device)
    if engine == "auto":
        alike = device.type == "cpu" and dtype == torch.float32
        order = _FASTEST if is_transformer else _FASTEST[::-1]
        return (*(name for name in order if alike and not _missing_package(name)), "torch"), dtype
    if engine == "torch":
        return ("torch",), dtype
    if package := _missing_package(engine):
        raise MissingExtraError(f"The engine {engine}", package, engine)
    if device.type != "cpu":
        raise InputError(
            f"the engine {engine} runs on the CPU alone, and the device is {device}; "
            "give device='cpu' (--device cpu), or engine='torch' (--engine torch)"
        )
    if engine == "onnxruntime":
        if precision == "bfloat16":
            raise InputError(
                "the engine onnxruntime has no bfloat16 on a CPU; give precision='float32' "
                "(--precision float32), or another engine (engine=, --engine)"
            )
        dtype = torch.float32
    return (engine,), dtype


@dataclass(frozen=True)
class EngineRunner:
    """A network as an engine runs it.

    Attributes
    ----------
    names : tuple of str
        The variants that it gives.
    run : callable
        ``uint8`` pixels (B, height, width, 3) → one float32 array (B, dim) for each name.
    """

    names: tuple[str, ...]
    run: Callable[[NDArray[np.uint8]], Sequence[NDArray[Any]]]

    def __call__(self, images: NDArray[np.uint8], variants: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the vectors of a batch, by variant."""
        if not len(images):  # an engine may refuse what is empty
            images = np.zeros((1, *images.shape[1:]), np.uint8)
            return {name: values[:0] for name, values in self(images, variants).items()}
        made = dict(zip(self.names, self.run(np.ascontiguousarray(images)), strict=True))
        return {name: made[name] for name in variants}


def build_runner(
    engine: str,
    model: nn.Module,
    forward: Forward,
    names: Sequence[str],
    shape: tuple[int, int, int],
    dtype: torch.dtype,
) -> EngineRunner:
    """Hand a network to an engine, and hold it against PyTorch.

    Parameters
    ----------
    engine : {"onnxruntime", "openvino"}
        An installed one.
    model : nn.Module
        The network, on the CPU, in evaluation mode.
    forward : callable
        ``uint8`` pixels (B, height, width, 3) → a float32 tensor (B, dim) for each name, through ``model``.
    names : sequence of str
        The variants, in the order of ``forward``.
    shape : tuple of int
        Height, width and 3.
    dtype : torch.dtype
        Precision of matrix products: float32 or bfloat16.

    Raises
    ------
    InputError
        The network can't be written as ONNX, the engine can't read it, this processor lacks the precision, or
        the vectors are others than PyTorch's.
    """
    import torch

    images = np.random.default_rng(0).integers(0, 256, (_CHECKED, *shape), dtype=np.uint8)
    with torch.inference_mode():
        expected = [values.numpy() for values in forward(torch.from_numpy(images))]
    with tempfile.TemporaryDirectory(prefix="kinfold-") as folder:
        try:
            file = _write_onnx(Path(folder), model, forward, names, torch.from_numpy(images[:_EXAMPLES]))
            runner = EngineRunner(tuple(names), _OPENERS[engine](file, dtype, torch.get_num_threads()))
            found = runner(images, names)
        except InputError:
            raise
        except Exception as error:  # of any kind: three libraries and whatever the network is made of
            reason = " ".join((str(error) or type(error).__name__).split())[:_REASON]
            raise InputError(f"the engine {engine} can't run this network: {reason}; {_OTHERWISE}") from error
    for name, values in zip(names, expected, strict=True):
        if not _are_alike(found[name], values, dtype):
            raise InputError(
                f"the engine {engine} gives other vectors ({name}) of this network than PyTorch; {_OTHERWISE}"
            )
    return runner


def _are_alike(found: NDArray[Any], expected: NDArray[Any], dtype: torch.dtype) -> bool:
    import torch

    if found.shape != expected.shape or not np.isfinite(found).all():
        return False
    if dtype == torch.float32:
        return bool(np.abs(found - expected).max() <= _MOST_DIFFERENCE * np.abs(expected).max())
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return bool(((found * expected).sum(axis=1) >= _LEAST_COSINE * lengths).all())


def _write_onnx(
    folder: Path, model: nn.Module, forward: Forward, names: Sequence[str], images: Tensor
) -> Path:
    """Write the network into a folder; any number of images may come later."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Whole(torch.nn.Module):
        """From pixels to vectors as one module, as the exporter wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return tuple(forward(images))

    class Recording(TorchFunctionMode):
        """Keep what is interpolated: position embeddings, for which the exporter has no operator."""

        def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if function is torch.nn.functional.interpolate:
                kept.append(result)
            return result

    class Replaying(TorchFunctionMode):
        """Give as constants what was kept; where it depends on the images, the vectors will be others."""

        def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.nn.functional.interpolate:
                # Without any, what fits already is interpolated while tracing alone.
                return next(constants, args[0])
            return function(*args, **(kwargs or {}))

    file = folder / "network.onnx"
    kept: list[Tensor] = []
    with torch.no_grad(), Recording():
        forward(torch.zeros_like(images))
    constants = itertools.cycle(kept)
    # By tracing: a tenth of the time that the newer exporter takes, which wants one more package besides.
    options: dict[str, Any] = {}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:  # since PyTorch 2.5
        options["dynamo"] = False
    outputs = [f"vectors{number}" for number in range(len(names))]
    with warnings.catch_warnings(), torch.no_grad(), Replaying():
        warnings.simplefilter("ignore")  # of tracing; what comes out is checked
        torch.onnx.export(
            Whole().eval(),
            (images,),
            str(file),
            input_names=["images"],
            output_names=outputs,
            dynamic_axes={name: {0: "n"} for name in ("images", *outputs)},
            opset_version=_OPSET,
            **options,
        )
    return file


def _open_onnxruntime(file: Path, _dtype: torch.dtype, n_threads: int) -> Callable[[Any], Sequence[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def _open_openvino(file: Path, dtype: torch.dtype, n_threads: int) -> Callable[[Any], Sequence[Any]]:
    import torch

    core = _import_openvino().Core()
    half = dtype == torch.bfloat16
    if half and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise InputError(
            "the engine openvino has no bfloat16 on this processor; give precision='float32' "
            f"(--precision float32), or {_OTHERWISE}"
        )
    core.set_property({"ENABLE_MMAP": False})  # the file is removed
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",  # by itself it would take what is fastest
        "INFERENCE_NUM_THREADS": n_threads,
        "NUM_STREAMS": 1,  # one batch at a time
        "ENABLE_CPU_PINNING": False,  # other processes may be on the same cores
    }
    network = core.compile_model(str(file), "CPU", settings)
    return lambda images: list(network([images]).to_tuple())


_OPENERS = {"onnxruntime": _open_onnxruntime, "openvino": _open_openvino}


def _import_openvino() -> ModuleType:
    with _without_telemetry():
        return importlib.import_module("openvino")


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide the package by which openvino reports over the network that it was imported."""
    there = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # importing it now fails, which openvino allows
    try:
        yield
    finally:
        if there is None:
            del sys.modules[_TELEMETRY]
        else:
            sys.modules[_TELEMETRY] = there
