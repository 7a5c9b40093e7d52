"""Backbones that are neural networks: reading vectors off them, device, precision and batch size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kinfold.backbones._backbone import Backbone, BackboneCard, Execution
from kinfold.backbones._engines import EngineRunner, build_runner, resolve_engine
from kinfold.backbones.model_files import hash_weights
from kinfold.compute import resolve_device, total_memory
from kinfold.errors import InputError
from kinfold.storage import hash_json

LAST = 4  # blocks that the last4 variant reads, as in the linear evaluation of DINO

logger = logging.getLogger(__name__)

# The largest batch by kind of device: beyond it nothing gets faster. On a CPU more even costs: with 32 images
# at once a ViT-S/14 outgrows the caches and takes an eighth longer per image than with 8.
_CAPS = {"cpu": 16, "mps": 128, "cuda": 512}
# How many times the widest layer's input and output are in memory at once: an upper estimate.
_ALIVE = 4


@dataclass(frozen=True)
class Tokens:
    """Parts of a vision transformer that vectors are read from.

    Parameters
    ----------
    blocks : nn.ModuleList or nn.Sequential
        The transformer blocks in order.
    norm : nn.Module
        The final norm, applied to whatever is read from a block.
    n_prefix : int
        How many tokens stand before the patches: CLS, registers, a distillation token.
    has_cls : bool
        Whether the first of them is a CLS token.
    width : int
        Dimension of a token.
    batch_first : bool
        Whether blocks give (B, T, width) and not (T, B, width).
    """

    blocks: nn.ModuleList | nn.Sequential
    norm: nn.Module
    n_prefix: int
    has_cls: bool
    width: int
    batch_first: bool = True

    def summary(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what stands for the image after a block, normed: CLS, or the mean of the patches."""
        if self.has_cls:
            return _as_tensor(self.norm(hidden[:, 0]))
        return self.patches(hidden)

    def patches(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the mean of the patch tokens after the norm; prefix tokens are left out."""
        return _as_tensor(self.norm(hidden[:, self.n_prefix :])).mean(dim=1)


@dataclass(frozen=True)
class Tower:
    """A vision network and how to read it.

    Parameters
    ----------
    model : nn.Module
        The network, in evaluation mode.
    forward : callable
        Normalised pixels (B, 3, H, W) → the network's output.
    tokens : Tokens or None
        Its parts; None for networks that aren't plain transformers.
    pooled : callable or None
        Output → the vector that the network itself offers for an image (B, dim); None reads the tokens.
    dim : int
        Dimension of ``cls``.
    """

    model: nn.Module
    forward: Callable[[torch.Tensor], Any]
    tokens: Tokens | None
    pooled: Callable[[Any], torch.Tensor] | None
    dim: int

    @property
    def variants(self) -> dict[str, int]:
        """The variants that this network can give, with their dimensions."""
        offered = {"cls": self.dim}
        if self.tokens is None:
            return offered
        width = self.tokens.width
        if self.tokens.has_cls or self.pooled is not None:
            offered["cls+patches"] = (width if self.tokens.has_cls else self.dim) + width
        if len(self.tokens.blocks) >= LAST:
            offered["last4"] = LAST * width
        return offered

    def read(self, pixels: torch.Tensor, variants: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the vectors of a batch of normalised pixels, one pass for all variants."""
        depth = LAST if "last4" in variants else 1
        with self._hooked(depth) as outputs:
            output = self.forward(pixels)
        return {name: self._variant(name, output, outputs) for name in variants}

    def _variant(self, name: str, output: Any, outputs: list[torch.Tensor]) -> torch.Tensor:
        tokens = self.tokens
        if name == "cls" and self.pooled is not None:
            return self.pooled(output)
        assert tokens is not None
        if name == "cls":
            return tokens.summary(outputs[-1])
        if name == "last4":
            return torch.cat([tokens.summary(hidden) for hidden in outputs], dim=1)
        first = tokens.summary(outputs[-1]) if tokens.has_cls or self.pooled is None else self.pooled(output)
        return torch.cat([first, tokens.patches(outputs[-1])], dim=1)

    @contextmanager
    def _hooked(self, depth: int) -> Iterator[list[torch.Tensor]]:
        """Collect the outputs of the last ``depth`` blocks while the context is open."""
        outputs: list[torch.Tensor] = []
        if self.tokens is None:
            yield outputs
            return
        batch_first = self.tokens.batch_first

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            outputs.append(hidden if batch_first else hidden.transpose(0, 1))

        handles = [block.register_forward_hook(keep) for block in list(self.tokens.blocks)[-depth:]]
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()


def find_tokens(model: nn.Module, *, depth: int, width: int, n_prefix: int, has_cls: bool) -> Tokens | None:
    """Find a transformer's blocks (the list of ``depth`` modules) and final norm; None without both."""
    # By structure rather than by name, which differs from family to family.
    blocks = next((m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth > 0), None)
    norms = ("post_layernorm", "layernorm", "norm", "layer_norm", "ln_post")
    holders = [model, *(getattr(model, name) for name in ("vision_model",) if hasattr(model, name))]
    norm = next(
        (
            getattr(holder, name)
            for holder in holders
            for name in norms
            if isinstance(getattr(holder, name, None), nn.Module)
        ),
        None,
    )
    if blocks is None or norm is None:
        return None
    return Tokens(blocks, norm, n_prefix, has_cls, width)


def _as_tensor(value: Any) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value


class NetworkBackbone(Backbone):
    """A frozen vision network.

    Parameters
    ----------
    card : BackboneCard
        What it is; its preprocessing prepares the images.
    tower : Tower
        The network and how to read it.
    spec : str
        What loads it again.
    execution : Execution
        Device, precision of matrix products (vectors are float32) and engine; see :func:`load_backbone`.
    unread : collection of str
        Names of weights that no vector depends on; they stay out of the fingerprint.
    """

    def __init__(
        self,
        card: BackboneCard,
        tower: Tower,
        *,
        spec: str,
        execution: Execution,
        unread: Collection[str] = (),
    ) -> None:
        self.card = card
        self.spec = spec
        self.transform = card.preprocessing
        self.min_side = card.preprocessing.min_side
        self.variants = tower.variants
        self.device = resolve_device(execution.device)
        engines, self.dtype = resolve_engine(
            execution.engine, execution.precision, self.device, is_transformer=tower.tokens is not None
        )
        self._tower = tower
        self._unread = frozenset(unread)
        self._limit: int | None = None
        self._batch_size: int | None = None
        self._fingerprint: str | None = None
        tower.model.requires_grad_(False).eval().float()
        tower.model.to(self.device)
        # Convolutions on GPUs with tensor cores are faster so; other layers don't notice.
        tower.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        scale = torch.tensor(card.preprocessing.rescale, device=self.device)
        # (rescale · p − mean) / std as (p − shift) · factor: one pass less over the largest array.
        self._shift = torch.tensor(card.preprocessing.mean, device=self.device).view(1, -1, 1, 1) / scale
        self._factor = scale / torch.tensor(card.preprocessing.std, device=self.device).view(1, -1, 1, 1)
        self.engine, self._runner = self._find_runner(engines)

    def embed(self, images: NDArray[Any], variants: Sequence[str] = ("cls",)) -> dict[str, NDArray[Any]]:
        """Return the vectors of a batch; see :meth:`Backbone.embed`.

        ``images`` are ``uint8`` pixels of shape (B, height, width, 3). On CUDA a batch that doesn't fit
        in memory is halved, with a warning, until it does.
        """
        self.check_variants(variants)
        size = (self.card.preprocessing.height, self.card.preprocessing.width, 3)
        if images.dtype != np.uint8 or images.shape[1:] != size:
            raise InputError(
                f"{self.card.name} takes uint8 arrays of shape (B, {size[0]}, {size[1]}, 3), "
                f"got {images.dtype} {images.shape}"
            )
        out: dict[str, NDArray[Any]] = {
            name: np.empty((len(images), self.variants[name]), np.float32) for name in variants
        }
        start = 0
        while start < len(images):
            stop = min(len(images), start + (self._limit or len(images)))
            try:
                run = self._runner or self._forward
                vectors = run(images[start:stop], variants)
            except torch.cuda.OutOfMemoryError:
                self._halve(stop - start)
                continue
            for name, values in vectors.items():
                out[name][start:stop] = values
            start = stop
        return out

    def find_batch_size(self) -> int:
        """Return the batch size that the rule gives on this machine.

        The rule: a power of two, so that the activations of the widest layer (their shape is measured
        on one image) stay within a fixed share of the device's total memory: a quarter on CUDA, an
        eighth elsewhere; at most 512 on CUDA, 128 on MPS, 16 on a CPU. Neither timing nor free memory
        enters, so it doesn't change from run to run. On CUDA the size is tried once and halved until it
        fits.
        """
        if self._batch_size is None:
            self._batch_size = self._rule_batch_size()
        return self._batch_size

    def describe(self) -> dict[str, Any]:
        """Return what a manifest records; see :meth:`Backbone.describe`."""
        precision = str(self.dtype).removeprefix("torch.")
        where = {"precision": precision, "device": str(self.device), "engine": self.engine}
        return {**super().describe(), **where}

    def fingerprint(self) -> str:
        """Return the SHA-256 of weights, preprocessing and precision.

        Engines count in bfloat16 alone: in float32 their vectors are the same up to rounding. Tensors count
        by shape and content and not by name: releases of transformers rename them.
        """
        if self._fingerprint is None:
            facts = {
                "weights": hash_weights(self._tower.model, self._unread),
                "preprocessing": self.card.preprocessing.facts(),
                "precision": str(self.dtype),
            }
            if self.dtype == torch.bfloat16 and self.engine != "torch":
                facts["engine"] = self.engine
            self._fingerprint = hash_json(facts)
        return self._fingerprint

    def _rule_batch_size(self) -> int:
        per_image = _ALIVE * self._widest_layer()
        if self.device.type == "cuda":
            memory = torch.cuda.get_device_properties(self.device).total_memory // 4
        else:
            memory = total_memory() // 8
        # A power of two, so that small differences in memory between machines don't change the batch.
        size = 1 << max(0, (memory // max(1, per_image)).bit_length() - 1)
        size = min(size, _CAPS.get(self.device.type, _CAPS["cpu"]))
        if self.device.type == "cuda":
            self.embed(self._blank(size), list(self.variants))
        return min(size, self._limit or size)

    def _find_runner(self, engines: Sequence[str]) -> tuple[str, EngineRunner | None]:
        """Return the first of the engines that can run the network, and how; PyTorch needs no runner."""
        names = tuple(self.variants)
        size = (self.card.preprocessing.height, self.card.preprocessing.width, 3)
        for number, engine in enumerate(engines):
            if engine == "torch":
                break
            try:
                runner = build_runner(
                    engine,
                    self._tower.model,
                    lambda images: list(self._read(images, names).values()),
                    names,
                    size,
                    self.dtype,
                )
            except InputError as error:
                if number == len(engines) - 1:
                    raise
                logger.info("%s: %s", self.card.name, error)
            else:
                return engine, runner
        return "torch", None

    def _read(self, images: torch.Tensor, variants: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the vectors of pixels (B, H, W, 3) as they are after decoding."""
        # (B, H, W, 3) seen as (B, 3, H, W) is channels-last already.
        pixels = (images.permute(0, 3, 1, 2).float() - self._shift) * self._factor
        return {name: values.float() for name, values in self._tower.read(pixels, variants).items()}

    def _forward(self, images: NDArray[Any], variants: Sequence[str]) -> dict[str, NDArray[Any]]:
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16),
        ):
            pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.device)
            return {name: values.cpu().numpy() for name, values in self._read(pixels, variants).items()}

    def _halve(self, size: int) -> None:
        if size <= 1:
            raise InputError(
                f"{self.card.name} doesn't fit in the memory of {self.device}, not even with one image; "
                "use device='cpu' or a smaller backbone"
            )
        self._limit = size // 2  # kept: later batches of the run would not fit either
        torch.cuda.empty_cache()
        logger.warning(
            "%s: %d images at once don't fit in GPU memory, going on with %d",
            self.card.name,
            size,
            self._limit,
        )

    def _blank(self, size: int) -> NDArray[Any]:
        return np.zeros((size, self.card.preprocessing.height, self.card.preprocessing.width, 3), np.uint8)

    def _widest_layer(self) -> int:
        """Return the bytes of input and output of the network's widest layer, for one image in float32."""
        widest = 0

        def measure(_module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal widest
            tensors = [t for t in (*inputs, output) if isinstance(t, torch.Tensor)]
            widest = max(widest, 4 * sum(t.numel() for t in tensors))

        handles = [
            module.register_forward_hook(measure)
            for module in self._tower.model.modules()
            if not any(module.children())
        ]
        try:
            self._forward(self._blank(1), ["cls"])
        finally:
            for handle in handles:
                handle.remove()
        return widest
