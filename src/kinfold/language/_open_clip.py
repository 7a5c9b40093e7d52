"""Text towers of open_clip, an extra: ``open_clip:ARCH/PRETRAINED``, PRETRAINED a tag or a local file."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from kinfold.backbones.model_files import create_open_clip
from kinfold.language._tower import TextTower


def load_open_clip_tower(spec: str) -> tuple[TextTower, str, str]:
    """Return the text tower of an open_clip model, its name, and what loads it again.

    Parameters
    ----------
    spec : str
        ``ARCH/TAG``, ``ARCH/FILE`` or ``hf-hub:ORGANISATION/NAME``.
    """
    created = create_open_clip(spec, part="")
    package, model = created.package, created.model
    tokenizer = package.get_tokenizer(created.arch)
    if hasattr(model, "visual"):
        model.visual = torch.nn.Identity()  # the larger half, which no text needs

    def tokenize(texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(texts).tolist()
        return ids

    def read(ids: torch.Tensor, _lengths: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = model.encode_text(ids)
        return features

    # Its tokenizers pad by themselves, each model's in its own way; every row has the same length.
    rows = tokenize(["a photo of a cat.", "an origami dog."])
    with torch.inference_mode():
        dim = int(read(torch.tensor(rows[:1]), torch.tensor([len(rows[0])])).shape[1])
    sample = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    tower = TextTower(
        model.eval(),
        tokenize,
        read,
        dim,
        pad_id=0,
        length=len(rows[0]),
        logit_scale=_number(model, "logit_scale", exp=True),
        logit_bias=_number(model, "logit_bias"),
        identity={"kind": "open_clip", "arch": created.arch, "sample": sample, "length": len(rows[0])},
    )
    return tower, f"open_clip:{created.arch}", created.spec


def _number(model: Any, name: str, *, exp: bool = False) -> float | None:
    value = getattr(model, name, None)
    if value is None:
        return None
    return float(value.detach().exp() if exp else value.detach())
