"""Routes of images: lists, one image, similar ones, pictures, and the map."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from kinfold.corrections import MARKS, State
from kinfold.errors import InputError
from kinfold.gallery.explore._answers import MOST_NUMBER, answer, fail, read_number
from kinfold.gallery.explore._errors import NotFoundError
from kinfold.gallery.explore._explorer import Explorer
from kinfold.gallery.explore._lists import ImageQuery
from kinfold.gallery.explore._map import Map
from kinfold.gallery.explore._map_job import MapJob
from kinfold.gallery.explore._pictures import SIDES
from kinfold.gallery.explore._routes_groups import Text, Word
from kinfold.gallery.explore._routes_run import Limit, Offset
from kinfold.gallery.explore._vectors import SimilarImages
from kinfold.images import sniff

GroupNumber = Annotated[int | None, Query(ge=0, le=MOST_NUMBER)]
Count = Annotated[int, Query(ge=1, le=500)]

# by content, never by suffix; SVG isn't among them, because it can hold scripts
_SHOWN_AS = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
}
_KEEP = "private, no-cache"  # browsers keep it and ask with its ETag: images may change on disk

_MOST_ROWS = 500  # images of one request; a URL can't be much longer
_FACTS = ("n_neighbors", "min_distance", "n_epochs", "random_state", "graph_of")


def image_routes(explorer: Explorer) -> APIRouter:
    """Return the routes of images."""
    routes = APIRouter()

    def find(group: int | None, second: int | None, mark: str, q: str, sort: str, order: str) -> Any:
        state = explorer.state
        if group is not None:
            explorer.check_group(state, group)
        return state, explorer.listing.places(state, ImageQuery(group, second, mark, q, sort, order))

    @routes.get("/api/images")
    def images(
        group: GroupNumber = None,
        second: GroupNumber = None,
        mark: Word = "",
        q: Text = "",
        sort: Word = "confidence",
        order: Word = "",
        offset: Offset = 0,
        limit: Limit = 200,
    ) -> Response:
        state, places = find(group, second, mark, q, sort, order)
        page = describe_places(explorer, state, places[offset : offset + limit])
        return answer({"version": state.version, "total": len(places), "images": page})

    @routes.get("/api/rows")
    def rows(
        group: GroupNumber = None,
        second: GroupNumber = None,
        mark: Word = "",
        q: Text = "",
        sort: Word = "row",
        order: Word = "",
    ) -> Response:
        state, places = find(group, second, mark, q, sort, order)
        return answer({"version": state.version, "rows": explorer.columns.rows[places].tolist()})

    @routes.get("/api/images/{number}")
    def one_image(number: str) -> Response:
        return answer(describe_image(explorer, explorer.place(read_number(number, "image"))))

    @routes.get("/api/images/{number}/neighbors")
    def neighbors(number: str, n: Count = 24) -> Response:
        found = explorer.nearest.of_image(explorer.place(read_number(number, "image")), n)
        return answer(describe_found(explorer, found))

    @routes.post("/api/similar")
    async def similar(request: Request, n: Count = 24) -> Response:
        data = await request.body()
        if not data:
            raise InputError("the body of the request is empty; send the bytes of an image")
        found = await run_in_threadpool(explorer.nearest.of_file, data, n)
        top = [{"group": group, "probability": round(share, 4)} for group, share in found.top]
        return answer({**describe_found(explorer, found), "top": top})

    return routes


def describe_places(explorer: Explorer, state: State, places: NDArray[np.integer]) -> list[dict[str, Any]]:
    """Return the facts of images that the page's lists show."""
    columns = explorer.columns
    second, shares = explorer.choices.second(state, places)
    rows, keys = columns.rows[places].tolist(), columns.keys.take(places).to_pylist()
    proposed = explorer.refining.proposed(state)
    typicality = explorer.typicality(state, places).tolist()
    return [
        {
            "row": row,
            "key": key,
            "group": group,
            "confidence": round(confidence, 4),
            "second": other if other >= 0 else None,
            "second_confidence": round(share, 4),
            "mark": MARKS[mark - 1] if mark else None,
            "by_hand": by_hand,
            "typicality": _share(typical),
            **({"proposed": proposed[row]} if row in proposed else {}),
        }
        for row, key, group, confidence, other, share, mark, by_hand, typical in zip(
            rows,
            keys,
            state.labels[places].tolist(),
            columns.confidence[places].tolist(),
            second.tolist(),
            shares.tolist(),
            state.marks[places].tolist(),
            state.by_hand[places].tolist(),
            typicality,
            strict=True,
        )
    ]


def _share(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


def describe_image(explorer: Explorer, place: int) -> dict[str, Any]:
    """Return all facts of one image."""
    state, columns = explorer.state, explorer.columns
    row, mark = int(columns.rows[place]), int(state.marks[place])
    heirs = explorer.choices.heirs(state)
    top: dict[int, float] = {}  # merged clusters share one entry
    for group, share in zip(columns.top[place].tolist(), columns.probabilities[place].tolist(), strict=True):
        heir = int(heirs[group])
        if heir >= 0:
            top[heir] = top.get(heir, 0.0) + share
    return {
        "version": state.version,
        "row": row,
        "key": columns.keys[place].as_py(),
        "group": int(state.labels[place]),
        "original_group": int(explorer.run.labels[place]),
        "confidence": round(float(columns.confidence[place]), 4),
        "mark": MARKS[mark - 1] if mark else None,
        "by_hand": bool(state.by_hand[place]),
        "typicality": _share(float(explorer.typicality(state, np.array([place]))[0])),
        "top": [{"group": group, "probability": round(share, 4)} for group, share in top.items()],
        **explorer.originals.describe(row),
    }


def describe_found(explorer: Explorer, found: SimilarImages) -> dict[str, Any]:
    """Return the facts of similar images, with their similarity."""
    state = explorer.state
    images = describe_places(explorer, state, found.places)
    for image, similarity in zip(images, found.similarities.tolist(), strict=True):
        image["similarity"] = round(similarity, 4)
    return {"version": state.version, "images": images}


def picture_routes(explorer: Explorer) -> APIRouter:
    """Return the routes of pictures."""
    routes = APIRouter()

    @routes.get("/thumb/{number}")
    async def thumb(number: str, request: Request, side: int = 128) -> Response:
        row = read_number(number, "image")
        explorer.place(row)
        if side not in SIDES:
            raise InputError(f"side must be {' or '.join(map(str, SIDES))} (pixels); got {side}")
        return await _give(request, explorer.thumbnails.get(row, side), f'"{explorer.base}-{row}-{side}"')

    @routes.get("/image/{number}")
    async def original(number: str, request: Request) -> Response:
        row = read_number(number, "image")
        explorer.place(row)
        try:
            data = await run_in_threadpool(explorer.originals.read, row)
        except NotFoundError as error:
            return _gone(error)
        kind = _SHOWN_AS.get(sniff(data) or "")
        if kind is not None:
            return Response(data, media_type=kind, headers={"Cache-Control": _KEEP})
        return await _give(request, explorer.thumbnails.get_large(row), None)

    return routes


async def _give(request: Request, making: Coroutine[Any, Any, bytes], etag: str | None) -> Response:
    """Return a picture; it isn't made if the client has it or closes the connection."""
    headers = {"Cache-Control": _KEEP, **({"ETag": etag} if etag else {})}
    if etag is not None and etag in request.headers.get("if-none-match", ""):
        making.close()
        return Response(status_code=304, headers=headers)
    made, gone = asyncio.ensure_future(making), asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({made, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not made.done():
            return Response(status_code=499)
        return Response(made.result(), media_type="image/webp", headers=headers)
    except NotFoundError as error:
        return _gone(error)
    finally:
        gone.cancel()
        made.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _gone(error: NotFoundError) -> Response:
    reason = " ".join(str(error).encode("ascii", "backslashreplace").decode("ascii").split())[:300]
    return fail(404, str(error), **{"X-Reason": reason})


def map_routes(explorer: Explorer) -> APIRouter:
    """Return the routes under ``/api/map``."""
    routes = APIRouter(prefix="/api/map")
    job = explorer.map_job

    def ready() -> Map:
        if job.map is None:
            raise NotFoundError("this run has no map yet; compute it first")
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
            raise InputError(f"rows must hold at most {_MOST_ROWS} images; got {len(numbers)}")
        state = explorer.state
        places = np.array([explorer.place(number) for number in numbers], np.int64)
        return answer({"version": state.version, "images": describe_places(explorer, state, places)})

    return routes


def describe_map(job: MapJob) -> dict[str, Any]:
    """Return the state of the map for the page."""
    state, found = job.state, job.map
    facts: dict[str, Any] = {"state": state.state, "progress": round(state.progress, 3), "text": state.text}
    if found is not None:
        kept = {name: found.facts[name] for name in _FACTS if name in found.facts}
        facts |= {"n": len(found.rows), "bounds": found.bounds, "facts": kept}
    return facts


def send_array(values: NDArray[Any], **headers: str) -> Response:
    """Return the bytes of an array, little-endian in C order; the header ``X-Dtype`` names the type."""
    content = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    named = {"Cache-Control": _KEEP, "X-Dtype": values.dtype.name, **headers}
    return Response(content.tobytes(), headers=named, media_type="application/octet-stream")


def narrow(rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return row numbers as int32 where they fit, which halves the transfer."""
    fits = not len(rows) or int(rows.max()) <= np.iinfo(np.int32).max
    return rows.astype(np.int32) if fits else rows
