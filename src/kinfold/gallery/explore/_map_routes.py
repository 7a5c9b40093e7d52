"""The map's answers: where it stands, its points, the groups of its points, and images that were selected."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.gallery.explore._answers import answer, read_number
from kinfold.gallery.explore._errors import NotFoundError
from kinfold.gallery.explore._explorer import Explorer
from kinfold.gallery.explore._map import Map
from kinfold.gallery.explore._map_job import MapJob
from kinfold.gallery.explore._routes_images import describe_places

_KEEP = "private, no-cache"
_MOST_ROWS = 500
_FACTS = ("n_neighbors", "min_distance", "n_epochs", "random_state", "graph_of")


def router(explorer: Explorer) -> APIRouter:
    """Return the routes under ``/api/map``."""
    routes = APIRouter(prefix="/api/map")
    job = explorer.map_job

    def ready() -> Map:
        if job.map is None:
            raise NotFoundError("this run has no map yet")
        return job.map

    @routes.get("")
    def where() -> Response:
        return answer(describe_map(job))

    @routes.post("")
    def start() -> Response:
        job.start()
        return answer(describe_map(job))

    @routes.get("/points")
    def points() -> Response:
        return send_array(ready().points)

    @routes.get("/rows")
    def rows() -> Response:
        return send_array(narrow(ready().rows))

    @routes.get("/groups")
    def groups() -> Response:
        version, labels = explorer.map_groups()
        return send_array(labels, **{"X-Version": str(version)})

    @routes.get("/images")
    def images(rows: Annotated[str, Query(max_length=20 * _MOST_ROWS)]) -> Response:
        numbers = [read_number(text, "image") for text in rows.split(",")]
        if len(numbers) > _MOST_ROWS:
            raise InputError(f"no more than {_MOST_ROWS} images can be asked for at once")
        state = explorer.state
        places = np.array([explorer.place(number) for number in numbers], np.int64)
        return answer({"version": state.version, "images": describe_places(explorer, state, places)})

    return routes


def describe_map(job: MapJob) -> dict[str, Any]:
    """Return where the map stands, as the page reads it."""
    state, found = job.state, job.map
    facts: dict[str, Any] = {"state": state.state, "progress": round(state.progress, 3), "text": state.text}
    if found is not None:
        kept = {name: found.facts[name] for name in _FACTS if name in found.facts}
        facts |= {"n": len(found.rows), "bounds": found.bounds, "facts": kept}
    return facts


def send_array(values: NDArray[Any], **headers: str) -> Response:
    """Return the bytes of an array, little-endian, row after row; the header ``X-Dtype`` says of what."""
    content = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    named = {"Cache-Control": _KEEP, "X-Dtype": values.dtype.name, **headers}
    return Response(content.tobytes(), headers=named, media_type="application/octet-stream")


def narrow(rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return row numbers as int32 where they fit."""
    fits = not len(rows) or int(rows.max()) <= np.iinfo(np.int32).max
    return rows.astype(np.int32) if fits else rows
