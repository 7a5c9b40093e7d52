"""The map's answers: where it stands, its points, and the groups of its points."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kinfold.gallery.explore._map import Map
from kinfold.gallery.explore._map_job import MapJob

if TYPE_CHECKING:
    from fastapi import APIRouter

_KEEP = {"Cache-Control": "private, no-cache"}


class Mapped(Protocol):
    """What the map's routes ask of whoever serves a run."""

    @property
    def map_job(self) -> MapJob:
        """The run's map, ready or in the making."""

    def map_groups(self) -> tuple[int, NDArray[np.int32]]:
        """Return the corrections' version, and every image's group by place (−1: none)."""


def router(explorer: Mapped) -> APIRouter:
    """Return the routes under ``/api/map``; the map's process ends when the server does."""
    from fastapi import APIRouter, Response
    from fastapi.responses import JSONResponse

    job = explorer.map_job

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        job.stop()

    routes = APIRouter(prefix="/api/map", lifespan=lifespan)

    def send(values: NDArray[Any], **headers: str) -> Response:
        dtype = values.dtype.newbyteorder("<")
        content = np.ascontiguousarray(values, dtype=dtype).data.cast("B")
        named = {**_KEEP, "X-Dtype": values.dtype.name, **headers}
        return Response(bytes(content), media_type="application/octet-stream", headers=named)

    @routes.get("")
    def where() -> dict[str, Any]:
        return describe(job)

    @routes.post("")
    def start() -> dict[str, Any]:
        job.start()
        return describe(job)

    @routes.get("/points")
    def points() -> Response:
        found = job.map
        return _not_ready(JSONResponse) if found is None else send(found.points)

    @routes.get("/rows")
    def rows() -> Response:
        found = job.map
        return _not_ready(JSONResponse) if found is None else send(narrow(found.rows))

    @routes.get("/groups")
    def groups() -> Response:
        version, labels = explorer.map_groups()
        return send(labels, **{"X-Version": str(version)})

    return routes


def describe(job: MapJob) -> dict[str, Any]:
    """Return where the map stands, as the page reads it."""
    state, found = job.state, job.map
    facts: dict[str, Any] = {"state": state.state, "progress": round(state.progress, 3), "text": state.text}
    if found is not None:
        facts |= {"n": len(found.rows), "bounds": found.bounds, "facts": _facts_of(found)}
    return facts


def narrow(rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return row numbers as int32 where they fit."""
    fits = not len(rows) or int(rows.max()) <= np.iinfo(np.int32).max
    return rows.astype(np.int32) if fits else rows


def _facts_of(found: Map) -> dict[str, Any]:
    kept = ("n_neighbors", "min_distance", "n_epochs", "random_state", "graph_of")
    return {name: found.facts[name] for name in kept if name in found.facts}


def _not_ready(response: Any) -> Any:
    return response({"error": "This run has no map yet."}, status_code=404)
