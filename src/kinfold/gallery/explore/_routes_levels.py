"""Routes of levels: what there are, a preview of one, the tree, and taking one as the run's groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from kinfold.corrections import State
from kinfold.errors import InputError
from kinfold.gallery.explore._answers import MOST_NUMBER, answer, read_json, read_number
from kinfold.gallery.explore._explorer import Explorer
from kinfold.gallery.explore._levels import SAME, LevelTree
from kinfold.gallery.explore._routes_run import Limit, Offset

if TYPE_CHECKING:
    from kinfold.gallery.explore._current import Current

LevelNumber = Annotated[int | None, Query(ge=1, le=MOST_NUMBER)]
GroupNumber = Annotated[int, Query(ge=0, le=MOST_NUMBER)]


def level_routes(current: Current, explorer: Explorer) -> APIRouter:
    """Return the routes of levels; where the run has none, they are not found."""
    routes = APIRouter(prefix="/api")

    @routes.get("/levels")
    def levels() -> Response:
        return answer(describe_levels(current, explorer))

    @routes.get("/levels/{number}")
    def preview(number: str, was: LevelNumber = None, offset: Offset = 0, limit: Limit = 100) -> Response:
        state = explorer.state
        found = explorer.levels.preview(state, read_number(number, "level"), was)
        groups = [name_origins(explorer, state, one) for one in found.page(offset, limit)]
        return answer(
            {"version": state.version, "total": len(found), "counts": found.counts(), "groups": groups}
        )

    @routes.get("/tree")
    def tree(
        layer: LevelNumber = None, group: GroupNumber = 0, offset: Offset = 0, limit: Limit = 100
    ) -> Response:
        state = explorer.state
        found = LevelTree(explorer.levels, state).children(layer, group, offset, limit)
        nodes = [name_origins(explorer, state, one) for one in found["nodes"]]
        return answer({"version": state.version, "total": found["total"], "nodes": nodes})

    @routes.post("/levels")
    async def switch(request: Request) -> Response:
        content = await read_json(request)
        return answer(await run_in_threadpool(take_level, current, explorer, content))

    return routes


def describe_levels(current: Current, explorer: Explorer) -> dict[str, Any]:
    """Return what the page's control needs."""
    views = explorer.levels
    return {
        "shown": views.shown,
        "fitted": views.fitted,
        "n_parts": views.n_parts,
        "before": current.before if current.before != views.shown else None,
        "steps": views.steps(),
        "suggested": views.suggested(),
        "curve": views.curve.as_dict() if views.curve else None,
        "refusal": explorer.corrections.refusal,
    }


def name_origins(explorer: Explorer, state: State, one: dict[str, Any]) -> dict[str, Any]:
    """Return a description with the names of the groups of now, and its own name where it is one of them."""
    names = explorer.names(state)
    origins = []
    for number in one["from"]:
        heir = state.follow(number) if number in state.groups else number
        origins.append({"id": heir, "name": names.get(heir) or None})
    name = origins[0]["name"] if one["kind"] == SAME else None
    return {**one, "from": origins, "name": name}


def take_level(current: Current, explorer: Explorer, content: Any) -> dict[str, Any]:
    """Make a level the run's groups; return what was carried over and what stays with the level before."""
    n_groups = content.get("n_groups") if isinstance(content, dict) else None
    if not isinstance(n_groups, int) or isinstance(n_groups, bool):
        raise InputError('send the number of groups, as in {"n_groups": 40}')
    change = current.switch(None if n_groups == explorer.levels.fitted else n_groups)
    return {"shown": change.n_groups, "carried": dict(change.carried), "left": dict(change.left)}
