"""Answers about refinement: beginning it, and what it proposes."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Response

from kinfold.gallery.explore._answers import answer
from kinfold.gallery.explore._errors import ForbiddenError
from kinfold.gallery.explore._explorer import Explorer
from kinfold.gallery.explore._routes_run import Limit, Offset


def router(explorer: Explorer) -> APIRouter:
    """Return the routes of refinement."""
    routes = APIRouter(prefix="/api/refine")

    @routes.post("")
    def start() -> Response:
        if explorer.corrections.refusal is not None:
            raise ForbiddenError(explorer.corrections.refusal)
        explorer.refining.start()
        return answer(describe(explorer, 0, 0))

    @routes.get("")
    def where(offset: Offset = 0, limit: Limit = 500) -> Response:
        return answer(describe(explorer, offset, limit))

    return routes


def describe(explorer: Explorer, offset: int, limit: int) -> dict[str, Any]:
    """Return where refinement stands, and some of the proposals that are left, the surest first."""
    state, refining = explorer.state, explorer.refining
    facts = {"version": state.version, "state": refining.state, "text": refining.text, "proposals": None}
    proposals = refining.proposals()
    if proposals is None:
        return facts
    left = refining.left(state)
    pairs = np.stack([proposals.from_groups[left], proposals.groups[left]])
    kinds, counts = np.unique(pairs, axis=1, return_counts=True)
    changes = sorted(zip((-counts).tolist(), *kinds.tolist(), strict=True))
    some = left[offset : offset + limit]
    places = np.searchsorted(explorer.columns.rows, proposals.rows[some])
    images = zip(
        proposals.rows[some].tolist(),
        explorer.columns.keys.take(places).to_pylist(),
        proposals.from_groups[some].tolist(),
        proposals.groups[some].tolist(),
        proposals.confidences[some].tolist(),
        strict=True,
    )
    facts["proposals"] = {
        "total": len(left),
        "by_change": [{"from": a, "to": b, "n": -n} for n, a, b in changes],
        "images": [
            {"row": row, "key": key, "from": a, "to": b, "confidence": round(sure, 4)}
            for row, key, a, b, sure in images
        ],
        "facts": proposals.facts,
    }
    return facts
