"""How vectors are read off a vision network: where its blocks, its final norm and its tokens are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

LAST = 4  # blocks that the last4 variant reads


@dataclass(frozen=True)
class Tokens:
    """A transformer's anatomy.

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
        Its anatomy; None for networks that aren't plain transformers.
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
        with self._listen(depth) as heard:
            output = self.forward(pixels)
        return {name: self._variant(name, output, heard) for name in variants}

    def _variant(self, name: str, output: Any, heard: list[torch.Tensor]) -> torch.Tensor:
        tokens = self.tokens
        if name == "cls" and self.pooled is not None:
            return self.pooled(output)
        assert tokens is not None
        if name == "cls":
            return tokens.summary(heard[-1])
        if name == "last4":
            return torch.cat([tokens.summary(hidden) for hidden in heard], dim=1)
        first = tokens.summary(heard[-1]) if tokens.has_cls or self.pooled is None else self.pooled(output)
        return torch.cat([first, tokens.patches(heard[-1])], dim=1)

    @contextmanager
    def _listen(self, depth: int) -> Iterator[list[torch.Tensor]]:
        """Collect the outputs of the last ``depth`` blocks while the context is open."""
        heard: list[torch.Tensor] = []
        if self.tokens is None:
            yield heard
            return
        batch_first = self.tokens.batch_first

        def hear(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            heard.append(hidden if batch_first else hidden.transpose(0, 1))

        handles = [block.register_forward_hook(hear) for block in list(self.tokens.blocks)[-depth:]]
        try:
            yield heard
        finally:
            for handle in handles:
                handle.remove()


def find_tokens(model: nn.Module, *, depth: int, width: int, n_prefix: int, has_cls: bool) -> Tokens | None:
    """Find a transformer's blocks (the list of ``depth`` modules) and final norm; None without both."""
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
