"""Answers about images: lists of them, one of them, and what is like it."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from kinfold.corrections import MARKS, State
from kinfold.errors import InputError
from kinfold.gallery.explore._answers import MOST_NUMBER, answer, read_number
from kinfold.gallery.explore._explorer import Explorer
from kinfold.gallery.explore._listing import Asked
from kinfold.gallery.explore._nearest import Found
from kinfold.gallery.explore._routes_groups import Text, Word
from kinfold.gallery.explore._routes_run import Limit, Offset

Group = Annotated[int | None, Query(ge=0, le=MOST_NUMBER)]
Count = Annotated[int, Query(ge=1, le=500)]


def router(explorer: Explorer) -> APIRouter:
    """Return the routes of images."""
    routes = APIRouter()

    def find(group: int | None, second: int | None, mark: str, q: str, sort: str, order: str) -> Any:
        state = explorer.state
        if group is not None:
            explorer.check_group(state, group)
        return state, explorer.listing.places(state, Asked(group, second, mark, q, sort, order))

    @routes.get("/api/images")
    def images(
        group: Group = None,
        second: Group = None,
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
        group: Group = None,
        second: Group = None,
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
            raise InputError("the request brings no image")
        found = await run_in_threadpool(explorer.nearest.of_file, data, n)
        top = [{"group": group, "probability": round(share, 4)} for group, share in found.top]
        return answer({**describe_found(explorer, found), "top": top})

    return routes


def describe_places(explorer: Explorer, state: State, places: NDArray[np.integer]) -> list[dict[str, Any]]:
    """Return images as the page's lists have them."""
    columns = explorer.columns
    second, shares = explorer.choices.second(state, places)
    rows, keys = columns.rows[places].tolist(), columns.keys.take(places).to_pylist()
    proposed = explorer.refining.proposed(state)
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
            **({"proposed": proposed[row]} if row in proposed else {}),
        }
        for row, key, group, confidence, other, share, mark, by_hand in zip(
            rows,
            keys,
            state.labels[places].tolist(),
            columns.confidence[places].tolist(),
            second.tolist(),
            shares.tolist(),
            state.marks[places].tolist(),
            state.by_hand[places].tolist(),
            strict=True,
        )
    ]


def describe_image(explorer: Explorer, place: int) -> dict[str, Any]:
    """Return all that is known of one image."""
    state, columns = explorer.state, explorer.columns
    row, mark = int(columns.rows[place]), int(state.marks[place])
    heirs = explorer.choices.heirs(state)
    top: dict[int, float] = {}  # groups that were merged share one line
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
        "top": [{"group": group, "probability": round(share, 4)} for group, share in top.items()],
        **explorer.originals.describe(row),
    }


def describe_found(explorer: Explorer, found: Found) -> dict[str, Any]:
    """Return images with their similarity."""
    state = explorer.state
    images = describe_places(explorer, state, found.places)
    for image, similarity in zip(images, found.similarities.tolist(), strict=True):
        image["similarity"] = round(similarity, 4)
    return {"version": state.version, "images": images}
